//! What a configuration may say, and every mistake as its author reads it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{MeshConfig, SourceFile, parse};
use crate::model::mesh::{
    CaFiles, CipherSuite, IssuerSettings, IssuerSource, KeyExchange, MtlsMode, SvidSettings, Timeouts, TlsSettings,
};

pub(super) mod api;
mod federation;
mod issuer;
mod policy;
mod revocation;
mod service;
mod yaml;

const MESH: &str = "
apiVersion: mesh.hauberk.dev/v1alpha1
kind: Mesh
metadata: {name: mesh}
spec:
  trustDomain: cluster.local
  podRanges: [10.0.0.0/8, 'fd00::/8']
  issuer: {embedded: {certificate: ca.crt, key: ca.key}}
";

const WORKLOAD: &str = "
apiVersion: mesh.hauberk.dev/v1alpha1
kind: Workload
metadata: {name: web, namespace: shop}
spec:
  node: a
  addresses: [10.1.2.3]
";

fn file(name: &str, text: &str) -> SourceFile {
    SourceFile { name: PathBuf::from(name), text: text.to_owned() }
}

fn accepted(text: &str) -> MeshConfig {
    parse(&[file("mesh.yaml", text)]).unwrap_or_else(|errors| panic!("{errors}"))
}

/// Parses the Mesh above and `text` in a file of its own, and expects these lines.
#[track_caller]
fn refused(text: &str, expected: &[&str]) {
    let errors = parse(&[file("mesh.yaml", MESH), file("web.yaml", text)]).unwrap_err().to_string();
    assert_eq!(errors.lines().collect::<Vec<_>>(), expected);
}

/// Changes one line of the Workload above.
#[track_caller]
fn workload_refused(line: &str, instead: &str, expected: &[&str]) {
    assert!(WORKLOAD.contains(line));
    let text = WORKLOAD.replace(line, instead);
    let expected: Vec<_> =
        expected.iter().map(|line| format!("web.yaml: document 1 (Workload shop/web): {line}")).collect();
    refused(&text, &expected.iter().map(String::as_str).collect::<Vec<_>>());
}

