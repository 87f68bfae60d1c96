//! Reading a peek in slices: what the slot holds arrives through a cursor, so that a transaction of
//! a million rows never has to fit in memory.

use bytes::Bytes;
use postgres_protocol::escape::escape_identifier;

use super::commit_search::CommitSearch;
use crate::changes::AssembleError;
use crate::error::{Category, Error, Result};
use crate::lsn::Lsn;
use crate::pgoutput::{self, Message};
use crate::postgres::{self, Connection, FIRST_FETCH_SIZE, Param, Stream, next_fetch_size};

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
    buffered: Option<Slice>,
    /// The row of the cursor up to which slices have arrived, counted from 1.
    row: u64,
    /// The row behind which a slice was given out last.
    returned_row: u64,
    /// The cursor stands elsewhere than on `row`.
    needs_reposition: bool,
    /// What was sent and not yet answered.
    in_flight: Option<InFlightFetch>,
}

/// Statements under way that read the cursor on.
#[derive(Clone, Copy, Debug)]
struct InFlightFetch {
    /// A MOVE goes before the FETCH.
    has_move: bool,
}

/// Messages in the order of the slot.
#[derive(Debug, Default)]
pub(super) struct Slice {
    pub(super) messages: Vec<PeekedMessage>,
    pub(super) is_last: bool,
}

const MAX_FETCH_ROWS: u32 = 16_384;

/// The type bytes of a commit, and of a relation's description.
const COMMIT: u8 = b'C';
const RELATION: u8 = b'R';

const UNDEFINED_OBJECT: &str = "42704";
const OBJECT_NOT_IN_PREREQUISITE_STATE: &str = "55000";

/// SCROLL, so that rows beyond the slice's bytes can be given back and fetched again.
///
/// A filter on rows by LSN would lose changes: a row's LSN is where it was written, and a
/// transaction that wrote earlier may commit later. Commits come in order, so what is stored is
/// everything up to the last commit that is. No join, which would not keep the order. Descriptions
/// of relations stay: pgoutput gives each once in a peek, for all the transactions that follow. The
/// function must run once: a materialised CTE that two scans read.
fn declare(filtered: bool) -> String {
    let peek = "pg_logical_slot_peek_binary_changes($1::name, NULL, $2::int4, \
                'proto_version', '1', 'publication_names', $3::text)";
    let (with, from) = if filtered {
        let with = format!(
            "WITH peek AS MATERIALIZED (SELECT lsn, xid, data, number FROM {peek} \
             WITH ORDINALITY AS message(lsn, xid, data, number)) "
        );
        let from = format!(
            "peek WHERE number > (SELECT COALESCE(max(number), 0) FROM peek \
             WHERE get_byte(data, 0) = {COMMIT} AND lsn <= $5::pg_lsn) \
             OR get_byte(data, 0) = {RELATION}"
        );
        (with, from)
    } else {
        (String::new(), peek.to_owned())
    };
    format!(
        "DECLARE peek_cursor SCROLL CURSOR FOR {with}\
         SELECT xid, CASE WHEN length(data) <= $4::int4 THEN data \
         ELSE substr(data, 1, $4::int4) END, \
         CASE WHEN length(data) > $4::int4 THEN length(data) END FROM {from}"
    )
}

impl Peek {
    /// Queues the cursor, in a transaction that is open by then. The caller sends, takes in what it
    /// has queued before, and calls [`Self::open`].
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
        connection.queue(&declare(request.stored_through.is_some()), &params)?;

