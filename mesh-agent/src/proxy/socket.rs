//! The sockets of a connection, borrowed by TLS and relay: their owner decides how they end, an orderly close or a reset.
//!
//! From the moment a socket is the agent's its close is a reset ([`reset_on_close`]); only a connection whose two
//! directions have both ended takes that back. So whatever goes wrong, also a task that is cut off, is never a clean end.

use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{
    set_socket_keepalive, set_socket_linger, set_tcp_keepcnt, set_tcp_keepidle, set_tcp_keepintvl,
};
use rustix::net::{Shutdown, shutdown};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use super::silence::{self, Silence};
use crate::sys::stream;
use crate::tls::Transport;

/// Probes of an idle connection before it is given up.
const PROBES: u32 = 3;

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

/// Lets the kernel ask an idle peer whether it is there, and give up after about `limit`.
///
/// Not TCP_USER_TIMEOUT: it also ends connections whose reader has only stopped reading for that long (tcp(7)).
pub(super) fn keep_alive(socket: impl AsFd, limit: Duration) -> io::Result<()> {
    let at_least_a_second = |time: Duration| time.max(Duration::from_secs(1));
    set_socket_keepalive(&socket, true)?;
    set_tcp_keepidle(&socket, at_least_a_second(limit / 2))?;
    set_tcp_keepintvl(&socket, at_least_a_second(limit / 2 / PROBES))?;
    Ok(set_tcp_keepcnt(&socket, PROBES)?)
}

/// Returns once the socket has failed (a reset, or keepalive gave up), whether or not anybody reads from it.
pub(super) async fn failed(stream: &TcpStream) {
    // An error here means that the runtime ends, and the connection with it.
    drop(stream.ready(Interest::ERROR).await);
}

/// Returns once the peer has left data unanswered for `limit`.
pub(super) async fn silent(stream: &TcpStream, limit: Duration) {
    let mut silence = Silence::default();
    let mut looks = tokio::time::interval(silence::interval(limit));
    loop {
        let now = looks.tick().await;
        if crate::sys::sockopt::peer_state(stream).is_ok_and(|state| silence.is_dead(now, &state, limit)) {
            return;
        }
    }
}

/// A socket that stays its owner's.
#[derive(Debug)]
pub(super) struct Borrowed<'a>(pub(super) &'a TcpStream);

impl AsyncRead for Borrowed<'_> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(cx))?;
            match stream::try_read(self.0, buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }
}

impl AsyncWrite for Borrowed<'_> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            match stream::try_write(self.0, bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    /// One call for several records: an alert leaves with what was written before it.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            match self.0.try_write_vectored(slices) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(match shutdown(self.0, Shutdown::Write) {
            // The peer has closed its side too, and the kernel forgot the connection: nothing is left to say.
            Err(Errno::NOTCONN) => Ok(()),
            result => Ok(result?),
        })
    }
}

impl Transport for Borrowed<'_> {
    fn socket(&self) -> Option<&TcpStream> {
        Some(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn a_borrowed_socket_reads_writes_and_ends_like_an_owned_one() {
        let (client, mut server) = pair().await;
        let mut client = Borrowed(&client);
        let sent = vec![7; 3_000_000];
        let (echoed, received) = tokio::join!(
            async {
                let mut received = vec![0; 3_000_000];
                server.read_exact(&mut received).await.unwrap();
                server.write_all(&received).await.unwrap();
                server.shutdown().await.unwrap();
                received
            },
            async {
                client.write_all(&sent).await.unwrap();
                client.shutdown().await.unwrap();
                let mut received = Vec::new();
                client.read_to_end(&mut received).await.unwrap();
                received
            }
        );
        assert!(echoed == sent && received == sent);
    }

    #[tokio::test]
    async fn a_reset_is_noticed_without_reading() {
        let (client, mut server) = pair().await;
        server.write_all(b"unread").await.unwrap();
        reset_on_close(&server);
        drop(server);
        failed(&client).await;
    }
}
