//! What the cycles of one feed pass on from one to the next.

use crate::changes::{FeedTables, TypeCatalog};
use crate::clock;
use crate::lsn::Lsn;
use crate::state::{Checkpoint, Fingerprint};

/// The state that the cycles of one feed share. It is lost with the object, and is then read from
/// the database again.
#[derive(Debug)]
pub struct CycleState {
    /// How far changes are stored, as last seen. Another reader of the slot may have stored more.
    pub checkpoint: Checkpoint,
    /// The tables of feeds, which are never captured.
    pub feed_tables: FeedTables,
    /// From this id on, `json` and `jsonb` documents are stored as strings of their text, since
    /// Postgres has refused one of them as `jsonb`. Cleared once they are stored. A caller that
    /// resumes after an error must pass it on; otherwise the next cycle fails in the same way.
    pub documents_as_text_from: Option<i64>,
    /// The role may log snapshots of the running transactions, which keep decoding short.
    pub may_log_snapshots: bool,
    /// The publication as the feed last found it; `None`: the next cycle takes it as it is.
    pub publication: Option<Fingerprint>,
    /// The flush LSN when this feed last logged a snapshot.
    pub(super) snapshot_logged_at: Lsn,
    /// The flush LSN before the last complete peek: until it moves, there is nothing new.
    pub(super) peeked_through: Option<Lsn>,
    /// The slot may lag behind the checkpoint: the last advance failed, or its outcome is unknown.
    pub(super) unconsumed: bool,
    /// When the slot was last known to be at the checkpoint, in milliseconds since the Unix epoch.
    pub(super) advanced_at: u64,
    /// The types that are not built in, as far as they are known.
    pub(super) types: TypeCatalog,
}

impl CycleState {
    /// Starts from a checkpoint that `state::resume` has found intact.
    pub fn new(checkpoint: Checkpoint) -> Self {
        Self {
            checkpoint,
            feed_tables: FeedTables::default(),
            documents_as_text_from: None,
            may_log_snapshots: false,
            publication: None,
            snapshot_logged_at: Lsn::INVALID,
            peeked_through: None,
            unconsumed: false,
            advanced_at: clock::now_ms(),
            types: TypeCatalog::default(),
        }
    }

    /// The checkpoint has moved; the slot has not followed yet.
    pub(super) fn advance_checkpoint(&mut self, lsn: Lsn, last_id: i64) {
        self.checkpoint.lsn = lsn;
        self.checkpoint.last_id = last_id;
        self.unconsumed = true;
    }
}
