//! The checkpoint row as a cycle uses it: read before the peek, and updated together with what was
//! stored. The update is a compare-and-set: it takes effect only if the row is as it was read. A
//! cycle that cannot store in one statement locks the row first. Two readers of one slot thus take
//! turns.

use crate::error::{Category, Error, Result};
use crate::history::Condition;
use crate::lsn::Lsn;
use crate::pipeline::Queued;
use crate::postgres::{Connection, Param, Row, Stream};
use crate::state::Checkpoint;

/// The columns of the checkpoint that change from cycle to cycle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Position {
    epoch: i32,
    lsn: Lsn,
    last_id: i64,
}

/// The columns that [`refresh`] reads.
pub(super) const COLUMNS: &str = "epoch, lsn, last_id";

/// A lock on the checkpoint row that is queued and not yet answered.
#[must_use = "the lock must be waited for"]
#[derive(Debug)]
pub(super) struct QueuedLock(Queued);

impl QueuedLock {
    /// Queues the lock, which is held to the end of the transaction.
    pub(super) fn queue<S: Stream>(connection: &mut Connection<S>, slot: &str) -> Result<Self> {
        let lock = format!(
            "SELECT {COLUMNS} FROM replication_checkpoint WHERE slot = $1::text FOR UPDATE"
        );
        let queued = Queued::statement(connection, &lock, &[Param::Text(slot)])?;
        Ok(Self(queued))
    }

    /// Waits for the lock and refreshes `known` from the locked row. True if another reader has
    /// moved the checkpoint since.
    pub(super) async fn refresh<S: Stream>(
        self,
        connection: &mut Connection<S>,
        slot: &str,
        known: &mut Checkpoint,
    ) -> Result<bool> {
        let row = self.0.first_row(connection).await?;
        refresh(known, &row.ok_or_else(|| missing(slot))?, 0, slot)
    }
}

/// A compare-and-set of the checkpoint row, from what is known of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct CheckpointUpdate<'a> {
    pub(super) slot: &'a str,
    /// The row is updated only if it still holds this.
    pub(super) known: &'a Checkpoint,
    pub(super) lsn: Lsn,
    pub(super) last_id: i64,
}

/// An update that is queued and not yet answered.
#[must_use = "the result of a queued update must be read"]
#[derive(Debug)]
pub(super) struct QueuedUpdate(Queued);

impl QueuedUpdate {
    /// Waits for the result. False if the row no longer held what was known: nothing was updated.
    pub(super) async fn finish<S: Stream>(self, connection: &mut Connection<S>) -> Result<bool> {
        Ok(self.0.finish(connection).await? == 1)
    }
}

impl<'a> CheckpointUpdate<'a> {
    /// The statement, with its parameters numbered from `first` on. It returns a row if it has
    /// updated the checkpoint.
    ///
    /// The sequence follows the ids, for anybody who inspects it.
    fn sql(first: usize) -> String {
        let [slot, lsn, last_id, epoch, known_id, known_lsn]: [usize; 6] =
            std::array::from_fn(|nth| first + nth);
        format!(
            "UPDATE replication_checkpoint SET lsn = ${lsn}::pg_lsn, last_id = ${last_id}::int8, \
             updated_at = pg_catalog.now() WHERE slot = ${slot}::text AND epoch = ${epoch}::int4 \
             AND last_id = ${known_id}::int8 AND lsn = ${known_lsn}::pg_lsn \
             RETURNING CASE WHEN ${last_id}::int8 > ${known_id}::int8 \
             THEN pg_catalog.setval(pg_catalog.pg_get_serial_sequence('change_history', 'id'), ${last_id}::int8) END"
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

    /// Queues the update.
    pub(super) fn queue<S: Stream>(&self, connection: &mut Connection<S>) -> Result<QueuedUpdate> {
        let queued = Queued::statement(connection, &Self::sql(1), &self.params())?;
        Ok(QueuedUpdate(queued))
    }

    /// Runs the update. False if the row no longer held what was known: nothing was updated.
    pub(super) async fn execute<S: Stream>(&self, connection: &mut Connection<S>) -> Result<bool> {
        let queued = self.queue(connection)?;
        connection.send().await?;
        queued.finish(connection).await
    }

    /// The update as the condition of an insertion: either both take effect or neither does.
    pub(super) fn condition(&self) -> Condition<'a> {
        Condition {
            sql: Self::sql(Condition::FIRST_PARAM),
            params: self.params().into(),
        }
    }
}

/// Refreshes `known` from [`COLUMNS`], which begin at column `first` of `row`. True if another
/// reader has moved the checkpoint since.
///
/// Fails with `checkpoint_replaced` if the row cannot follow from what is known.
pub(super) fn refresh(known: &mut Checkpoint, row: &Row, first: usize, slot: &str) -> Result<bool> {
    let epoch: Option<i32> = row.get(first)?;
    let found = Position {
        epoch: epoch.ok_or_else(|| missing(slot))?,
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

pub(super) fn missing(slot: &str) -> Error {
    Error::not_initialized(format!("the checkpoint of the slot {slot} is missing"))
}

/// Resuming from the database finds out why.
fn replaced(slot: &str) -> Error {
    let message = format!("the checkpoint of the slot {slot} was replaced");
    Error::new(Category::SlotInUse, "checkpoint_replaced", message)
}
