//! One connection to a pod: authenticates the peer, and only then dials the application.

use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::carry::{Side, carry};
use super::classify::{Opening, Replayed, classify};
use super::listener::PodProxy;
use super::socket::{Borrowed, keep_alive};
use super::standing::Standing;
use super::{gate, upstream};
use crate::model::mesh::MtlsMode;
use crate::telemetry::{ConnectionSummary, Direction, End, Tls};
use crate::tls::TlsSession;
use crate::tls::handshake;

type Stream<'a> = Replayed<Borrowed<'a>>;

/// A connection that may reach the application.
enum Opened<'a> {
    Mesh(Box<TlsSession<Stream<'a>>>),
    Plaintext(Stream<'a>),
}

/// Serves one accepted connection. Its close is a reset, unless it ends well.
pub(super) async fn serve(pod: &PodProxy, socket: &TcpStream, summary: &mut ConnectionSummary) -> End {
    let (source, local) = (summary.source.ip(), summary.destination.ip());
    // The listener is bound to loopback: only what the kernel has steered shows one of the pod's addresses.
    if source == local || !pod.workload.addresses.contains(&local) {
        return End::Denied("not_steered");
    }
    let state = pod.shared.store.snapshot();
    if keep_alive(socket, state.mesh().timeouts.dead_peer).is_err() {
        return End::Failed("downstream_reset");
    }
    let Some(permit) = pod.shared.gate.admit(pod.number, gate::source(source, &state.mesh().pod_ranges)) else {
        return End::Denied(gate::TOO_MANY);
    };
    let opened = tokio::select! {
        biased;
        opened = open(pod, socket, summary) => opened,
        () = permit.evicted() => Err(End::Denied(gate::TOO_MANY)),
    };
    drop(permit);
    let metrics = &pod.shared.metrics;
    let admit = async |summary: &mut ConnectionSummary| Standing::of(pod, summary).admit(summary, metrics).await;
    match opened {
        Ok(Opened::Mesh(session)) => {
            let TlsSession { stream, peer, chain, info } = *session;
            summary.tls = Some(Tls { peer, chain, info });
            if let Err(end) = admit(summary).await {
                return end;
            }
            deliver(pod, Side { stream, socket }, summary).await
        }
        Ok(Opened::Plaintext(stream)) => {
            if let Err(end) = admit(summary).await {
                return end;
            }
            deliver(pod, Side { stream, socket }, summary).await
        }
        Err(end) => end,
    }
}

async fn open<'a>(pod: &PodProxy, socket: &'a TcpStream, summary: &ConnectionSummary) -> Result<Opened<'a>, End> {
    let state = pod.shared.store.snapshot();
    let limits = state.mesh().timeouts;
    let mode = state.modes().of(&pod.workload.uid, summary.destination.port()).mode;
    let opening = match mode {
        MtlsMode::Disable => return Ok(Opened::Plaintext(Replayed::fresh(Borrowed(socket)))),
        MtlsMode::Strict => Ok(Opening::Mesh(Replayed::fresh(Borrowed(socket)))),
        MtlsMode::Permissive => classify(Borrowed(socket), limits.plaintext_detection, limits.handshake).await,
    };
    let stream = match opening {
        Ok(Opening::Mesh(stream)) => stream,
        Ok(Opening::Plaintext(stream)) => return Ok(Opened::Plaintext(stream)),
        Err(_cut_off) => return Err(End::Failed("bad_hello")),
    };
    let config = pod.contexts.server().map_err(|error| {
        tracing::error!(%error, "no TLS configuration");
        End::Failed("tls_configuration")
    })?;
    let began = Instant::now();
    let session =
        handshake::accept(stream, config, &pod.shared.data_paths, limits.handshake).await.map_err(|error| {
            tracing::debug!(%error, src.addr = %summary.source, "handshake failed");
            End::Denied(error.reason())
        })?;
    pod.shared.metrics.handshake(Direction::Inbound, &session.info, began.elapsed());
    Ok(Opened::Mesh(Box::new(session)))
}

async fn deliver<S>(pod: &PodProxy, down: Side<'_, S>, summary: &mut ConnectionSummary) -> End
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match upstream::delivery(pod, summary.source, summary.destination).await {
        Ok(application) => {
            let up = Side { stream: Borrowed(&application), socket: &application };
            carry(pod, down, up, summary).await
        }
        Err(error) => End::Failed(error.reason()),
    }
}
