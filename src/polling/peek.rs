//! Reading a peek in slices: what the slot holds arrives through a cursor, so that a transaction of
//! a million rows never has to fit in memory.
//!
//! The cursor lists the commits first, `(lsn, xid)` in commit order: the position a transaction's
//! changes are stored with is its commit's end, which its rows come before. Then every message.

use std::collections::VecDeque;

use bytes::Bytes;
use postgres_protocol::escape::escape_identifier;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::error::{Category, Error, Result};
use crate::lsn::Lsn;
use crate::postgres::{self, Connection, Param};

/// Where a transaction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CommitPosition {
    pub(super) xid: u32,
    pub(super) end_lsn: Lsn,
}

/// One message of the output plugin, cut at the row limit.
#[derive(Clone, Debug)]
pub(super) struct PeekedMessage {
    /// At most the row limit.
    pub(super) bytes: Bytes,
    /// The message's whole length.
    pub(super) full_len: usize,
}

/// What to peek.
#[derive(Clone, Copy, Debug)]
pub(super) struct PeekRequest<'a> {
    pub(super) slot: &'a str,
    pub(super) publication: &'a str,
    pub(super) max_changes: u32,
    pub(super) max_row_bytes: u32,
    /// Bytes of messages that one slice holds at most, but for one that is larger by itself.
    pub(super) slice_bytes: usize,
    /// Leave out transactions that end at or before it. Set when the slot is behind the checkpoint.
    pub(super) stored_through: Option<Lsn>,
}

/// An open cursor over one peek.
#[derive(Debug)]
pub(super) struct Peek {
    slice_bytes: usize,
    /// Rows that the next FETCH asks for.
    fetch_rows: u32,
    /// The slice that has arrived and is not yet given out.
    ahead: Option<Slice>,
    /// Steps by which the cursor must go back before it is read on.
    back: u32,
    /// What was sent and not yet answered.
    coming: Option<Coming>,
    messages: u64,
}

/// Statements under way that read the cursor on.
#[derive(Clone, Copy, Debug)]
struct Coming {
    /// A MOVE goes before the FETCH.
    has_move: bool,
}

/// Messages in the order of the slot.
#[derive(Debug, Default)]
pub(super) struct Slice {
    pub(super) commits: VecDeque<CommitPosition>,
    pub(super) messages: Vec<PeekedMessage>,
    pub(super) is_last: bool,
}

// The first FETCH is small, since nothing is known yet of how large the rows are; and large enough
// for the few transactions of a live feed, which are then one round trip.
const FIRST_FETCH_ROWS: u32 = 512;
const MAX_FETCH_ROWS: u32 = 16_384;
// Behind the commits rows of any size may come.
const COMMITS_FETCH_ROWS: u32 = 1_024;

/// The type bytes of a commit, and of a relation's description.
const COMMIT: u8 = b'C';
const RELATION: u8 = b'R';

const UNDEFINED_OBJECT: &str = "42704";
const OBJECT_NOT_IN_PREREQUISITE_STATE: &str = "55000";

/// SCROLL, so that rows beyond the slice's bytes can be given back and fetched again. The function
/// runs once: a materialised CTE that two scans read.
///
/// A filter on rows by LSN would lose changes: a row's LSN is where it was written, and a
/// transaction that wrote earlier may commit later. Commits come in order, so what is stored is
/// everything up to the last commit that is. No join, which would not keep the order. Descriptions
/// of relations stay: pgoutput gives each once in a peek, for all the transactions that follow.
fn declare(filtered: bool) -> String {
    let filter = if filtered {
        format!(
            "number > (SELECT COALESCE(max(number), 0) FROM peek \
             WHERE get_byte(data, 0) = {COMMIT} AND lsn <= $5::pg_lsn)"
        )
    } else {
        "true".to_owned()
    };
    format!(
        "DECLARE peek_cursor SCROLL CURSOR FOR \
         WITH peek AS MATERIALIZED (\
         SELECT lsn, xid, data, number FROM pg_logical_slot_peek_binary_changes(\
         $1::name, NULL, $2::int4, 'proto_version', '1', 'publication_names', $3::text) \
         WITH ORDINALITY AS message(lsn, xid, data, number)) \
         SELECT lsn, xid, NULL::bytea, 0 FROM peek \
         WHERE get_byte(data, 0) = {COMMIT} AND {filter} \
         UNION ALL \
         SELECT lsn, xid, CASE WHEN length(data) <= $4::int4 THEN data \
         ELSE substr(data, 1, $4::int4) END, length(data) FROM peek \
         WHERE {filter} OR get_byte(data, 0) = {RELATION}"
    )
}

