//! One connection of a pod: finds out where it was meant to go and takes it there, as mTLS if that is in the mesh.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use mesh_common::conn::{SockFacts, SockKind};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::carry::{Side, carry};
use super::listener::PodProxy;
use super::socket::Borrowed;
use super::standing::Standing;
use super::upstream;
use crate::model::spiffe::SpiffeId;
use crate::state::{Fallback, MeshState, Route, Target, choose, route};
use crate::telemetry::{ConnectionSummary, Direction, End, Tls};
use crate::tls::handshake;

/// Serves one accepted connection. Its close is a reset, unless it ends well.
pub(super) async fn serve(pod: &PodProxy, stream: &TcpStream, summary: &mut ConnectionSummary) -> End {
    // What no hook has seen connect is nobody's: a process of the pod that dials the listener itself.
    let Some(facts) = pod.shared.maps.facts(stream).filter(|facts| facts.is(SockKind::Attested)) else {
        return End::Denied("not_attested");
    };
    if facts.pod != pod.number {
        return End::Denied("wrong_pod");
    }
    summary.destination = SocketAddr::new(IpAddr::from(facts.address), facts.port);
    summary.process = Some((command(&facts), facts.tgid));
    let (target, route) = settle(pod, summary.source.ip(), summary.destination).await;
    let endpoint = match target {
        Target::Itself(address) => address,
        Target::Endpoint(service, address) => {
            summary.endpoint = Some((service.uid.clone(), Some(address)));
            address
        }
        Target::Nowhere(service, none) => {
            summary.endpoint = Some((service.uid.clone(), None));
            return End::Failed(none.reason());
        }
    };
    match route {
        Route::Mesh(expected) => mesh(pod, stream, summary, endpoint, &expected).await,
        Route::Plaintext | Route::Unknown(Fallback::Plaintext) => plaintext(pod, stream, summary, endpoint).await,
        Route::Unknown(Fallback::Reset) => End::Denied("unknown_destination"),
    }
}

/// Chooses and routes, and does so again for a while with newer snapshots, if what they find is not known yet. Still unknown: its
/// fallback holds.
async fn settle(pod: &PodProxy, client: IpAddr, destination: SocketAddr) -> (Target, Route) {
    let random = random();
    let find = |state: &MeshState| {
        let target = choose(state, &pod.workload, client, destination, random);
        let route = match &target {
            Target::Itself(address) | Target::Endpoint(_, address) => route(state, &pod.workload, *address),
            // Refused, and never asked for.
            Target::Nowhere(..) => Route::Unknown(Fallback::Reset),
        };
        (target, route)
    };
    let waits =
        |found: &(Target, Route)| matches!(found, (Target::Itself(_) | Target::Endpoint(..), Route::Unknown(_)));
    let state = pod.shared.store.snapshot();
    let found = find(&state);
    if !waits(&found) {
        return found;
    }
    let limit = state.mesh().timeouts.unknown_destination;
    drop(state);
    let known = pod.shared.store.wait_for(|state| !waits(&find(state)));
    timeout(limit, known).await.map_or(found, |state| find(&state))
}

async fn mesh(
    pod: &PodProxy,
    socket: &TcpStream,
    summary: &mut ConnectionSummary,
    endpoint: SocketAddr,
    expected: &SpiffeId,
) -> End {
    let config = match pod.contexts.client(expected) {
        Ok(config) => config,
        Err(error) => {
            tracing::error!(%error, "no TLS configuration");
            return End::Failed("tls_configuration");
        }
    };
    let upstream = match upstream::outer(pod, summary.source, endpoint).await {
        Ok(upstream) => upstream,
        Err(error) => return End::Failed(error.reason()),
    };
    let (began, limit) = (Instant::now(), pod.shared.store.snapshot().mesh().timeouts.handshake);
    let session =
        match handshake::connect(Borrowed(&upstream), endpoint.ip(), config, &pod.shared.data_paths, limit).await {
            Ok(session) => session,
            Err(error) => {
                tracing::debug!(%error, dst.addr = %endpoint, "handshake failed");
                return End::Unproven(error.reason());
            }
        };
    // The verifier has seen to it, or the session that is resumed; whoever else answers gets nothing from us.
    if session.peer != *expected {
        return End::Unproven("wrong_identity");
    }
    pod.shared.metrics.handshake(Direction::Outbound, &session.info, began.elapsed());
    summary.tls = Some(Tls { peer: session.peer, chain: session.chain, info: session.info });
    if let Err(end) = Standing::of(pod, summary).admit(summary, &pod.shared.metrics).await {
        return end;
    }
    let down = Side { stream: Borrowed(socket), socket };
    carry(pod, down, Side { stream: session.stream, socket: &upstream }, summary).await
}

async fn plaintext(pod: &PodProxy, socket: &TcpStream, summary: &mut ConnectionSummary, endpoint: SocketAddr) -> End {
    let upstream = match upstream::outer(pod, summary.source, endpoint).await {
        Ok(upstream) => upstream,
        Err(error) => return End::Failed(error.reason()),
    };
    let down = Side { stream: Borrowed(socket), socket };
    carry(pod, down, Side { stream: Borrowed(&upstream), socket: &upstream }, summary).await
}

/// For the choice among endpoints; nobody gains by foretelling it.
fn random() -> u64 {
    // The standard library's keys are new for each state.
    RandomState::new().build_hasher().finish()
}

fn command(facts: &SockFacts) -> String {
    String::from_utf8_lossy(&facts.comm).trim_end_matches('\0').to_owned()
}
