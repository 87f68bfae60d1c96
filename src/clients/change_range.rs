//! Stored changes on their way to clients: each is parsed once, however many views evaluate it.

use std::cell::OnceCell;

use super::change::{FeedChange, FeedChangeError};
use crate::history::{Page, Recent, StoredChange};

/// The stored changes after one id and up to another, without a gap.
#[derive(Debug)]
pub struct ChangeRange<'a> {
    through: i64,
    changes: Vec<CachedChange<'a>>,
}

/// A stored change that views evaluate.
#[derive(Debug)]
pub struct CachedChange<'a> {
    stored: &'a StoredChange,
    parsed: OnceCell<FeedChange<'a>>,
}

impl<'a> ChangeRange<'a> {
    /// All that is in memory.
    pub fn of_recent(recent: &'a Recent) -> Self {
        Self::new(recent.through(), &recent.changes)
    }

    /// All of a page.
    pub fn of_page(page: &'a Page) -> Self {
        Self::new(page.through, &page.changes)
    }

    fn new(through: i64, changes: &'a [StoredChange]) -> Self {
        Self {
            through,
            changes: changes.iter().map(CachedChange::of).collect(),
        }
    }

    /// The id that it goes up to.
    pub fn through(&self) -> i64 {
        self.through
    }

    /// The changes after `after`.
    pub fn after(&self, after: i64) -> &[CachedChange<'a>] {
        let known = self
            .changes
            .partition_point(|change| change.stored.id <= after);
        self.changes.get(known..).unwrap_or_default()
    }
}

impl<'a> CachedChange<'a> {
    /// A single change.
    pub fn of(stored: &'a StoredChange) -> Self {
        Self {
            stored,
            parsed: OnceCell::new(),
        }
    }

    /// Its id in the history.
    pub fn id(&self) -> i64 {
        self.stored.id
    }

    /// Its table, as in `change_history.table_name`.
    pub fn table(&self) -> &str {
        &self.stored.table
    }

    /// Its JSON.
    pub fn json(&self) -> &'a str {
        &self.stored.json
    }

    /// The parsed change. Fails if this system did not write the JSON.
    pub fn change(&self) -> Result<&FeedChange<'a>, FeedChangeError> {
        if let Some(change) = self.parsed.get() {
            return Ok(change);
        }
        let change = FeedChange::parse(self.json())?;
        Ok(self.parsed.get_or_init(|| change))
    }
}
