//! A consumer's position, and what is due to it next. Pure.
//!
//! ```text
//!             Welcome               CaughtUp
//!   Starting ---------> CatchingUp ----------> Live
//!      |                  |    ^                | |
//!      |                  |    +----------------+ |
//!      |                  |   window full, or     |
//!      |                  |   no shared budget    |
//!      |                  v                       |
//!      +-----Reset----> Stopped <-----Reset-------+
//!
//!   Starting, CatchingUp, Live --- the filters are refused ---> Refused
//!   any state --- restart: the client subscribes again ---> Starting
//! ```
//!
//! The engine calls [`Cursor::step`] and does what each step says, until changes have to be read or
//! nothing more is due. A consumer that catches up and one that is live both read from the cursor, so
//! the change from one state to the other loses nothing.

use serde::{Deserialize, Serialize};

use super::window::Window;
use crate::clients::{Position, ResetReason, Start};

/// Bytes that a client with `ack=1` may leave unacknowledged.
pub const DEFAULT_WINDOW_BYTES: u64 = 8 << 20;
/// Bytes that a client without `ack=1` is sent over one connection, unless it acknowledges anyway.
/// Then it must connect again, which shows that it has read them: the platform buffers what a
/// client has not read, and does not expose how much.
pub const UNACKNOWLEDGED_BYTES: u64 = 16 << 20;
/// The shortest time between two `progress` frames, in milliseconds.
pub const PROGRESS_INTERVAL_MS: u64 = 1_000;

/// What can be read: the ends of the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The history's epoch.
    pub epoch: i32,
    /// The id of the oldest change that is kept; `head + 1` when none is.
    pub oldest: i64,
    /// The id of the newest change that was stored; 0 when there never was one.
    pub head: i64,
}

impl Extent {
    /// The position of this id in the history.
    pub(super) fn position(self, id: i64) -> Position {
        Position {
            epoch: self.epoch,
            id,
        }
    }

    /// The position just before the oldest change: everything that is kept comes after it.
    pub(super) fn earliest(self) -> Position {
        self.position(self.oldest.saturating_sub(1))
    }

    /// The position of the newest change.
    pub(super) fn newest(self) -> Position {
        self.position(self.head)
    }
}

/// What is due to a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send `welcome` with this position.
    Welcome(Position),
    /// Read changes after `after` and up to `through`, and send those that the consumer may see.
    /// Then call [`Cursor::sent`] for each frame, and [`Cursor::read_through`].
    Read {
        /// The id before the first change.
        after: i64,
        /// The id of the last change.
        through: i64,
        /// The frame's `catchUp`.
        catch_up: bool,
    },
    /// Send `caught_up`.
    CaughtUp(Position),
    /// Send `progress`.
    Progress(Position),
    /// Send `reset`; nothing else is due until the client subscribes again.
    Reset(ResetReason),
    /// Nothing is due until the head moves.
    Wait,
    /// A fresh position is due at this time, in milliseconds.
    WaitUntil(u64),
    /// Nothing is due until the client acknowledges.
    WaitForAck,
    /// Close the connection: the client was sent as much as one that does not acknowledge may be,
    /// and connects again with its position.
    Reconnect,
}

/// The state of one consumer's delivery. Small as JSON: see [`super::ConsumerState`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    #[serde(rename = "s")]
    state: State,
    /// Everything up to here was sent, or is not for the consumer.
    #[serde(rename = "at", default, skip_serializing_if = "Option::is_none")]
    at: Option<Position>,
    /// The newest id that the consumer was sent, in any frame, and when, in milliseconds.
    #[serde(rename = "t")]
    last_sent: (i64, u64),
    #[serde(rename = "w", default, skip_serializing_if = "Option::is_none")]
    window: Option<Window>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum State {
    #[serde(rename = "s")]
    Starting(Start),
    #[serde(rename = "c")]
    CatchingUp,
    #[serde(rename = "l")]
    Live,
    /// A reset was sent.
    #[serde(rename = "x")]
    Stopped,
    /// The subscription that was to begin here was refused.
    #[serde(rename = "r")]
    Refused(Start),
}

/// What limits a consumer that leaves much unacknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// It has said `ack=1`: the server waits for it. Bytes.
    Waits(u64),
    /// It need not acknowledge: it must connect again. Bytes.
    Reconnects(u64),
    /// Each frame is answered before the next one is sent.
    Answered,
}

/// The client acknowledged something that it was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AckError {
    /// The position is of another epoch.
    #[error("position: of another epoch")]
    OtherEpoch,
    /// The position is ahead of what was sent.
    #[error("position: ahead of what was sent")]
    AheadOfSent,
}

/// The client sent `subscribe` without `after` after a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("after: required, since the feed was reset and there is no position to go on from")]
pub struct NoPosition;

