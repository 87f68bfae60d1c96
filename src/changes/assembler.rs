//! From messages to changes: which transaction, which relation, which rows.
//!
//! ```text
//!             Begin           Commit
//!   outside --------> inside --------> outside
//!                      |  ^
//!           Insert, Update, Delete, Truncate: changes, unless the
//!           checkpoint already has the transaction; held back until
//!           it is known where the transaction ends
//! ```
//!
//! Only its commit tells where a transaction ends, and every change is stored with that. Of a
//! transaction that is too large to be held back until then the caller finds out, and says so.
//!
//! A transaction may span many batches, so all of this outlives them. One assembler serves one
//! peek: pgoutput describes each relation anew in every peek.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use crate::error::{Category, Error};
use crate::lsn::Lsn;
use crate::pgoutput::{
    Begin, Commit, Message, OldTuple, OwnedRelation, Relation, RelationCache, RelationError,
    ReplicaIdentity, Tuple,
};

use super::batch::{Change, ChangeBatch, Operation, RelationName};
use super::catalog::TypeCatalog;
use super::json_buffer::json_key;
use super::row::{BinaryValue, CapturedColumn, Extent, Members, RowWriter};
use super::shape::Shape;

/// What a change may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest JSON of a change as it is read back, new and old row together, in bytes. If it
    /// is longer, its largest columns are omitted.
    pub max_row_bytes: usize,
}

/// What came of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// Nothing to store.
    Nothing,
    /// This many changes were added to the batch, which may hold them back.
    Changes(usize),
    /// The relation has types that the catalogue does not know: run [`TypeCatalog::LOOKUP_SQL`]
    /// with these OIDs, let the catalogue learn, and pass the same message again.
    NeedTypes(Vec<u32>),
    /// A transaction is complete, and so are its changes; its commit record ends here.
    Committed(Lsn),
}

/// The messages do not make sense together. The slot must not move.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AssembleError {
    /// A change or a commit without a transaction.
    #[error("{0} outside a transaction")]
    OutsideTransaction(&'static str),
    /// A transaction within a transaction.
    #[error("transaction {inner} begins inside transaction {outer}")]
    InsideTransaction {
        /// The transaction that is open.
        outer: u32,
        /// The transaction that begins.
        inner: u32,
    },
    /// A commit that ends elsewhere than was foreseen.
    #[error("transaction {xid} ends at {found}, but {foreseen} was foreseen")]
    OtherCommit {
        /// The transaction.
        xid: u32,
        /// Where it was to end.
        foreseen: Lsn,
        /// Where it ends.
        found: Lsn,
    },
    /// The messages end within a transaction.
    #[error("the messages end inside transaction {0}")]
    Unfinished(u32),
    /// A row of a relation that was not described, or one that does not fit the description.
    #[error(transparent)]
    Relation(#[from] RelationError),
    /// A value in binary, which was not asked for.
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
    /// Where its commit record ends, when that is known before the commit.
    end: Option<Lsn>,
    /// The checkpoint already has it.
    skip: bool,
}

/// What a relation's rows have to be read by, as pgoutput described it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribedRelation {
    /// Its schema.
    pub schema: Rc<str>,
    /// Its name.
    pub table: Rc<str>,
    /// The columns whose type, or whose domain's base type, is an integer, `numeric` or a float.
    pub numbers: Vec<Rc<str>>,
    /// The columns that an update without an old row did not change: the key of the replica identity.
    /// With the identity `FULL` there is none, since every update has an old row.
    pub keys: Vec<Rc<str>>,
}

/// What is made of a relation's rows.
#[derive(Debug)]
struct Captured {
    name: Rc<RelationName>,
    columns: Vec<CapturedColumn>,
}

/// Turns the messages of one peek into changes.
#[derive(Debug)]
pub struct Assembler {
    checkpoint: Lsn,
    excluded: HashSet<(String, String)>,
    limits: Limits,
    transaction: Option<Transaction>,
    relations: RelationCache,
    /// For each described relation that is not excluded.
    captured: HashMap<u32, Captured>,
    members: Members,
    documents_as_text: bool,
    described: Vec<DescribedRelation>,
}

impl Assembler {
    /// Transactions whose commit record begins before `checkpoint`, where a record begins or ends,
    /// are skipped, as Postgres itself does for a slot that stands there (`SnapBuildXactNeedsSkip`);
    /// and so are changes of the tables (schema, name) in `excluded`.
    pub fn new(
        checkpoint: Lsn,
        excluded: impl IntoIterator<Item = (String, String)>,
        limits: Limits,
    ) -> Self {
        Self {
            checkpoint,
            excluded: excluded.into_iter().collect(),
            limits,
            transaction: None,
            relations: RelationCache::new(),
            captured: HashMap::new(),
            members: Members::default(),
            documents_as_text: false,
            described: Vec::new(),
        }
    }

    /// The relations that were described since this was last called.
    pub fn take_described(&mut self) -> Vec<DescribedRelation> {
        std::mem::take(&mut self.described)
    }