impl Peek {
    /// Queues the cursor, in a transaction that is open by then. The caller sends, takes in what it
    /// has queued before, and calls [`Self::open`].
    pub(super) fn queue<S>(connection: &mut Connection<S>, request: PeekRequest<'_>) -> Result<Self>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let publication = escape_identifier(request.publication);
        let max_changes = i32::try_from(request.max_changes).unwrap_or(i32::MAX);
        let max_row_bytes = i32::try_from(request.max_row_bytes).unwrap_or(i32::MAX);
        let mut params = vec![
            Param::Text(request.slot),
            Param::Int4(max_changes),
            Param::Text(&publication),
            Param::Int4(max_row_bytes),
        ];
        params.extend(request.stored_through.map(Param::Lsn));
        connection.queue(&declare(request.stored_through.is_some()), &params)?;

        let mut peek = Self {
            slice_bytes: request.slice_bytes,
            fetch_rows: FIRST_FETCH_ROWS,
            ahead: None,
            back: 0,
            coming: None,
            messages: 0,
        };
        peek.queue_fetch(connection)?;
        Ok(peek)
    }

    /// Takes in the first slice. This is when Postgres decodes. `missing` explains a failure.
    pub(super) async fn open<S>(
        &mut self,
        connection: &mut Connection<S>,
        request: PeekRequest<'_>,
        missing: Missing,
    ) -> Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let first = async {
            connection.finish().await?;
            self.receive(connection).await
        };
        first
            .await
            .map_err(|cause| missing.explain(request, cause))?;
        // From PostgreSQL 18 on, pgoutput leaves out changes whose publication was not there when
        // they were written, with no more than a warning. Going on would lose them silently.
        let skipped = connection
            .take_notices()
            .find(|notice| notice.sqlstate().as_str() == OBJECT_NOT_IN_PREREQUISITE_STATE);
        if let Some(warning) = skipped {
            return Err(missing.publication_gap(request).with_source(warning));
        }
        Ok(())
    }

    /// Messages given out so far.
    pub(super) fn messages(&self) -> u64 {
        self.messages
    }

    /// The slice that has arrived is the last.
    pub(super) fn is_at_last(&self) -> bool {
        self.ahead.as_ref().is_none_or(|slice| slice.is_last)
    }

    /// The slice that has arrived; `None` after the last. What comes after it is to be asked for
    /// with [`Self::queue_next`] and taken in with [`Self::receive`] before this is called again.
    pub(super) fn take(&mut self) -> Option<Slice> {
        let slice = self.ahead.take()?;
        self.messages += slice.messages.len() as u64;
        Some(slice)
    }

    /// Queues what reads the slice behind the one that has arrived, unless that is the last.
    pub(super) fn queue_next<S>(&mut self, connection: &mut Connection<S>) -> Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        if !self.is_at_last() {
            self.queue_fetch(connection)?;
        }
        Ok(())
    }

    fn queue_fetch<S>(&mut self, connection: &mut Connection<S>) -> Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let back = std::mem::take(&mut self.back);
        if back > 0 {
            connection.queue(&format!("MOVE BACKWARD {back} FROM peek_cursor"), &[])?;
        }
        let fetch = format!("FETCH FORWARD {} FROM peek_cursor", self.fetch_rows);
        connection.queue(&fetch, &[])?;
        self.coming = Some(Coming { has_move: back > 0 });
        Ok(())
    }

    /// Receives the slice that was asked for, if one was. Rows beyond its bytes are not kept but
    /// given back to the cursor, so that memory is bounded whatever the rows' sizes are.
    pub(super) async fn receive<S>(
        &mut self,
        connection: &mut Connection<S>,
    ) -> std::result::Result<(), postgres::Error>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let Some(coming) = self.coming.take() else {
            return Ok(());
        };
        if coming.has_move {
            connection.finish().await?;
        }
        let mut slice = Slice::default();
        let (mut bytes, mut kept, mut given_back) = (0_usize, 0_u32, 0_u32);
        while let Some(row) = connection.next_row().await? {
            let data: Option<Bytes> = row.get(2)?;
            let size = data.as_ref().map_or(0, Bytes::len);
            if given_back > 0 || (kept > 0 && bytes + size > self.slice_bytes) {
                given_back += 1;
                continue;
            }
            kept += 1;
            bytes += size;
            match data {
                None => slice.commits.push_back(CommitPosition {
                    xid: row.get(1)?,
                    end_lsn: row.get(0)?,
                }),
                Some(data) => {
                    let full_len: i32 = row.get(3)?;
                    let full_len = usize::try_from(full_len).unwrap_or_default();
                    slice.messages.push(PeekedMessage {
                        bytes: data,
                        full_len,
                    });
                }
            }
        }
        let ended = kept + given_back < self.fetch_rows;
        slice.is_last = ended && given_back == 0;
        if given_back > 0 {
            // Past its end, a cursor stands one step behind its last row.
            self.back = given_back + u32::from(ended);
        }
        self.fetch_rows = next_fetch_rows(slice.messages.len(), bytes, self.slice_bytes);
        self.ahead = Some(slice);
        Ok(())
    }
}

