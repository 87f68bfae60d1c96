//! Framing: reads whole messages and writes whole batches, within limits of memory and time.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use postgres_protocol::message::backend::{self, Header, Message};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::clock;
use crate::postgres::Stream;
use crate::postgres::error::{Error, ProtocolError};
use crate::postgres::server_error::ServerError;

/// How many bytes are requested from the socket at once. Reading in Workers does not get faster beyond
/// this size. A buffer is reused while more than half of it is free.
const READ_CHUNK: usize = 256 * 1024;

/// How much memory and time a connection may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest wait for the socket to deliver or accept a byte. It limits how long a statement
    /// may take until its first row. Hyperdrive ends statements after 60 s.
    pub read_timeout: Duration,
    /// The longest time from the startup message to the first `ReadyForQuery`.
    pub connect_timeout: Duration,
    /// The longest message that is read, in bytes. A row is one message.
    pub max_message_bytes: usize,
    /// The largest result that is held in memory, in bytes: what `query` collects, and what arrives
    /// while `send` writes.
    pub max_result_bytes: usize,
}

impl Default for Limits {
    /// For an isolate of 128 MB.
    fn default() -> Self {
        Self {
            read_timeout: Duration::from_mins(1),
            connect_timeout: Duration::from_secs(15),
            max_message_bytes: 16 << 20,
            max_result_bytes: 32 << 20,
        }
    }
}

/// A stream of messages over a stream of bytes.
///
/// All state is kept here and not in the futures. A future may be dropped and the method called again:
/// no byte is lost or written twice.
pub(super) struct Transport<S> {
    stream: S,
    incoming: BytesMut,
    pub(super) outgoing: BytesMut,
    limits: Limits,
    last_tag: u8,
}

impl<S: Stream> Transport<S> {
    pub(super) fn new(stream: S, limits: Limits) -> Self {
        Self {
            stream,
            incoming: BytesMut::new(),
            outgoing: BytesMut::new(),
            limits,
            last_tag: 0,
        }
    }

    pub(super) fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The error for the message received last, which arrived where `expected` was expected.
    pub(super) fn unexpected(&self, expected: &'static str) -> Error {
        let tag = self.last_tag;
        Error::Protocol(ProtocolError::Unexpected { tag, expected })
    }

    /// The error for the message received last, whose content is malformed.
    pub(super) fn malformed(&self, source: io::Error) -> Error {
        let tag = self.last_tag;
        Error::Protocol(ProtocolError::Malformed { tag, source })
    }

    /// Returns the next message. Cancellation safe.
    pub(super) async fn receive(&mut self) -> Result<Message, Error> {
        loop {
            let missing = match self.parse_message()? {
                Parsed::Message(message) => return Ok(message),
                Parsed::Incomplete { missing } => missing,
            };
            self.make_room(missing.max(READ_CHUNK / 2), missing.max(READ_CHUNK));
            let read = self.stream.read_buf(&mut self.incoming);
            let count = clock::timeout(self.limits.read_timeout, read)
                .await
                .map_err(Error::Timeout)?
                .map_err(Error::Io)?;
            if count == 0 {
                return Err(self.closed());
            }
        }
    }

    /// Writes all of `outgoing`. Cancellation safe.
    ///
    /// Reads while the socket accepts no bytes: a server that is blocked on sending an earlier result
    /// reads nothing until that result is read.
    pub(super) async fn send(&mut self) -> Result<(), Error> {
        loop {
            let limit = self.limits.read_timeout;
            let step = clock::timeout(limit, poll_fn(|cx| self.poll_exchange(cx))).await;
            match step {
                Ok(Ok(Exchange::Sent)) => return Ok(()),
                Ok(Ok(Exchange::Received)) => {}
                Ok(Err(error)) => return Err(self.prefer_server_error(error)),
                Err(elapsed) => return Err(Error::Timeout(elapsed)),
            }
        }
    }

    /// Writes the rest of `outgoing` and closes the stream's sending side.
    pub(super) async fn shutdown(&mut self) -> io::Result<()> {
        self.stream.write_all_buf(&mut self.outgoing).await?;
        self.stream.shutdown().await
    }

