//! What the mesh leaves alone, and what PERMISSIVE lets in: plaintext from outside, excluded ports, UDP, other places.

use anyhow::{Result, ensure};
use mesh_tests::app::{ANSWER, GREETING};
use mesh_tests::capture::Capture;
use mesh_tests::claims;
use mesh_tests::mesh::{Mesh, Mode};
use mesh_tests::openssl;
use mesh_tests::stage::{MARKER, PORT, Stage};
use mesh_tests::world::{Exclusions, Family, Pod, PodSpec, ServerKind, World};

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn permissive_lets_plaintext_from_outside_reach_the_application() -> Result<()> {
    let stage = Stage::start(Mode::Permissive)?;
    for family in Family::BOTH {
        for pod in ["outsider", "stranger"] {
            let called = stage.call_from(pod, family)?;
            claims::answer_is_right(&called)?;
            let seen = stage.server.accepted()?.pop().map(|accepted| accepted.peer);
            assert_eq!(seen, called.local, "{pod} {family}");
        }
    }
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn permissive_members_still_talk_mtls() -> Result<()> {
    let stage = Stage::start(Mode::Permissive)?;
    for family in Family::BOTH {
        claims::wire_is_tls(&stage, family)?;
        claims::both_ends_name_each_other(&stage, family)?;
        claims::impostor_is_refused(&stage, family)?;
    }
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn permissive_serves_plaintext_clients_that_wait_to_be_greeted() -> Result<()> {
    let world = World::standard()?;
    let _server = world.pod("server").serve_as(ServerKind::SpeaksFirst, PORT)?;
    let _mesh = Mesh::start(&world, Mode::Permissive)?;
    for family in Family::BOTH {
        for pod in ["client", "outsider"] {
            let to = world.address("server", family, PORT);
            let called = world.pod(pod).call_with(to, MARKER, &["--greeted"])?;
            assert_eq!(called.greeting.as_deref(), Some(GREETING), "{pod} {family}: {called:?}");
            claims::answer_is_right(&called)?;
        }
    }
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn permissive_hands_an_applications_own_tls_through() -> Result<()> {
    let world = World::standard()?;
    let mesh = Mesh::start(&world, Mode::Permissive)?;
    let svid = mesh.svid("outside", "web")?;
    let server = world.pod("server");
    let mut serve = server.command("openssl");
    serve.args(["s_server", "-accept", "8443", "-rev", "-tls1_3", "-cert"]).arg(&svid.certificate);
    let mut serving = server.spawn(serve.arg("-key").arg(&svid.key))?;
    serving.wait_line("openssl listens", |line| line.contains("ACCEPT"))?;
    let outsider = world.pod("outsider");
    let mut call = outsider.command("openssl");
    call.args(["s_client", "-connect", &world.address("server", Family::V4, 8443).to_string()]);
    let mut calling = openssl::say(&world, outsider, &mut call, "0123456789")?;
    calling.wait_line("openssl's answer", |line| line.contains("9876543210"))?;
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn destinations_outside_the_mesh_are_untouched() -> Result<()> {
    let world = World::builder()
        .node("a")
        .pod(PodSpec::workload("client"))
        .node("b")
        .pod(PodSpec::workload("server"))
        .pod(PodSpec::stranger("web"))
        .build()?;
    let server = world.pod("web").serve(PORT)?;
    let _mesh = Mesh::start(&world, Mode::Strict)?;
    let capture = world.capture()?;
    for family in Family::BOTH {
        is_direct(&world, &capture, world.pod("client"), ("web", PORT), family)?;
        let from = world.pod("client").address(family);
        ensure!(server.accepted()?.pop().is_some_and(|accepted| accepted.peer.ip() == from));
    }
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn udp_is_untouched() -> Result<()> {
    let world = World::standard()?;
    let _server = world.pod("server").serve_udp(5353)?;
    let _mesh = Mesh::start(&world, Mode::Strict)?;
    let capture = world.capture()?;
    for family in Family::BOTH {
        let (mark, to) = (capture.mark()?, world.address("server", family, 5353));
        assert_eq!(world.pod("client").udp_call(to, MARKER)?, format!("{ANSWER}{MARKER}"));
        let trace = capture.trace()?.since(mark);
        assert_eq!(trace.datagrams_to(to).first().map(|datagram| &*datagram.payload), Some(MARKER.as_bytes()));
    }
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn excluded_ports_are_untouched_and_others_are_not() -> Result<()> {
    let world = World::builder()
        .node("a")
        .pod(PodSpec::workload("client").excluding(Exclusions { outbound_ports: vec![7100], ..Exclusions::default() }))
        .pod(PodSpec::outsider("outsider"))
        .node("b")
        .pod(PodSpec::workload("server").excluding(Exclusions { inbound_ports: vec![7100], ..Exclusions::default() }))
        .build()?;
    let _excluded = world.pod("server").serve(7100)?;
    let _meshed = world.pod("server").serve(PORT)?;
    let _mesh = Mesh::start(&world, Mode::Strict)?;
    let capture = world.capture()?;
    for family in Family::BOTH {
        for pod in ["client", "outsider"] {
            is_direct(&world, &capture, world.pod(pod), ("server", 7100), family)?;
        }
        let (mark, to) = (capture.mark()?, world.address("server", family, PORT));
        claims::answer_is_right(&world.pod("client").call(to, MARKER)?)?;
        capture.trace()?.since(mark).all_tls13(to)?;
    }
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn excluded_ranges_are_untouched() -> Result<()> {
    let outbound_ranges = vec!["10.42.2.0/24".to_owned(), "fd42:0:0:2::/64".to_owned()];
    let world = World::builder()
        .node("a")
        .pod(PodSpec::workload("client").excluding(Exclusions { outbound_ranges, ..Exclusions::default() }))
        .node("b")
        .pod(PodSpec::workload("server"))
        .build()?;
    let _server = world.pod("server").serve(PORT)?;
    let _mesh = Mesh::start(&world, Mode::Permissive)?;
    let capture = world.capture()?;
    for family in Family::BOTH {
        is_direct(&world, &capture, world.pod("client"), ("server", PORT), family)?;
    }
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn an_ipv6_socket_with_an_ipv4_address_gets_mtls_too() -> Result<()> {
    let stage = Stage::start(Mode::Strict)?;
    let dual = stage.world.pod("server").serve_as(ServerKind::DualStack, 7200)?;
    for port in [PORT, 7200] {
        let (mark, to) = (stage.capture.mark()?, stage.world.address("server", Family::V4, port));
        let called = stage.world.pod("client").call_with(to, MARKER, &["--mapped"])?;
        claims::answer_is_right(&called)?;
        let trace = stage.capture.trace()?.since(mark);
        trace.all_tls13(to)?;
        ensure!(!trace.contains(MARKER), "the marker is on the wire");
        let peer = called.peer.map(|peer| (peer.ip().to_canonical(), peer.port()));
        assert_eq!(peer, Some((to.ip(), to.port())), "{called:?}");
    }
    // The dual-stack server sees IPv4 clients in mapped form, as without a mesh.
    let seen = dual.accepted()?.pop().map(|accepted| accepted.peer.ip().to_string());
    assert_eq!(seen, Some(format!("::ffff:{}", stage.world.pod("client").address(Family::V4))));
    Ok(())
}

/// `client` reaches a server as if there were no mesh: in plaintext and from its own address and port.
fn is_direct(world: &World, capture: &Capture, client: &Pod, to: (&str, u16), family: Family) -> Result<()> {
    let (mark, to) = (capture.mark()?, world.address(to.0, family, to.1));
    let called = client.call(to, MARKER)?;
    claims::answer_is_right(&called)?;
    let trace = capture.trace()?.since(mark);
    ensure!(trace.contains(MARKER), "{family}: no plaintext on the wire");
    let clients: Vec<_> = trace.flows_to(to).into_iter().map(|flow| Some(flow.client)).collect();
    ensure!(clients == [called.local], "{family}: {clients:?} on the wire, {called:?}");
    Ok(())
}
