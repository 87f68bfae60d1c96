//! The error every layer above the wire ends in: a category (a fact), a stable code, words for the
//! operator, and the remedy. What is done about it is decided elsewhere (`polling::policy`).

use std::error::Error as StdError;
use std::fmt;

use serde::Serialize;

/// Where an error belongs. A fact about what happened, never a decision about what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Category {
    /// The socket could not be opened, or broke.
    Connection,
    /// Postgres refused the user or the password.
    Authentication,
    /// A field of the configuration, or a setting of the server, is wrong.
    Configuration,
    /// The role may not do what replication needs.
    Permission,
    /// The replication slot is not there.
    SlotMissing,
    /// The slot is there but can no longer give what was written since the checkpoint.
    SlotLost,
    /// Another session reads the slot.
    SlotInUse,
    /// The publication is not there.
    PublicationMissing,
    /// Postgres refused a statement for another reason.
    Query,
    /// The server's bytes are not the protocol.
    Protocol,
    /// The output plugin's bytes are not what pgoutput is documented to send.
    Decode,
    /// A row could not be stored.
    Storage,
    /// A client could not be told.
    Notify,
    /// Something took longer than its limit.
    Timeout,
}

/// An error with its category, a stable code, a message for people, and the way out.
///
/// Neither the message nor the remedy holds row values or credentials: both reach logs and
/// `/status`.
#[derive(Debug)]
pub struct Error {
    category: Category,
    code: &'static str,
    message: String,
    remedy: Option<String>,
    sqlstate: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// The result of everything above the wire.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of `category`. `code` is stable and machine-readable (`wal_level_too_low`).
    pub fn new(category: Category, code: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            category,
            code,
            message,
            remedy: None,
            sqlstate: None,
            source: None,
        }
    }

    /// Adds what the operator can do, with the SQL that does it where SQL does.
    #[must_use]
    pub fn with_remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// Keeps the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.source = Some(Box::new(source));
        self
    }

    /// Keeps the five characters Postgres classed the error with.
    #[must_use]
    pub fn with_sqlstate(mut self, sqlstate: impl Into<String>) -> Self {
        self.sqlstate = Some(sqlstate.into());
        self
    }

    /// Where the error belongs.
    pub fn category(&self) -> Category {
        self.category
    }

    /// Stable and machine-readable, `snake_case`.
    pub fn code(&self) -> &'static str {
        self.code
    }

    /// What the operator can do, when anything is known.
    pub fn remedy(&self) -> Option<&str> {
        self.remedy.as_deref()
    }

    /// Postgres's error code, when the error came from Postgres
    /// (PostgreSQL documentation, appendix A).
    pub fn sqlstate(&self) -> Option<&str> {
        self.sqlstate.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
