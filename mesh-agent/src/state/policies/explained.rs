//! What people read who ask why.

use super::mesh;
use crate::model::workload::WorkloadUid;
use crate::state::{MeshState, explain};
use std::time::{Duration, UNIX_EPOCH};

#[track_caller]
fn check(settings: &str, documents: &[&str], to: &str, expected: &[&str]) {
    let config = mesh(settings, documents);
    let mut curl = config.workloads[0].clone();
    curl.uid = WorkloadUid::new("curl", "curl");
    curl.identity = crate::model::spiffe::SpiffeId::parse("spiffe://td/ns/curl/sa/curl").unwrap();
    curl.addresses = vec!["10.0.0.9".parse().unwrap()];
    let now = UNIX_EPOCH + Duration::from_secs(1_795_435_200);
    let explained = explain(&MeshState::new(config), &curl, to.parse().unwrap(), now).unwrap();
    assert_eq!(explained.to_string().lines().collect::<Vec<_>>(), expected);
}

#[test]
fn the_policy_that_decides_is_named() {
    check(
        "",
        &[
            "AuthorizationPolicy shop/allow {rules: [{when: [{time: {to: '18:00'}}]}]}",
            "AuthorizationPolicy shop/deny {action: DENY, rules: [{to: [{operation: {ports: [1]}}]}, {from: [{source: {namespaces: [curl]}}]}]}",
            "AuthorizationPolicy shop/see {action: AUDIT, rules: [{to: [{operation: {ports: [1]}}]}]}",
        ],
        "10.0.0.2:80",
        &[
            "curl/curl (10.0.0.9) to 10.0.0.2:80: denied",
            "  route   mutual TLS as spiffe://td/ns/curl/sa/curl, expects spiffe://td/ns/shop/sa/default",
            "  mode    STRICT at shop/web, by the Mesh",
            "  policy  denied by shop/deny, spec.rules[1]",
            "  until   2026-11-23T18:00:00Z, when a time window begins or ends",
            "  asked   AUDIT shop/see: no match",
            "  asked   DENY  shop/deny: matches, spec.rules[1]",
            "  asked   ALLOW shop/allow: matches, spec.rules[0]",
        ],
    );
}

#[test]
fn what_is_not_asked_is_said() {
    check(
        "",
        &["AuthorizationPolicy shop/nobody {}"],
        "10.0.0.2:80",
        &[
            "curl/curl (10.0.0.9) to 10.0.0.2:80: denied",
            "  route   mutual TLS as spiffe://td/ns/curl/sa/curl, expects spiffe://td/ns/shop/sa/default",
            "  mode    STRICT at shop/web, by the Mesh",
            "  policy  denied: no rule of shop/nobody, or of another ALLOW policy beside it, matches",
            "  asked   ALLOW shop/nobody: no match",
        ],
    );
    check(
        "  podRanges: [10.0.0.0/8]",
        &[],
        "10.0.0.3:80",
        &[
            "curl/curl (10.0.0.9) to 10.0.0.3:80: denied",
            "  route   nobody's address of the pod ranges: reset",
            "  policy  not asked: no agent of the mesh is at the other end",
        ],
    );
    check(
        "",
        &["PeerAuthentication shop/loose {mtls: {mode: DISABLE}}"],
        "10.0.0.2:80",
        &[
            "curl/curl (10.0.0.9) to 10.0.0.2:80: allowed",
            "  route   mutual TLS as spiffe://td/ns/curl/sa/curl, expects spiffe://td/ns/shop/sa/default",
            "  mode    STRICT at shop/web, by PeerAuthentication shop/loose, which wanted less than the Mesh allows",
            "  policy  allowed: no ALLOW policy selects shop/web",
        ],
    );
}
