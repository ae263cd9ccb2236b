//! Which addresses are services', and which connections the kernel diverts.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use super::MeshState;
use crate::model::service::{Service, ServiceSpace, ServiceUid};
use crate::policy::Addresses;

/// The services, by their addresses, and what is known of those that they may have.
#[derive(Debug)]
pub(super) struct Services {
    by_address: HashMap<IpAddr, Arc<Service>>,
    /// By addresses outside; several share one, port by port.
    external: HashMap<IpAddr, Vec<Arc<Service>>>,
    space: ServiceSpace,
    ranges: Addresses,
}

impl Services {
    /// Whoever may write a service may give it any address outside; those of pods and of other services stay theirs.
    pub(super) fn new(services: Vec<Arc<Service>>, space: ServiceSpace, is_pods: impl Fn(&IpAddr) -> bool) -> Self {
        let ranges = Addresses::of(&space.ranges);
        let mut by_address = HashMap::new();
        for service in &services {
            by_address.extend(service.addresses.iter().map(|address| (*address, Arc::clone(service))));
        }
        let mut external: HashMap<IpAddr, Vec<Arc<Service>>> = HashMap::new();
        let is_taken = |address: &IpAddr| {
            let is_services = by_address.contains_key(address) || ranges.contains(*address);
            is_services || space.foreign.contains(address) || space.unsettled.contains(address) || is_pods(address)
        };
        for service in &services {
            for address in service.external.iter().filter(|address| !is_taken(address)) {
                external.entry(*address).or_default().push(Arc::clone(service));
            }
        }
        Self { by_address, external, space, ranges }
    }
}

impl MeshState {
    /// The service that stands there.
    pub fn service_at(&self, destination: SocketAddr) -> Option<&Arc<Service>> {
        let (address, port) = (destination.ip().to_canonical(), destination.port());
        let external = || self.services.external.get(&address)?.iter().find(|service| service.has_port(port));
        self.services.by_address.get(&address).or_else(external)
    }

    /// The service of this name.
    pub fn service(&self, uid: &ServiceUid) -> Option<&Arc<Service>> {
        self.services.by_address.values().find(|service| service.uid == *uid)
    }

    /// Every range whose connections the kernel diverts, but for [`Self::exempt`]: those of pods and of services, and each address
    /// of a workload or a service outside of them.
    pub fn diverted(&self) -> impl Iterator<Item = IpNet> {
        let Services { by_address, external, space, .. } = &self.services;
        let all = self.by_address.keys().chain(by_address.keys()).chain(external.keys()).chain(&space.unsettled);
        let apart = all.copied().filter(|address| !self.is_in_ranges(*address)).map(IpNet::from);
        self.mesh.pod_ranges.iter().chain(&space.ranges).copied().chain(apart)
    }

    /// Addresses in those ranges whose connections the kernel leaves alone: an enrolled pod needs no agent to reach the API
    /// server or a DNS server.
    pub fn exempt(&self) -> impl Iterator<Item = IpNet> {
        self.services.space.foreign.iter().copied().filter(|address| self.is_exempt(*address)).map(IpNet::from)
    }

    /// Whether the kernel diverts connections to this address.
    pub(super) fn is_diverted(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let is_of_services =
            self.services.external.contains_key(&address) || self.services.space.unsettled.contains(&address);
        let is_apart = self.has_owner(address) || is_of_services;
        is_apart || (self.is_in_ranges(address) && !self.is_exempt(address))
    }

    /// Whether a service may have this address, and which one isn't known.
    pub(super) fn is_unsettled(&self, address: IpAddr) -> bool {
        let (address, Services { space, ranges, .. }) = (address.to_canonical(), &self.services);
        space.unsettled.contains(&address) || (ranges.contains(address) && !space.foreign.contains(&address))
    }

    fn is_exempt(&self, address: IpAddr) -> bool {
        let Services { space, ranges, .. } = &self.services;
        let is_others = space.foreign.contains(&address) && ranges.contains(address);
        is_others && !self.has_owner(address) && !self.in_pod_ranges(address)
    }

    fn has_owner(&self, address: IpAddr) -> bool {
        self.by_address.contains_key(&address) || self.services.by_address.contains_key(&address)
    }

    fn is_in_ranges(&self, address: IpAddr) -> bool {
        self.in_pod_ranges(address) || self.services.ranges.contains(address)
    }
}
