//! The checkpoint row as a cycle uses it: looked at before the peek, locked before the first
//! insert, moved with what was stored. Its lock makes two readers of one slot take turns.

use tokio::io::{AsyncRead, AsyncWrite};

use crate::error::{Category, Error, Result};
use crate::lsn::Lsn;
use crate::postgres::{Connection, Param, Row};
use crate::state::Checkpoint;

/// What of the checkpoint moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Position {
    epoch: i32,
    lsn: Lsn,
    last_id: i64,
}

const LOOK: &str = "SELECT epoch, lsn, last_id FROM replication_checkpoint WHERE slot = $1::text";

/// Queues a look at the row, without a lock. [`receive_look`] takes it in.
pub(super) fn queue_look<S>(connection: &mut Connection<S>, slot: &str) -> Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    Ok(connection.queue(LOOK, &[Param::Text(slot)])?)
}

/// Brings `known` up to date. True when another reader has moved the row since.
pub(super) async fn receive_look<S>(
    connection: &mut Connection<S>,
    slot: &str,
    known: &mut Checkpoint,
) -> Result<bool>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let row = connection.next_row().await?;
    let moved = adopt(known, row.as_ref(), slot)?;
    connection.finish().await?;
    Ok(moved)
}

/// Locks the row to the end of the transaction, and brings `known` up to date. True when another
/// reader has moved it meanwhile.
pub(super) async fn lock<S>(
    connection: &mut Connection<S>,
    slot: &str,
    known: &mut Checkpoint,
) -> Result<bool>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let lock = format!("{LOOK} FOR UPDATE");
    let row = connection
        .query_optional(&lock, &[Param::Text(slot)])
        .await?;
    adopt(known, row.as_ref(), slot)
}

/// Moves the row on, when it still says what is `known`: where nothing was stored, nothing has
/// locked it. False when it does not.
///
/// The sequence keeps step with the ids, for whoever looks at it.
pub(super) async fn move_on<S>(
    connection: &mut Connection<S>,
    slot: &str,
    known: &Checkpoint,
    lsn: Lsn,
    last_id: i64,
) -> Result<bool>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    const UPDATE: &str = "\
UPDATE replication_checkpoint SET lsn = $2::pg_lsn, last_id = $3::int8, updated_at = now() \
WHERE slot = $1::text AND epoch = $4::int4 AND last_id = $5::int8 AND lsn = $6::pg_lsn \
RETURNING CASE WHEN $3::int8 > $5::int8 \
THEN setval(pg_get_serial_sequence('change_history', 'id'), $3::int8) END";
    let params = [
        Param::Text(slot),
        Param::Lsn(lsn),
        Param::Int8(last_id),
        Param::Int4(known.epoch),
        Param::Int8(known.last_id),
        Param::Lsn(known.lsn),
    ];
    Ok(connection.execute(UPDATE, &params).await? == 1)
}

fn adopt(known: &mut Checkpoint, row: Option<&Row>, slot: &str) -> Result<bool> {
    let row = row.ok_or_else(|| gone(slot))?;
    let found = Position {
        epoch: row.get(0)?,
        lsn: row.get(1)?,
        last_id: row.get(2)?,
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
