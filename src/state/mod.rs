//! What must be true in the database before changes can flow, and how far they have flowed: schema
//! migrations, publication, slot, checkpoint and epoch.
//!
//! ```text
//! POST /init -> initialize: server fit? -> migrations -> publication -> slot + checkpoint
//! each start -> resume:     checkpoint, slot, server -> Continuity -> advance | new epoch | halt
//! ```
//!
//! Postgres is the truth. The object's storage keeps a copy for `/status` and for noticing that the
//! database went back in time.

mod access;
mod checkpoint;
mod initialize;
mod migrations;
mod publication;
mod recovery;
mod server;
mod slot;

pub use checkpoint::Checkpoint;
pub use initialize::{initialize, initialize_after};
pub use recovery::{
    Continuity, DatabaseState, Discontinuity, LastKnown, Resumption, assess, begin_new_epoch,
    read_database_state, resume,
};
pub use server::Server;
pub use slot::{Slot, queue_advance as queue_slot_advance, read as read_slot};

/// The tables this system writes itself, which it never captures.
pub const OWN_TABLES: [&str; 3] = [
    "change_history",
    "replication_checkpoint",
    "replication_migration",
];
