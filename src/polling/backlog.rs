//! Storing what is too much for one write: slice by slice, over a second connection where there is
//! one, so that Postgres reads and stores side by side.
//!
//! ```text
//! reader:  FETCH n+1 ......  FETCH n+2 ......            one transaction that only reads
//! here:       decode n         decode n+1
//! writer:       write n-1 .....  write n .....           one transaction: fence, writes, checkpoint
//! ```

use tokio::io::{AsyncRead, AsyncWrite};

use super::cycle::{Cycle, Feed};
use super::fence;
use super::opening::{BEGIN, COMMIT_TO_DISK};
use super::peek::Peek;
use super::store::Store;
use crate::error::{Error, Result};
use crate::postgres::Connection;

/// Logs in once more to the database that a cycle reads.
pub trait Connect {
    /// What its connections run on.
    type Stream: AsyncRead + AsyncWrite + Unpin;

    /// A further connection, for the time of one cycle.
    fn connect(&self) -> impl Future<Output = Result<Connection<Self::Stream>>>;
}

/// The connections of a cycle with a backlog.
pub(super) struct Lanes<'a, S> {
    reader: &'a mut Connection<S>,
    /// `None`: the reader writes, too.
    writer: Option<Connection<S>>,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Lanes<'a, S> {
    /// Opens the second lane. Where that fails, the first one does for both.
    pub(super) async fn open<C>(reader: &'a mut Connection<S>, another: &C) -> (Self, Option<Error>)
    where
        C: Connect<Stream = S>,
    {
        let (writer, error) = match another.connect().await {
            Ok(writer) => (Some(writer), None),
            Err(error) => (None, Some(error)),
        };
        (Self { reader, writer }, error)
    }

    /// The connection whose transaction writes.
    pub(super) fn writer(&mut self) -> &mut Connection<S> {
        self.writer.as_mut().unwrap_or(self.reader)
    }

    /// Ends both transactions: what was written is committed, or not, by `how`; the reader's has
    /// nothing to commit.
    pub(super) async fn end(self, how: &str) -> Result<()> {
        if let Some(mut writer) = self.writer {
            writer.execute(how, &[]).await?;
            writer.close().await;
        }
        self.reader.execute(how, &[]).await?;
        Ok(())
    }

    /// Stores the rest of a peek behind what `store` has taken from it. False when another reader
    /// has stored meanwhile: nothing of it counts then.
    pub(super) async fn store(
        &mut self,
        feed: &Feed,
        cycle: &mut Cycle,
        peek: &mut Peek,
        store: &mut Store,
    ) -> Result<bool> {
        if let Some(writer) = &mut self.writer {
            writer.queue(BEGIN, &[])?;
            writer.queue(COMMIT_TO_DISK, &[])?;
            writer.send().await?;
            writer.finish().await?;
            writer.finish().await?;
        }
        let has_moved = fence::lock(self.writer(), &feed.slot, &mut cycle.checkpoint).await?;
        if has_moved {
            return Ok(false);
        }
        self.write(store).await?;
        loop {
            peek.queue_next(self.reader)?;
            self.reader.send_queued().await?;
            let Some(slice) = peek.take() else { break };
            let shares = self.writer.is_none();
            store
                .transform(self.reader, cycle, peek, slice, shares)
                .await?;
            let writes = store.has_unwritten();
            if writes {
                // Before the write ahead of it is answered: Postgres never waits for this side.
                self.write(store).await?;
            }
            while store.writes_under_way() > usize::from(writes) {
                store.settle(self.writer(), cycle).await?;
            }
            peek.receive(self.reader).await?;
        }
        while store.writes_under_way() > 0 {
            store.settle(self.writer(), cycle).await?;
        }
        Ok(true)
    }

    async fn write(&mut self, store: &mut Store) -> Result<()> {
        let writer = self.writer();
        store.queue_write(writer)?;
        Ok(writer.send().await?)
    }
}
