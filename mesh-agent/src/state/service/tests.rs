//! Which endpoints a connection to a service may get.

use super::super::{Route, route};
use super::*;
use crate::config::{SourceFile, parse};
use crate::model::service::{Meant, ServicePort, ServiceUid};
use crate::model::workload::NodeName;
use std::collections::{BTreeMap, BTreeSet};

/// `shop/db` at 10.96.0.1 and fd96::1, with the workloads one (node a), two and three (node b), of which three has no
/// IPv6 address; and other's explicit endpoint.
fn state(settings: &str) -> MeshState {
    let config = parse(&[SourceFile { name: "m.yaml".into(), text: text(settings) }]);
    MeshState::new(config.unwrap_or_else(|error| panic!("{error}")))
}

fn text(settings: &str) -> String {
    let head = "---\napiVersion: mesh.hauberk.dev/v1alpha1\nkind:";
    let mut text = format!(
        "{head} Mesh\nmetadata: {{name: mesh}}\nspec: {{trustDomain: t, issuer: {{embedded: {{certificate: a, key: b}}}}}}\n\
         {head} Service\nmetadata: {{name: db, namespace: shop}}\nspec:\n  addresses: [10.96.0.1, 'fd96::1']\n  \
         ports: [{{port: 80, targetPort: 8080}}, {{port: 81}}]\n  selector: {{app: db}}\n{settings}\n\
         {head} Service\nmetadata: {{name: other, namespace: shop}}\nspec: {{addresses: [10.96.0.2], ports: [{{port: 5}}], endpoints: [192.0.2.1]}}\n\
         {head} Service\nmetadata: {{name: nobody, namespace: bank}}\nspec: {{addresses: [10.96.0.3], ports: [{{port: 80}}], selector: {{app: db}}}}\n"
    );
    for (name, node, addresses) in
        [("one", "a", "10.0.0.1, 'fd00::1'"), ("two", "b", "10.0.0.2, 'fd00::2'"), ("three", "b", "10.0.0.3")]
    {
        text += &format!(
            "{head} Workload\nmetadata: {{name: {name}, namespace: shop, labels: {{app: db}}}}\nspec: {{node: {node}, addresses: [{addresses}]}}\n"
        );
    }
    text
}

/// How often each endpoint is chosen by `clients` clients, ten times each.
fn spread(settings: &str, to: &str, clients: u8) -> BTreeMap<String, usize> {
    let (state, mut chosen) = (state(settings), BTreeMap::new());
    let source = state.at("10.0.0.1".parse().unwrap()).unwrap();
    for client in 0..clients {
        for random in 0..10 {
            let to = to.parse().unwrap();
            let target = match choose(&state, source, IpAddr::from([10, 0, 9, client]), to, random) {
                Target::Itself(address) => format!("itself {address}"),
                Target::Endpoint(service, address) => format!("{} {address}", service.uid),
                Target::Nowhere(service, why) => format!("{} {}", service.uid, why.reason()),
            };
            *chosen.entry(target).or_default() += 1;
        }
    }
    chosen
}

fn check(settings: &str, to: &str, expected: &[(&str, usize)]) {
    let expected: BTreeMap<_, _> = expected.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
    assert_eq!(spread(settings, to, 1), expected, "{to}");
}

#[test]
fn a_service_stands_for_its_workloads_port_by_port() {
    check(
        "",
        "10.96.0.1:80",
        &[("shop/db 10.0.0.1:8080", 4), ("shop/db 10.0.0.2:8080", 3), ("shop/db 10.0.0.3:8080", 3)],
    );
    check("", "[::ffff:10.96.0.2]:5", &[("shop/other 192.0.2.1:5", 10)]);
    check("", "[fd96::1]:81", &[("shop/db [fd00::1]:81", 5), ("shop/db [fd00::2]:81", 5)]);
    check("  internalTrafficPolicy: Local", "10.96.0.1:81", &[("shop/db 10.0.0.1:81", 10)]);
}

#[test]
fn what_no_service_has_is_itself_and_what_nobody_serves_is_refused() {
    check("", "10.0.0.2:80", &[("itself 10.0.0.2:80", 10)]);
    check("", "10.96.0.1:82", &[("shop/db no_service_port", 10)]);
    // A selector is for its own namespace.
    check("", "10.96.0.3:80", &[("bank/nobody no_endpoint", 10)]);
}

