//! Stores a backlog: more than fits one write. It is read and written slice by slice, over a second
//! connection if one can be opened, so that Postgres decodes and stores at the same time.
//!
//! ```text
//! reader:  FETCH n+1 ......  FETCH n+2 ......            a transaction that only reads
//! here:       decode n         decode n+1
//! writer:       write n-1 .....  write n .....           a transaction: lock, writes, checkpoint
//! ```

use futures_util::future::join;

use super::batch_writer::BatchWriter;
use super::begin::{COMMIT_TO_DISK, WORK_IN_MEMORY};
use super::checkpoint_update::QueuedLock;
use super::cycle_config::CycleConfig;
use super::cycle_state::CycleState;
use super::peek::Peek;
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::pipeline::Queued;
use crate::postgres::{Connection, Stream};
use crate::state::{self, BEGIN};

/// Opens further connections to the database that a cycle reads.
pub trait Connector {
    /// What its connections run on.
    type Stream: Stream;

    /// Opens a connection for the time of one cycle.
    fn connect(&self) -> impl Future<Output = Result<Connection<Self::Stream>>>;
}

/// The connections of a cycle with a backlog.
pub(super) struct ReaderWriter<'a, S> {
    reader: &'a mut Connection<S>,
    /// `None`: the reader also writes.
    writer: Option<Connection<S>>,
}

impl<'a, S: Stream> ReaderWriter<'a, S> {
    /// Opens the second connection while the fetch in flight on the first one arrives. If that
    /// fails, the first one does both, and the error is returned beside it.
    pub(super) async fn open<C: Connector<Stream = S>>(
        reader: &'a mut Connection<S>,
        connector: &C,
        peek: &mut Peek,
    ) -> Result<(Self, Option<Error>)> {
        let (writer, received) = join(connector.connect(), peek.receive(reader)).await;
        received?;
        let (writer, error) = match writer {
            Ok(writer) => (Some(writer), None),
            Err(error) => (None, Some(error)),
        };
        Ok((Self { reader, writer }, error))
    }

    /// The connection whose transaction writes.
    pub(super) fn writer(&mut self) -> &mut Connection<S> {
        self.writer.as_mut().unwrap_or(self.reader)
    }

    /// Commits what was written and sends the slot's advance to `to`, whose receipt it returns.
    pub(super) async fn commit(mut self, slot: &str, to: Lsn) -> Result<Queued> {
        self.writer().execute("COMMIT", &[]).await?;
        let Self { reader, writer } = self;
        let Some(writer) = writer else {
            let advance = state::queue_slot_advance(reader, slot, to)?;
            reader.send().await?;
            return Ok(advance);
        };
        // The reader's own transaction has nothing to commit: this ends it.
        let end = Queued::statement(reader, "COMMIT", &[])?;
        let advance = state::queue_slot_advance(reader, slot, to)?;
        reader.send().await?;
        end.finish(reader).await?;
        writer.close().await;
        Ok(advance)
    }

    /// Ends both transactions without having stored anything.
    pub(super) async fn roll_back(self) -> Result<()> {
        if let Some(writer) = self.writer {
            writer.close().await;
        }
        self.reader.execute("ROLLBACK", &[]).await?;
        Ok(())
    }

    /// Stores what `changes` holds and the rest of the peek. False if another reader has stored
    /// meanwhile: the caller must then roll back.
    pub(super) async fn store(
        &mut self,
        config: &CycleConfig,
        cycle: &mut CycleState,
        peek: &mut Peek,
        changes: &mut BatchWriter,
    ) -> Result<bool> {
        if self.begin(config, cycle).await? {
            return Ok(false);
        }
        self.write(cycle, peek, changes).await?;
        loop {
            peek.receive(self.reader).await?;
            peek.queue_next(self.reader)?;
            self.reader.send_queued().await?;
            let Some(slice) = peek.take() else { break };
            changes.decode(self.reader, cycle, peek, slice).await?;
            changes
                .limit_pending(config.slice_bytes, self.reader, peek)
                .await?;
            self.write(cycle, peek, changes).await?;
        }
        changes.await_writes(self.writer(), cycle, 0).await?;
        Ok(true)
    }

    /// Writes what `changes` holds. One write may stay in flight, so that Postgres never waits for
    /// this side while memory stays bounded. Over a single connection none does: the peek needs it
    /// for lookups, and it answers in order anyway, the slice in flight before the write.
    async fn write(
        &mut self,
        cycle: &mut CycleState,
        peek: &mut Peek,
        changes: &mut BatchWriter,
    ) -> Result<()> {
        let mut in_flight = 0;
        if changes.has_unwritten() {
            changes.write(self.writer()).await?;
            in_flight = 1;
        }
        if self.writer.is_none() {
            peek.receive(self.reader).await?;
            in_flight = 0;
        }
        changes.await_writes(self.writer(), cycle, in_flight).await
    }

    /// Begins the writer's transaction and locks the checkpoint. True if another reader has moved
    /// it.
    async fn begin(&mut self, config: &CycleConfig, cycle: &mut CycleState) -> Result<bool> {
        let is_second = self.writer.is_some();
        let writer = self.writer();
        let mut preparation = Vec::new();
        if is_second {
            let settings = format!("SELECT {COMMIT_TO_DISK}, {WORK_IN_MEMORY}");
            preparation.push(Queued::statement(writer, BEGIN, &[])?);
            preparation.push(Queued::statement(writer, &settings, &[])?);
        }
        let lock = QueuedLock::queue(writer, &config.slot)?;
        writer.send().await?;
        for statement in preparation {
            statement.finish(writer).await?;
        }
        lock.refresh(writer, &config.slot, &mut cycle.checkpoint)
            .await
    }
}
