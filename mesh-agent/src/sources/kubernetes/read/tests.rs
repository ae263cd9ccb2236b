//! What is kept of the API server's objects.

use super::*;
use k8s_openapi::serde::de::DeserializeOwned;

fn object<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn shown(addresses: &[IpAddr]) -> Vec<String> {
    addresses.iter().map(ToString::to_string).collect()
}

/// A pod with this spec and this status.
fn read_pod(spec: Value, status: Value) -> Pod {
    let metadata = json!({"name": "web", "namespace": "shop", "uid": "u-1", "labels": {"app": "web"}});
    pod(&object(json!({"metadata": metadata, "spec": spec, "status": status}))).unwrap()
}

#[test]
fn a_pods_addresses_are_those_that_others_reach_each_once_and_in_one_form() {
    for (status, expected) in [
        (json!({}), &[][..]),
        (json!({"podIP": "10.1.1.2"}), &["10.1.1.2"]),
        (json!({"podIP": "10.1.1.2", "podIPs": [{"ip": "10.1.1.2"}, {"ip": "fd00::2"}]}), &["10.1.1.2", "fd00::2"]),
        (json!({"podIP": "::ffff:10.1.1.2", "podIPs": [{"ip": "10.1.1.2"}]}), &["10.1.1.2"]),
        (json!({"podIPs": [{"ip": "FD00:0::2"}, {"ip": "fd00::2"}]}), &["fd00::2"]),
        (json!({"podIP": ""}), &[]),
        (json!({"podIP": "0.0.0.0", "podIPs": [{"ip": "::"}, {"ip": "::ffff:0.0.0.0"}]}), &[]),
        (json!({"podIP": "127.0.0.1", "podIPs": [{"ip": "::1"}, {"ip": "::ffff:127.1.2.3"}]}), &[]),
        (json!({"podIP": "224.0.0.1", "podIPs": [{"ip": "ff02::1"}, {"ip": "255.255.255.255"}]}), &[]),
        (json!({"podIP": "169.254.1.1", "podIPs": [{"ip": "fe80::1"}, {"ip": "::ffff:169.254.1.1"}]}), &[]),
    ] {
        assert_eq!(shown(&read_pod(json!({"containers": []}), status.clone()).addresses), expected, "{status}");
    }
}

#[test]
fn a_pod_is_finished_by_its_phase_and_served_by_its_condition() {
    let with = |status| read_pod(json!({"containers": []}), status);
    for (phase, finished) in
        [("Pending", false), ("Running", false), ("Succeeded", true), ("Failed", true), ("Unknown", false)]
    {
        assert_eq!(with(json!({"phase": phase})).finished, finished, "{phase}");
    }
    for (kind, status, served) in [
        ("mesh.hauberk.dev/Served", "True", true),
        ("mesh.hauberk.dev/Served", "False", false),
        ("mesh.hauberk.dev/Served", "Unknown", false),
        ("Ready", "True", false),
    ] {
        let condition = json!({"type": kind, "status": status});
        assert_eq!(with(json!({"conditions": [condition]})).served, served, "{kind} {status}");
    }
}

#[test]
fn a_pod_is_where_its_spec_says_and_has_an_account_in_any_case() {
    let bare = read_pod(json!({"containers": []}), json!({}));
    assert_eq!((bare.node, &*bare.service_account, bare.host_network), (None, "default", false));
    assert_eq!((bare.labels["app"].as_str(), bare.uid.as_str()), ("web", "u-1"));
    let bound = json!({"containers": [], "nodeName": "a", "serviceAccountName": "cart", "hostNetwork": true});
    let bound = read_pod(bound, json!({}));
    assert_eq!((bound.node, &*bound.service_account, bound.host_network), (Some(NodeName::new("a")), "cart", true));
    assert_eq!(read_pod(json!({"containers": [], "nodeName": ""}), json!({})).node, None);
    // Without a uid, or with one that could name a file elsewhere, it is nobody.
    for metadata in [json!({"name": "web"}), json!({"name": "web", "uid": "../x"})] {
        assert_eq!(pod(&object(json!({"metadata": metadata, "spec": {"containers": []}}))), None);
    }
}