    /// Splits the first message off the buffer.
    fn parse_message(&mut self) -> Result<Parsed, Error> {
        let Some(&tag) = self.incoming.first() else {
            return Ok(Parsed::Incomplete { missing: 0 });
        };
        if !is_backend_tag(tag) {
            return Err(Error::Protocol(ProtocolError::UnknownMessage(tag)));
        }
        let header = Header::parse(&self.incoming)
            .map_err(|_| Error::Protocol(ProtocolError::Length(tag)))?;
        let Some(header) = header else {
            return Ok(Parsed::Incomplete { missing: 0 });
        };
        let len = usize::try_from(header.len())
            .map_err(|_| Error::Protocol(ProtocolError::Length(tag)))?;
        let max = self.limits.max_message_bytes;
        if len > max {
            return Err(Error::MessageTooLarge { len, max });
        }
        let missing = len.saturating_add(1).saturating_sub(self.incoming.len());
        if missing > 0 {
            return Ok(Parsed::Incomplete { missing });
        }
        self.last_tag = tag;
        match Message::parse(&mut self.incoming) {
            Ok(Some(message)) => Ok(Parsed::Message(message)),
            Ok(None) => Ok(Parsed::Incomplete { missing: 0 }),
            Err(source) => Err(self.malformed(source)),
        }
    }

    /// Makes room for `least` more bytes: in place if no row still shares the buffer, otherwise in a
    /// new one with room for `most`.
    fn make_room(&mut self, least: usize, most: usize) {
        if !self.incoming.try_reclaim(least) {
            let mut fresh = BytesMut::with_capacity(self.incoming.len().saturating_add(most));
            fresh.extend_from_slice(&self.incoming);
            self.incoming = fresh;
        }
    }

    /// Writes as much as the socket accepts, then reads.
    fn poll_exchange(&mut self, cx: &mut Context<'_>) -> Poll<Result<Exchange, Error>> {
        let max = self.limits.max_result_bytes;
        match self.poll_write(cx) {
            Poll::Ready(Ok(())) => return Poll::Ready(Ok(Exchange::Sent)),
            Poll::Ready(Err(error)) => {
                // The server may have sent the reason before it closed the connection.
                while self.incoming.len() <= max
                    && matches!(self.poll_read(cx), Poll::Ready(Ok(1..)))
                {}
                return Poll::Ready(Err(Error::Io(error)));
            }
            Poll::Pending => {}
        }
        if self.incoming.len() > max {
            return Poll::Ready(Err(Error::ResultTooLarge { max }));
        }
        match self.poll_read(cx) {
            Poll::Ready(Ok(0)) => Poll::Ready(Err(self.closed())),
            Poll::Ready(Ok(_)) => Poll::Ready(Ok(Exchange::Received)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(Error::Io(error))),
            Poll::Pending => Poll::Pending,
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.outgoing.has_remaining() {
            match Pin::new(&mut self.stream).poll_write(cx, &self.outgoing) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => self.outgoing.advance(count),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        // Nothing is removed in the meantime: doubling keeps the copying linear.
        let most = self.incoming.len().max(READ_CHUNK);
        self.make_room(READ_CHUNK / 2, most);
        pin!(self.stream.read_buf(&mut self.incoming)).poll(cx)
    }

    fn closed(&self) -> Error {
        Error::Closed {
            mid_message: !self.incoming.is_empty(),
        }
    }

    /// Returns the server's error in place of `error` if one has arrived: it is the cause of a failed
    /// write.
    fn prefer_server_error(&mut self, error: Error) -> Error {
        while let Ok(Parsed::Message(message)) = self.parse_message() {
            if let Message::ErrorResponse(body) = message {
                return match ServerError::parse(self.last_tag, body.fields()) {
                    Ok(reported) => Error::Server(Box::new(reported)),
                    Err(error) => error,
                };
            }
        }
        error
    }
}

enum Parsed {
    Message(Message),
    Incomplete {
        /// How many bytes are missing; 0 if that is not known yet.
        missing: usize,
    },
}

enum Exchange {
    /// Everything is written and flushed.
    Sent,
    /// Bytes were received. There is more to write.
    Received,
}

/// Whether a server sends messages of this type. Checked before a message's length is used.
fn is_backend_tag(tag: u8) -> bool {
    matches!(
        tag,
        backend::PARSE_COMPLETE_TAG
            | backend::BIND_COMPLETE_TAG
            | backend::CLOSE_COMPLETE_TAG
            | backend::NOTIFICATION_RESPONSE_TAG
            | backend::COPY_DONE_TAG
            | backend::COMMAND_COMPLETE_TAG
            | backend::COPY_DATA_TAG
            | backend::DATA_ROW_TAG
            | backend::ERROR_RESPONSE_TAG
            | backend::COPY_IN_RESPONSE_TAG
            | backend::COPY_OUT_RESPONSE_TAG
            | backend::EMPTY_QUERY_RESPONSE_TAG
            | backend::BACKEND_KEY_DATA_TAG
            | backend::NO_DATA_TAG
            | backend::NOTICE_RESPONSE_TAG
            | backend::AUTHENTICATION_TAG
            | backend::PORTAL_SUSPENDED_TAG
            | backend::PARAMETER_STATUS_TAG
            | backend::PARAMETER_DESCRIPTION_TAG
            | backend::ROW_DESCRIPTION_TAG
            | backend::READY_FOR_QUERY_TAG
    )
}
