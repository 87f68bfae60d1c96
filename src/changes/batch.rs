//! Captured changes and the buffer that holds their JSON.

use std::fmt;
use std::ops::Range;
use std::rc::Rc;

use crate::config::TableName;
use crate::lsn::Lsn;

use super::table_change::TableChange;

/// What happened to a row, or to a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// A row was inserted.
    Insert,
    /// A row was updated.
    Update,
    /// A row was deleted.
    Delete,
    /// A table was truncated.
    Truncate,
}

impl Operation {
    /// The name in `change_history.operation` and in the wire JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::Truncate => "truncate",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A relation's names, shared by its changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelationName {
    schema: String,
    table: String,
    qualified: String,
}

impl RelationName {
    /// Takes the names as the catalogue has them, without quotes.
    pub fn new(schema: &str, table: &str) -> Self {
        let (schema, table) = (schema.to_owned(), table.to_owned());
        let name = TableName { schema, table };
        Self {
            qualified: name.to_string(),
            schema: name.schema,
            table: name.table,
        }
    }

    /// The schema.
    pub fn schema(&self) -> &str {
        &self.schema
    }

    /// The table, without the schema.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// The name in `change_history.table_name`: `orders` for `public.orders`, otherwise
    /// `schema.table`. A part that contains a dot or a quote is quoted, so that no two tables share
    /// a name.
    pub fn qualified(&self) -> &str {
        &self.qualified
    }
}

/// One captured change, ready to be stored. Its JSON is in the [`ChangeBatch`] that holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Where the transaction's commit record ends; 0/0 until that is known.
    pub lsn: Lsn,
    /// The transaction's id, without the epoch.
    pub xid: u32,
    /// When the transaction was committed, in microseconds since 2000-01-01 00:00:00 UTC.
    pub committed_at: i64,
    /// The table.
    pub relation: Rc<RelationName>,
    /// The operation.
    pub operation: Operation,
    /// Columns absent from the JSON because their TOASTed values did not change.
    pub unchanged: Vec<Rc<str>>,
    /// Columns absent from the JSON, new or old, because they are too large.
    pub omitted: Vec<Rc<str>>,
    /// Columns whose JSON is a string of Postgres's text instead of what `to_jsonb` returns.
    pub as_text: Vec<Rc<str>>,
    pub(super) data: Range<usize>,
    pub(super) old: Option<Range<usize>>,
}

/// Changes in commit order, and one buffer with the JSON of all of them, so that no row allocates a
/// tree of its own.
///
/// The last ones may be pending: the end of their transaction is not known yet.
#[derive(Debug, Default)]
pub struct ChangeBatch {
    pub(super) json: Vec<u8>,
    changes: Vec<Change>,
    /// How many of the changes are complete, and the length of their JSON in bytes.
    complete: usize,
    complete_json: usize,
}

impl ChangeBatch {
    /// The complete changes, in commit order, and within a transaction in the order of the WAL.
    pub fn changes(&self) -> &[Change] {
        self.changes.get(..self.complete).unwrap_or_default()
    }

    /// The number of complete changes.
    pub fn len(&self) -> usize {
        self.complete
    }

    /// Whether no change is complete.
    pub fn is_empty(&self) -> bool {
        self.complete == 0
    }

    /// The number of pending changes.
    pub fn pending(&self) -> usize {
        self.changes.len() - self.complete
    }

    /// The memory in use, in bytes.
    pub fn bytes(&self) -> usize {
        self.json.len() + self.changes.len() * size_of::<Change>()
    }

    /// The memory in use for pending changes, in bytes.
    pub fn pending_bytes(&self) -> usize {
        self.json.len() - self.complete_json + self.pending() * size_of::<Change>()
    }

    pub(super) fn push(&mut self, change: Change) {
        self.changes.push(change);
    }

    /// Completes the pending changes: their transaction's commit record ends at `end`.
    pub(super) fn complete_pending(&mut self, end: Lsn) {
        for change in self.changes.iter_mut().skip(self.complete) {
            change.lsn = end;
        }
        self.complete = self.changes.len();
        self.complete_json = self.json.len();
    }

    /// Removes the complete changes and keeps the memory for reuse.
    pub fn clear(&mut self) {
        self.changes.drain(..self.complete);
        self.json.drain(..self.complete_json);
        for change in &mut self.changes {
            for json in std::iter::once(&mut change.data).chain(&mut change.old) {
                json.start -= self.complete_json;
                json.end -= self.complete_json;
            }
        }
        (self.complete, self.complete_json) = (0, 0);
    }

    /// The `data` of a change of this batch, a JSON object in UTF-8: the new row; for a delete the
    /// old row or its key; for a truncate `{}`.
    pub fn data(&self, change: &Change) -> &[u8] {
        self.json.get(change.data.clone()).unwrap_or_default()
    }

    /// The `old` of a change of this batch, a JSON object in UTF-8: the row before an update if the
    /// replica identity is full, or its key if the key changed.
    pub fn old(&self, change: &Change) -> Option<&[u8]> {
        self.json.get(change.old.clone()?)
    }

    /// A change of this batch as clients receive it, with its id in the history.
    pub fn table_change<'a>(
        &'a self,
        change: &'a Change,
        id: i64,
        epoch: i32,
    ) -> TableChange<'a, Rc<str>> {
        TableChange {
            id,
            lsn: change.lsn,
            epoch,
            xid: Some(change.xid),
            schema: change.relation.schema(),
            table: change.relation.table(),
            operation: change.operation.as_str(),
            data: self.data(change),
            old: self.old(change),
            unchanged: &change.unchanged,
            omitted: &change.omitted,
            as_text: &change.as_text,
            committed_at: Some(change.committed_at),
        }
    }
}
