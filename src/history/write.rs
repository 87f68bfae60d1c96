//! Writing captured changes.

use std::rc::Rc;

use super::copy::{COPY, CopyRows};
use crate::changes::{Change, ChangeBatch};
use crate::error::{Category, Error, Result};
use crate::pipeline::Queued;
use crate::postgres::{self, ArrayParam, Connection, Element, Param, Stream};

/// Inserts a whole batch with one binary array for each column, so that nothing is escaped and a
/// batch costs one round trip. `ordinality` numbers the rows in the order of the batch, which makes
/// the ids.
///
/// The expressions are in the order of `change_columns`.
const INSERT: &str = concat!(
    "INSERT INTO change_history (",
    change_columns!(),
    ") \
SELECT $1::int8 + ordinality - 1, c.lsn, c.table_name, c.operation, c.data, c.old_data, \
c.unchanged::text[], c.omitted::text[], c.as_text::text[], c.xid, c.committed_at, $2::int4 \
FROM unnest($3::text[], $4::text[], $5::text[], $6::jsonb[], $7::jsonb[], $8::text[], $9::text[], \
$10::text[], $11::int8[], $12::timestamptz[]) WITH ORDINALITY AS c(lsn, table_name, operation, \
data, old_data, unchanged, omitted, as_text, xid, committed_at, ordinality)"
);

/// A statement that decides whether a batch is inserted: only if it returns a row. Both are one
/// statement to Postgres, so either both take effect or neither does.
#[derive(Clone, Debug)]
pub struct Condition<'a> {
    /// The SQL: it either changes something and returns a row, or changes nothing and returns none.
    /// Its parameters are numbered from [`Self::FIRST_PARAM`] on.
    pub sql: String,
    /// Its parameters.
    pub params: Vec<Param<'a>>,
}

impl Condition<'_> {
    /// The number of its first parameter: those of the `INSERT` come before it.
    pub const FIRST_PARAM: usize = INSERT_PARAMS + 1;
}

const INSERT_PARAMS: usize = 12;

/// Bytes of one `CopyData` message. Postgres reads each message whole before it parses a row of it.
const COPY_PIECE: usize = 64 << 10;

/// How batches are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteMethod {
    /// By `INSERT`, which works through every pooler.
    Insert,
    /// By `COPY ... FROM STDIN`, over a direct connection to Postgres.
    Copy,
}

/// Why a batch was not written.
#[derive(Debug)]
#[non_exhaustive]
pub enum WriteError {
    /// Postgres refused a value (SQLSTATE classes 22 and 54): `jsonb` does not accept every JSON
    /// document.
    ValueRefused(postgres::Error),
    /// Postgres has no disk space, memory or connections left (class 53).
    NoRoom(postgres::Error),
    /// Anything else.
    Other(postgres::Error),
}

/// An insertion that is queued and whose result has not been read.
#[must_use = "the result of a queued insertion must be read"]
#[derive(Debug)]
pub struct QueuedInsert(Queued);

impl QueuedInsert {
    /// Waits for the result. Returns the number of rows inserted.
    pub async fn finish<S: Stream>(
        self,
        connection: &mut Connection<S>,
    ) -> std::result::Result<u64, WriteError> {
        self.0.finish(connection).await.map_err(WriteError::of)
    }
}

/// Writes batches, and reuses its buffers from one to the next.
#[derive(Debug)]
pub struct Writer {
    method: WriteMethod,
    copy: CopyRows,
    lsn: ArrayParam,
    table_name: ArrayParam,
    operation: ArrayParam,
    data: ArrayParam,
    old_data: ArrayParam,
    unchanged: ArrayParam,
    omitted: ArrayParam,
    as_text: ArrayParam,
    xid: ArrayParam,
    committed_at: ArrayParam,
}

impl Writer {
    /// A writer with empty buffers.
    pub fn new(method: WriteMethod) -> Self {
        Self {
            method,
            copy: CopyRows::default(),
            lsn: ArrayParam::new(Element::Text),
            table_name: ArrayParam::new(Element::Text),
            operation: ArrayParam::new(Element::Text),
            data: ArrayParam::new(Element::Jsonb),
            old_data: ArrayParam::new(Element::Jsonb),
            unchanged: ArrayParam::new(Element::Text),
            omitted: ArrayParam::new(Element::Text),
            as_text: ArrayParam::new(Element::Text),
            xid: ArrayParam::new(Element::Int8),
            committed_at: ArrayParam::new(Element::Timestamptz),
        }
    }

