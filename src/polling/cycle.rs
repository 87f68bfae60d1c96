//! One cycle: from an open connection to stored changes and an advanced slot.

use std::time::Duration;

use super::backlog::{Connector, ReaderWriter};
use super::batch_writer::{BatchWriter, Written};
use super::begin::{self, BegunCycle};
use super::checkpoint_update;
use super::peek::Peek;
use super::standby_snapshot;
use crate::changes::{DescribedRelation, TypeCatalog};
use crate::clock;
use crate::error::{Category, Error, Result};
use crate::history::{Recent, WriteMethod};
use crate::lsn::Lsn;
use crate::postgres::{Connection, Stream};
use crate::state::{self, Checkpoint};

/// What a cycle reads, and its bounds.
#[derive(Clone, Debug)]
pub struct CycleConfig {
    /// The replication slot.
    pub slot: String,
    /// The publication.
    pub publication: String,
    /// The schema of the system's own tables, which are never captured.
    pub own_schema: String,
    /// About how many changes one peek gives; a transaction is never split.
    pub max_changes: u32,
    /// Bytes of one row's message that are read at most.
    pub max_row_bytes: u32,
    /// Bytes of messages held at a time.
    pub slice_bytes: usize,
    /// How changes are written.
    pub write_method: WriteMethod,
}

/// What the cycles of one feed remember from one to the next. Lost with the object, and then read
/// again from the database.
#[derive(Debug)]
pub struct CycleState {
    /// How far changes are stored, as last seen: also by another reader of the slot.
    pub checkpoint: Checkpoint,
    /// From this id on, `json` and `jsonb` documents are stored as strings of their text, until
    /// they are stored: Postgres has refused one that it was expected to take. Whoever resumes
    /// after an error passes it on; without it the next cycle fails once more.
    pub documents_as_text_from: Option<i64>,
    /// The role may log snapshots of the running transactions, which keep decoding short.
    pub may_log_snapshots: bool,
    /// The flush LSN when it last did.
    snapshot_logged_at: Lsn,
    /// The flush LSN before the last peek that came back whole: nothing new until it moves.
    peeked_through: Option<Lsn>,
    /// The slot may be behind the checkpoint, since the last advance failed or is not known.
    pub(super) unconsumed: bool,
    /// When the slot was last seen at the checkpoint, milliseconds since the Unix epoch.
    advanced_at: u64,
    /// What is known of the types that are not built in.
    pub(super) types: TypeCatalog,
}

/// What one cycle did.
#[derive(Debug, Default)]
pub struct Report {
    /// Changes stored.
    pub stored: u64,
    /// The peek came back whole: what had committed before the cycle began is stored.
    pub complete: bool,
    /// Nothing had been written since the last complete peek, so nothing was read.
    pub idle: bool,
    /// Where the time went.
    pub phases: Phases,
    /// The stored changes, when they are few enough to be kept for live clients.
    pub recent: Option<Recent>,
    /// The id before the first change that was stored.
    pub after: i64,
    /// The relations that were described, each with the id of the first change that it is of.
    pub relations: Vec<(i64, DescribedRelation)>,
    /// A backlog was stored over one connection, since no second one could be had.
    pub second_connection_error: Option<Error>,
    /// The slot could not be advanced. Harmless: it is tried again.
    pub advance_error: Option<Error>,
    /// No snapshot of the running transactions could be logged. Harmless: it is not tried again.
    pub snapshot_error: Option<Error>,
    /// When the slot's advance was asked for, if its answer is still to come.
    advancing_since: Option<u64>,
    /// A snapshot was asked for, and the answer is still to come.
    is_logging_snapshot: bool,
}

/// What the caller of a cycle knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expect {
    /// Perhaps nothing has happened: ask, in a round trip of its own, before anything is read.
    #[default]
    Nothing,
    /// Somebody has written, or the last cycle left something: read at once.
    Changes,
}