#[test]
fn a_namespace_is_what_its_labels_say_exactly() {
    let all = |value: &str| {
        let labels = [ENROLLED_LABEL, OPT_OUT_LABEL, UNINSTALL_LABEL].map(|label| (label.to_owned(), value.to_owned()));
        namespace(Some(&BTreeMap::from(labels)))
    };
    let none = Namespace::default();
    assert_eq!(namespace(None), none);
    assert_eq!(all("true"), Namespace { enrolled: true, uninstall: true, ..none });
    assert_eq!(all("allowed"), Namespace { may_opt_out: true, ..none });
    assert_eq!(all("True"), none);
}

#[test]
fn a_node_has_ranges_and_a_zone() {
    let zone = json!({"name": "a", "labels": {"topology.kubernetes.io/zone": "x"}});
    let both = json!({"podCIDR": "10.1.1.0/24", "podCIDRs": ["10.1.1.0/24", "fd00:1::/64"]});
    let read = node(&object(json!({"metadata": zone, "spec": both})));
    let ranges: Vec<_> = read.pod_ranges.iter().map(ToString::to_string).collect();
    assert_eq!((ranges, read.zone.as_deref()), (vec!["10.1.1.0/24".to_owned(), "fd00:1::/64".to_owned()], Some("x")));
    let old = node(&object(json!({"metadata": {"name": "a"}, "spec": {"podCIDR": "10.1.1.0/24"}})));
    assert_eq!((old.pod_ranges.len(), old.zone), (1, None));
    assert_eq!(node(&object(json!({"metadata": {"name": "a"}}))), Node::default());
}

#[test]
fn a_range_of_services_may_be_of_both_families() {
    let read = |spec| service_ranges(&object(json!({"metadata": {"name": "kubernetes"}, "spec": spec})));
    let both = read(json!({"cidrs": ["fd96::/112", "10.96.0.0/16"]}));
    assert_eq!(both.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.96.0.0/16", "fd96::/112"]);
    assert_eq!(read(json!(null)), []);
}

fn read_service(annotations: Value, spec: Value) -> Option<ClusterService> {
    service(&object(json!({"metadata": {"name": "web", "annotations": annotations}, "spec": spec})))
}

#[test]
fn a_service_has_its_cluster_addresses_of_both_families() {
    let addresses = |spec| read_service(json!({}), spec).map(|service| shown(&service.addresses));
    for (spec, expected) in [
        (json!({"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"]}), Some(&["10.96.0.9"][..])),
        (json!({"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9", "fd96::9"]}), Some(&["10.96.0.9", "fd96::9"])),
        (json!({"clusterIP": "10.96.0.9"}), Some(&["10.96.0.9"])),
        (json!({"clusterIP": "::ffff:10.96.0.9"}), Some(&["10.96.0.9"])),
        (json!({"clusterIP": "None", "clusterIPs": ["None"]}), None),
        (json!({"type": "ExternalName", "externalName": "example.org"}), None),
        (json!({"clusterIP": ""}), None),
    ] {
        let expected = expected.map(|all| all.iter().map(|one| (*one).to_owned()).collect());
        assert_eq!(addresses(spec.clone()), expected, "{spec}");
    }
}

#[test]
fn a_service_has_addresses_outside_that_pods_may_call() {
    let balancer = json!({"loadBalancer": {"ingress": [
        {"ip": "192.0.2.1"},
        {"ip": "192.0.2.2", "ipMode": "VIP"},
        {"ip": "192.0.2.3", "ipMode": "Proxy"},
        {"hostname": "example.org"},
    ]}});
    for (spec, status, expected) in [
        (json!({}), json!({}), &[][..]),
        (json!({"externalIPs": ["192.0.2.9", "127.0.0.1"]}), json!({}), &["192.0.2.9"]),
        (json!({"externalIPs": ["192.0.2.2"]}), balancer.clone(), &["192.0.2.1", "192.0.2.2"]),
        (json!({"externalIPs": ["192.0.2.9"], "loadBalancerSourceRanges": ["10.0.0.0/8"]}), balancer, &["192.0.2.9"]),
    ] {
        let mut with_address = spec.clone();
        with_address["clusterIP"] = json!("10.96.0.9");
        let object = object(json!({"metadata": {"name": "web"}, "spec": with_address, "status": status}));
        assert_eq!(shown(&service(&object).unwrap().external), expected, "{spec}");
    }
}

