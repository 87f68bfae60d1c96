//! The sink of `GET /changes`: a consumer that takes one page and is removed.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use futures_channel::oneshot;

use super::consumer_state::ConsumerState;
use super::frames::Frame;
use super::sink::Disconnect;
use crate::clients::{FrameError, Position, ResetReason, ServerMessage};
use crate::error::Error;

/// The answer to a request for a page.
#[derive(Clone, Debug)]
pub enum PageAnswer {
    /// A page.
    Page {
        /// The frame that has the changes, which all requests for the same page share; `None` when
        /// there are none.
        frame: Option<Rc<Frame>>,
        /// Where the next page begins.
        next: Position,
        /// The newest change.
        head: Position,
    },
    /// The changes after the position are not available.
    Reset {
        /// Why.
        reason: ResetReason,
        /// Just before the oldest change that is kept.
        oldest: Position,
    },
    /// The request's view is refused.
    Refused(FrameError),
    /// The database cannot be reached.
    Failed(Rc<Error>),
}

/// Hands the answer to the request.
#[derive(Debug)]
pub struct PageSink {
    max_changes: u32,
    answer: RefCell<Option<oneshot::Sender<PageAnswer>>>,
    head: Cell<Option<Position>>,
}

impl PageSink {
    /// A sink for at most `max_changes` changes, and where its answer arrives.
    pub fn new(max_changes: u32) -> (Self, oneshot::Receiver<PageAnswer>) {
        let (sender, receiver) = oneshot::channel();
        let sink = Self {
            max_changes,
            answer: RefCell::new(Some(sender)),
            head: Cell::new(None),
        };
        (sink, receiver)
    }

    /// The most changes that the page may have.
    pub fn max_changes(&self) -> u32 {
        self.max_changes
    }

    /// Answers with the changes of a frame. Always returns false: the request gets one page only.
    pub fn send(&self, frame: &Rc<Frame>) -> bool {
        self.page(Some(Rc::clone(frame)), frame.to);
        false
    }

    /// Answers the request if the message ends it. Returns false once answered.
    pub fn tell(&self, message: &ServerMessage<'_>) -> bool {
        match message {
            ServerMessage::Welcome { head, .. } => {
                self.head.set(Some(*head));
                true
            }
            // Nothing matches up to here. The next page begins after it.
            ServerMessage::CaughtUp { position } | ServerMessage::Progress { position } => {
                self.page(None, *position);
                false
            }
            ServerMessage::Reset { reason, oldest, .. } => {
                self.answer(PageAnswer::Reset {
                    reason: *reason,
                    oldest: *oldest,
                });
                false
            }
            ServerMessage::Warnings { .. } | ServerMessage::Error { .. } => true,
        }
    }

    /// Answers with the refusal.
    pub fn refuse(&self, error: &FrameError) -> bool {
        self.answer(PageAnswer::Refused(error.clone()));
        false
    }

    /// Answers with an error that affects all requests.
    pub fn fail(&self, error: &Rc<Error>) {
        self.answer(PageAnswer::Failed(Rc::clone(error)));
    }

    /// A page is never persisted: an evicted object has lost its request.
    pub fn persist(&self, _state: &ConsumerState) -> bool {
        true
    }

    /// The request ends without an answer.
    pub fn disconnect(&self, _why: Disconnect) {
        self.answer.borrow_mut().take();
    }

    fn page(&self, frame: Option<Rc<Frame>>, next: Position) {
        self.answer(PageAnswer::Page {
            frame,
            next,
            head: self.head.get().unwrap_or(next),
        });
    }

    fn answer(&self, answer: PageAnswer) {
        if let Some(sender) = self.answer.borrow_mut().take() {
            // A request that was cancelled needs no answer.
            let _ = sender.send(answer);
        }
    }
}
