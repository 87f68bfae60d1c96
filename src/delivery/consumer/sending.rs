//! What is due to the consumer, whether it can take it, and what it answers.

use std::rc::Rc;

use super::{Consumer, GroupKey};
use crate::clients::{Position, ResetReason, ServerMessage, Start};
use crate::delivery::answers::{Answer, Answers, Outstanding};
use crate::delivery::consumer_state::ConsumerState;
use crate::delivery::cursor::{Cursor, Extent, Step};
use crate::delivery::sink::{Disconnect, Sink};

impl<S: Sink> Consumer<S> {
    /// When a frame may be sent, in milliseconds, leaving aside the calls of others; `None` while
    /// an answer or the end of a call is awaited, which wakes the engine.
    pub(in crate::delivery) fn sendable_at(&self, now: u64) -> Option<u64> {
        if !self.sink.is_free() {
            return None;
        }
        let state = self.state.borrow();
        match &state.answers {
            None => Some(0),
            Some(answers) if answers.is_awaiting(now) => None,
            Some(answers) => Some(answers.retry_at),
        }
    }

    /// Whether the last frame that was sent has failed.
    pub(in crate::delivery) fn is_failing(&self) -> bool {
        let state = self.state.borrow();
        let answers = state.answers.as_ref();
        answers.is_some_and(|answers| answers.failures > 0)
    }

    fn is_ready(&self, now: u64) -> bool {
        self.sendable_at(now).is_some_and(|at| at <= now) && self.sink.capacity() > 0
    }

    /// Sends everything but changes that is due to this consumer alone, until there are changes to
    /// read or nothing is due.
    pub(in crate::delivery) fn due(&self, extent: Extent, now: u64) -> Option<GroupKey> {
        // Never before the filters are bound, whatever the caller checked.
        while !self.is_gone.get() && self.unbound().is_none() && self.is_ready(now) {
            if let Some(reason) = self.owed_reset() {
                self.send_and_await(&reset(extent, reason), Outstanding::Reset, now);
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
                Step::Progress(position) => self.progress(position, before, now),
                Step::Reset(reason) => {
                    self.wait_for_bytes(0);
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

    fn progress(&self, position: Position, last_sent: (i64, u64), now: u64) {
        let message = ServerMessage::Progress { position };
        if self.sink.answers() {
            self.send_and_await(&message, Outstanding::Progress { last_sent }, now);
        } else {
            self.control(&message);
        }
    }

    fn send_and_await(&self, message: &ServerMessage<'_>, outstanding: Outstanding, now: u64) {
        self.await_answer(outstanding, now);
        self.tell(message);
    }

    fn await_answer(&self, outstanding: Outstanding, now: u64) {
        self.change(|state| {
            if let Some(answers) = &mut state.answers {
                answers.outstanding = Some(outstanding);
                answers.sent_at = now;
            }
        });
    }

    fn welcome(&self, extent: Extent, position: Position) {
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
            oldest: extent.earliest(),
            head: extent.newest(),
            position,
            warnings: &warnings,
        });
    }

    /// Sends one frame of changes up to `to`. False when the consumer is not able to take it: it is
    /// gone, its window is full, it has not answered yet, or the budget has no room.
    pub(in crate::delivery) fn send(
        &self,
        encoded: &S::Encoded,
        to: i64,
        bytes: usize,
        now: u64,
    ) -> bool {
        if self.is_gone.get() || !self.is_ready(now) || !self.has_room(bytes) {
            return false;
        }
        if self.sink.answers() {
            self.await_answer(Outstanding::Changes { to, bytes }, now);
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
    pub(in crate::delivery) fn waits_for_bytes(&self) -> Option<u64> {
        let bytes = self.refused_bytes.get();
        if bytes == 0 || self.is_gone.get() {
            return None;
        }
        let sent = self.state.borrow().cursor.unacknowledged();
        let has_room = self.budget.allows(sent.unwrap_or_default(), bytes);
        (!has_room).then_some(bytes)
    }

    /// Its part of the shared budget, and how long it has acknowledged nothing.
    pub(in crate::delivery) fn share(&self, now: u64) -> (u64, u64) {
        (self.share.get(), self.state.borrow().cursor.idle_ms(now))
    }

    /// Ends the connection.
    pub(in crate::delivery) fn disconnect(&self, why: Disconnect) {
        self.sink.disconnect(why);
        self.leave();
    }

    /// Everything up to `through` was read, and what was for the consumer was sent. Sends a fresh
    /// position when one is due.
    pub(in crate::delivery) fn read_through(&self, through: i64, now: u64) {
        let progress = self.change(|state| {
            state.cursor.read_through(through);
            let is_answered = state.answers.is_some();
            (!is_answered).then(|| state.cursor.progress(now)).flatten()
        });
        if let Some(position) = progress {
            self.tell(&ServerMessage::Progress { position });
        }
    }

    /// Handles the answer to what was sent.
    pub(in crate::delivery) fn answer(&self, answer: Answer, now: u64, jitter: f64) {
        if matches!(answer, Answer::Gone) {
            // Its registration is removed, so nothing is persisted.
            return self.leave();
        }
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
    }
}

fn reset(extent: Extent, reason: ResetReason) -> ServerMessage<'static> {
    ServerMessage::Reset {
        reason,
        oldest: extent.earliest(),
        head: extent.newest(),
    }
}

fn accept(cursor: &mut Cursor, answers: &mut Answers, outstanding: Outstanding, now: u64) {
    match outstanding {
        Outstanding::Changes { to, bytes } => cursor.sent(to, bytes, now),
        Outstanding::Progress { .. } => {}
        Outstanding::Reset => answers.owed_reset = None,
    }
    answers.accepted(cursor.position(), now);
}
