//! What can go wrong on the wire, by kind, each with its cause.

use std::error::Error as StdError;
use std::io;

use crate::clock::Elapsed;
use crate::error::{Category, Error as FeedError};
use crate::postgres::server_error::{ServerError, SqlState};

/// An error of the wire client.
///
/// Every error that a [`Connection`](super::Connection) method returns leaves that connection
/// unusable. No variant's text holds row values, parameters or credentials.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The socket failed.
    #[error("the connection to Postgres failed")]
    Io(#[source] io::Error),
    /// The socket neither gave nor took a byte in time, or logging in took too long.
    #[error("Postgres did not answer in time")]
    Timeout(#[source] Elapsed),
    /// The server closed the connection; `mid_message`: inside a message, which is never its own
    /// doing.
    #[error("Postgres closed the connection{}", if *.mid_message { " in the middle of a message" } else { "" })]
    Closed {
        /// Bytes of an incomplete message had come.
        mid_message: bool,
    },
    /// What came is not the protocol, or not its turn.
    #[error("the server does not speak the PostgreSQL protocol as documented")]
    Protocol(#[source] ProtocolError),
    /// Logging in failed on our side; when the server refuses it is [`Error::Server`].
    #[error("logging in to Postgres failed")]
    Authentication(#[source] AuthenticationError),
    /// The server offers no TLS where the sslmode demands it.
    #[error("the server does not offer TLS, which the sslmode demands")]
    TlsRefused,
    /// The server reported an error.
    #[error(transparent)]
    Server(Box<ServerError>),
    /// A message announces more bytes than the limit; it was not read.
    #[error("a message of {len} bytes is longer than the limit of {max}")]
    MessageTooLarge {
        /// The announced length in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// A result that must be held whole is larger than the limit.
    #[error("a result is larger than the limit of {max} bytes")]
    ResultTooLarge {
        /// The limit in bytes.
        max: usize,
    },
    /// A statement that always gives a row gave none.
    #[error("a statement that always gives a row gave none")]
    NoRow,
    /// A column does not hold what the caller asked it for.
    #[error("column {column} of the result cannot be read")]
    Value {
        /// The column's number, from 0.
        column: usize,
        /// Why not.
        #[source]
        reason: ValueError,
    },
    /// A statement or parameter has no form on the wire: a NUL in a text, 65536 parameters, 2 GiB.
    #[error("the statement cannot be sent")]
    Request(#[source] io::Error),
    /// The caller asked for something out of its turn.
    #[error("{0}")]
    OutOfTurn(&'static str),
    /// An earlier error, or a half-done copy, made this connection unusable.
    #[error("the connection is unusable after an earlier error")]
    Broken,
}

/// How the server's bytes depart from the protocol
/// (PostgreSQL documentation, "Frontend/Backend Protocol").
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// No backend message has this tag.
    #[error("unknown message type {:?}", char::from(*.0))]
    UnknownMessage(u8),
    /// A length counts itself, so it is at least four.
    #[error("message {:?} announces an impossible length", char::from(*.0))]
    Length(u8),
    /// The body does not have its documented form.
    #[error("malformed message {:?}", char::from(*.tag))]
    Malformed {
        /// The message's type byte.
        tag: u8,
        /// What the parser met.
        #[source]
        source: io::Error,
    },
    /// A message that may not come now.
    #[error("message {:?} came where {expected} was due", char::from(*.tag))]
    Unexpected {
        /// The message's type byte.
        tag: u8,
        /// What may come instead.
        expected: &'static str,
    },
    /// A row with more or fewer values than its description.
    #[error("a row of {actual} values where {described} were described")]
    RowWidth {
        /// The number of values in the row.
        actual: usize,
        /// The number of columns in the row description.
        described: usize,
    },
    /// A result column in text although binary was asked for.
    #[error("a result column is not in the binary format that was asked for")]
    TextFormat,
    /// An error or notice without a well-formed SQLSTATE.
    #[error("an error response without a SQLSTATE")]
    NoSqlState,
    /// `ReadyForQuery` with another status than `I`, `T` or `E`.
    #[error("unknown transaction status {:?}", char::from(*.0))]
    TransactionStatus(u8),
    /// The server reports more run-time parameters than any real one has.
    #[error("too many run-time parameters reported")]
    TooManyParameters,
    /// `SSLRequest` answered with another byte than `S` or `N`.
    #[error("SSLRequest was answered with {:?}", char::from(*.0))]
    TlsAnswer(u8),
    /// More came than the answer to `SSLRequest`, before TLS: the server says nothing there, so
    /// that somebody else did, who wants it taken for the server's own words after the handshake.
    #[error("{0} bytes came unencrypted where the TLS handshake was due")]
    BeforeTls(usize),
}

/// Why logging in failed before the server had its say.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthenticationError {
    /// The server asks for a password and none is configured.
    #[error("the server asks for a password and none is configured")]
    PasswordRequired,
    /// A method this client does not have.
    #[error("the server asks for {0}, which is not supported")]
    UnsupportedMethod(&'static str),
    /// SASL without SCRAM-SHA-256.
    #[error("the server offers no SASL mechanism that is supported (SCRAM-SHA-256)")]
    UnsupportedMechanism,
    /// The SCRAM exchange failed: a foreign nonce, a wrong server signature, too many iterations.
    #[error("the SCRAM exchange failed")]
    Scram(#[source] io::Error),
    /// The server let us in without proving that it knows the password.
    #[error("the server did not prove that it knows the password")]
    ServerNotProven,
}

/// Why a value cannot be read as the type that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ValueError {
    /// The result has fewer columns.
    #[error("there is no such column")]
    NoSuchColumn,
    /// SQL null where a value was asked for.
    #[error("it is null")]
    Null,
    /// A column of another type.
    #[error("it is of the type with OID {actual}, not {wanted}")]
    Type {
        /// The OID of the column's type.
        actual: u32,
        /// The type that was asked for.
        wanted: &'static str,
    },
    /// The value has not the length of its type.
    #[error("its length of {0} bytes does not fit its type")]
    Length(usize),
    /// A value outside of what its type can hold: a boolean of 2, a jsonb of version 2.
    #[error("its bytes are not a value of its type")]
    Content,
    /// Text that is not UTF-8.
    #[error("its text is not UTF-8")]
    Encoding,
}

impl Error {
    /// What the server reported, when the server reported it. Callers that know what a code means
    /// for their statement (42704: no such slot, no such publication) decide by
    /// [`ServerError::sqlstate`] before they turn the error into a [`crate::error::Error`].
    pub fn server(&self) -> Option<&ServerError> {
        match self {
            Self::Server(error) => Some(error),
            _ => None,
        }
    }

    /// The SQLSTATE, when the server reported the error.
    pub fn sqlstate(&self) -> Option<SqlState> {
        self.server().map(ServerError::sqlstate)
    }

    /// The category and the stable code.
    fn classify(&self) -> (Category, &'static str) {
        match self {
            Self::Io(_) => (Category::Connection, "connection_failed"),
            Self::Closed { .. } | Self::Broken => (Category::Connection, "connection_closed"),
            Self::TlsRefused => (Category::Configuration, "tls_refused"),
            Self::Timeout(_) => (Category::Timeout, "postgres_timeout"),
            Self::Protocol(_) => (Category::Protocol, "protocol_violation"),
            Self::OutOfTurn(_) => (Category::Protocol, "client_out_of_turn"),
            Self::MessageTooLarge { .. } => (Category::Protocol, "message_too_large"),
            Self::ResultTooLarge { .. } => (Category::Protocol, "result_too_large"),
            Self::NoRow | Self::Value { .. } => (Category::Protocol, "unexpected_value"),
            Self::Authentication(_) => (Category::Authentication, "authentication_failed"),
            Self::Request(_) => (Category::Query, "statement_not_sendable"),
            Self::Server(error) => classify(error.sqlstate()),
        }
    }
}

/// The category and code of an error that Postgres reported, by SQLSTATE alone: messages are
/// translated and reworded (PostgreSQL documentation, appendix A).
fn classify(state: SqlState) -> (Category, &'static str) {
    match state {
        SqlState::INSUFFICIENT_PRIVILEGE => (Category::Permission, "permission_denied"),
        SqlState::OBJECT_IN_USE => (Category::SlotInUse, "slot_in_use"),
        SqlState::INVALID_CATALOG_NAME => (Category::Configuration, "database_missing"),
        SqlState::QUERY_CANCELED
        | SqlState::LOCK_NOT_AVAILABLE
        | SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT
        | SqlState::TRANSACTION_TIMEOUT => (Category::Timeout, "statement_timeout"),
        SqlState::TOO_MANY_CONNECTIONS => (Category::Connection, "too_many_connections"),
        SqlState::ADMIN_SHUTDOWN
        | SqlState::CRASH_SHUTDOWN
        | SqlState::CANNOT_CONNECT_NOW
        | SqlState::DATABASE_DROPPED
        | SqlState::IDLE_SESSION_TIMEOUT => (Category::Connection, "server_unavailable"),
        _ => match state.class() {
            "08" => (Category::Connection, "connection_failed"),
            "28" => (Category::Authentication, "authentication_failed"),
            _ => (Category::Query, "statement_failed"),
        },
    }
}

fn remedy(code: &str) -> Option<&'static str> {
    Some(match code {
        "authentication_failed" => {
            "Check the user and the password in the Hyperdrive configuration or in DATABASE_URL, \
             and that pg_hba.conf lets this user in."
        }
        "database_missing" => "Check the database's name in DATABASE_URL.",
        "too_many_connections" => {
            "Raise max_connections on the server, or close connections that are not needed."
        }
        "tls_refused" => {
            "Turn TLS on at the server (ssl = on), or, on a network you trust, set sslmode=disable \
             in DATABASE_URL."
        }
        _ => return None,
    })
}

impl From<Error> for FeedError {
    fn from(error: Error) -> Self {
        let (category, code) = error.classify();
        // The message tells the whole chain, since /status and the logs show only the message.
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(inner) = cause {
            message.push_str(": ");
            message.push_str(&inner.to_string());
            cause = inner.source();
        }
        let mut feed = Self::new(category, code, message);
        if let Some(state) = error.sqlstate() {
            feed = feed.with_sqlstate(state.as_str());
        }
        if let Some(remedy) = remedy(code) {
            feed = feed.with_remedy(remedy);
        }
        feed.with_source(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reported(state: &str, message: &str) -> Error {
        let fields = format!("SERROR\0C{state}\0M{message}\0Drow value\0Wrow value\0\0");
        Error::Server(Box::new(ServerError::of_fields(fields.as_bytes()).unwrap()))
    }

    #[test]
    fn the_sqlstate_alone_decides_the_category() {
        for (state, category) in [
            ("28P01", Category::Authentication),
            ("28000", Category::Authentication),
            ("42501", Category::Permission),
            ("55006", Category::SlotInUse),
            ("3D000", Category::Configuration),
            ("57014", Category::Timeout),
            ("55P03", Category::Timeout),
            ("25P03", Category::Timeout),
            ("25P04", Category::Timeout),
            ("08006", Category::Connection),
            ("08P01", Category::Connection),
            ("53300", Category::Connection),
            ("57P01", Category::Connection),
            ("57P02", Category::Connection),
            ("57P03", Category::Connection),
            ("57P05", Category::Connection),
            // What these mean depends on the statement: the caller refines them.
            ("42704", Category::Query),
            ("55000", Category::Query),
            ("40001", Category::Query),
            ("XX000", Category::Query),
        ] {
            for message in ["permission denied", "canceling statement", "server closed"] {
                let error = FeedError::from(reported(state, message));
                assert_eq!(error.category(), category, "{state}");
                assert_eq!(error.sqlstate(), Some(state));
                assert_eq!(error.to_string(), format!("{message} (SQLSTATE {state})"));
            }
        }
    }

    #[test]
    fn an_error_of_our_own_tells_its_causes() {
        let cause = io::Error::new(io::ErrorKind::ConnectionReset, "reset by peer");
        let error = FeedError::from(Error::Io(cause));
        assert_eq!(error.category(), Category::Connection);
        assert_eq!(
            error.to_string(),
            "the connection to Postgres failed: reset by peer"
        );
        assert_eq!(error.sqlstate(), None);
        let wrong = AuthenticationError::PasswordRequired;
        let error = FeedError::from(Error::Authentication(wrong));
        assert_eq!(error.category(), Category::Authentication);
        assert!(error.remedy().is_some());
    }
}
