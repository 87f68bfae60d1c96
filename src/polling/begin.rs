//! Begins a cycle: the transaction, the session's settings, the preflight checks and the peek, all
//! in one round trip.

use super::checkpoint_update;
use super::cycle_config::CycleConfig;
use super::cycle_state::CycleState;
use super::peek::{Missing, Peek, PeekRequest, QueuedPeek};
use crate::changes::SESSION_SETTINGS;
use crate::error::{Category, Error, Result};
use crate::lsn::Lsn;
use crate::pipeline::Queued;
use crate::postgres::{self, Connection, Param, Stream};
use crate::state::{self, BEGIN, Fingerprint, SlotKind};

/// What is stored must be on disk before the slot is advanced. Otherwise a crash of the server
/// could lose it from both.
pub(super) const COMMIT_TO_DISK: &str = "CASE pg_catalog.current_setting('synchronous_commit') \
     WHEN 'off' THEN pg_catalog.set_config('synchronous_commit', 'on', true) END";

/// Postgres materialises a whole peek, and the rows of an insertion, before it returns or stores
/// the first of them; what exceeds `work_mem` goes through a file. A peek of the default size fits
/// this.
pub(super) const WORK_IN_MEMORY: &str = "pg_catalog.set_config('work_mem', '32MB', true)";

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

/// The preflight checks: the flush position, and whether the slot and the publication exist. (The
/// view `pg_replication_slots` takes longer than its function, and than the peek.)
///
/// Fixes the session's settings for the transaction. Among them is the level of messages, since a
/// warning is the only sign that changes were skipped.
fn preflight_sql() -> String {
    let settings: Vec<String> = SESSION_SETTINGS
        .iter()
        .chain(&[("client_min_messages", "warning")])
        .map(|(name, value)| format!("pg_catalog.set_config('{name}', '{value}', true)"))
        .collect();
    format!(
        "SELECT pg_catalog.pg_current_wal_flush_lsn(), slot_name IS NOT NULL, restart_lsn, \
         EXISTS (SELECT FROM pg_catalog.pg_publication WHERE pubname = $2::pg_catalog.name), \
         {}, {COMMIT_TO_DISK}, {WORK_IN_MEMORY}, {} \
         FROM (SELECT) AS always LEFT JOIN pg_catalog.pg_get_replication_slots() \
         ON slot_name = $1::pg_catalog.name",
        SlotKind::COLUMNS,
        settings.join(", ")
    )
}

/// Where the slot is, after the peek: nobody can have replaced it or moved it before the peek
/// without its showing here.
const SLOT_POSITION: &str = "SELECT confirmed_flush_lsn \
    FROM pg_catalog.pg_get_replication_slots() WHERE slot_name = $1::pg_catalog.name";

/// The checkpoint, and what is published. It is a statement of its own, after [`SLOT_POSITION`]:
/// another reader moves first the checkpoint and then the slot, so a slot that is ahead of a
/// checkpoint read later was moved by somebody else.
fn checkpoint_sql() -> String {
    format!(
        "SELECT {}, {} FROM replication_checkpoint WHERE slot = $1::pg_catalog.text",
        checkpoint_update::COLUMNS,
        state::FINGERPRINT
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
    let [slot, _] = names;
    let preflight = Queued::statement(connection, &preflight_sql(), &names)?;
    let peek = QueuedPeek::queue(connection, request)?;
    let position = Queued::statement(connection, SLOT_POSITION, &[slot])?;
    let checkpoint = Queued::statement(connection, &checkpoint_sql(), &names)?;
    connection.send().await?;

    transaction.finish(connection).await?;
    let found = preflight.first_row(connection).await?;
    let found = found.ok_or(postgres::Error::NoRow)?;
    let flush = found.get(0)?;
    let missing = Missing {
        slot: !found.get::<bool>(1)?,
        publication: !found.get::<bool>(3)?,
    };
    // None if the slot can no longer be read; the peek then fails and says so.
    let restart: Option<Lsn> = found.get(2)?;
    if !missing.slot {
        SlotKind::from_row(&found, 4)?.check_usable(&config.slot)?;
    }
    let peek = peek.open(connection, request, missing).await?;
    let position = position.first_row(connection).await?;
    let checkpoint = checkpoint.first_row(connection).await?;
    let checkpoint = checkpoint.ok_or_else(|| checkpoint_update::missing(&config.slot))?;
    // Another reader has stored changes, and may have gone before it advanced the slot.
    cycle.unconsumed |=
        checkpoint_update::refresh(&mut cycle.checkpoint, &checkpoint, 0, &config.slot)?;
    let position = position.map(|row| row.get(0)).transpose()?;
    check_position(position, cycle.checkpoint.lsn, &config.slot)?;
    check_publication(Fingerprint::from_column(&checkpoint, 3)?, config, cycle)?;
    cycle.types.begin_peek();
    Ok(BegunCycle {
        peek,
        flush,
        restart: restart.unwrap_or(flush),
        is_filtered: request.stored_through.is_some(),
    })
}

/// What lies between the checkpoint and a slot ahead of it can no longer be read. That is also how a
/// slot looks that was dropped and created again: it begins where the WAL ends.
///
/// `state::resume` assesses it again, and begins a new epoch or halts.
fn check_position(position: Option<Lsn>, checkpoint: Lsn, slot: &str) -> Result<()> {
    let Some(position) = position else {
        // Dropped since the peek.
        return Err(Missing::slot_missing(slot));
    };
    if position <= checkpoint {
        return Ok(());
    }
    let message = format!(
        "the replication slot {slot} is at {position}, beyond the {checkpoint} that is stored: \
         somebody else has consumed changes, or has created the slot again"
    );
    Err(Error::new(
        Category::SlotLost,
        "slot_consumed_elsewhere",
        message,
    ))
}

/// `state::resume` compares the definitions, and remembers the new one if nothing was missed.
fn check_publication(
    found: Option<Fingerprint>,
    config: &CycleConfig,
    cycle: &mut CycleState,
) -> Result<()> {
    if found.is_some() && cycle.publication.is_none() {
        cycle.publication = found;
    }
    if found.is_some() && found == cycle.publication {
        return Ok(());
    }
    let publication = &config.publication;
    let message = format!("the definition of the publication {publication} has changed");
    Err(Error::new(
        Category::PublicationMissing,
        "publication_changed",
        message,
    ))
}
