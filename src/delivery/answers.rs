//! State of a sink that answers each frame: the outstanding frame, what its answer means, when to
//! retry. Pure; the calls are made elsewhere.

use std::rc::Rc;

use serde::{Deserialize, Serialize};

use crate::clients::{Position, ResetReason};
use crate::clock;
use crate::error::Error;
use crate::polling::backoff;

/// What a sink answered.
#[derive(Debug)]
pub enum Answer {
    /// It has accepted the frame (2xx).
    Accepted,
    /// It is at another position, and continues from there (409).
    StandsAt(Position),
    /// It wants nothing more (410).
    Gone,
    /// It failed, or could not be called.
    Failed(Rc<Error>),
}

/// A frame that was sent and not yet answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outstanding {
    /// Changes up to `to`.
    Changes { to: i64, bytes: usize },
    /// A fresh position. The last sent id and its time are those from before.
    Progress { last_sent: (i64, u64) },
    /// A reset.
    Reset,
}

/// The answers of one sink. Times are milliseconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Answers {
    /// A reset that is not yet accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owed_reset: Option<ResetReason>,
    /// When a frame was last accepted.
    pub last_seen_at: Option<u64>,
    /// Answers in a row that brought no progress.
    pub failures: u32,
    /// Nothing is sent before this time.
    pub retry_at: u64,
    /// How the last frame failed.
    pub last_error: Option<String>,
    /// 409s since the last frame that went beyond all that were accepted before.
    pub conflicts: u32,
    /// The newest position that was ever accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accepted_to: Option<Position>,
    #[serde(skip)]
    pub(super) outstanding: Option<Outstanding>,
    /// When it was sent.
    #[serde(skip)]
    pub(super) sent_at: u64,
}

/// An answer that has not come by then never will: the platform has ended the event that waited for
/// it. In milliseconds.
const LOST_AFTER_MS: u64 = 60_000;

impl Answers {
    /// Whether an answer is still to come.
    pub(super) fn is_awaiting(&self, now: u64) -> bool {
        self.outstanding.is_some() && now < self.sent_at.saturating_add(LOST_AFTER_MS)
    }

    /// A frame was accepted; the consumer now stands at `to`. Only a position beyond all that were
    /// accepted before is progress.
    pub(super) fn accepted(&mut self, to: Option<Position>, now: u64) {
        self.failures = 0;
        if to > self.accepted_to {
            self.conflicts = 0;
            self.accepted_to = to;
        }
        self.retry_at = 0;
        self.last_error = None;
        self.last_seen_at = Some(now);
    }

    /// The sink is at another position. The first time the cursor just moves there; repeated
    /// without progress in between, it is a failure.
    pub(super) fn conflicted(&mut self, now: u64, jitter: f64) {
        self.owed_reset = None;
        self.conflicts = self.conflicts.saturating_add(1);
        if self.conflicts > 1 {
            let message = "the object answered 409 repeatedly without accepting a frame".to_owned();
            self.failed(message, now, jitter);
        } else {
            self.failures = 0;
            self.retry_at = 0;
            self.last_error = None;
            self.last_seen_at = Some(now);
        }
    }

    /// A frame failed.
    pub(super) fn failed(&mut self, message: String, now: u64, jitter: f64) {
        self.failures = self.failures.saturating_add(1);
        self.retry_at = clock::after(now, backoff(self.failures, jitter));
        self.last_error = Some(message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn may_send(answers: &Answers, now: u64) -> bool {
        !answers.is_awaiting(now) && answers.retry_at <= now
    }

    #[test]
    fn one_conflict_is_served_at_once_and_repeated_ones_back_off() {
        let mut answers = Answers::default();
        answers.conflicted(1_000, 1.0);
        assert!(may_send(&answers, 1_000));
        answers.conflicted(1_000, 1.0);
        assert!(!may_send(&answers, 1_499) && may_send(&answers, 1_500));
        answers.conflicted(1_500, 1.0);
        assert!(!may_send(&answers, 2_499) && may_send(&answers, 2_500));
        let at = |id| Some(Position { epoch: 1, id });
        answers.accepted(at(7), 2_500);
        answers.conflicted(2_500, 1.0);
        assert!(may_send(&answers, 2_500));
        // Going back and forth is not progress.
        answers.accepted(at(7), 2_500);
        answers.conflicted(2_500, 1.0);
        assert!(!may_send(&answers, 2_500));
    }
}
