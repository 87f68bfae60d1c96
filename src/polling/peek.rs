//! Reads a peek in slices: the slot's messages arrive through a cursor, so that a transaction of a
//! million rows need not fit in memory.

use bytes::Bytes;
use postgres_protocol::escape::escape_identifier;

use super::commit_search::CommitSearch;
use crate::changes::AssembleError;
use crate::error::{Category, Error, Result};
use crate::lsn::Lsn;
use crate::pgoutput::{self, Message};
use crate::pipeline::Queued;
use crate::postgres::{
    self, Connection, FIRST_FETCH_SIZE, Param, Row, SqlState, Stream, next_fetch_size,
};

/// One message of the output plugin, cut at the row limit.
#[derive(Clone, Debug)]
pub(super) struct PeekedMessage {
    /// At most as many bytes as the row limit allows.
    pub(super) bytes: Bytes,
    /// The length of the whole message.
    pub(super) full_len: usize,
}

/// What to peek.
#[derive(Clone, Copy, Debug)]
pub(super) struct PeekRequest<'a> {
    pub(super) slot: &'a str,
    pub(super) publication: &'a str,
    pub(super) max_changes: u32,
    pub(super) max_row_bytes: u32,
    /// The maximum number of bytes of messages in one slice; a single message may be larger.
    pub(super) slice_bytes: usize,
    /// Skip transactions that end at or before this position. Set if the slot may lag behind the
    /// checkpoint.
    pub(super) stored_through: Option<Lsn>,
}

/// A peek that is queued and not yet answered.
#[must_use = "the peek must be opened"]
#[derive(Debug)]
pub(super) struct QueuedPeek {
    cursor: Queued,
    peek: Peek,
}

/// An open cursor over one peek.
#[derive(Debug)]
pub(super) struct Peek {
    slice_bytes: usize,
    /// The number of rows that the next FETCH asks for.
    fetch_rows: u32,
    /// The slice that has arrived and was not returned yet.
    buffered: Option<Slice>,
    /// The last row of the cursor that has arrived, counted from 1.
    received_row: u64,
    /// The last row of the slice that was returned last.
    returned_row: u64,
    /// The cursor is not positioned on `received_row`.
    needs_reposition: bool,
    in_flight: Option<InFlightFetch>,
}

/// A FETCH that is queued and not yet answered.
#[derive(Debug)]
struct InFlightFetch {
    /// The MOVE that goes before it, if the cursor was elsewhere.
    reposition: Option<Queued>,
    fetch: Queued,
}

/// Messages in the order of the slot.
#[derive(Debug, Default)]
pub(super) struct Slice {
    pub(super) messages: Vec<PeekedMessage>,
    pub(super) is_last: bool,
}

const MAX_FETCH_ROWS: u32 = 16_384;

/// The type bytes of a commit and of a relation's description.
const COMMIT: u8 = b'C';
const RELATION: u8 = b'R';

/// The cursor is declared SCROLL, so that rows beyond the slice's bytes can be left and fetched
/// again.
///
/// Filtering rows by their LSN would lose changes: a row's LSN is where it was written, and a
/// transaction that wrote earlier may commit later. Commits come in order, so everything up to the
/// last stored commit is skipped. A join would not keep the order. Descriptions of relations are
/// kept: pgoutput sends each once in a peek, for all the transactions that follow. The function
/// must run only once: hence a materialised CTE that is scanned twice.
fn declare(filtered: bool) -> String {
    let peek = "pg_catalog.pg_logical_slot_peek_binary_changes($1::name, NULL, $2::int4, \
                'proto_version', '1', 'publication_names', $3::text)";
    let (with, from) = if filtered {
        let with = format!(
            "WITH peek AS MATERIALIZED (SELECT lsn, xid, data, number FROM {peek} \
             WITH ORDINALITY AS message(lsn, xid, data, number)) "
        );
        let from = format!(
            "peek WHERE number > (SELECT COALESCE(pg_catalog.max(number), 0) FROM peek \
             WHERE pg_catalog.get_byte(data, 0) = {COMMIT} AND lsn <= $5::pg_lsn) \
             OR pg_catalog.get_byte(data, 0) = {RELATION}"
        );
        (with, from)
    } else {
        (String::new(), peek.to_owned())
    };
    format!(
        "DECLARE peek_cursor SCROLL CURSOR FOR {with}\
         SELECT xid, CASE WHEN pg_catalog.length(data) <= $4::int4 THEN data \
         ELSE pg_catalog.substr(data, 1, $4::int4) END, \
         CASE WHEN pg_catalog.length(data) > $4::int4 THEN pg_catalog.length(data) END FROM {from}"
    )
}

