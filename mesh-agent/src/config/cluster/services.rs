//! Makes services of Services and EndpointSlices.
//!
//! Only of those that a workload of the mesh stands for: the others are left to whoever carried them before, so that nobody
//! needs the mesh to reach the API server or a DNS server. Where it isn't known yet which of the two a Service is, it is the
//! mesh's to wait for: kube-proxy may know sooner than we do, and would let plaintext through.

use std::collections::HashMap;
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
#[derive(Clone, Copy, Eq, PartialEq)]
enum Owner {
    Mesh,
    Others,
    /// Nobody is known yet who stands for it.
    Unsettled,
}

impl Cluster {
    /// Adds the Services to the configuration, whose workloads are there already.
    pub(super) fn add_services(&mut self, config: &mut MeshConfig) {
        self.forget_changed_services();
        let node = self.own_node.as_ref();
        let here = Here { node, zone: node.and_then(|node| self.nodes.get(node)?.zone.as_deref()) };
        let mut of_service: HashMap<(&str, &str), Vec<&Slice>> = HashMap::new();
        for (name, slice) in self.slices.iter() {
            of_service.entry((&name.namespace, &slice.service)).or_default().push(slice);
        }
        let namespaces: HashMap<IpAddr, &str> = config
            .workloads
            .iter()
            .flat_map(|workload| workload.addresses.iter().map(|address| (*address, workload.namespace())))
            .collect();
        let (mut made, mut space) = (Vec::new(), ServiceSpace::default());
        for (name, service) in self.services.iter() {
            let slices = of_service.get(&(&*name.namespace, &*name.name)).map_or(&[][..], Vec::as_slice);
            let owner = match service.is_proxied_elsewhere {
                true => Owner::Others,
                false => self.owner(config, &namespaces, name, slices),
            };
            match owner {
                Owner::Mesh => made.push(Arc::new(make(&namespaces, name, service, slices, here))),
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

    /// What the Services are is no news any more.
    pub(super) fn forget_changed_services(&mut self) {
        self.services.take_changed();
        self.slices.take_changed();
        self.service_ranges.take_changed();
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
mod tests {
    use super::super::tests::{cluster, name, pod};
    use super::super::{Namespace, Node};
    use super::*;
    use crate::model::service::{Affinity, TrafficPolicy};

    fn service() -> ClusterService {
        ClusterService {
            addresses: vec!["10.96.0.9".parse().unwrap()],
            external: Vec::new(),
            is_proxied_elsewhere: false,
            ports: vec![("http".to_owned(), 80), ("admin".to_owned(), 81)],
            affinity: Affinity::None,
            traffic: TrafficPolicy::Cluster,
            foreign: Vec::new(),
        }
    }

    fn endpoint(address: &str) -> SliceEndpoint {
        let addresses = vec![address.parse().unwrap()];
        SliceEndpoint {
            addresses,
            condition: Condition::Ready,
            node: None,
            for_nodes: Vec::new(),
            for_zones: Vec::new(),
        }
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

    /// Who stands for port 80; `None`: there is no such service.
    fn standing(cluster: &mut Cluster) -> Option<Vec<Endpoint>> {
        let config = cluster.config().unwrap();
        Some(config.services.first()?.ports.iter().find(|port| port.port == 80)?.endpoints.clone())
    }

    fn shown(cluster: &mut Cluster) -> Option<Vec<String>> {
        Some(standing(cluster)?.iter().map(|one| one.address.to_string()).collect())
    }

    fn check(endpoints: &[SliceEndpoint], expected: Option<&[&str]>) {
        let expected = expected.map(|all| all.iter().map(|one| (*one).to_owned()).collect());
        assert_eq!(shown(&mut with(endpoints)), expected);
    }

    #[test]
    fn a_service_with_a_workload_of_the_mesh_is_the_meshs_and_no_other() {
        check(&[endpoint("10.1.1.2"), endpoint("192.0.2.1")], Some(&["10.1.1.2:8080", "192.0.2.1:8080"]));
        check(&[endpoint("192.0.2.1")], None);
        check(&[], None);
    }

    /// Whose the Service at 10.96.0.9 is, with these endpoints.
    fn owner(cluster: &mut Cluster) -> &'static str {
        let config = cluster.config().unwrap();
        let (address, space) = ("10.96.0.9".parse().unwrap(), &config.service_space);
        let is_meshs = config.services.iter().any(|service| service.addresses.contains(&address));
        match (is_meshs, space.foreign.contains(&address), space.unsettled.contains(&address)) {
            (true, false, false) => "the mesh's",
            (false, true, false) => "others'",
            (false, false, true) => "unsettled",
            _ => "two at once",
        }
    }

    #[test]
    fn a_service_is_unsettled_until_somebody_is_known_who_stands_for_it() {
        // 10.1.1.4 is a pod outside of the mesh, and nobody is known yet at 10.1.1.9.
        for (endpoints, expected) in [
            (&["10.1.1.2"][..], "the mesh's"),
            (&["10.1.1.9", "10.1.1.4", "10.1.1.2"], "the mesh's"),
            (&["10.1.1.4"], "others'"),
            (&["192.0.2.1"], "others'"),
            (&["10.1.1.9", "10.1.1.4"], "others'"),
            (&["10.1.1.9"], "unsettled"),
            (&[], "unsettled"),
        ] {
            let endpoints: Vec<_> = endpoints.iter().map(|address| endpoint(address)).collect();
            let mut cluster = with(&endpoints);
            cluster.namespaces().insert("plain".to_owned(), Namespace::default());
            cluster.pods().insert(name("plain", "web"), pod("10.1.1.4"));
            assert_eq!(owner(&mut cluster), expected, "{endpoints:?}");
        }
        let mut cluster = with(&[]);
        cluster.slices().remove(&name("shop", "web-x"));
        assert_eq!(owner(&mut cluster), "unsettled");
        // An address that two claim is nobody's.
        let mut cluster = with(&[endpoint("10.1.1.2")]);
        cluster.pods().insert(name("plain", "thief"), pod("10.1.1.2"));
        assert_eq!(owner(&mut cluster), "unsettled");
    }

    #[test]
    fn what_the_cluster_needs_waits_for_nobody() {
        for (namespace, service_name, expected) in [
            ("kube-system", "kube-dns", "others'"),
            ("hauberk-system", "hauberk-ca", "others'"),
            ("default", "kubernetes", "others'"),
            ("default", "web", "unsettled"),
        ] {
            let mut cluster = with(&[]);
            cluster.services().replace([(name(namespace, service_name), service())]);
            assert_eq!(owner(&mut cluster), expected, "{namespace}/{service_name}");
        }
    }

    #[test]
    fn what_another_proxy_stands_for_is_its_business() {
        let mut cluster = with(&[endpoint("10.1.1.2")]);
        let elsewhere = ClusterService { is_proxied_elsewhere: true, ..service() };
        cluster.services().insert(name("shop", "web"), elsewhere);
        assert_eq!(owner(&mut cluster), "others'");
    }

    #[test]
    fn new_ranges_of_services_make_a_new_configuration() {
        let mut cluster = with(&[]);
        assert_eq!(cluster.config().unwrap().service_space.ranges, []);
        let range: ipnet::IpNet = "10.96.0.0/16".parse().unwrap();
        cluster.service_ranges().insert("kubernetes".to_owned(), vec![range]);
        assert!(cluster.has_changed());
        assert_eq!(cluster.config().unwrap().service_space.ranges, [range]);
        assert!(!cluster.has_changed());
    }

    #[test]
    fn an_endpoint_that_is_in_two_slices_counts_once_and_as_ready_if_one_says_so() {
        let going = SliceEndpoint { condition: Condition::Leaving, ..endpoint("10.1.1.2") };
        let mut cluster = with(&[going.clone(), endpoint("192.0.2.1")]);
        cluster.slices().insert(name("shop", "web-y"), slice(&[endpoint("10.1.1.2")]));
        let found = standing(&mut cluster).unwrap();
        let conditions: Vec<_> = found.iter().map(|one| (one.address.to_string(), one.condition)).collect();
        let ready = |address: &str| (address.to_owned(), Condition::Ready);
        assert_eq!(conditions, [ready("10.1.1.2:8080"), ready("192.0.2.1:8080")]);
        assert_eq!(standing(&mut with(&[going])).unwrap()[0].condition, Condition::Leaving);
    }

    #[test]
    fn another_namespaces_workload_stands_for_a_service_only_by_name() {
        let endpoints = [endpoint("10.1.1.2"), endpoint("10.1.1.3")];
        check(&endpoints, Some(&["10.1.1.2:8080"]));
        let mut cluster = with(&endpoints);
        cluster
            .services()
            .insert(name("shop", "web"), ClusterService { foreign: vec!["other".to_owned()], ..service() });
        assert_eq!(shown(&mut cluster).unwrap(), ["10.1.1.2:8080", "10.1.1.3:8080"]);
    }

    #[test]
    fn an_endpoint_knows_whether_it_is_meant_for_this_node_and_its_zone() {
        let hinted = SliceEndpoint {
            for_nodes: vec![NodeName::new("b")],
            for_zones: vec!["x".to_owned(), "y".to_owned()],
            ..endpoint("10.1.1.2")
        };
        let meant = |node: &str, zone: Option<&str>| {
            let mut cluster = with(&[hinted.clone(), endpoint("192.0.2.1")]);
            cluster.own_node = Some(NodeName::new(node));
            let known = Node { zone: zone.map(str::to_owned), ..Node::default() };
            cluster.nodes().insert(NodeName::new(node), known);
            let found = standing(&mut cluster).unwrap();
            assert_eq!(found[1].meant, Meant::default());
            (found[0].meant.for_node.unwrap(), found[0].meant.for_zone.unwrap())
        };
        assert_eq!(meant("b", Some("y")), (true, true));
        assert_eq!(meant("c", Some("x")), (false, true));
        assert_eq!(meant("b", Some("z")), (true, false));
        assert_eq!(meant("c", None), (false, false));
    }
}
