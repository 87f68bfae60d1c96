//! Delivery moves every consumer's cursor to the head, independently of storing.
//!
//! ```text
//! storing --publish(Head)--> Engine --+-- from memory, in the same turn --> Consumer --> Sink
//!                                     +-- by pages, on its own connection --^
//! ```
//!
//! A consumer is a cursor, a view and a sink. WebSockets, Sync Durable Objects and `GET /changes`
//! differ only in their sinks. Nothing here can fail or delay storing: an error affects one
//! consumer, or the group that shares a page, and is retried.

mod answers;
mod binding;
mod budget;
mod call_turns;
mod consumer;
mod consumer_state;
mod consumers;
mod cursor;
mod engine;
mod frames;
mod groups;
mod head;
mod need;
mod page_sink;
mod reading;
mod registered_client;
mod sink;
mod window;

pub use answers::{Answer, Answers};
pub use budget::{ALLOWANCE_BYTES, RECLAIM_AFTER_MS, SHARED_BYTES};
pub use consumer::{Consumer, Heard};
pub use consumer_state::{AttachmentError, ConsumerState, MAX_ATTACHMENT_BYTES};
pub use consumers::{Consumers, Usage};
pub use cursor::{
    AckError, Cursor, DEFAULT_WINDOW_BYTES, Extent, Flow, NoPosition, PROGRESS_INTERVAL_MS, Step,
    UNACKNOWLEDGED_BYTES,
};
pub use engine::{Engine, Work};
pub use frames::{Frame, FrameRequest};
pub use head::Head;
pub use page_sink::{PageAnswer, PageSink};
pub use registered_client::{RegisteredClient, Renewal, Target, register, renew};
pub use sink::{Disconnect, Sink};

#[cfg(test)]
mod tests;
