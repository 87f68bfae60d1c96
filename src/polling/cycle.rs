//! One cycle: from an open connection to stored changes and an advanced slot.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use super::fence;
use super::peek::{Peek, PeekRequest};
use super::store::{Finished, Store};
use crate::changes::{DescribedRelation, TypeCatalog};
use crate::clock;
use crate::error::{Category, Error, Result};
use crate::history::{Recent, WriteBy};
use crate::lsn::Lsn;
use crate::postgres::Connection;
use crate::state::{self, Checkpoint};

/// What a cycle reads, and its bounds.
#[derive(Clone, Debug)]
pub struct Feed {
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
    pub write_by: WriteBy,
}

/// What the cycles of one feed remember from one to the next. Lost with the object, and then read
/// again from the database.
#[derive(Debug)]
pub struct Cycle {
    /// How far changes are stored, as last seen: also by another reader of the slot.
    pub checkpoint: Checkpoint,
    /// From this id on, `json` and `jsonb` documents are stored as strings of their text, until
    /// they are stored: Postgres has refused one that it was expected to take. Whoever resumes
    /// after an error passes it on; without it the next cycle fails once more.
    pub documents_as_text_from: Option<i64>,
    /// The flush LSN before the last peek that came back whole: nothing new until it moves.
    peeked_through: Option<Lsn>,
    /// The slot may be behind the checkpoint, since the last advance failed or is not known.
    unconsumed: bool,
    /// When the slot was last seen at the checkpoint, milliseconds since the Unix epoch.
    advanced_at: u64,
    /// What is known of the types that are not built in.
    pub(super) types: TypeCatalog,
}

/// What one cycle did.
#[derive(Debug)]
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
    /// The slot could not be advanced. Harmless: it is tried again.
    pub advance_error: Option<Error>,
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
const IDLE_ADVANCE_BYTES: u64 = 16 << 20;
/// or this far, when it has not been advanced for a while.
const IDLE_ADVANCE_SLOW_BYTES: u64 = 64 << 10;
const IDLE_ADVANCE_AFTER: Duration = Duration::from_mins(1);
/// The defaults of role and database may be others. The fence needs a lock that waits and then sees
/// what was committed meanwhile: at a higher level it fails instead.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE, NOT DEFERRABLE";
/// What is stored must be on disk before the slot is advanced, else a crash of the server could
/// lose it from both.
const COMMIT_TO_DISK: &str = "SELECT set_config('synchronous_commit', 'on', true) \
                              WHERE current_setting('synchronous_commit') = 'off'";
/// Another reader of the slot may store between our look at the checkpoint and its lock.
const MAX_RACES: u32 = 5;

impl Cycle {
    /// Starts from a checkpoint that `state::resume` has found intact.
    pub fn resume_from(checkpoint: Checkpoint) -> Self {
        Self {
            checkpoint,
            documents_as_text_from: None,
            peeked_through: None,
            unconsumed: false,
            advanced_at: clock::now_ms(),
            types: TypeCatalog::default(),
        }
    }
}

struct Stored {
    changes: u64,
    complete: bool,
    recent: Option<Recent>,
    after: i64,
    relations: Vec<(i64, DescribedRelation)>,
}

/// Runs one cycle.
///
/// On an error the connection must be dropped, which ends its transaction: neither history nor
/// checkpoint nor slot have moved then, or, when only the answer to COMMIT was lost, both of the
/// first have, and the caller resumes from the database.
pub async fn run<S>(
    connection: &mut Connection<S>,
    feed: &Feed,
    cycle: &mut Cycle,
) -> Result<Report>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut phases = Phases::default();
    let started = clock::now_ms();
    // Before the peek: everything that committed before this position is in a peek that comes
    // back whole. The flush position, since the write position can run ahead of commits.
    let flush = connection
        .query_one("SELECT pg_current_wal_flush_lsn()", &[])
        .await?;
    let flush: Lsn = flush.get(0)?;
    phases.probe = since(started);
    if cycle.peeked_through == Some(flush) {
        return Ok(Report::idle(phases, cycle.checkpoint.last_id));
    }

    let mut races = 0;
    let stored = loop {
        match store_peek(connection, feed, cycle, flush, &mut phases).await? {
            Attempt::Stored(stored) => break stored,
            Attempt::Raced if races < MAX_RACES => races += 1,
            Attempt::Raced => return Err(slot_contended(&feed.slot)),
        }
    };
    let advance_error = advance(connection, feed, cycle, &mut phases).await;
    if stored.complete {
        cycle.peeked_through = Some(flush);
    }
    Ok(Report {
        stored: stored.changes,
        complete: stored.complete,
        idle: false,
        phases,
        recent: stored.recent,
        after: stored.after,
        relations: stored.relations,
        advance_error,
    })
}

enum Attempt {
    Stored(Stored),
    /// Another reader has stored meanwhile; the checkpoint in memory is now its.
    Raced,
}

async fn store_peek<S>(
    connection: &mut Connection<S>,
    feed: &Feed,
    cycle: &mut Cycle,
    flush: Lsn,
    phases: &mut Phases,
) -> Result<Attempt>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let started = clock::now_ms();
    let request = PeekRequest {
        slot: &feed.slot,
        publication: &feed.publication,
        max_changes: feed.max_changes,
        max_row_bytes: feed.max_row_bytes,
        slice_bytes: feed.slice_bytes,
        stored_through: cycle.unconsumed.then_some(cycle.checkpoint.lsn),
    };
    let mut peek = open_peek(connection, cycle, request).await?;
    phases.peek += since(started);

    let started = clock::now_ms();
    let mut store = Store::new(feed, cycle);
    let stored = store_slices(connection, feed, cycle, &mut peek, &mut store).await?;
    phases.store += since(started);
    if !stored {
        return race(connection, cycle).await;
    }

    // A filtered peek shows fewer messages than it read, so it cannot tell that it was whole.
    let complete = request.stored_through.is_none() && peek.messages() < feed.max_changes.into();
    let covered = if complete {
        store.passed().max(flush)
    } else {
        store.passed()
    };
    let started = clock::now_ms();
    let attempt = commit(connection, feed, cycle, store, covered, complete).await;
    phases.commit += since(started);
    attempt
}

