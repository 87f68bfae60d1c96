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
mod definition;
mod initialize;
mod migrations;
mod publication;
mod recovery;
mod server;
mod slot;

pub use checkpoint::Checkpoint;
pub(crate) use definition::FINGERPRINT;
pub use definition::Fingerprint;
pub use initialize::{initialize, initialize_after_epoch};
pub use recovery::{
    Continuity, DatabaseState, Discontinuity, LastKnown, Resumed, Resumption, assess,
    read_database_state, resume,
};
pub use server::Server;
pub(crate) use slot::SlotKind;
pub use slot::{Slot, queue_advance as queue_slot_advance, read as read_slot};

/// Begins every transaction that writes, and overrides the defaults of the role and the database:
/// providers make them read-only near a full disk, when pruning is needed most. At a higher
/// isolation level, waiting for the lock of the checkpoint would fail instead of seeing what was
/// committed meanwhile.
pub(crate) const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE, NOT DEFERRABLE";

/// The tables that this system itself writes.
pub(crate) const OWN_TABLES: [&str; 3] = [
    "change_history",
    "replication_checkpoint",
    "replication_migration",
];
