//! The connections that are carried now, for who asks: `mesh-agent connections`.
//!
//! Each holds a seat of the node's budget, which bounds their number.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::model::spiffe::SpiffeId;
use crate::telemetry::{ConnectionSummary, Direction, Tls};

/// All of a node's; clones share.
#[derive(Clone, Debug, Default)]
pub struct LiveConnections(Arc<Mutex<Inside>>);

#[derive(Debug, Default)]
struct Inside {
    next: u64,
    entries: BTreeMap<u64, Arc<Live>>,
}

/// One of them.
#[derive(Debug)]
pub struct Live {
    /// Which way.
    pub direction: Direction,
    /// The connecting end.
    pub source: SocketAddr,
    /// The end that it meant to reach.
    pub destination: SocketAddr,
    /// If that is a service: the endpoint that was chosen.
    pub endpoint: Option<SocketAddr>,
    /// The identity of this node's workload.
    pub workload: SpiffeId,
    /// The authenticated peer; `None`: plaintext.
    pub tls: Option<Tls>,
    /// Who made it: command and process id.
    pub process: Option<(String, u32)>,
    started: Instant,
    moved: Moved,
}

/// Bytes that a relay has read so far, for others to see.
#[derive(Clone, Debug, Default)]
pub(super) struct Moved(Arc<[AtomicU64; 2]>);

impl Moved {
    /// Shows how much was read from downstream and from upstream.
    pub(super) fn show(&self, moved: (u64, u64)) {
        let [down, up] = &*self.0;
        down.store(moved.0, Ordering::Relaxed);
        up.store(moved.1, Ordering::Relaxed);
    }
}

impl Live {
    /// How long ago it was accepted.
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Bytes so far: from the source to the destination, and back.
    pub fn bytes(&self) -> [u64; 2] {
        self.moved.0.each_ref().map(|count| count.load(Ordering::Relaxed))
    }
}

/// Keeps a connection among the live ones until dropped.
#[derive(Debug)]
pub(super) struct LiveGuard {
    all: LiveConnections,
    number: u64,
}

impl LiveConnections {
    /// Adds the connection of which this is known.
    pub(super) fn add(&self, summary: &ConnectionSummary, moved: Moved) -> LiveGuard {
        let live = Live {
            direction: summary.direction,
            source: summary.source,
            destination: summary.destination,
            endpoint: summary.endpoint.as_ref().and_then(|(_, endpoint)| *endpoint),
            workload: summary.workload.clone(),
            tls: summary.tls.clone(),
            process: summary.process.clone(),
            started: summary.started(),
            moved,
        };
        let mut inside = self.lock();
        let number = inside.next;
        inside.next += 1;
        inside.entries.insert(number, Arc::new(live));
        drop(inside);
        LiveGuard { all: self.clone(), number }
    }

    /// Those of now, oldest first.
    pub fn all(&self) -> Vec<Arc<Live>> {
        self.lock().entries.values().map(Arc::clone).collect()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.lock().entries.len()
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for LiveGuard {
    fn drop(&mut self) {
        self.all.lock().entries.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_live_until_its_guard_goes() {
        let all = LiveConnections::default();
        let address = "10.0.0.1:80".parse().unwrap();
        let id = SpiffeId::parse("spiffe://test/web").unwrap();
        let summary = ConnectionSummary::new(Direction::Inbound, address, address, id, Instant::now());
        let moved = Moved::default();
        let [first, second] = [(); 2].map(|()| all.add(&summary, moved.clone()));
        moved.show((5, 7));
        assert_eq!((all.count(), all.all()[0].bytes()), (2, [5, 7]));
        drop(first);
        assert_eq!(all.count(), 1);
        drop(second);
        assert_eq!(all.count(), 0);
    }
}
