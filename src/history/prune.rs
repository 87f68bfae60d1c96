//! Pruning: removes the oldest changes in small batches, so that what is left has no gaps.

use std::time::Duration;

use crate::config::HistoryRetention;
use crate::error::{Category, Error, Result};
use crate::pipeline::Queued;
use crate::postgres::{self, Connection, Param, Row, Stream};
use crate::state::BEGIN;

/// The oldest and the newest change of the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryBounds {
    /// The id of the oldest change.
    pub oldest: i64,
    /// The id of the newest change.
    pub newest: i64,
    /// How long ago the oldest was stored.
    pub oldest_age: Duration,
}

/// The result of pruning one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pruned {
    /// The number of changes removed.
    pub rows: u64,
    /// The lowest id that may be left.
    pub oldest: i64,
    /// The batch was full: there may be more to prune.
    pub more: bool,
}

/// Ids in one batch, and so in one transaction: few enough to hold locks only briefly.
const BATCH: i64 = 5_000;

/// Reads the bounds of the history; `None` if it is empty.
pub async fn read_bounds<S: Stream>(
    connection: &mut Connection<S>,
) -> Result<Option<HistoryBounds>> {
    const BOUNDS: &str = "\
SELECT id, (SELECT max(id) FROM change_history), \
GREATEST(extract(epoch FROM now() - created_at) * 1000, 0)::int8 \
FROM change_history ORDER BY id LIMIT 1";
    let Some(row) = connection.query_optional(BOUNDS, &[]).await? else {
        return Ok(None);
    };
    let age: Option<i64> = row.get(2)?;
    Ok(Some(HistoryBounds {
        oldest: row.get(0)?,
        newest: row.get(1)?,
        oldest_age: Duration::from_millis(age.map_or(0, i64::unsigned_abs)),
    }))
}

/// Prunes at most one batch: changes older than `max_age`, and all but the newest `max_rows`. Never
/// removes a change whose id is `floor` or above. Sends no statement if there is nothing to remove.
///
/// Only an unbroken run from the oldest change on is removed, so that what is left has no gaps.
pub async fn prune<S: Stream>(
    connection: &mut Connection<S>,
    bounds: HistoryBounds,
    retention: HistoryRetention,
    floor: Option<i64>,
) -> Result<Pruned> {
    // Storing transactions take turns, so created_at ascends with the id. If the clock was set back
    // it does not, which only delays pruning.
    const PRUNE: &str = "\
WITH kept AS (SELECT min(id) AS id FROM change_history WHERE id >= $1::int8 AND id < $2::int8 \
  AND ($4::int8 IS NULL OR created_at >= now() - $4::int8 * interval '1 millisecond')), \
gone AS (DELETE FROM change_history WHERE id >= $1::int8 AND id < $2::int8 \
  AND id < GREATEST($3::int8, COALESCE((SELECT id FROM kept), $2::int8)) RETURNING id) \
SELECT count(*), max(id) FROM gone";
    let nothing = Pruned {
        rows: 0,
        oldest: bounds.oldest,
        more: false,
    };
    let surplus = retention.max_rows.map_or(bounds.oldest, |rows| {
        let rows = i64::try_from(rows).unwrap_or(i64::MAX);
        bounds.newest.saturating_sub(rows).saturating_add(1)
    });
    let too_old = retention.max_age.is_some_and(|age| bounds.oldest_age > age);
    let end = bounds.oldest.saturating_add(BATCH);
    let end = floor.map_or(end, |floor| end.min(floor));
    if end <= bounds.oldest || !(too_old || surplus > bounds.oldest) {
        return Ok(nothing);
    }
    let max_age = retention.max_age.map(|age| age.as_millis());
    let max_age = max_age.map(|age| i64::try_from(age).unwrap_or(i64::MAX));
    let params = [
        Param::Int8(bounds.oldest),
        Param::Int8(end),
        Param::Int8(surplus),
        max_age.map_or(Param::Null, Param::Int8),
    ];
    let row = in_transaction(connection, PRUNE, &params)
        .await
        .map_err(explain)?;
    let rows: i64 = row.get(0)?;
    let newest: Option<i64> = row.get(1)?;
    Ok(newest.map_or(nothing, |newest| Pruned {
        rows: rows.unsigned_abs(),
        oldest: newest + 1,
        more: newest + 1 == bounds.oldest + BATCH,
    }))
}

/// Runs a statement in a transaction that writes, in one round trip. Returns its row.
async fn in_transaction<S: Stream>(
    connection: &mut Connection<S>,
    sql: &str,
    params: &[Param<'_>],
) -> Result<Row> {
    let begin = Queued::statement(connection, BEGIN, &[])?;
    let statement = Queued::statement(connection, sql, params)?;
    let end = Queued::statement(connection, "COMMIT", &[])?;
    connection.send().await?;
    begin.finish(connection).await?;
    let row = statement.first_row(connection).await?;
    end.finish(connection).await?;
    Ok(row.ok_or(postgres::Error::NoRow)?)
}

fn explain(error: Error) -> Error {
    if error.category() == Category::Permission {
        error.with_remedy("run GRANT DELETE ON change_history TO the role of the feed")
    } else {
        error
    }
}
