//! Bounds what a peer may send before it is authenticated: its hello, then its certificate chain.
//!
//! A server writes nothing before it has read the whole ClientHello, and a client's own hello comes first: so what is
//! read before the first write is the hello.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A ClientHello that takes more than this is refused, whoever sent it.
pub const MAX_HELLO_BYTES: usize = 16 * 1024;

/// What follows a hello: chain, signature, Finished; or a second hello.
pub const MAX_CHAIN_BYTES: usize = 32 * 1024;

/// A stream that reads no more than a handshake may take, until [`Bounded::lift`].
#[derive(Debug)]
pub struct Bounded<S> {
    stream: S,
    /// What may still be read; `None` once lifted.
    left: Option<usize>,
    written: bool,
}

impl<S> Bounded<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, left: Some(MAX_HELLO_BYTES), written: false }
    }

    /// The peer is authenticated.
    pub(super) fn lift(&mut self) {
        self.left = None;
    }

    fn note_write(&mut self) {
        if !self.written {
            self.written = true;
            self.left = self.left.and(Some(MAX_CHAIN_BYTES));
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Some(left) = self.left else { return Pin::new(&mut self.stream).poll_read(cx, buf) };
        if left == 0 {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "the handshake is too long")));
        }
        let wanted = left.min(buf.remaining());
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(wanted));
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut part))?;
        let count = part.filled().len();
        buf.advance(count);
        self.left = Some(left - count);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bounded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.note_write();
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.note_write();
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    /// How many bytes can be read of an endless stream.
    async fn check(write_first: bool, lift: bool) -> usize {
        let (mut peer, stream) = duplex(1000);
        tokio::spawn(async move { while peer.write_all(&[0; 100]).await.is_ok() {} });
        let mut bounded = Bounded::new(stream);
        if write_first {
            bounded.write_all(b"x").await.unwrap();
        }
        if lift {
            bounded.lift();
        }
        let (mut chunk, mut read) = ([0; 999], 0);
        while read < 1_000_000 {
            match bounded.read(&mut chunk).await {
                Ok(count) => read += count,
                Err(_) => break,
            }
        }
        read
    }

    #[tokio::test]
    async fn a_hello_and_a_chain_are_bounded_and_data_is_not() {
        assert_eq!(check(false, false).await, MAX_HELLO_BYTES);
        assert_eq!(check(true, false).await, MAX_CHAIN_BYTES);
        assert!(check(true, true).await >= 1_000_000);
    }
}
