//! Makes services of Services and EndpointSlices.
//!
//! Only those that a workload of the mesh stands for: the others are left to whoever carried them before, so that nobody
//! needs the mesh to reach the API server or a DNS server.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::Tracked;
use crate::config::MeshConfig;
use crate::model::cluster::{ClusterService, ObjectName, Slice, SliceEndpoint};
use crate::model::service::{Endpoint, Service, ServicePort, ServiceUid};

/// Adds the Services to the configuration, whose workloads are there already. `zone` is that of the agent's node.
pub(super) fn add(
    config: &mut MeshConfig,
    services: &Tracked<ObjectName, ClusterService>,
    slices: &Tracked<ObjectName, Slice>,
    zone: Option<&str>,
) {
    if services.is_empty() {
        return;
    }
    let mut of_service: HashMap<(&str, &str), Vec<&Slice>> = HashMap::new();
    for (name, slice) in slices.iter() {
        of_service.entry((&name.namespace, &slice.service)).or_default().push(slice);
    }
    let namespaces: HashMap<IpAddr, &str> = config
        .workloads
        .iter()
        .flat_map(|workload| workload.addresses.iter().map(|address| (*address, workload.namespace())))
        .collect();
    let mut made = Vec::new();
    for (name, service) in services.iter() {
        let slices = of_service.get(&(&*name.namespace, &*name.name)).map_or(&[][..], Vec::as_slice);
        let addresses = || slices.iter().flat_map(|slice| &slice.endpoints).flat_map(|endpoint| &endpoint.addresses);
        if !addresses().any(|address| namespaces.contains_key(address)) {
            continue;
        }
        // Who may edit a namespace says which pods stand for its Services, and could name another's.
        let may_stand = |address: &IpAddr| match namespaces.get(address) {
            Some(namespace) => *namespace == name.namespace || service.foreign.iter().any(|named| named == namespace),
            None => true,
        };
        let port = |(port_name, port): &(String, u16)| ServicePort {
            port: *port,
            endpoints: endpoints(slices, port_name, zone, may_stand),
        };
        made.push(Arc::new(Service {
            uid: ServiceUid::new(&name.namespace, &name.name),
            addresses: service.addresses.clone(),
            ports: service.ports.iter().map(port).collect(),
            affinity: service.affinity,
            traffic: service.traffic,
        }));
    }
    // A document of ours that has an address of the cluster's loses it to the cluster.
    config.services.retain(|own| !own.addresses.iter().any(|address| claims(&made, *address)));
    config.services.extend(made);
    config.services.sort_by(|one, other| one.uid.cmp(&other.uid));
    config.services.dedup_by(|one, other| one.uid == other.uid);
}

fn claims(services: &[Arc<Service>], address: IpAddr) -> bool {
    services.iter().any(|service| service.addresses.contains(&address))
}

