//! A TCP socket of the platform as `AsyncRead` and `AsyncWrite`.
//!
//! It reads through a BYOB reader ("bring your own buffer"; Streams standard, section 4.5), to
//! which one large buffer is passed back and forth: a read returns all that has arrived, instead of
//! the 4 KiB of a default reader. The socket keeps one reader and one writer for its whole life.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::FutureExt;
use js_sys::{ArrayBuffer, Object, Promise, Reflect, Uint8Array};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::WritableStreamDefaultWriter;
use worker::worker_sys;

const READ_BUFFER_BYTES: u32 = 256 * 1024;

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(typescript_type = "ReadableStream")]
    type ByteStream;
    #[wasm_bindgen(method, catch, js_name = getReader)]
    fn get_reader(this: &ByteStream, options: &JsValue) -> Result<ByobReader, JsValue>;

    #[derive(Debug)]
    type ByobReader;
    #[wasm_bindgen(method, catch)]
    fn read(this: &ByobReader, view: &Uint8Array) -> Result<Promise, JsValue>;
    #[wasm_bindgen(method, js_name = releaseLock)]
    fn release_lock(this: &ByobReader);

    type ReadResult;
    #[wasm_bindgen(method, getter)]
    fn done(this: &ReadResult) -> bool;
    #[wasm_bindgen(method, getter)]
    fn value(this: &ReadResult) -> Option<Uint8Array>;
}

/// An open socket. Dropping it closes it.
#[derive(Debug)]
pub(crate) struct Socket {
    inner: worker_sys::Socket,
    reader: ByobReader,
    writer: WritableStreamDefaultWriter,
    reading: Reading,
    /// A write that the platform has accepted but not finished; at most one.
    writing: Option<JsFuture>,
    closed: bool,
}

#[derive(Debug)]
enum Reading {
    Idle(ArrayBuffer),
    Pending(JsFuture),
    /// Bytes that have arrived and are unread from the offset on.
    Arrived(Uint8Array, u32),
    Ended,
}

impl Socket {
    /// Locks the two streams of the socket, from which nothing may have been read.
    pub(crate) fn new(inner: worker_sys::Socket) -> io::Result<Self> {
        let options = Object::new();
        Reflect::set(&options, &"mode".into(), &"byob".into()).map_err(failed)?;
        let readable: ByteStream = inner.readable().map_err(failed)?.unchecked_into();
        let reader = readable.get_reader(&options).map_err(failed)?;
        let writer = inner
            .writable()
            .map_err(failed)?
            .get_writer()
            .map_err(failed)?;
        Ok(Self {
            inner,
            reader,
            writer,
            reading: Reading::Idle(ArrayBuffer::new(READ_BUFFER_BYTES)),
            writing: None,
            closed: false,
        })
    }

    /// The number of bytes that have arrived and are unread.
    pub(crate) fn unread(&self) -> usize {
        match &self.reading {
            Reading::Arrived(bytes, offset) => bytes.length().saturating_sub(*offset) as usize,
            _ => 0,
        }
    }

    /// Releases the streams, so that the platform can upgrade the socket to TLS.
    pub(crate) fn release(mut self) {
        self.closed = true;
        self.reader.release_lock();
        self.writer.release_lock();
    }

    /// Waits until the connection is established.
    pub(crate) async fn opened(&self) -> io::Result<()> {
        let opened = self.inner.opened().map_err(failed)?;
        JsFuture::from(opened).await.map(drop).map_err(failed)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if !self.closed {
            close(&self.inner);
        }
    }
}

/// Closes the socket without waiting. The outcome of the promises does not matter, since a socket
/// that does not close cleanly is gone all the same. They are awaited only because an unhandled
/// rejection would be reported.
fn close(socket: &worker_sys::Socket) {
    if let Ok(closing) = socket.close() {
        wasm_bindgen_futures::spawn_local(async move {
            JsFuture::from(closing).await.ok();
        });
    }
    if let Ok(closed) = socket.closed() {
        wasm_bindgen_futures::spawn_local(async move {
            JsFuture::from(closed).await.ok();
        });
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            match &mut this.reading {
                Reading::Idle(buffer) => {
                    let read = this.reader.read(&Uint8Array::new(buffer)).map_err(failed)?;
                    this.reading = Reading::Pending(JsFuture::from(read));
                }
                Reading::Pending(read) => {
                    let result = ready!(read.poll_unpin(cx)).map_err(failed)?;
                    let result: ReadResult = result.unchecked_into();
                    this.reading = match result.value() {
                        Some(bytes) if !result.done() => Reading::Arrived(bytes, 0),
                        _ => Reading::Ended,
                    };
                }
                Reading::Arrived(bytes, offset) => {
                    if *offset == bytes.length() {
                        this.reading = Reading::Idle(bytes.buffer());
                        continue;
                    }
                    let room = u32::try_from(buf.remaining()).unwrap_or(u32::MAX);
                    let end = bytes.length().min(offset.saturating_add(room));
                    let part = bytes.subarray(*offset, end);
                    part.copy_to(buf.initialize_unfilled_to(part.length() as usize));
                    buf.advance(part.length() as usize);
                    *offset = end;
                    return Poll::Ready(Ok(()));
                }
                Reading::Ended => return Poll::Ready(Ok(())),
            }
        }
    }
}

impl AsyncWrite for Socket {
    /// Passes a copy of all of `buf` to the platform at once. The next write waits for it.
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.as_mut().poll_flush(cx))?;
        let chunk = Uint8Array::from(buf);
        self.writing = Some(JsFuture::from(self.writer.write_with_chunk(&chunk)));
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(writing) = &mut self.writing {
            let written = ready!(writing.poll_unpin(cx));
            self.writing = None;
            written.map_err(failed)?;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        if !self.closed {
            self.closed = true;
            close(&self.inner);
        }
        Poll::Ready(Ok(()))
    }
}

/// The platform's errors describe the fault and contain no secret.
pub(super) fn failed(error: impl Into<JsValue>) -> io::Error {
    let error = error.into();
    let text = error
        .dyn_ref::<js_sys::Error>()
        .map(|error| String::from(error.message()))
        .or_else(|| error.as_string())
        .unwrap_or_else(|| "the socket failed".to_owned());
    io::Error::other(text)
}
