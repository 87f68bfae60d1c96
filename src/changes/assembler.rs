//! From messages to changes: assigns each row to its transaction and relation.
//!
//! ```text
//!             Begin           Commit
//!   outside --------> inside --------> outside
//!                      |  ^
//!           Insert, Update, Delete, Truncate: changes, unless the
//!           transaction is already stored; pending until the LSN of
//!           the commit is known
//! ```
//!
//! Every change is stored with the LSN at which its transaction ends, which pgoutput sends only
//! with the commit. If a transaction is too large to wait for that, the caller looks up the LSN
//! and calls [`Assembler::set_commit_lsn`].
//!
//! A transaction may span many batches, so the assembler outlives them. An assembler serves one
//! peek only: pgoutput describes each relation again in every peek.

use std::collections::HashMap;
use std::rc::Rc;

use crate::error::{Category, Error};
use crate::lsn::Lsn;
use crate::pgoutput::{
    Begin, Commit, Message, OldTuple, OwnedRelation, Relation, RelationCache, RelationError,
    ReplicaIdentity, Tuple,
};

use super::batch::{Change, ChangeBatch, Operation, RelationName};
use super::catalog::TypeCatalog;
use super::feed_tables::FeedTables;
use super::json_buffer::json_key;
use super::row::{BinaryValue, CapturedColumn, ColumnSet, MemberList, RowWriter};
use super::shape::Shape;

/// Limits of a single change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest JSON of a change as it is read back, new and old row together, in bytes. If it
    /// is longer, its largest columns are omitted.
    pub max_row_bytes: usize,
}

/// The effect of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing to store.
    Nothing,
    /// The number of changes that were added to the batch. They may be pending.
    Changes(usize),
    /// The relation has types that the catalogue does not know. Run [`TypeCatalog::LOOKUP_SQL`]
    /// with these OIDs, add the result to the catalogue, and pass the same message again.
    MissingTypes(Vec<u32>),
    /// The transaction and its changes are complete. Its commit record ends at this LSN.
    Committed(Lsn),
}

