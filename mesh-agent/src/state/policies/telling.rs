//! What the authors of policies are told.

use super::*;

#[track_caller]
fn check(settings: &str, documents: &[&str], expected: &[&str]) {
    let config = mesh(settings, documents);
    let found = findings(
        &config.mesh,
        &config.federated,
        &config.workloads,
        &config.authorization,
        &config.peer_authentication,
    );
    assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), expected, "{documents:?}");
}

#[test]
fn what_selects_nobody_is_told() {
    check(
        "",
        &[
            "AuthorizationPolicy shop/p {selector: {matchLabels: {app: web}}}",
            "PeerAuthentication shop/p {mtls: {mode: STRICT}}",
        ],
        &[],
    );
    check(
        "",
        &["AuthorizationPolicy bank/p {}", "PeerAuthentication shop/p {selector: {matchLabels: {app: db}}}"],
        &[
            "AuthorizationPolicy bank/p: spec.selector: selects no workload",
            "PeerAuthentication shop/p: spec.selector: selects no workload",
        ],
    );
}

#[test]
fn what_can_never_match_is_told() {
    let excluded = Some(".from: can never match: all that it means is also what it excludes");
    for (rule, expected) in [
        (
            "{from: [{source: {principals: [far/ns/a/sa/b, 'else/*']}}]}",
            Some(".from: can never match: every principal is of a trust domain that this mesh doesn't know"),
        ),
        ("{from: [{source: {principals: [far/ns/a/sa/b, '*/sa/b']}}]}", None),
        ("{from: [{source: {principals: ['td/ns/a/*'], notPrincipals: ['td/ns/*']}}]}", excluded),
        ("{from: [{source: {principals: ['td/ns/*'], notPrincipals: ['td/ns/a/*']}}]}", None),
        ("{from: [{source: {namespaces: [a, b], notNamespaces: ['*']}}]}", excluded),
        ("{from: [{source: {ipBlocks: [10.1.0.0/16], notIpBlocks: [10.0.0.0/8]}}]}", excluded),
        ("{from: [{source: {ipBlocks: [10.1.0.0/16], notIpBlocks: [10.0.0.0/8]}}, {source: {namespaces: [a]}}]}", None),
        (
            "{to: [{operation: {ports: [80], notPorts: [80, 81]}}]}",
            Some(".to: can never match: every port is also in `notPorts`"),
        ),
        ("{when: [{key: source.namespace, values: [a], notValues: ['a*']}]}", Some(".when: can never match")),
        (
            "{when: [{time: {days: [Mon]}}, {time: {days: [Tue]}}]}",
            Some(".when: can never match: its time windows have no minute in common"),
        ),
        ("{when: [{time: {days: [Mon], from: '22:00', to: '06:00'}}, {time: {days: [Tue]}}]}", None),
    ] {
        let expected = expected.map(|what| format!("AuthorizationPolicy shop/p: spec.rules[0]{what}"));
        let expected: Vec<_> = expected.iter().map(String::as_str).collect();
        check("", &[&format!("AuthorizationPolicy shop/p {{rules: [{rule}]}}")], &expected);
    }
}

#[test]
fn what_is_looser_than_allowed_is_told() {
    check(
        "",
        &["AuthorizationPolicy wide {}", "AuthorizationPolicy shop/p {rules: [{}]}"],
        &[
            "AuthorizationPolicy shop/p: allows nothing that the mesh-wide ALLOW policies don't allow too, since the Mesh's mayLoosen doesn't name it",
        ],
    );
    check("  mayLoosen: [shop]", &["AuthorizationPolicy wide {}", "AuthorizationPolicy shop/p {rules: [{}]}"], &[]);
    check(
        "",
        &["PeerAuthentication shop/p {selector: {matchLabels: {app: web}}, portLevelMtls: {8080: {mode: DISABLE}}}"],
        &[
            "PeerAuthentication shop/p: spec.portLevelMtls[8080].mode: is looser than the operator allows, so the mesh's minimum holds",
        ],
    );
}
