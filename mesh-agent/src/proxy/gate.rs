//! Keeps the unauthenticated connections of all pods within their bounds: [`admission`](super::admission) decides.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use tokio_util::sync::CancellationToken;

use super::admission::{Admission, Ticket, Verdict};
use crate::model::budget::Unauthenticated;

/// The reason of connections that had to stay out, or to go.
pub(super) const TOO_MANY: &str = "too_many_unauthenticated";

/// The gate of a node.
#[derive(Clone, Debug)]
pub(super) struct Gate(Arc<Mutex<Inside>>);

#[derive(Debug)]
struct Inside {
    admission: Admission,
    evictions: HashMap<Ticket, CancellationToken>,
}

/// A place among the unauthenticated, until dropped.
#[derive(Debug)]
pub(super) struct Permit {
    gate: Gate,
    ticket: Ticket,
    eviction: CancellationToken,
}

impl Gate {
    pub(super) fn new(limits: Unauthenticated) -> Self {
        let inside = Inside { admission: Admission::new(limits), evictions: HashMap::new() };
        Self(Arc::new(Mutex::new(inside)))
    }

    /// A place for a connection from `source` to `pod`, if there is one.
    pub(super) fn admit(&self, pod: u32, source: IpAddr) -> Option<Permit> {
        let mut inside = self.lock();
        let ticket = match inside.admission.arrive(pod, source) {
            Verdict::Admit(ticket) => ticket,
            Verdict::Displace(ticket, oldest) => {
                if let Some(eviction) = inside.evictions.remove(&oldest) {
                    eviction.cancel();
                }
                ticket
            }
            Verdict::Refuse => return None,
        };
        let eviction = CancellationToken::new();
        inside.evictions.insert(ticket, eviction.clone());
        Some(Permit { gate: self.clone(), ticket, eviction })
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit {
    /// Returns once the place is needed for somebody else.
    pub(super) async fn evicted(&self) {
        self.eviction.cancelled().await;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut inside = self.gate.lock();
        inside.evictions.remove(&self.ticket);
        inside.admission.leave(self.ticket);
    }
}

/// What counts as one source: a pod by its address, and outside of the pod ranges an IPv6 host by its /64, of which it
/// can take any address.
pub(super) fn source(address: IpAddr, pod_ranges: &[IpNet]) -> IpAddr {
    match address {
        IpAddr::V6(address) if !pod_ranges.iter().any(|range| range.contains(&IpAddr::V6(address))) => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)))
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_is_displaced_is_told_and_its_late_end_frees_nothing() {
        let gate = Gate::new(Unauthenticated { node: 10, pod: 2, source: 2 });
        let [one, other] = [1, 2].map(|last| IpAddr::from([10, 0, 0, last]));
        let [first, _second] = [(); 2].map(|()| gate.admit(1, one).unwrap());
        assert!(gate.admit(1, one).is_none());
        let newcomer = gate.admit(1, other).unwrap();
        first.evicted().await;
        drop(first);
        assert!(gate.admit(1, other).is_none(), "both places are taken");
        drop(newcomer);
        assert!(gate.admit(1, other).is_some());
    }

    #[test]
    fn a_host_outside_counts_once_however_many_addresses_it_takes() {
        let ranges = ["fd42::/48".parse().unwrap()];
        let check = |text: &str| source(text.parse().unwrap(), &ranges).to_string();
        assert_eq!(check("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(check("fd42:0:0:2::5"), "fd42:0:0:2::5");
        assert_eq!(check("192.0.2.7"), "192.0.2.7");
    }
}
