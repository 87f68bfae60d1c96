//! Opening a cycle: the transaction, the session's settings and a look at what the cycle must know,
//! in the same round trip as the peek.

use super::checkpoint_update;
use super::cycle::{CycleConfig, CycleState};
use super::peek::{Missing, Peek, PeekRequest};
use crate::changes::SESSION_SETTINGS;
use crate::error::Result;
use crate::lsn::Lsn;
use crate::postgres::{self, Connection, Param, Stream};

/// The defaults of role and database may be others. The fence needs a lock that waits and then sees
/// what was committed meanwhile: at a higher level it fails instead.
pub(super) const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE, NOT DEFERRABLE";

/// What is stored must be on disk before the slot is advanced, else a crash of the server could
/// lose it from both.
pub(super) const COMMIT_TO_DISK: &str = "CASE current_setting('synchronous_commit') \
     WHEN 'off' THEN set_config('synchronous_commit', 'on', true) END";

/// Postgres keeps a whole peek, and the rows of an insertion, before it gives or stores the first of
/// them; what is beyond `work_mem` goes through a file. A peek of the default size fits this.
pub(super) const WORK_IN_MEMORY: &str = "set_config('work_mem', '32MB', true)";

/// A cycle whose first slice has arrived.
pub(super) struct BegunCycle {
    pub(super) peek: Peek,
    /// Everything that committed before it is in a peek that comes back whole: read before the peek.
    /// The flush position, since the write position can run ahead of commits.
    pub(super) flush: Lsn,
    /// Where decoding began.
    pub(super) restart: Lsn,
    /// The peek leaves out what the checkpoint has.
    pub(super) is_filtered: bool,
}

/// What must be known before the peek: the flush position, whether slot and publication are there,
/// and the checkpoint. (The view of the slots takes longer than its function, and than the peek.)
///
/// Fixes the session's settings for the transaction, the level of messages too: a warning is all that
/// tells of changes left out.
fn preflight_sql() -> String {
    let settings: Vec<String> = SESSION_SETTINGS
        .iter()
        .chain(&[("client_min_messages", "warning")])
        .map(|(name, value)| format!("set_config('{name}', '{value}', true)"))
        .collect();
    format!(
        "SELECT pg_current_wal_flush_lsn(), \
         (SELECT COALESCE(restart_lsn, '0/0') FROM pg_get_replication_slots() \
         WHERE slot_name = $1::name), \
         EXISTS (SELECT FROM pg_publication WHERE pubname = $2::name), \
         {}, {COMMIT_TO_DISK}, {WORK_IN_MEMORY}, {} \
         FROM (SELECT) AS always LEFT JOIN replication_checkpoint ON slot = $1::text",
        checkpoint_update::COLUMNS,
        settings.join(", ")
    )
}

/// Begins the transaction and opens the peek, in one round trip.
pub(super) async fn begin<S: Stream>(
    connection: &mut Connection<S>,
    config: &CycleConfig,
    cycle: &mut CycleState,
) -> Result<BegunCycle> {
    let request = PeekRequest {
        slot: &config.slot,
        publication: &config.publication,
        max_changes: config.max_changes,
        max_row_bytes: config.max_row_bytes,
        slice_bytes: config.slice_bytes,
        stored_through: cycle.unconsumed.then_some(cycle.checkpoint.lsn),
    };
    connection.queue(BEGIN, &[])?;
    let names = [Param::Text(&config.slot), Param::Text(&config.publication)];
    connection.queue(&preflight_sql(), &names)?;
    let mut peek = Peek::queue(connection, request)?;
    connection.send().await?;

    connection.finish().await?;
    let found = connection.next_row().await?.ok_or(postgres::Error::NoRow)?;
    let flush = found.get(0)?;
    // Of a slot that can no longer be read it is 0/0, and the peek says so.
    let restart: Option<Lsn> = found.get(1)?;
    let missing = Missing {
        slot: restart.is_none(),
        publication: !found.get::<bool>(2)?,
    };
    // Another reader has stored, and may have gone before it advanced the slot.
    cycle.unconsumed |= checkpoint_update::refresh(&mut cycle.checkpoint, &found, 3, &config.slot)?;
    connection.finish().await?;
    peek.open(connection, request, missing).await?;
    cycle.types.begin_peek();
    Ok(BegunCycle {
        peek,
        flush,
        restart: restart.unwrap_or(flush),
        is_filtered: request.stored_through.is_some(),
    })
}
