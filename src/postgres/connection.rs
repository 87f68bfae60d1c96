//! Statements on a connection, one at a time or pipelined.

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

/// How long closing may take.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);
/// Format code of Postgres's binary formats.
const BINARY: i16 = 1;

/// A session on a socket.
///
/// Statements are queued and sent together. Their results are read in the same order, each with
/// [`next_row`](Self::next_row) until `None` or with [`finish`](Self::finish).
/// [`query`](Self::query) and [`execute`](Self::execute) do all that for one statement.
///
/// Every error makes the connection unusable, and later calls return [`Error::Broken`]: it is unknown
/// which of the statements that were pipelined after the failed one have run. Drop the connection, or
/// [`close`](Self::close) it.
///
/// # Cancellation
/// `send`, `next_row` and `finish` keep their progress in the connection: if they are dropped, the
/// next call continues. A dropped `query` or `execute` leaves its statement unfinished, and until that
/// is finished the next `query` or `execute` is refused.
pub struct Connection<S> {
    session: Session<S>,
    /// The statements that are queued and not finished, oldest first. The first is the current one.
    pending: VecDeque<Statement>,
    /// How many of them are not sent yet: the last ones.
    unsent: usize,
    /// The last of them is a copy whose data has not ended.
    copying: bool,
    broken: bool,
}

impl<S> std::fmt::Debug for Connection<S> {
    /// Without the buffers, which hold row values.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("unfinished", &self.pending.len())
            .field("broken", &self.broken)
            .finish_non_exhaustive()
    }
}

/// A statement whose result is not read completely.
struct Statement {
    is_copy: bool,
    phase: Phase,
    columns: ColumnTypes,
    affected: u64,
}