        let mut peek = Self {
            slice_bytes: request.slice_bytes,
            // Enough for the few transactions of a live feed, which are then one round trip.
            fetch_rows: FIRST_FETCH_SIZE,
            buffered: None,
            row: 0,
            returned_row: 0,
            needs_reposition: false,
            in_flight: None,
        };
        peek.queue_fetch(connection)?;
        Ok(peek)
    }

    /// Takes in the first slice. This is when Postgres decodes. `missing` explains a failure.
    pub(super) async fn open<S: Stream>(
        &mut self,
        connection: &mut Connection<S>,
        request: PeekRequest<'_>,
        missing: Missing,
    ) -> Result<()> {
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
        self.returned_row
    }

    /// More was asked for and has not been taken in.
    pub(super) fn is_in_flight(&self) -> bool {
        self.in_flight.is_some()
    }

    /// The slice that has arrived is the last.
    pub(super) fn is_at_end(&self) -> bool {
        self.buffered.as_ref().is_none_or(|slice| slice.is_last)
    }

    /// The slice that has arrived; `None` after the last. What comes after it is to be asked for
    /// with [`Self::queue_next`] and taken in with [`Self::receive`] before this is called again.
    pub(super) fn take(&mut self) -> Option<Slice> {
        self.returned_row = self.row;
        self.buffered.take()
    }

    /// Queues what reads the slice behind the one that has arrived, unless that is the last.
    pub(super) fn queue_next<S: Stream>(&mut self, connection: &mut Connection<S>) -> Result<()> {
        if !self.is_at_end() {
            self.queue_fetch(connection)?;
        }
        Ok(())
    }

    fn queue_fetch<S: Stream>(&mut self, connection: &mut Connection<S>) -> Result<()> {
        let has_move = std::mem::take(&mut self.needs_reposition);
        if has_move {
            connection.queue(&format!("MOVE ABSOLUTE {} FROM peek_cursor", self.row), &[])?;
        }
        let fetch = format!("FETCH FORWARD {} FROM peek_cursor", self.fetch_rows);
        connection.queue(&fetch, &[])?;
        self.in_flight = Some(InFlightFetch { has_move });
        Ok(())
    }

    /// Receives the slice that was asked for, if one was. Rows beyond its bytes are not kept but
    /// given back to the cursor, so that memory is bounded whatever the rows' sizes are.
    pub(super) async fn receive<S: Stream>(
        &mut self,
        connection: &mut Connection<S>,
    ) -> std::result::Result<(), postgres::Error> {
        let Some(in_flight) = self.in_flight.take() else {
            return Ok(());
        };
        if in_flight.has_move {
            connection.finish().await?;
        }
        let mut slice = Slice::default();
        let (mut bytes, mut given_back) = (0_usize, 0_usize);
        while let Some(row) = connection.next_row().await? {
            let data: Bytes = row.get(1)?;
            let is_too_much = !slice.messages.is_empty() && bytes + data.len() > self.slice_bytes;
            if given_back > 0 || is_too_much {
                given_back += 1;
                continue;
            }
            bytes += data.len();
            let cut_from: Option<i32> = row.get(2)?;
            let full_len = cut_from.and_then(|length| usize::try_from(length).ok());
            slice.messages.push(PeekedMessage {
                full_len: full_len.unwrap_or(data.len()),
                bytes: data,
            });
        }
        let kept = slice.messages.len();
        slice.is_last = given_back == 0 && kept < self.fetch_rows as usize;
        self.row += kept as u64;
        self.needs_reposition = given_back > 0;
        self.fetch_rows = next_fetch_size(kept, bytes, self.slice_bytes / 2, MAX_FETCH_ROWS);
        self.buffered = Some(slice);
        Ok(())
    }

    /// Reads ahead to the commit of the transaction `xid`, of which everything that was given out
    /// last is, and tells where its record ends. Nothing may be coming.
    ///
    /// Fails with [`Category::Decode`] when the peek ends within it.
    pub(super) async fn find_commit<S: Stream>(
        &mut self,
        connection: &mut Connection<S>,
        xid: u32,
    ) -> Result<Lsn> {
        let mut search = CommitSearch::behind(self.returned_row);
        let mut last = Bytes::new();
        self.needs_reposition = true;
        loop {
            let probes = search.probes();
            if probes.is_empty() {
                break;
            }
            for row in &probes {
                connection.queue(&format!("FETCH ABSOLUTE {row} FROM peek_cursor"), &[])?;
            }
            connection.send().await?;
            for row in probes {
                let mut is_inside = false;
                if let Some(found) = connection.next_row().await? {
                    is_inside = found.get::<u32>(0)? == xid;
                    if is_inside {
                        last = found.get(1)?;
                    }
                    connection.finish().await?;
                }
                search.note(row, is_inside);
            }
        }
        match pgoutput::decode(&last) {
            Ok(Message::Commit(commit)) => Ok(commit.end_lsn),
            _ => Err(AssembleError::Unfinished(xid).into()),
        }
    }
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