/// Milliseconds of a cycle, by what they were spent on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phases {
    /// Asking whether anything was written.
    pub probe: u64,
    /// Decoding in Postgres, up to the first slice.
    pub peek: u64,
    /// Reading, transforming and inserting.
    pub store: u64,
    /// Writing the checkpoint and committing.
    pub commit: u64,
    /// Advancing the slot.
    pub advance: u64,
}

/// An idle slot is advanced past foreign WAL when it falls this far behind,
const IDLE_ADVANCE_BYTES: u64 = 4 << 20;
/// or this far, when it has not been advanced for a while.
const IDLE_ADVANCE_SLOW_BYTES: u64 = 64 << 10;
const IDLE_ADVANCE_AFTER: Duration = Duration::from_mins(1);
/// Another reader of the slot may store between our look at the checkpoint and its lock.
const MAX_RACES: u32 = 5;

impl CycleState {
    /// Starts from a checkpoint that `state::resume` has found intact.
    pub fn resume_from(checkpoint: Checkpoint) -> Self {
        Self {
            checkpoint,
            documents_as_text_from: None,
            may_log_snapshots: false,
            snapshot_logged_at: Lsn::INVALID,
            peeked_through: None,
            unconsumed: false,
            advanced_at: clock::now_ms(),
            types: TypeCatalog::default(),
        }
    }

    /// The checkpoint has moved, and the slot has not yet.
    fn advance_checkpoint(&mut self, lsn: Lsn, last_id: i64) {
        self.checkpoint.lsn = lsn;
        self.checkpoint.last_id = last_id;
        self.unconsumed = true;
    }
}

/// Runs one cycle, up to its COMMIT. The slot's advance is then under way: the caller, who may tell
/// clients meanwhile, takes it in with [`Report::settle`] before the connection serves anything else.
///
/// `connector` gives a second connection where there is a backlog.
///
/// On an error the connection must be dropped, which ends its transaction: neither history nor
/// checkpoint nor slot have moved then, or, when only the answer to COMMIT was lost, both of the
/// first have, and the caller resumes from the database.
pub async fn run<S: Stream, C: Connector<Stream = S>>(
    connection: &mut Connection<S>,
    connector: &C,
    config: &CycleConfig,
    cycle: &mut CycleState,
    expect: Expect,
) -> Result<Report> {
    let mut report = Report::default();
    if expect == Expect::Nothing && !has_new_wal(connection, cycle, &mut report).await? {
        return Ok(report);
    }
    for _ in 0..=MAX_RACES {
        if attempt(connection, connector, config, cycle, &mut report).await? {
            return Ok(report);
        }
    }
    Err(slot_contended(&config.slot))
}

/// Whether anything was written since the last complete peek. Else the cycle is idle: one round trip
/// that reads no table.
async fn has_new_wal<S: Stream>(
    connection: &mut Connection<S>,
    cycle: &CycleState,
    report: &mut Report,
) -> Result<bool> {
    let started = clock::now_ms();
    let flush = connection
        .query_one("SELECT pg_current_wal_flush_lsn()", &[])
        .await?;
    let flush: Lsn = flush.get(0)?;
    report.phases.probe = since(started);
    report.idle = cycle.peeked_through == Some(flush);
    report.complete = report.idle;
    report.after = cycle.checkpoint.last_id;
    Ok(!report.idle)
}

/// Stores one peek. False when another reader has stored meanwhile, who may have gone before it
/// advanced the slot.
async fn attempt<S: Stream, C: Connector<Stream = S>>(
    connection: &mut Connection<S>,
    connector: &C,
    config: &CycleConfig,
    cycle: &mut CycleState,
    report: &mut Report,
) -> Result<bool> {
    let started = clock::now_ms();
    let mut begun = begin::begin(connection, config, cycle).await?;
    let (flush, restart) = (begun.flush, begun.restart);
    report.phases.peek += since(started);

    let started = clock::now_ms();
    let mut store = BatchWriter::new(config, cycle);
    let fits = gather(connection, config, cycle, &mut begun.peek, &mut store).await?;
    report.phases.store += since(started);
    let is_stored = if fits {
        let coverage = Coverage::of(&begun, config, &store);
        store_at_once(connection, config, cycle, store, coverage, report).await?
    } else {
        store_backlog(connection, connector, config, cycle, begun, store, report).await?
    };
    cycle.unconsumed |= !is_stored;
    if is_stored
        && cycle.may_log_snapshots
        && standby_snapshot::snapshot_is_due(flush, restart, cycle.snapshot_logged_at)
    {
        standby_snapshot::queue_snapshot(connection)?;
        connection.send().await?;
        cycle.snapshot_logged_at = flush;
        report.is_logging_snapshot = true;
    }
    Ok(is_stored)
}

