//! The errors of the decoder.

use std::str::Utf8Error;

use crate::error::{Category, Error};

/// The bytes are not a documented message of pgoutput.
///
/// Contains no row values, since it is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}, at byte {offset} of the replication message")]
pub struct DecodeError {
    /// The offset of the problem in the message, in bytes. The tag is byte 0.
    pub offset: usize,
    /// The problem.
    pub problem: DecodeProblem,
}

/// What is wrong with a message. `expected` names the field of the documented format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeProblem {
    /// Protocol version 1 has no message with this tag.
    #[error("unknown message tag {found:#04x}")]
    UnknownTag {
        /// The byte.
        found: u8,
    },
    /// A flag, a kind or a replica identity has an undocumented value.
    #[error("expected {expected}, found byte {found:#04x}")]
    UnexpectedByte {
        /// The field.
        expected: &'static str,
        /// The byte.
        found: u8,
    },
    /// The message ends before the field does.
    #[error("the message ends inside {expected}")]
    UnexpectedEnd {
        /// The field.
        expected: &'static str,
    },
    /// The prefix given to [`decode_prefix`](super::decode_prefix) ends inside a field that must not
    /// be omitted.
    #[error("the message was cut inside {expected}")]
    Cut {
        /// The field.
        expected: &'static str,
    },
    /// A count or length is negative, or needs more bytes than the message has.
    #[error("{expected} is {found}, which the {remaining} bytes that follow cannot hold")]
    ImpossibleCount {
        /// The field.
        expected: &'static str,
        /// The count or length in the message.
        found: i64,
        /// How many bytes of the message follow.
        remaining: usize,
    },
    /// The string has no terminating NUL.
    #[error("{expected} has no terminating NUL")]
    MissingTerminator {
        /// The field.
        expected: &'static str,
    },
    /// A name is not UTF-8, which is the client encoding of the connection.
    #[error("{expected} is not UTF-8: {source}")]
    NotUtf8 {
        /// The field.
        expected: &'static str,
        /// Where in the name the error is.
        source: Utf8Error,
    },
    /// The message is longer than its fields.
    #[error("{count} bytes follow the end of the message")]
    TrailingBytes {
        /// The number of bytes that follow.
        count: usize,
    },
    /// The prefix given to [`decode_prefix`](super::decode_prefix) is longer than the message.
    #[error("a prefix of {prefix} bytes is longer than its message of {full} bytes")]
    PrefixTooLong {
        /// The length of the prefix in bytes.
        prefix: usize,
        /// The given length of the message in bytes.
        full: usize,
    },
}

impl From<DecodeError> for Error {
    fn from(error: DecodeError) -> Self {
        Self::new(
            Category::Decode,
            "pgoutput_malformed",
            "Postgres sent an undocumented replication message",
        )
        .with_source(error)
    }
}
