//! Why a client's message is refused.

/// A frame, or the query of a WebSocket upgrade, that is refused. The socket stays open.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The frame is not JSON.
    #[error("the message is not JSON: {problem}")]
    NotJson {
        /// The parser's message, with line and column.
        problem: String,
    },
    /// The frame is not an object with a string `type`.
    #[error("the message must be a JSON object with a string \"type\"")]
    NoType,
    /// No frame of this protocol version has that `type`.
    #[error("unknown message type {found:?}: this server accepts \"subscribe\" and \"ack\"")]
    UnknownType {
        /// The first characters of the type.
        found: String,
    },
    /// A field is missing, unknown, or of the wrong kind.
    #[error("{field}: {problem}")]
    Field {
        /// The path of the field, such as `subscriptions[0].filter[1].op`.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Something has more bytes or members than the server accepts.
    #[error("{field} has {found}, more than the {limit} that are allowed")]
    TooLarge {
        /// The path of the field, or `message` for the whole frame.
        field: String,
        /// How many bytes or members it has.
        found: usize,
        /// How many it may have.
        limit: usize,
    },
    /// The frame is binary.
    #[error("binary messages are not part of this protocol: send JSON text")]
    Binary,
    /// The client subscribes more often than it may.
    #[error("too many subscribe messages: wait a second before the next one")]
    RateLimited,
    /// The filters of all connections with this credential have too many conditions.
    #[error(
        "the connections with this ticket have {found} filter conditions together, more than the {limit} that are allowed"
    )]
    TooManyConditions {
        /// How many there would be.
        found: usize,
        /// How many there may be.
        limit: usize,
    },
    /// The client's ticket does not allow what it asked for.
    #[error("{field}: not allowed by the ticket")]
    NotAllowed {
        /// The path of the field.
        field: String,
    },
}

impl FrameError {
    /// Stable and machine-readable, `snake_case`: the `code` of the `error` frame.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotJson { .. } => "bad_json",
            Self::NoType | Self::UnknownType { .. } => "unknown_type",
            Self::Field { .. } => "bad_field",
            Self::TooLarge { .. } | Self::TooManyConditions { .. } => "too_large",
            Self::Binary => "binary",
            Self::NotAllowed { .. } => "not_allowed",
            Self::RateLimited => "rate_limited",
        }
    }

    pub(super) fn field(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Field {
            field: field.into(),
            problem: shorten(&problem.into()),
        }
    }

    /// The same, with the field inside of `outer`.
    pub(super) fn within(self, outer: &str) -> Self {
        let inside = |field: String| format!("{outer}.{field}");
        match self {
            Self::Field { field, problem } => Self::Field {
                field: inside(field),
                problem,
            },
            Self::TooLarge {
                field,
                found,
                limit,
            } => Self::TooLarge {
                field: inside(field),
                found,
                limit,
            },
            Self::NotAllowed { field } => Self::NotAllowed {
                field: inside(field),
            },
            other => other,
        }
    }

    /// Refuses more than `limit` of something.
    pub(super) fn check_size(field: &str, found: usize, limit: usize) -> Result<(), Self> {
        if found <= limit {
            return Ok(());
        }
        Err(Self::TooLarge {
            field: field.to_owned(),
            found,
            limit,
        })
    }
}

/// At most this many characters of the client's text are echoed.
const MAX_ECHO: usize = 200;

pub(super) fn shorten(text: &str) -> String {
    let mut rest = text.chars();
    let mut short: String = rest.by_ref().take(MAX_ECHO).collect();
    if rest.next().is_some() {
        short.push('…');
    }
    short
}
