//! One cycle: from an open connection to stored changes and an advanced slot.

use std::time::Duration;

use super::backlog::{Connector, ReaderWriter};
use super::batch_writer::BatchWriter;
use super::begin::{self, BegunCycle};
use super::checkpoint_update::QueuedUpdate;
use super::cycle_config::CycleConfig;
use super::cycle_state::CycleState;
use super::peek::Peek;
use super::report::{PendingAdvance, Report, SentAdvance};
use super::standby_snapshot;
use crate::clock;
use crate::error::{Category, Error, Result};
use crate::lsn::Lsn;
use crate::pipeline::Queued;
use crate::postgres::{Connection, Stream};
use crate::state;

/// What the caller of a cycle knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expect {
    /// Perhaps nothing has happened: ask first, in a round trip of its own.
    #[default]
    Nothing,
    /// Somebody has written, or the last cycle left something: read at once.
    Changes,
}

/// An idle slot is advanced past foreign WAL when it lags this far behind,
const IDLE_ADVANCE_BYTES: u64 = 4 << 20;
/// or only this far, if it has not been advanced for a while.
const IDLE_ADVANCE_SLOW_BYTES: u64 = 64 << 10;
const IDLE_ADVANCE_AFTER: Duration = Duration::from_mins(1);
/// How often a cycle starts over because another reader of the slot has stored between the reading
/// of the checkpoint and its update.
const MAX_RACES: u32 = 5;

/// Runs one cycle, up to its COMMIT. The slot's advance is in flight then: the caller, who may
/// notify clients meanwhile, must [finish](PendingAdvance::finish) it before the connection is used
/// for anything else.
///
/// `connector` opens a second connection if there is a backlog.
///
/// After an error the connection must be dropped, which ends its transaction. Neither history nor
/// checkpoint nor slot have moved then, unless only the answer to COMMIT was lost: the first two
/// have moved in that case. The caller resumes from the database.
pub async fn run<S: Stream, C: Connector<Stream = S>>(
    connection: &mut Connection<S>,
    connector: &C,
    config: &CycleConfig,
    cycle: &mut CycleState,
    expect: Expect,
) -> Result<(Report, PendingAdvance)> {
    let mut report = Report::default();
    if expect == Expect::Nothing && !has_new_wal(connection, cycle, &mut report).await? {
        return Ok((report, PendingAdvance::default()));
    }
    for _ in 0..=MAX_RACES {
        if let Some(advance) = attempt(connection, connector, config, cycle, &mut report).await? {
            return Ok((report, advance));
        }
    }
    Err(slot_contended(&config.slot))
}

/// Whether anything was written since the last complete peek. If not, the cycle is idle: one round
/// trip that reads no table.
async fn has_new_wal<S: Stream>(
    connection: &mut Connection<S>,
    cycle: &CycleState,
    report: &mut Report,
) -> Result<bool> {
    let started = clock::now_ms();
    let flush = connection
        .query_one("SELECT pg_catalog.pg_current_wal_flush_lsn()", &[])
        .await?;
    let flush: Lsn = flush.get(0)?;
    report.phases.probe = clock::elapsed_ms(started);
    report.idle = cycle.peeked_through == Some(flush);
    report.complete = report.idle;
    report.after = cycle.checkpoint.last_id;
    Ok(!report.idle)
}