/// The endpoints of one port. Those that are about to go count only where no other is left (KEP-1669), and those meant for
/// other zones only where not all say whom they are meant for, or none is meant for ours (KEP-2433).
fn endpoints(
    slices: &[&Slice],
    port_name: &str,
    zone: Option<&str>,
    may_stand: impl Fn(&IpAddr) -> bool,
) -> Vec<Endpoint> {
    let mut all: Vec<(&SliceEndpoint, u16)> = Vec::new();
    for slice in slices {
        let Some((_, port)) = slice.ports.iter().find(|(name, _)| name == port_name) else { continue };
        all.extend(slice.endpoints.iter().map(|endpoint| (endpoint, *port)));
    }
    let some_ready = all.iter().any(|(endpoint, _)| endpoint.ready);
    let takes = |endpoint: &SliceEndpoint| if some_ready { endpoint.ready } else { endpoint.serving };
    let is_near = |endpoint: &SliceEndpoint| endpoint.zones.iter().any(|meant| Some(meant.as_str()) == zone);
    let taking = || all.iter().map(|(endpoint, _)| *endpoint).filter(|endpoint| takes(endpoint));
    let by_zone = taking().all(|endpoint| !endpoint.zones.is_empty()) && taking().any(is_near);
    let make = |(endpoint, port): &(&SliceEndpoint, u16)| {
        let ready = takes(endpoint) && (!by_zone || is_near(endpoint));
        let addresses: Vec<_> = endpoint.addresses.iter().copied().filter(&may_stand).collect();
        let (node, port) = (endpoint.node.clone(), *port);
        addresses.into_iter().map(move |address| Endpoint {
            address: SocketAddr::new(address, port),
            ready,
            node: node.clone(),
        })
    };
    all.iter().flat_map(make).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{cluster, name, pod};
    use super::super::{Cluster, Namespace, Node, NodeName};
    use super::*;
    use crate::model::service::{Affinity, TrafficPolicy};

    fn service() -> ClusterService {
        ClusterService {
            addresses: vec!["10.96.0.9".parse().unwrap()],
            ports: vec![("http".to_owned(), 80), ("admin".to_owned(), 81)],
            affinity: Affinity::None,
            traffic: TrafficPolicy::Cluster,
            foreign: Vec::new(),
        }
    }

    fn endpoint(address: &str) -> SliceEndpoint {
        let addresses = vec![address.parse().unwrap()];
        SliceEndpoint { addresses, ready: true, serving: true, node: None, zones: Vec::new() }
    }

    fn slice(endpoints: &[SliceEndpoint]) -> Slice {
        Slice { service: "web".to_owned(), ports: vec![("http".to_owned(), 8080)], endpoints: endpoints.to_vec() }
    }

    /// With the pods shop/web and other/web in the mesh and a Service of these endpoints in `shop`.
    fn with(endpoints: &[SliceEndpoint]) -> Cluster {
        let mut cluster = cluster();
        let enrolled = Namespace { enrolled: true, ..Namespace::default() };
        cluster.namespaces().insert("other".to_owned(), enrolled);
        cluster.pods().insert(name("shop", "web"), pod("10.1.1.2"));
        cluster.pods().insert(name("other", "web"), pod("10.1.1.3"));
        cluster.services().insert(name("shop", "web"), service());
        cluster.slices().insert(name("shop", "web-x"), slice(endpoints));
        cluster
    }

    /// Who is ready at port 80; `None`: there is no such service.
    fn ready(cluster: &mut Cluster) -> Option<Vec<String>> {
        let config = cluster.config().unwrap();
        let port = config.services.first()?.ports.iter().find(|port| port.port == 80)?.clone();
        Some(port.endpoints.iter().filter(|one| one.ready).map(|one| one.address.to_string()).collect())
    }

    fn check(endpoints: &[SliceEndpoint], expected: Option<&[&str]>) {
        let expected = expected.map(|all| all.iter().map(|one| (*one).to_owned()).collect());
        assert_eq!(ready(&mut with(endpoints)), expected);
    }

    #[test]
    fn a_service_with_a_workload_of_the_mesh_is_the_meshs_and_no_other() {
        check(&[endpoint("10.1.1.2"), endpoint("192.0.2.1")], Some(&["10.1.1.2:8080", "192.0.2.1:8080"]));
        check(&[endpoint("192.0.2.1")], None);
        check(&[], None);
    }

    #[test]
    fn who_is_about_to_go_counts_where_nobody_else_is_left() {
        let going = SliceEndpoint { ready: false, ..endpoint("10.1.1.2") };
        check(&[going.clone(), endpoint("192.0.2.1")], Some(&["192.0.2.1:8080"]));
        check(std::slice::from_ref(&going), Some(&["10.1.1.2:8080"]));
        check(&[SliceEndpoint { serving: false, ..going }], Some(&[]));
    }

    #[test]
    fn another_namespaces_workload_stands_for_a_service_only_by_name() {
        let endpoints = [endpoint("10.1.1.2"), endpoint("10.1.1.3")];
        check(&endpoints, Some(&["10.1.1.2:8080"]));
        let mut cluster = with(&endpoints);
        cluster
            .services()
            .insert(name("shop", "web"), ClusterService { foreign: vec!["other".to_owned()], ..service() });
        assert_eq!(ready(&mut cluster).unwrap(), ["10.1.1.2:8080", "10.1.1.3:8080"]);
    }

    #[test]
    fn hints_keep_connections_in_their_zone_where_all_have_them() {
        let hinted = |address, zone: &str| SliceEndpoint { zones: vec![zone.to_owned()], ..endpoint(address) };
        let endpoints = [hinted("10.1.1.2", "x"), hinted("192.0.2.1", "y")];
        let in_zone = |endpoints: &[SliceEndpoint], zone: &str| {
            let mut cluster = with(endpoints);
            cluster.own_node = Some(NodeName::new("b"));
            let node = Node { zone: Some(zone.to_owned()), ..Node::default() };
            cluster.nodes().insert(NodeName::new("b"), node);
            ready(&mut cluster).unwrap()
        };
        assert_eq!(in_zone(&endpoints, "x"), ["10.1.1.2:8080"]);
        assert_eq!(in_zone(&endpoints, "z").len(), 2);
        assert_eq!(in_zone(&[hinted("10.1.1.2", "x"), endpoint("192.0.2.1")], "x").len(), 2);
    }
}
