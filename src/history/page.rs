//! Reading history back, a bounded page at a time.

use std::rc::Rc;
use std::time::Duration;

use super::recent::StoredChange;
use crate::changes::TableChange;
use crate::config::TableName;
use crate::error::Result;
use crate::lsn::Lsn;
use crate::pipeline::Queued;
use crate::postgres::{ArrayParam, Connection, Param, Row, Stream, next_fetch_size};

/// A page to read.
#[derive(Clone, Copy, Debug)]
pub struct PageRequest<'a> {
    /// The id before the first change wanted.
    pub after: i64,
    /// The id of the last change wanted. It bounds the time that a page takes: every row up to it
    /// is looked at, whether it matches or not.
    pub through: i64,
    /// Only these tables, as in `change_history.table_name`; empty: all.
    pub tables: &'a [String],
    /// The most changes to return, from 1.
    pub max_changes: u32,
    /// The most bytes of JSON to return; one change is always returned.
    pub max_bytes: usize,
    /// What Postgres may spend on it.
    pub timeout: Duration,
}

/// A range of the history.
#[derive(Clone, Debug)]
pub struct Page {
    /// In id order.
    pub changes: Vec<StoredChange>,
    /// Everything up to here has been read: the last change's id if the page is full, otherwise the
    /// end of the requested range.
    pub through: i64,
    /// The oldest change that was still kept after the page was read. If it is beyond the page's
    /// first id, changes may be missing from the page. `i64::MAX` when the history is empty.
    pub oldest: i64,
    /// How many changes fill a page, judging by this one.
    pub next_changes: u32,
    /// The page ended with the range, not with its changes or bytes.
    pub is_range_read: bool,
}

impl Page {
    /// A page after `after` without changes.
    pub fn empty(after: i64) -> Self {
        Self {
            changes: Vec::new(),
            through: after,
            oldest: after,
            next_changes: MAX_PAGE_CHANGES,
            is_range_read: false,
        }
    }
}

/// How a single row is read when it cannot be read whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trim {
    /// Its largest columns are omitted.
    LargeColumns,
    /// All columns are omitted, without looking at them.
    AllColumns,
}

/// Initial and maximum page size, in changes.
pub const MAX_PAGE_CHANGES: u32 = 5_000;
/// The most bytes of one row's JSON that are read, including the old row. Larger rows are trimmed.
pub const MAX_READ_ROW_BYTES: i64 = 16 << 20;
/// What Postgres may spend on a single row, or on the id of the oldest change.
const TIMEOUT: Duration = Duration::from_secs(15);

/// The page is cut twice: by stored size, which is cheap to read but compressed, so that rows far
/// beyond the page are not decompressed; then by the size as text, which is what is sent. A row
/// beyond the limit comes without its columns.
const PAGE: &str = "\
SELECT id, lsn, table_name, operation, CASE WHEN size <= $6::int8 THEN data_text END, \
CASE WHEN size <= $6::int8 THEN old_text END, array_to_json(unchanged)::text, \
array_to_json(omitted)::text, array_to_json(as_text)::text, xid, committed_at, epoch, \
size > $6::int8 \
FROM (SELECT page.*, read.*, sum(size) OVER (ORDER BY id) - size AS read_before \
FROM (SELECT *, sum(stored) OVER (ORDER BY id) - stored AS stored_before \
FROM (SELECT *, pg_column_size(data) + COALESCE(pg_column_size(old_data), 0) AS stored \
FROM change_history WHERE id > $1::int8 AND id <= $2::int8 \
AND ($3::text[] IS NULL OR table_name = ANY ($3::text[])) ORDER BY id LIMIT $4::int8) AS candidate) \
AS page, LATERAL (SELECT data_text, old_text, \
octet_length(data_text) + COALESCE(octet_length(old_text), 0) AS size \
FROM (SELECT data::text AS data_text, old_data::text AS old_text OFFSET 0) AS text OFFSET 0) AS read \
WHERE stored_before < $5::int8) AS cut WHERE read_before < $5::int8 ORDER BY id";

