//! Receipts for statements in flight.
//!
//! Postgres answers pipelined statements in the order in which they were queued, and the connection
//! counts them. Whoever queues a statement in one function and reads its result in another can
//! therefore lose count. Here queuing returns a receipt that reading the result consumes, so that a
//! forgotten result is a warning and one that is read twice does not compile.
//!
//! Dropping a receipt is right after an error only: the connection is unusable then.

use crate::postgres::{Connection, Error, Param, Row, Stream};

/// A statement that is queued and whose result has not been read. Results must be read in the order
/// in which the statements were queued.
#[must_use = "the result of a queued statement must be read"]
#[derive(Debug)]
pub struct Queued(());

impl Queued {
    /// Queues a statement. Nothing is sent before [`Connection::send`].
    pub fn statement<S: Stream>(
        connection: &mut Connection<S>,
        sql: &str,
        params: &[Param<'_>],
    ) -> Result<Self, Error> {
        connection.queue(sql, params)?;
        Ok(Self(()))
    }

    /// Queues `COPY ... FROM STDIN` with all its data. The pieces need not end where rows end.
    pub fn copy<'a, S: Stream>(
        connection: &mut Connection<S>,
        sql: &str,
        pieces: impl Iterator<Item = &'a [u8]>,
    ) -> Result<Self, Error> {
        connection.queue_copy(sql)?;
        for piece in pieces {
            connection.queue_copy_data(piece)?;
        }
        connection.queue_copy_end()?;
        Ok(Self(()))
    }

    /// Waits until the statement has finished and skips its rows. Returns the number of rows that
    /// it inserted, updated, deleted, copied, fetched or selected.
    pub async fn finish<S: Stream>(self, connection: &mut Connection<S>) -> Result<u64, Error> {
        connection.finish().await
    }

    /// Waits until the statement has finished and returns its first row, if it has one.
    pub async fn first_row<S: Stream>(
        self,
        connection: &mut Connection<S>,
    ) -> Result<Option<Row>, Error> {
        let row = connection.next_row().await?;
        if row.is_some() {
            connection.finish().await?;
        }
        Ok(row)
    }

    /// Passes each row to `consume` as it arrives, and waits until the statement has finished. Ends
    /// with the first error of `consume`.
    pub async fn for_each_row<S: Stream, E: From<Error>>(
        self,
        connection: &mut Connection<S>,
        mut consume: impl FnMut(&Row) -> Result<(), E>,
    ) -> Result<(), E> {
        while let Some(row) = connection.next_row().await? {
            consume(&row)?;
        }
        Ok(())
    }
}
