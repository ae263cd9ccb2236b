//! Accepts a pod's connections and starts a task for each.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::contexts::Contexts;
use super::gate::Gate;
use super::listed::Listed;
use super::live::LiveConnections;
use super::rego::Rego;
use super::socket::reset_on_close;
use super::upstream::SourcePorts;
use super::{Drain, inbound, outbound};
use crate::bpf::Maps;
use crate::model::budget::Budget;
use crate::model::svid::{Trust, X509Svid};
use crate::model::workload::Workload;
use crate::store::Store;
use crate::sys::netns::Netns;
use crate::telemetry::{ConnectionSummary, Direction, End, Metrics};
use crate::tls::datapath::DataPaths;

/// What the proxies of all pods share.
pub struct Shared {
    /// The mesh.
    pub store: Store,
    /// The kernel's maps.
    pub maps: Arc<Maps>,
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// Whom peers must be vouched for by.
    pub trust: watch::Receiver<Arc<Trust>>,
    /// Where the records of sessions are protected.
    pub data_paths: Arc<DataPaths>,
    /// Owns the tasks.
    pub drain: Drain,
    /// The connections that are carried now.
    pub live: LiveConnections,
    /// How many connections there may be.
    pub budget: Budget,
    /// Who may be unauthenticated.
    pub(super) gate: Gate,
    /// What CAs list.
    pub(super) listed: Arc<Listed>,
    /// Who asks in Rego.
    pub(super) rego: Arc<Rego>,
    /// A permit for each connection of the node.
    seats: Arc<Semaphore>,
}

impl Shared {
    /// For all pods of a node.
    pub fn new(
        store: Store,
        maps: Arc<Maps>,
        metrics: Arc<Metrics>,
        trust: watch::Receiver<Arc<Trust>>,
        data_paths: Arc<DataPaths>,
        budget: Budget,
    ) -> Arc<Self> {
        let (gate, seats) = (Gate::new(budget.unauthenticated), Arc::new(Semaphore::new(budget.node)));
        let (drain, live, listed) = (Drain::default(), LiveConnections::default(), Arc::default());
        Arc::new(Self {
            store,
            maps,
            metrics,
            trust,
            data_paths,
            drain,
            live,
            budget,
            gate,
            listed,
            rego: Arc::default(),
            seats,
        })
    }
}

/// Carries the connections of one pod.
pub struct PodProxy {
    pub(super) shared: Arc<Shared>,
    pub(super) workload: Arc<Workload>,
    pub(super) number: u32,
    pub(super) netns: Arc<Netns>,
    pub(super) contexts: Contexts,
    pub(super) ports: SourcePorts,
    /// A permit for each connection of the pod.
    seats: Arc<Semaphore>,
    withdrawn: CancellationToken,
}

/// A connection's places in its pod and its node.
type Seat = (OwnedSemaphorePermit, OwnedSemaphorePermit);

impl PodProxy {
    /// For the pod with this number and namespace.
    pub fn new(
        shared: Arc<Shared>,
        workload: Arc<Workload>,
        number: u32,
        netns: Arc<Netns>,
        svid: watch::Receiver<Arc<X509Svid>>,
    ) -> Arc<Self> {
        let settings = shared.data_paths.prefer(&shared.store.snapshot().mesh().tls);
        let contexts = Contexts::new(svid, shared.trust.clone(), shared.store.clone(), settings);
        let (ports, seats) = (SourcePorts::of(&netns), Arc::new(Semaphore::new(shared.budget.pod)));
        let withdrawn = CancellationToken::new();
        Arc::new(Self { shared, workload, number, netns, contexts, ports, seats, withdrawn })
    }

    /// Closes the pod's listeners when it is dropped; open connections go on.
    pub fn listening(&self) -> DropGuard {
        self.withdrawn.clone().drop_guard()
    }

    /// Accepts connections until the drain begins or the pod is withdrawn.
    pub fn start(self: &Arc<Self>, direction: Direction, listener: TcpListener) {
        let pod = Arc::clone(self);
        self.shared.drain.spawn(async move {
            tokio::select! {
                () = pod.accept(direction, &listener) => {}
                () = pod.shared.drain.begun() => {}
                () = pod.withdrawn.cancelled() => {}
            }
            // What the kernel has let in already is served. Then the listener closes, and the kernel refuses.
            while let Some(Ok((stream, source))) = listener.accept().now_or_never() {
                pod.accepted(direction, stream, source);
            }
        });
    }

    async fn accept(self: &Arc<Self>, direction: Direction, listener: &TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, source)) => self.accepted(direction, stream, source),
                // Out of descriptors or memory: connections wait in the backlog meanwhile.
                Err(error) => {
                    tracing::warn!(%error, workload = %self.workload.uid, "accept failed");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    fn accepted(self: &Arc<Self>, direction: Direction, stream: TcpStream, source: SocketAddr) {
        let pod = Arc::clone(self);
        reset_on_close(&stream);
        let started = Instant::now();
        let Ok(local) = stream.local_addr() else { return };
        let identity = self.workload.identity.clone();
        let mut summary = ConnectionSummary::new(direction, canonical(source), canonical(local), identity, started);
        let active = self.shared.metrics.opened(direction);
        let Some(seat) = self.seat() else {
            summary.finish(End::Denied("too_many_connections"), &self.shared.metrics);
            return;
        };
        self.shared.drain.spawn(async move {
            let _held = (active, seat);
            let end = tokio::select! {
                biased;
                end = pod.serve(&stream, &mut summary) => end,
                () = pod.shared.drain.overdue() => End::Failed("drained"),
            };
            summary.finish(end, &pod.shared.metrics);
        });
    }

    fn seat(&self) -> Option<Seat> {
        let own = Arc::clone(&self.seats).try_acquire_owned().ok()?;
        Some((own, Arc::clone(&self.shared.seats).try_acquire_owned().ok()?))
    }

    async fn serve(&self, stream: &TcpStream, summary: &mut ConnectionSummary) -> End {
        if stream.set_nodelay(true).is_err() {
            return End::Failed("downstream_reset");
        }
        match summary.direction {
            Direction::Inbound => inbound::serve(self, stream, summary).await,
            Direction::Outbound => outbound::serve(self, stream, summary).await,
        }
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
