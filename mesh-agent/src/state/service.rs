//! Decides which endpoint of a service a connection goes to.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::MeshState;
use super::route::is_awaited;
use crate::model::service::{Affinity, Condition, Endpoint, Service, TrafficPolicy};
use crate::model::workload::Workload;

/// Where a connection to an address goes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Target {
    /// There: no service has the address.
    Itself(SocketAddr),
    /// To this endpoint of this service.
    Endpoint(Arc<Service>, SocketAddr),
    /// Nowhere: the connection is refused, as a port is where nobody listens.
    Nowhere(Arc<Service>, NoEndpoint),
}

/// Why a service has nobody for a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NoEndpoint {
    /// It doesn't have the port.
    Port,
    /// Nobody is ready.
    Ready,
}

impl NoEndpoint {
    /// A stable label.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Port => "no_service_port",
            Self::Ready => "no_endpoint",
        }
    }
}

/// Chooses for a connection of `source`, from `client`; `random` is one, and new for each connection.
pub fn choose(state: &MeshState, source: &Workload, client: IpAddr, destination: SocketAddr, random: u64) -> Target {
    let destination = SocketAddr::new(destination.ip().to_canonical(), destination.port());
    let Some(service) = state.service_at(destination) else { return Target::Itself(destination) };
    let service = Arc::clone(service);
    match candidates(state, &service, source, destination) {
        Err(none) => Target::Nowhere(service, none),
        Ok(endpoints) => {
            let chosen = match service.affinity {
                Affinity::None => endpoints[usize::try_from(random % endpoints.len() as u64).unwrap_or_default()],
                Affinity::ClientIp => closest(&endpoints, client),
            };
            Target::Endpoint(service, chosen)
        }
    }
}

/// Everyone that a connection of `source` may get; never empty. Who that is, kube-proxy would say too: each family and policy by itself.
pub fn candidates(
    state: &MeshState,
    service: &Service,
    source: &Workload,
    destination: SocketAddr,
) -> Result<Vec<SocketAddr>, NoEndpoint> {
    let port = service.ports.iter().find(|port| port.port == destination.port()).ok_or(NoEndpoint::Port)?;
    let is_v4 = destination.ip().to_canonical().is_ipv4();
    let of_family = port.endpoints.iter().filter(|endpoint| endpoint.address.is_ipv4() == is_v4);
    // The policy for addresses outside is for who comes from there.
    let is_own = service.addresses.contains(&destination.ip().to_canonical());
    let found = match service.traffic {
        _ if !is_own => meant(willing(of_family)),
        TrafficPolicy::Cluster => meant(willing(of_family)),
        // Whom an endpoint is meant for says nothing here.
        TrafficPolicy::Local => willing(of_family.filter(|endpoint| endpoint.node.as_ref() == Some(&source.node))),
    };
    // Who isn't announced yet would let the connection wait, and perhaps for nothing.
    let known = kept(&found, |endpoint| !is_awaited(state, source, endpoint.address.ip()));
    let chosen = if known.is_empty() { found } else { known };
    if chosen.is_empty() {
        return Err(NoEndpoint::Ready);
    }
    Ok(chosen.into_iter().map(|endpoint| endpoint.address).collect())
}

/// Those that are ready. Where nobody is, those that would still take connections (KEP-1669).
fn willing<'a>(endpoints: impl Iterator<Item = &'a Endpoint>) -> Vec<&'a Endpoint> {
    let all: Vec<_> = endpoints.collect();
    let ready = kept(&all, |endpoint| endpoint.condition == Condition::Ready);
    if ready.is_empty() { kept(&all, |endpoint| endpoint.condition == Condition::Leaving) } else { ready }
}

/// Those that are meant for this node, or else its zone (KEP-2433, KEP-3015). All, where that is not said of each, or none is,
/// or none is left but those that are about to go.
fn meant(willing: Vec<&Endpoint>) -> Vec<&Endpoint> {
    if willing.iter().any(|endpoint| endpoint.condition != Condition::Ready) {
        return willing;
    }
    let by: [fn(&Endpoint) -> Option<bool>; 2] =
        [|endpoint| endpoint.meant.for_node, |endpoint| endpoint.meant.for_zone];
    for meant in by {
        let near = kept(&willing, |endpoint| meant(endpoint) == Some(true));
        if !near.is_empty() && willing.iter().all(|endpoint| meant(endpoint).is_some()) {
            return near;
        }
    }
    willing
}

fn kept<'a>(endpoints: &[&'a Endpoint], keep: impl Fn(&&Endpoint) -> bool) -> Vec<&'a Endpoint> {
    endpoints.iter().copied().filter(|endpoint| keep(endpoint)).collect()
}

/// Rendezvous hashing (Thaler and Ravishankar, 1998): only the clients of an endpoint that goes get another one, and every
/// node chooses the same without asking.
fn closest(endpoints: &[SocketAddr], client: IpAddr) -> SocketAddr {
    let weigh = |endpoint: &&SocketAddr| (weight(client, **endpoint), **endpoint);
    *endpoints.iter().max_by_key(weigh).unwrap_or(&endpoints[0])
}

/// FNV-1a, and the finalizer of splitmix64: the former alone leaves the high bits alike for addresses that differ at the end.
fn weight(client: IpAddr, endpoint: SocketAddr) -> u64 {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    };
    let bytes =
        octets(client.to_canonical()).into_iter().chain(octets(endpoint.ip())).chain(endpoint.port().to_be_bytes());
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let mixed = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

#[cfg(test)]
mod tests;