    /// Queues the insertion of a batch whose first change gets the id `first_id`, in the caller's
    /// transaction.
    pub fn queue<S: Stream>(
        &mut self,
        connection: &mut Connection<S>,
        batch: &ChangeBatch,
        first_id: i64,
        epoch: i32,
    ) -> Result<QueuedInsert> {
        let queued = match self.method {
            WriteMethod::Copy => {
                let pieces = self.copy.encode(batch, first_id, epoch).chunks(COPY_PIECE);
                Queued::copy(connection, COPY, pieces)
            }
            WriteMethod::Insert => {
                self.fill(batch);
                Queued::statement(connection, INSERT, &self.params(first_id, epoch))
            }
        };
        Ok(QueuedInsert(queued?))
    }

    /// As [`Self::queue`], but always by `INSERT`, and inserts nothing unless `condition` returns a
    /// row.
    pub fn queue_if<S: Stream>(
        &mut self,
        connection: &mut Connection<S>,
        batch: &ChangeBatch,
        first_id: i64,
        epoch: i32,
        condition: &Condition<'_>,
    ) -> Result<QueuedInsert> {
        self.fill(batch);
        let sql = format!(
            "WITH condition AS ({}) {INSERT} WHERE EXISTS (SELECT FROM condition)",
            condition.sql
        );
        let mut params = self.params(first_id, epoch).to_vec();
        params.extend_from_slice(&condition.params);
        Ok(QueuedInsert(Queued::statement(connection, &sql, &params)?))
    }

    fn params(&self, first_id: i64, epoch: i32) -> [Param<'_>; INSERT_PARAMS] {
        [
            Param::Int8(first_id),
            Param::Int4(epoch),
            Param::Array(&self.lsn),
            Param::Array(&self.table_name),
            Param::Array(&self.operation),
            Param::Array(&self.data),
            unless_all_null(&self.old_data),
            unless_all_null(&self.unchanged),
            unless_all_null(&self.omitted),
            unless_all_null(&self.as_text),
            Param::Array(&self.xid),
            Param::Array(&self.committed_at),
        ]
    }

    fn fill(&mut self, batch: &ChangeBatch) {
        self.clear();
        let mut lsn = (None, String::new());
        for change in batch.changes() {
            // All changes of a transaction have the same LSN: it is formatted once.
            if lsn.0 != Some(change.lsn) {
                lsn = (Some(change.lsn), change.lsn.to_string());
            }
            self.lsn.push_text(&lsn.1);
            self.push(batch, change);
        }
    }

    fn push(&mut self, batch: &ChangeBatch, change: &Change) {
        self.table_name.push_text(change.relation.qualified());
        self.operation.push_text(change.operation.as_str());
        self.data.push_bytes(batch.data(change));
        match batch.old(change) {
            Some(old) => self.old_data.push_bytes(old),
            None => self.old_data.push_null(),
        }
        push_names(&mut self.unchanged, &change.unchanged);
        push_names(&mut self.omitted, &change.omitted);
        push_names(&mut self.as_text, &change.as_text);
        self.xid.push_i64(change.xid.into());
        self.committed_at.push_i64(change.committed_at);
    }

    fn clear(&mut self) {
        for column in [
            &mut self.lsn,
            &mut self.table_name,
            &mut self.operation,
            &mut self.data,
            &mut self.old_data,
            &mut self.unchanged,
            &mut self.omitted,
            &mut self.as_text,
            &mut self.xid,
            &mut self.committed_at,
        ] {
            column.clear();
        }
    }
}

/// A column of nulls is passed as null: Postgres then has one array less to unnest.
fn unless_all_null(column: &ArrayParam) -> Param<'_> {
    if column.has_values() {
        Param::Array(column)
    } else {
        Param::Null
    }
}

/// Appends column names as the text of a `text[]`: Postgres has no arrays of arrays whose lengths
/// differ.
fn push_names(column: &mut ArrayParam, names: &[Rc<str>]) {
    if names.is_empty() {
        column.push_null();
        return;
    }
    let quoted: Vec<String> = names
        .iter()
        .map(|name| format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\"")))
        .collect();
    column.push_text(&format!("{{{}}}", quoted.join(",")));
}

impl WriteError {
    fn of(cause: postgres::Error) -> Self {
        let state = cause.sqlstate();
        match state.as_ref().map(postgres::SqlState::class) {
            Some("22" | "54") => Self::ValueRefused(cause),
            Some("53") => Self::NoRoom(cause),
            _ => Self::Other(cause),
        }
    }
}

impl From<WriteError> for Error {
    fn from(error: WriteError) -> Self {
        let (code, message, cause) = match error {
            WriteError::ValueRefused(cause) => {
                ("value_refused", "change_history refused a value", cause)
            }
            WriteError::NoRoom(cause) => {
                ("no_room", "Postgres has no room for change history", cause)
            }
            WriteError::Other(cause) => return cause.into(),
        };
        let error = Self::new(Category::Storage, code, message);
        match cause.sqlstate() {
            Some(state) => error.with_sqlstate(state.as_str()),
            None => error,
        }
        .with_source(cause)
    }
}
