//! The test bed itself, without a mesh: what the other tests build on must hold before they may claim anything.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use mesh_tests::app::ANSWER;
use mesh_tests::openssl;
use mesh_tests::world::{Family, PodSpec, ServerKind, World, leftovers};

const PORT: u16 = 6379;
const MARKER: &str = "a-line-that-anyone-on-the-wire-could-read";

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn pods_reach_each_other_with_their_own_addresses() -> Result<()> {
    let world = World::standard()?;
    let server = world.pod("server").serve(PORT)?;
    for client in ["client", "outsider", "stranger"] {
        for family in Family::BOTH {
            let to = world.address("server", family, PORT);
            let called = world.pod(client).call(to, MARKER)?;
            assert_eq!(called.answer, Some(format!("{ANSWER}{MARKER}")), "{client} {family}: {called:?}");
            assert_eq!(called.peer, Some(to));
            assert_eq!(called.local.map(|local| local.ip()), Some(world.pod(client).address(family)));
            let accepted = server.accepted()?.pop();
            assert_eq!(accepted.as_ref().map(|accepted| accepted.peer), called.local);
            assert_eq!(accepted.map(|accepted| accepted.getpeername), called.local);
        }
    }
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn without_a_mesh_the_capture_shows_the_marker() -> Result<()> {
    let world = World::standard()?;
    let _server = world.pod("server").serve(PORT)?;
    let capture = world.capture()?;
    for family in Family::BOTH {
        let mark = capture.mark()?;
        let to = world.address("server", family, PORT);
        let called = world.pod("client").call(to, MARKER)?;
        let trace = capture.trace()?.since(mark);
        assert!(trace.contains(MARKER), "{family}: {called:?}");
        let flows = trace.flows_to(to);
        assert_eq!(flows.len(), 1);
        assert_eq!(Some(flows[0].client), called.local);
        assert_eq!(flows[0].sent.bytes(), format!("{MARKER}\n").as_bytes());
        assert_eq!(flows[0].received.bytes(), format!("{ANSWER}{MARKER}\n").as_bytes());
        assert!(flows[0].tls13().is_err(), "plaintext passed for TLS 1.3");
    }
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn the_capture_knows_tls_when_it_sees_it() -> Result<()> {
    let world = World::standard()?;
    let server = world.pod("server");
    let (key, certificate) = (world.directory().join("key"), world.directory().join("certificate"));
    let mut make = server.command("openssl");
    make.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=x"]);
    server.run(make.arg("-keyout").arg(&key).arg("-out").arg(&certificate))?.success()?;
    for (version, is_tls13) in [("-tls1_3", true), ("-tls1_2", false)] {
        let capture = world.capture()?;
        let mut serve = server.command("openssl");
        serve.args(["s_server", "-accept", "6379", "-4", "-rev", version]);
        let mut serving = server.spawn(serve.arg("-key").arg(&key).arg("-cert").arg(&certificate))?;
        serving.wait_line("openssl listens", |line| line.contains("ACCEPT"))?;
        let to = world.address("server", Family::V4, PORT);
        let reversed: String = MARKER.chars().rev().collect();
        let client = world.pod("client");
        let mut call = client.command("openssl");
        call.args(["s_client", "-connect", &to.to_string()]);
        let mut calling = openssl::say(&world, client, &mut call, MARKER)?;
        calling.wait_line("openssl answers", |line| line.contains(&reversed))?;
        let trace = capture.trace()?;
        assert!(!trace.contains(MARKER));
        assert_eq!(trace.all_tls13(to).is_ok(), is_tls13, "{version}: {:?}", trace.all_tls13(to));
    }
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn servers_speak_first_and_take_mapped_addresses() -> Result<()> {
    let world = World::standard()?;
    let _greeting = world.pod("server").serve_as(ServerKind::SpeaksFirst, PORT)?;
    let dual = world.pod("server").serve_as(ServerKind::DualStack, 7000)?;
    let called = world.pod("client").call_with(world.address("server", Family::V4, PORT), MARKER, &["--greeted"])?;
    assert_eq!(called.greeting.as_deref(), Some(mesh_tests::app::GREETING));
    let called = world.pod("client").call_with(world.address("server", Family::V4, 7000), MARKER, &["--mapped"])?;
    assert_eq!(called.error, None);
    assert_eq!(dual.accepted()?.len(), 1);
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn a_world_leaves_nothing_behind() -> Result<()> {
    let world = World::standard()?;
    let name = world.name().to_owned();
    assert!(leftovers(&name)?.len() >= 5, "the search would find what is left: {:?}", leftovers(&name)?);
    // A process that nobody waits for, still running.
    let server = world.pod("server").serve(PORT)?;
    world.remove()?;
    drop(server);
    assert_eq!(leftovers(&name)?, [""; 0]);
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn a_panic_leaves_nothing_behind() -> Result<()> {
    let world = World::standard()?;
    let name = world.name().to_owned();
    let panicked = std::thread::spawn(move || {
        let _world = world;
        panic!("on purpose: this test looks what a panic leaves behind");
    });
    assert!(panicked.join().is_err());
    assert_eq!(leftovers(&name)?, [""; 0]);
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn raw_sockets_reach_the_wire_without_a_mesh() -> Result<()> {
    let world = World::builder()
        .node("a")
        .pod(PodSpec::workload("client"))
        .node("b")
        .pod(PodSpec::workload("server"))
        .build()?;
    let capture = world.capture()?;
    for family in Family::BOTH {
        for bypass in ["raw-syn", "packet-syn"] {
            let from = SocketAddr::new(world.pod("client").address(family), 40_000);
            let to = world.address("server", family, PORT);
            let mark = capture.mark()?;
            world.pod("client").bypass(bypass, from, to)?;
            let trace = capture.trace()?.since(mark);
            ensure!(trace.syns_to(to).len() == 1, "{bypass} {family}: {:?}", trace.syns_to(to));
        }
    }
    Ok(())
}