/// An endpoint `10.0.<n>.<m>` of an address outside of the mesh, and what is said of it: `ready`, `leaving` or `unready`, then
/// `local`, `node+`, `node-`, `zone+`, `zone-`: on the client's node, and meant for it and its zone or not.
fn said(text: &str) -> Endpoint {
    let (address, said) = text.split_once(' ').unwrap();
    let has = |word: &str| said.split(' ').any(|one| one == word);
    let meant = |word: &str| (has(&format!("{word}+")) || has(&format!("{word}-"))).then(|| has(&format!("{word}+")));
    Endpoint {
        address: SocketAddr::new(address.parse().unwrap(), 80),
        condition: match () {
            () if has("ready") => Condition::Ready,
            () if has("leaving") => Condition::Leaving,
            () => Condition::Unready,
        },
        node: Some(NodeName::new(if has("local") { "a" } else { "far" })),
        meant: Meant { for_node: meant("node"), for_zone: meant("zone") },
    }
}

/// Which of the endpoints a client on node `a` may get.
fn among(traffic: TrafficPolicy, to: &str, endpoints: &[&str]) -> Vec<String> {
    let state = state("");
    let source = state.at("10.0.0.1".parse().unwrap()).unwrap();
    let service = Service {
        uid: ServiceUid::new("shop", "cases"),
        addresses: vec![to.parse::<IpAddr>().unwrap().to_canonical()],
        external: Vec::new(),
        ports: vec![ServicePort { port: 80, endpoints: endpoints.iter().map(|text| said(text)).collect() }],
        affinity: Affinity::None,
        traffic,
    };
    let found = candidates(&state, &service, source, SocketAddr::new(to.parse().unwrap(), 80));
    found.unwrap_or_default().iter().map(|address| address.ip().to_string()).collect()
}

/// After kube-proxy's `TestCategorizeEndpoints` (pkg/proxy/topology_test.go).
#[test]
fn the_endpoints_of_a_policy_are_kube_proxys() {
    let (cluster, local) = (TrafficPolicy::Cluster, TrafficPolicy::Local);
    for (what, traffic, endpoints, expected) in [
        ("ready ones", cluster, &["::1 ready", "1.1.1.1 ready", "1.1.1.2 unready"][..], &["1.1.1.1"][..]),
        ("nobody", cluster, &["1.1.1.1 unready"], &[]),
        ("who is about to go steps back", cluster, &["1.1.1.1 ready", "1.1.1.2 leaving"], &["1.1.1.1"]),
        ("who is about to go", cluster, &["1.1.1.1 unready", "1.1.1.2 leaving"], &["1.1.1.2"]),
        ("the zone's", cluster, &["1.1.1.1 ready zone+", "1.1.1.2 ready zone-"], &["1.1.1.1"]),
        ("not all have a zone", cluster, &["1.1.1.1 ready zone+", "1.1.1.2 ready"], &["1.1.1.1", "1.1.1.2"]),
        ("none of the zone", cluster, &["1.1.1.1 ready zone-", "1.1.1.2 ready zone-"], &["1.1.1.1", "1.1.1.2"]),
        ("of the zone, unready", cluster, &["1.1.1.1 unready zone+", "1.1.1.2 ready zone-"], &["1.1.1.2"]),
        (
            "unready without a zone",
            cluster,
            &["1.1.1.1 ready zone+", "1.1.1.2 ready zone-", "1.1.1.3 unready"],
            &["1.1.1.1"],
        ),
        (
            "zones of those about to go",
            cluster,
            &["1.1.1.1 leaving zone+", "1.1.1.2 leaving zone-"],
            &["1.1.1.1", "1.1.1.2"],
        ),
        ("the node's", cluster, &["1.1.1.1 ready node+ zone+", "1.1.1.2 ready node- zone+"], &["1.1.1.1"]),
        ("no node's, the zone's", cluster, &["1.1.1.1 ready node- zone+", "1.1.1.2 ready node- zone-"], &["1.1.1.1"]),
        ("not all have a node", cluster, &["1.1.1.1 ready node+", "1.1.1.2 ready"], &["1.1.1.1", "1.1.1.2"]),
        ("local", local, &["1.1.1.1 ready local", "1.1.1.2 ready"], &["1.1.1.1"]),
        ("local, about to go, others ready", local, &["1.1.1.1 leaving local", "1.1.1.2 ready"], &["1.1.1.1"]),
        ("local, both", local, &["1.1.1.1 leaving local", "1.1.1.2 ready local"], &["1.1.1.2"]),
        ("none local", local, &["1.1.1.1 unready local", "1.1.1.2 ready"], &[]),
        ("local, of another zone", local, &["1.1.1.1 ready local zone-", "1.1.1.2 ready zone+"], &["1.1.1.1"]),
    ] {
        assert_eq!(among(traffic, "10.96.0.9", endpoints), expected, "{what}");
    }
}

