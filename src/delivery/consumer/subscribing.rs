//! What the client says, and what its filters mean.

use std::rc::Rc;

use super::{Binding, Consumer, Heard};
use crate::clients::{ClientMessage, FrameError, Position, ServerMessage, Start, View, Views};
use crate::delivery::cursor::NoPosition;
use crate::delivery::reading::Reading;
use crate::delivery::sink::Sink;

impl<S: Sink> Consumer<S> {
    /// Handles a text frame of the client, and answers it when it is refused. `check` may refuse a
    /// view that the client wants.
    pub(in crate::delivery) fn on_message(
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
        if heard == Heard::Subscribed {
            self.persist();
        }
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
        if !self.is_gone.get() && !self.sink.refuse(error) {
            self.leave();
        }
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
        if !self.is_gone.get() && !self.sink.tell(message) {
            self.leave();
        }
    }

    /// The view, when its filters' columns are still to be looked up.
    pub(in crate::delivery) fn unbound(&self) -> Option<Rc<View>> {
        if self.is_gone.get() || self.binding.get() == Binding::Done {
            return None;
        }
        let state = self.state.borrow();
        let view = &state.view;
        view.has_filters().then(|| Rc::clone(view))
    }

    /// Whether its filters were accepted once.
    pub(in crate::delivery) fn was_bound(&self) -> bool {
        self.binding.get() != Binding::Due
    }

    /// A table that the filters name has changed: their columns are looked up before the next
    /// delivery.
    pub(in crate::delivery) fn rebind(&self) {
        if self.binding.get() == Binding::Done {
            self.binding.set(Binding::Stale);
        }
    }

    /// Replaces the view by its bound form, or refuses it. A consumer that was already welcomed is
    /// sent changed warnings.
    pub(in crate::delivery) fn bind(&self, bound: Result<Rc<View>, FrameError>) {
        let was_bound = self.binding.replace(Binding::Done) == Binding::Stale;
        self.reading.set(Reading::default());
        let view = match bound {
            Ok(view) => view,
            Err(error) => {
                self.wait_for_bytes(0);
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
}