impl Cursor {
    /// A consumer that has not been welcomed.
    pub fn new(start: Start, flow: Flow) -> Self {
        Self {
            state: State::Starting(start),
            at: None,
            last_sent: (0, 0),
            window: match flow {
                Flow::Waits(limit) => Some(Window::waiting(limit)),
                Flow::Reconnects(limit) => Some(Window::reconnecting(limit)),
                Flow::Answered => None,
            },
        }
    }

    /// The consumer's position; `None` before it is welcomed and after a reset.
    pub fn position(&self) -> Option<Position> {
        self.at
    }

    /// The position after which the consumer still needs changes; `None` when it needs none before
    /// it subscribes again.
    pub(super) fn needed(&self) -> Option<Position> {
        self.at
            .filter(|_| !matches!(self.state, State::Refused(_) | State::Stopped))
    }

    /// The newest id that the consumer was sent: the `from` of the next frame.
    pub fn last_sent(&self) -> i64 {
        self.last_sent.0
    }

    /// Whether the consumer waits to be welcomed.
    pub(super) fn is_starting(&self) -> bool {
        matches!(self.state, State::Starting(_))
    }

    /// Whether the window has room for another frame.
    pub fn has_room(&self) -> bool {
        !self.window.as_ref().is_some_and(Window::is_full)
    }

    /// Whether the consumer must connect again when it holds too much.
    pub(super) fn must_reconnect(&self) -> bool {
        self.window.as_ref().is_some_and(Window::must_reconnect)
    }

    /// How long nothing has been acknowledged, in milliseconds; 0 when nothing is in flight.
    pub(super) fn idle_ms(&self, now: u64) -> u64 {
        self.window.as_ref().map_or(0, |window| window.idle_ms(now))
    }

    /// The subscription is refused: nothing is due until the client subscribes again.
    pub fn refuse(&mut self) {
        let start = match (self.state, self.at) {
            (State::Starting(start) | State::Refused(start), _) => start,
            (_, Some(at)) => Start::After(self.resumable(at)),
            (State::CatchingUp | State::Live | State::Stopped, None) => return,
        };
        self.state = State::Refused(start);
    }

    /// Whether the consumer has caught up since it last fell behind.
    pub fn is_live(&self) -> bool {
        self.state == State::Live
    }

    /// The bytes that were sent and not acknowledged; `None` if the consumer does not acknowledge.
    pub fn unacknowledged(&self) -> Option<u64> {
        self.window.as_ref().map(Window::bytes)
    }

    /// The client subscribed again. Without a `start` it continues from what it was last sent:
    /// what was skipped since did not match the old subscription, but may match the new one.
    pub fn restart(&mut self, start: Option<Start>) -> Result<(), NoPosition> {
        let start = match (start, self.state, self.at) {
            (Some(start), ..) | (None, State::Starting(start) | State::Refused(start), _) => start,
            (None, State::CatchingUp | State::Live, Some(at)) => Start::After(self.resumable(at)),
            (None, ..) => return Err(NoPosition),
        };
        self.state = State::Starting(start);
        Ok(())
    }

    /// The position that the client knows of.
    fn resumable(&self, at: Position) -> Position {
        Position {
            id: self.last_sent.0.min(at.id),
            ..at
        }
    }

    /// What is due now; `now` in milliseconds. What a step says to send counts as sent.
    pub fn step(&mut self, extent: Extent, now: u64) -> Step {
        let at = match (self.state, self.at) {
            (State::Stopped | State::Refused(_), _) => return Step::Wait,
            (State::Starting(start), _) => return self.welcome(start, extent, now),
            (State::CatchingUp | State::Live, Some(at)) => at,
            (State::CatchingUp | State::Live, None) => {
                return self.stop(ResetReason::EpochChanged);
            }
        };
        match missing(at, extent) {
            Some(ResetReason::TooOld) => return self.stop(ResetReason::SlowConsumer),
            Some(reason) => return self.stop(reason),
            None => {}
        }
        if at.id < extent.head {
            return self.read(at, extent);
        }
        let (last_sent, sent_at) = self.last_sent;
        let due_at = sent_at.saturating_add(PROGRESS_INTERVAL_MS);
        let step = match self.state {
            State::CatchingUp => Step::CaughtUp(at),
            _ if last_sent >= at.id => return Step::Wait,
            _ if now < due_at => return Step::WaitUntil(due_at),
            _ => Step::Progress(at),
        };
        self.state = State::Live;
        self.last_sent = (at.id, now);
        step
    }

