//! Messages from the server: one JSON object a frame.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::client_message::ClientId;
use super::frame_error::FrameError;
use super::position::Position;
use super::subscription::FilterWarning;

/// Target size of a `changes` frame in bytes; a single change may exceed it.
pub const MAX_CHANGES_BYTES: usize = 1 << 20;

/// A frame of the server, except `changes`, which [`ChangesFrame`] writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(
    tag = "type",
    rename_all = "snake_case",
    rename_all_fields = "camelCase"
)]
pub enum ServerMessage<'a> {
    /// The subscription has begun.
    Welcome {
        /// The client's name.
        client_id: &'a ClientId,
        /// The history's epoch.
        epoch: i32,
        /// Before the oldest change that is kept.
        oldest: Position,
        /// At the newest change.
        head: Position,
        /// The subscription's position: changes after it are sent.
        position: Position,
        /// Filters that cannot be evaluated for some updates and deletes.
        #[serde(skip_serializing_if = "<[_]>::is_empty")]
        warnings: &'a [FilterWarning],
    },
    /// The welcome's warnings have changed, because a table was altered.
    Warnings {
        /// All filters that cannot be evaluated for some updates and deletes from now on; may be
        /// empty.
        warnings: &'a [FilterWarning],
    },
    /// The client has everything that is stored; live from here.
    CaughtUp {
        /// The head.
        position: Position,
    },
    /// The head moved, but no change was for the client.
    Progress {
        /// Where to resume.
        position: Position,
    },
    /// Resuming is impossible: reload, then subscribe again.
    Reset {
        /// Why.
        reason: ResetReason,
        /// Before the oldest change that is kept.
        oldest: Position,
        /// At the newest change.
        head: Position,
    },
    /// A message of the client was refused.
    Error {
        /// Stable and machine-readable.
        code: &'a str,
        /// For humans.
        message: &'a str,
        /// Whether the same message may succeed later.
        retryable: bool,
    },
}

/// Why a client cannot continue from its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResetReason {
    /// Changes after its position are no longer kept.
    TooOld,
    /// Changes after its position may have been missed, so the position is no longer valid.
    EpochChanged,
    /// It read so slowly that the following changes are no longer kept.
    SlowConsumer,
}

impl ServerMessage<'_> {
    /// The frame's text.
    pub fn to_json(&self) -> String {
        // Cannot fail: every map has string keys, and no `Serialize` fails.
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl FrameError {
    /// The frame that tells the client; `text` is this error's own text.
    pub fn message<'a>(&self, text: &'a str) -> ServerMessage<'a> {
        ServerMessage::Error {
            code: self.code(),
            message: text,
            retryable: matches!(self, Self::RateLimited),
        }
    }
}

const PREFIX: &str = "{\"type\":\"changes\",\"changes\":[";

/// A `changes` frame under construction. The changes' JSON is copied once, into the frame that
/// every client with the same view gets.
#[derive(Clone, Debug)]
pub struct ChangesFrame {
    text: String,
    from: Position,
    is_empty: bool,
}

impl ChangesFrame {
    /// A frame of changes after `from`.
    pub fn new(from: Position) -> Self {
        Self {
            text: String::from(PREFIX),
            from,
            is_empty: true,
        }
    }

    /// Adds a change's JSON unless that would make the frame too large; the first change always
    /// fits. Returns whether it was added.
    #[must_use]
    pub fn push(&mut self, change: &str) -> bool {
        if !self.is_empty && self.text.len().saturating_add(change.len()) > MAX_CHANGES_BYTES {
            return false;
        }
        if !self.is_empty {
            self.text.push(',');
        }
        self.text.push_str(change);
        self.is_empty = false;
        true
    }

    /// Where the changes are in the text so far, without their brackets.
    pub fn changes(&self) -> std::ops::Range<usize> {
        PREFIX.len()..self.text.len()
    }

    /// Whether it has no changes.
    pub fn is_empty(&self) -> bool {
        self.is_empty
    }

    /// The frame's text. `to`: its reader's position afterwards, which may be beyond its last
    /// change; `catch_up`: there is more that was stored before it connected, or while it lagged.
    pub fn finish(mut self, to: Position, catch_up: bool) -> String {
        let from = self.from;
        // Writing into a string cannot fail.
        let _ = write!(
            self.text,
            "],\"from\":\"{from}\",\"to\":\"{to}\",\"catchUp\":{catch_up}}}"
        );
        self.text
    }
}