/// The messages contradict each other. The slot must not move.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AssembleError {
    /// A change or a commit outside a transaction.
    #[error("{0} outside a transaction")]
    OutsideTransaction(&'static str),
    /// A transaction begins inside another one.
    #[error("transaction {inner} begins inside transaction {outer}")]
    InsideTransaction {
        /// The transaction that is open.
        outer: u32,
        /// The transaction that begins.
        inner: u32,
    },
    /// A commit does not end where [`Assembler::set_commit_lsn`] said.
    #[error("transaction {xid} ends at {found}, not at {expected} as expected")]
    CommitMismatch {
        /// The transaction.
        xid: u32,
        /// The LSN that was set.
        expected: Lsn,
        /// The LSN in the commit.
        found: Lsn,
    },
    /// The messages end inside a transaction.
    #[error("the messages end inside transaction {0}")]
    Unfinished(u32),
    /// The row's relation was not described, or the row does not match its description.
    #[error(transparent)]
    Relation(#[from] RelationError),
    /// A value in binary format, which was not requested.
    #[error(transparent)]
    BinaryValue(#[from] BinaryValue),
}

impl From<AssembleError> for Error {
    fn from(error: AssembleError) -> Self {
        match error {
            AssembleError::Relation(error) => error.into(),
            error => Self::new(Category::Decode, "pgoutput_out_of_order", error.to_string()),
        }
    }
}

#[derive(Debug)]
struct Transaction {
    xid: u32,
    committed_at: i64,
    /// Where its commit record ends, if that is known before the commit.
    end: Option<Lsn>,
    /// It is already stored.
    skip: bool,
}

/// A relation as pgoutput described it: what is needed to interpret its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribedRelation {
    /// Its schema.
    pub schema: Rc<str>,
    /// Its name.
    pub table: Rc<str>,
    /// The columns whose type, or whose domain's base type, is an integer, `numeric` or a float.
    pub numbers: Vec<Rc<str>>,
    /// The key of the replica identity: an update without an old row did not change these columns.
    /// Empty for the identity `FULL`, with which every update has an old row.
    pub keys: Vec<Rc<str>>,
}

/// How the rows of a relation become JSON.
#[derive(Debug)]
struct CapturedRelation {
    name: Rc<RelationName>,
    columns: Vec<CapturedColumn>,
}

/// Turns the messages of one peek into changes.
#[derive(Debug)]
pub struct Assembler {
    checkpoint: Lsn,
    excluded: FeedTables,
    limits: Limits,
    transaction: Option<Transaction>,
    relations: RelationCache,
    /// The described relations that are not excluded.
    captured: HashMap<u32, CapturedRelation>,
    members: MemberList,
    documents_as_text: bool,
    described: Vec<DescribedRelation>,
}

impl Assembler {
    /// Skips transactions whose commit record begins before `checkpoint`, as Postgres itself does
    /// for a slot at that position (`SnapBuildXactNeedsSkip`), and the changes of `excluded`.
    /// `checkpoint` must be the boundary of a WAL record.
    pub fn new(checkpoint: Lsn, excluded: FeedTables, limits: Limits) -> Self {
        Self {
            checkpoint,
            excluded,
            limits,
            transaction: None,
            relations: RelationCache::new(),
            captured: HashMap::new(),
            members: MemberList::default(),
            documents_as_text: false,
            described: Vec::new(),
        }
    }

    /// Returns the relations that were described since the last call.
    pub fn take_described_relations(&mut self) -> Vec<DescribedRelation> {
        std::mem::take(&mut self.described)
    }

    /// Whether the following changes carry all `json` and `jsonb` documents as strings of their
    /// text, even documents that `jsonb` should be able to hold.
    pub fn write_documents_as_text(&mut self, as_text: bool) {
        self.documents_as_text = as_text;
    }

    /// The id of the transaction that has begun and not ended.
    pub fn open_transaction(&self) -> Option<u32> {
        self.transaction.as_ref().map(|open| open.xid)
    }

    /// Sets where the commit record of the open transaction ends. From then on its changes are
    /// complete at once.
    pub fn set_commit_lsn(&mut self, end: Lsn, batch: &mut ChangeBatch) {
        if let Some(open) = &mut self.transaction {
            open.end = Some(end);
            batch.complete_pending(end);
        }
    }

    /// Ends the peek. Fails inside a transaction.
    pub fn finish(&self) -> Result<(), AssembleError> {
        match self.open_transaction() {
            None => Ok(()),
            Some(xid) => Err(AssembleError::Unfinished(xid)),
        }
    }

    /// Processes the next message and adds its changes to `batch`.
    pub fn accept(
        &mut self,
        message: &Message<'_>,
        types: &TypeCatalog,
        batch: &mut ChangeBatch,
    ) -> Result<Outcome, AssembleError> {
        match message {
            Message::Begin(begin) => self.begin(begin),
            Message::Commit(commit) => self.commit(commit, batch),
            Message::Relation(relation) => Ok(self.describe(relation, types)),
            Message::Origin(_) | Message::Type(_) | Message::Message(_) => Ok(Outcome::Nothing),
            Message::Insert(insert) => {
                let rows = ChangedRows::new(Operation::Insert, Some(&insert.new), None);
                self.change(insert.relation, &rows, batch)
            }
            Message::Update(update) => {
                let old = update.old.as_ref();
                let rows = ChangedRows::new(Operation::Update, Some(&update.new), old);
                self.change(update.relation, &rows, batch)
            }
            Message::Delete(delete) => {
                let rows = ChangedRows::new(Operation::Delete, None, Some(&delete.old));
                self.change(delete.relation, &rows, batch)
            }
            Message::Truncate(truncate) => {
                let mut added = 0;
                for &relation in &truncate.relations {
                    let rows = ChangedRows::new(Operation::Truncate, None, None);
                    if self.change(relation, &rows, batch)? != Outcome::Nothing {
                        added += 1;
                    }
                }
                Ok(changes(added))
            }
        }
    }

    fn begin(&mut self, begin: &Begin) -> Result<Outcome, AssembleError> {
        if let Some(open) = &self.transaction {
            return Err(AssembleError::InsideTransaction {
                outer: open.xid,
                inner: begin.xid,
            });
        }
        self.transaction = Some(Transaction {
            xid: begin.xid,
            committed_at: begin.committed_at,
            end: None,
            skip: begin.final_lsn < self.checkpoint,
        });
        Ok(Outcome::Nothing)
    }

    fn commit(
        &mut self,
        commit: &Commit,
        batch: &mut ChangeBatch,
    ) -> Result<Outcome, AssembleError> {
        let Transaction { xid, end, .. } = self
            .transaction
            .take()
            .ok_or(AssembleError::OutsideTransaction("a commit"))?;
        let found = commit.end_lsn;
        if let Some(expected) = end.filter(|&end| end != found) {
            return Err(AssembleError::CommitMismatch {
                xid,
                expected,
                found,
            });
        }
        batch.complete_pending(found);
        Ok(Outcome::Committed(found))
    }

    /// Needed in skipped transactions too: pgoutput describes a relation only once in a peek.
    fn describe(&mut self, relation: &Relation<'_>, types: &TypeCatalog) -> Outcome {
        if self.excluded.contains(relation) {
            self.relations.insert(relation);
            self.captured.remove(&relation.oid);
            return Outcome::Nothing;
        }
        let mut missing = Vec::new();
        let shapes: Vec<Shape> = relation
            .columns
            .iter()
            .map(|column| types.shape(column.type_oid, &mut missing))
            .collect();
        if !missing.is_empty() {
            return Outcome::MissingTypes(missing);
        }
        let relation = self.relations.insert(relation);
        let captured = CapturedRelation::new(&relation, shapes);
        self.described.push(captured.describe(&relation));
        self.captured.insert(relation.oid, captured);
        Outcome::Nothing
    }

    fn change(
        &mut self,
        oid: u32,
        rows: &ChangedRows<'_>,
        batch: &mut ChangeBatch,
    ) -> Result<Outcome, AssembleError> {
        let transaction = self
            .transaction
            .as_ref()
            .ok_or(AssembleError::OutsideTransaction(rows.operation.as_str()))?;
        let relation = self.relations.get(oid)?;
        let Some(captured) = self.captured.get(&oid).filter(|_| !transaction.skip) else {
            return Ok(Outcome::Nothing);
        };
        rows.check(relation)?;
        let mut writer = RowWriter::new(
            &mut batch.json,
            &mut self.members,
            self.limits.max_row_bytes,
            self.documents_as_text,
        );
        rows.write(&captured.columns, &mut writer)?;
        let written = writer.finish();
        batch.push(Change {
            lsn: Lsn::INVALID,
            xid: transaction.xid,
            committed_at: transaction.committed_at,
            relation: Rc::clone(&captured.name),
            operation: rows.operation,
            unchanged: written.unchanged,
            omitted: written.omitted,
            as_text: written.as_text,
            data: written.data,
            old: written.old,
        });
        if let Some(end) = transaction.end {
            batch.complete_pending(end);
        }
        Ok(changes(1))
    }
}

impl CapturedRelation {
    fn new(relation: &OwnedRelation, shapes: Vec<Shape>) -> Self {
        let columns = relation.columns.iter().zip(shapes).enumerate();
        let columns = columns.map(|(index, (column, shape))| CapturedColumn {
            name: Rc::clone(&column.name),
            index,
            key: json_key(&column.name),
            is_key: column.is_key,
            shape,
        });
        let mut columns: Vec<_> = columns.collect();
        // The order of jsonb. A row then looks the same live and read back, and Postgres saves the
        // sorting, which is a tenth of the cost of storing a row.
        columns.sort_by(|a, b| (a.name.len(), &a.name).cmp(&(b.name.len(), &b.name)));
        Self {
            name: Rc::new(RelationName::new(&relation.schema, &relation.name)),
            columns,
        }
    }

    fn describe(&self, relation: &OwnedRelation) -> DescribedRelation {
        let is_full = relation.replica_identity == ReplicaIdentity::Full;
        let names = |is_wanted: &dyn Fn(&CapturedColumn) -> bool| {
            let wanted = self.columns.iter().filter(|column| is_wanted(column));
            wanted.map(|column| Rc::clone(&column.name)).collect()
        };
        DescribedRelation {
            schema: Rc::clone(&relation.schema),
            table: Rc::clone(&relation.name),
            numbers: names(&|column| column.shape.is_number()),
            keys: names(&|column| column.is_key && !is_full),
        }
    }
}

fn changes(added: usize) -> Outcome {
    if added == 0 {
        Outcome::Nothing
    } else {
        Outcome::Changes(added)
    }
}

/// The tuples of one change.
struct ChangedRows<'a> {
    operation: Operation,
    data: Option<(&'a Tuple<'a>, ColumnSet)>,
    old: Option<(&'a Tuple<'a>, ColumnSet)>,
}

