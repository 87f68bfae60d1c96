//! Errors and notices that the server reports.

use std::fmt;

use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::ErrorFields;

use crate::postgres::error::{Error, ProtocolError};

/// The longest message that is kept, in bytes. A server, or a function that raises an error, can send
/// one as long as a protocol message, and notices are kept until they are logged.
const MAX_FIELD_BYTES: usize = 4096;

/// The five characters that classify an error (PostgreSQL documentation, appendix A).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SqlState([u8; 5]);

impl SqlState {
    /// No such slot, publication or type: `undefined_object`.
    pub const UNDEFINED_OBJECT: Self = Self(*b"42704");
    /// No such table: `undefined_table`.
    pub const UNDEFINED_TABLE: Self = Self(*b"42P01");
    /// No such column: `undefined_column`.
    pub const UNDEFINED_COLUMN: Self = Self(*b"42703");
    /// No such schema: `invalid_schema_name`.
    pub const INVALID_SCHEMA_NAME: Self = Self(*b"3F000");
    /// No such database: `invalid_catalog_name`.
    pub const INVALID_CATALOG_NAME: Self = Self(*b"3D000");
    /// The slot was invalidated, or the server's `wal_level` is too low:
    /// `object_not_in_prerequisite_state`.
    pub const OBJECT_NOT_IN_PREREQUISITE_STATE: Self = Self(*b"55000");
    /// Another session reads the slot: `object_in_use`.
    pub const OBJECT_IN_USE: Self = Self(*b"55006");
    /// The role lacks a right: `insufficient_privilege`.
    pub const INSUFFICIENT_PRIVILEGE: Self = Self(*b"42501");
    /// A setting or a function's argument is invalid: `invalid_parameter_value`.
    pub const INVALID_PARAMETER_VALUE: Self = Self(*b"22023");
    /// Cancelled, also by `statement_timeout`: `query_canceled`.
    pub const QUERY_CANCELED: Self = Self(*b"57014");
    /// `lock_timeout` passed, or the statement has `NOWAIT`: `lock_not_available`.
    pub const LOCK_NOT_AVAILABLE: Self = Self(*b"55P03");
    /// A transaction that may only read has tried to write.
    pub const READ_ONLY_SQL_TRANSACTION: Self = Self(*b"25006");
    /// `idle_in_transaction_session_timeout`
    pub const IDLE_IN_TRANSACTION_SESSION_TIMEOUT: Self = Self(*b"25P03");
    /// `transaction_timeout`
    pub const TRANSACTION_TIMEOUT: Self = Self(*b"25P04");
    /// `max_connections` is reached: `too_many_connections`.
    pub const TOO_MANY_CONNECTIONS: Self = Self(*b"53300");
    /// The session was terminated, or the server is shutting down: `admin_shutdown`.
    pub const ADMIN_SHUTDOWN: Self = Self(*b"57P01");
    /// Another server process crashed: `crash_shutdown`.
    pub const CRASH_SHUTDOWN: Self = Self(*b"57P02");
    /// The server is starting or recovering: `cannot_connect_now`.
    pub const CANNOT_CONNECT_NOW: Self = Self(*b"57P03");
    /// `database_dropped`
    pub const DATABASE_DROPPED: Self = Self(*b"57P04");
    /// `idle_session_timeout`
    pub const IDLE_SESSION_TIMEOUT: Self = Self(*b"57P05");

    /// Accepts five upper-case letters or digits only.
    fn parse(code: &[u8]) -> Option<Self> {
        let code: [u8; 5] = code.try_into().ok()?;
        let plain = |byte: &u8| byte.is_ascii_digit() || byte.is_ascii_uppercase();
        code.iter().all(plain).then_some(Self(code))
    }

    /// The five characters.
    pub fn as_str(&self) -> &str {
        // `parse` accepts only ASCII.
        str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The class, which is the first two characters: `28` is authorization.
    pub fn class(&self) -> &str {
        self.as_str().get(..2).unwrap_or_default()
    }
}

impl fmt::Debug for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SqlState({})", self.as_str())
    }
}

