//! The sinks of the platform: WebSockets, Sync Durable Objects, and requests for a page.

use std::cell::OnceCell;
use std::rc::Rc;

use js_sys::JsString;

use super::sync_do_sink::SyncDoSink;
use crate::clients::{FrameError, ServerMessage};
use crate::delivery::{ConsumerState, Disconnect, Frame, PageSink, Sink};
use crate::workers::web_socket::ClientSocket;

/// The close code of a client whose ticket has expired.
const CLOSE_TICKET_EXPIRED: u16 = 4001;
/// The close code of a client that holds more unacknowledged bytes than it may.
const CLOSE_UNACKNOWLEDGED: u16 = 4002;

/// The sink of any consumer of the object.
#[derive(Debug)]
pub(super) enum ClientSink {
    WebSocket(ClientSocket),
    SyncDo(SyncDoSink),
    Page(PageSink),
}

/// A frame, and its JavaScript string once a WebSocket or a call needs it.
#[derive(Debug)]
pub(super) struct SharedFrame {
    frame: Rc<Frame>,
    text: OnceCell<JsString>,
}

impl SharedFrame {
    fn text(&self) -> &JsString {
        self.text.get_or_init(|| self.frame.text.as_str().into())
    }
}

impl Sink for ClientSink {
    type Encoded = SharedFrame;

    fn encode(frame: Frame) -> SharedFrame {
        SharedFrame {
            frame: Rc::new(frame),
            text: OnceCell::new(),
        }
    }

    fn answers(&self) -> bool {
        matches!(self, Self::SyncDo(_))
    }

    fn capacity(&self) -> usize {
        match self {
            Self::SyncDo(sink) => sink.capacity(),
            Self::WebSocket(_) | Self::Page(_) => usize::MAX,
        }
    }

    fn reserved(&self) -> usize {
        match self {
            Self::SyncDo(_) => SyncDoSink::reserved(),
            Self::WebSocket(_) | Self::Page(_) => 0,
        }
    }

    fn is_free(&self) -> bool {
        match self {
            Self::SyncDo(sink) => sink.is_free(),
            Self::WebSocket(_) | Self::Page(_) => true,
        }
    }

    fn max_changes(&self) -> Option<u32> {
        match self {
            Self::Page(sink) => Some(sink.max_changes()),
            Self::WebSocket(_) | Self::SyncDo(_) => None,
        }
    }

    fn send(&self, frame: &SharedFrame) -> bool {
        match self {
            Self::WebSocket(socket) => socket.send(frame.text()),
            Self::SyncDo(sink) => sink.call(frame.text()),
            Self::Page(sink) => sink.send(&frame.frame),
        }
    }

    fn tell(&self, message: &ServerMessage<'_>) -> bool {
        match self {
            Self::WebSocket(socket) => socket.send(&message.to_json().into()),
            Self::SyncDo(sink) => sink.tell(message),
            Self::Page(sink) => sink.tell(message),
        }
    }

    fn refuse(&self, error: &FrameError) -> bool {
        match self {
            Self::Page(sink) => sink.refuse(error),
            Self::WebSocket(_) | Self::SyncDo(_) => {
                let text = error.to_string();
                self.tell(&error.message(&text))
            }
        }
    }

    fn persist(&self, state: &ConsumerState) -> bool {
        match self {
            Self::WebSocket(socket) => socket.attach(&state.to_bytes()),
            Self::SyncDo(sink) => sink.persist(state),
            Self::Page(sink) => sink.persist(state),
        }
    }

    fn disconnect(&self, why: Disconnect) {
        match self {
            Self::WebSocket(socket) => match why {
                Disconnect::Expired => {
                    let message = "the ticket has expired";
                    self.tell(&ServerMessage::Error {
                        code: "ticket_expired",
                        message,
                        retryable: false,
                    });
                    socket.close(CLOSE_TICKET_EXPIRED, message);
                }
                Disconnect::Unacknowledged => socket.close(
                    CLOSE_UNACKNOWLEDGED,
                    "too much is unacknowledged: connect again with your position",
                ),
            },
            Self::SyncDo(sink) => sink.disconnect(why),
            Self::Page(sink) => sink.disconnect(why),
        }
    }
}