/// Keeps the smallest columns up to a limit, which usually include the key.
const TRIMMED: &str = "\
SELECT id, lsn, table_name, operation, COALESCE(new_row.kept, '{}'), \
CASE WHEN old_data IS NOT NULL THEN COALESCE(old_row.kept, '{}') END, array_to_json(unchanged)::text, \
array_to_json(COALESCE(omitted, '{}') || COALESCE(new_row.dropped, '{}') || \
ARRAY(SELECT unnest(old_row.dropped) EXCEPT SELECT unnest(new_row.dropped)))::text, \
array_to_json(as_text)::text, xid, committed_at, epoch \
FROM change_history, LATERAL (SELECT (jsonb_object_agg(key, value) \
  FILTER (WHERE total <= $2::int8))::text AS kept, \
  array_agg(key) FILTER (WHERE total > $2::int8) AS dropped \
  FROM (SELECT key, value, sum(octet_length(key) + octet_length(value::text)) \
    OVER (ORDER BY octet_length(value::text), key) AS total FROM jsonb_each(data)) AS columns) AS new_row, \
LATERAL (SELECT (jsonb_object_agg(key, value) FILTER (WHERE total <= $2::int8))::text AS kept, \
  array_agg(key) FILTER (WHERE total > $2::int8) AS dropped \
  FROM (SELECT key, value, sum(octet_length(key) + octet_length(value::text)) \
    OVER (ORDER BY octet_length(value::text), key) AS total \
    FROM jsonb_each(old_data)) AS columns) AS old_row \
WHERE id = $1::int8";

/// Does not read the row's values. The column names are the table's current ones.
const BARE: &str = "\
SELECT id, lsn, table_name, operation, '{}', NULL, NULL, \
(SELECT json_agg(attname ORDER BY attnum) FROM pg_attribute \
WHERE attrelid = to_regclass(table_name) AND attnum > 0 AND NOT attisdropped)::text, \
NULL, xid, committed_at, epoch FROM change_history WHERE id = $1::int8";

const OLDEST: &str = "SELECT min(id) FROM change_history";

/// Reads one page.
///
/// A row that is too large to be read is returned with its large columns in `omitted`. After an
/// error the connection must be dropped.
pub async fn read_page<S: Stream>(
    connection: &mut Connection<S>,
    request: PageRequest<'_>,
) -> Result<Page> {
    let tables = ArrayParam::texts(request.tables);
    let max_bytes = i64::try_from(request.max_bytes).unwrap_or(i64::MAX);
    let params = [
        Param::Int8(request.after),
        Param::Int8(request.through),
        if request.tables.is_empty() {
            Param::Null
        } else {
            Param::Array(&tables)
        },
        Param::Int8(request.max_changes.into()),
        Param::Int8(max_bytes),
        Param::Int8(MAX_READ_ROW_BYTES),
    ];
    let mut rows = PageRows::new(request.max_bytes);
    let oldest = in_transaction(connection, request.timeout, PAGE, &params, |row| {
        rows.push(row)
    })
    .await?;
    if let (Some(id), true) = (rows.too_large, rows.changes.is_empty()) {
        return read_row(connection, id, Trim::LargeColumns).await;
    }
    let PageRows {
        changes,
        bytes,
        is_cut,
        ..
    } = rows;
    let next_changes = next_fetch_size(changes.len(), bytes, request.max_bytes, MAX_PAGE_CHANGES);
    Ok(Page {
        // It is unknown whether Postgres cut the page by its stored size, so a page with changes
        // ends with the last of them.
        through: changes.last().map_or(request.through, |change| change.id),
        oldest,
        next_changes,
        is_range_read: !is_cut && changes.len() < request.max_changes as usize,
        changes,
    })
}

/// Reads one row that cannot be read whole. No row: it has been pruned.
///
/// After an error the connection must be dropped.
pub async fn read_row<S: Stream>(
    connection: &mut Connection<S>,
    id: i64,
    trim: Trim,
) -> Result<Page> {
    let params = [Param::Int8(id), Param::Int8(MAX_READ_ROW_BYTES / 2)];
    let (sql, params) = match trim {
        Trim::LargeColumns => (TRIMMED, params.as_slice()),
        Trim::AllColumns => (BARE, params.split_at(1).0),
    };
    let mut changes = Vec::new();
    let oldest = in_transaction(connection, TIMEOUT, sql, params, |row| {
        changes.push(stored_change(row)?);
        Ok(())
    })
    .await?;
    Ok(Page {
        changes,
        through: id,
        oldest,
        next_changes: 1,
        is_range_read: true,
    })
}

