//! What `policy` makes of documents: Istio's documented semantics as cases, and the index against the definition on random
//! policies. Here, because a snapshot is where policies and configuration meet.

use crate::config::{MeshConfig, SourceFile, parse};
use crate::model::spiffe::SpiffeId;
use crate::model::workload::WorkloadUid;
use crate::policy::*;
use std::time::{Duration, UNIX_EPOCH};

mod bounds;
mod modes;
mod naive;
mod random;
mod telling;

const HEAD: &str = "---\napiVersion: mesh.hauberk.dev/v1alpha1\nkind:";

/// A mesh with `settings`, the workload shop/web (10.0.0.2, app: web), and `policies`: `Kind namespace/name spec`.
fn mesh(settings: &str, policies: &[&str]) -> MeshConfig {
    let mut text = format!(
        "{HEAD} Mesh\nmetadata: {{name: mesh}}\nspec:\n  trustDomain: td\n  \
         issuer: {{embedded: {{certificate: a, key: b}}}}\n{settings}\n\
         {HEAD} Workload\nmetadata: {{name: web, namespace: shop, labels: {{app: web}}}}\n\
         spec: {{node: a, addresses: [10.0.0.2]}}\n"
    );
    for policy in policies {
        let mut words = policy.splitn(3, ' ');
        let (kind, name, spec) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
        let name = match name.split_once('/') {
            Some((namespace, name)) => format!("{{namespace: {namespace}, name: {name}}}"),
            None => format!("{{name: {name}}}"),
        };
        text += &format!("{HEAD} {kind}\nmetadata: {name}\nspec: {spec}\n");
    }
    parse(&[SourceFile { name: "mesh.yaml".into(), text }]).unwrap_or_else(|errors| panic!("{errors}"))
}

fn web() -> WorkloadUid {
    WorkloadUid::new("shop", "web")
}

fn index(config: &MeshConfig) -> PolicyIndex {
    PolicyIndex::new(&config.mesh, &Roster::new(config.workloads.clone()), &config.authorization, None)
}

/// A connection of `peer` (`plaintext`: nobody) from 192.0.2.7 to port 80 of shop/web, on Monday 2026-11-23 at noon UTC.
fn decide_in(config: &MeshConfig, peer: &str) -> Decision {
    let peer = (peer != "plaintext").then(|| SpiffeId::parse(&format!("spiffe://{peer}")).unwrap());
    let connection = Connection {
        peer: peer.as_ref(),
        source: "192.0.2.7".parse().unwrap(),
        destination: "10.0.0.2:80".parse().unwrap(),
        now: UNIX_EPOCH + Duration::from_secs(1_795_435_200),
    };
    let decision = index(config).evaluate(&web(), &connection);
    assert_eq!(decision, naive::evaluate(config, &web(), &connection));
    decision
}

fn policies(policies: &[&str], peer: &str) -> Decision {
    let named: Vec<_> = policies.iter().map(|policy| format!("AuthorizationPolicy {policy}")).collect();
    decide_in(&mesh("", &named.iter().map(String::as_str).collect::<Vec<_>>()), peer)
}

/// `ok`, `ok by <policy>[<rule>]`, or `no by …`; then `+ <policy>` for each AUDIT policy.
fn shown(decision: &Decision) -> String {
    let cause = |Cause { policy, rule }: &Cause| match rule {
        Some(rule) => format!("{policy}[{rule}]"),
        None => policy.to_string(),
    };
    let mut text = match &decision.verdict {
        Verdict::Allowed(None) => "ok".to_owned(),
        Verdict::Allowed(Some(by)) => format!("ok by {}", cause(by)),
        Verdict::Denied(by) => format!("no by {}", cause(by)),
    };
    decision.audited.iter().for_each(|policy| text += &format!(" + {policy}"));
    text
}

/// `cases`: policies, peer, decision.
#[track_caller]
fn check(cases: &[(&[&str], &str, &str)]) {
    for (listed, peer, expected) in cases {
        assert_eq!(shown(&policies(listed, peer)), *expected, "{listed:?} {peer}");
    }
}

const CURL: &str = "td/ns/curl/sa/curl";

