//! One consumer while the object lives: its sink, its view and its cursor.

mod sending;
mod subscribing;

use std::cell::{Cell, Ref, RefCell};
use std::rc::Rc;

use super::budget::{Budget, share_of};
use super::consumer_state::ConsumerState;
use super::reading::Reading;
use super::sink::Sink;
use crate::clients::{Position, SubscribeRate, Views};

/// A consumer. Its methods never await, so that the engine and a message of the client never
/// interleave in the middle of one.
#[derive(Debug)]
pub struct Consumer<S> {
    sink: S,
    is_gone: Cell<bool>,
    state: RefCell<ConsumerState>,
    is_persisted: Cell<bool>,
    binding: Cell<Binding>,
    reading: Cell<Reading>,
    /// Its part of the shared budget.
    share: Cell<u64>,
    budget: Rc<Budget>,
    /// Bytes of a frame that the budget had no room for.
    refused_bytes: Cell<u64>,
    rate: Cell<SubscribeRate>,
    /// When it was last sent a frame, as a number that grows with each frame of any consumer.
    turn: Cell<u64>,
}

/// Whether the filters' columns have been looked up in the catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Binding {
    /// Not yet; until then it gets no welcome.
    Due,
    /// Yes, but a table has changed since.
    Stale,
    Done,
}

/// What a message of the client changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Nothing that delivery needs to know.
    Nothing,
    /// There may be room for more.
    Acknowledged,
    /// The subscription was replaced.
    Subscribed,
}

/// What a consumer is due, as far as it can share it with others: all with the same key get the
/// same frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct GroupKey {
    /// Reading continues after this id.
    pub(super) after: i64,
    /// The frame's `from`.
    pub(super) last_sent: i64,
    pub(super) catch_up: bool,
    /// The address of the view that all of them share.
    view: usize,
    /// The most changes that one frame may have.
    max_changes: Option<u32>,
}

impl<S: Sink> Consumer<S> {
    /// A consumer that has just connected, registered or been restored.
    pub(super) fn new(
        sink: S,
        mut state: ConsumerState,
        views: &Views,
        budget: Rc<Budget>,
    ) -> Self {
        state.view = views.shared(state.view);
        // The view of a consumer that waits to be welcomed is looked up first. What happened to the
        // tables while the object was evicted is not known.
        let binding = if state.cursor.is_starting() {
            Binding::Due
        } else {
            Binding::Stale
        };
        let consumer = Self {
            sink,
            is_gone: Cell::new(false),
            state: RefCell::new(state),
            is_persisted: Cell::new(false),
            binding: Cell::new(binding),
            reading: Cell::default(),
            share: Cell::new(0),
            budget,
            refused_bytes: Cell::new(0),
            rate: Cell::default(),
            turn: Cell::new(0),
        };
        consumer.update_share();
        consumer
    }

    /// Where the consumer's frames go.
    pub fn sink(&self) -> &S {
        &self.sink
    }

    /// The consumer's state. Must not be held across an await.
    pub fn state(&self) -> Ref<'_, ConsumerState> {
        self.state.borrow()
    }

    /// Unique among the object's consumers.
    pub fn number(&self) -> u64 {
        self.state.borrow().number
    }

    /// The state was just loaded, so it need not be persisted.
    pub fn mark_persisted(&self) {
        self.is_persisted.set(true);
    }

    /// Persists what has changed. What was sent may be persisted late, since it is then sent again;
    /// but where the consumer was welcomed and what it asked for must be persisted before the next
    /// await.
    pub fn persist(&self) {
        if !self.is_persisted() {
            let is_persisted = self.sink.persist(&self.state.borrow());
            self.is_persisted.set(is_persisted);
        }
    }

    /// Whether [`Self::persist`] has nothing to do.
    pub fn is_persisted(&self) -> bool {
        self.is_persisted.get() || self.is_gone.get()
    }

    /// Whether the consumer can be sent nothing more.
    pub fn is_gone(&self) -> bool {
        self.is_gone.get()
    }

    /// The connection or the registration has ended.
    pub fn leave(&self) {
        self.is_gone.set(true);
        self.wait_for_bytes(0);
        self.update_share();
    }

    /// The budget refused a frame of this many bytes; 0: the consumer no longer waits.
    fn wait_for_bytes(&self, bytes: u64) {
        let before = self.refused_bytes.replace(bytes);
        if before != bytes {
            self.budget.update_waiting(before > 0, bytes > 0);
        }
    }

    /// The registration lasts until `expires_at`, in milliseconds since 1970.
    pub fn extend(&self, expires_at: u64) {
        self.change(|state| state.expires_at = Some(expires_at));
    }

    /// Whether nothing is due until the head moves.
    pub fn is_settled(&self, head: Position) -> bool {
        if self.is_gone.get() {
            return true;
        }
        let state = self.state.borrow();
        let owes_reset = state
            .answers
            .as_ref()
            .is_some_and(|answers| answers.owed_reset.is_some());
        !owes_reset && state.cursor.is_settled(head)
    }

    /// How much to read, and when.
    pub(super) fn reading(&self) -> Reading {
        self.reading.get()
    }

    pub(super) fn set_reading(&self, reading: Reading) {
        self.reading.set(reading);
    }

    /// Whether the consumer's ticket or registration has expired.
    pub(super) fn has_expired(&self, now: u64) -> bool {
        let expires_at = self.state.borrow().expires_at;
        !self.is_gone.get() && expires_at.is_some_and(|at| at <= now)
    }

    /// When it was last sent a frame.
    pub(super) fn turn(&self) -> u64 {
        self.turn.get()
    }

    pub(super) fn set_turn(&self, turn: u64) {
        self.turn.set(turn);
    }

    fn update_share(&self) {
        let unacknowledged = self.state.borrow().cursor.unacknowledged();
        let share = match unacknowledged {
            Some(bytes) if !self.is_gone.get() => share_of(bytes),
            _ => 0,
        };
        let before = self.share.replace(share);
        if before != share {
            self.budget.update(before, share);
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut ConsumerState) -> T) -> T {
        self.is_persisted.set(false);
        change(&mut self.state.borrow_mut())
    }
}

impl<S> Drop for Consumer<S> {
    fn drop(&mut self) {
        self.budget.update(self.share.get(), 0);
        self.budget
            .update_waiting(self.refused_bytes.get() > 0, false);
    }
}
