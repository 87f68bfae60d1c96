//! One client while the object lives: its way out, its view and its cursor.

use std::cell::{Cell, Ref, RefCell};
use std::rc::Rc;

use super::attachment::Attachment;
use super::client_message::ClientMessage;
use super::cursor::{Cursor, Feed, Step};
use super::position::Position;
use super::server_message::ServerMessage;
use super::subscription::View;
use super::views::Views;
use crate::history::{MAX_PAGE_CHANGES, Page};

/// The way out to a client.
pub trait Outlet {
    /// A frame as the platform sends it: made once for all clients that get it.
    type Text;

    /// Makes the platform's form of a frame.
    fn text(frame: &str) -> Self::Text;

    /// Hands a frame to the platform. False when the client is gone.
    fn send(&self, text: &Self::Text) -> bool;

    /// Keeps what is known of the client over the object's eviction. False when it cannot.
    fn attach(&self, bytes: &[u8]) -> bool;

    /// Ends the connection (RFC 6455, section 7.4).
    fn close(&self, code: u16, reason: &str);
}

/// The close code of a client whose ticket has expired.
pub const CLOSE_TICKET_EXPIRED: u16 = 4001;

/// The close code of a client that was sent as much as one that does not acknowledge may be.
pub const CLOSE_UNACKNOWLEDGED: u16 = 4002;

/// A client. Its methods never await, so what a pump and a message do to it never interleaves.
#[derive(Debug)]
pub struct Subscriber<O> {
    outlet: O,
    is_gone: Cell<bool>,
    attachment: RefCell<Attachment>,
    is_attached: Cell<bool>,
    binding: Cell<Binding>,
    /// How many changes fill a page, by the last one.
    page_changes: Cell<u32>,
}

/// Whether the filters' columns have been looked up in the catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Binding {
    /// Not yet: the client is not yet welcome.
    Due,
    /// Yes, but a table may be another since.
    Stale,
    Done,
}

/// What a client is due, as far as it can share it with others: all with the same key get the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Due {
    /// Reading goes on behind this id.
    pub(super) after: i64,
    /// The frame's `from`.
    pub(super) told: i64,
    pub(super) catch_up: bool,
    /// The address of the view that all of them share.
    view: usize,
}

impl<O: Outlet> Subscriber<O> {
    /// A client that has just come, and is not yet welcome.
    pub fn arriving(outlet: O, attachment: Attachment, views: &Views) -> Self {
        Self::with(outlet, attachment, views, false)
    }

    /// A client that outlived the object's eviction.
    pub fn resuming(outlet: O, attachment: Attachment, views: &Views) -> Self {
        Self::with(outlet, attachment, views, true)
    }

    fn with(outlet: O, mut attachment: Attachment, views: &Views, is_attached: bool) -> Self {
        attachment.view = views.shared(attachment.view);
        // What waits to be welcomed is looked up before it is, and what happened to the tables while
        // the object was evicted is not known.
        let binding = match attachment.cursor.position() {
            Some(_) => Binding::Stale,
            None => Binding::Due,
        };
        Self {
            outlet,
            is_gone: Cell::new(false),
            attachment: RefCell::new(attachment),
            is_attached: Cell::new(is_attached),
            binding: Cell::new(binding),
            page_changes: Cell::new(MAX_PAGE_CHANGES),
        }
    }

    /// The way out.
    pub fn outlet(&self) -> &O {
        &self.outlet
    }