#[test]
fn deny_is_asked_first_and_an_allow_makes_the_rest_denied() {
    let allow = "shop/allow {rules: [{from: [{source: {namespaces: [curl]}}]}]}";
    let deny = "shop/deny {action: DENY, rules: [{from: [{source: {principals: [td/ns/curl/sa/curl]}}]}]}";
    check(&[
        (&[], CURL, "ok"),
        (&[], "plaintext", "ok"),
        (&[allow], CURL, "ok by shop/allow[0]"),
        (&[allow], "td/ns/other/sa/curl", "no by shop/allow"),
        (&[allow], "plaintext", "no by shop/allow"),
        (&[deny], CURL, "no by shop/deny[0]"),
        (&[deny], "td/ns/curl/sa/other", "ok"),
        (&[allow, deny], CURL, "no by shop/deny[0]"),
        (&[allow, deny], "td/ns/curl/sa/other", "ok by shop/allow[0]"),
        (&["shop/a {rules: [{from: [{source: {namespaces: [x]}}]}]}", allow], CURL, "ok by shop/allow[0]"),
    ]);
}

#[test]
fn what_is_empty_means_what_istio_says() {
    check(&[
        (&["shop/allow-nothing {}"], CURL, "no by shop/allow-nothing"),
        (&["shop/allow-nothing {action: ALLOW, rules: []}"], CURL, "no by shop/allow-nothing"),
        (&["shop/allow-all {rules: [{}]}"], "plaintext", "ok by shop/allow-all[0]"),
        (&["shop/deny-all {action: DENY, rules: [{}]}"], CURL, "no by shop/deny-all[0]"),
        (&["shop/allow-nothing {}", "shop/allow-all {rules: [{}]}"], CURL, "ok by shop/allow-all[0]"),
    ]);
}

#[test]
fn a_policy_is_for_its_namespace_and_its_labels() {
    check(&[
        (&["other/deny {action: DENY, rules: [{}]}"], CURL, "ok"),
        (&["shop/deny {selector: {matchLabels: {app: web}}, action: DENY, rules: [{}]}"], CURL, "no by shop/deny[0]"),
        (&["shop/deny {selector: {matchLabels: {app: db}}, action: DENY, rules: [{}]}"], CURL, "ok"),
        (&["shop/deny {selector: {matchLabels: {app: web, v: '1'}}, action: DENY, rules: [{}]}"], CURL, "ok"),
        (&["hauberk-system/deny {action: DENY, rules: [{}]}"], CURL, "no by hauberk-system/deny[0]"),
        (&["deny {selector: {matchLabels: {app: web}}, action: DENY, rules: [{}]}"], CURL, "no by deny[0]"),
        (&["deny {selector: {matchLabels: {app: db}}, action: DENY, rules: [{}]}"], CURL, "ok"),
    ]);
}

#[test]
fn every_field_of_a_source_must_match_and_one_of_its_values() {
    let allow = |source: &str| format!("shop/p {{rules: [{{from: [{{source: {source}}}]}}]}}");
    let (yes, no) = ("ok by shop/p[0]", "no by shop/p");
    for (source, peer, expected) in [
        ("{principals: [td/ns/curl/sa/curl]}", CURL, yes),
        ("{principals: ['spiffe://td/ns/curl/sa/curl']}", CURL, yes),
        ("{principals: [x/y, td/ns/curl/sa/curl]}", CURL, yes),
        ("{principals: ['td/ns/curl/*']}", CURL, yes),
        ("{principals: ['*/sa/curl']}", CURL, yes),
        ("{principals: ['*/sa/other']}", CURL, no),
        ("{principals: ['*']}", CURL, yes),
        ("{principals: ['*']}", "plaintext", no),
        ("{notPrincipals: ['*']}", "plaintext", yes),
        ("{notPrincipals: [td/ns/curl/sa/curl]}", CURL, no),
        ("{principals: ['*'], notPrincipals: ['td/ns/cu*']}", CURL, no),
        ("{namespaces: [curl, x]}", CURL, yes),
        ("{namespaces: ['cu*']}", CURL, yes),
        ("{namespaces: ['*rl']}", CURL, yes),
        ("{namespaces: ['*']}", "td/other", no),
        ("{namespaces: [curl]}", "far/ns/curl/sa/curl", no),
        ("{notNamespaces: [curl]}", CURL, no),
        ("{notNamespaces: [curl]}", "plaintext", yes),
        ("{serviceAccounts: [curl/curl]}", CURL, yes),
        ("{serviceAccounts: [curl]}", CURL, no),
        ("{serviceAccounts: [curl]}", "td/ns/shop/sa/curl", yes),
        ("{notServiceAccounts: [curl/curl]}", CURL, no),
        ("{ipBlocks: [192.0.2.7]}", CURL, yes),
        ("{ipBlocks: [192.0.2.0/24, 'fd00::/8']}", "plaintext", yes),
        ("{ipBlocks: [192.0.2.0/24], notIpBlocks: [192.0.2.7]}", CURL, no),
        ("{namespaces: [curl], ipBlocks: [10.0.0.0/8]}", CURL, no),
        ("{namespaces: [curl], ipBlocks: [192.0.2.0/24]}", CURL, yes),
    ] {
        check(&[(&[&allow(source)], peer, expected)]);
    }
}

