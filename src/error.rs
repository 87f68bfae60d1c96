//! The error of every layer above the wire client: a category (a fact), a stable code, a message
//! for the operator, and the remedy. How the feed reacts to it is decided elsewhere
//! (`polling::policy`).

use std::error::Error as StdError;
use std::fmt;

use serde::Serialize;

/// What kind of error it is. A fact about what happened, never a decision about what to do.
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
    /// The role lacks a privilege that replication needs.
    Permission,
    /// The replication slot does not exist.
    SlotMissing,
    /// The slot exists but can no longer return the changes written since the checkpoint.
    SlotLost,
    /// Another session reads the slot.
    SlotInUse,
    /// The publication does not exist.
    PublicationMissing,
    /// Postgres refused a statement for another reason.
    Query,
    /// What the server sent violates the protocol.
    Protocol,
    /// What the output plugin sent is not what pgoutput is documented to send.
    Decode,
    /// A row could not be stored.
    Storage,
    /// A client could not be notified.
    Notify,
    /// Something took longer than its limit.
    Timeout,
}

const NOT_INITIALIZED: &str = "not_initialized";

/// An error with its category, a stable code, a message for people, and a remedy.
///
/// Neither the message nor the remedy contains row values or credentials, since both reach logs and
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

/// The result type of everything above the wire client.
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

    /// The feed has not been initialised in this database, or no longer is.
    pub fn not_initialized(message: impl Into<String>) -> Self {
        Self::new(Category::Configuration, NOT_INITIALIZED, message).with_remedy("call POST /init")
    }

    /// Whether it was made by [`Self::not_initialized`].
    pub fn is_not_initialized(&self) -> bool {
        self.code == NOT_INITIALIZED
    }

    /// Adds what the operator can do, with the SQL if SQL fixes it.
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

    /// Keeps the SQLSTATE, if Postgres reported the error.
    #[must_use]
    pub fn with_sqlstate(mut self, sqlstate: impl Into<String>) -> Self {
        self.sqlstate = Some(sqlstate.into());
        self
    }

    /// What kind of error it is.
    pub fn category(&self) -> Category {
        self.category
    }

    /// Stable and machine-readable, `snake_case`.
    pub fn code(&self) -> &'static str {
        self.code
    }

    /// What the operator can do, if that is known.
    pub fn remedy(&self) -> Option<&str> {
        self.remedy.as_deref()
    }

    /// The SQLSTATE, if Postgres reported the error (PostgreSQL documentation, appendix A).
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
