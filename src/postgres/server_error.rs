//! Errors and notices as the server reports them.

use std::fmt;

use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::ErrorFields;

use crate::postgres::error::{Error, ProtocolError};

/// Longest text kept of any one field, in bytes: what a server (or a function that raises) says
/// can be as long as a message, and notices are kept until they are logged.
const MAX_FIELD_BYTES: usize = 4096;

/// Five characters that class an error (PostgreSQL documentation, appendix A).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SqlState([u8; 5]);

impl SqlState {
    /// No such slot, publication, type: `undefined_object`.
    pub const UNDEFINED_OBJECT: Self = Self(*b"42704");
    /// No such table: `undefined_table`.
    pub const UNDEFINED_TABLE: Self = Self(*b"42P01");
    /// No such column: `undefined_column`.
    pub const UNDEFINED_COLUMN: Self = Self(*b"42703");
    /// No such schema: `invalid_schema_name`.
    pub const INVALID_SCHEMA_NAME: Self = Self(*b"3F000");
    /// There already is one: `duplicate_object`.
    pub const DUPLICATE_OBJECT: Self = Self(*b"42710");
    /// A slot that was invalidated, or a server with a too low `wal_level`:
    /// `object_not_in_prerequisite_state`.
    pub const OBJECT_NOT_IN_PREREQUISITE_STATE: Self = Self(*b"55000");
    /// A slot that another session reads: `object_in_use`.
    pub const OBJECT_IN_USE: Self = Self(*b"55006");
    /// The role may not: `insufficient_privilege`.
    pub const INSUFFICIENT_PRIVILEGE: Self = Self(*b"42501");

    /// Reads five upper-case letters or digits; anything else is none.
    fn parse(code: &[u8]) -> Option<Self> {
        let code: [u8; 5] = code.try_into().ok()?;
        let plain = |byte: &u8| byte.is_ascii_digit() || byte.is_ascii_uppercase();
        code.iter().all(plain).then_some(Self(code))
    }

    /// The five characters.
    pub fn as_str(&self) -> &str {
        // Only ASCII gets in.
        str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The first two, which name the class: `28` is authorization.
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

/// How grave a report is; `Fatal` and `Panic` end the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Severity {
    /// `DEBUG`
    Debug,
    /// `LOG`
    Log,
    /// `INFO`
    Info,
    /// `NOTICE`
    Notice,
    /// `WARNING`
    Warning,
    /// `ERROR`
    Error,
    /// `FATAL`
    Fatal,
    /// `PANIC`
    Panic,
}

impl Severity {
    fn parse(name: &[u8]) -> Option<Self> {
        Some(match name {
            b"DEBUG" => Self::Debug,
            b"LOG" => Self::Log,
            b"INFO" => Self::Info,
            b"NOTICE" => Self::Notice,
            b"WARNING" => Self::Warning,
            b"ERROR" => Self::Error,
            b"FATAL" => Self::Fatal,
            b"PANIC" => Self::Panic,
            _ => return None,
        })
    }
}

/// An error or a notice of the server (PostgreSQL documentation, "Error and Notice Message
/// Fields").
///
/// `Display` gives the message and the SQLSTATE only. Detail, hint and context can quote row
/// values, and so can the message of a data exception (class 22: `invalid input syntax for type
/// integer: "..."`), which is therefore withheld too; the accessors have them.
#[derive(Clone, Default)]
pub struct ServerError {
    severity: Option<Severity>,
    sqlstate: Option<SqlState>,
    message: String,
    detail: Option<String>,
    hint: Option<String>,
    context: Option<String>,
    position: Option<u32>,
    schema: Option<String>,
    table: Option<String>,
    column: Option<String>,
    data_type: Option<String>,
    constraint: Option<String>,
}

impl ServerError {
    /// Reads the fields of an `ErrorResponse` or `NoticeResponse`, whose type byte is `tag`.
    /// Unknown fields are skipped, as the protocol demands; a SQLSTATE must be there.
    pub(super) fn parse(tag: u8, mut fields: ErrorFields<'_>) -> Result<Self, Error> {
        let mut error = Self::default();
        let malformed = |source| Error::Protocol(ProtocolError::Malformed { tag, source });
        while let Some(field) = fields.next().map_err(malformed)? {
            let value = field.value_bytes();
            match field.type_() {
                // The untranslated severity; older servers and some poolers send only `S`.
                b'V' => error.severity = Severity::parse(value).or(error.severity),
                b'S' => error.severity = error.severity.or(Severity::parse(value)),
                b'C' => error.sqlstate = SqlState::parse(value),
                b'M' => error.message = bounded_text(value),
                b'D' => error.detail = Some(bounded_text(value)),
                b'H' => error.hint = Some(bounded_text(value)),
                b'W' => error.context = Some(bounded_text(value)),
                b'P' => error.position = bounded_text(value).parse().ok(),
                b's' => error.schema = Some(bounded_text(value)),
                b't' => error.table = Some(bounded_text(value)),
                b'c' => error.column = Some(bounded_text(value)),
                b'd' => error.data_type = Some(bounded_text(value)),
                b'n' => error.constraint = Some(bounded_text(value)),
                _ => {}
            }
        }
        if error.sqlstate.is_none() {
            return Err(Error::Protocol(ProtocolError::NoSqlState));
        }
        Ok(error)
    }