/// Stores one peek. `None` if another reader has stored meanwhile; it may have gone before it
/// advanced the slot.
async fn attempt<S: Stream, C: Connector<Stream = S>>(
    connection: &mut Connection<S>,
    connector: &C,
    config: &CycleConfig,
    cycle: &mut CycleState,
    report: &mut Report,
) -> Result<Option<PendingAdvance>> {
    let started = clock::now_ms();
    let mut begun = begin::begin(connection, config, cycle).await?;
    let (flush, restart) = (begun.flush, begun.restart);
    report.phases.peek += clock::elapsed_ms(started);

    let started = clock::now_ms();
    let mut changes = BatchWriter::new(config, cycle);
    let fits = gather(connection, config, cycle, &mut begun.peek, &mut changes).await?;
    report.phases.store += clock::elapsed_ms(started);
    let stored = if fits {
        let coverage = Coverage::of(&begun, config, &changes);
        store_at_once(connection, config, cycle, changes, coverage, report).await?
    } else {
        store_backlog(connection, connector, config, cycle, begun, changes, report).await?
    };
    let Some(mut pending) = stored else {
        cycle.unconsumed = true;
        return Ok(None);
    };
    if cycle.may_log_snapshots
        && standby_snapshot::snapshot_is_due(flush, restart, cycle.snapshot_logged_at)
    {
        pending.snapshot = Some(standby_snapshot::queue_snapshot(connection)?);
        connection.send().await?;
        cycle.snapshot_logged_at = flush;
    }
    Ok(Some(pending))
}

/// Decodes slices until there are no more, or until they are too much for one write: false then.
async fn gather<S: Stream>(
    connection: &mut Connection<S>,
    config: &CycleConfig,
    cycle: &mut CycleState,
    peek: &mut Peek,
    changes: &mut BatchWriter,
) -> Result<bool> {
    loop {
        peek.queue_next(connection)?;
        connection.send_queued().await?;
        let Some(slice) = peek.take() else {
            return Ok(true);
        };
        changes.decode(connection, cycle, peek, slice).await?;
        if peek.is_in_flight() && changes.unwritten_bytes() >= config.slice_bytes / 4 {
            return Ok(false);
        }
        peek.receive(connection).await?;
    }
}

/// How far a peek reached.
#[derive(Clone, Copy, Debug)]
struct Coverage {
    /// Everything that committed before the peek is in it, or was stored before.
    complete: bool,
    /// Everything that committed before this position is in the peek, or was stored before.
    through: Lsn,
    /// The flush position before the peek.
    flush: Lsn,
}

impl Coverage {
    fn of(begun: &BegunCycle, config: &CycleConfig, changes: &BatchWriter) -> Self {
        // The number of messages tells nothing about a filtered peek, which returns fewer than it
        // read.
        let is_whole = !begun.is_filtered && begun.peek.messages() < u64::from(config.max_changes);
        // A peek that stopped at its limit may have reached the end all the same. Otherwise the
        // next one would read all that storing this one has written.
        let complete = is_whole || changes.last_commit_end() >= begun.flush;
        let through = if complete {
            changes.last_commit_end().max(begun.flush)
        } else {
            changes.last_commit_end()
        };
        Self {
            complete,
            through,
            flush: begun.flush,
        }
    }
}

/// What makes the checkpoint move, if anything does.
enum Move {
    /// The insertion of the changes, which carries the update.
    WithChanges,
    Alone(QueuedUpdate),
    None,
}

