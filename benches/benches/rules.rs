//! What the pure rules cost for one connection or packet: they run in the kernel's hooks and at the head of every
//! connection, so a slow one would be everybody's.
//!
//! Every rule has its cheapest and its most expensive input. `proxy::classify` is private to the agent; what it asks of
//! rustls for a ClientHello is measured in its place.

use std::hint::black_box;
use std::net::{IpAddr, SocketAddr};

use divan::Bencher;
use mesh_agent::config::{SourceFile, parse};
use mesh_agent::state::{MeshState, Route, route};
use mesh_common::addr::IpKey;
use mesh_common::divert::{Destination, PodDivert};
use mesh_common::packet::{self, PacketBytes};
use mesh_common::steer::PodSteer;

fn main() {
    divan::main();
}

fn key(address: &str) -> IpKey {
    address.parse::<IpAddr>().expect("an address").into()
}

/// A full list of exclusions: the last of them is looked for.
const EXCLUDED: [u16; 16] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];

#[divan::bench(args = [80, 16])]
fn divert(bencher: Bencher<'_, '_>, port: u16) {
    let (address4, address6) = (key("10.1.2.9"), key("fd77::9"));
    let pod = PodDivert { cgroup: 7, address4, address6, excluded_ports: EXCLUDED, ..PodDivert::default() };
    let destination = key("10.1.2.3");
    bencher.bench(|| black_box(&pod).decide(black_box(&destination), black_box(port), Destination::Mesh, 7));
}

#[divan::bench(args = [80, 16])]
fn steer(bencher: Bencher<'_, '_>, port: u16) {
    let pod = PodSteer { pod: 3, excluded_ports: EXCLUDED, ..PodSteer::default() };
    bencher.bench(|| black_box(&pod).decide(black_box(port), false, false));
}

/// A packet's bytes, as the tests have them.
struct Bytes(Vec<u8>);

impl PacketBytes for Bytes {
    fn byte(&self, offset: usize) -> Option<u8> {
        self.0.get(offset).copied()
    }

    fn half(&self, offset: usize) -> Option<u16> {
        Some(u16::from_be_bytes(self.0.get(offset..offset + 2)?.try_into().ok()?))
    }

    fn word_be(&self, offset: usize) -> Option<u32> {
        Some(u32::from_ne_bytes(self.0.get(offset..offset + 4)?.try_into().ok()?))
    }
}

/// A TCP SYN; over IPv6 behind an extension header.
fn syn(v6: bool) -> Bytes {
    let mut packet = vec![0; if v6 { 48 } else { 20 }];
    if v6 {
        packet[0] = 0x60;
        // Destination options, eight bytes of them, then TCP.
        packet[6] = 60;
        packet[40] = 6;
    } else {
        packet[0] = 0x45;
        packet[9] = 6;
    }
    let mut header = vec![0; 20];
    header[13] = 2;
    packet.extend(header);
    Bytes(packet)
}

#[divan::bench(args = [false, true])]
fn classify_packet(bencher: Bencher<'_, '_>, v6: bool) {
    let packet = syn(v6);
    bencher.bench(|| packet::classify(black_box(&packet), 0));
}

/// A mesh with `count` workloads, none more than 64,000.
fn state(count: usize) -> MeshState {
    let mut text = "apiVersion: mesh.hauberk.dev/v1alpha1\n\
         kind: Mesh\n\
         metadata: {name: mesh}\n\
         spec: {trustDomain: test, podRanges: [10.0.0.0/8], issuer: {embedded: {certificate: ca.crt, key: ca.key}}}\n"
        .to_owned();
    for index in 0..count {
        let (high, low) = (index / 250, index % 250 + 1);
        text += &format!(
            "---\napiVersion: mesh.hauberk.dev/v1alpha1\n\
             kind: Workload\n\
             metadata: {{name: w{index}, namespace: shop}}\n\
             spec: {{node: b, addresses: [10.0.{high}.{low}]}}\n"
        );
    }
    MeshState::new(parse(&[SourceFile { name: "mesh.yaml".into(), text }]).expect("a valid mesh"))
}

#[divan::bench(args = [10, 5000])]
fn route_to_a_workload(bencher: Bencher<'_, '_>, workloads: usize) {
    let state = state(workloads);
    let destination: SocketAddr = "10.0.0.7:80".parse().expect("an address");
    let source = state.at("10.0.0.1".parse().expect("an address")).expect("a workload");
    assert!(matches!(route(&state, source, destination), Route::Mesh(_)));
    bencher.bench(|| route(black_box(&state), black_box(source), black_box(destination)));
}

#[divan::bench(args = ["10.200.0.1:80", "192.0.2.1:80"])]
fn route_elsewhere(bencher: Bencher<'_, '_>, destination: &str) {
    let state = state(1000);
    let destination: SocketAddr = destination.parse().expect("an address");
    let source = state.at("10.0.0.1".parse().expect("an address")).expect("a workload");
    bencher.bench(|| route(black_box(&state), black_box(source), black_box(destination)));
}

/// A client's first flight with the default groups: post-quantum keys make it longer than one segment.
fn client_hello() -> Vec<u8> {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let mut config = rustls::ClientConfig::builder_with_provider(provider.into())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = vec![b"hauberk/1".to_vec()];
    let name = "peer".try_into().expect("a name");
    let mut client = rustls::ClientConnection::new(config.into(), name).expect("a client");
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).expect("a vector takes all");
    }
    bytes
}

#[divan::bench]
fn read_client_hello(bencher: Bencher<'_, '_>) {
    let hello = client_hello();
    bencher.bench(|| {
        let mut acceptor = rustls::server::Acceptor::default();
        let mut rest = black_box(hello.as_slice());
        while !rest.is_empty() {
            acceptor.read_tls(&mut rest).expect("bytes");
        }
        let accepted = acceptor.accept().ok().flatten().expect("a whole hello");
        accepted.client_hello().alpn().is_some_and(|mut protocols| protocols.any(|protocol| protocol == b"hauberk/1"))
    });
}