    /// How grave; `Error` when the server named it in another language only.
    pub fn severity(&self) -> Severity {
        self.severity.unwrap_or(Severity::Error)
    }

    /// The class of the error.
    pub fn sqlstate(&self) -> SqlState {
        self.sqlstate.unwrap_or(SqlState(*b"XX000"))
    }

    /// What happened, in the server's language. May quote a value when the class is 22.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// More of it. May hold row values: never log it.
    pub fn detail(&self) -> Option<&str> {
        self.detail.as_deref()
    }

    /// What the server suggests.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Where it happened (the field `W`): a stack of functions and statements. May hold row values.
    pub fn context(&self) -> Option<&str> {
        self.context.as_deref()
    }

    /// Which character of the statement, from 1.
    pub fn position(&self) -> Option<u32> {
        self.position
    }

    /// The schema that the error is about.
    pub fn schema(&self) -> Option<&str> {
        self.schema.as_deref()
    }

    /// The table that the error is about.
    pub fn table(&self) -> Option<&str> {
        self.table.as_deref()
    }

    /// The column that the error is about.
    pub fn column(&self) -> Option<&str> {
        self.column.as_deref()
    }

    /// The data type that the error is about.
    pub fn data_type(&self) -> Option<&str> {
        self.data_type.as_deref()
    }

    /// The constraint that the error is about.
    pub fn constraint(&self) -> Option<&str> {
        self.constraint.as_deref()
    }
}

impl std::error::Error for ServerError {}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.sqlstate();
        // 22023 quotes settings and function arguments, not columns.
        if state.class() == "22" && state.as_str() != "22023" {
            write!(f, "Postgres refused a value (SQLSTATE {state})")
        } else {
            write!(f, "{} (SQLSTATE {state})", self.message)
        }
    }
}

impl fmt::Debug for ServerError {
    /// As `Display`: what is printed for debugging ends in logs too.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerError({:?}: {self})", self.severity())
    }
}

/// The field's text, cut at [`MAX_FIELD_BYTES`]. Before the client encoding is agreed on, a server
/// may answer in its own: what is not UTF-8 is replaced.
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
    fn every_field_is_read_and_unknown_ones_are_skipped() {
        let error = ServerError::of_fields(
            b"SFEHLER\0VERROR\0C23505\0Mm\0Dd\0Hh\0P17\0p3\0qinternal\0Ww\0ss\0tt\0cc\0dd\0nn\0\
              Ff.c\0L1\0Rr\0Znew\0\0",
        )
        .unwrap();
        assert_eq!(error.severity(), Severity::Error);
        assert_eq!(error.sqlstate().as_str(), "23505");
        assert_eq!(error.sqlstate().class(), "23");
        assert_eq!((error.message(), error.position()), ("m", Some(17)));
        assert_eq!((error.detail(), error.hint()), (Some("d"), Some("h")));
        assert_eq!((error.context(), error.schema()), (Some("w"), Some("s")));
        assert_eq!((error.table(), error.column()), (Some("t"), Some("c")));
        assert_eq!(
            (error.data_type(), error.constraint()),
            (Some("d"), Some("n"))
        );
    }

    #[test]
    fn a_severity_in_another_language_is_an_error() {
        let error = ServerError::of_fields(b"SFEHLER\0C42601\0Mm\0\0").unwrap();
        assert_eq!(error.severity(), Severity::Error);
        let error = ServerError::of_fields(b"SFATAL\0C57P01\0Mm\0\0").unwrap();
        assert_eq!(error.severity(), Severity::Fatal);
    }

    #[test]
    fn neither_display_nor_debug_shows_what_can_hold_values() {
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
    fn long_texts_are_cut_and_foreign_ones_replaced() {
        let message = "ä".repeat(MAX_FIELD_BYTES);
        let fields = format!("C42601\0M{message}\0\0");
        let error = ServerError::of_fields(fields.as_bytes()).unwrap();
        assert_eq!(error.message().len(), MAX_FIELD_BYTES);
        let error = ServerError::of_fields(b"C28P01\0Mpa\xdfwort\0\0").unwrap();
        assert_eq!(error.message(), "pa\u{fffd}wort");
    }
}