/// Transforms slices until all are, or until they are too much for one write: false then.
async fn gather<S: Stream>(
    connection: &mut Connection<S>,
    config: &CycleConfig,
    cycle: &mut CycleState,
    peek: &mut Peek,
    store: &mut BatchWriter,
) -> Result<bool> {
    loop {
        peek.queue_next(connection)?;
        connection.send_queued().await?;
        let Some(slice) = peek.take() else {
            return Ok(true);
        };
        store
            .transform(connection, cycle, peek, slice, false)
            .await?;
        if peek.is_in_flight() && store.unwritten_bytes() >= config.slice_bytes / 4 {
            return Ok(false);
        }
        peek.receive(connection).await?;
    }
}

/// How far a peek went.
#[derive(Clone, Copy, Debug)]
struct Coverage {
    /// Everything that committed before the peek is in it, or was stored before.
    complete: bool,
    /// Before it everything that committed is in the peek, or was stored before.
    covered: Lsn,
    /// The flush position before the peek.
    flush: Lsn,
}

impl Coverage {
    fn of(begun: &BegunCycle, config: &CycleConfig, store: &BatchWriter) -> Self {
        // A filtered peek shows fewer messages than it read, so it cannot tell that it was whole.
        let is_whole = !begun.is_filtered && begun.peek.messages() < u64::from(config.max_changes);
        // One that stopped at its limit may have reached the end all the same. Else another one
        // would read all that storing this one has written.
        let complete = is_whole || store.last_commit_end() >= begun.flush;
        let covered = if complete {
            store.last_commit_end().max(begun.flush)
        } else {
            store.last_commit_end()
        };
        Self {
            complete,
            covered,
            flush: begun.flush,
        }
    }
}

/// Stores what fits one write, in one round trip: the write, which moves the checkpoint with it or
/// does nothing; the end of the transaction; and the slot's advance, which does nothing when the
/// transaction has not moved the checkpoint.
async fn store_at_once<S: Stream>(
    connection: &mut Connection<S>,
    config: &CycleConfig,
    cycle: &mut CycleState,
    mut store: BatchWriter,
    coverage: Coverage,
    report: &mut Report,
) -> Result<bool> {
    let started = clock::now_ms();
    let known = cycle.checkpoint.clone();
    let update = store.checkpoint_update(&config.slot, &known, coverage.covered);
    let writes = store.has_unwritten();
    let moves = writes
        || (!coverage.complete && coverage.covered > known.lsn)
        || idle_advance_is_due(cycle, coverage.covered);
    let advances = moves || cycle.unconsumed;
    if writes {
        store.queue_conditional_write(connection, &update)?;
    } else if moves {
        checkpoint_update::queue(connection, &update)?;
    }
    connection.queue(if moves { "COMMIT" } else { "ROLLBACK" }, &[])?;
    if advances {
        let to = if moves { update.lsn } else { known.lsn };
        state::queue_slot_advance(connection, &config.slot, to)?;
    }
    connection.send().await?;

    let is_stored = if writes {
        store.await_write(connection, cycle).await? > 0
    } else {
        !moves || connection.finish().await? > 0
    };
    report.phases.store += since(started);
    let started = clock::now_ms();
    connection.finish().await?;
    report.phases.commit += since(started);
    if !is_stored {
        connection.finish().await?;
        return Ok(false);
    }
    if moves {
        cycle.advance_checkpoint(update.lsn, update.last_id);
    }
    report.advancing_since = advances.then(clock::now_ms);
    report.add_written(cycle, store, coverage);
    Ok(true)
}

