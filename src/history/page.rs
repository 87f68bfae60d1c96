//! Reading history back, a bounded page at a time.

use std::rc::Rc;

use tokio::io::{AsyncRead, AsyncWrite};

use super::recent::StoredChange;
use crate::changes::TableChange;
use crate::config::TableName;
use crate::error::Result;
use crate::lsn::Lsn;
use crate::postgres::{Connection, Param, Row, next_fetch_size};

/// What to read.
#[derive(Clone, Copy, Debug)]
pub struct PageRequest<'a> {
    /// The id before the first change wanted.
    pub after: i64,
    /// The id of the last change wanted.
    pub through: i64,
    /// Only these tables, as `change_history.table_name` has them; empty: all.
    pub tables: &'a [String],
    /// At most so many changes.
    pub max_changes: u32,
    /// At most so many bytes of JSON, but always one change.
    pub max_bytes: usize,
}

/// A stretch of history.
#[derive(Clone, Debug)]
pub struct Page {
    /// In id order.
    pub changes: Vec<StoredChange>,
    /// Where the next page goes on from: everything up to here has been read. The last change's id,
    /// or, when there is none, all that was asked for.
    pub through: i64,
    /// The oldest change that was still kept after the page was read: where it is beyond the page's
    /// first id, changes may be missing from the page.
    pub oldest: i64,
    /// How many changes to ask for next, by the size of these: about as many as fill a page.
    pub next_changes: u32,
}

/// What is asked for first by who reads all, and never more than that.
pub const MAX_PAGE_CHANGES: u32 = 5_000;

const PAGE: &str = "\
SELECT id, lsn, table_name, operation, data::text, old_data::text, array_to_json(unchanged)::text, \
array_to_json(omitted)::text, array_to_json(as_text)::text, xid, committed_at, epoch \
FROM (SELECT *, sum(pg_column_size(data)) OVER (ORDER BY id) - pg_column_size(data) AS before \
FROM change_history WHERE id > $1::int8 AND id <= $2::int8 \
AND ($3::text[] IS NULL OR table_name = ANY ($3::text[])) ORDER BY id LIMIT $4::int8) AS page \
WHERE before < $5::int8 ORDER BY id";

const OLDEST: &str = "SELECT min(id) FROM change_history";

/// Reads one page.
///
/// Postgres cuts it by the stored size, which is compressed, so that large rows are not sent in
/// vain; the bytes of the JSON are counted here. Text that compresses well is a hundred times as large:
/// who reads on asks for [`Page::next_changes`].
pub async fn read_page<S>(connection: &mut Connection<S>, request: PageRequest<'_>) -> Result<Page>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let tables = crate::postgres::ArrayParam::texts(request.tables);
    let params = [
        Param::Int8(request.after),
        Param::Int8(request.through),
        if request.tables.is_empty() {
            Param::Null
        } else {
            Param::Array(&tables)
        },
        Param::Int8(request.max_changes.into()),
        Param::Int8(i64::try_from(request.max_bytes).unwrap_or(i64::MAX)),
    ];
    connection.queue(PAGE, &params)?;
    // In a snapshot of its own, after the page's: what is pruned is pruned from the oldest on.
    connection.queue(OLDEST, &[])?;
    connection.send().await?;
    let mut changes: Vec<StoredChange> = Vec::new();
    let (mut bytes, mut cut) = (0, false);
    while let Some(row) = connection.next_row().await? {
        if cut {
            continue;
        }
        let change = stored_change(&row)?;
        cut = !changes.is_empty() && bytes + change.json.len() > request.max_bytes;
        if !cut {
            bytes += change.json.len();
            changes.push(change);
        }
    }
    let oldest: Option<i64> = match connection.next_row().await? {
        Some(row) => row.get(0)?,
        None => None,
    };
    connection.finish().await?;
    let next_changes = next_fetch_size(changes.len(), bytes, request.max_bytes, MAX_PAGE_CHANGES);
    Ok(Page {
        // Whether there is more is not known: the next page may be empty.
        through: changes.last().map_or(request.through, |change| change.id),
        oldest: oldest.unwrap_or(i64::MAX),
        next_changes,
        changes,
    })
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

/// The id of the oldest change that is kept; behind `head` when none is.
pub async fn oldest<S>(connection: &mut Connection<S>, head: i64) -> Result<i64>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let row = connection.query_one(OLDEST, &[]).await?;
    let oldest: Option<i64> = row.get(0)?;
    Ok(oldest.unwrap_or(head.saturating_add(1)))
}
