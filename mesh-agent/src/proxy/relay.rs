//! Copies bytes both ways between two sockets until both directions have ended, or one end breaks.
//!
//! An end of data is passed on as one (half-close); anything else ends both sockets with a reset, so that no application
//! takes a cut-off stream for a whole one.

use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes};

/// Bytes that the relay holds for each direction at most: one TLS record's worth.
const BUFFER_BYTES: usize = 16 * 1024;

/// What a relay moved, and how it ended.
#[derive(Debug)]
pub(super) struct Relayed {
    /// From downstream to upstream.
    pub(super) forward: u64,
    /// From upstream to downstream.
    pub(super) backward: u64,
    /// The first error, by the end that had it.
    pub(super) result: Result<(), &'static str>,
}

/// Relays between a socket that we accepted and one that we opened.
pub(super) async fn relay<D, U>(downstream: &mut D, upstream: &mut U) -> Relayed
where
    D: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let (mut down, mut up) = (Watched::new(downstream), Watched::new(upstream));
    let copied = copy_bidirectional_with_sizes(&mut down, &mut up, BUFFER_BYTES, BUFFER_BYTES).await;
    let result = match copied {
        Ok(_) => Ok(()),
        Err(error) => Err(match (error.kind(), down.failed) {
            (io::ErrorKind::UnexpectedEof, _) => "truncated",
            (_, true) => "downstream_reset",
            (_, false) => "upstream_reset",
        }),
    };
    Relayed { forward: down.read, backward: up.read, result }
}

/// Makes the coming close of `socket` a reset (socket(7), SO_LINGER).
pub(super) fn reset_on_close(socket: impl AsFd) {
    if let Err(error) = set_socket_linger(socket, Some(Duration::ZERO)) {
        tracing::debug!(%error, "the peer gets a FIN instead of a reset");
    }
}

/// Takes [`reset_on_close`] back: the connection has earned an orderly end.
pub(super) fn close_in_order(socket: impl AsFd) {
    if let Err(error) = set_socket_linger(socket, None) {
        tracing::debug!(%error, "the peer gets a reset instead of a FIN");
    }
}

/// A stream that counts what was read from it and remembers whether it failed.
struct Watched<'a, S> {
    stream: &'a mut S,
    read: u64,
    failed: bool,
}

impl<'a, S> Watched<'a, S> {
    fn new(stream: &'a mut S) -> Self {
        Self { stream, read: 0, failed: false }
    }

    fn note<T>(&mut self, result: io::Result<T>) -> Poll<io::Result<T>> {
        self.failed |= result.is_err();
        Poll::Ready(result)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<'_, S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = ready!(Pin::new(&mut *self.stream).poll_read(cx, buf));
        self.read += (buf.filled().len() - before) as u64;
        self.note(result)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<'_, S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = ready!(Pin::new(&mut *self.stream).poll_write(cx, buf));
        self.note(result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = ready!(Pin::new(&mut *self.stream).poll_flush(cx));
        self.note(result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = match ready!(Pin::new(&mut *self.stream).poll_shutdown(cx)) {
            // The peer has closed its side too, and the kernel forgot the connection: nothing is left to say.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            result => result,
        };
        self.note(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    #[tokio::test]
    async fn a_half_close_is_passed_on_and_the_other_direction_goes_on() {
        let ((mut client, mut down), (mut up, mut server)) = (duplex(64), duplex(64));
        let relaying = tokio::spawn(async move { relay(&mut down, &mut up).await });
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut question = Vec::new();
        server.read_to_end(&mut question).await.unwrap();
        server.write_all(b"answer").await.unwrap();
        server.shutdown().await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!((&*question, &*answer), (&b"question"[..], &b"answer"[..]));
        let relayed = relaying.await.unwrap();
        assert_eq!((relayed.forward, relayed.backward, relayed.result), (8, 6, Ok(())));
    }
}
