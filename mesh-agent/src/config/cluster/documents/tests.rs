//! What the documents of a cluster make, of which some are wrong.

use serde_json::json;

use crate::config::cluster::tests::{addresses, cluster, document, name, pod, set};
use crate::config::cluster::{Cluster, ClusterService, Node, NodeName, Pod, Written};

/// The mistakes of the only document that is refused.
fn mistakes(cluster: &Cluster) -> Option<String> {
    cluster.verdicts().into_iter().find_map(|verdict| verdict.mistakes).map(|mistakes| mistakes.to_string())
}

fn refused(cluster: &Cluster) -> Vec<String> {
    let refused = cluster.verdicts().into_iter().filter(|verdict| verdict.mistakes.is_some());
    refused.map(|verdict| verdict.name.name).collect()
}

#[test]
fn a_workload_of_a_document_takes_nothing_from_the_cluster() {
    let mut cluster = cluster();
    let node_address = vec!["192.0.2.1".parse().unwrap()];
    cluster.nodes().insert(NodeName::new("x"), Node { addresses: node_address, ..Node::default() });
    cluster.pods().insert(name("shop", "web"), Pod { node: Some(NodeName::new("x")), ..pod("10.9.9.9") });
    let service = ClusterService {
        addresses: vec!["10.96.0.1".parse().unwrap()],
        ports: Vec::new(),
        affinity: Default::default(),
        traffic: Default::default(),
        foreign: Vec::new(),
        external: Vec::new(),
        is_proxied_elsewhere: false,
    };
    cluster.services().insert(name("default", "kubernetes"), service);
    let pods = addresses(&mut cluster);
    for (who, spec, expected) in [
        (
            "vm",
            json!({"node": "a", "addresses": ["192.0.2.7"]}),
            "spec.node: is a node of this cluster: what runs there are pods",
        ),
        (
            "vm",
            json!({"node": "m", "addresses": ["192.0.2.7"], "netns": "/proc/1/ns/net"}),
            "spec.netns: is not possible in a cluster: what runs on its nodes are pods",
        ),
        ("web", json!({"node": "m", "addresses": ["192.0.2.7"]}), "metadata.name: is a pod's"),
        ("vm", json!({"node": "m", "addresses": ["10.9.9.9"]}), "spec.addresses[0]: is a pod's"),
        ("vm", json!({"node": "m", "addresses": ["10.1.1.9"]}), "spec.addresses[0]: is of the node a or its pods"),
        ("vm", json!({"node": "m", "addresses": ["192.0.2.1"]}), "spec.addresses[0]: is of the node x or its pods"),
        (
            "vm",
            json!({"node": "m", "addresses": ["10.96.0.1"]}),
            "spec.addresses[0]: is of the Service default/kubernetes",
        ),
    ] {
        assert_eq!(set(&mut cluster, "Workload", &name("shop", who), spec), None);
        assert_eq!(addresses(&mut cluster), pods);
        assert_eq!(mistakes(&cluster).unwrap(), format!("Workload shop/{who}: {expected}"));
        cluster.remove_document("Workload", &name("shop", who));
    }
}

#[test]
fn a_workload_of_a_document_yields_to_a_node_that_comes_later() {
    let mut cluster = cluster();
    let vm = name("shop", "vm");
    assert_eq!(set(&mut cluster, "Workload", &vm, json!({"node": "m", "addresses": ["192.0.2.7"]})), None);
    assert_eq!(addresses(&mut cluster).0, ["192.0.2.7"]);
    // Its last good form stays where the newest is wrong.
    assert_eq!(set(&mut cluster, "Workload", &vm, json!({"node": "m", "addresses": ["10.1.1.7"]})), None);
    assert_eq!(addresses(&mut cluster).0, ["192.0.2.7"]);
    assert!(mistakes(&cluster).is_some());
    assert_eq!(set(&mut cluster, "Workload", &vm, json!({"node": "m", "addresses": ["192.0.2.8"]})), None);
    assert_eq!((addresses(&mut cluster).0, mistakes(&cluster)), (vec!["192.0.2.8".to_owned()], None));
    cluster.nodes().insert(NodeName::new("m"), Node::default());
    assert_eq!(addresses(&mut cluster).0, [""; 0]);
    assert!(mistakes(&cluster).is_some());
}

#[test]
fn a_document_with_a_mistake_leaves_its_last_good_form_in_force() {
    let mut cluster = cluster();
    let deny = name("shop", "deny");
    let spec = json!({"action": "DENY", "rules": [{}]});
    assert_eq!(set(&mut cluster, "AuthorizationPolicy", &deny, spec), None);
    let mistakes = set(&mut cluster, "AuthorizationPolicy", &deny, json!({"action": "DNY", "rules": [{}]})).unwrap();
    assert!(mistakes.starts_with("AuthorizationPolicy shop/deny: spec.action: `DNY` is not one of"), "{mistakes}");
    assert_eq!(cluster.config().unwrap().authorization.len(), 1);
    assert_eq!(refused(&cluster), ["deny"]);
    cluster.remove_document("AuthorizationPolicy", &deny);
    assert_eq!(cluster.config().unwrap().authorization.len(), 0);
}

