//! A socket that fails where a test demands it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How a cut appears to the user of the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Reads end as at a closed connection; writes fail with a broken pipe.
    Close,
    /// Both fail with a connection reset.
    Reset,
    /// Neither ever returns.
    Stall,
}

/// Where a [`FaultyStream`] fails. By default it does not.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    /// Bytes that can be read before the cut.
    pub read_limit: u64,
    /// Bytes that can be written before the cut.
    pub write_limit: u64,
    /// The maximum number of bytes of one read and of one write.
    pub chunk: usize,
    /// What happens at a limit.
    pub cut: Cut,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            read_limit: u64::MAX,
            write_limit: u64::MAX,
            chunk: usize::MAX,
            cut: Cut::Close,
        }
    }
}

/// Counts the bytes that went through a [`FaultyStream`]. Outlives it.
#[derive(Clone, Debug, Default)]
pub struct Traffic(Arc<(AtomicU64, AtomicU64)>);

impl Traffic {
    /// Bytes read so far.
    pub fn read(&self) -> u64 {
        self.0.0.load(Ordering::Relaxed)
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.0.1.load(Ordering::Relaxed)
    }
}

/// Passes bytes to and from `S`, up to its [`Faults`].
#[derive(Debug)]
pub struct FaultyStream<S> {
    stream: S,
    faults: Faults,
    traffic: Traffic,
}

impl<S> FaultyStream<S> {
    /// Wraps `stream`.
    pub fn new(stream: S, faults: Faults) -> Self {
        let traffic = Traffic::default();
        Self {
            stream,
            faults,
            traffic,
        }
    }

    /// Returns a function that wraps another stream with the same faults. Both count towards the
    /// limits.
    pub fn share_faults<T>(&self) -> impl Fn(T) -> FaultyStream<T> + use<S, T> {
        let (faults, traffic) = (self.faults, self.traffic());
        move |stream| FaultyStream {
            stream,
            faults,
            traffic: traffic.clone(),
        }
    }

    /// The counters, which outlive the stream.
    pub fn traffic(&self) -> Traffic {
        self.traffic.clone()
    }

    /// How many bytes one call may transfer if `done` bytes of `limit` have been.
    fn allowance(&self, limit: u64, done: u64) -> usize {
        let left = usize::try_from(limit.saturating_sub(done)).unwrap_or(usize::MAX);
        left.min(self.faults.chunk)
    }

    fn cut(&self, closed: io::Result<usize>) -> Poll<io::Result<usize>> {
        match self.faults.cut {
            Cut::Close => Poll::Ready(closed),
            Cut::Reset => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            Cut::Stall => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for FaultyStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let allowed = self.allowance(self.faults.read_limit, self.traffic.read());
        if allowed == 0 {
            return self.cut(Ok(0)).map_ok(|_| ());
        }
        let mut chunk = vec![0; allowed.min(buffer.remaining())];
        let mut chunk = ReadBuf::new(&mut chunk);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut chunk))?;
        buffer.put_slice(chunk.filled());
        let count = chunk.filled().len() as u64;
        self.traffic.0.0.fetch_add(count, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for FaultyStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let allowed = self.allowance(self.faults.write_limit, self.traffic.written());
        if allowed == 0 {
            return self.cut(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let data = &data[..data.len().min(allowed)];
        let count = ready!(Pin::new(&mut self.stream).poll_write(cx, data))?;
        self.traffic.0.1.fetch_add(count as u64, Ordering::Relaxed);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
