//! The errors of the wire client, by kind, each with its cause.

use std::error::Error as StdError;
use std::io;

use crate::clock::Elapsed;
use crate::error::{Category, Error as FeedError};
use crate::postgres::server_error::{ServerError, SqlState};

/// An error of the wire client.
///
/// Every error that a method of [`Connection`](super::Connection) returns makes that connection
/// unusable. No error's text contains row values, parameters or credentials.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The socket failed.
    #[error("the connection to Postgres failed")]
    Io(#[source] io::Error),
    /// The socket neither delivered nor accepted a byte in time, or the login took too long.
    #[error("Postgres did not answer in time")]
    Timeout(#[source] Elapsed),
    /// The connection was closed. Inside a message, that is never the server's intention.
    #[error("Postgres closed the connection{}", if *.mid_message { " in the middle of a message" } else { "" })]
    Closed {
        /// Part of a message had arrived.
        mid_message: bool,
    },
    /// A message is malformed or out of order.
    #[error("the server does not speak the PostgreSQL protocol as documented")]
    Protocol(#[source] ProtocolError),
    /// The login failed on the client's side. If the server refuses it, the error is
    /// [`Error::Server`].
    #[error("logging in to Postgres failed")]
    Authentication(#[source] AuthenticationError),
    /// The server does not offer TLS, and the sslmode requires it.
    #[error("the server does not offer TLS, which the sslmode requires")]
    TlsRefused,
    /// The server reported an error.
    #[error(transparent)]
    Server(Box<ServerError>),
    /// A message is longer than the limit. It was not read.
    #[error("a message of {len} bytes is longer than the limit of {max}")]
    MessageTooLarge {
        /// The length that the message announces, in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// A result that must fit in memory is larger than the limit.
    #[error("a result is larger than the limit of {max} bytes")]
    ResultTooLarge {
        /// The limit in bytes.
        max: usize,
    },
    /// A statement that always returns a row returned none.
    #[error("a statement that always returns a row returned none")]
    NoRow,
    /// A column cannot be read as the requested type.
    #[error("column {column} of the result cannot be read")]
    Value {
        /// The column's index.
        column: usize,
        /// Why it cannot be read.
        #[source]
        reason: ValueError,
    },
    /// A statement or parameter cannot be encoded: a NUL in a text, 65536 parameters, 2 GiB.
    #[error("the statement cannot be sent")]
    Request(#[source] io::Error),
    /// The caller used the connection in the wrong order.
    #[error("{0}")]
    OutOfTurn(&'static str),
    /// An earlier error or an unfinished copy made this connection unusable.
    #[error("the connection is unusable after an earlier error")]
    Broken,
}

/// How the server violates the protocol (PostgreSQL documentation, "Frontend/Backend Protocol").
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// No backend message has this tag.
    #[error("unknown message type {:?}", char::from(*.0))]
    UnknownMessage(u8),
    /// The length is less than four, although it counts itself.
    #[error("message {:?} announces an impossible length", char::from(*.0))]
    Length(u8),
    /// The body is not in the documented format.
    #[error("malformed message {:?}", char::from(*.tag))]
    Malformed {
        /// The message's type byte.
        tag: u8,
        /// The parser's error.
        #[source]
        source: io::Error,
    },
    /// A message of another type was expected.
    #[error("message {:?} arrived where {expected} was expected", char::from(*.tag))]
    Unexpected {
        /// The message's type byte.
        tag: u8,
        /// The messages that are valid at this point.
        expected: &'static str,
    },
    /// A row has more or fewer values than its description has columns.
    #[error("a row has {actual} values, but {described} columns were described")]
    RowWidth {
        /// The number of values in the row.
        actual: usize,
        /// The number of columns in the row description.
        described: usize,
    },
    /// A result column is in text format, although binary was requested.
    #[error("a result column is not in the binary format that was requested")]
    TextFormat,
    /// An error or notice has no well-formed SQLSTATE.
    #[error("an error response has no SQLSTATE")]
    NoSqlState,
    /// The status in `ReadyForQuery` is not `I`, `T` or `E`.
    #[error("unknown transaction status {:?}", char::from(*.0))]
    TransactionStatus(u8),
    /// The server reports more run-time parameters than any real one has.
    #[error("the server reports too many run-time parameters")]
    TooManyParameters,
    /// The answer to `SSLRequest` is neither `S` nor `N`.
    #[error("SSLRequest was answered with {:?}", char::from(*.0))]
    TlsAnswer(u8),
    /// Plaintext followed the answer to `SSLRequest`. A server sends none there: an injection attempt
    /// (CVE-2021-23222).
    #[error("{0} unencrypted bytes arrived before the TLS handshake")]
    PlaintextBeforeTls(usize),
}

/// Why the login failed on the client's side.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthenticationError {
    /// The server requests a password, but none is configured.
    #[error("the server requests a password, but none is configured")]
    PasswordRequired,
    /// The server requests a method that this client does not support.
    #[error("the server requests {0}, which is not supported")]
    UnsupportedMethod(&'static str),
    /// The server offers SASL, but not SCRAM-SHA-256.
    #[error("the server does not offer SCRAM-SHA-256, the only supported SASL mechanism")]
    UnsupportedMechanism,
    /// The SCRAM exchange failed: an unknown nonce, a wrong server signature, too many iterations.
    #[error("the SCRAM exchange failed")]
    Scram(#[source] io::Error),
    /// The server accepted the login without proving that it knows the password.
    #[error("the server did not prove that it knows the password")]
    ServerNotProven,
}

/// Why a value cannot be read as the requested type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ValueError {
    /// The result has no column with this index.
    #[error("there is no such column")]
    NoSuchColumn,
    /// The value is null, and a value was requested.
    #[error("it is null")]
    Null,
    /// The column has another type.
    #[error("it is of the type with OID {actual}, not {wanted}")]
    Type {
        /// The OID of the column's type.
        actual: u32,
        /// The types that fit.
        wanted: &'static str,
    },
    /// The value does not have the length of its type.
    #[error("its length of {0} bytes does not fit its type")]
    Length(usize),
    /// The bytes are invalid for the type: a boolean of 2, a jsonb of version 2.
    #[error("its bytes are not a value of its type")]
    Content,
    /// The text is not UTF-8.
    #[error("its text is not UTF-8")]
    Encoding,
}

impl Error {
    /// The server's error, if the server reported it. Callers that know what a code means for their
    /// statement (42704: no such slot, no such publication) look at [`ServerError::sqlstate`] before
    /// they convert the error into a [`crate::error::Error`].
    pub fn server(&self) -> Option<&ServerError> {
        match self {
            Self::Server(error) => Some(error),
            _ => None,
        }
    }

    /// The SQLSTATE, if the server reported the error.
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

/// The category and code of an error that Postgres reported. Only the SQLSTATE decides, because
/// messages are translated and reworded (PostgreSQL documentation, appendix A).
fn classify(state: SqlState) -> (Category, &'static str) {
    match state {
        SqlState::INSUFFICIENT_PRIVILEGE => (Category::Permission, "permission_denied"),
        SqlState::OBJECT_IN_USE => (Category::SlotInUse, "slot_in_use"),
        SqlState::READ_ONLY_SQL_TRANSACTION => (Category::Configuration, "database_read_only"),
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
        "database_read_only" => {
            "The server refuses writes, although the feed's transactions ask for them. Many \
             providers do so while the disk is nearly full: free or add space, and look at SHOW \
             default_transaction_read_only. On a standby, connect to the primary."
        }
        "authentication_failed" => {
            "Check the user and the password in the Hyperdrive configuration or in DATABASE_URL, \
             and that pg_hba.conf allows this user to connect."
        }
        "database_missing" => "Check the name of the database in DATABASE_URL.",
        "too_many_connections" => {
            "Raise max_connections on the server, or close unneeded connections."
        }
        "tls_refused" => {
            "Turn on TLS on the server (ssl = on), or, on a network that you trust, set \
             sslmode=disable in DATABASE_URL."
        }
        _ => return None,
    })
}

impl From<Error> for FeedError {
    fn from(error: Error) -> Self {
        let (category, code) = error.classify();
        // The message contains the whole chain, because /status and the logs show nothing else.
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
            // The meaning of these depends on the statement. The caller refines them.
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
    fn the_message_of_a_client_error_contains_its_causes() {
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
