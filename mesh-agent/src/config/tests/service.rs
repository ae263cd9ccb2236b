//! Services as documents: what they may say, and what is broken, each with the exact text of its mistake.

use super::{MESH, WORKLOAD, accepted, file};
use crate::config::parse;
use crate::model::service::{Affinity, TrafficPolicy};
use crate::model::workload::NodeName;

fn service(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: mesh.hauberk.dev/v1alpha1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n"
    )
}

#[test]
fn everything_can_be_said() {
    let labelled = WORKLOAD.replace("namespace: shop}", "namespace: shop, labels: {app: web, tier: front}}");
    let spec = "{addresses: [10.96.0.1, 'fd96::1'], ports: [{name: http, port: 80, protocol: TCP, targetPort: 8080}, {port: 81}], \
                selector: {app: web}, sessionAffinity: ClientIP, internalTrafficPolicy: Local}";
    let listed = "{addresses: [10.96.0.2], ports: [{port: 5}], endpoints: [10.1.2.3, 192.0.2.1]}";
    let config = accepted(&format!("{MESH}---{labelled}---\n{}---\n{}", service("web", spec), service("out", listed)));
    let [out, web] = &config.services[..] else { panic!("{:?}", config.services) };
    assert_eq!((web.uid.as_str(), web.affinity, web.traffic), ("shop/web", Affinity::ClientIp, TrafficPolicy::Local));
    let shown = |index: usize| -> Vec<_> {
        let endpoints = &web.ports[index].endpoints;
        endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect()
    };
    assert_eq!((web.ports[0].port, shown(0), shown(1)), (80, vec!["10.1.2.3:8080".into()], vec!["10.1.2.3:81".into()]));
    assert_eq!((out.affinity, out.traffic), (Affinity::None, TrafficPolicy::Cluster));
    let nodes: Vec<_> = out.ports[0].endpoints.iter().map(|endpoint| endpoint.node.clone()).collect();
    assert_eq!(nodes, [Some(NodeName::new("a")), None]);
}

/// `spec`, and the mistake.
const BROKEN: [(&str, &str); 14] = [
    ("{}", "spec.addresses: is required|spec.ports: is required|spec: needs exactly one of `selector` and `endpoints`"),
    (
        "{addresses: [], ports: [], endpoints: []}",
        "spec.addresses: is empty, expected at least one item|spec.ports: is empty, expected at least one item",
    ),
    (
        "{clusterIP: 10.96.0.1, addresses: [10.96.0.1], ports: [{port: 1}], endpoints: []}",
        "spec.clusterIP: are written as `addresses`",
    ),
    (
        "{type: NodePort, addresses: [10.96.0.1], ports: [{port: 1}], endpoints: []}",
        "spec.type: only what a ClusterIP is can be said here: leave it out",
    ),
    ("{addresses: [ten], ports: [{port: 1}], endpoints: []}", "spec.addresses[0]: `ten` is not an IP address"),
    ("{addresses: [10.96.0.1, 10.96.0.1], ports: [{port: 1}], endpoints: []}", "spec.addresses[1]: is listed twice"),
    (
        "{addresses: [10.96.0.1], ports: [{port: 1, targetPort: http}], endpoints: []}",
        "spec.ports[0].targetPort: is a string, expected a port number",
    ),
    (
        "{addresses: [10.96.0.1], ports: [{port: 0}], endpoints: []}",
        "spec.ports[0].port: `0` is not a port (1 to 65535)",
    ),
    (
        "{addresses: [10.96.0.1], ports: [{port: 1}, {port: 1, targetPort: 2}], endpoints: []}",
        "spec.ports[1]: is listed twice",
    ),
    (
        "{addresses: [10.96.0.1], ports: [{port: 53, protocol: UDP}], endpoints: []}",
        "spec.ports[0].protocol: `UDP` is not one of `TCP`",
    ),
    (
        "{addresses: [10.96.0.1], ports: [{port: 1, nodePort: 30000}], endpoints: []}",
        "spec.ports[0].nodePort: node ports are not the mesh's: leave it out",
    ),
    (
        "{addresses: [10.96.0.1], ports: [{port: 1}], selector: {}}",
        "spec.selector: is empty, expected at least one label",
    ),
    (
        "{addresses: [10.96.0.1], ports: [{port: 1}], selector: {app: web}, endpoints: [10.1.2.3]}",
        "spec: needs exactly one of `selector` and `endpoints`",
    ),
    (
        "{addresses: [10.96.0.1], ports: [{port: 1}], endpoints: [], sessionAffinity: Cookie, internalTrafficPolicy: Zone}",
        "spec.sessionAffinity: `Cookie` is not one of `None`, `ClientIP`|spec.internalTrafficPolicy: `Zone` is not one of `Cluster`, `Local`",
    ),
];

#[test]
fn every_mistake_has_its_text() {
    for (spec, expected) in BROKEN {
        let errors = parse(&[file("mesh.yaml", MESH), file("s.yaml", &service("web", spec))]).unwrap_err().to_string();
        let expected: Vec<_> =
            expected.split('|').map(|line| format!("s.yaml: document 1 (Service shop/web): {line}")).collect();
        assert_eq!(errors.lines().collect::<Vec<_>>(), expected, "{spec}");
    }
}

#[test]
fn an_address_has_one_owner() {
    let check = |address: &str, expected: &str| {
        let spec = format!("{{addresses: [{address}], ports: [{{port: 1}}], endpoints: []}}");
        let text = format!("{WORKLOAD}---\n{}---\n{}", service("one", &spec), service("two", &spec));
        let errors = parse(&[file("mesh.yaml", MESH), file("s.yaml", &text)]).unwrap_err().to_string();
        let at = |document, name| format!("s.yaml: document {document} (Service shop/{name}): spec.addresses[0]");
        assert_eq!(errors, expected.replace("ONE", &at(2, "one")).replace("TWO", &at(3, "two")));
    };
    check("10.96.0.1", "TWO: `10.96.0.1` already belongs to the service shop/one");
    let workload = "`10.1.2.3` already belongs to the workload shop/web";
    check("10.1.2.3", &format!("ONE: {workload}\nTWO: {workload}"));
    let twice = service("one", "{addresses: [10.96.0.1], ports: [{port: 1}], endpoints: []}");
    let errors = parse(&[file("mesh.yaml", MESH), file("s.yaml", &format!("{twice}---\n{twice}"))]).unwrap_err();
    let expected = "s.yaml: document 2 (Service shop/one): metadata.name: is already in s.yaml document 1";
    assert_eq!(errors.to_string(), expected);
}