impl QueuedPeek {
    /// Queues the cursor and its first FETCH in the transaction that is open by then. The caller
    /// sends them and reads the results of what it has queued before.
    pub(super) fn queue<S: Stream>(
        connection: &mut Connection<S>,
        request: PeekRequest<'_>,
    ) -> Result<Self> {
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
        let declare = declare(request.stored_through.is_some());
        let cursor = Queued::statement(connection, &declare, &params)?;

        let mut peek = Peek {
            slice_bytes: request.slice_bytes,
            // Enough for the few transactions of a live feed, which then take one round trip.
            fetch_rows: FIRST_FETCH_SIZE,
            buffered: None,
            received_row: 0,
            returned_row: 0,
            needs_reposition: false,
            in_flight: None,
        };
        peek.queue_fetch(connection)?;
        Ok(Self { cursor, peek })
    }

    /// Waits for the first slice, which is when Postgres decodes. `missing` explains a failure.
    pub(super) async fn open<S: Stream>(
        self,
        connection: &mut Connection<S>,
        request: PeekRequest<'_>,
        missing: Missing,
    ) -> Result<Peek> {
        let Self { cursor, mut peek } = self;
        let first_slice = async {
            cursor.finish(connection).await?;
            peek.receive(connection).await
        };
        first_slice
            .await
            .map_err(|cause| missing.explain(request, cause))?;
        // From PostgreSQL 18 on, pgoutput skips changes whose publication did not exist when they
        // were written, with nothing but a warning. Going on would lose them silently.
        let skipped = connection
            .take_notices()
            .find(|notice| notice.sqlstate() == SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE);
        if let Some(warning) = skipped {
            return Err(missing.publication_gap(request).with_source(warning));
        }
        Ok(peek)
    }
}

impl Peek {
    /// The number of messages that were returned so far.
    pub(super) fn messages(&self) -> u64 {
        self.returned_row
    }

    /// A FETCH is in flight.
    pub(super) fn is_in_flight(&self) -> bool {
        self.in_flight.is_some()
    }

    /// Returns the slice that has arrived; `None` after the last. Before it is called again, the
    /// next slice must be asked for with [`Self::queue_next`] and awaited with [`Self::receive`].
    pub(super) fn take(&mut self) -> Option<Slice> {
        self.returned_row = self.received_row;
        self.buffered.take()
    }

    /// Queues the FETCH of the slice after the one that has arrived, unless that is the last.
    pub(super) fn queue_next<S: Stream>(&mut self, connection: &mut Connection<S>) -> Result<()> {
        let is_at_end = self.buffered.as_ref().is_none_or(|slice| slice.is_last);
        if !is_at_end {
            self.queue_fetch(connection)?;
        }
        Ok(())
    }

    fn queue_fetch<S: Stream>(&mut self, connection: &mut Connection<S>) -> Result<()> {
        let reposition = if std::mem::take(&mut self.needs_reposition) {
            let to = format!("MOVE ABSOLUTE {} FROM peek_cursor", self.received_row);
            Some(Queued::statement(connection, &to, &[])?)
        } else {
            None
        };
        let fetch = format!("FETCH FORWARD {} FROM peek_cursor", self.fetch_rows);
        let fetch = Queued::statement(connection, &fetch, &[])?;
        self.in_flight = Some(InFlightFetch { reposition, fetch });
        Ok(())
    }