#[test]
fn each_family_has_endpoints_of_its_own() {
    let endpoints = ["1.1.1.1 leaving", "2001:db8::1 ready zone+", "2001:db8::2 ready"];
    assert_eq!(among(TrafficPolicy::Cluster, "10.96.0.9", &endpoints), ["1.1.1.1"]);
    assert_eq!(among(TrafficPolicy::Cluster, "::ffff:10.96.0.9", &endpoints), ["1.1.1.1"]);
    let endpoints = ["1.1.1.1 ready zone+", "1.1.1.2 ready zone-", "2001:db8::1 ready"];
    assert_eq!(among(TrafficPolicy::Cluster, "10.96.0.9", &endpoints), ["1.1.1.1"]);
    assert_eq!(among(TrafficPolicy::Cluster, "fd96::9", &endpoints), ["2001:db8::1"]);
}

#[test]
fn who_is_not_announced_yet_is_chosen_only_where_nobody_else_is() {
    let config = parse(&[SourceFile { name: "m.yaml".into(), text: text("") }]).unwrap();
    let with = |announced: fn(&str) -> bool| {
        let mut config = config.clone();
        for workload in &mut config.workloads {
            Arc::make_mut(workload).announced = announced(workload.uid.as_str());
        }
        let state = MeshState::new(config);
        let source = state.at("10.0.0.1".parse().unwrap()).unwrap();
        let to = "10.96.0.1:80".parse().unwrap();
        let found = candidates(&state, state.service_at(to).unwrap(), source, to).unwrap();
        found.iter().map(|address| address.ip().to_string()).collect::<BTreeSet<_>>()
    };
    let check = |found: BTreeSet<String>, expected: &[&str]| assert!(found.iter().eq(expected), "{found:?}");
    check(with(|name| name != "shop/three"), &["10.0.0.1", "10.0.0.2"]);
    // A pod always reaches itself.
    check(with(|_| false), &["10.0.0.1"]);
    check(with(|_| true), &["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
}

/// The service `shop/db`, changed, and where its endpoints are.
fn with_external(change: impl Fn(&mut Service)) -> MeshState {
    let mut config =
        parse(&[SourceFile { name: "m.yaml".into(), text: text("  internalTrafficPolicy: Local") }]).unwrap();
    for service in &mut config.services {
        if service.uid.as_str() == "shop/db" {
            change(Arc::make_mut(service));
        }
    }
    MeshState::new(config)
}

#[test]
fn an_address_outside_leads_to_a_service_at_its_ports_and_from_every_node() {
    let outside: IpAddr = "192.0.2.50".parse().unwrap();
    let state = with_external(|service| service.external = vec![outside]);
    let source = state.at("10.0.0.1".parse().unwrap()).unwrap();
    let to = |to: &str| -> SocketAddr { to.parse().unwrap() };
    let candidates = |to| candidates(&state, state.service_at(to).unwrap(), source, to).unwrap().len();
    assert_eq!((candidates(to("10.96.0.1:80")), candidates(to("192.0.2.50:80"))), (1, 3));
    // At other ports it is itself, as without the mesh.
    let other = to("192.0.2.50:443");
    assert_eq!(choose(&state, source, outside, other, 0), Target::Itself(other));
    assert_eq!(route(&state, source, other), Route::Plaintext);
    assert!(state.is_diverted(outside) && state.diverted().any(|range| range.contains(&outside)));
}

#[test]
fn an_address_of_somebody_else_leads_to_no_other_service() {
    for taken in ["10.0.0.2", "10.96.0.2"] {
        let taken: IpAddr = taken.parse().unwrap();
        let state = with_external(|service| service.external = vec![taken]);
        let at = state.service_at(SocketAddr::new(taken, 80)).map(|service| service.uid.as_str().to_owned());
        assert_ne!(at.as_deref(), Some("shop/db"), "{taken}");
    }
}

#[test]
fn affinity_keeps_a_client_and_spreads_clients() {
    let settings = "  sessionAffinity: ClientIP";
    let one = spread(settings, "10.96.0.1:80", 1);
    assert_eq!(one.values().collect::<Vec<_>>(), [&10]);
    let all = spread(settings, "10.96.0.1:80", 240);
    assert!(all.len() == 3 && all.values().all(|count| (500..1100).contains(count)), "{all:?}");
}

#[test]
fn who_loses_an_endpoint_gets_another_and_nobody_else_does() {
    let endpoints: Vec<SocketAddr> = (1..=5).map(|last| SocketAddr::from(([10, 0, 0, last], 80))).collect();
    let fewer = &endpoints[..4];
    for last in 0..=255 {
        let client = IpAddr::from([10, 0, 9, last]);
        let before = closest(&endpoints, client);
        assert!(before == endpoints[4] || before == closest(fewer, client), "{client}");
    }
}
