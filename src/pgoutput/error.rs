//! What can be wrong with a message.

use std::str::Utf8Error;

use crate::error::{Category, Error};

/// The bytes are not a message that pgoutput is documented to send.
///
/// Holds no row values: it reaches logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}, at byte {offset} of the replication message")]
pub struct DecodeError {
    /// Bytes from the start of the message (its tag is byte 0) to where the problem was met.
    pub offset: usize,
    /// What is wrong there.
    pub problem: DecodeProblem,
}

/// What is wrong with a message. `expected` names the field of the documented format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeProblem {
    /// No message of protocol version 1 starts with this byte.
    #[error("unknown message tag {found:#04x}")]
    UnknownTag {
        /// The byte.
        found: u8,
    },
    /// A byte that is none of the documented ones: a flag, a kind, a replica identity.
    #[error("expected {expected}, found byte {found:#04x}")]
    UnexpectedByte {
        /// The field.
        expected: &'static str,
        /// The byte.
        found: u8,
    },
    /// The message is over before the field is.
    #[error("the message ends inside {expected}")]
    UnexpectedEnd {
        /// The field.
        expected: &'static str,
    },
    /// [`decode_prefix`](super::decode_prefix): the field goes on after the prefix, and is not one
    /// that may be left out.
    #[error("the message was cut inside {expected}")]
    Cut {
        /// The field.
        expected: &'static str,
    },
    /// A count or a length below zero, or one that needs more bytes than the message has.
    #[error("{expected} is {found}, which the {remaining} bytes that follow cannot hold")]
    ImpossibleCount {
        /// The field.
        expected: &'static str,
        /// The count or length as sent.
        found: i64,
        /// The bytes of the message after it.
        remaining: usize,
    },
    /// No NUL ends the string.
    #[error("{expected} has no terminating NUL")]
    MissingTerminator {
        /// The field.
        expected: &'static str,
    },
    /// The bytes of a name are not UTF-8, the client encoding asked for at connection start.
    #[error("{expected} is not UTF-8: {source}")]
    NotUtf8 {
        /// The field.
        expected: &'static str,
        /// Where in the name.
        source: Utf8Error,
    },
    /// The message is complete, and bytes are left.
    #[error("{count} bytes follow the end of the message")]
    TrailingBytes {
        /// How many.
        count: usize,
    },
    /// [`decode_prefix`](super::decode_prefix) was given more bytes than the message has.
    #[error("a prefix of {prefix} bytes is longer than its message of {full} bytes")]
    PrefixTooLong {
        /// Bytes given.
        prefix: usize,
        /// Bytes the whole message is said to have.
        full: usize,
    },
}

impl From<DecodeError> for Error {
    fn from(error: DecodeError) -> Self {
        Self::new(
            Category::Decode,
            "pgoutput_malformed",
            "Postgres sent a replication message that is not as documented",
        )
        .with_source(error)
    }
}
