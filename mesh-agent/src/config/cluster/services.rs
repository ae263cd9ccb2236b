//! Makes services of Services and EndpointSlices.
//!
//! Only of those that a workload of the mesh stands for: the others are left to whoever carried them before, so that nobody
//! needs the mesh to reach the API server or a DNS server. Where it isn't known yet which of the two a Service is, it is the
//! mesh's to wait for: kube-proxy may know sooner than we do, and would let plaintext through.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::Cluster;
use crate::config::MeshConfig;
use crate::model::cluster::{API_SERVICE, ClusterService, ObjectName, SYSTEM_NAMESPACE, Slice, SliceEndpoint};
use crate::model::service::{Condition, Endpoint, Meant, Service, ServicePort, ServiceSpace, ServiceUid};
use crate::model::workload::NodeName;

/// The agent's node, as far as it is known.
#[derive(Clone, Copy)]
struct Here<'a> {
    node: Option<&'a NodeName>,
    zone: Option<&'a str>,
}

/// Whose a Service is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Owner {
    Mesh,
    Others,
    /// Nobody is known yet who stands for it.
    Unsettled,
}

/// What the Services made last. Most stay as they are when pods change.
#[derive(Debug, Default)]
pub(super) struct Kept {
    made: BTreeMap<ObjectName, Made>,
    /// Whose each slice is, or was.
    of_slices: BTreeMap<ObjectName, ObjectName>,
    /// Those to be made anew.
    stale: BTreeSet<ObjectName>,
    /// Addresses that may be somebody else's now.
    touched: BTreeSet<IpAddr>,
    /// Whether all are to be made anew.
    all: bool,
}

/// What one Service makes.
#[derive(Debug)]
struct Made {
    owner: Owner,
    /// If it is the mesh's.
    service: Option<Arc<Service>>,
}

impl Kept {
    /// Who is who has changed at these addresses.
    pub(super) fn touch(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        self.touched.extend(addresses);
    }

    /// Everything may be different.
    pub(super) fn forget(&mut self) {
        self.all = true;
    }
}

impl Cluster {
    /// Adds the Services to the configuration, whose workloads are there already.
    pub(super) fn add_services(&mut self, config: &mut MeshConfig) {
        self.note_changed_services();
        self.make_services(config);
        let mut space = ServiceSpace::default();
        let mut made = Vec::new();
        for (name, known) in &self.kept.made {
            let Some(service) = self.services.get(name) else { continue };
            match known.owner {
                Owner::Mesh => made.extend(known.service.clone()),
                Owner::Others => space.foreign.extend(&service.addresses),
                Owner::Unsettled => space.unsettled.extend(&service.addresses),
            }
        }
        space.ranges = self.service_ranges.iter().flat_map(|(_, ranges)| ranges.iter().copied()).collect();
        space.ranges.sort_unstable();
        space.ranges.dedup();
        config.service_space = space;
        // A document of ours that has an address of the cluster's loses it to the cluster.
        config.services.retain(|own| !own.addresses.iter().any(|address| claims(&made, *address)));
        config.services.extend(made);
        config.services.sort_by(|one, other| one.uid.cmp(&other.uid));
        config.services.dedup_by(|one, other| one.uid == other.uid);
    }

    /// What the Services are is no news any more, but for whoever makes them anew.
    pub(super) fn note_changed_services(&mut self) {
        self.service_ranges.take_changed();
        self.kept.stale.extend(self.services.take_changed());
        for name in self.slices.take_changed() {
            let now = self
                .slices
                .get(&name)
                .map(|slice| ObjectName { namespace: name.namespace.clone(), name: slice.service.clone() });
            let before = match &now {
                Some(now) => self.kept.of_slices.insert(name, now.clone()),
                None => self.kept.of_slices.remove(&name),
            };
            self.kept.stale.extend(before.into_iter().chain(now));
        }
    }

