//! One connection to a pod: authenticates the peer, and only then dials the application.

use std::time::Instant;

use tokio::net::TcpStream;

use super::classify::{Opening, Replayed, classify};
use super::listener::{PodProxy, account};
use super::relay::{close_in_order, relay, reset_on_close};
use super::upstream;
use crate::model::mesh::MtlsMode;
use crate::telemetry::{ConnectionSummary, Direction, End, Tls};
use crate::tls::handshake;

/// Serves one accepted connection, and resets it unless it ends well.
pub(super) async fn serve(pod: &PodProxy, stream: TcpStream, summary: &mut ConnectionSummary) -> End {
    let (source, local) = (summary.source.ip(), summary.destination.ip());
    // The listener is bound to loopback: only what the kernel has steered shows one of the pod's addresses.
    if source == local || !pod.workload.addresses.contains(&local) {
        reset_on_close(&stream);
        return End::Denied("not_steered");
    }
    let state = pod.shared.store.snapshot();
    let limits = state.mesh().timeouts;
    let opening = match state.mesh().mode {
        MtlsMode::Strict => Ok(Opening::Mesh(Replayed::fresh(stream))),
        MtlsMode::Permissive => classify(stream, limits.plaintext_detection, limits.handshake).await,
    };
    match opening {
        Ok(Opening::Mesh(stream)) => mesh(pod, stream, summary).await,
        Ok(Opening::Plaintext(stream)) => plaintext(pod, stream, summary).await,
        Err(_cut_off) => End::Failed("bad_hello"),
    }
}

async fn mesh(pod: &PodProxy, stream: Replayed<TcpStream>, summary: &mut ConnectionSummary) -> End {
    // Whatever fails from here on is a reset, also where the handshake drops the socket.
    reset_on_close(stream.get_ref());
    let config = match pod.contexts.server() {
        Ok(config) => config,
        Err(error) => {
            tracing::error!(%error, "no TLS configuration");
            return End::Failed("tls_configuration");
        }
    };
    let (began, limit) = (Instant::now(), pod.shared.store.snapshot().mesh().timeouts.handshake);
    let mut session = match handshake::accept(stream, config, limit).await {
        Ok(session) => session,
        Err(error) => {
            tracing::debug!(%error, src.addr = %summary.source, "handshake failed");
            return End::Denied(error.reason());
        }
    };
    pod.shared.metrics.handshake(Direction::Inbound, began.elapsed());
    summary.tls = Some(Tls { peer: session.peer, info: session.info });
    let end = deliver(pod, &mut session.stream, summary).await;
    if end == End::Closed {
        close_in_order(session.stream.get_ref().0.get_ref());
    }
    end
}

async fn plaintext(pod: &PodProxy, mut stream: Replayed<TcpStream>, summary: &mut ConnectionSummary) -> End {
    let end = deliver(pod, &mut stream, summary).await;
    if end != End::Closed {
        reset_on_close(stream.get_ref());
    }
    end
}

async fn deliver<S>(pod: &PodProxy, downstream: &mut S, summary: &mut ConnectionSummary) -> End
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let mut application = match upstream::delivery(pod, summary.source, summary.destination).await {
        Ok(application) => application,
        Err(error) => return End::Failed(error.reason()),
    };
    let end = account(summary, relay(downstream, &mut application).await);
    if end != End::Closed {
        reset_on_close(&application);
    }
    end
}