/// Stores what fits one write, in one round trip: the write, which either updates the checkpoint
/// too or does nothing; the end of the transaction; and the slot's advance, which does nothing
/// unless the checkpoint was updated.
async fn store_at_once<S: Stream>(
    connection: &mut Connection<S>,
    config: &CycleConfig,
    cycle: &mut CycleState,
    mut changes: BatchWriter,
    coverage: Coverage,
    report: &mut Report,
) -> Result<Option<PendingAdvance>> {
    let started = clock::now_ms();
    let known = cycle.checkpoint.clone();
    let update = changes.checkpoint_update(&config.slot, &known, coverage.through);
    let is_update_due = (!coverage.complete && coverage.through > known.lsn)
        || idle_advance_is_due(cycle, coverage.through);
    let checkpoint_move = if changes.has_unwritten() {
        changes.queue_conditional_write(connection, &update)?;
        Move::WithChanges
    } else if is_update_due {
        Move::Alone(update.queue(connection)?)
    } else {
        Move::None
    };
    let moves = !matches!(checkpoint_move, Move::None);
    let end = Queued::statement(connection, if moves { "COMMIT" } else { "ROLLBACK" }, &[])?;
    let advance = if moves || cycle.unconsumed {
        let to = if moves { update.lsn } else { known.lsn };
        Some(state::queue_slot_advance(connection, &config.slot, to)?)
    } else {
        None
    };
    connection.send().await?;

    let is_stored = match checkpoint_move {
        Move::WithChanges => changes.await_write(connection, cycle).await? > 0,
        Move::Alone(update) => update.finish(connection).await?,
        Move::None => true,
    };
    report.phases.store += clock::elapsed_ms(started);
    let started = clock::now_ms();
    end.finish(connection).await?;
    report.phases.commit += clock::elapsed_ms(started);
    if !is_stored {
        if let Some(advance) = advance {
            advance.finish(connection).await?;
        }
        return Ok(None);
    }
    if moves {
        cycle.advance_checkpoint(update.lsn, update.last_id);
    }
    report.set_stored(cycle, changes, coverage);
    Ok(Some(PendingAdvance {
        advance: advance.map(SentAdvance::now),
        snapshot: None,
    }))
}

/// Stores what does not fit one write.
async fn store_backlog<S: Stream, C: Connector<Stream = S>>(
    connection: &mut Connection<S>,
    connector: &C,
    config: &CycleConfig,
    cycle: &mut CycleState,
    mut begun: BegunCycle,
    mut changes: BatchWriter,
    report: &mut Report,
) -> Result<Option<PendingAdvance>> {
    let started = clock::now_ms();
    let (mut connections, error) =
        ReaderWriter::open(connection, connector, &mut begun.peek).await?;
    report.second_connection_error = error;
    let is_stored = connections
        .store(config, cycle, &mut begun.peek, &mut changes)
        .await?;
    report.phases.store += clock::elapsed_ms(started);

    let started = clock::now_ms();
    let coverage = Coverage::of(&begun, config, &changes);
    let known = cycle.checkpoint.clone();
    let update = changes.checkpoint_update(&config.slot, &known, coverage.through);
    if !is_stored || !update.execute(connections.writer()).await? {
        connections.roll_back().await?;
        return Ok(None);
    }
    let advance = connections.commit(&config.slot, update.lsn).await?;
    report.phases.commit += clock::elapsed_ms(started);
    cycle.advance_checkpoint(update.lsn, update.last_id);
    report.set_stored(cycle, changes, coverage);
    Ok(Some(PendingAdvance {
        advance: Some(SentAdvance::now(advance)),
        snapshot: None,
    }))
}

/// Traffic outside the publication moves the WAL on, and a slot that stays behind retains all of
/// it. But updating the checkpoint writes WAL itself, so small steps are not worth it.
fn idle_advance_is_due(cycle: &CycleState, through: Lsn) -> bool {
    let behind = through.bytes_since(cycle.checkpoint.lsn);
    let has_waited = clock::has_elapsed(cycle.advanced_at, IDLE_ADVANCE_AFTER);
    behind >= IDLE_ADVANCE_BYTES || (has_waited && behind >= IDLE_ADVANCE_SLOW_BYTES)
}

impl Report {
    fn set_stored(&mut self, cycle: &mut CycleState, changes: BatchWriter, coverage: Coverage) {
        let written = changes.finish();
        if written.stored > 0 {
            cycle.documents_as_text_from = None;
        }
        if coverage.complete {
            cycle.peeked_through = Some(coverage.flush);
        }
        self.stored = written.stored;
        self.complete = coverage.complete;
        self.recent = written.recent.filter(|_| written.stored > 0);
        self.after = written.after;
        self.relations = written.relations;
    }
}

fn slot_contended(slot: &str) -> Error {
    let message = format!("another reader of the slot {slot} keeps storing its changes");
    Error::new(Category::SlotInUse, "slot_contended", message)
        .with_remedy("stop the other deployment, or give this one a slot of its own")
}