#[test]
fn a_service_may_be_another_proxys() {
    for (labels, expected) in
        [(json!({"app": "web"}), false), (json!({"service.kubernetes.io/service-proxy-name": "other"}), true)]
    {
        let metadata = json!({"name": "web", "labels": labels});
        let object = object(json!({"metadata": metadata, "spec": {"clusterIP": "10.96.0.9"}}));
        assert_eq!(service(&object).unwrap().is_proxied_elsewhere, expected, "{labels}");
    }
}

#[test]
fn a_service_has_its_tcp_ports_by_name() {
    let ports = |ports| read_service(json!({}), json!({"clusterIP": "10.96.0.9", "ports": ports})).unwrap().ports;
    let named = |name: &str, port| (name.to_owned(), port);
    assert_eq!(ports(json!([{"port": 80}])), [named("", 80)]);
    assert_eq!(ports(json!([{"port": 53, "protocol": "UDP"}, {"port": 5, "protocol": "SCTP"}])), []);
    let several = json!([
        {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
        {"name": "http", "port": 80, "targetPort": "web"},
    ]);
    assert_eq!(ports(several), [named("dns-tcp", 53), named("http", 80)]);
}

#[test]
fn a_service_says_which_endpoints_a_client_gets() {
    let with = |field: &str, value| read_service(json!({}), json!({"clusterIP": "10.96.0.9", field: value})).unwrap();
    let bare = with("type", "ClusterIP");
    assert_eq!((bare.affinity, bare.traffic, &bare.foreign[..]), (Affinity::None, TrafficPolicy::Cluster, &[][..]));
    assert_eq!(with("sessionAffinity", "ClientIP").affinity, Affinity::ClientIp);
    assert_eq!(with("sessionAffinity", "None").affinity, Affinity::None);
    assert_eq!(with("internalTrafficPolicy", "Local").traffic, TrafficPolicy::Local);
    assert_eq!(with("internalTrafficPolicy", "Cluster").traffic, TrafficPolicy::Cluster);
    // This one is for who comes from outside.
    assert_eq!(with("externalTrafficPolicy", "Local").traffic, TrafficPolicy::Cluster);
    let annotations = json!({"mesh.hauberk.dev/endpoint-namespaces": " bank,, cart "});
    assert_eq!(read_service(annotations, json!({"clusterIP": "10.96.0.9"})).unwrap().foreign, ["bank", "cart"]);
}

fn read_slice(ports: Value, endpoints: Value) -> Slice {
    let metadata = json!({"name": "web-x", "labels": {"kubernetes.io/service-name": "web"}});
    slice(&object(json!({"metadata": metadata, "addressType": "IPv4", "ports": ports, "endpoints": endpoints})))
        .unwrap()
}

#[test]
fn an_endpoint_is_ready_unless_it_is_said_not_to_be() {
    for (conditions, expected) in [
        (json!(null), Condition::Ready),
        (json!({}), Condition::Ready),
        (json!({"ready": null, "serving": null, "terminating": null}), Condition::Ready),
        (json!({"ready": true, "serving": true, "terminating": false}), Condition::Ready),
        // Of a Service that publishes addresses in any case.
        (json!({"ready": true, "serving": false, "terminating": true}), Condition::Ready),
        (json!({"ready": false}), Condition::Unready),
        (json!({"ready": false, "serving": false, "terminating": false}), Condition::Unready),
        (json!({"ready": false, "serving": true, "terminating": true}), Condition::Leaving),
        (json!({"ready": false, "serving": false, "terminating": true}), Condition::Unready),
        // What is unknown of `serving` is what is known of `ready`.
        (json!({"ready": false, "terminating": true}), Condition::Unready),
        // It would serve but isn't ready: nothing that kube-proxy knows.
        (json!({"ready": false, "serving": true}), Condition::Unready),
    ] {
        let read = read_slice(json!([]), json!([{"addresses": ["10.1.1.2"], "conditions": conditions}]));
        assert_eq!(read.endpoints[0].condition, expected, "{conditions}");
    }
}

#[test]
fn an_endpoint_says_where_it_is_and_whom_it_is_meant_for() {
    let hints = json!({"forZones": [{"name": "x"}, {"name": "y"}], "forNodes": [{"name": "b"}]});
    let hinted = json!({"addresses": ["10.1.1.2", "::ffff:10.1.1.3", "fe80::1"], "nodeName": "a", "hints": hints});
    let read = read_slice(json!([]), json!([hinted, {"addresses": ["10.1.1.4"], "hints": {}}]));
    let [hinted, bare] = &read.endpoints[..] else { panic!("{read:?}") };
    assert_eq!(shown(&hinted.addresses), ["10.1.1.2", "10.1.1.3"]);
    assert_eq!(
        (&hinted.for_zones[..], &hinted.for_nodes[..]),
        (&["x", "y"].map(str::to_owned)[..], &[NodeName::new("b")][..])
    );
    assert_eq!(hinted.node, Some(NodeName::new("a")));
    assert!(bare.for_zones.is_empty() && bare.for_nodes.is_empty() && bare.node.is_none());
}

#[test]
fn a_slice_is_its_services_with_its_tcp_ports() {
    let ports = json!([
        {"name": "http", "port": 8080, "protocol": "TCP"},
        {"name": "admin", "port": 9090},
        {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "any", "port": null},
    ]);
    let read = read_slice(ports, json!([]));
    let named = |name: &str, port| (name.to_owned(), port);
    assert_eq!((&*read.service, &read.ports[..]), ("web", &[named("http", 8080), named("admin", 9090)][..]));
    assert_eq!(read_slice(json!([{"name": null, "port": 80}]), json!([])).ports, [named("", 80)]);
    assert_eq!(read_slice(json!(null), json!(null)).ports, []);
    let nobodys = json!({"metadata": {"name": "x"}, "addressType": "IPv4", "ports": [], "endpoints": []});
    assert_eq!(slice(&object(nobodys)), None);
}

#[test]
fn a_static_pod_is_what_its_own_node_calls_it() {
    const HASH: &str = "0123456789abcdef0123456789abcdef";
    let mirror = || {
        json!({
            "metadata": {
                "name": "web-a", "namespace": "shop", "uid": "u-1",
                "annotations": {MIRROR_ANNOTATION: HASH, HASH_ANNOTATION: HASH},
                "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "a", "uid": "n", "controller": true}],
            },
            "spec": {"nodeName": "a", "containers": []},
        })
    };
    let found = pod(&object(mirror())).unwrap();
    assert_eq!((found.uid.as_str(), found.runtime_uid().as_str()), ("u-1", HASH));
    for (pointer, value) in [
        ("/metadata/ownerReferences/0/name", json!("b")),
        ("/metadata/ownerReferences/0/kind", json!("ReplicaSet")),
        ("/metadata/ownerReferences/0/apiVersion", json!("v2")),
        ("/metadata/ownerReferences/0/controller", json!(false)),
        ("/metadata/ownerReferences", json!([])),
        ("/spec", json!({"containers": []})),
        ("/spec", json!({"nodeName": "a", "serviceAccountName": "web", "containers": []})),
        ("/metadata/annotations", json!({MIRROR_ANNOTATION: HASH})),
        ("/metadata/annotations", json!({MIRROR_ANNOTATION: "other", HASH_ANNOTATION: HASH})),
        // Another pod's uid.
        (
            "/metadata/annotations",
            json!({MIRROR_ANNOTATION: "0e6ae9a4-1c4b-4d1e-8a43-1f3a5c2d9b10", HASH_ANNOTATION: "0e6ae9a4-1c4b-4d1e-8a43-1f3a5c2d9b10"}),
        ),
    ] {
        let mut odd = mirror();
        *odd.pointer_mut(pointer).unwrap() = value.clone();
        let found = pod(&object(odd)).unwrap();
        assert_eq!(found.runtime_uid().as_str(), "u-1", "{pointer} {value}");
    }
}
