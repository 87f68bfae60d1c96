//! What the database needs before changes can be captured, and how far they are stored: schema
//! migrations, publication, slot, checkpoint and epoch.
//!
//! ```text
//! POST /init -> initialize: server requirements -> migrations -> publication -> slot + checkpoint
//! each start -> resume:     checkpoint, slot, server -> Continuity -> advance | new epoch | halt
//! ```
//!
//! Postgres is the source of truth. The object's storage has a copy for `/status` and to detect
//! that the database went back in time.

mod access;
mod checkpoint;
mod initialize;
mod migrations;
mod publication;
mod recovery;
mod server;
mod slot;

pub use checkpoint::Checkpoint;
pub use initialize::{initialize, initialize_after_epoch};
pub use recovery::{
    Continuity, DatabaseState, Discontinuity, LastKnown, Resumption, assess, begin_new_epoch,
    read_database_state, resume,
};
pub use server::Server;
pub use slot::{Slot, queue_advance as queue_slot_advance, read as read_slot};

/// The tables that this system itself writes. They are never captured.
pub const OWN_TABLES: [&str; 3] = [
    "change_history",
    "replication_checkpoint",
    "replication_migration",
];