    /// What is known of the client. Not to be held over an await.
    pub fn attachment(&self) -> Ref<'_, Attachment> {
        self.attachment.borrow()
    }

    /// Attaches what has changed. What a client was sent may be attached late, since it is then sent
    /// again; but where it was welcomed and what it asked for must be there before anything is
    /// awaited.
    pub fn keep(&self) {
        if !self.is_kept() {
            let bytes = self.attachment.borrow().to_bytes();
            self.is_attached.set(self.outlet.attach(&bytes));
        }
    }

    /// Whether [`Self::keep`] has nothing to do.
    pub fn is_kept(&self) -> bool {
        self.is_attached.get() || self.is_gone.get()
    }

    /// The client can be sent nothing more.
    pub fn is_gone(&self) -> bool {
        self.is_gone.get()
    }

    /// The connection has ended.
    pub fn leave(&self) {
        self.is_gone.set(true);
    }

    /// Whether nothing is due until the head moves.
    pub fn is_settled(&self, head: Position) -> bool {
        self.is_gone.get() || self.attachment.borrow().cursor.is_settled(head)
    }

    /// Takes in a text frame of the client, and answers it when it is refused. True when something
    /// may be due now.
    pub fn hear(&self, text: &str, views: &Views, head: Option<Position>) -> bool {
        match ClientMessage::parse(text) {
            Ok(ClientMessage::Ack(position)) => {
                let acknowledged = self.change(|it| it.cursor.acknowledge(position));
                if let Err(error) = acknowledged {
                    self.refuse("bad_position", &error.to_string());
                }
            }
            Ok(ClientMessage::Subscribe { wanted, start }) => {
                let view = self.attachment.borrow().view.resubscribe(wanted);
                let view = match view {
                    Ok(view) => views.shared(Rc::new(view)),
                    Err(error) => {
                        self.tell(&error.to_json());
                        return false;
                    }
                };
                let restarted = self.change(|it| {
                    it.cursor.restart(start)?;
                    it.view = view;
                    Ok::<(), super::NoPosition>(())
                });
                match restarted {
                    Ok(()) => self.binding.set(Binding::Due),
                    Err(error) => self.refuse("bad_position", &error.to_string()),
                }
            }
            Err(error) => self.tell(&error.to_json()),
        }
        self.keep();
        !head.is_some_and(|head| self.is_settled(head))
    }

    /// Tells the client why something it sent is refused.
    pub fn refuse(&self, code: &str, message: &str) {
        let error = ServerMessage::Error {
            code,
            message,
            retryable: false,
        };
        self.tell(&error.to_json());
    }

    /// Sends one frame to this client alone.
    pub fn tell(&self, frame: &str) {
        self.send(&O::text(frame));
    }

    pub(super) fn send(&self, text: &O::Text) -> bool {
        let is_sent = !self.is_gone.get() && self.outlet.send(text);
        self.is_gone.set(!is_sent);
        is_sent
    }

    /// The view, when its filters' columns are still to be looked up.
    pub(super) fn unbound(&self) -> Option<Rc<View>> {
        if self.is_gone.get() || self.binding.get() == Binding::Done {
            return None;
        }
        let attachment = self.attachment.borrow();
        let view = &attachment.view;
        view.has_filters().then(|| Rc::clone(view))
    }

    /// Whether its filters were taken once.
    pub(super) fn is_welcome(&self) -> bool {
        self.binding.get() != Binding::Due
    }

    /// A table was described anew: the filters' columns are looked up before the next delivery.
    pub(super) fn rebind(&self) {
        if self.binding.get() == Binding::Done {
            self.binding.set(Binding::Stale);
        }
    }

    /// Takes over the view with what the catalogue says of it, or the client's mistake. A client that
    /// was welcomed before is told what has become of its warnings.
    pub(super) fn bind(&self, bound: Result<Rc<View>, super::FrameError>) {
        let was_told = self.binding.replace(Binding::Done) == Binding::Stale;
        let view = match bound {
            Ok(view) => view,
            Err(error) => {
                self.change(|it| it.cursor.refuse());
                return self.tell(&error.to_json());
            }
        };
        let before = Rc::clone(&self.attachment.borrow().view);
        if view == before {
            return;
        }
        let (warnings, before) = (view.warnings(), before.warnings());
        self.change(|it| it.view = view);
        if was_told && warnings != before {
            let warnings = &warnings;
            self.tell(&ServerMessage::Warnings { warnings }.to_json());
        }
    }

    /// Sends what is due to this client alone, until there are changes to read or nothing is due.
    pub(super) fn due(&self, feed: Feed, now: u64) -> Option<Due> {
        while !self.is_gone.get() {
            if self.has_expired(now) {
                self.refuse("ticket_expired", "the ticket has expired");
                self.outlet
                    .close(CLOSE_TICKET_EXPIRED, "the ticket has expired");
                self.leave();
                break;
            }
            let step = self.attachment.borrow_mut().cursor.step(feed, now);
            let frame = match step {
                Step::Wait | Step::WaitForAck => break,
                Step::ComeBack => {
                    self.outlet.close(
                        CLOSE_UNACKNOWLEDGED,
                        "come back with your position, or acknowledge",
                    );
                    self.leave();
                    break;
                }
                Step::Read {
                    after, catch_up, ..
                } => {
                    let attachment = self.attachment.borrow();
                    return Some(Due {
                        after,
                        told: attachment.cursor.told(),
                        catch_up,
                        view: Rc::as_ptr(&attachment.view).addr(),
                    });
                }
                Step::Welcome(_) => {
                    self.is_attached.set(false);
                    self.keep();
                    self.welcome(feed)
                }
                Step::CaughtUp(position) => ServerMessage::CaughtUp { position }.to_json(),
                Step::Progress(position) => ServerMessage::Progress { position }.to_json(),
                Step::Reset(reason) => ServerMessage::Reset { reason }.to_json(),
            };
            self.is_attached.set(false);
            self.tell(&frame);
        }
        None
    }

    fn welcome(&self, feed: Feed) -> String {
        let attachment = self.attachment.borrow();
        let position = |id| Position {
            epoch: feed.epoch,
            id,
        };
        ServerMessage::Welcome {
            client_id: &attachment.client,
            epoch: feed.epoch,
            oldest: position(feed.oldest.saturating_sub(1)),
            head: position(feed.head),
            warnings: &attachment.view.warnings(),
        }
        .to_json()
    }

    /// Whether the client's ticket has, and it has not been told.
    pub(super) fn has_expired(&self, now: u64) -> bool {
        let expires_at = self.attachment.borrow().expires_at;
        !self.is_gone.get() && expires_at.is_some_and(|it| it.saturating_mul(1_000) <= now)
    }

    /// How many changes to ask for when a page is read for this client.
    pub(super) fn page_changes(&self) -> u32 {
        self.page_changes.get()
    }

    pub(super) fn note_page(&self, page: &Page) {
        self.page_changes.set(page.next_changes);
    }

    pub(super) fn has_room(&self) -> bool {
        self.attachment.borrow().cursor.has_room()
    }

    /// Moves the cursor.
    pub(super) fn move_cursor<T>(&self, moved: impl FnOnce(&mut Cursor) -> T) -> T {
        self.change(|it| moved(&mut it.cursor))
    }

    fn change<T>(&self, change: impl FnOnce(&mut Attachment) -> T) -> T {
        self.is_attached.set(false);
        change(&mut self.attachment.borrow_mut())
    }
}
