//! Revocations, and mistakes in them.

use super::{MESH, SourceFile, accepted, file, parse, refused};
use crate::model::revocation::Serial;

const REVOCATION: &str = "
apiVersion: mesh.hauberk.dev/v1alpha1
kind: Revocation
metadata: {name: lost}
spec: {spiffeIds: [spiffe://cluster.local/ns/shop/sa/web], serials: ['4F:0A'], nodes: [a]}
";

#[test]
fn everything_can_be_said_about_a_revocation() {
    let [lost] = &accepted(&format!("{MESH}---{REVOCATION}")).revocations[..] else { panic!("one is there") };
    assert_eq!((lost.name.as_str(), lost.nodes[0].as_str()), ("lost", "a"));
    assert_eq!(lost.spiffe_ids[0].to_string(), "spiffe://cluster.local/ns/shop/sa/web");
    assert_eq!(lost.serials, [Serial::parse("4f0a").unwrap()]);
}

#[test]
fn mistakes_of_a_revocation() {
    let spec = REVOCATION.lines().last().unwrap();
    for (instead, expected) in [
        ("spec: {}", "spec: revokes nothing, expected `spiffeIds`, `serials`, `nodes` or `crl`"),
        ("spec: {serials: []}", "spec.serials: is empty, expected at least one item"),
        ("spec: {serials: [ab, 'AB']}", "spec.serials[1]: is listed twice"),
        ("spec: {serials: [0x1]}", "spec.serials[0]: is a number, expected a string"),
        ("spec: {serials: ['0x1']}", "spec.serials[0]: `0x1` is not a serial number like `4f:0a:1b` or `4f0a1b`"),
        ("spec: {spiffeIds: [web]}", "spec.spiffeIds[0]: `web` does not begin with `spiffe://`"),
        (
            "spec: {spiffeIds: [spiffe://else/web]}",
            "spec.spiffeIds[0]: `spiffe://else/web` is of no trust domain that this mesh knows",
        ),
        ("spec: {crl: PEM}", "spec.crl: has no `X509 CRL` in PEM (`openssl crl -inform DER` makes one)"),
        ("spec: {nodes: [a], node: b}", "spec.node: unknown field, did you mean `nodes`?"),
    ] {
        refused(&REVOCATION.replace(spec, instead), &[&format!("web.yaml: document 1 (Revocation lost): {expected}")]);
    }
    let twice = format!("{REVOCATION}---{}", REVOCATION.replace("{name: lost}", "{name: lost, namespace: shop}"));
    let at = "web.yaml: document 2 (Revocation shop/lost)";
    let expected = [
        format!("{at}: metadata.namespace: a Revocation belongs to no namespace"),
        format!("{at}: metadata.name: is already in web.yaml document 1"),
    ];
    refused(&twice, &expected.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn a_list_of_a_ca_may_stand_alone_in_its_file() {
    let lists = |name: &str, text: &str| {
        let crl = SourceFile { name: name.into(), text: text.to_owned() };
        parse(&[file("mesh.yaml", MESH), crl])
    };
    let error = lists("ca.crl", "nonsense").unwrap_err().to_string();
    assert_eq!(error, "ca.crl: document 1: has no `X509 CRL` in PEM (`openssl crl -inform DER` makes one)");
}
