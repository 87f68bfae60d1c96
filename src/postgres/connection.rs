//! Statements on one connection, one after the other or pipelined.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::{CommandCompleteBody, Message, RowDescriptionBody};
use postgres_protocol::message::frontend::{self, BindError, CopyData};

use crate::clock;
use crate::postgres::error::{Error, ProtocolError};
use crate::postgres::row::{ColumnTypes, Row};
use crate::postgres::server_error::ServerError;
use crate::postgres::session::{Session, TransactionStatus};
use crate::postgres::transport::Limits;
use crate::postgres::{Login, Param, Stream};

/// Longest time that saying goodbye may take.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);
/// Format code of Postgres's binary formats.
const BINARY: i16 = 1;

/// One session on one socket.
///
/// Statements are queued, sent together, and their results read in the order they were queued:
/// [`next_row`](Self::next_row) until `None`, or [`finish`](Self::finish), for each.
/// [`query`](Self::query) and [`execute`](Self::execute) do all of it for one statement.
///
/// Every error makes the connection unusable ([`Error::Broken`] from then on): after an error
/// nobody can be sure how far statements that were pipelined behind it have come. Drop it, or
/// [`close`](Self::close) it.
///
/// # Cancellation
/// `send`, `next_row` and `finish` keep their progress in the connection: dropped before they are
/// done, they go on where they were when called again. A dropped `query` or `execute` leaves
/// its statement unfinished; until that is finished, the next of them is refused.
pub struct Connection<S> {
    session: Session<S>,
    /// Queued and not finished, oldest first; the first is the current one.
    pending: VecDeque<Statement>,
    /// How many of the last of `pending` are not sent yet.
    unsent: usize,
    /// The last of `pending` is a copy that wants more data.
    copying: bool,
    broken: bool,
}

impl<S> std::fmt::Debug for Connection<S> {
    /// Without what is on its way: it holds row values.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("unfinished", &self.pending.len())
            .field("broken", &self.broken)
            .finish_non_exhaustive()
    }
}

/// A statement whose results are not all read.
struct Statement {
    is_copy: bool,
    phase: Phase,
    columns: ColumnTypes,
    affected: u64,
}

/// Which message is due next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// `ParseComplete`
    Parse,
    /// `BindComplete`
    Bind,
    /// `RowDescription` or `NoData`
    Describe,
    /// `DataRow`s and then `CommandComplete`
    Rows,
    /// `CopyInResponse`
    CopyIn,
    /// `CommandComplete` or `EmptyQueryResponse`
    Complete,
    /// `ReadyForQuery`
    Ready,
}

impl Phase {
    fn expected(self) -> &'static str {
        match self {
            Self::Parse => "ParseComplete",
            Self::Bind => "BindComplete",
            Self::Describe => "RowDescription or NoData",
            Self::Rows => "DataRow or CommandComplete",
            Self::CopyIn => "CopyInResponse",
            Self::Complete => "CommandComplete",
            Self::Ready => "ReadyForQuery",
        }
    }
}

impl<S: Stream> Connection<S> {
    /// Logs in over `stream`, which is connected, and encrypted when it shall be.
    ///
    /// Authenticates by cleartext, md5 or SCRAM-SHA-256, as the server asks; takes at most
    /// `limits.connect_timeout`.
    pub async fn connect(stream: S, login: &Login, limits: Limits) -> Result<Self, Error> {
        let start = Session::start(stream, login, limits);
        let session = clock::timeout(limits.connect_timeout, start)
            .await
            .map_err(Error::Timeout)??;
        Ok(Self {
            session,
            pending: VecDeque::new(),
            unsent: 0,
            copying: false,
            broken: false,
        })
    }