impl<'a> ChangedRows<'a> {
    /// Without a new row, the old row is the change's `data`.
    fn new(
        operation: Operation,
        new: Option<&'a Tuple<'a>>,
        old: Option<&'a OldTuple<'a>>,
    ) -> Self {
        let new = new.map(|tuple| (tuple, ColumnSet::All));
        let old = old.map(|old| match old {
            OldTuple::Key(tuple) => (tuple, ColumnSet::Key),
            OldTuple::Full(tuple) => (tuple, ColumnSet::All),
        });
        let (data, old) = match new {
            Some(_) => (new, old),
            None => (old, None),
        };
        Self {
            operation,
            data,
            old,
        }
    }

    fn check(&self, relation: &OwnedRelation) -> Result<(), RelationError> {
        let tuples = self.data.iter().chain(&self.old);
        tuples
            .map(|(tuple, _)| tuple)
            .try_for_each(|tuple| relation.check(tuple))
    }

    fn write(
        &self,
        columns: &[CapturedColumn],
        writer: &mut RowWriter<'_>,
    ) -> Result<(), BinaryValue> {
        match self.data {
            Some((tuple, column_set)) => writer.write_data(columns, tuple, column_set)?,
            None => writer.write_empty_data(),
        }
        if let Some((tuple, column_set)) = self.old {
            writer.write_old(columns, tuple, column_set)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
