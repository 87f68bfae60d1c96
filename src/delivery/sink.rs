//! Where a consumer's frames go. A WebSocket, a Sync Durable Object and a request for one page are
//! each one sink; the engine does not know which it serves.

use super::consumer_state::ConsumerState;
use super::frames::Frame;
use crate::clients::{FrameError, ServerMessage};

/// Why a consumer is disconnected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disconnect {
    /// Its credential or its registration has expired.
    Expired,
    /// It holds more unacknowledged bytes than it may.
    Unacknowledged,
}

/// Where a consumer's frames go. No method may call the engine.
pub trait Sink {
    /// A frame in the form that the sink sends. It is made once and shared by all consumers that get
    /// the frame.
    type Encoded;

    /// Puts a frame into that form.
    fn encode(frame: Frame) -> Self::Encoded;

    /// Whether each frame is answered: by [`Engine::answer`](super::Engine::answer). Such a sink
    /// gets one frame at a time, and its cursor moves with the answer.
    fn answers(&self) -> bool {
        false
    }

    /// How many frames can be sent now by all sinks that answer: they share a limited number of
    /// calls.
    fn capacity(&self) -> usize {
        usize::MAX
    }

    /// How many of these are kept for sinks that have not failed last.
    fn reserved(&self) -> usize {
        0
    }

    /// Whether a frame can be sent by this sink, as far as calls are concerned.
    fn is_free(&self) -> bool {
        true
    }

    /// The most changes that one frame may have; `None` where the engine decides.
    fn max_changes(&self) -> Option<u32> {
        None
    }

    /// Sends changes. False when the consumer is gone.
    fn send(&self, frame: &Self::Encoded) -> bool;

    /// Sends any other message. False when the consumer is gone.
    fn tell(&self, message: &ServerMessage<'_>) -> bool;

    /// Says why something that the consumer asked for is refused.
    fn refuse(&self, error: &FrameError) -> bool {
        let text = error.to_string();
        self.tell(&error.message(&text))
    }

    /// Keeps the consumer's state over the object's eviction. False when that failed.
    fn persist(&self, state: &ConsumerState) -> bool;

    /// Ends the connection or the registration.
    fn disconnect(&self, why: Disconnect);
}
