//! What clients ask for, where each one stands, and moving them on.
//!
//! ```text
//! upgrade  bearer, TicketKey -> Ticket --+
//!          ConnectRequest ---------------+--> View (what the client may see, and wants to)
//! frames   ClientMessage ----------------+--> Cursor (where it stands, and what is due)
//!                                                |  both kept in the socket's Attachment
//! feed     Stretch: FeedChange --View::judge--> Visible --redact--> ChangesFrame, ServerMessage
//! ```
//!
//! All this is without I/O. `Pump` then reads what is due and hands it to the clients' `Outlet`s.

mod attachment;
pub mod bearer;
mod change;
mod changes_request;
mod client_message;
mod column_facts;
mod cursor;
mod decimal;
mod filter;
mod frame_error;
mod frames;
mod position;
mod pump;
mod relation_log;
mod server_message;
mod stretch;
mod subscriber;
mod subscription;
mod sync_client;
mod ticket;
mod views;

pub use attachment::{Attachment, AttachmentError, MAX_ATTACHMENT_BYTES};
pub use change::{FeedChange, FeedChangeError, Visible, redact};
pub use changes_request::ChangesRequest;
pub use client_message::{
    ClientId, ClientMessage, ConnectRequest, MAX_CLIENT_ID, MAX_MESSAGE_BYTES, MAX_QUERY_BYTES,
    PROTOCOL_VERSION, Start,
};
pub use column_facts::Columns;
pub use cursor::{
    AckError, Cursor, DEFAULT_WINDOW_BYTES, Feed, Flow, NoPosition, PROGRESS_INTERVAL_MS, Step,
    UNACKNOWLEDGED_BYTES,
};
pub use filter::{
    ColumnFacts, Condition, MAX_COLUMN_BYTES, MAX_CONDITIONS, MAX_IN_VALUES, MAX_VALUE_BYTES,
    Operator,
};
pub use frame_error::FrameError;
pub use frames::{Ask, Frame};
pub use position::{ParsePositionError, Position};
pub use pump::{Head, Pump, read_after};
pub use relation_log::{AsOf, Described, Known, Learned, RelationLog};
pub use server_message::{ChangesFrame, MAX_CHANGES_BYTES, ResetReason, ServerMessage};
pub use stretch::{Passing, Stretch};
pub use subscriber::{CLOSE_TICKET_EXPIRED, CLOSE_UNACKNOWLEDGED, Outlet, Subscriber};
pub use subscription::{
    FilterWarning, MAX_SUBSCRIPTIONS, MAX_SUBSCRIPTIONS_BYTES, Subscription, Subscriptions, View,
};
pub use sync_client::{
    MAX_REGISTRATION_BYTES, MAX_SYNC_CLIENTS, ObjectName, Registration, SyncClient,
};
pub use ticket::{
    MAX_TICKET_BYTES, MAX_TICKET_LIFETIME, MIN_TICKET_SECRET_BYTES, Ticket, TicketError, TicketKey,
    WeakSecret,
};
pub use views::Views;

#[cfg(test)]
mod tests;
