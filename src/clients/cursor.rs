//! Where a client stands, and what is due to it next.
//!
//! ```text
//!             Welcome                CaughtUp
//!   Starting --------> CatchingUp ------------> Live --+ Read, Progress
//!      ^  |               |  ^  ^                 |    |
//!      |  | Reset    Read |  |  | window full     +----+
//!      |  |               +--+  +-----------------+
//!      |  v                 |                     |
//!      | Stopped <----------+--- Reset -----------+
//!      +----+
//!   restart (the client subscribes again)
//! ```
//!
//! The pump calls [`Cursor::step`] until it says [`Step::Wait`] or [`Step::WaitForAck`], and does
//! what each step says. Live is catch-up that has caught up: both read on from the cursor, so there
//! is no hand-off between them.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::client_message::Start;
use super::position::Position;
use super::server_message::ResetReason;

/// Bytes that a client with `ack=1` may leave unacknowledged, unless configured otherwise.
pub const DEFAULT_WINDOW_BYTES: u64 = 8 << 20;
/// Bytes that a client without `ack=1` is sent over one connection, unless it acknowledges all the
/// same: then it must come back, which says that it has read them. The platform holds what a client
/// does not read, and does not say how much that is.
pub const UNACKNOWLEDGED_BYTES: u64 = 16 << 20;
/// How long a client whose filter matches nothing is left without a fresh position, in milliseconds.
pub const PROGRESS_INTERVAL_MS: u64 = 1_000;
/// Frames in flight that are remembered one by one; the cursor must fit an attachment.
const MAX_IN_FLIGHT: usize = 32;

/// What there is to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feed {
    /// The history's epoch.
    pub epoch: i32,
    /// The id of the oldest change that is kept; `head + 1` when none is.
    pub oldest: i64,
    /// The id of the newest change that was stored; 0 when there never was one.
    pub head: i64,
}

/// What is due to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send `welcome`: the client stands here.
    Welcome(Position),
    /// Read changes after `after` and up to `through`, and send those that are for the client; then
    /// say [`Cursor::sent`] for each frame, and [`Cursor::read_through`].
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
    /// Nothing is due until the client acknowledges.
    WaitForAck,
    /// Close the connection: the client has been sent as much as one that does not acknowledge may
    /// be, and comes back with its position.
    ComeBack,
}

/// The state of one client's delivery. Small as JSON: see [`super::Attachment`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    #[serde(rename = "s")]
    state: State,
    /// Everything up to here was sent or was not for the client.
    #[serde(rename = "at", default, skip_serializing_if = "Option::is_none")]
    at: Option<Position>,
    /// The newest id that the client has heard of, and when, in milliseconds.
    #[serde(rename = "t")]
    told: (i64, u64),
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
    #[serde(rename = "x")]
    Stopped,
}

/// What becomes of a client that leaves too much unacknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// It has said `ack=1`: it is waited for. Bytes.
    Waits(u64),
    /// It need not acknowledge: it must come back. Bytes.
    ComesBack(u64),
    /// What it was sent it has taken: each callback of a Sync Durable Object is answered.
    Answered,
}

/// What a client has not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Window {
    #[serde(rename = "l")]
    limit: u64,
    /// It need not acknowledge.
    #[serde(rename = "b", default, skip_serializing_if = "std::ops::Not::not")]
    comes_back: bool,
    /// The last id of each frame, and its bytes; oldest first.
    #[serde(rename = "f")]
    in_flight: VecDeque<(i64, u64)>,
}

/// An acknowledgement of something that the client was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AckError {
    /// The position is of another epoch.
    #[error("position: of another epoch")]
    OtherEpoch,
    /// The position is ahead of what was sent.
    #[error("position: ahead of what was sent")]
    AheadOfSent,
}

/// The client said `subscribe` without `after`, and there is no place to go on from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("after: needed once more, since the feed was reset")]
pub struct NoPosition;

impl Cursor {
    /// A client that is not yet welcome.
    pub fn new(start: Start, flow: Flow) -> Self {
        let window = |limit, comes_back| Window {
            limit,
            comes_back,
            in_flight: VecDeque::new(),
        };
        Self {
            state: State::Starting(start),
            at: None,
            told: (0, 0),
            window: match flow {
                Flow::Waits(limit) => Some(window(limit, false)),
                Flow::ComesBack(limit) => Some(window(limit, true)),
                Flow::Answered => None,
            },
        }
    }

    /// Where the client stands; `None` before it is welcome.
    pub fn position(&self) -> Option<Position> {
        self.at
    }

    /// The newest id that the client has heard of: the `from` of the next frame.
    pub fn told(&self) -> i64 {
        self.told.0
    }

    /// Whether the client may be sent another frame before it acknowledges.
    pub fn has_room(&self) -> bool {
        !self.window.as_ref().is_some_and(Window::is_full)
    }

    /// What the client asked for cannot be: nothing is due until it subscribes again.
    pub fn refuse(&mut self) {
        self.state = State::Stopped;
    }

    /// Whether the client has caught up since it last fell behind.
    pub fn is_live(&self) -> bool {
        self.state == State::Live
    }

    /// The bytes that were sent and not acknowledged; `None` where there is nothing to acknowledge.
    pub fn unacknowledged(&self) -> Option<u64> {
        self.window.as_ref().map(Window::bytes)
    }

