//! Carries a connection whose two ends stand: relays until it ends, and decides how both sockets close.

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::listener::PodProxy;
use super::relay::Relay;
use super::socket::{close_in_order, failed, silent};
use crate::telemetry::{ConnectionSummary, Direction, End};

/// One end of a connection: what is read and written, and the socket beneath it.
pub(super) struct Side<'a, S> {
    /// A TLS stream, or the socket itself.
    pub(super) stream: S,
    /// The owner's socket. Closing it is a reset, unless `carry` says otherwise.
    pub(super) socket: &'a TcpStream,
}

/// Relays between `down`, which we accepted, and `up`, which we opened.
pub(super) async fn carry<D, U>(
    pod: &PodProxy,
    down: Side<'_, D>,
    up: Side<'_, U>,
    summary: &mut ConnectionSummary,
) -> End
where
    D: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    // The other end is inside the pod, where the kernel itself answers.
    let remote = match summary.direction {
        Direction::Inbound => down.socket,
        Direction::Outbound => up.socket,
    };
    let dead_peer = pod.shared.store.snapshot().mesh().timeouts.dead_peer;
    let mut relay = Relay::new(down.stream, up.stream);
    let result = tokio::select! {
        biased;
        result = relay.run(failed(down.socket), failed(up.socket)) => result,
        () = pod.shared.drain.overdue() => Err("drained"),
        () = silent(remote, dead_peer) => Err("peer_dead"),
    };
    (summary.bytes_sent, summary.bytes_received) = relay.moved();
    match result {
        Ok(()) => {
            close_in_order(down.socket);
            close_in_order(up.socket);
            End::Closed
        }
        Err(reason) => End::Failed(reason),
    }
}
