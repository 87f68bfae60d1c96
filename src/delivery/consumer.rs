//! One consumer while the object lives: its sink, its view and its cursor.

use std::cell::{Cell, Ref, RefCell};
use std::rc::Rc;

use super::answers::{Answer, Answers, Outstanding};
use super::budget::{Budget, share_of};
use super::consumer_state::ConsumerState;
use super::cursor::{Cursor, Extent, NoPosition, Step};
use super::reading::Reading;
use super::sink::{Disconnect, Sink};
use crate::clients::{
    ClientMessage, FrameError, Position, ResetReason, ServerMessage, Start, SubscribeRate, View,
    Views,
};

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
    /// Not yet: the consumer is not welcome before.
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
    /// The subscription is another one.
    Subscribed,
}

/// What a consumer is due, as far as it can share it with others: all with the same key get the
/// same frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct GroupKey {
    /// Reading goes on after this id.
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
    /// A consumer that has just come.
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

    /// The way out.
    pub fn sink(&self) -> &S {
        &self.sink
    }

    /// What is known of the consumer. Not to be held over an await.
    pub fn state(&self) -> Ref<'_, ConsumerState> {
        self.state.borrow()
    }

    /// Tells this consumer from all others of the object.
    pub fn number(&self) -> u64 {
        self.state.borrow().number
    }

    /// What was persisted is what is known: it was read from there.
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

    /// The budget has refused a frame of this many bytes; 0: the consumer waits no longer.
    fn wait_for_bytes(&self, bytes: u64) {
        let before = self.refused_bytes.replace(bytes);
        self.budget.update_waiting(before > 0, bytes > 0);
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

    // What the client says.

    /// Handles a text frame of the client, and answers it when it is refused. `check` may refuse a
    /// view that the client wants.
    pub(super) fn on_message(
        &self,
        text: &str,
        views: &Views,
        now: u64,
        check: impl FnOnce(&View) -> Result<(), FrameError>,
    ) -> Heard {
        let heard = match ClientMessage::parse(text) {
            Ok(ClientMessage::Ack(position)) => self.acknowledge(position, now),
            Ok(ClientMessage::Subscribe { wanted, start }) => {
                let view = self.state.borrow().view.resubscribe(wanted);
                let admitted = view.and_then(|view| {
                    self.admit_subscribe(now)?;
                    check(&view)?;
                    Ok(views.shared(Rc::new(view)))
                });
                match admitted {
                    Ok(view) => self.subscribe(view, start),
                    Err(error) => self.refuse(&error),
                }
            }
            Err(error) => self.refuse(&error),
        };
        self.persist();
        heard
    }

    fn acknowledge(&self, position: Position, now: u64) -> Heard {
        match self.change(|state| state.cursor.acknowledge(position, now)) {
            Ok(()) => {
                self.update_share();
                Heard::Acknowledged
            }
            Err(error) => self.refuse_position(&error.to_string()),
        }
    }

    fn admit_subscribe(&self, now: u64) -> Result<(), FrameError> {
        let mut rate = self.rate.get();
        let admitted = rate.admit(now);
        self.rate.set(rate);
        if admitted {
            Ok(())
        } else {
            Err(FrameError::RateLimited)
        }
    }

    fn subscribe(&self, view: Rc<View>, start: Option<Start>) -> Heard {
        let restarted = self.change(|state| {
            state.cursor.restart(start)?;
            state.view = view;
            Ok::<(), NoPosition>(())
        });
        match restarted {
            Ok(()) => {
                self.binding.set(Binding::Due);
                self.reading.set(Reading::default());
                self.wait_for_bytes(0);
                Heard::Subscribed
            }
            Err(error) => self.refuse_position(&error.to_string()),
        }
    }

    /// Tells the client why something that it sent is refused.
    pub fn refuse(&self, error: &FrameError) -> Heard {
        let is_sent = !self.is_gone.get() && self.sink.refuse(error);
        self.is_gone.set(!is_sent);
        Heard::Nothing
    }

    fn refuse_position(&self, message: &str) -> Heard {
        self.tell(&ServerMessage::Error {
            code: "bad_position",
            message,
            retryable: false,
        });
        Heard::Nothing
    }

    /// Sends one message to this consumer alone.
    pub fn tell(&self, message: &ServerMessage<'_>) {
        let is_sent = !self.is_gone.get() && self.sink.tell(message);
        self.is_gone.set(!is_sent);
    }

    // Binding the view.

    /// The view, when its filters' columns are still to be looked up.
    pub(super) fn unbound(&self) -> Option<Rc<View>> {
        if self.is_gone.get() || self.binding.get() == Binding::Done {
            return None;
        }
        let state = self.state.borrow();
        let view = &state.view;
        view.has_filters().then(|| Rc::clone(view))
    }

    /// Whether its filters were accepted once.
    pub(super) fn was_bound(&self) -> bool {
        self.binding.get() != Binding::Due
    }

    /// A table that the filters name has changed: their columns are looked up before the next
    /// delivery.
    pub(super) fn rebind(&self) {
        if self.binding.get() == Binding::Done {
            self.binding.set(Binding::Stale);
        }
    }

    /// Adopts the view with what the catalogue says of it, or refuses it. A consumer that was
    /// welcomed before is told how its warnings have changed.
    pub(super) fn bind(&self, bound: Result<Rc<View>, FrameError>) {
        let was_bound = self.binding.replace(Binding::Done) == Binding::Stale;
        self.reading.set(Reading::default());
        let view = match bound {
            Ok(view) => view,
            Err(error) => {
                self.change(|state| {
                    state.cursor.refuse();
                    if let Some(answers) = &mut state.answers {
                        answers.last_error = Some(error.to_string());
                    }
                });
                self.refuse(&error);
                return self.persist();
            }
        };
        let before = Rc::clone(&self.state.borrow().view);
        if view == before {
            return;
        }
        let (warnings, before) = (view.warnings(), before.warnings());
        self.change(|state| state.view = view);
        if was_bound && warnings != before {
            let warnings = &warnings;
            self.tell(&ServerMessage::Warnings { warnings });
        }
    }

    // Sending.

    /// Whether a frame may be sent now, but for the calls of others.
    pub(super) fn may_be_sent(&self, now: u64) -> bool {
        let state = self.state.borrow();
        let answers = state.answers.as_ref();
        answers.is_none_or(|answers| answers.may_send(now)) && self.sink.is_free()
    }

    fn is_ready(&self, now: u64) -> bool {
        self.may_be_sent(now) && self.sink.capacity() > 0
    }

    /// Sends everything but changes that is due to this consumer alone, until there are changes to
    /// read or nothing is due.
    pub(super) fn due(&self, extent: Extent, now: u64) -> Option<GroupKey> {
        // Never before the filters are known, whichever way led here.
        while !self.is_gone.get() && self.unbound().is_none() && self.is_ready(now) {
            if let Some(reason) = self.owed_reset() {
                self.send_and_await(&reset(extent, reason), Outstanding::Reset);
                break;
            }
            let (step, before) = {
                let cursor = &mut self.state.borrow_mut().cursor;
                let before = cursor.last_sent_at();
                (cursor.step(extent, now), before)
            };
            match step {
                Step::Wait | Step::WaitUntil(_) | Step::WaitForAck => break,
                Step::Reconnect => {
                    self.disconnect(Disconnect::Unacknowledged);
                    break;
                }
                Step::Read {
                    after, catch_up, ..
                } => return self.group(after, catch_up),
                Step::Welcome(position) => self.welcome(extent, position),
                Step::CaughtUp(position) => self.control(&ServerMessage::CaughtUp { position }),
                Step::Progress(position) => self.progress(position, before),
                Step::Reset(reason) => {
                    self.change(|state| {
                        if let Some(answers) = &mut state.answers {
                            answers.owed_reset = Some(reason);
                        }
                    });
                    if self.sink.answers() {
                        self.persist();
                    } else {
                        self.control(&reset(extent, reason));
                    }
                }
            }
        }
        None
    }

    fn group(&self, after: i64, catch_up: bool) -> Option<GroupKey> {
        let has_budget = self.waits_for_bytes().is_none();
        let state = self.state.borrow();
        has_budget.then(|| GroupKey {
            after,
            last_sent: state.cursor.last_sent(),
            catch_up,
            view: Rc::as_ptr(&state.view).addr(),
            max_changes: self.sink.max_changes(),
        })
    }

    fn owed_reset(&self) -> Option<ResetReason> {
        let state = self.state.borrow();
        state.answers.as_ref().and_then(|known| known.owed_reset)
    }

    fn control(&self, message: &ServerMessage<'_>) {
        self.is_persisted.set(false);
        // A sink that answers is only sent what it must answer.
        if !self.sink.answers() {
            self.tell(message);
        }
    }

    fn progress(&self, position: Position, last_sent: (i64, u64)) {
        let message = ServerMessage::Progress { position };
        if self.sink.answers() {
            self.send_and_await(&message, Outstanding::Progress { last_sent });
        } else {
            self.control(&message);
        }
    }

    fn send_and_await(&self, message: &ServerMessage<'_>, outstanding: Outstanding) {
        self.await_answer(outstanding);
        self.tell(message);
    }

    fn await_answer(&self, outstanding: Outstanding) {
        self.change(|state| {
            if let Some(answers) = &mut state.answers {
                answers.outstanding = Some(outstanding);
            }
        });
    }

    fn welcome(&self, extent: Extent, position: Position) {
        let here = |id| Position {
            epoch: extent.epoch,
            id,
        };
        self.update_share();
        self.is_persisted.set(false);
        self.persist();
        if self.sink.answers() {
            return;
        }
        let (client, warnings) = {
            let state = self.state.borrow();
            (state.client.clone(), state.view.warnings())
        };
        self.tell(&ServerMessage::Welcome {
            client_id: &client,
            epoch: extent.epoch,
            oldest: here(extent.oldest.saturating_sub(1)),
            head: here(extent.head),
            position,
            warnings: &warnings,
        });
    }

    /// Sends one frame of changes up to `to`. False when the consumer is not able to take it: it is
    /// gone, its window is full, it is still to answer, or the budget has no room.
    pub(super) fn send(&self, encoded: &S::Encoded, to: i64, bytes: usize, now: u64) -> bool {
        if self.is_gone.get() || !self.is_ready(now) || !self.has_room(bytes) {
            return false;
        }
        if self.sink.answers() {
            self.await_answer(Outstanding::Changes { to, bytes });
        } else {
            self.change(|state| state.cursor.sent(to, bytes, now));
        }
        if !self.sink.send(encoded) {
            self.leave();
            return false;
        }
        self.update_share();
        true
    }

    fn has_room(&self, bytes: usize) -> bool {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let (has_room, unacknowledged) = {
            let cursor = &self.state.borrow().cursor;
            (cursor.has_room(), cursor.unacknowledged())
        };
        if !has_room {
            return false;
        }
        if unacknowledged.is_none_or(|sent| self.budget.allows(sent, bytes)) {
            self.wait_for_bytes(0);
            return true;
        }
        self.wait_for_bytes(bytes.max(1));
        self.change(|state| state.cursor.fall_behind());
        if self.must_reconnect() && unacknowledged.is_some_and(|sent| sent > 0) {
            self.disconnect(Disconnect::Unacknowledged);
        }
        false
    }

    fn must_reconnect(&self) -> bool {
        self.state.borrow().cursor.must_reconnect()
    }

    /// Bytes of a frame that the budget still has no room for.
    pub(super) fn waits_for_bytes(&self) -> Option<u64> {
        let bytes = self.refused_bytes.get();
        if bytes == 0 || self.is_gone.get() {
            return None;
        }
        let sent = self.state.borrow().cursor.unacknowledged();
        let has_room = self.budget.allows(sent.unwrap_or_default(), bytes);
        (!has_room).then_some(bytes)
    }

    /// Its part of the shared budget, and how long it has acknowledged nothing.
    pub(super) fn share(&self, now: u64) -> (u64, u64) {
        (self.share.get(), self.state.borrow().cursor.idle_ms(now))
    }

    /// Ends the connection.
    pub(super) fn disconnect(&self, why: Disconnect) {
        self.sink.disconnect(why);
        self.leave();
    }

    /// Everything up to `through` was read, and what was for the consumer was sent. Sends a fresh
    /// position when one is due.
    pub(super) fn read_through(&self, through: i64, now: u64) {
        let progress = self.change(|state| {
            state.cursor.read_through(through);
            let is_answered = state.answers.is_some();
            (!is_answered).then(|| state.cursor.progress(now)).flatten()
        });
        if let Some(position) = progress {
            self.tell(&ServerMessage::Progress { position });
        }
    }

    // Answers.

    /// Handles the answer to what was sent. False when the registration has ended.
    pub(super) fn answer(&self, answer: Answer, now: u64, jitter: f64) -> bool {
        self.change(|state| {
            let ConsumerState {
                cursor, answers, ..
            } = state;
            let Some(answers) = answers else { return };
            let Some(outstanding) = answers.outstanding.take() else {
                return;
            };
            match answer {
                Answer::Gone => {}
                Answer::Accepted => {
                    accept(cursor, answers, outstanding, now);
                }
                Answer::StandsAt(position) => {
                    // Cannot fail with a start.
                    let _ = cursor.restart(Some(Start::After(position)));
                    answers.conflicted(now, jitter);
                }
                Answer::Failed(error) => {
                    if let Outstanding::Progress { last_sent } = outstanding {
                        cursor.unsend(last_sent);
                    }
                    answers.failed(error.to_string(), now, jitter);
                }
            }
        });
        self.persist();
        !self.is_gone.get()
    }

    // Reading.

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
        let share = if self.is_gone.get() {
            0
        } else {
            share_of(
                self.state
                    .borrow()
                    .cursor
                    .unacknowledged()
                    .unwrap_or_default(),
            )
        };
        self.budget.update(self.share.replace(share), share);
    }

    fn change<T>(&self, change: impl FnOnce(&mut ConsumerState) -> T) -> T {
        self.is_persisted.set(false);
        change(&mut self.state.borrow_mut())
    }
}

fn reset(extent: Extent, reason: ResetReason) -> ServerMessage<'static> {
    let here = |id| Position {
        epoch: extent.epoch,
        id,
    };
    ServerMessage::Reset {
        reason,
        oldest: here(extent.oldest.saturating_sub(1)),
        head: here(extent.head),
    }
}

fn accept(cursor: &mut Cursor, answers: &mut Answers, outstanding: Outstanding, now: u64) {
    match outstanding {
        Outstanding::Changes { to, bytes } => cursor.sent(to, bytes, now),
        Outstanding::Progress { .. } => {}
        Outstanding::Reset => answers.owed_reset = None,
    }
    answers.accepted(now);
}

impl<S> Drop for Consumer<S> {
    fn drop(&mut self) {
        self.budget.update(self.share.get(), 0);
        self.budget
            .update_waiting(self.refused_bytes.get() > 0, false);
    }
}
