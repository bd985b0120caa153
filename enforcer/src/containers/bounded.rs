//! A stream of which no more than so much is read, whatever the other end sends.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;

/// Bytes of the longest answer that is read: real ones have some ten thousand.
const MAX_ANSWER: usize = 4 * 1024 * 1024;

/// A connection to a runtime that ends after so many bytes.
pub(super) struct Bounded {
    stream: UnixStream,
    left: usize,
}

impl Bounded {
    /// Bounds what is read from a stream.
    pub(super) const fn new(stream: UnixStream) -> Self {
        Self { stream, left: MAX_ANSWER }
    }
}

impl AsyncRead for Bounded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let mut part = buffer.take(self.left);
        let polled = Pin::new(&mut self.stream).poll_read(context, &mut part);
        let read = part.filled().len();
        // What `part` was given lies in the memory of `buffer`.
        let bytes = part.filled().to_vec();
        self.left -= read;
        buffer.put_slice(&bytes);
        polled
    }
}

impl AsyncWrite for Bounded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
