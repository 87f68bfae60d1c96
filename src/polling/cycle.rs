//! One cycle: from an open connection to stored changes and an advanced slot.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use super::peek::{Peek, PeekRequest, Slice};
use crate::changes::{Accepted, Assembler, ChangeBatch, Limits, TypeCatalog, TypeRow};
use crate::clock;
use crate::error::{Category, Error, Result};
use crate::history::{self, Recent};
use crate::lsn::Lsn;
use crate::pgoutput;
use crate::postgres::{ArrayParam, Connection, Element, Param};
use crate::state::{self, Checkpoint, OWN_TABLES};

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
}

/// What the cycles of one feed remember from one to the next. Lost with the object, and then read
/// again from the database.
#[derive(Debug)]
pub struct Cycle {
    /// How far changes are stored, as last seen.
    pub checkpoint: Checkpoint,
    /// The flush LSN before the last peek that came back whole: nothing new until it moves.
    peeked_through: Option<Lsn>,
    /// The slot may be behind the checkpoint, since the last advance failed or is not known.
    unconsumed: bool,
    /// When the slot was last seen at the checkpoint, milliseconds since the Unix epoch.
    advanced_at: u64,
    /// What is known of the types that are not built in.
    types: TypeCatalog,
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
/// Another reader of the slot may store between our look at the checkpoint and its lock.
const MAX_RACES: u32 = 5;

impl Cycle {
    /// Starts from a checkpoint that `state::resume` has found intact.
    pub fn resume_from(checkpoint: Checkpoint) -> Self {
        Self {
            checkpoint,
            peeked_through: None,
            unconsumed: false,
            advanced_at: clock::now_ms(),
            types: TypeCatalog::default(),
        }
    }
}

/// What a transaction left to do after its commit.
struct Stored {
    changes: u64,
    complete: bool,
    recent: Option<Recent>,
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
        return Ok(Report::idle(phases));
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
    connection.execute("BEGIN", &[]).await?;
    let request = PeekRequest {
        slot: &feed.slot,
        publication: &feed.publication,
        max_changes: feed.max_changes,
        max_row_bytes: feed.max_row_bytes,
        slice_bytes: feed.slice_bytes,
        stored_through: cycle.unconsumed.then_some(cycle.checkpoint.lsn),
    };
    let mut peek = Peek::open(connection, request).await?;
    phases.peek += since(started);

    let started = clock::now_ms();
    let mut store = Store::new(feed, &cycle.checkpoint);
    cycle.types.begin_peek();
    while let Some(slice) = peek.next_slice(connection).await? {
        store.transform(connection, &mut cycle.types, slice).await?;
        if store.batch.is_empty() {
            continue;
        }
        if !store.fenced && !store.fence(connection, feed, cycle).await? {
            connection.execute("ROLLBACK", &[]).await?;
            return Ok(Attempt::Raced);
        }
        store.insert(connection).await?;
    }
    phases.store += since(started);

    let started = clock::now_ms();
    // A filtered peek shows fewer messages than it read, so it cannot tell that it was whole.
    let complete = request.stored_through.is_none() && peek.messages() < feed.max_changes.into();
    let attempt = store.finish(connection, feed, cycle, flush, complete).await;
    phases.commit += since(started);
    attempt
}

/// The changes of one peek on their way into history.
struct Store {
    assembler: Assembler,
    batch: ChangeBatch,
    writer: history::Writer,
    recent: Option<Recent>,
    epoch: i32,
    last_id: i64,
    stored: u64,
    /// The end of the last commit that the peek lists, stored or not.
    passed: Lsn,
    /// The checkpoint row is locked by this transaction.
    fenced: bool,
}

impl Store {
    fn new(feed: &Feed, checkpoint: &Checkpoint) -> Self {
        Self {
            assembler: Assembler::new(
                checkpoint.lsn,
                OWN_TABLES.map(|table| (feed.own_schema.clone(), table.to_owned())),
                Limits {
                    max_row_bytes: feed.max_row_bytes as usize,
                },
            ),
            batch: ChangeBatch::default(),
            writer: history::Writer::default(),
            recent: Some(Recent::after(checkpoint.epoch, checkpoint.last_id)),
            epoch: checkpoint.epoch,
            last_id: checkpoint.last_id,
            stored: 0,
            passed: checkpoint.lsn,
            fenced: false,
        }
    }

    /// Decodes a slice into the batch.
    async fn transform<S>(
        &mut self,
        connection: &mut Connection<S>,
        types: &mut TypeCatalog,
        slice: Slice,
    ) -> Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.batch.clear();
        for commit in slice.commits {
            self.assembler.expect_commit(commit.xid, commit.end_lsn);
            self.passed = self.passed.max(commit.end_lsn);
        }
        for message in slice.messages {
            let whole = message.bytes.len() == message.full_len;
            let decoded = if whole {
                pgoutput::decode(&message.bytes)?
            } else {
                pgoutput::decode_prefix(&message.bytes, message.full_len)?
            };
            let accepted = self.assembler.accept(&decoded, types, &mut self.batch)?;
            if let Accepted::NeedTypes(missing) = accepted {
                look_up_types(connection, types, &missing).await?;
                self.assembler.accept(&decoded, types, &mut self.batch)?;
            }
        }
        Ok(())
    }

