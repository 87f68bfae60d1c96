//! What a cycle reads, and how much of it at a time.

use crate::history::WriteMethod;

/// The source of a cycle and its limits.
#[derive(Clone, Debug)]
pub struct CycleConfig {
    /// The replication slot.
    pub slot: String,
    /// The publication.
    pub publication: String,
    /// About how many changes one peek returns. A transaction is never split, so it may return
    /// more.
    pub max_changes: u32,
    /// The maximum number of bytes that are read of one row's message; the rest is cut off.
    pub max_row_bytes: u32,
    /// The maximum number of bytes of messages that are held in memory at a time.
    pub slice_bytes: usize,
    /// How changes are written to the history.
    pub write_method: WriteMethod,
}
