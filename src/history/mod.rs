//! `change_history`: the table of captured changes, from which clients that have fallen behind
//! catch up.
//!
//! ```text
//! ChangeBatch -> Writer -> change_history -> page -> StoredChange
//!       \-> Recent: the same changes in memory, for clients that are up to date
//! ```

/// The columns of a stored change, in the order in which batches are written: for `INSERT`, for
/// `COPY` and for the fields that `CopyRows` encodes.
macro_rules! change_columns {
    () => {
        "id, lsn, table_name, operation, data, old_data, unchanged, omitted, as_text, xid, \
         committed_at, epoch"
    };
}

mod copy;
mod page;
mod prune;
mod recent;
mod write;

pub use page::{MAX_PAGE_CHANGES, Page, PageRequest, Trim, oldest, read_page, read_row};
pub use prune::{HistoryBounds, Pruned, prune, read_bounds};
pub use recent::{Recent, StoredChange};
pub use write::{Condition, QueuedInsert, WriteError, WriteMethod, Writer};