    /// Locks the checkpoint row, so that two readers of one slot take turns. False when another
    /// one has stored since the checkpoint was last seen.
    async fn fence<S>(
        &mut self,
        connection: &mut Connection<S>,
        feed: &Feed,
        cycle: &mut Cycle,
    ) -> Result<bool>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        const LOCK: &str = "SELECT epoch, lsn, last_id FROM replication_checkpoint \
                            WHERE slot = $1::text FOR UPDATE";
        let row = connection
            .query_optional(LOCK, &[Param::Text(&feed.slot)])
            .await?;
        let row = row.ok_or_else(|| checkpoint_gone(&feed.slot))?;
        let (epoch, lsn, last_id) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let seen = &mut cycle.checkpoint;
        self.fenced = (seen.epoch, seen.lsn, seen.last_id) == (epoch, lsn, last_id);
        (seen.epoch, seen.lsn, seen.last_id) = (epoch, lsn, last_id);
        Ok(self.fenced)
    }

    async fn insert<S>(&mut self, connection: &mut Connection<S>) -> Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let first_id = self.last_id + 1;
        self.writer
            .insert(connection, &self.batch, first_id, self.epoch)
            .await?;
        if !self
            .recent
            .as_mut()
            .is_some_and(|recent| recent.push(&self.batch, first_id))
        {
            self.recent = None;
        }
        let count = self.batch.len() as u64;
        self.last_id = self.last_id.saturating_add_unsigned(count);
        self.stored += count;
        Ok(())
    }

    /// Moves the checkpoint with what was stored, in the same transaction.
    async fn finish<S>(
        self,
        connection: &mut Connection<S>,
        feed: &Feed,
        cycle: &mut Cycle,
        flush: Lsn,
        complete: bool,
    ) -> Result<Attempt>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let covered = if complete {
            self.passed.max(flush)
        } else {
            self.passed
        };
        let must_move = self.stored > 0
            || (!complete && covered > cycle.checkpoint.lsn)
            || idle_advance_is_due(cycle, covered);
        if !must_move {
            connection.execute("ROLLBACK", &[]).await?;
            return Ok(Attempt::Stored(Stored {
                changes: 0,
                complete,
                recent: None,
            }));
        }
        write_checkpoint(connection, feed, cycle, covered, self.last_id).await?;
        connection.execute("COMMIT", &[]).await?;
        cycle.checkpoint.lsn = cycle.checkpoint.lsn.max(covered);
        cycle.checkpoint.last_id = self.last_id;
        cycle.unconsumed = true;
        Ok(Attempt::Stored(Stored {
            changes: self.stored,
            complete,
            recent: self.recent,
        }))
    }
}

async fn look_up_types<S>(
    connection: &mut Connection<S>,
    types: &mut TypeCatalog,
    missing: &[u32],
) -> Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut oids = ArrayParam::new(Element::Oid);
    for &oid in missing {
        oids.push_oid(oid);
    }
    let rows = connection
        .query(TypeCatalog::LOOKUP_SQL, &[Param::Array(&oids)])
        .await?;
    let described: std::result::Result<Vec<TypeRow>, crate::postgres::Error> = rows
        .iter()
        .map(|row| {
            Ok(TypeRow {
                oid: row.get(0)?,
                kind: row.get(1)?,
                part: row.get(2)?,
                detail: row.get(3)?,
            })
        })
        .collect();
    types.learn(missing, described?);
    Ok(())
}

/// Written only when the row still says what was read: without stored changes nothing has locked
/// it. The sequence keeps step with the ids, for whoever looks at it.
async fn write_checkpoint<S>(
    connection: &mut Connection<S>,
    feed: &Feed,
    cycle: &Cycle,
    covered: Lsn,
    last_id: i64,
) -> Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    const UPDATE: &str = "\
UPDATE replication_checkpoint SET lsn = GREATEST(lsn, $2::pg_lsn), last_id = $3::int8, \
updated_at = now() WHERE slot = $1::text AND epoch = $4::int4 AND last_id = $5::int8 \
RETURNING CASE WHEN $3::int8 > $5::int8 \
THEN setval(pg_get_serial_sequence('change_history', 'id'), $3::int8) END";
    let params = [
        Param::Text(&feed.slot),
        Param::Lsn(covered),
        Param::Int8(last_id),
        Param::Int4(cycle.checkpoint.epoch),
        Param::Int8(cycle.checkpoint.last_id),
    ];
    if connection.execute(UPDATE, &params).await? == 1 {
        Ok(())
    } else {
        Err(slot_contended(&feed.slot))
    }
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
    fn idle(phases: Phases) -> Self {
        Self {
            stored: 0,
            complete: true,
            idle: true,
            phases,
            recent: None,
            advance_error: None,
        }
    }
}

fn slot_contended(slot: &str) -> Error {
    let message = format!("another reader of the slot {slot} keeps storing its changes");
    Error::new(Category::SlotInUse, "slot_contended", message)
        .with_remedy("stop the other deployment, or give this one a slot of its own")
}

fn checkpoint_gone(slot: &str) -> Error {
    let message = format!("the checkpoint of the slot {slot} is gone");
    Error::new(Category::Configuration, "not_initialized", message).with_remedy("call POST /init")
}
