//! `change_history`: where captured changes are kept, and where clients that fell behind read on.
//!
//! ```text
//! ChangeBatch -> Writer -> change_history -> page -> StoredChange
//!       \-> Recent, the same changes in memory, for clients that are up to date
//! ```

mod copy;
mod page;
mod prune;
mod recent;
mod write;

pub use page::{MAX_PAGE_CHANGES, Page, PageRequest, oldest, read_page};
pub use prune::{HistoryBounds, Pruned, prune, read_bounds};
pub use recent::{Recent, StoredChange};
pub use write::{Condition, VALUE_REFUSED, WriteMethod, Writer};
