//! The changes of one cycle in memory, in the form that clients receive, so that a client that is
//! up to date needs no query.

use std::rc::Rc;

use crate::changes::ChangeBatch;

/// A stored change in the form that clients receive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredChange {
    /// The place in the history.
    pub id: i64,
    /// `orders` for `public.orders`, otherwise `schema.table`.
    pub table: Rc<str>,
    /// The whole `TableChange` as JSON.
    pub json: String,
}

/// What one cycle stored: all changes after `after`, without a gap.
#[derive(Clone, Debug)]
pub struct Recent {
    /// The epoch of the changes.
    pub epoch: i32,
    /// The id before the first change.
    pub after: i64,
    /// In id order.
    pub changes: Vec<StoredChange>,
    bytes: usize,
}

/// More than this is not kept in memory: clients then read pages from the history.
const MAX_BYTES: usize = 2 << 20;

impl Recent {
    /// An empty range after `after`.
    pub fn after(epoch: i32, after: i64) -> Self {
        Self {
            epoch,
            after,
            changes: Vec::new(),
            bytes: 0,
        }
    }

    /// The id of the last change, or `after` when there is none.
    pub fn through(&self) -> i64 {
        self.changes.last().map_or(self.after, |change| change.id)
    }

    /// Adds a stored batch. False when that would exceed the limit of this range, which is then
    /// incomplete and must be dropped.
    pub fn push(&mut self, batch: &ChangeBatch, first_id: i64) -> bool {
        let mut table: Rc<str> = "".into();
        for (id, change) in (first_id..).zip(batch.changes()) {
            if self.bytes > MAX_BYTES {
                return false;
            }
            if *table != *change.relation.qualified() {
                table = change.relation.qualified().into();
            }
            let mut json = Vec::new();
            batch
                .table_change(change, id, self.epoch)
                .write_json(&mut json);
            self.bytes += json.len();
            let Ok(json) = String::from_utf8(json) else {
                return false;
            };
            self.changes.push(StoredChange {
                id,
                table: Rc::clone(&table),
                json,
            });
        }
        self.bytes <= MAX_BYTES
    }
}