    /// Waits for the slice in flight, if there is one. Rows beyond its bytes are not kept but
    /// fetched again later, so that memory is bounded whatever the size of the rows.
    pub(super) async fn receive<S: Stream>(
        &mut self,
        connection: &mut Connection<S>,
    ) -> std::result::Result<(), postgres::Error> {
        let Some(InFlightFetch { reposition, fetch }) = self.in_flight.take() else {
            return Ok(());
        };
        if let Some(reposition) = reposition {
            reposition.finish(connection).await?;
        }
        let mut slice = Slice::default();
        let (mut bytes, mut discarded) = (0_usize, 0_usize);
        let slice_bytes = self.slice_bytes;
        let keep = |row: &Row| -> std::result::Result<(), postgres::Error> {
            let data: Bytes = row.get(1)?;
            let is_too_much = !slice.messages.is_empty() && bytes + data.len() > slice_bytes;
            if discarded > 0 || is_too_much {
                discarded += 1;
                return Ok(());
            }
            bytes += data.len();
            let cut_from: Option<i32> = row.get(2)?;
            let full_len = cut_from.and_then(|length| usize::try_from(length).ok());
            slice.messages.push(PeekedMessage {
                full_len: full_len.unwrap_or(data.len()),
                bytes: data,
            });
            Ok(())
        };
        fetch.for_each_row(connection, keep).await?;
        let kept = slice.messages.len();
        slice.is_last = discarded == 0 && kept < self.fetch_rows as usize;
        self.received_row += kept as u64;
        self.needs_reposition = discarded > 0;
        self.fetch_rows = next_fetch_size(kept, bytes, self.slice_bytes / 2, MAX_FETCH_ROWS);
        self.buffered = Some(slice);
        Ok(())
    }

    /// Scans ahead for the commit of the transaction `xid`, which the slice that was returned last
    /// ends in, and returns the end LSN of its record. No FETCH may be in flight.
    ///
    /// Fails with [`Category::Decode`] if the peek ends within the transaction.
    pub(super) async fn find_commit<S: Stream>(
        &mut self,
        connection: &mut Connection<S>,
        xid: u32,
    ) -> Result<Lsn> {
        let mut search = CommitSearch::after(self.returned_row);
        let mut last = Bytes::new();
        self.needs_reposition = true;
        loop {
            let rows = search.next_rows();
            if rows.is_empty() {
                break;
            }
            let mut fetches = Vec::with_capacity(rows.len());
            for row in rows {
                let fetch = format!("FETCH ABSOLUTE {row} FROM peek_cursor");
                fetches.push((row, Queued::statement(connection, &fetch, &[])?));
            }
            connection.send().await?;
            for (row, fetch) in fetches {
                let mut is_inside = false;
                if let Some(found) = fetch.first_row(connection).await? {
                    is_inside = found.get::<u32>(0)? == xid;
                    if is_inside {
                        last = found.get(1)?;
                    }
                }
                search.record(row, is_inside);
            }
        }
        match pgoutput::decode(&last) {
            Ok(Message::Commit(commit)) => Ok(commit.end_lsn),
            _ => Err(AssembleError::Unfinished(xid).into()),
        }
    }
}

/// Which of the objects that a peek needs do not exist. Postgres reports both with one SQLSTATE.
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
        let error = match state {
            SqlState::UNDEFINED_OBJECT if self.slot => Self::slot_missing(slot),
            SqlState::UNDEFINED_OBJECT => self.publication_gap(request),
            SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE => {
                let message = format!("the replication slot {slot} can no longer be read");
                Error::new(Category::SlotLost, "slot_lost", message)
            }
            _ => return cause.into(),
        };
        error.with_sqlstate(state.as_str()).with_source(cause)
    }

    pub(super) fn slot_missing(slot: &str) -> Error {
        let message = format!("the replication slot {slot} does not exist");
        Error::new(Category::SlotMissing, "slot_missing", message)
    }

    /// Also if the publication exists again: decoding sees the catalogue as it was when a change
    /// was written.
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
            "if the publication does not exist, run CREATE PUBLICATION {} FOR TABLE ...; changes \
             that were written without it can no longer be read, so the feed goes on with a new \
             epoch, in which every client reloads",
            escape_identifier(publication)
        ))
    }
}
