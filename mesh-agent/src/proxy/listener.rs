//! Accepts a pod's connections and starts a task for each.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::contexts::Contexts;
use super::relay::{Relayed, reset_on_close};
use super::{inbound, outbound};
use crate::bpf::Maps;
use crate::model::svid::{TrustBundle, X509Svid};
use crate::model::workload::Workload;
use crate::store::Store;
use crate::sys::netns::Netns;
use crate::telemetry::{ConnectionSummary, Direction, End, Metrics};

/// What the proxies of all pods share.
pub struct Shared {
    /// The mesh.
    pub store: Store,
    /// The kernel's maps.
    pub maps: Arc<Maps>,
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// Whom peers must be vouched for by.
    pub bundle: Arc<TrustBundle>,
}

/// Carries the connections of one pod.
pub struct PodProxy {
    pub(super) shared: Arc<Shared>,
    pub(super) workload: Arc<Workload>,
    pub(super) number: u32,
    pub(super) netns: Arc<Netns>,
    pub(super) contexts: Contexts,
}

impl PodProxy {
    /// For the pod with this number and namespace.
    pub fn new(
        shared: Arc<Shared>,
        workload: Arc<Workload>,
        number: u32,
        netns: Arc<Netns>,
        svid: watch::Receiver<Arc<X509Svid>>,
    ) -> Arc<Self> {
        let settings = shared.store.snapshot().mesh().tls.clone();
        let contexts = Contexts::new(svid, Arc::clone(&shared.bundle), settings);
        Arc::new(Self { shared, workload, number, netns, contexts })
    }

    /// Accepts connections for ever.
    pub async fn run(self: Arc<Self>, direction: Direction, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, source)) => drop(tokio::spawn(Arc::clone(&self).serve(direction, stream, source))),
                // Out of descriptors or memory: connections wait in the backlog meanwhile.
                Err(error) => {
                    tracing::warn!(%error, workload = %self.workload.uid, "accept failed");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    async fn serve(self: Arc<Self>, direction: Direction, mut stream: TcpStream, source: SocketAddr) {
        let started = Instant::now();
        let _active = self.shared.metrics.opened(direction);
        let source = canonical(source);
        let Ok(local) = stream.local_addr() else { return };
        let identity = self.workload.identity.clone();
        let mut summary = ConnectionSummary::new(direction, source, canonical(local), identity, started);
        let end = match stream.set_nodelay(true) {
            Err(_gone) => End::Failed("downstream_reset"),
            Ok(()) => match direction {
                Direction::Inbound => inbound::serve(&self, stream, &mut summary).await,
                Direction::Outbound => {
                    let end = outbound::serve(&self, &mut stream, &mut summary).await;
                    if end != End::Closed {
                        reset_on_close(&stream);
                    }
                    end
                }
            },
        };
        summary.finish(end, &self.shared.metrics);
    }
}

/// Takes over what a relay has to say.
pub(super) fn account(summary: &mut ConnectionSummary, relayed: Relayed) -> End {
    (summary.bytes_sent, summary.bytes_received) = (relayed.forward, relayed.backward);
    match relayed.result {
        Ok(()) => End::Closed,
        Err(reason) => End::Failed(reason),
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