/// The message that is expected next.
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
    /// Logs in over `stream`, which is connected and, if required, encrypted.
    ///
    /// Authenticates by cleartext password, md5 or SCRAM-SHA-256, as the server requests. Takes at
    /// most `limits.connect_timeout`.
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

    /// Queues a statement. [`send`](Self::send) sends it.
    pub fn queue(&mut self, sql: &str, params: &[Param<'_>]) -> Result<(), Error> {
        self.begin_call()?;
        let queued = self.try_queue(sql, params);
        self.end_call(queued)
    }

    /// Queues `COPY ... FROM STDIN`. Add its data with [`queue_copy_data`](Self::queue_copy_data) and
    /// end it with [`queue_copy_end`](Self::queue_copy_end); until then no other statement can be
    /// queued. `send` may be called in between, to free memory.
    pub fn queue_copy(&mut self, sql: &str) -> Result<(), Error> {
        self.begin_call()?;
        let queued = self.try_queue_copy(sql);
        self.end_call(queued)
    }

    /// Queues data of the copy that was queued last. It need not end where a row ends.
    pub fn queue_copy_data(&mut self, data: &[u8]) -> Result<(), Error> {
        self.begin_call()?;
        if !self.copying {
            return self.end_call(Err(Error::OutOfTurn("no copy accepts data")));
        }
        let message = CopyData::new(data).map_err(Error::Request);
        let queued = message.map(|message| message.write(&mut self.session.transport.outgoing));
        self.end_call(queued)
    }

    /// Queues the end of the data.
    pub fn queue_copy_end(&mut self) -> Result<(), Error> {
        self.begin_call()?;
        if !self.copying {
            return self.end_call(Err(Error::OutOfTurn("no copy accepts data")));
        }
        self.copying = false;
        let outgoing = &mut self.session.transport.outgoing;
        frontend::copy_done(outgoing);
        frontend::sync(outgoing);
        Ok(())
    }

    /// Sends everything that is queued.
    ///
    /// Avoids a deadlock with a server that is itself blocked on sending: while the socket accepts no
    /// bytes, what the server sends is read and kept for `next_row`, up to `max_result_bytes`.
    pub async fn send(&mut self) -> Result<(), Error> {
        self.begin_call()?;
        let sent = self.session.transport.send().await;
        if sent.is_ok() {
            self.unsent = 0;
        }
        self.end_call(sent)
    }

    /// As [`send`](Self::send), but does nothing if no statement is queued.
    pub async fn send_queued(&mut self) -> Result<(), Error> {
        if self.unsent == 0 {
            return Ok(());
        }
        self.send().await
    }

    /// Returns the next row of the current statement, which is the oldest unfinished one. `None`
    /// finishes it, and the next statement becomes current.
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

    /// Finishes the current statement and skips its remaining rows. Returns the number of rows that
    /// it inserted, updated, deleted, copied, fetched or selected.
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

    /// Runs a statement and returns all its rows, at most `max_result_bytes`. No other statement may
    /// be unfinished.
    pub async fn query(&mut self, sql: &str, params: &[Param<'_>]) -> Result<Vec<Row>, Error> {
        self.require_no_pending()?;
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

    /// Runs a statement and returns its first row, if any.
    pub async fn query_optional(
        &mut self,
        sql: &str,
        params: &[Param<'_>],
    ) -> Result<Option<Row>, Error> {
        Ok(self.query(sql, params).await?.into_iter().next())
    }

    /// Runs a statement that always returns a row. If it does not, fails with [`Error::NoRow`].
    pub async fn query_one(&mut self, sql: &str, params: &[Param<'_>]) -> Result<Row, Error> {
        let row = self.query_optional(sql, params).await?;
        self.end_call(row.ok_or(Error::NoRow))
    }

    /// Runs a statement and returns the same count as `finish`. No other statement may be unfinished.
    pub async fn execute(&mut self, sql: &str, params: &[Param<'_>]) -> Result<u64, Error> {
        self.require_no_pending()?;
        self.queue(sql, params)?;
        self.send().await?;
        self.finish().await
    }

    /// The value of a parameter that the server reports (PostgreSQL documentation, "Asynchronous
    /// Operations"): `server_version`, `TimeZone`, ...
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.session.parameters.get(name).map(String::as_str)
    }

    /// Whether the connection can be reused: no statement is unfinished, no transaction is open, and
    /// nothing has failed.
    pub fn is_idle(&self) -> bool {
        !self.broken && self.pending.is_empty() && self.session.status == TransactionStatus::Idle
    }

    /// The transaction status after the last finished statement.
    pub fn transaction_status(&self) -> TransactionStatus {
        self.session.status
    }

    /// Returns the notices that arrived since the last call; if there were many, the newest.
    pub fn take_notices(&mut self) -> impl Iterator<Item = ServerError> {
        std::mem::take(&mut self.session.notices).into_iter()
    }

    /// Ends the session if possible, within a second, and closes the socket.
    pub async fn close(mut self) {
        let outgoing = &mut self.session.transport.outgoing;
        if self.broken || !outgoing.is_empty() {
            // Queued statements must not run, and no message can follow a partly sent one.
            outgoing.clear();
        } else {
            frontend::terminate(outgoing);
        }
        // If this fails, the server notices the closed socket.
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

    /// Fails if the results of earlier statements would be mistaken for those of the next.
    fn require_no_pending(&mut self) -> Result<(), Error> {
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
            return Err(Error::OutOfTurn("a copy still accepts data"));
        }
        let outgoing = &mut self.session.transport.outgoing;
        let types = params.iter().map(Param::type_oid);
        frontend::parse("", sql, types, outgoing).map_err(Error::Request)?;
        // One format code applies to all parameters, and one to all result columns.
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

    /// Receives a message of the current statement.
    async fn step(&mut self) -> Result<Step, Error> {
        if self.pending.len() <= self.unsent {
            return Err(Error::OutOfTurn("no statement was sent"));
        }
        if self.copying && self.pending.len() == 1 {
            return Err(Error::OutOfTurn("the copy still accepts data"));
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
                self.session.set_status(body.status())?;
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

/// The last word of the command tag, if it is a number: `INSERT 0 5`, `FETCH 5`, but not `BEGIN`.
fn affected<S: Stream>(session: &Session<S>, body: &CommandCompleteBody) -> Result<u64, Error> {
    let tag = body
        .tag()
        .map_err(|source| session.transport.malformed(source))?;
    let count = tag.rsplit(' ').next().map(str::parse);
    Ok(count.and_then(Result::ok).unwrap_or(0))
}
