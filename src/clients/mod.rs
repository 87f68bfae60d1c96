//! What clients ask for, what they may see, and what they are sent. Pure.
//!
//! ```text
//! upgrade  bearer, TicketKey -> Ticket --+
//!          ConnectRequest ---------------+--> View (what the client asked for and may see)
//! frames   ClientMessage ----------------+
//! feed     ChangeRange: FeedChange --View::see--> Visible --redact--> ChangesFrame, ServerMessage
//! ```

pub mod bearer;
mod change;
mod change_range;
mod changes_request;
mod client_message;
mod columns;
mod credential;
mod decimal;
mod filter;
mod frame_error;
mod position;
mod registration;
mod schema_history;
mod server_message;
mod subscription;
mod ticket;
mod views;

pub use change::{FeedChange, FeedChangeError, Visible, redact};
pub use change_range::{CachedChange, ChangeRange};
pub use changes_request::ChangesRequest;
pub use client_message::{
    ClientId, ClientMessage, ConnectRequest, MAX_CLIENT_ID, MAX_MESSAGE_BYTES, MAX_QUERY_BYTES,
    PROTOCOL_VERSION, Start,
};
pub use columns::{Columns, MAX_COLUMNS_AT_ONCE};
pub use credential::{
    CredentialId, MAX_OPERATOR_READERS, MAX_READERS, MAX_TICKET_CONDITIONS, MAX_TICKET_CONNECTIONS,
    MAX_TICKET_READERS, SUBSCRIBE_BURST, SUBSCRIBE_INTERVAL_MS, SubscribeRate,
};
pub use filter::{
    ColumnFacts, Condition, MAX_COLUMN_BYTES, MAX_CONDITIONS, MAX_IN_VALUES, MAX_VALUE_BYTES,
    Operator,
};
pub use frame_error::FrameError;
pub use position::{ParsePositionError, Position};
pub use registration::{MAX_REGISTRATION_BYTES, MAX_SYNC_CLIENTS, ObjectName, Registration};
pub use schema_history::{
    MAX_CACHED_TABLES, SchemaAt, SchemaChanges, SchemaHistory, SchemaStore, TableHistory,
};
pub use server_message::{ChangesFrame, MAX_CHANGES_BYTES, ResetReason, ServerMessage};
pub use subscription::{
    FilterWarning, MAX_SUBSCRIPTIONS, MAX_SUBSCRIPTIONS_BYTES, Subscription, Subscriptions, View,
    redact_stored,
};
pub use ticket::{
    MAX_TICKET_BYTES, MAX_TICKET_LIFETIME, MIN_TICKET_SECRET_BYTES, Ticket, TicketError, TicketKey,
    WeakSecret,
};
pub use views::Views;

#[cfg(test)]
pub(crate) mod tests;