impl fmt::Display for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An error or a notice of the server (PostgreSQL documentation, "Error and Notice Message
/// Fields").
///
/// Of its fields only the SQLSTATE and the message are kept. Detail, hint and context can quote row
/// values; so can the message of a data exception (class 22: `invalid input syntax for type integer:
/// "..."`), which `Display` therefore withholds.
#[derive(Clone)]
pub struct ServerError {
    sqlstate: SqlState,
    message: String,
}

impl ServerError {
    /// Reads the fields of an `ErrorResponse` or `NoticeResponse`, whose type byte is `tag`. The
    /// SQLSTATE is required; unknown fields are skipped, as the protocol demands.
    pub(super) fn parse(tag: u8, mut fields: ErrorFields<'_>) -> Result<Self, Error> {
        let (mut sqlstate, mut message) = (None, String::new());
        let malformed = |source| Error::Protocol(ProtocolError::Malformed { tag, source });
        while let Some(field) = fields.next().map_err(malformed)? {
            let value = field.value_bytes();
            match field.type_() {
                b'C' => sqlstate = SqlState::parse(value),
                b'M' => message = bounded_text(value),
                _ => {}
            }
        }
        let sqlstate = sqlstate.ok_or(Error::Protocol(ProtocolError::NoSqlState))?;
        Ok(Self { sqlstate, message })
    }

    /// The SQLSTATE.
    pub fn sqlstate(&self) -> SqlState {
        self.sqlstate
    }

    /// The message, in the server's language. It can quote a value if the class is 22.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl std::error::Error for ServerError {}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.sqlstate;
        // Its message quotes settings and function arguments, not columns.
        let is_harmless = state == SqlState::INVALID_PARAMETER_VALUE;
        if state.class() == "22" && !is_harmless {
            write!(f, "Postgres refused a value (SQLSTATE {state})")
        } else {
            write!(f, "{} (SQLSTATE {state})", self.message)
        }
    }
}

impl fmt::Debug for ServerError {
    /// As `Display`, since debug output can end up in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerError({self})")
    }
}

/// A field's text, cut at [`MAX_FIELD_BYTES`]. Until the client encoding is set, a server may answer in
/// its own: bytes that are not UTF-8 are replaced.
fn bounded_text(value: &[u8]) -> String {
    let kept = value.get(..MAX_FIELD_BYTES).unwrap_or(value);
    String::from_utf8_lossy(kept).into_owned()
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use postgres_protocol::message::backend::Message;

    use super::*;

    impl ServerError {
        /// The error of an `ErrorResponse` with these fields.
        pub(in crate::postgres) fn of_fields(fields: &[u8]) -> Result<Self, Error> {
            let len = u32::try_from(fields.len() + 4).unwrap();
            let message = [b"E", &len.to_be_bytes()[..], fields].concat();
            match Message::parse(&mut BytesMut::from(&message[..])) {
                Ok(Some(Message::ErrorResponse(body))) => Self::parse(b'E', body.fields()),
                _ => panic!("no ErrorResponse"),
            }
        }
    }

    #[test]
    fn the_sqlstate_and_the_message_are_read_and_other_fields_skipped() {
        let error = ServerError::of_fields(
            b"SFEHLER\0VERROR\0C23505\0Mm\0Dd\0Hh\0P17\0p3\0qinternal\0Ww\0ss\0tt\0cc\0dd\0nn\0\
              Ff.c\0L1\0Rr\0Znew\0\0",
        )
        .unwrap();
        assert_eq!(error.sqlstate().as_str(), "23505");
        assert_eq!(error.sqlstate().class(), "23");
        assert_eq!(error.message(), "m");
    }

    #[test]
    fn neither_display_nor_debug_shows_text_that_can_quote_values() {
        let error =
            ServerError::of_fields(b"C23505\0Mduplicate key\0Dsecret\0Wsecret\0Hsecret\0\0");
        let error = error.unwrap();
        assert_eq!(error.to_string(), "duplicate key (SQLSTATE 23505)");
        assert!(!format!("{error:?}").contains("secret"));
        let error = ServerError::of_fields(b"C22P02\0Minvalid input: secret\0\0").unwrap();
        assert_eq!(
            error.to_string(),
            "Postgres refused a value (SQLSTATE 22P02)"
        );
        assert!(!format!("{error:?}").contains("secret"));
        let error = ServerError::of_fields(b"C22023\0Munknown option\0\0").unwrap();
        assert_eq!(error.to_string(), "unknown option (SQLSTATE 22023)");
    }

    #[test]
    fn long_messages_are_cut_and_bytes_that_are_not_utf8_replaced() {
        let message = "ä".repeat(MAX_FIELD_BYTES);
        let fields = format!("C42601\0M{message}\0\0");
        let error = ServerError::of_fields(fields.as_bytes()).unwrap();
        assert_eq!(error.message().len(), MAX_FIELD_BYTES);
        let error = ServerError::of_fields(b"C28P01\0Mpa\xdfwort\0\0").unwrap();
        assert_eq!(error.message(), "pa\u{fffd}wort");
    }
}