/// Stores the peek's slices. False when another reader has stored meanwhile.
///
/// While a slice is decoded here, Postgres inserts the one before and reads the one behind.
async fn store_slices<S>(
    connection: &mut Connection<S>,
    feed: &Feed,
    cycle: &mut Cycle,
    peek: &mut Peek,
    store: &mut Store,
) -> Result<bool>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    peek.queue_next(connection)?;
    connection.send_queued().await?;
    while let Some(slice) = peek.take() {
        store.transform(connection, cycle, peek, slice).await?;
        store.settle(connection, cycle).await?;
        peek.receive(connection).await?;
        if store.has_unwritten() {
            if !store.lock(connection, feed, cycle).await? {
                return Ok(false);
            }
            store.queue_write(connection)?;
        }
        peek.queue_next(connection)?;
        connection.send_queued().await?;
    }
    store.settle(connection, cycle).await?;
    Ok(true)
}

/// Begins the transaction and opens the peek, in one round trip.
async fn open_peek<S>(
    connection: &mut Connection<S>,
    cycle: &mut Cycle,
    request: PeekRequest<'_>,
) -> Result<Peek>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    connection.queue(BEGIN, &[])?;
    connection.queue(COMMIT_TO_DISK, &[])?;
    fence::queue_look(connection, request.slot)?;
    let mut peek = Peek::queue(connection, request)?;
    connection.send().await?;
    connection.finish().await?;
    connection.finish().await?;
    // Another reader has stored, and may have gone before it advanced the slot.
    cycle.unconsumed |=
        fence::receive_look(connection, request.slot, &mut cycle.checkpoint).await?;
    peek.open(connection, request).await?;
    cycle.types.begin_peek();
    Ok(peek)
}

/// Moves the checkpoint with what was stored, in the same transaction, and ends it.
async fn commit<S>(
    connection: &mut Connection<S>,
    feed: &Feed,
    cycle: &mut Cycle,
    store: Store,
    covered: Lsn,
    complete: bool,
) -> Result<Attempt>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let must_move = store.stored() > 0
        || (!complete && covered > cycle.checkpoint.lsn)
        || idle_advance_is_due(cycle, covered);
    let after = cycle.checkpoint.last_id;
    let Finished {
        changes,
        last_id,
        recent,
        relations,
    } = store.finish();
    if must_move {
        let known = &cycle.checkpoint;
        let covered = covered.max(known.lsn);
        if !fence::move_on(connection, &feed.slot, known, covered, last_id).await? {
            return race(connection, cycle).await;
        }
        connection.execute("COMMIT", &[]).await?;
        cycle.checkpoint.lsn = covered;
        cycle.checkpoint.last_id = last_id;
        cycle.unconsumed = true;
        if changes > 0 {
            cycle.documents_as_text_from = None;
        }
    } else {
        connection.execute("ROLLBACK", &[]).await?;
    }
    Ok(Attempt::Stored(Stored {
        changes,
        complete,
        recent: recent.filter(|_| changes > 0),
        after,
        relations,
    }))
}

/// Gives way to another reader, who has stored what this peek gave, or some of it. It may have gone
/// before it advanced the slot.
async fn race<S>(connection: &mut Connection<S>, cycle: &mut Cycle) -> Result<Attempt>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    connection.execute("ROLLBACK", &[]).await?;
    cycle.unconsumed = true;
    Ok(Attempt::Raced)
}

/// Traffic outside the publication moves the WAL on, and a slot that stays behind keeps all of it.
/// But moving the checkpoint writes WAL itself, so small steps are not worth it.
fn idle_advance_is_due(cycle: &Cycle, covered: Lsn) -> bool {
    let behind = covered.bytes_since(cycle.checkpoint.lsn);
    let waited = u128::from(since(cycle.advanced_at)) >= IDLE_ADVANCE_AFTER.as_millis();
    behind >= IDLE_ADVANCE_BYTES || (waited && behind >= IDLE_ADVANCE_SLOW_BYTES)
}

/// Consumes what is stored. A failure is harmless: the next peek leaves out what it finds again.
async fn advance<S>(
    connection: &mut Connection<S>,
    feed: &Feed,
    cycle: &mut Cycle,
    phases: &mut Phases,
) -> Option<Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if !cycle.unconsumed {
        return None;
    }
    let started = clock::now_ms();
    let advanced = state::advance_slot(connection, &feed.slot, cycle.checkpoint.lsn).await;
    phases.advance = since(started);
    match advanced {
        Ok(()) => {
            cycle.unconsumed = false;
            cycle.advanced_at = clock::now_ms();
            None
        }
        Err(error) => Some(error),
    }
}

fn since(started: u64) -> u64 {
    clock::now_ms().saturating_sub(started)
}

impl Report {
    fn idle(phases: Phases, last_id: i64) -> Self {
        Self {
            stored: 0,
            complete: true,
            idle: true,
            phases,
            recent: None,
            after: last_id,
            relations: Vec::new(),
            advance_error: None,
        }
    }
}

fn slot_contended(slot: &str) -> Error {
    let message = format!("another reader of the slot {slot} keeps storing its changes");
    Error::new(Category::SlotInUse, "slot_contended", message)
        .with_remedy("stop the other deployment, or give this one a slot of its own")
}
