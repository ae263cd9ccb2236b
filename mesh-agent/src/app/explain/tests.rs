//! What people read who ask why, and what programs get.

use std::time::{Duration, UNIX_EPOCH};

use super::*;
use crate::config::{SourceFile, parse};

const HEAD: &str = "---\napiVersion: mesh.hauberk.dev/v1alpha1\nkind:";

/// A mesh with `settings`, the workloads shop/web (10.0.0.2, app: web) and curl/curl (10.0.0.9), and `documents`:
/// `Kind namespace/name spec`.
fn mesh(settings: &str, documents: &[&str]) -> String {
    let mut text = format!(
        "{HEAD} Mesh\nmetadata: {{name: mesh}}\nspec:\n  trustDomain: td\n  \
         issuer: {{embedded: {{certificate: a, key: b}}}}\n{settings}\n"
    );
    let web = "Workload shop/web {node: a, addresses: [10.0.0.2], serviceAccount: default}";
    let curl = "Workload curl/curl {node: a, addresses: [10.0.0.9], serviceAccount: curl}";
    for document in [web, curl].iter().chain(documents) {
        let mut words = document.splitn(3, ' ');
        let (kind, name, spec) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
        let (namespace, name) = name.split_once('/').unwrap();
        text += &format!(
            "{HEAD} {kind}\nmetadata: {{namespace: {namespace}, name: {name}, labels: {{app: {name}}}}}\nspec: {spec}\n"
        );
    }
    text
}

fn asked(destination: &str) -> ExplainRequest {
    ExplainRequest { source: "curl/curl".to_owned(), destination: destination.to_owned() }
}

/// On Monday 2026-11-23 at noon UTC.
fn of(settings: &str, documents: &[&str], to: &str) -> Explained {
    let text = mesh(settings, documents);
    let config = parse(&[SourceFile { name: "mesh.yaml".into(), text }]).unwrap_or_else(|errors| panic!("{errors}"));
    explained(&MeshState::new(config), &asked(to), UNIX_EPOCH + Duration::from_secs(1_795_435_200)).unwrap()
}

#[track_caller]
fn check(settings: &str, documents: &[&str], to: &str, expected: &[&str]) {
    assert_eq!(of(settings, documents, to).to_string().lines().collect::<Vec<_>>(), expected);
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

const SERVICE: &str = "Service shop/db {addresses: [10.96.0.1], ports: [{port: 80, targetPort: 8080}], endpoints: [10.0.0.2, 10.0.0.9], sessionAffinity: ClientIP}";

#[test]
fn a_service_is_explained_by_every_endpoint() {
    let expected = [
        "curl/curl (10.0.0.9) to 10.96.0.1:80: denied",
        "  service shop/db: one of 2 endpoints, affinity ClientIP",
        "curl/curl (10.0.0.9) to 10.0.0.2:8080: denied",
        "  route   mutual TLS as spiffe://td/ns/curl/sa/curl, expects spiffe://td/ns/shop/sa/default",
        "  mode    STRICT at shop/web, by the Mesh",
        "  policy  denied: no rule of shop/nobody, or of another ALLOW policy beside it, matches",
        "  asked   ALLOW shop/nobody: no match",
        "curl/curl (10.0.0.9) to 10.0.0.9:8080: allowed",
        "  route   plaintext",
        "  policy  not asked: no agent of the mesh is at the other end",
    ];
    let documents = [SERVICE, "AuthorizationPolicy shop/nobody {}"];
    check("", &documents, "10.96.0.1:80", &expected);
    check("", &documents, "shop/db:80", &expected);
    let refused = ["curl/curl (10.0.0.9) to 10.96.0.1:81: denied", "  service shop/db: refused (no_service_port)"];
    check("", &[SERVICE], "10.96.0.1:81", &refused);
}

#[test]
fn programs_get_the_same_as_json_and_yaml() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("mesh.yaml"), mesh("", &["AuthorizationPolicy shop/nobody {}"])).unwrap();
    let form = |output| explain_documents(directory.path(), &asked("shop/web:80"), output, UNIX_EPOCH).unwrap();
    let Checked { text, code } = form(Output::Json);
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&value["allowed"], code), (&false.into(), 1), "{text}");
    let connection = &value["connections"][0];
    assert_eq!(connection["route"]["expects"], "spiffe://td/ns/shop/sa/default", "{text}");
    assert_eq!(connection["arrival"]["policy"], "shop/nobody", "{text}");
    assert_eq!(connection["arrival"]["considered"][0]["action"], "ALLOW", "{text}");
    let Checked { text, .. } = form(Output::Yaml);
    assert!(text.starts_with("source: curl/curl\n") && text.contains("policy: shop/nobody"), "{text}");
}

#[test]
fn a_connection_is_explained_by_name_or_address() {
    let directory = tempfile::tempdir().unwrap();
    let nobody = "AuthorizationPolicy shop/nobody {selector: {matchLabels: {app: web}}}";
    std::fs::write(directory.path().join("mesh.yaml"), mesh("", &[nobody])).unwrap();
    let explained = |from: &str, to: &str| {
        let asked = ExplainRequest { source: from.to_owned(), destination: to.to_owned() };
        let explained = explain_documents(directory.path(), &asked, Output::Table, UNIX_EPOCH);
        explained.map_err(|error| error.to_string())
    };
    let denied = explained("curl/curl", "shop/web:80").unwrap();
    assert_eq!(denied.code, 1, "{}", denied.text);
    assert!(denied.text.starts_with("curl/curl (10.0.0.9) to 10.0.0.2:80: denied\n"), "{}", denied.text);
    assert!(denied.text.contains("no rule of shop/nobody"), "{}", denied.text);
    assert_eq!(explained("10.0.0.9", "10.0.0.2:80"), Ok(denied));
    assert_eq!(explained("shop/web", "curl/curl:80").unwrap().code, 0);
    for (from, to, error) in [
        ("web", "shop/db:80", "there is no workload `web`"),
        ("shop/web", "shop/cart:80", "there is no workload `shop/cart`"),
        ("curl/curl", "shop/web", "`shop/web` is no destination"),
        ("shop/web", "[fd00::1]:80", "`shop/web` has no address of the family of [fd00::1]:80"),
    ] {
        assert!(explained(from, to).unwrap_err().starts_with(error), "{error}");
    }
}
