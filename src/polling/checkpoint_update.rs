//! The checkpoint row as a cycle uses it: looked at before the peek, moved with what was stored, and
//! locked before where that is not one statement. Its lock makes two readers of one slot take turns.

use crate::error::{Category, Error, Result};
use crate::history::Condition;
use crate::lsn::Lsn;
use crate::postgres::{Connection, Param, Row, Stream};
use crate::state::Checkpoint;

/// What of the checkpoint moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Position {
    epoch: i32,
    lsn: Lsn,
    last_id: i64,
}

/// What [`refresh`] reads of the checkpoint's row.
pub(super) const COLUMNS: &str = "epoch, lsn, last_id";

/// Queues what locks the row to the end of the transaction; [`refresh_locked`] takes in the answer.
pub(super) fn queue_lock<S: Stream>(connection: &mut Connection<S>, slot: &str) -> Result<()> {
    let lock =
        format!("SELECT {COLUMNS} FROM replication_checkpoint WHERE slot = $1::text FOR UPDATE");
    Ok(connection.queue(&lock, &[Param::Text(slot)])?)
}

/// Brings `known` up to date with the row that is locked. True when another reader has moved it.
pub(super) async fn refresh_locked<S: Stream>(
    connection: &mut Connection<S>,
    slot: &str,
    known: &mut Checkpoint,
) -> Result<bool> {
    let row = connection.next_row().await?.ok_or_else(|| gone(slot))?;
    connection.finish().await?;
    refresh(known, &row, 0, slot)
}

/// A move of the row, from what is known of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct CheckpointUpdate<'a> {
    pub(super) slot: &'a str,
    pub(super) known: &'a Checkpoint,
    pub(super) lsn: Lsn,
    pub(super) last_id: i64,
}

impl<'a> CheckpointUpdate<'a> {
    /// The statement, with its parameters numbered from `first` on. It returns a row when it has
    /// found the checkpoint as it is known, and changes nothing when it has not.
    ///
    /// The sequence keeps step with the ids, for whoever looks at it.
    fn sql(first: usize) -> String {
        let [slot, lsn, last_id, epoch, known_id, known_lsn]: [usize; 6] =
            std::array::from_fn(|nth| first + nth);
        format!(
            "UPDATE replication_checkpoint SET lsn = ${lsn}::pg_lsn, last_id = ${last_id}::int8, \
             updated_at = now() WHERE slot = ${slot}::text AND epoch = ${epoch}::int4 \
             AND last_id = ${known_id}::int8 AND lsn = ${known_lsn}::pg_lsn \
             RETURNING CASE WHEN ${last_id}::int8 > ${known_id}::int8 \
             THEN setval(pg_get_serial_sequence('change_history', 'id'), ${last_id}::int8) END"
        )
    }

    fn params(&self) -> [Param<'a>; 6] {
        [
            Param::Text(self.slot),
            Param::Lsn(self.lsn),
            Param::Int8(self.last_id),
            Param::Int4(self.known.epoch),
            Param::Int8(self.known.last_id),
            Param::Lsn(self.known.lsn),
        ]
    }
}

/// Queues the move.
pub(super) fn queue<S: Stream>(
    connection: &mut Connection<S>,
    update: &CheckpointUpdate<'_>,
) -> Result<()> {
    Ok(connection.queue(&CheckpointUpdate::sql(1), &update.params())?)
}

/// Moves the row. False when it is not as it is known.
pub(super) async fn execute<S: Stream>(
    connection: &mut Connection<S>,
    update: &CheckpointUpdate<'_>,
) -> Result<bool> {
    queue(connection, update)?;
    connection.send().await?;
    Ok(connection.finish().await? == 1)
}

/// The move as what an insertion depends on: both happen, or neither.
pub(super) fn condition<'a>(update: &CheckpointUpdate<'a>) -> Condition<'a> {
    Condition {
        sql: CheckpointUpdate::sql(Condition::FIRST_PARAM),
        params: update.params().into(),
    }
}

/// Brings `known` up to date with [`COLUMNS`], the first of which is `row`'s column `first`. True
/// when another reader has moved the checkpoint since.
pub(super) fn refresh(known: &mut Checkpoint, row: &Row, first: usize, slot: &str) -> Result<bool> {
    let epoch: Option<i32> = row.get(first)?;
    let found = Position {
        epoch: epoch.ok_or_else(|| gone(slot))?,
        lsn: row.get(first + 1)?,
        last_id: row.get(first + 2)?,
    };
    let expected = Position {
        epoch: known.epoch,
        lsn: known.lsn,
        last_id: known.last_id,
    };
    if found == expected {
        return Ok(false);
    }
    if found.epoch != known.epoch || found.lsn < known.lsn || found.last_id < known.last_id {
        return Err(replaced(slot));
    }
    known.lsn = found.lsn;
    known.last_id = found.last_id;
    Ok(true)
}

fn gone(slot: &str) -> Error {
    let message = format!("the checkpoint of the slot {slot} is gone");
    Error::new(Category::Configuration, "not_initialized", message).with_remedy("call POST /init")
}

/// Whoever resumes from the database finds out what that means.
fn replaced(slot: &str) -> Error {
    let message = format!("the checkpoint of the slot {slot} was replaced");
    Error::new(Category::SlotInUse, "checkpoint_replaced", message)
}
