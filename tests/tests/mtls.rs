//! The mesh's first promises, each over IPv4 and IPv6: an unmodified client and server, mutual TLS on the wire.

use anyhow::{Result, ensure};
use mesh_tests::capture::Flow;
use mesh_tests::claims;
use mesh_tests::mesh::{Mesh, Mode, agent_bin, spiffe_id};
use mesh_tests::openssl;
use mesh_tests::stage::{self, MARKER, PORT, Stage};
use mesh_tests::world::{Family, World};

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn without_the_mesh_the_same_call_shows_the_marker() -> Result<()> {
    let world = stage::world()?;
    let _server = world.pod("server").serve(PORT)?;
    let capture = world.capture()?;
    for family in Family::BOTH {
        let mark = capture.mark()?;
        claims::answer_is_right(&world.pod("client").call(world.address("server", family, PORT), MARKER)?)?;
        assert!(capture.trace()?.since(mark).contains(MARKER));
    }
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn the_wire_has_tls_1_3_on_the_original_port_and_the_marker_nowhere() -> Result<()> {
    let stage = Stage::start(Mode::Strict)?;
    for family in Family::BOTH {
        let seen = claims::wire_is_tls(&stage, family)?;
        // X25519MLKEM768: what is recorded today stays closed to tomorrow's quantum computer.
        assert_eq!(seen.hello.group, 0x11ec, "{:?}", seen.hello);
    }
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn the_wire_has_the_applications_own_source_port() -> Result<()> {
    let stage = Stage::start(Mode::Strict)?;
    for family in Family::BOTH {
        let mark = stage.capture.mark()?;
        let called = stage.call_from("client", family)?;
        let flows = stage.capture.trace()?.since(mark).flows_to(stage.server_address(family));
        assert_eq!(flows.first().map(|flow| flow.client), called.local, "{family}");
    }
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn each_side_names_the_others_spiffe_id() -> Result<()> {
    let stage = Stage::start(Mode::Strict)?;
    for family in Family::BOTH {
        let accounts = claims::both_ends_name_each_other(&stage, family)?;
        for line in [accounts.outbound, accounts.inbound] {
            for field in ["datapath", "tls.version", "tls.cipher", "tls.key_exchange", "duration_ms"] {
                assert_ne!(line.field(field), "", "{field} in {line:?}");
            }
            assert_ne!(line.field("bytes_sent"), "0", "{line:?}");
            assert_ne!(line.field("bytes_received"), "0", "{line:?}");
        }
    }
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn the_server_sees_the_real_client_address_and_port() -> Result<()> {
    let stage = Stage::start(Mode::Strict)?;
    for family in Family::BOTH {
        claims::server_sees_the_client(&stage, family)?;
    }
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn an_openssl_client_with_an_svid_is_served_under_its_own_id() -> Result<()> {
    let stage = Stage::start(Mode::Strict)?;
    for family in Family::BOTH {
        claims::openssl_is_a_peer(&stage, family)?;
    }
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn plaintext_from_outside_never_reaches_the_application() -> Result<()> {
    let stage = Stage::start(Mode::Strict)?;
    for family in Family::BOTH {
        for pod in ["outsider", "stranger"] {
            claims::plaintext_is_refused(&stage, pod, family)?;
        }
    }
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn a_workload_with_another_workloads_identity_is_refused() -> Result<()> {
    let stage = Stage::start(Mode::Strict)?;
    for family in Family::BOTH {
        claims::impostor_is_refused(&stage, family)?;
    }
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn a_server_with_the_wrong_svid_never_gets_our_certificate() -> Result<()> {
    let world = World::standard()?;
    // Node a takes `server` for a member of the mesh; its own node doesn't, so a stock openssl answers there.
    let mesh = Mesh::setup(&world, &agent_bin()?, Mode::Strict).omitted_from("b", "server").start()?;
    let (right, wrong) = (mesh.svid("demo", "server")?, mesh.svid("demo", "other")?);
    for family in Family::BOTH {
        for (port, svid, trusted) in [(7001, &right, true), (7002, &wrong, false)] {
            let server = openssl::server(world.pod("server"), svid, port)?;
            let called = world.pod("client").call(world.address("server", family, port), MARKER)?;
            let heard = server.stdout()? + &server.stderr()?;
            let got_certificate = heard.lines().any(|line| line.starts_with("<<<") && line.ends_with(", Certificate"));
            ensure!(got_certificate == trusted, "port {port}, {called:?}: {heard}");
            ensure!(called.answer.is_some() == trusted, "port {port}: {called:?}");
        }
    }
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn an_openssl_client_without_an_svid_is_refused() -> Result<()> {
    let stage = Stage::start(Mode::Strict)?;
    let outsider = stage.world.pod("outsider");
    for family in Family::BOTH {
        let to = stage.server_address(family).to_string();
        let mut command = outsider.command("openssl");
        command.args(["s_client", "-connect", &to, "-tls1_3", "-alpn", openssl::ALPN, "-ign_eof"]);
        let ended = outsider.run(&mut command)?;
        ensure!(!ended.status.success(), "{}{}", ended.stdout, ended.stderr);
    }
    claims::answer_is_right(&stage.call_from("client", Family::V4)?)?;
    assert_eq!(stage.server.accepted()?.len(), 1, "only the member of the mesh reached the application");
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn two_pods_of_one_node_talk_mtls_too() -> Result<()> {
    let stage = Stage::start(Mode::Strict)?;
    for family in Family::BOTH {
        let called = stage.call_from("neighbour", family)?;
        claims::answer_is_right(&called)?;
        let local = called.local.map(|local| local.to_string()).unwrap_or_default();
        let line = stage.mesh.agent("b").wait_access(&[("direction", "inbound"), ("src.addr", &local)])?;
        assert_eq!(line.field("peer.id"), spiffe_id("neighbour"));
        let flows: Vec<Flow> = stage.capture.trace()?.flows_to(stage.server_address(family));
        assert!(flows.is_empty(), "a connection within node b was on the wire: {flows:?}");
    }
    Ok(())
}