    fn read(&mut self, at: Position, extent: Extent) -> Step {
        if let Some(window) = self.window.as_ref().filter(|window| window.is_full()) {
            if window.must_reconnect() {
                return Step::Reconnect;
            }
            self.state = State::CatchingUp;
            return Step::WaitForAck;
        }
        // A consumer without matches is sent fresh positions while it reads on.
        Step::Read {
            after: at.id,
            through: extent.head,
            catch_up: self.state == State::CatchingUp,
        }
    }

    /// The position to send to a consumer that reads on without a match, when one is due. It counts
    /// as sent.
    pub(super) fn progress(&mut self, now: u64) -> Option<Position> {
        let at = self.at?;
        let (last_sent, sent_at) = self.last_sent;
        let is_due = last_sent < at.id && now.saturating_sub(sent_at) >= PROGRESS_INTERVAL_MS;
        if !is_due || !matches!(self.state, State::CatchingUp | State::Live) {
            return None;
        }
        self.last_sent = (at.id, now);
        Some(at)
    }

    /// When a fresh position is due to a consumer that has caught up, in milliseconds; `None` when
    /// it was already sent its position.
    pub(super) fn progress_at(&self) -> Option<u64> {
        let (last_sent, sent_at) = self.last_sent;
        let is_behind = self.at.is_some_and(|at| last_sent < at.id);
        is_behind.then(|| sent_at.saturating_add(PROGRESS_INTERVAL_MS))
    }

    /// The shared budget has no room for the consumer: it waits, and then catches up.
    pub(super) fn fall_behind(&mut self) {
        if self.state == State::Live {
            self.state = State::CatchingUp;
        }
    }

    /// What was sent last and when, for [`Self::unsend`].
    pub(super) fn last_sent_at(&self) -> (i64, u64) {
        self.last_sent
    }

    /// What was sent since did not arrive.
    pub(super) fn unsend(&mut self, last_sent: (i64, u64)) {
        self.last_sent = last_sent;
    }

    /// Whether [`Self::step`] returns [`Step::Wait`] until the head moves: then a cycle without
    /// changes need not check the consumer.
    pub fn is_settled(&self, head: Position) -> bool {
        match (self.state, self.at) {
            (State::Stopped | State::Refused(_), _) => true,
            (State::Live, Some(at)) => at == head && self.last_sent.0 == at.id,
            _ => false,
        }
    }

    /// A frame of `bytes` bytes with changes up to `through` was sent.
    pub fn sent(&mut self, through: i64, bytes: usize, now: u64) {
        self.read_through(through);
        self.last_sent = (through, now);
        if let Some(window) = &mut self.window {
            window.push(through, u64::try_from(bytes).unwrap_or(u64::MAX), now);
        }
    }

    /// Everything up to `through` was read, and what was for the consumer was sent.
    pub fn read_through(&mut self, through: i64) {
        if let Some(at) = &mut self.at {
            at.id = at.id.max(through);
        }
    }

    /// The client has everything up to `position`.
    pub fn acknowledge(&mut self, position: Position, now: u64) -> Result<(), AckError> {
        let error = match self.at {
            Some(at) if at.epoch == position.epoch && position.id <= at.id => {
                if let Some(window) = &mut self.window {
                    window.acknowledge(position.id, now);
                }
                return Ok(());
            }
            Some(at) if at.epoch != position.epoch => AckError::OtherEpoch,
            _ => AckError::AheadOfSent,
        };
        let is_of_earlier = self
            .window
            .as_mut()
            .is_some_and(|window| window.acknowledge_earlier(position, now));
        if is_of_earlier { Ok(()) } else { Err(error) }
    }

    fn welcome(&mut self, start: Start, extent: Extent, now: u64) -> Step {
        let at = match start {
            Start::Now => extent.newest(),
            Start::Earliest => extent.earliest(),
            Start::After(position) => position,
        };
        if let Some(reason) = missing(at, extent) {
            return self.stop(reason);
        }
        self.end_subscription();
        self.state = State::CatchingUp;
        self.at = Some(at);
        self.last_sent = (at.id, now);
        Step::Welcome(at)
    }

    fn stop(&mut self, reason: ResetReason) -> Step {
        self.end_subscription();
        self.state = State::Stopped;
        self.at = None;
        Step::Reset(reason)
    }

    /// In-flight bytes keep counting: subscribing again does not show that they were read.
    fn end_subscription(&mut self) {
        if let (Some(window), Some(at)) = (&mut self.window, self.at) {
            window.end_subscription(at);
        }
    }
}

/// Why the changes after `at` are not available.
pub(super) fn missing(at: Position, extent: Extent) -> Option<ResetReason> {
    if at.epoch != extent.epoch || at.id > extent.head {
        // Ahead of everything that is stored: a position of another history.
        return Some(ResetReason::EpochChanged);
    }
    (at.id.saturating_add(1) < extent.oldest).then_some(ResetReason::TooOld)
}
