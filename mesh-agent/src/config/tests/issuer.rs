//! Mistakes about who signs.

use std::time::Duration;

use super::{IssuerSettings, IssuerSource, MESH, SvidSettings, accepted, file, mesh_refused, parse};

const ISSUER: &str = "issuer: {embedded: {certificate: ca.crt, key: ca.key}}";

#[test]
fn everything_can_be_said_about_the_issuer() {
    let remote = "issuer:
    svidLifetime: 1h30m
    clockSkew: 5m
    refresh: 3s
    remote: {address: 'ca.example.org:15100', tokenFile: join.token}";
    let issuer = accepted(&MESH.replace(ISSUER, remote)).mesh.issuer;
    let source = IssuerSource::Remote { address: "ca.example.org:15100".to_owned(), token_file: "join.token".into() };
    let svid = SvidSettings { lifetime: Duration::from_mins(90), clock_skew: Duration::from_mins(5) };
    assert_eq!(issuer, IssuerSettings { source, svid, refresh: Duration::from_secs(3) });
}

#[test]
fn mistakes_of_the_issuer() {
    let both = "issuer: {embedded: {certificate: a, key: b}, remote: {address: 'ca:1', tokenFile: t}}";
    for (instead, expected) in [
        ("issuer: {}", "spec.issuer: needs exactly one of `embedded`, `remote` and `kubernetes`"),
        (both, "spec.issuer: needs exactly one of `embedded`, `remote` and `kubernetes`"),
        (
            "issuer: {embedded: {directory: ca, key: b}}",
            "spec.issuer.embedded: needs either `directory`, or `certificate` and `key`",
        ),
        (
            "issuer: {svidLifetime: 800h, embedded: {certificate: a, key: b}}",
            "spec.issuer.svidLifetime: `800h` is not between 1m and 720h",
        ),
        (
            "issuer: {refresh: 1h, embedded: {certificate: a, key: b}}",
            "spec.issuer.refresh: `1h` is not between 100ms and 30s",
        ),
        (
            "issuer: {remote: {address: 'ca.example.org', tokenFile: t}}",
            "spec.issuer.remote.address: `ca.example.org` is not a host and a port like `ca.example.org:15100` or `[fd00::1]:15100`",
        ),
    ] {
        mesh_refused(ISSUER, instead, &[expected]);
    }
}

#[test]
fn short_lifetimes_must_be_asked_for() {
    let short = "issuer: {svidLifetime: 2s, embedded: {certificate: a, key: b}}";
    mesh_refused(ISSUER, short, &["spec.issuer.svidLifetime: `2s` is not between 1m and 720h"]);
    let allowed = short.replace("svidLifetime", "allowShortLifetimes: true, svidLifetime");
    assert_eq!(accepted(&MESH.replace(ISSUER, &allowed)).mesh.issuer.svid.lifetime, Duration::from_secs(2));
}

#[test]
fn a_ca_that_an_agent_makes_for_itself_is_for_one_node() {
    let own = MESH.replace(ISSUER, "issuer: {embedded: {directory: ca}}");
    let check = |nodes: &[&str]| {
        let mut text = own.clone();
        for (index, node) in nodes.iter().enumerate() {
            text += &format!(
                "---\napiVersion: mesh.hauberk.dev/v1alpha1\nkind: Workload\nmetadata: {{name: w{index}, namespace: shop}}\n\
                 spec: {{node: {node}, addresses: [10.1.0.{index}]}}\n"
            );
        }
        parse(&[file("mesh.yaml", &text)]).map(|config| config.mesh.issuer.source).map_err(|error| error.to_string())
    };
    assert_eq!(check(&["a", "a"]), Ok(IssuerSource::Own("ca".into())));
    let expected = "mesh.yaml: document 1 (Mesh mesh): spec.issuer.embedded.directory: is for one node, and there are \
                    workloads on a, b: use `remote`, or `certificate` and `key` of one CA for all";
    assert_eq!(check(&["a", "b"]), Err(expected.to_owned()));
}
