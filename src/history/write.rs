//! Inserting captured changes.

use std::rc::Rc;

use super::copy::{COPY, CopyRows};
use crate::changes::{Change, ChangeBatch};
use crate::error::{Category, Error, Result};
use crate::postgres::{ArrayParam, Connection, Element, Param, Stream};

/// One statement for a whole batch: a binary array for each column, so that nothing is escaped and
/// a batch costs one round trip. `ordinality` gives the ids, in the order of the batch.
const INSERT: &str = "\
INSERT INTO change_history (id, lsn, table_name, operation, data, old_data, unchanged, omitted, \
as_text, xid, committed_at, epoch) \
SELECT $1::int8 + ordinality - 1, c.lsn, c.table_name, c.operation, c.data, c.old_data, \
c.unchanged::text[], c.omitted::text[], c.as_text::text[], c.xid, c.committed_at, $2::int4 \
FROM unnest($3::text[], $4::text[], $5::text[], $6::jsonb[], $7::jsonb[], $8::text[], $9::text[], \
$10::text[], $11::int8[], $12::timestamptz[]) WITH ORDINALITY AS c(lsn, table_name, operation, \
data, old_data, unchanged, omitted, as_text, xid, committed_at, ordinality)";

/// A statement that must return a row for a batch to be inserted. Both run as one statement, so that
/// both happen, or neither.
#[derive(Clone, Debug)]
pub struct Condition<'a> {
    /// It changes something and returns a row, or changes nothing. Its parameters are numbered from
    /// [`Self::FIRST_PARAM`] on.
    pub sql: String,
    /// Its parameters.
    pub params: Vec<Param<'a>>,
}

impl Condition<'_> {
    /// The first parameter's number: behind those of the insertion.
    pub const FIRST_PARAM: usize = INSERT_PARAMS + 1;
}

const INSERT_PARAMS: usize = 12;

/// Bytes of one message of a copy: Postgres reads each whole before it looks at a row of it.
const COPY_PIECE: usize = 64 << 10;

/// The code of the error when Postgres refuses a value: jsonb does not take every JSON.
pub const VALUE_REFUSED: &str = "value_refused";

/// How batches are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteMethod {
    /// An `INSERT`, which every pooler knows.
    Insert,
    /// `COPY ... FROM STDIN`, over a connection to Postgres itself.
    Copy,
}

/// Writes batches; keeps its buffers from one to the next.
#[derive(Debug)]
pub struct Writer {
    by: WriteMethod,
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
    pub fn new(by: WriteMethod) -> Self {
        Self {
            by,
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

    /// Queues what stores the batch under the ids from `first_id` on, in the caller's transaction.
    /// [`Self::finish`] takes in the answer.
    pub fn queue<S: Stream>(
        &mut self,
        connection: &mut Connection<S>,
        batch: &ChangeBatch,
        first_id: i64,
        epoch: i32,
    ) -> Result<()> {
        if self.by == WriteMethod::Copy {
            connection.queue_copy(COPY)?;
            for piece in self.copy.encode(batch, first_id, epoch).chunks(COPY_PIECE) {
                connection.queue_copy_data(piece)?;
            }
            return Ok(connection.queue_copy_end()?);
        }
        self.fill(batch);
        Ok(connection.queue(INSERT, &self.params(first_id, epoch))?)
    }

    /// As [`Self::queue`], by an `INSERT`, which takes place only if `condition` is met: else it
    /// inserts nothing.
    pub fn queue_if<S: Stream>(
        &mut self,
        connection: &mut Connection<S>,
        batch: &ChangeBatch,
        first_id: i64,
        epoch: i32,
        condition: &Condition<'_>,
    ) -> Result<()> {
        self.fill(batch);
        let sql = format!(
            "WITH condition AS ({}) {INSERT} WHERE EXISTS (SELECT FROM condition)",
            condition.sql
        );
        let mut params = self.params(first_id, epoch).to_vec();
        params.extend_from_slice(&condition.params);
        Ok(connection.queue(&sql, &params)?)
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

    /// Takes in the answer to what was queued; gives the number of rows inserted.
    ///
    /// Fails with [`Category::Storage`] when Postgres refuses a value (SQLSTATE classes 22 and 54)
    /// or has no room (class 53).
    pub async fn finish<S: Stream>(connection: &mut Connection<S>) -> Result<u64> {
        connection.finish().await.map_err(explain)
    }

    fn fill(&mut self, batch: &ChangeBatch) {
        self.clear();
        let mut lsn = (None, String::new());
        for change in batch.changes() {
            // The changes of a transaction share its text.
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

/// A column without a value is as good as none, and Postgres unnests one the less.
fn unless_all_null(column: &ArrayParam) -> Param<'_> {
    if column.has_values() {
        Param::Array(column)
    } else {
        Param::Null
    }
}

/// Column names as the text of a `text[]`: arrays of arrays of different lengths do not exist.
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

fn explain(cause: crate::postgres::Error) -> Error {
    let class = cause.sqlstate().map(|state| state.class().to_owned());
    let (code, message) = match class.as_deref() {
        Some("22" | "54") => (VALUE_REFUSED, "change_history refused a value"),
        Some("53") => ("no_room", "Postgres has no room for change history"),
        _ => return cause.into(),
    };
    let sqlstate = cause
        .sqlstate()
        .map(|state| state.as_str().to_owned())
        .unwrap_or_default();
    Error::new(Category::Storage, code, message)
        .with_sqlstate(sqlstate)
        .with_source(cause)
}
