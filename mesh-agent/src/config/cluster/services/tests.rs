//! Whose Services are, and who stands for them.

use super::super::tests::{cluster, name, pod};
use super::super::{Namespace, Node};
use super::*;
use crate::model::service::{Affinity, TrafficPolicy};

pub(in crate::config::cluster) fn service() -> ClusterService {
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

pub(in crate::config::cluster) fn endpoint(address: &str) -> SliceEndpoint {
    let addresses = vec![address.parse().unwrap()];
    SliceEndpoint { addresses, condition: Condition::Ready, node: None, for_nodes: Vec::new(), for_zones: Vec::new() }
}

pub(in crate::config::cluster) fn slice(endpoints: &[SliceEndpoint]) -> Slice {
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
    cluster.services().insert(name("shop", "web"), ClusterService { foreign: vec!["other".to_owned()], ..service() });
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