/// Changes one line of the Mesh above.
#[track_caller]
fn mesh_refused(line: &str, instead: &str, expected: &[&str]) {
    assert!(MESH.contains(line));
    let errors = parse(&[file("mesh.yaml", &MESH.replace(line, instead))]).unwrap_err().to_string();
    let expected: Vec<_> = expected.iter().map(|line| format!("mesh.yaml: document 1 (Mesh mesh): {line}")).collect();
    assert_eq!(errors.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn the_shortest_configuration_means_the_defaults() {
    let config = accepted(&format!("{MESH}---{WORKLOAD}"));
    let mesh = &config.mesh;
    assert_eq!((mesh.mode, mesh.timeouts, &mesh.tls), (MtlsMode::Strict, Timeouts::default(), &TlsSettings::default()));
    let files = CaFiles { certificate: PathBuf::from("ca.crt"), key: PathBuf::from("ca.key"), bundle: None };
    let (source, svid) = (IssuerSource::Embedded(files), SvidSettings::default());
    assert_eq!(mesh.issuer, IssuerSettings { source, svid, refresh: IssuerSettings::REFRESH });
    assert_eq!(svid.lifetime, Duration::from_hours(24));
    let web = &config.workloads[0];
    assert_eq!(web.uid.to_string(), "shop/web");
    assert_eq!(web.identity.to_string(), "spiffe://cluster.local/ns/shop/sa/default");
    assert_eq!((web.node.as_str(), &web.netns, &web.cgroup), ("a", &None, &None));
}

#[test]
fn everything_can_be_said() {
    let config = accepted(
        "
# Comments and empty documents don't matter.
---
apiVersion: mesh.hauberk.dev/v1alpha1
kind: Workload
metadata:
  name: redis.0
  namespace: shop
  labels: {app.kubernetes.io/name: redis, tier: ''}
  annotations: {note: 'any text: at all'}
spec:
  node: node-1.example
  serviceAccount: redis
  addresses: [10.1.2.4, 'fd00::4']
  netns: /run/netns/redis
  cgroup: /sys/fs/cgroup/redis
  exclude:
    outboundPorts: [22, 8080]
    outboundRanges: [169.254.0.0/16]
    inboundPorts: [9100]
status: {anything: [goes]}
---
apiVersion: mesh.hauberk.dev/v1alpha1
kind: Mesh
metadata: {name: mesh}
spec:
  trustDomain: cluster.local
  mtls: {mode: PERMISSIVE, plaintextDetection: 50ms}
  podRanges: [10.0.0.0/8, 'fd00::/8']
  tls: {cipherSuites: [TLS_CHACHA20_POLY1305_SHA256], keyExchange: [secp256r1, x25519], dataPath: Kernel, rekeyAfter: 8Mi, sessionResumption: Disabled}
  timeouts: {handshake: 5s, connect: 1m, unknownDestination: 1s500ms, deadPeer: 20s}
  issuer: {embedded: {certificate: /etc/ca.crt, key: /etc/ca.key}}
",
    );
    let mesh = &config.mesh;
    assert_eq!(mesh.mode, MtlsMode::Permissive);
    assert_eq!(mesh.tls.cipher_suites, [CipherSuite::Chacha20Poly1305]);
    assert_eq!(mesh.tls.key_exchange, [KeyExchange::P256, KeyExchange::X25519]);
    assert_eq!(mesh.timeouts.plaintext_detection, Duration::from_millis(50));
    assert_eq!(mesh.timeouts.connect, Duration::from_secs(60));
    assert_eq!(mesh.timeouts.dead_peer, Duration::from_secs(20));
    assert_eq!(mesh.timeouts.unknown_destination, Duration::from_millis(1500));
    let redis = &config.workloads[0];
    assert_eq!(redis.identity.to_string(), "spiffe://cluster.local/ns/shop/sa/redis");
    assert_eq!(redis.netns.as_deref(), Some(Path::new("/run/netns/redis")));
    assert_eq!(redis.exclude.outbound_ports, [22, 8080]);
    assert_eq!(redis.exclude.inbound_ports, [9100]);
}

#[test]
fn all_mistakes_are_reported_at_once() {
    refused(
        "
apiVersion: mesh.hauberk.dev/v1alpha1
kind: Workload
metadata: {name: web, namespace: Shop}
spec:
  addresses: ['10.0.0', 10.1.2.3]
  exclude: {outboundPorts: [80, 443, 70000]}
---
apiVersion: mesh.hauberk.dev/v1alpha1
kind: Workload
metadata: {name: db, namespace: shop}
spec: {node: a, adresses: [10.1.2.3]}
",
        &[
            "web.yaml: document 1 (Workload Shop/web): metadata.namespace: `Shop` is not a DNS label (a-z, 0-9 and inner `-`, at most 63 characters)",
            "web.yaml: document 1 (Workload Shop/web): spec.node: is required",
            "web.yaml: document 1 (Workload Shop/web): spec.addresses[0]: `10.0.0` is not an IP address",
            "web.yaml: document 1 (Workload Shop/web): spec.exclude.outboundPorts[2]: `70000` is not a port (1 to 65535)",
            "web.yaml: document 2 (Workload shop/db): spec.adresses: unknown field, did you mean `addresses`?",
            "web.yaml: document 2 (Workload shop/db): spec.addresses: is required",
        ],
    );
}

#[test]
fn mistakes_of_a_workload() {
    let node = "node: a";
    let addresses = "addresses: [10.1.2.3]";
    let with = |line: &str| format!("node: a\n  {line}");
    for (line, instead, expected) in [
        (node, "node: 1", "spec.node: is a number, expected a string"),
        (node, "node:", "spec.node: is required"),
        (
            node,
            "node: Node_1",
            "spec.node: `Node_1` is not a DNS subdomain (labels of a-z, 0-9 and inner `-`, joined by `.`)",
        ),
        (addresses, "addresses: 10.1.2.3", "spec.addresses: is a string, expected a list"),
        (addresses, "addresses: []", "spec.addresses: is empty, expected at least one item"),
        (addresses, "addresses: [10.1.2.3, 10.1.2.3]", "spec.addresses[1]: is listed twice"),
        (
            addresses,
            "addresses: [127.0.0.1]",
            "spec.addresses[0]: `127.0.0.1` is not an address that other pods can reach",
        ),
        (
            addresses,
            "addresses: ['::ffff:10.1.2.3']",
            "spec.addresses[0]: `::ffff:10.1.2.3` is IPv4 inside IPv6, write `10.1.2.3`",
        ),
        (addresses, "addresses: [192.168.0.1]", "spec.addresses[0]: `192.168.0.1` is in none of the Mesh's podRanges"),
        (node, &with("hostNetwork: true"), "spec.hostNetwork: unknown field"),
        (node, &with("serviceaccount: web"), "spec.serviceaccount: unknown field, did you mean `serviceAccount`?"),
        (
            node,
            &with("serviceAccount: a/b"),
            "spec.serviceAccount: `a/b` is not a DNS subdomain (labels of a-z, 0-9 and inner `-`, joined by `.`)",
        ),
        (node, &with("netns: run/netns/web"), "spec.netns: `run/netns/web` is not an absolute path"),
        (node, &with("cgroup: ''"), "spec.cgroup: is empty, expected a path"),
        (node, &with("exclude: [80]"), "spec.exclude: is a list, expected an object"),
        (
            node,
            &with("exclude: {inboundPorts: ['80']}"),
            "spec.exclude.inboundPorts[0]: is a string, expected a port number",
        ),
        (node, &with("exclude: {inboundPorts: [0]}"), "spec.exclude.inboundPorts[0]: `0` is not a port (1 to 65535)"),
        (node, &with("exclude: {outboundPorts: [80, 80]}"), "spec.exclude.outboundPorts[1]: is listed twice"),
        (
            node,
            &with("exclude: {outboundPorts: [1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]}"),
            "spec.exclude.outboundPorts: has 17 ports, at most 16 are possible",
        ),
        (
            node,
            &with("exclude: {outboundRanges: [10.0.0.1/8]}"),
            "spec.exclude.outboundRanges[0]: `10.0.0.1/8` has bits set after its prefix, did you mean `10.0.0.0/8`?",
        ),
        (
            node,
            &with("exclude: {outboundRanges: [10.0.0.0/33]}"),
            "spec.exclude.outboundRanges[0]: `10.0.0.0/33` is not a CIDR range like `10.0.0.0/8`",
        ),
    ] {
        workload_refused(line, instead, &[expected]);
    }
}

#[test]
fn mistakes_of_metadata() {
    let name = "{name: web, namespace: shop}";
    for (instead, expected) in [
        ("{name: web, namespace: shop, labels: {-a: b}}", "metadata.labels[-a]: `-a` is not a label key"),
        ("{name: web, namespace: shop, labels: {a: b c}}", "metadata.labels[a]: `b c` is not a label value"),
        ("{name: web, namespace: shop, labels: {a: true}}", "metadata.labels[a]: is a boolean, expected a string"),
        ("{name: web, namespace: shop, label: {}}", "metadata.label: unknown field, did you mean `labels`?"),
    ] {
        workload_refused(name, instead, &[expected]);
    }
    refused(
        &WORKLOAD.replace(name, "{name: web}"),
        &["web.yaml: document 1 (Workload web): metadata.namespace: is required"],
    );
    refused(
        &WORKLOAD.replace(name, "{namespace: shop}"),
        &["web.yaml: document 1 (Workload): metadata.name: is required"],
    );
}

#[test]
fn mistakes_of_the_mesh() {
    let trust_domain = "trustDomain: cluster.local";
    let issuer = "issuer: {embedded: {certificate: ca.crt, key: ca.key}}";
    let with = |line: &str| format!("trustDomain: cluster.local\n  {line}");
    for (line, instead, expected) in [
        (
            trust_domain,
            "trustDomain: Cluster",
            "spec.trustDomain: `Cluster` has a trust domain with a character other than a-z, 0-9, `.`, `-` and `_`",
        ),
        (trust_domain, &with("mtls: {mode: strict}"), "spec.mtls.mode: `strict` is not one of `STRICT`, `PERMISSIVE`"),
        (
            trust_domain,
            &with("mtls: {plaintextDetection: 200}"),
            "spec.mtls.plaintextDetection: is a number, expected a string",
        ),
        (trust_domain, &with("timeouts: {handshake: 10}"), "spec.timeouts.handshake: is a number, expected a string"),
        (
            trust_domain,
            &with("timeouts: {handshake: 10 s}"),
            "spec.timeouts.handshake: `10 s` is not a duration like `200ms`, `10s`, `5m`, `24h` or `1h30m`",
        ),
        (trust_domain, &with("timeouts: {handshake: 0s}"), "spec.timeouts.handshake: `0s` is not between 10ms and 5m"),
        (
            trust_domain,
            &with("tls: {cipherSuites: [TLS_AES_128_CCM_SHA256]}"),
            "spec.tls.cipherSuites[0]: `TLS_AES_128_CCM_SHA256` is not one of `TLS_AES_256_GCM_SHA384`, `TLS_AES_128_GCM_SHA256`, `TLS_CHACHA20_POLY1305_SHA256`",
        ),
        (
            trust_domain,
            &with("tls: {dataPath: kernel}"),
            "spec.tls.dataPath: `kernel` is not one of `Auto`, `Kernel`, `Userspace`",
        ),
        (
            trust_domain,
            &with("tls: {rekeyAfter: 5MB}"),
            "spec.tls.rekeyAfter: `5MB` is not an amount like `64Mi`, `10Gi` or `1Ti`",
        ),
        (trust_domain, &with("tls: {rekeyAfter: 1Ki}"), "spec.tls.rekeyAfter: `1Ki` is less than 1048576 bytes"),
        (trust_domain, &with("tls: {keyExchange: []}"), "spec.tls.keyExchange: is empty, expected at least one item"),
        (issuer, "", "spec.issuer: is required"),
        ("{name: mesh}", "{name: mesh, namespace: shop}", "metadata.namespace: a Mesh belongs to no namespace"),
    ] {
        let expected = expected.to_owned();
        if instead.contains("namespace") {
            let errors = parse(&[file("mesh.yaml", &MESH.replace(line, instead))]).unwrap_err().to_string();
            assert_eq!(errors, format!("mesh.yaml: document 1 (Mesh shop/mesh): {expected}"));
        } else {
            mesh_refused(line, instead, &[&expected]);
        }
    }
}

#[test]
fn mistakes_of_a_document() {
    let at = "web.yaml: document 1";
    for (text, expected) in [
        (
            WORKLOAD.replace("kind: Workload", "kind: Workloads"),
            format!(
                "{at} (Workloads shop/web): kind: `Workloads` is not a kind of this mesh, did you mean `Workload`?"
            ),
        ),
        (
            WORKLOAD.replace("kind: Workload", "kind: Pod"),
            format!("{at} (Pod shop/web): kind: `Pod` is not a kind of this mesh"),
        ),
        (
            WORKLOAD.replace("v1alpha1", "v1"),
            format!(
                "{at} (Workload shop/web): apiVersion: `mesh.hauberk.dev/v1` is not known, expected `mesh.hauberk.dev/v1alpha1`"
            ),
        ),
        (WORKLOAD.replace("kind: Workload\n", ""), format!("{at}: kind: is required")),
        ("just text".to_owned(), format!("{at}: is a string, expected an object")),
        (format!("{WORKLOAD}extra: {{}}"), format!("{at} (Workload shop/web): extra: unknown field")),
    ] {
        refused(&text, &[&expected]);
    }
}

#[test]
fn mistakes_between_objects() {
    let twice = parse(&[file("a.yaml", MESH), file("b.yaml", MESH)]).unwrap_err();
    assert_eq!(
        twice.to_string(),
        "b.yaml: document 1 (Mesh mesh): kind: there can be only one Mesh, and a.yaml document 1 has one"
    );
    let none = parse(&[file("web.yaml", WORKLOAD)]).unwrap_err();
    assert_eq!(none.to_string(), "no Mesh object in the configuration, exactly one is needed");
    refused(
        &format!("{WORKLOAD}---{WORKLOAD}"),
        &["web.yaml: document 2 (Workload shop/web): metadata.name: is already in web.yaml document 1"],
    );
    let other = WORKLOAD.replace("name: web", "name: db");
    refused(
        &format!("{WORKLOAD}---{other}"),
        &[
            "web.yaml: document 2 (Workload shop/db): spec.addresses[0]: `10.1.2.3` already belongs to shop/web (web.yaml document 1)",
        ],
    );
}

#[test]
fn a_network_namespace_and_a_cgroup_belong_to_one_workload_of_a_node() {
    let with = |name: &str, address: &str, node: &str| {
        WORKLOAD
            .replace("name: web", &format!("name: {name}"))
            .replace("10.1.2.3", address)
            .replace("node: a", &format!("node: {node}\n  netns: /run/netns/x\n  cgroup: /sys/fs/cgroup/x"))
    };
    let (web, db, far) = (with("web", "10.0.0.1", "a"), with("db", "10.0.0.2", "a"), with("far", "10.0.0.3", "b"));
    refused(
        &format!("{web}---{db}---{far}"),
        &[
            "web.yaml: document 2 (Workload shop/db): spec.netns: `/run/netns/x` already belongs to shop/web (web.yaml document 1)",
            "web.yaml: document 2 (Workload shop/db): spec.cgroup: `/sys/fs/cgroup/x` already belongs to shop/web (web.yaml document 1)",
        ],
    );
}