/// Runs a query and then reads the id of the oldest change, in one round trip and within a time
/// limit. Returns that id.
async fn in_transaction<S: Stream>(
    connection: &mut Connection<S>,
    timeout: Duration,
    sql: &str,
    params: &[Param<'_>],
    each: impl FnMut(&Row) -> Result<()>,
) -> Result<i64> {
    // Each statement has a snapshot of its own: the oldest change is read after the page, and
    // pruning begins with the oldest.
    const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED, READ ONLY";
    let begin = Queued::statement(connection, BEGIN, &[])?;
    let limits = format!(
        "SELECT set_config('statement_timeout', '{}', true), \
         set_config('work_mem', '16MB', true)",
        timeout.as_millis()
    );
    let limits = Queued::statement(connection, &limits, &[])?;
    let rows = Queued::statement(connection, sql, params)?;
    let oldest = Queued::statement(connection, OLDEST, &[])?;
    let end = Queued::statement(connection, "COMMIT", &[])?;
    connection.send().await?;
    begin.finish(connection).await?;
    limits.finish(connection).await?;
    rows.for_each_row(connection, each).await?;
    let oldest = oldest.first_row(connection).await?;
    end.finish(connection).await?;
    let oldest: Option<i64> = oldest.map_or(Ok(None), |row| row.get(0))?;
    Ok(oldest.unwrap_or(i64::MAX))
}

/// The rows of a page, up to its bytes.
struct PageRows {
    max_bytes: usize,
    changes: Vec<StoredChange>,
    bytes: usize,
    is_cut: bool,
    /// A row that came without its columns.
    too_large: Option<i64>,
}

impl PageRows {
    fn new(max_bytes: usize) -> Self {
        Self {
            max_bytes,
            changes: Vec::new(),
            bytes: 0,
            is_cut: false,
            too_large: None,
        }
    }

    fn push(&mut self, row: &Row) -> Result<()> {
        if self.is_cut {
            return Ok(());
        }
        if row.get(12)? {
            // The next page begins with it.
            self.too_large = Some(row.get(0)?);
            self.is_cut = true;
            return Ok(());
        }
        let change = stored_change(row)?;
        let bytes = self.bytes + change.json.len();
        self.is_cut = !self.changes.is_empty() && bytes > self.max_bytes;
        if !self.is_cut {
            self.bytes = bytes;
            self.changes.push(change);
        }
        Ok(())
    }
}

fn stored_change(row: &Row) -> Result<StoredChange> {
    let id: i64 = row.get(0)?;
    let lsn: &str = row.get(1)?;
    let table_name: &str = row.get(2)?;
    let name = TableName::parse(table_name).unwrap_or_else(|| TableName {
        schema: "public".into(),
        table: table_name.into(),
    });
    let names = |column| -> Result<Vec<String>> {
        let json: Option<&str> = row.get(column)?;
        Ok(json
            .and_then(|json| serde_json::from_str(json).ok())
            .unwrap_or_default())
    };
    let (unchanged, omitted, as_text) = (names(6)?, names(7)?, names(8)?);
    let xid: Option<i64> = row.get(9)?;
    let epoch: Option<i32> = row.get(11)?;
    let data: &str = row.get(4)?;
    let old: Option<&str> = row.get(5)?;
    let change = TableChange {
        id,
        lsn: lsn.parse().unwrap_or(Lsn::INVALID),
        epoch: epoch.unwrap_or_default(),
        xid: xid.and_then(|xid| u32::try_from(xid).ok()),
        schema: &name.schema,
        table: &name.table,
        operation: row.get(3)?,
        data: data.as_bytes(),
        old: old.map(str::as_bytes),
        unchanged: &unchanged,
        omitted: &omitted,
        as_text: &as_text,
        committed_at: row.get(10)?,
    };
    let mut json = Vec::with_capacity(data.len() + 256);
    change.write_json(&mut json);
    let json = String::from_utf8_lossy(&json).into_owned();
    Ok(StoredChange {
        id,
        table: Rc::from(table_name),
        json,
    })
}

/// The id of the oldest change that is kept; `i64::MAX` when there is none.
pub async fn oldest<S: Stream>(connection: &mut Connection<S>) -> Result<i64> {
    in_transaction(connection, TIMEOUT, "SELECT", &[], |_| Ok(())).await
}
