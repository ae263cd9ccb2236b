//! Carries a connection whose two ends stand: relays until it ends, and decides how both sockets close.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::coop::unconstrained;
use tokio::time::sleep;

use super::listener::PodProxy;
use super::relay::Relay;
use super::socket::{close_in_order, failed, silent};
use super::standing::{Lost, Standing};
use crate::sys::sockopt::path_quality;
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
    let limits = pod.shared.store.snapshot().mesh().timeouts;
    // Outbound plaintext has none: nobody is known, and policies are its destination's.
    let watched = summary.tls.is_some() || summary.direction == Direction::Inbound;
    let standing = watched.then(|| Standing::of(pod, summary));
    let mut relay = Relay::new(down.stream, up.stream);
    let _live = pod.shared.live.add(summary, relay.shown());
    let result = tokio::select! {
        biased;
        result = relay.run(failed(down.socket), failed(up.socket)) => result,
        () = pod.shared.drain.overdue() => Err("drained"),
        () = silent(remote, limits.dead_peer) => Err("peer_dead"),
        // A relay that never rests leaves no share of the task's budget for others.
        Some(lost) = unconstrained(until_lost(standing)) => {
            lost.count(&pod.shared.metrics);
            summary.policy = lost.policy;
            Err(lost.reason)
        }
        Some(()) = until_old(limits.max_connection_age) => Err("max_age"),
    };
    (summary.bytes_sent, summary.bytes_received) = relay.moved();
    summary.path = path_quality(remote).ok();
    match result {
        Ok(()) => {
            close_in_order(down.socket);
            close_in_order(up.socket);
            End::Closed
        }
        Err(reason) => End::Failed(reason),
    }
}

/// Returns the reason once the connection has lost its standing; `None` at once where there is none to lose.
async fn until_lost(standing: Option<Standing>) -> Option<Lost> {
    Some(standing?.until_lost().await)
}

/// Returns once the connection is too old; `None` at once if it may have any age.
async fn until_old(limit: Option<Duration>) -> Option<()> {
    sleep(limit?).await;
    Some(())
}