/// Aims at half the slice's bytes by the size of the messages just seen, growing fourfold at most.
fn next_fetch_rows(messages: usize, bytes: usize, slice_bytes: usize) -> u32 {
    if messages == 0 {
        return COMMITS_FETCH_ROWS;
    }
    let per_message = (bytes / messages).max(1);
    let fitting = u32::try_from(slice_bytes / 2 / per_message).unwrap_or(u32::MAX);
    let grown = u32::try_from(messages)
        .unwrap_or(u32::MAX)
        .saturating_mul(4);
    fitting.clamp(1, grown.clamp(FIRST_FETCH_ROWS, MAX_FETCH_ROWS))
}

/// What the peek needs and does not find: Postgres has one SQLSTATE for both.
#[derive(Clone, Copy, Debug)]
pub(super) struct Missing {
    pub(super) slot: bool,
    pub(super) publication: bool,
}

impl Missing {
    fn explain(self, request: PeekRequest<'_>, cause: postgres::Error) -> Error {
        let slot = request.slot;
        let Some(state) = cause.sqlstate() else {
            return cause.into();
        };
        let error = match state.as_str() {
            UNDEFINED_OBJECT if self.slot => {
                let message = format!("the replication slot {slot} does not exist");
                Error::new(Category::SlotMissing, "slot_missing", message)
            }
            UNDEFINED_OBJECT => self.publication_gap(request),
            OBJECT_NOT_IN_PREREQUISITE_STATE => {
                let message = format!("the replication slot {slot} can no longer be read");
                Error::new(Category::SlotLost, "slot_lost", message)
            }
            _ => return cause.into(),
        };
        error.with_sqlstate(state.as_str()).with_source(cause)
    }

    /// Also when the publication is there again: decoding sees the catalogue of the time at which
    /// a change was written.
    fn publication_gap(self, request: PeekRequest<'_>) -> Error {
        let publication = request.publication;
        let (code, message) = if self.publication {
            let message = format!("the publication {publication} does not exist");
            ("publication_missing", message)
        } else {
            let message =
                format!("the publication {publication} was missing when changes were written");
            ("publication_gap", message)
        };
        Error::new(Category::PublicationMissing, code, message).with_remedy(format!(
            "run CREATE PUBLICATION {} FOR TABLE ...; if it is not there; what was written without \
             it cannot be read any more, so that the feed goes on with a new epoch, in which every \
             client reloads",
            escape_identifier(publication)
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_fetch_aims_at_half_a_slice_and_grows_fourfold_at_most() {
        assert_eq!(next_fetch_rows(256, 256 * 100, 1 << 20), 1024);
        assert_eq!(next_fetch_rows(1024, 1024 * 1024, 1 << 20), 512);
        assert_eq!(next_fetch_rows(16_384, 16_384, 1 << 30), MAX_FETCH_ROWS);
        assert_eq!(next_fetch_rows(1, 8 << 20, 1 << 20), 1);
    }

    #[test]
    fn commits_tell_nothing_of_the_size_of_rows() {
        assert_eq!(next_fetch_rows(0, 0, 1 << 20), COMMITS_FETCH_ROWS);
    }
}