    /// Makes those Services anew that may be something else than before.
    fn make_services(&mut self, config: &MeshConfig) {
        let mut stale = std::mem::take(&mut self.kept.stale);
        let touched = std::mem::take(&mut self.kept.touched);
        if std::mem::take(&mut self.kept.all) {
            self.kept.made.clear();
            stale = self.services.iter().map(|(name, _)| name.clone()).collect();
        } else if !touched.is_empty() {
            let is_touched = |slice: &Slice| {
                slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses).any(|address| touched.contains(address))
            };
            let theirs = self.slices.iter().filter(|(_, slice)| is_touched(slice));
            stale.extend(theirs.filter_map(|(name, _)| self.kept.of_slices.get(name).cloned()));
        }
        if stale.is_empty() {
            return;
        }
        let node = self.own_node.as_ref();
        let here = Here { node, zone: node.and_then(|node| self.nodes.get(node)?.zone.as_deref()) };
        let mut of_service: HashMap<(&str, &str), Vec<&Slice>> =
            stale.iter().map(|name| ((&*name.namespace, &*name.name), Vec::new())).collect();
        for (name, slice) in self.slices.iter() {
            if let Some(slices) = of_service.get_mut(&(&*name.namespace, &*slice.service)) {
                slices.push(slice);
            }
        }
        let addresses = of_service.values().flatten().flat_map(|slice| &slice.endpoints).flat_map(|one| &one.addresses);
        let written = config.workloads.iter().filter(|workload| workload.pod.is_none());
        let written: HashMap<IpAddr, &str> = written
            .flat_map(|workload| workload.addresses.iter().map(|address| (*address, workload.namespace())))
            .collect();
        let namespaces: HashMap<IpAddr, &str> = addresses
            .filter_map(|address| {
                let of_pod = self.made.namespace_at(*address);
                Some((*address, of_pod.or_else(|| written.get(address).copied())?))
            })
            .collect();
        let mut made = Vec::new();
        for name in &stale {
            let Some(service) = self.services.get(name) else { continue };
            let slices = of_service.get(&(&*name.namespace, &*name.name)).map_or(&[][..], Vec::as_slice);
            let owner = match service.is_proxied_elsewhere {
                true => Owner::Others,
                false => self.owner(config, &namespaces, name, slices),
            };
            let is_ours = owner == Owner::Mesh;
            let service = is_ours.then(|| Arc::new(make(&namespaces, name, service, slices, here)));
            made.push((name.clone(), Made { owner, service }));
        }
        stale.iter().for_each(|name| drop(self.kept.made.remove(name)));
        self.kept.made.extend(made);
    }

    /// One workload makes a Service the mesh's. One who is known not to be in the mesh makes it others', if nobody does: whoever
    /// calls such a Service gets plaintext in any case.
    fn owner(
        &self,
        config: &MeshConfig,
        namespaces: &HashMap<IpAddr, &str>,
        name: &ObjectName,
        slices: &[&Slice],
    ) -> Owner {
        let mut addresses = slices.iter().flat_map(|slice| &slice.endpoints).flat_map(|endpoint| &endpoint.addresses);
        if addresses.clone().any(|address| namespaces.contains_key(address)) {
            return Owner::Mesh;
        }
        // What the mesh itself needs never waits for news.
        let is_system = [SYSTEM_NAMESPACE, &self.own_namespace].contains(&&*name.namespace)
            || (&*name.namespace, &*name.name) == API_SERVICE;
        let in_pod_ranges = |address: &IpAddr| config.mesh.pod_ranges.iter().any(|range| range.contains(address));
        let is_outside = |address: &IpAddr| config.outside.contains(address) || !in_pod_ranges(address);
        if is_system || addresses.any(is_outside) { Owner::Others } else { Owner::Unsettled }
    }
}

fn make(
    namespaces: &HashMap<IpAddr, &str>,
    name: &ObjectName,
    service: &ClusterService,
    slices: &[&Slice],
    here: Here<'_>,
) -> Service {
    // Who may edit a namespace says which pods stand for its Services, and could name another's.
    let may_stand = |address: &IpAddr| match namespaces.get(address) {
        Some(namespace) => *namespace == name.namespace || service.foreign.iter().any(|named| named == namespace),
        None => true,
    };
    let port = |(port_name, port): &(String, u16)| ServicePort {
        port: *port,
        endpoints: endpoints(slices, port_name, here, may_stand),
    };
    Service {
        uid: ServiceUid::new(&name.namespace, &name.name),
        addresses: service.addresses.clone(),
        external: service.external.clone(),
        ports: service.ports.iter().map(port).collect(),
        affinity: service.affinity,
        traffic: service.traffic,
    }
}

fn claims(services: &[Arc<Service>], address: IpAddr) -> bool {
    services.iter().any(|service| service.addresses.contains(&address))
}

/// The endpoints of one port: each address once, though a slice may have it already and another one still.
fn endpoints(slices: &[&Slice], port_name: &str, here: Here<'_>, may_stand: impl Fn(&IpAddr) -> bool) -> Vec<Endpoint> {
    let mut found = Vec::new();
    for slice in slices {
        let Some((_, port)) = slice.ports.iter().find(|(name, _)| name == port_name) else { continue };
        for endpoint in &slice.endpoints {
            let addresses = endpoint.addresses.iter().copied().filter(&may_stand);
            found.extend(addresses.map(|address| Endpoint {
                address: SocketAddr::new(address, *port),
                condition: endpoint.condition,
                node: endpoint.node.clone(),
                meant: here.meant(endpoint),
            }));
        }
    }
    // Nobody says which slice is the newer one. Whoever connects to one that is gone fails, and nobody waits for one that is there.
    found.sort_by_key(|endpoint| (endpoint.address, endpoint.condition != Condition::Ready));
    found.dedup_by_key(|endpoint| endpoint.address);
    found
}

impl Here<'_> {
    fn meant(self, endpoint: &SliceEndpoint) -> Meant {
        let (nodes, zones) = (&endpoint.for_nodes, &endpoint.for_zones);
        Meant {
            for_node: (!nodes.is_empty()).then(|| nodes.iter().any(|node| Some(node) == self.node)),
            for_zone: (!zones.is_empty()).then(|| zones.iter().any(|zone| Some(zone.as_str()) == self.zone)),
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
