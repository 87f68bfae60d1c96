//! Captured changes and the bytes their JSON lives in.

use std::fmt;
use std::ops::Range;
use std::rc::Rc;

use crate::config::TableName;
use crate::lsn::Lsn;

use super::table_change::TableChange;

/// What happened to a row, or to a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// A row came.
    Insert,
    /// A row changed.
    Update,
    /// A row went.
    Delete,
    /// All rows of a table went.
    Truncate,
}

impl Operation {
    /// As `change_history.operation` and the wire JSON have it.
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
    /// The names as they are in the catalogue, without quotes.
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

    /// As `change_history.table_name` has it: `orders` for `public.orders`, else `schema.table`; a
    /// part that holds a dot or a quote stands in quotes, so that no two tables share a name.
    pub fn qualified(&self) -> &str {
        &self.qualified
    }
}

/// One captured change, ready to be stored. Its JSON is in the [`ChangeBatch`] that holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Where the transaction's commit record ends; 0/0 while that is not known.
    pub lsn: Lsn,
    /// The transaction's id, without the epoch.
    pub xid: u32,
    /// Microseconds from 2000-01-01 00:00:00 UTC to the commit.
    pub committed_at: i64,
    /// The table.
    pub relation: Rc<RelationName>,
    /// What happened.
    pub operation: Operation,
    /// Columns that are not in the JSON, since their TOASTed values did not change.
    pub unchanged: Vec<Rc<str>>,
    /// Columns that are not in the JSON, new or old, since they are too large to hold.
    pub omitted: Vec<Rc<str>>,
    /// Columns whose JSON is a string of Postgres's text, in place of what `to_jsonb` gives.
    pub as_text: Vec<Rc<str>>,
    pub(super) data: Range<usize>,
    pub(super) old: Option<Range<usize>>,
}

/// Changes in commit order, and one buffer with the JSON of all of them, so that no row allocates a
/// tree of its own.
///
/// Those of a transaction whose end is not known yet are held back: they come last.
#[derive(Debug, Default)]
pub struct ChangeBatch {
    pub(super) json: Vec<u8>,
    changes: Vec<Change>,
    /// How many of the changes are complete, and the bytes of their JSON.
    complete: usize,
    complete_json: usize,
}

impl ChangeBatch {
    /// The complete changes, in commit order and within a transaction in the order they were made.
    pub fn changes(&self) -> &[Change] {
        self.changes.get(..self.complete).unwrap_or_default()
    }

    /// How many complete changes there are.
    pub fn len(&self) -> usize {
        self.complete
    }

    /// Whether there is no complete change.
    pub fn is_empty(&self) -> bool {
        self.complete == 0
    }

    /// How many changes are held back.
    pub fn held_back(&self) -> usize {
        self.changes.len() - self.complete
    }

    /// The memory that is in use, in bytes.
    pub fn bytes(&self) -> usize {
        self.json.len() + self.changes.len() * size_of::<Change>()
    }

    /// The memory that is in use for what is held back, in bytes.
    pub fn held_back_bytes(&self) -> usize {
        self.json.len() - self.complete_json + self.held_back() * size_of::<Change>()
    }

    pub(super) fn push(&mut self, change: Change) {
        self.changes.push(change);
    }

    /// What is held back is of a transaction whose commit record ends there.
    pub(super) fn complete(&mut self, end: Lsn) {
        for change in self.changes.iter_mut().skip(self.complete) {
            change.lsn = end;
        }
        self.complete = self.changes.len();
        self.complete_json = self.json.len();
    }

    /// Takes out what is complete, and keeps the memory for what comes next.
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

    /// The JSON object of a change of this batch: the new row; for a delete the old row or its key;
    /// `{}` for a truncate. UTF-8.
    pub fn data(&self, change: &Change) -> &[u8] {
        self.json.get(change.data.clone()).unwrap_or_default()
    }

    /// The JSON object with the row before an update, when the replica identity is full, or with
    /// its key, when the key changed. UTF-8.
    pub fn old(&self, change: &Change) -> Option<&[u8]> {
        self.json.get(change.old.clone()?)
    }

    /// A change of this batch as it is sent, under its place in the history.
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
