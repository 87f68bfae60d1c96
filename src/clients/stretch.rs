//! A stretch of the feed on its way to clients: a change is taken apart once, however many views
//! look at it.

use std::cell::OnceCell;

use super::change::{FeedChange, FeedChangeError};
use crate::history::{Page, Recent, StoredChange};

/// Stored changes behind one id and up to another, without a gap.
#[derive(Debug)]
pub struct Stretch<'a> {
    after: i64,
    through: i64,
    changes: Vec<Passing<'a>>,
}

/// A stored change that views look at.
#[derive(Debug)]
pub struct Passing<'a> {
    stored: &'a StoredChange,
    parsed: OnceCell<FeedChange<'a>>,
}

impl<'a> Stretch<'a> {
    /// All that is in memory.
    pub fn of_recent(recent: &'a Recent) -> Self {
        Self::new(recent.after, recent.through(), &recent.changes)
    }

    /// All of a page that was read behind `after`.
    pub fn of_page(after: i64, page: &'a Page) -> Self {
        Self::new(after, page.through, &page.changes)
    }

    fn new(after: i64, through: i64, changes: &'a [StoredChange]) -> Self {
        Self {
            after,
            through,
            changes: changes.iter().map(Passing::of).collect(),
        }
    }

    /// Whether it begins at `after`, or before.
    pub fn reaches_back_to(&self, after: i64) -> bool {
        self.after <= after
    }

    /// How far it goes.
    pub fn through(&self) -> i64 {
        self.through
    }

    /// The changes behind `after`.
    pub fn behind(&self, after: i64) -> &[Passing<'a>] {
        let known = self.changes.partition_point(|it| it.stored.id <= after);
        self.changes.get(known..).unwrap_or_default()
    }
}

impl<'a> Passing<'a> {
    /// One by itself.
    pub fn of(stored: &'a StoredChange) -> Self {
        Self {
            stored,
            parsed: OnceCell::new(),
        }
    }

    /// Its place in the history.
    pub fn id(&self) -> i64 {
        self.stored.id
    }

    /// Its JSON.
    pub fn json(&self) -> &'a str {
        &self.stored.json
    }

    /// What its JSON says. Fails where it is not what this system wrote.
    pub fn change(&self) -> Result<&FeedChange<'a>, FeedChangeError> {
        if let Some(change) = self.parsed.get() {
            return Ok(change);
        }
        let change = FeedChange::parse(self.json())?;
        Ok(self.parsed.get_or_init(|| change))
    }
}