/// Stores what does not fit one write.
async fn store_backlog<S: Stream, C: Connector<Stream = S>>(
    connection: &mut Connection<S>,
    connector: &C,
    config: &CycleConfig,
    cycle: &mut CycleState,
    mut begun: BegunCycle,
    mut store: BatchWriter,
    report: &mut Report,
) -> Result<bool> {
    let started = clock::now_ms();
    let (mut connections, error) =
        ReaderWriter::open(connection, connector, &mut begun.peek).await?;
    report.second_connection_error = error;
    let is_stored = connections
        .store(config, cycle, &mut begun.peek, &mut store)
        .await?;
    report.phases.store += since(started);

    let started = clock::now_ms();
    let coverage = Coverage::of(&begun, config, &store);
    let known = cycle.checkpoint.clone();
    let update = store.checkpoint_update(&config.slot, &known, coverage.covered);
    let is_stored = is_stored && checkpoint_update::execute(connections.writer(), &update).await?;
    if !is_stored {
        connections.roll_back().await?;
        return Ok(false);
    }
    connections.commit(&config.slot, update.lsn).await?;
    report.phases.commit += since(started);
    report.advancing_since = Some(clock::now_ms());
    cycle.advance_checkpoint(update.lsn, update.last_id);
    report.add_written(cycle, store, coverage);
    Ok(true)
}

/// Traffic outside the publication moves the WAL on, and a slot that stays behind keeps all of it.
/// But moving the checkpoint writes WAL itself, so small steps are not worth it.
fn idle_advance_is_due(cycle: &CycleState, covered: Lsn) -> bool {
    let behind = covered.bytes_since(cycle.checkpoint.lsn);
    let waited = u128::from(since(cycle.advanced_at)) >= IDLE_ADVANCE_AFTER.as_millis();
    behind >= IDLE_ADVANCE_BYTES || (waited && behind >= IDLE_ADVANCE_SLOW_BYTES)
}

fn since(started: u64) -> u64 {
    clock::now_ms().saturating_sub(started)
}

impl Report {
    /// Takes in the answers to what was asked for behind the COMMIT: the slot's advance, and a snapshot.
    /// A failure is harmless for what is stored, since the next peek leaves out what it finds again;
    /// but the connection is of no use any more.
    pub async fn settle<S: Stream>(
        &mut self,
        connection: &mut Connection<S>,
        cycle: &mut CycleState,
    ) {
        if let Some(asked_at) = self.advancing_since.take() {
            match connection.finish().await {
                Ok(_) => {
                    cycle.unconsumed = false;
                    cycle.advanced_at = clock::now_ms();
                }
                Err(error) => self.advance_error = Some(error.into()),
            }
            self.phases.advance = since(asked_at);
        }
        if std::mem::take(&mut self.is_logging_snapshot)
            && self.advance_error.is_none()
            && let Err(error) = connection.finish().await
        {
            cycle.may_log_snapshots = false;
            self.snapshot_error = Some(error.into());
        }
    }

    fn add_written(&mut self, cycle: &mut CycleState, store: BatchWriter, coverage: Coverage) {
        let Written {
            after,
            stored,
            recent,
            relations,
        } = store.finish();
        if stored > 0 {
            cycle.documents_as_text_from = None;
        }
        if coverage.complete {
            cycle.peeked_through = Some(coverage.flush);
        }
        self.stored = stored;
        self.complete = coverage.complete;
        self.recent = recent.filter(|_| stored > 0);
        self.after = after;
        self.relations = relations;
    }
}

fn slot_contended(slot: &str) -> Error {
    let message = format!("another reader of the slot {slot} keeps storing its changes");
    Error::new(Category::SlotInUse, "slot_contended", message)
        .with_remedy("stop the other deployment, or give this one a slot of its own")
}