    /// The client subscribed again. Without a `start` it goes on where it stands.
    pub fn restart(&mut self, start: Option<Start>) -> Result<(), NoPosition> {
        let start = match (start, self.state, self.at) {
            (Some(start), ..) => {
                if let Some(window) = &mut self.window {
                    window.begin_anew();
                }
                start
            }
            (None, State::Starting(start), _) => start,
            (None, State::CatchingUp | State::Live, Some(at)) => Start::After(at),
            (None, ..) => return Err(NoPosition),
        };
        self.state = State::Starting(start);
        Ok(())
    }

    /// What is due now; `now` in milliseconds. What a step says to send counts as sent.
    pub fn step(&mut self, feed: Feed, now: u64) -> Step {
        let at = match (self.state, self.at) {
            (State::Stopped, _) => return Step::Wait,
            (State::Starting(start), _) => return self.welcome(start, feed, now),
            (State::CatchingUp | State::Live, Some(at)) => at,
            (State::CatchingUp | State::Live, None) => {
                return self.stop(ResetReason::EpochChanged);
            }
        };
        match missing(at, feed) {
            Some(ResetReason::TooOld) => return self.stop(ResetReason::SlowConsumer),
            Some(reason) => return self.stop(reason),
            None => {}
        }
        if at.id < feed.head {
            if let Some(window) = self.window.as_ref().filter(|it| it.is_full()) {
                if window.comes_back {
                    return Step::ComeBack;
                }
                self.state = State::CatchingUp;
                return Step::WaitForAck;
            }
            return Step::Read {
                after: at.id,
                through: feed.head,
                catch_up: self.state == State::CatchingUp,
            };
        }
        let (told, told_at) = self.told;
        let is_due = told < at.id && now.saturating_sub(told_at) >= PROGRESS_INTERVAL_MS;
        let step = match self.state {
            State::CatchingUp => Step::CaughtUp(at),
            _ if is_due => Step::Progress(at),
            _ => return Step::Wait,
        };
        self.state = State::Live;
        self.told = (at.id, now);
        step
    }

    /// Whether [`Self::step`] says [`Step::Wait`] now and until the head moves: a client that a
    /// cycle without changes need not look at.
    pub fn is_settled(&self, head: Position) -> bool {
        match (self.state, self.at) {
            (State::Stopped, _) => true,
            (State::Live, Some(at)) => at == head && self.told.0 == at.id,
            _ => false,
        }
    }

    /// A frame of `bytes` bytes with changes up to `through` was sent.
    pub fn sent(&mut self, through: i64, bytes: usize, now: u64) {
        self.read_through(through);
        self.told = (through, now);
        if let Some(window) = &mut self.window {
            window.push(through, u64::try_from(bytes).unwrap_or(u64::MAX));
        }
    }

    /// Everything up to `through` was read, and what was for the client was sent.
    pub fn read_through(&mut self, through: i64) {
        if let Some(at) = &mut self.at {
            at.id = at.id.max(through);
        }
    }

    /// The client has everything up to `position`.
    pub fn acknowledge(&mut self, position: Position) -> Result<(), AckError> {
        match self.at {
            Some(at) if at.epoch != position.epoch => return Err(AckError::OtherEpoch),
            Some(at) if at.id < position.id => return Err(AckError::AheadOfSent),
            Some(_) => {}
            None => return Err(AckError::AheadOfSent),
        }
        if let Some(window) = &mut self.window {
            window.acknowledge(position.id);
        }
        Ok(())
    }

    fn welcome(&mut self, start: Start, feed: Feed, now: u64) -> Step {
        let here = |id| Position {
            epoch: feed.epoch,
            id,
        };
        let at = match start {
            Start::Now => here(feed.head),
            Start::Earliest => here(feed.oldest.saturating_sub(1)),
            Start::After(position) => position,
        };
        if let Some(reason) = missing(at, feed) {
            return self.stop(reason);
        }
        self.state = State::CatchingUp;
        self.at = Some(at);
        self.told = (at.id, now);
        Step::Welcome(at)
    }

    fn stop(&mut self, reason: ResetReason) -> Step {
        self.state = State::Stopped;
        self.at = None;
        if let Some(window) = &mut self.window {
            window.begin_anew();
        }
        Step::Reset(reason)
    }
}

/// Why changes after `at` cannot be had.
fn missing(at: Position, feed: Feed) -> Option<ResetReason> {
    if at.epoch != feed.epoch || at.id > feed.head {
        // Ahead of everything that is stored: a position of another history.
        return Some(ResetReason::EpochChanged);
    }
    (at.id.saturating_add(1) < feed.oldest).then_some(ResetReason::TooOld)
}

impl Window {
    fn bytes(&self) -> u64 {
        let bytes = self.in_flight.iter().map(|(_, bytes)| bytes);
        bytes.fold(0, |sum, bytes| sum.saturating_add(*bytes))
    }

    fn is_full(&self) -> bool {
        self.bytes() > self.limit
    }

    /// The acknowledgements to come are of another order of ids. But who does not acknowledge has
    /// not said that it has read anything.
    fn begin_anew(&mut self) {
        if !self.comes_back {
            self.in_flight.clear();
        }
    }

    fn push(&mut self, through: i64, bytes: u64) {
        // The newest two become one: it counts until its last change is acknowledged, so that the
        // window is never larger than was asked for.
        let max_in_flight = if self.comes_back { 1 } else { MAX_IN_FLIGHT };
        let merged = (self.in_flight.len() >= max_in_flight)
            .then(|| self.in_flight.pop_back())
            .flatten()
            .map_or(0, |(_, bytes)| bytes);
        self.in_flight
            .push_back((through, merged.saturating_add(bytes)));
    }

    fn acknowledge(&mut self, through: i64) {
        while self.in_flight.front().is_some_and(|(id, _)| *id <= through) {
            self.in_flight.pop_front();
        }
    }
}
