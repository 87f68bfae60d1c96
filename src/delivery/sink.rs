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
    /// A frame in the form that the sink sends. It is made once and shared by all consumers that
    /// get the frame.
    type Encoded;

    /// Converts a frame into that form.
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

    /// How many of these are reserved for sinks whose last frame did not fail.
    fn reserved(&self) -> usize {
        0
    }

    /// Whether this sink has no call in flight, so that a frame can be sent.
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

    /// Tells the consumer why its request is refused. False when the consumer is gone.
    fn refuse(&self, error: &FrameError) -> bool {
        let text = error.to_string();
        self.tell(&error.message(&text))
    }

    /// Persists the consumer's state so that it survives the object's eviction. False on failure.
    fn persist(&self, state: &ConsumerState) -> bool;

    /// Ends the connection or the registration.
    fn disconnect(&self, why: Disconnect);
}
