//! Framing: whole messages in, whole batches out, both within limits of memory and time.

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

/// How much is asked of the socket at once: the size at which reading in Workers stops getting
/// faster. A buffer is reused while more than half of it is free.
const READ_CHUNK: usize = 256 * 1024;

/// What a connection may use of memory and time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest wait for the socket to give or take any byte: it bounds how long a statement may
    /// take to its first row. Hyperdrive ends statements at 60 s.
    pub read_timeout: Duration,
    /// Longest time from the startup message to the first `ReadyForQuery`.
    pub connect_timeout: Duration,
    /// Longest message, in bytes, that is read; one row is one message.
    pub max_message_bytes: usize,
    /// Largest result, in bytes, that is held whole: what `query` collects, and what comes in
    /// while `send` still writes.
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
/// All state is kept here and not in the futures, so each future may be dropped and called for
/// again: no byte is lost or written twice.
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

    /// The error for the message received last, which came where `expected` was due.
    pub(super) fn unexpected(&self, expected: &'static str) -> Error {
        let tag = self.last_tag;
        Error::Protocol(ProtocolError::Unexpected { tag, expected })
    }

    /// The error for the message received last, whose content is not as documented.
    pub(super) fn malformed(&self, source: io::Error) -> Error {
        let tag = self.last_tag;
        Error::Protocol(ProtocolError::Malformed { tag, source })
    }

    /// The next message. Cancellation safe.
    pub(super) async fn receive(&mut self) -> Result<Message, Error> {
        loop {
            let missing = match self.take_message()? {
                Taken::Message(message) => return Ok(message),
                Taken::Missing(bytes) => bytes,
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
    /// While the socket takes no more bytes, what it has to give is read: a server that is itself
    /// blocked on sending an earlier result reads nothing until somebody takes that result.
    pub(super) async fn send(&mut self) -> Result<(), Error> {
        loop {
            let limit = self.limits.read_timeout;
            let step = clock::timeout(limit, poll_fn(|cx| self.poll_exchange(cx))).await;
            match step {
                Ok(Ok(Exchange::Sent)) => return Ok(()),
                Ok(Ok(Exchange::Received)) => {}
                Ok(Err(error)) => return Err(self.explain(error)),
                Err(elapsed) => return Err(Error::Timeout(elapsed)),
            }
        }
    }

    /// Ends the stream's sending side, after what is left in `outgoing`.
    pub(super) async fn shutdown(&mut self) -> io::Result<()> {
        self.stream.write_all_buf(&mut self.outgoing).await?;
        self.stream.shutdown().await
    }

    /// Splits the first message off the buffer, or tells how many bytes it still lacks.
    fn take_message(&mut self) -> Result<Taken, Error> {
        let Some(&tag) = self.incoming.first() else {
            return Ok(Taken::Missing(0));
        };
        if !is_backend_tag(tag) {
            return Err(Error::Protocol(ProtocolError::UnknownMessage(tag)));
        }
        let header = Header::parse(&self.incoming)
            .map_err(|_| Error::Protocol(ProtocolError::Length(tag)))?;
        let Some(header) = header else {
            return Ok(Taken::Missing(0));
        };
        let len = usize::try_from(header.len())
            .map_err(|_| Error::Protocol(ProtocolError::Length(tag)))?;
        let max = self.limits.max_message_bytes;
        if len > max {
            return Err(Error::MessageTooLarge { len, max });
        }
        let missing = len.saturating_add(1).saturating_sub(self.incoming.len());
        if missing > 0 {
            return Ok(Taken::Missing(missing));
        }
        self.last_tag = tag;
        match Message::parse(&mut self.incoming) {
            Ok(Some(message)) => Ok(Taken::Message(message)),
            Ok(None) => Ok(Taken::Missing(0)),
            Err(source) => Err(self.malformed(source)),
        }
    }

    /// Makes room for `least` more bytes: in place when no row still holds on to the buffer, else
    /// in a new one with room for `most`.
    fn make_room(&mut self, least: usize, most: usize) {
        if !self.incoming.try_reclaim(least) {
            let mut fresh = BytesMut::with_capacity(self.incoming.len().saturating_add(most));
            fresh.extend_from_slice(&self.incoming);
            self.incoming = fresh;
        }
    }

    /// Writes as much as the socket takes, and reads when it takes no more.
    fn poll_exchange(&mut self, cx: &mut Context<'_>) -> Poll<Result<Exchange, Error>> {
        let max = self.limits.max_result_bytes;
        match self.poll_write(cx) {
            Poll::Ready(Ok(())) => return Poll::Ready(Ok(Exchange::Sent)),
            Poll::Ready(Err(error)) => {
                // The server may have said why before it closed.
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
        // Nothing is taken out meanwhile: doubling keeps the copying linear.
        let most = self.incoming.len().max(READ_CHUNK);
        self.make_room(READ_CHUNK / 2, most);
        pin!(self.stream.read_buf(&mut self.incoming)).poll(cx)
    }

    fn closed(&self) -> Error {
        Error::Closed {
            mid_message: !self.incoming.is_empty(),
        }
    }

    /// A failed write tells little; when the server's own error has already come, that is the cause.
    fn explain(&mut self, error: Error) -> Error {
        while let Ok(Taken::Message(message)) = self.take_message() {
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

enum Taken {
    Message(Message),
    /// So many bytes are lacking; 0: not known yet.
    Missing(usize),
}

enum Exchange {
    /// Everything is written and flushed.
    Sent,
    /// Bytes came in; writing goes on.
    Received,
}

/// Whether a server sends messages of this type. Asked before a message's length is believed.
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
