//! Begins a cycle: the transaction, the session's settings, the preflight checks and the peek, all
//! in one round trip.

use super::checkpoint_update;
use super::cycle_config::CycleConfig;
use super::cycle_state::CycleState;
use super::peek::{Missing, Peek, PeekRequest, QueuedPeek};
use crate::changes::SESSION_SETTINGS;
use crate::error::Result;
use crate::lsn::Lsn;
use crate::pipeline::Queued;
use crate::postgres::{self, Connection, Param, Stream};

/// Overrides the defaults of the role and the database. At a higher isolation level, waiting for
/// the lock of the checkpoint would fail instead of seeing what was committed meanwhile.
pub(super) const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE, NOT DEFERRABLE";

/// What is stored must be on disk before the slot is advanced. Otherwise a crash of the server
/// could lose it from both.
pub(super) const COMMIT_TO_DISK: &str = "CASE current_setting('synchronous_commit') \
     WHEN 'off' THEN set_config('synchronous_commit', 'on', true) END";

/// Postgres materialises a whole peek, and the rows of an insertion, before it returns or stores
/// the first of them; what exceeds `work_mem` goes through a file. A peek of the default size fits
/// this.
pub(super) const WORK_IN_MEMORY: &str = "set_config('work_mem', '32MB', true)";

/// A cycle whose first slice has arrived.
pub(super) struct BegunCycle {
    pub(super) peek: Peek,
    /// The flush position, read before the peek: a complete peek has everything that committed
    /// before it. Not the write position, which can run ahead of the commits that decoding sees.
    pub(super) flush: Lsn,
    /// Where decoding began.
    pub(super) restart: Lsn,
    /// The peek skips what is stored already.
    pub(super) is_filtered: bool,
}

/// The preflight checks: the flush position, whether the slot and the publication exist, and the
/// checkpoint. (The view `pg_replication_slots` takes longer than its function, and than the peek.)
///
/// Fixes the session's settings for the transaction. Among them is the level of messages, since a
/// warning is the only sign that changes were skipped.
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

/// Begins the transaction and opens the peek. Refreshes the checkpoint of `cycle`.
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
    let transaction = Queued::statement(connection, BEGIN, &[])?;
    let names = [Param::Text(&config.slot), Param::Text(&config.publication)];
    let preflight = Queued::statement(connection, &preflight_sql(), &names)?;
    let peek = QueuedPeek::queue(connection, request)?;
    connection.send().await?;

    transaction.finish(connection).await?;
    let found = preflight.first_row(connection).await?;
    let found = found.ok_or(postgres::Error::NoRow)?;
    let flush = found.get(0)?;
    // 0/0 if the slot can no longer be read; the peek then fails and says so.
    let restart: Option<Lsn> = found.get(1)?;
    let missing = Missing {
        slot: restart.is_none(),
        publication: !found.get::<bool>(2)?,
    };
    // Another reader has stored changes, and may have gone before it advanced the slot.
    cycle.unconsumed |= checkpoint_update::refresh(&mut cycle.checkpoint, &found, 3, &config.slot)?;
    let peek = peek.open(connection, request, missing).await?;
    cycle.types.begin_peek();
    Ok(BegunCycle {
        peek,
        flush,
        restart: restart.unwrap_or(flush),
        is_filtered: request.stored_through.is_some(),
    })
}