    /// Whether `json` and `jsonb` documents of the changes to come are given as strings of their
    /// text: also those that `jsonb` should be able to hold.
    pub fn write_documents_as_text(&mut self, as_text: bool) {
        self.documents_as_text = as_text;
    }

    /// The transaction that began and did not yet end, by its id.
    pub fn open_transaction(&self) -> Option<u32> {
        self.transaction.as_ref().map(|open| open.xid)
    }

    /// The commit record of the open transaction ends at `end`: then none of its changes are held
    /// back.
    pub fn foresee_commit(&mut self, end: Lsn, batch: &mut ChangeBatch) {
        if let Some(open) = &mut self.transaction {
            open.end = Some(end);
            batch.complete(end);
        }
    }

    /// Nothing more comes. Fails within a transaction.
    pub fn finish(&self) -> Result<(), AssembleError> {
        match self.open_transaction() {
            None => Ok(()),
            Some(xid) => Err(AssembleError::Unfinished(xid)),
        }
    }

    /// Takes the next message and adds the changes it stands for to `batch`.
    pub fn accept(
        &mut self,
        message: &Message<'_>,
        types: &TypeCatalog,
        batch: &mut ChangeBatch,
    ) -> Result<Accepted, AssembleError> {
        match message {
            Message::Begin(begin) => self.begin(begin),
            Message::Commit(commit) => self.commit(commit, batch),
            Message::Relation(relation) => Ok(self.describe(relation, types)),
            Message::Origin(_) | Message::Type(_) | Message::Message(_) => Ok(Accepted::Nothing),
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
                    if self.change(relation, &rows, batch)? != Accepted::Nothing {
                        added += 1;
                    }
                }
                Ok(changes(added))
            }
        }
    }

    fn begin(&mut self, begin: &Begin) -> Result<Accepted, AssembleError> {
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
        Ok(Accepted::Nothing)
    }

    fn commit(
        &mut self,
        commit: &Commit,
        batch: &mut ChangeBatch,
    ) -> Result<Accepted, AssembleError> {
        let Transaction { xid, end, .. } = self
            .transaction
            .take()
            .ok_or(AssembleError::OutsideTransaction("a commit"))?;
        let found = commit.end_lsn;
        if let Some(foreseen) = end.filter(|&end| end != found) {
            return Err(AssembleError::OtherCommit {
                xid,
                foreseen,
                found,
            });
        }
        batch.complete(found);
        Ok(Accepted::Committed(found))
    }

    /// Also in a skipped transaction: pgoutput describes a relation only once in a peek.
    fn describe(&mut self, relation: &Relation<'_>, types: &TypeCatalog) -> Accepted {
        let name = (relation.schema.to_owned(), relation.name.to_owned());
        if self.excluded.contains(&name) {
            self.relations.insert(relation);
            self.captured.remove(&relation.oid);
            return Accepted::Nothing;
        }
        let mut missing = Vec::new();
        let shapes: Vec<Shape> = relation
            .columns
            .iter()
            .map(|column| types.shape(column.type_oid, &mut missing))
            .collect();
        if !missing.is_empty() {
            return Accepted::NeedTypes(missing);
        }
        let relation = self.relations.insert(relation);
        let captured = Captured::new(&relation, shapes);
        self.described.push(captured.describe(&relation));
        self.captured.insert(relation.oid, captured);
        Accepted::Nothing
    }

    fn change(
        &mut self,
        oid: u32,
        rows: &ChangedRows<'_>,
        batch: &mut ChangeBatch,
    ) -> Result<Accepted, AssembleError> {
        let transaction = self
            .transaction
            .as_ref()
            .ok_or(AssembleError::OutsideTransaction(rows.operation.as_str()))?;
        let relation = self.relations.get(oid)?;
        let Some(captured) = self.captured.get(&oid).filter(|_| !transaction.skip) else {
            return Ok(Accepted::Nothing);
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
            batch.complete(end);
        }
        Ok(changes(1))
    }
}

impl Captured {
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
        // As jsonb has them: a row looks the same before and after it was stored, and sorting what
        // comes in another order is a tenth of what storing it costs Postgres.
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

fn changes(added: usize) -> Accepted {
    if added == 0 {
        Accepted::Nothing
    } else {
        Accepted::Changes(added)
    }
}

/// The tuples of one change.
struct ChangedRows<'a> {
    operation: Operation,
    data: Option<(&'a Tuple<'a>, Extent)>,
    old: Option<(&'a Tuple<'a>, Extent)>,
}

impl<'a> ChangedRows<'a> {
    /// What an old row is: `data` where there is no new one.
    fn new(
        operation: Operation,
        new: Option<&'a Tuple<'a>>,
        old: Option<&'a OldTuple<'a>>,
    ) -> Self {
        let new = new.map(|tuple| (tuple, Extent::Row));
        let old = old.map(|old| match old {
            OldTuple::Key(tuple) => (tuple, Extent::Key),
            OldTuple::Full(tuple) => (tuple, Extent::Row),
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
            Some((tuple, extent)) => writer.data(columns, tuple, extent)?,
            None => writer.empty_data(),
        }
        if let Some((tuple, extent)) = self.old {
            writer.old(columns, tuple, extent)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