#[test]
fn a_document_that_does_not_go_with_the_others_holds_nobody_back() {
    let mut cluster = cluster();
    let stranger = json!({"spiffeIds": ["spiffe://elsewhere/ns/a/sa/b"]});
    assert_eq!(set(&mut cluster, "Revocation", &name("", "stranger"), stranger), None);
    cluster.pods().insert(name("shop", "web"), pod("10.1.1.2"));
    assert_eq!(addresses(&mut cluster).0, ["10.1.1.2"]);
    assert_eq!(refused(&cluster), ["stranger"]);
    cluster.pods().remove(&name("shop", "web"));
    assert_eq!(addresses(&mut cluster).0, [""; 0]);
    cluster.remove_document("Revocation", &name("", "stranger"));
    cluster.config().unwrap();
    assert_eq!(refused(&cluster), [""; 0]);
}

#[test]
fn a_document_that_goes_with_the_others_no_more_keeps_its_last_good_form() {
    let mut cluster = cluster();
    let ids = |cluster: &mut Cluster| {
        let revocations = cluster.config().unwrap().revocations;
        revocations.iter().flat_map(|one| &one.spiffe_ids).map(ToString::to_string).collect::<Vec<_>>()
    };
    let set =
        |cluster: &mut Cluster, id: &str| set(cluster, "Revocation", &name("", "one"), json!({"spiffeIds": [id]}));
    assert_eq!(set(&mut cluster, "spiffe://test/ns/a/sa/b"), None);
    assert_eq!(ids(&mut cluster), ["spiffe://test/ns/a/sa/b"]);
    assert_eq!(set(&mut cluster, "spiffe://elsewhere/ns/a/sa/b"), None);
    assert_eq!(ids(&mut cluster), ["spiffe://test/ns/a/sa/b"]);
    assert_eq!(refused(&cluster), ["one"]);
}

#[test]
fn of_two_documents_that_claim_the_same_the_older_stands() {
    let mut cluster = cluster();
    for (who, created) in [("z", 1), ("a", 2)] {
        let content = document("Workload", &name("vms", who), json!({"node": "m", "addresses": ["192.0.2.7"]}));
        cluster.set_document("Workload", &name("vms", who), Written { created, content, ..Written::default() });
    }
    let config = cluster.config().unwrap();
    assert_eq!(config.workloads.iter().map(|one| one.uid.as_str()).collect::<Vec<_>>(), ["vms/z"]);
    assert_eq!(refused(&cluster), ["a"]);
}

#[test]
fn a_mesh_that_is_gone_or_wrong_stands_as_it_was() {
    let mut cluster = cluster();
    let mesh = name("", "mesh");
    let first = cluster.config().unwrap();
    cluster.begin(&first);
    cluster.remove_document("Mesh", &mesh);
    assert_eq!(cluster.config().unwrap().mesh, first.mesh);
    let other = json!({"trustDomain": "other", "issuer": {"kubernetes": {}}});
    assert_eq!(set(&mut cluster, "Mesh", &mesh, other), None);
    assert_eq!(cluster.config().unwrap().mesh, first.mesh);
    assert_eq!(
        mistakes(&cluster).unwrap(),
        "Mesh mesh: spec.trustDomain: the mesh runs as `test`, which can't be changed"
    );
}

#[test]
fn what_only_a_restart_takes_over_holds_back_nothing_else() {
    let mut cluster = cluster();
    let first = cluster.config().unwrap();
    cluster.begin(&first);
    let changed = json!({
        "trustDomain": "test", "issuer": {"kubernetes": {}, "svidLifetime": "2h"}, "mtls": {"mode": "PERMISSIVE"}
    });
    assert_eq!(set(&mut cluster, "Mesh", &name("", "mesh"), changed), None);
    cluster.pods().insert(name("shop", "web"), pod("10.1.1.2"));
    let next = cluster.config().unwrap();
    assert_eq!((next.mesh.issuer, next.workloads.len()), (first.mesh.issuer, 1));
    assert_eq!(next.mesh.mode, crate::model::mesh::MtlsMode::Permissive);
    assert_eq!(cluster.pending_restart(), ["spec.issuer"]);
}

#[test]
fn without_a_mesh_there_is_no_configuration() {
    let error = Cluster::new("hauberk-system", None).config().unwrap_err().to_string();
    assert_eq!(error, "no Mesh object in the configuration, exactly one is needed");
}