#[test]
fn operations_and_conditions_must_match_too() {
    let (yes, no) = ("ok by shop/p[0]", "no by shop/p");
    for (rule, expected) in [
        ("{to: [{operation: {ports: ['80']}}]}", yes),
        ("{to: [{operation: {ports: [8080]}}, {operation: {ports: [80]}}]}", yes),
        ("{to: [{operation: {ports: [8080]}}]}", no),
        ("{to: [{operation: {notPorts: [80]}}]}", no),
        ("{from: [{source: {namespaces: [curl]}}], to: [{operation: {ports: [8080]}}]}", no),
        ("{when: [{key: source.ip, values: [192.0.2.0/24]}]}", yes),
        ("{when: [{key: source.ip, notValues: [192.0.2.0/24]}]}", no),
        ("{when: [{key: source.namespace, values: [curl]}]}", yes),
        ("{when: [{key: source.principal, values: ['*/sa/curl'], notValues: ['td/*']}]}", no),
        ("{when: [{key: destination.ip, values: [10.0.0.2]}]}", yes),
        ("{when: [{key: destination.port, values: ['80']}, {key: source.namespace, values: [x]}]}", no),
        ("{when: [{time: {days: [Mon], from: '12:00', to: '12:01'}}]}", yes),
        ("{when: [{time: {days: [Mon], from: '12:00', to: '13:00', timeZone: Europe/Berlin}}]}", no),
        ("{when: [{time: {days: [Tue..Sun]}}]}", no),
    ] {
        check(&[(&[&format!("shop/p {{rules: [{rule}]}}")], CURL, expected)]);
    }
    let second = "shop/p {rules: [{to: [{operation: {ports: [1]}}]}, {to: [{operation: {ports: [80]}}]}]}";
    check(&[(&[second], CURL, "ok by shop/p[1]")]);
}

#[test]
fn audit_records_and_decides_nothing() {
    let audit = "shop/see {action: AUDIT, rules: [{from: [{source: {namespaces: [curl]}}]}]}";
    let deny = "shop/deny {action: DENY, rules: [{}]}";
    check(&[
        (&[audit], CURL, "ok + shop/see"),
        (&[audit], "plaintext", "ok"),
        (&[audit, deny], CURL, "no by shop/deny[0] + shop/see"),
    ]);
}

#[test]
fn a_decision_says_until_when_it_holds() {
    let now = UNIX_EPOCH + Duration::from_secs(1_795_435_200);
    let check = |policy: &str| {
        let index = index(&mesh("", &[&format!("AuthorizationPolicy {policy}")]));
        index.holds_until(&web(), now).map(|until| until.duration_since(now).unwrap().as_secs() / 60)
    };
    assert_eq!(check("shop/p {rules: [{}]}"), None);
    assert_eq!(check("shop/p {rules: [{when: [{time: {from: '08:00', to: '12:01'}}]}]}"), Some(1));
    assert_eq!(check("shop/p {rules: [{when: [{time: {from: '13:00', to: '14:00'}}]}]}"), Some(60));
    assert_eq!(check("other/p {rules: [{when: [{time: {from: '13:00'}}]}]}"), None);
}
