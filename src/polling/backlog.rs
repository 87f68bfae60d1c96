//! Storing what is too much for one write: slice by slice, over a second connection where there is
//! one, so that Postgres reads and stores side by side.
//!
//! ```text
//! reader:  FETCH n+1 ......  FETCH n+2 ......            one transaction that only reads
//! here:       decode n         decode n+1
//! writer:       write n-1 .....  write n .....           one transaction: fence, writes, checkpoint
//! ```

use futures_util::future::join;

use super::batch_writer::BatchWriter;
use super::begin::{BEGIN, COMMIT_TO_DISK, WORK_IN_MEMORY};
use super::checkpoint_update;
use super::cycle::{CycleConfig, CycleState};
use super::peek::Peek;
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::postgres::{Connection, Stream};
use crate::state;

/// Logs in once more to the database that a cycle reads.
pub trait Connector {
    /// What its connections run on.
    type Stream: Stream;

    /// A further connection, for the time of one cycle.
    fn connect(&self) -> impl Future<Output = Result<Connection<Self::Stream>>>;
}

/// The connections of a cycle with a backlog.
pub(super) struct ReaderWriter<'a, S> {
    reader: &'a mut Connection<S>,
    /// `None`: the reader writes, too.
    writer: Option<Connection<S>>,
}

impl<'a, S: Stream> ReaderWriter<'a, S> {
    /// Opens the second lane, while what comes over the first one arrives. Where that fails, the
    /// first one does for both.
    pub(super) async fn open<C>(
        reader: &'a mut Connection<S>,
        connector: &C,
        peek: &mut Peek,
    ) -> Result<(Self, Option<Error>)>
    where
        C: Connector<Stream = S>,
    {
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

    /// Commits what was written, and then has the slot advanced to `to`; the answer to that is still
    /// to come.
    pub(super) async fn commit(mut self, slot: &str, to: Lsn) -> Result<()> {
        self.writer().execute("COMMIT", &[]).await?;
        let Self { reader, writer } = self;
        if writer.is_some() {
            // The reader's own transaction has nothing to commit.
            reader.queue("COMMIT", &[])?;
        }
        state::queue_slot_advance(reader, slot, to)?;
        reader.send().await?;
        if let Some(writer) = writer {
            reader.finish().await?;
            writer.close().await;
        }
        Ok(())
    }

    /// Ends both transactions, and nothing was written.
    pub(super) async fn roll_back(self) -> Result<()> {
        if let Some(writer) = self.writer {
            writer.close().await;
        }
        self.reader.execute("ROLLBACK", &[]).await?;
        Ok(())
    }

    /// Stores the rest of a peek behind what `store` has taken from it. False when another reader
    /// has stored meanwhile: nothing of it counts then.
    pub(super) async fn store(
        &mut self,
        config: &CycleConfig,
        cycle: &mut CycleState,
        peek: &mut Peek,
        store: &mut BatchWriter,
    ) -> Result<bool> {
        if self.begin(config, cycle).await? {
            return Ok(false);
        }
        if store.has_unwritten() {
            store.write(self.writer()).await?;
        }
        let single_connection = self.writer.is_none();
        loop {
            peek.receive(self.reader).await?;
            peek.queue_next(self.reader)?;
            self.reader.send_queued().await?;
            let Some(slice) = peek.take() else { break };
            store
                .transform(self.reader, cycle, peek, slice, single_connection)
                .await?;
            store
                .hold_at_most(
                    config.slice_bytes,
                    self.reader,
                    cycle,
                    peek,
                    single_connection,
                )
                .await?;
            let writes = store.has_unwritten();
            if writes {
                // Before the write ahead of it is answered: Postgres never waits for this side.
                store.write(self.writer()).await?;
            }
            while store.writes_under_way() > usize::from(writes) {
                store.await_write(self.writer(), cycle).await?;
            }
        }
        while store.writes_under_way() > 0 {
            store.await_write(self.writer(), cycle).await?;
        }
        Ok(true)
    }

    /// Begins the writer's transaction and locks the checkpoint. True when another reader has moved
    /// it.
    async fn begin(&mut self, config: &CycleConfig, cycle: &mut CycleState) -> Result<bool> {
        let begins = self.writer.is_some();
        let writer = self.writer();
        if begins {
            writer.queue(BEGIN, &[])?;
            writer.queue(&format!("SELECT {COMMIT_TO_DISK}, {WORK_IN_MEMORY}"), &[])?;
        }
        checkpoint_update::queue_lock(writer, &config.slot)?;
        writer.send().await?;
        if begins {
            writer.finish().await?;
            writer.finish().await?;
        }
        checkpoint_update::refresh_locked(writer, &config.slot, &mut cycle.checkpoint).await
    }
}
