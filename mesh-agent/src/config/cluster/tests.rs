//! What the objects of a cluster make together.

use super::*;
use serde_json::json;
use std::collections::BTreeMap;

pub(super) fn name(namespace: &str, name: &str) -> ObjectName {
    ObjectName { namespace: namespace.to_owned(), name: name.to_owned() }
}

pub(super) fn document(kind: &str, object: &ObjectName, spec: Value) -> Value {
    let mut metadata = json!({"name": object.name});
    if !object.namespace.is_empty() {
        metadata["namespace"] = json!(object.namespace);
    }
    json!({"apiVersion": "mesh.hauberk.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec})
}

pub(super) fn set(cluster: &mut Cluster, kind: &str, object: &ObjectName, spec: Value) -> Option<String> {
    let written = Written { generation: 1, content: document(kind, object, spec), ..Written::default() };
    cluster.set_document(kind, object, written).mistakes.as_ref().map(ToString::to_string)
}

/// A cluster with a Mesh, a node with a range, and an enrolled namespace `shop`.
pub(super) fn cluster() -> Cluster {
    let mut cluster = Cluster::new("hauberk-system", None);
    let mesh = json!({"trustDomain": "test", "issuer": {"kubernetes": {}}});
    assert_eq!(set(&mut cluster, "Mesh", &name("", "mesh"), mesh), None);
    let shop = Namespace { enrolled: true, ..Namespace::default() };
    cluster.namespaces().insert("shop".to_owned(), shop);
    cluster.namespaces().insert("free".to_owned(), Namespace { may_opt_out: true, ..shop });
    cluster.namespaces().insert("other".to_owned(), Namespace::default());
    let pod_ranges = vec!["10.1.1.0/24".parse().unwrap()];
    cluster.nodes().insert(NodeName::new("a"), Node { pod_ranges, ..Node::default() });
    cluster
}

pub(super) fn pod(address: &str) -> Pod {
    Pod {
        uid: PodUid::parse(&address.replace('.', "-")).unwrap(),
        node: Some(NodeName::new("a")),
        service_account: "web".to_owned(),
        addresses: vec![address.parse().unwrap()],
        labels: BTreeMap::new(),
        static_uid: None,
        host_network: false,
        finished: false,
        served: true,
    }
}

/// What the pods make: the addresses of workloads, and those outside the mesh.
pub(super) fn addresses(cluster: &mut Cluster) -> (Vec<String>, Vec<String>) {
    let config = cluster.config().unwrap();
    let inside = config.workloads.iter().flat_map(|workload| &workload.addresses).map(ToString::to_string).collect();
    (inside, config.outside.iter().map(ToString::to_string).collect())
}

#[test]
fn labels_say_who_is_in_the_mesh() {
    let cluster = cluster();
    let labelled = |label: Option<&str>, host_network| {
        let labels = label.map(|label| (ENROLLED_LABEL.to_owned(), label.to_owned())).into_iter().collect();
        Pod { labels, host_network, ..pod("10.1.1.2") }
    };
    for (namespace, label, host_network, expected) in [
        ("shop", None, false, Membership::In),
        ("shop", Some("true"), false, Membership::In),
        ("shop", Some("false"), false, Membership::In),
        ("free", Some("false"), false, Membership::OptedOut),
        ("shop", None, true, Membership::HostNetwork),
        ("other", None, false, Membership::NotLabelled),
        ("other", Some("false"), false, Membership::NotLabelled),
        ("other", Some("true"), false, Membership::In),
        ("kube-system", Some("true"), false, Membership::System),
        ("hauberk-system", Some("true"), false, Membership::System),
    ] {
        let pod = labelled(label, host_network);
        assert_eq!(cluster.membership(&name(namespace, "web"), &pod), expected, "{namespace} {label:?}");
    }
}

#[test]
fn a_label_on_the_meshs_own_namespace_takes_everybody_out() {
    let mut cluster = cluster();
    cluster.pods().insert(name("shop", "web"), pod("10.1.1.2"));
    let own = Namespace { uninstall: true, ..Namespace::default() };
    cluster.namespaces().insert("hauberk-system".to_owned(), own);
    assert_eq!(cluster.membership(&name("shop", "web"), &pod("10.1.1.2")), Membership::Uninstalled);
    assert_eq!(addresses(&mut cluster), (vec![], vec!["10.1.1.2".to_owned()]));
}

#[test]
fn a_pod_has_its_service_accounts_identity_and_leaves_with_its_end() {
    let mut cluster = cluster();
    cluster.pods().insert(name("shop", "web"), pod("10.1.1.2"));
    cluster.pods().insert(name("other", "job"), pod("10.1.1.3"));
    let config = cluster.config().unwrap();
    let [web] = &config.workloads[..] else { panic!("{:?}", config.workloads) };
    assert_eq!(web.identity.to_string(), "spiffe://test/ns/shop/sa/web");
    assert_eq!((web.uid.as_str(), web.node.as_str(), web.announced), ("shop/web", "a", true));
    assert_eq!(config.mesh.pod_ranges, ["10.1.1.0/24".parse().unwrap()]);
    assert_eq!(addresses(&mut cluster), (vec!["10.1.1.2".to_owned()], vec!["10.1.1.3".to_owned()]));
    let all: Vec<_> = cluster.pods().iter().map(|(name, pod)| (name.clone(), pod.clone())).collect();
    cluster.pods().replace(all.into_iter().map(|(name, pod)| (name, Pod { finished: true, ..pod })));
    assert_eq!(addresses(&mut cluster), (vec![], vec![]));
}

#[test]
fn a_pod_is_nobody_while_its_namespace_is_not_known() {
    let mut cluster = cluster();
    cluster.pods().insert(name("new", "web"), pod("10.1.1.2"));
    assert_eq!(addresses(&mut cluster), (vec![], vec![]));
    let shop = Namespace { enrolled: true, ..Namespace::default() };
    cluster.namespaces().insert("new".to_owned(), shop);
    assert_eq!(addresses(&mut cluster), (vec!["10.1.1.2".to_owned()], vec![]));
}

#[test]
fn an_address_that_two_claim_belongs_to_nobody() {
    let mut cluster = cluster();
    cluster.pods().insert(name("shop", "web"), pod("10.1.1.2"));
    cluster.pods().insert(name("other", "thief"), pod("10.1.1.2"));
    assert_eq!(addresses(&mut cluster), (vec![], vec![]));
    assert_eq!(cluster.contested().iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.1.1.2"]);
}

#[test]
fn a_pod_of_the_mesh_without_an_address_is_named_and_not_released() {
    let mut cluster = cluster();
    cluster.own_node = Some(NodeName::new("a"));
    cluster.pods().insert(name("shop", "web"), pod("10.1.1.2"));
    cluster.pods().insert(name("other", "thief"), pod("10.1.1.2"));
    cluster.pods().insert(name("shop", "astray"), pod("10.7.7.7"));
    cluster.pods().insert(name("unheard", "of"), pod("10.1.1.3"));
    cluster.pods().insert(name("shop", "done"), Pod { finished: true, ..pod("10.1.1.4") });
    cluster.pods().insert(name("shop", "early"), Pod { addresses: Vec::new(), ..pod("10.1.1.5") });
    let config = cluster.config().unwrap();
    let named: Vec<_> = config.unaddressed.iter().map(|(uid, (_, why))| format!("{uid}: {why}")).collect();
    assert_eq!(
        named,
        [
            "shop/astray: its addresses are not of its node's pod ranges",
            "shop/web: another pod claims its address too",
            "unheard/of: its namespace is not known yet",
        ]
    );
    assert_eq!(config.outside, BTreeSet::new());
    let released = |cluster: &mut Cluster, address: &str| {
        cluster.config().unwrap().released.has(&PodUid::parse(&address.replace('.', "-")).unwrap())
    };
    assert!(!released(&mut cluster, "10.1.1.4"), "what has finished may still run");
    assert!(!released(&mut cluster, "10.1.1.99"), "a pod that the API doesn't show may still run");
    cluster.namespaces().insert("shop".to_owned(), Namespace::default());
    assert!(released(&mut cluster, "10.1.1.4"));
    let own = Namespace { uninstall: true, ..Namespace::default() };
    cluster.namespaces().insert("hauberk-system".to_owned(), own);
    assert!(released(&mut cluster, "10.1.1.99"), "the mesh leaves");
}

#[test]
fn who_should_be_in_the_mesh_and_is_on_the_nodes_network_is_named() {
    let mut cluster = cluster();
    cluster.own_node = Some(NodeName::new("a"));
    let host = Pod { host_network: true, ..pod("10.1.1.2") };
    cluster.pods().insert(name("shop", "host"), host.clone());
    cluster.pods().insert(name("other", "host"), host.clone());
    cluster.pods().insert(name("shop", "there"), Pod { node: Some(NodeName::new("b")), ..host });
    let named: Vec<_> = cluster.barred().into_iter().map(|(uid, _)| uid.to_string()).collect();
    assert_eq!(named, ["shop/host"]);
}

#[test]
fn an_address_outside_its_nodes_ranges_counts_as_none() {
    let mut cluster = cluster();
    cluster.pods().insert(name("shop", "web"), pod("10.1.2.2"));
    cluster.pods().insert(name("other", "job"), pod("10.1.2.3"));
    assert_eq!(addresses(&mut cluster), (vec![], vec![]));
}

#[test]
fn a_sandbox_says_more_than_the_api() {
    let mut cluster = cluster();
    let early = Pod { addresses: Vec::new(), ..pod("10.1.1.5") };
    let uid = early.uid.clone();
    cluster.pods().insert(name("shop", "web"), early);
    assert_eq!(addresses(&mut cluster), (vec![], vec![]));
    let runs = |address: &str| SandboxState::Runs(vec![address.parse().unwrap()]);
    cluster.sandboxes().insert(uid.clone(), runs("10.1.1.5"));
    assert_eq!(addresses(&mut cluster).0, ["10.1.1.5"]);
    // Another sandbox of the same pod, of which the API doesn't know yet.
    cluster.pods().insert(name("shop", "web"), pod("10.1.1.5"));
    cluster.sandboxes().insert(uid.clone(), runs("10.1.1.6"));
    assert_eq!(addresses(&mut cluster).0, ["10.1.1.6"]);
    // No sandbox makes an address of another node ours.
    cluster.sandboxes().insert(uid.clone(), runs("10.9.9.9"));
    assert_eq!(addresses(&mut cluster), (vec![], vec![]));
    // A pod whose sandbox is gone has nothing, and its address is free for the next.
    cluster.sandboxes().insert(uid, SandboxState::Ended);
    let next = Pod { uid: PodUid::parse("next").unwrap(), ..pod("10.1.1.5") };
    cluster.pods().insert(name("shop", "next"), next);
    assert_eq!(addresses(&mut cluster).0, ["10.1.1.5"]);
    assert!(cluster.contested().is_empty());
}

#[test]
fn what_is_made_of_a_pod_stays_until_something_of_it_changes() {
    let mut cluster = cluster();
    let address = |number: u32| std::net::Ipv4Addr::from(0x0a02_0000 + number).to_string();
    let numbered = |number: u32| (name("shop", &format!("web-{number}")), pod(&address(number)));
    cluster.nodes().replace([]);
    cluster.pods().replace((0..10_000).map(numbered));
    let lowered = |cluster: &mut Cluster| {
        let before = cluster.made.lowered;
        assert_eq!(cluster.config().unwrap().workloads.len(), 10_000);
        assert!(!cluster.has_changed());
        cluster.made.lowered - before
    };
    assert_eq!(lowered(&mut cluster), 10_000);
    assert_eq!(lowered(&mut cluster), 0);
    let (name, pod) = numbered(4711);
    cluster.pods().insert(name.clone(), pod.clone());
    assert_eq!(lowered(&mut cluster), 0, "an equal pod is no change");
    cluster.pods().insert(name, Pod { served: false, ..pod });
    assert_eq!(lowered(&mut cluster), 1);
}

#[test]
fn who_shares_an_address_gets_it_back_when_the_other_leaves() {
    let mut cluster = cluster();
    cluster.pods().insert(name("shop", "web"), pod("10.1.1.2"));
    assert_eq!(addresses(&mut cluster).0, ["10.1.1.2"]);
    let both = vec!["10.1.1.2".parse().unwrap(), "10.1.1.3".parse().unwrap()];
    cluster.pods().insert(name("shop", "thief"), Pod { addresses: both, ..pod("10.1.1.3") });
    assert_eq!(addresses(&mut cluster).0, ["10.1.1.3"]);
    cluster.pods().insert(name("shop", "thief"), pod("10.1.1.3"));
    assert_eq!(addresses(&mut cluster).0, ["10.1.1.3", "10.1.1.2"]);
    assert!(cluster.contested().is_empty());
}

/// What is kept from before must be what a new cluster of the same objects makes.
#[test]
fn changes_one_after_the_other_make_what_all_make_at_once() {
    let mut state = 7_u64;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut grown = cluster();
    for _ in 0..400 {
        let who = name(["shop", "free", "other"][usize::try_from(random(3)).unwrap()], &format!("p{}", random(6)));
        let address: IpAddr = format!("10.1.{}.{}", 1 + random(2), 2 + random(5)).parse().unwrap();
        let uid = PodUid::parse(&format!("u{}", random(8))).unwrap();
        match random(11) {
            8 => {
                let service = name(["shop", "other"][usize::try_from(random(2)).unwrap()], &format!("s{}", random(3)));
                let number = random(4);
                let addresses = vec![format!("10.96.0.{number}").parse().unwrap()];
                let made = ClusterService { addresses, ..services::tests::service() };
                if random(4) == 0 { grown.services().remove(&service) } else { grown.services().insert(service, made) }
            }
            9 => {
                let named = name(["shop", "other"][usize::try_from(random(2)).unwrap()], &format!("e{}", random(4)));
                let endpoints = [services::tests::endpoint(&address.to_string())];
                let service = format!("s{}", random(3));
                let slice = Slice { service, ..services::tests::slice(&endpoints) };
                if random(4) == 0 { grown.slices().remove(&named) } else { grown.slices().insert(named, slice) }
            }
            10 => {
                let spec = json!({"node": "m", "addresses": [format!("192.0.2.{}", random(3))]});
                set(&mut grown, "Workload", &name("shop", "vm"), spec);
            }
            0 => grown.pods().remove(&who),
            1 => grown.sandboxes().insert(uid, SandboxState::Runs(vec![address])),
            2 => grown.sandboxes().insert(uid, SandboxState::Ended),
            3 => grown.sandboxes().remove(&uid),
            4 => {
                let enrolled = Namespace { enrolled: random(2) == 0, ..Namespace::default() };
                grown.namespaces().insert("other".to_owned(), enrolled);
            }
            5 => {
                let pod_ranges = vec![format!("10.1.{}.0/24", 1 + random(2)).parse().unwrap()];
                grown.nodes().insert(NodeName::new("a"), Node { pod_ranges, ..Node::default() });
            }
            _ => {
                let finished = random(5) == 0;
                grown.pods().insert(who, Pod { uid, finished, addresses: vec![address], ..pod("10.1.1.2") });
            }
        }
        let mut fresh = cluster();
        fresh.namespaces().replace(grown.namespaces.iter().map(|(name, known)| (name.clone(), *known)));
        fresh.nodes().replace(grown.nodes.iter().map(|(name, known)| (name.clone(), known.clone())));
        fresh.pods().replace(grown.pods.iter().map(|(name, known)| (name.clone(), known.clone())));
        fresh.sandboxes().replace(grown.sandboxes.iter().map(|(uid, known)| (uid.clone(), known.clone())));
        fresh.services().replace(grown.services.iter().map(|(name, known)| (name.clone(), known.clone())));
        fresh.slices().replace(grown.slices.iter().map(|(name, known)| (name.clone(), known.clone())));
        let vm = name("shop", "vm");
        if let Some((_, written)) = grown.documents.forms("Workload").find(|(name, _)| **name == vm) {
            set(&mut fresh, "Workload", &vm, written["spec"].clone());
        }
        assert_eq!(grown.config().unwrap(), fresh.config().unwrap());
        assert_eq!(grown.contested(), fresh.contested());
    }
}