    /// Queues a statement. Nothing is sent before [`send`](Self::send).
    pub fn queue(&mut self, sql: &str, params: &[Param<'_>]) -> Result<(), Error> {
        self.begin_call()?;
        let queued = self.try_queue(sql, params);
        self.end_call(queued)
    }

    /// Queues `COPY ... FROM STDIN`. Its data follow with [`queue_copy_data`](Self::queue_copy_data)
    /// and end with [`queue_copy_end`](Self::queue_copy_end); no other statement can be queued
    /// meanwhile. `send` may be called in between, to free memory.
    pub fn queue_copy(&mut self, sql: &str) -> Result<(), Error> {
        self.begin_call()?;
        let queued = self.try_queue_copy(sql);
        self.end_call(queued)
    }

    /// Queues data of the copy that was queued last. Pieces need not end where rows end.
    pub fn queue_copy_data(&mut self, data: &[u8]) -> Result<(), Error> {
        self.begin_call()?;
        if !self.copying {
            return self.end_call(Err(Error::OutOfTurn("no copy takes data")));
        }
        let message = CopyData::new(data).map_err(Error::Request);
        let queued = message.map(|message| message.write(&mut self.session.transport.outgoing));
        self.end_call(queued)
    }

    /// Queues the end of the data.
    pub fn queue_copy_end(&mut self) -> Result<(), Error> {
        self.begin_call()?;
        if !self.copying {
            return self.end_call(Err(Error::OutOfTurn("no copy takes data")));
        }
        self.copying = false;
        let outgoing = &mut self.session.transport.outgoing;
        frontend::copy_done(outgoing);
        frontend::sync(outgoing);
        Ok(())
    }

    /// Writes everything queued.
    ///
    /// Never waits for a server that waits for us: while the socket takes no more, what the server
    /// sends is read and kept for `next_row`, up to `max_result_bytes`.
    pub async fn send(&mut self) -> Result<(), Error> {
        self.begin_call()?;
        let sent = self.session.transport.send().await;
        if sent.is_ok() {
            self.unsent = 0;
        }
        self.end_call(sent)
    }

    /// As [`send`](Self::send), where something is queued.
    pub async fn send_queued(&mut self) -> Result<(), Error> {
        if self.unsent == 0 {
            return Ok(());
        }
        self.send().await
    }

    /// The next row of the current statement: the oldest that is not finished. `None` is its end;
    /// then the next one is current.
    pub async fn next_row(&mut self) -> Result<Option<Row>, Error> {
        self.begin_call()?;
        let step = loop {
            match self.step().await {
                Ok(Step::Row(row)) => break Ok(Some(row)),
                Ok(Step::Finished { .. }) => break Ok(None),
                Ok(Step::Advanced) => {}
                Err(error) => break Err(error),
            }
        };
        self.end_call(step)
    }

    /// Skips what is left of the current statement. Gives the number of rows it inserted, updated,
    /// deleted, copied, fetched or selected.
    pub async fn finish(&mut self) -> Result<u64, Error> {
        self.begin_call()?;
        let step = loop {
            match self.step().await {
                Ok(Step::Finished { affected }) => break Ok(affected),
                Ok(Step::Row(_) | Step::Advanced) => {}
                Err(error) => break Err(error),
            }
        };
        self.end_call(step)
    }

    /// Runs a statement and gives all its rows, of at most `max_result_bytes` together. No other
    /// statement may be unfinished.
    pub async fn query(&mut self, sql: &str, params: &[Param<'_>]) -> Result<Vec<Row>, Error> {
        self.alone()?;
        self.queue(sql, params)?;
        self.send().await?;
        let max = self.session.transport.limits().max_result_bytes;
        let mut rows = Vec::new();
        let mut bytes = 0_usize;
        while let Some(row) = self.next_row().await? {
            bytes = bytes.saturating_add(row.byte_len());
            if bytes > max {
                return self.end_call(Err(Error::ResultTooLarge { max }));
            }
            rows.push(row);
        }
        Ok(rows)
    }

    /// Runs a statement that gives one row or none; of more, the first.
    pub async fn query_optional(
        &mut self,
        sql: &str,
        params: &[Param<'_>],
    ) -> Result<Option<Row>, Error> {
        Ok(self.query(sql, params).await?.into_iter().next())
    }

    /// Runs a statement that always gives a row. Without one: [`Error::NoRow`].
    pub async fn query_one(&mut self, sql: &str, params: &[Param<'_>]) -> Result<Row, Error> {
        let row = self.query_optional(sql, params).await?;
        self.end_call(row.ok_or(Error::NoRow))
    }

    /// Runs a statement for its effect; gives the count that `finish` gives. No other statement may
    /// be unfinished.
    pub async fn execute(&mut self, sql: &str, params: &[Param<'_>]) -> Result<u64, Error> {
        self.alone()?;
        self.queue(sql, params)?;
        self.send().await?;
        self.finish().await
    }

    /// The value of a parameter that the server reports (PostgreSQL documentation, "Asynchronous
    /// Operations"): `server_version`, `TimeZone`, ...
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.session.parameters.get(name).map(String::as_str)
    }

    /// Nothing is unfinished and nothing has failed: the connection may serve somebody else.
    pub fn is_idle(&self) -> bool {
        !self.broken && self.pending.is_empty() && self.session.status == TransactionStatus::Idle
    }

    /// Whether a transaction was open when the last statement finished.
    pub fn transaction_status(&self) -> TransactionStatus {
        self.session.status
    }

    /// The notices that came since the last call; of many, the newest.
    pub fn take_notices(&mut self) -> impl Iterator<Item = ServerError> {
        std::mem::take(&mut self.session.notices).into_iter()
    }

    /// Says goodbye as well as it can, within a second, and closes the socket.
    pub async fn close(mut self) {
        let outgoing = &mut self.session.transport.outgoing;
        if self.broken || !outgoing.is_empty() {
            // What is queued shall not run, and a half-sent message cannot be followed by another.
            outgoing.clear();
        } else {
            frontend::terminate(outgoing);
        }
        // The server notices the closed socket anyhow.
        let _ = clock::timeout(CLOSE_LIMIT, self.session.transport.shutdown()).await;
    }

    fn begin_call(&self) -> Result<(), Error> {
        if self.broken {
            return Err(Error::Broken);
        }
        Ok(())
    }

    fn end_call<T>(&mut self, result: Result<T, Error>) -> Result<T, Error> {
        self.broken |= result.is_err();
        result
    }

    /// Refuses when results of earlier statements would be taken for those of the next.
    fn alone(&mut self) -> Result<(), Error> {
        self.begin_call()?;
        if self.pending.is_empty() {
            return Ok(());
        }
        self.end_call(Err(Error::OutOfTurn("an earlier statement is unfinished")))
    }

    fn try_queue(&mut self, sql: &str, params: &[Param<'_>]) -> Result<(), Error> {
        self.queue_execution(sql, params, false)?;
        frontend::sync(&mut self.session.transport.outgoing);
        Ok(())
    }

    fn try_queue_copy(&mut self, sql: &str) -> Result<(), Error> {
        self.queue_execution(sql, &[], true)?;
        self.copying = true;
        Ok(())
    }

    fn queue_execution(
        &mut self,
        sql: &str,
        params: &[Param<'_>],
        is_copy: bool,
    ) -> Result<(), Error> {
        if self.copying {
            return Err(Error::OutOfTurn("a copy still takes data"));
        }
        let outgoing = &mut self.session.transport.outgoing;
        let types = params.iter().map(Param::type_oid);
        frontend::parse("", sql, types, outgoing).map_err(Error::Request)?;
        // One format code stands for all parameters, and one for all result columns.
        let encode = |param: &Param<'_>, out: &mut _| param.encode(out);
        frontend::bind("", "", [BINARY], params, encode, [BINARY], outgoing).map_err(|error| {
            Error::Request(match error {
                BindError::Conversion(cause) => std::io::Error::other(cause),
                BindError::Serialization(error) => error,
            })
        })?;
        frontend::describe(b'P', "", outgoing).map_err(Error::Request)?;
        frontend::execute("", 0, outgoing).map_err(Error::Request)?;
        self.unsent += 1;
        self.pending.push_back(Statement {
            is_copy,
            phase: Phase::Parse,
            columns: Arc::new([]),
            affected: 0,
        });
        Ok(())
    }

    /// Takes in one message of the current statement.
    async fn step(&mut self) -> Result<Step, Error> {
        if self.pending.len() <= self.unsent {
            return Err(Error::OutOfTurn("no statement was sent"));
        }
        if self.copying && self.pending.len() == 1 {
            return Err(Error::OutOfTurn("the copy still takes data"));
        }
        let message = self.session.receive().await?;
        let Some(statement) = self.pending.front_mut() else {
            return Err(Error::OutOfTurn("no statement was sent"));
        };
        statement.phase = match (statement.phase, message) {
            (Phase::Rows, Message::DataRow(body)) => {
                let row = Row::new(&statement.columns, body).map_err(Error::Protocol)?;
                return Ok(Step::Row(row));
            }
            (Phase::Parse, Message::ParseComplete) => Phase::Bind,
            (Phase::Bind, Message::BindComplete) => Phase::Describe,
            (Phase::Describe, Message::RowDescription(body)) if !statement.is_copy => {
                statement.columns = column_types(&self.session, &body)?;
                Phase::Rows
            }
            (Phase::Describe, Message::NoData) if statement.is_copy => Phase::CopyIn,
            (Phase::Describe, Message::NoData) | (Phase::CopyIn, Message::CopyInResponse(_)) => {
                Phase::Complete
            }
            (Phase::Rows | Phase::Complete, Message::CommandComplete(body)) => {
                statement.affected = affected(&self.session, &body)?;
                Phase::Ready
            }
            (Phase::Complete, Message::EmptyQueryResponse) => Phase::Ready,
            (Phase::Ready, Message::ReadyForQuery(body)) => {
                let affected = statement.affected;
                self.session.ready(body.status())?;
                self.pending.pop_front();
                return Ok(Step::Finished { affected });
            }
            (phase, _) => return Err(self.session.transport.unexpected(phase.expected())),
        };
        Ok(Step::Advanced)
    }
}

enum Step {
    Row(Row),
    Advanced,
    Finished { affected: u64 },
}

fn column_types<S: Stream>(
    session: &Session<S>,
    body: &RowDescriptionBody,
) -> Result<ColumnTypes, Error> {
    let mut types = Vec::new();
    let mut fields = body.fields();
    let malformed = |source| session.transport.malformed(source);
    while let Some(field) = fields.next().map_err(malformed)? {
        if field.format() != BINARY {
            return Err(Error::Protocol(ProtocolError::TextFormat));
        }
        types.push(field.type_oid());
    }
    Ok(types.into())
}

/// The last word of the tag, where it is a number: `INSERT 0 5`, `FETCH 5`, but `BEGIN`.
fn affected<S: Stream>(session: &Session<S>, body: &CommandCompleteBody) -> Result<u64, Error> {
    let tag = body
        .tag()
        .map_err(|source| session.transport.malformed(source))?;
    let count = tag.rsplit(' ').next().map(str::parse);
    Ok(count.and_then(Result::ok).unwrap_or(0))
}
