//! The relay is a faithful TCP: bytes, ends and breaks arrive as what they were, and in time.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mesh_tests::app::{Acted, pattern_sum};
use mesh_tests::mesh::{Mesh, Mode, agent_bin};
use mesh_tests::openssl;
use mesh_tests::scale::{self, at_most_ms};
use mesh_tests::stage::MARKER;
use mesh_tests::wait::{LIMIT, wait_until};
use mesh_tests::world::{Family, WIRE, World};

const PORT: u16 = 7300;
const RESET: Option<&str> = Some("ConnectionReset");
const MIB: u64 = 1024 * 1024;

fn end(acted: &Acted) -> Option<&str> {
    acted.end.as_deref()
}

fn mesh(world: &World, timeouts: &str) -> Result<Mesh> {
    Mesh::setup(world, &agent_bin()?, Mode::Strict).timeouts(timeouts).start()
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn both_directions_carry_256_mib_at_once_unchanged() -> Result<()> {
    let world = World::standard()?;
    let _mesh = mesh(&world, "")?;
    // Twice: emulated ciphers are slower still than the rest.
    let size = u64::from(scale::less(scale::less(256))) * MIB;
    let sum = pattern_sum(size);
    let exchange = format!("exchange:{size}");
    let server = world.pod("server").act_serve(PORT, &[&exchange])?;
    for (index, family) in Family::BOTH.into_iter().enumerate() {
        let client = world.pod("client").act(world.address("server", family, PORT), &[&exchange])?;
        let limit = Duration::from_secs(180);
        for acted in [client.wait_for(limit, "exchange", 1)?, server.wait_for(limit, "exchange", index + 1)?] {
            ensure!(end(&acted).is_none() && acted.received == size && acted.sum == sum, "{family}: {acted:?}");
        }
    }
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn a_half_close_leaves_the_other_direction_open() -> Result<()> {
    let world = World::standard()?;
    let _mesh = mesh(&world, "")?;
    // The client ends first and is answered; then the server ends first and is told more.
    let asked = world.pod("server").act_serve(PORT, &["drain", "sleep:300", "send:100000", "close"])?;
    let telling = world.pod("server").act_serve(PORT + 1, &["send:100000", "finish", "drain"])?;
    for (index, family) in (1..).zip(Family::BOTH) {
        let to = |port| world.address("server", family, port);
        let client = world.pod("client").act(to(PORT), &["send:1000", "finish", "drain"])?;
        let (question, answer) = (asked.wait("drain", index)?, client.wait("drain", 1)?);
        ensure!(end(&question).is_none() && question.sum == pattern_sum(1000), "{family}: {question:?}");
        ensure!(end(&answer).is_none() && answer.sum == pattern_sum(100_000), "{family}: {answer:?}");
        let client = world.pod("client").act(to(PORT + 1), &["drain", "sleep:300", "send:1000", "close"])?;
        let (told, more) = (client.wait("drain", 1)?, telling.wait("drain", index)?);
        ensure!(end(&told).is_none() && told.sum == pattern_sum(100_000), "{family}: {told:?}");
        ensure!(end(&more).is_none() && more.sum == pattern_sum(1000), "{family}: {more:?}");
    }
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn a_reset_arrives_as_a_reset_after_what_was_said_before() -> Result<()> {
    let world = World::standard()?;
    let _mesh = mesh(&world, "")?;
    let hears = world.pod("server").act_serve(PORT, &["drain"])?;
    let resets = world.pod("server").act_serve(PORT + 1, &["receive:10", "send:5000", "sleep:200", "reset"])?;
    // Neither end reads: the reset must come through all the same.
    let stalled = world.pod("server").act_serve(PORT + 2, &["sleep:4000", "drain"])?;
    for (index, family) in (1..).zip(Family::BOTH) {
        let to = |port| world.address("server", family, port);
        let _client = world.pod("client").act(to(PORT), &["send:5000", "sleep:200", "reset"])?;
        let heard = hears.wait("drain", index)?;
        ensure!(end(&heard) == RESET && heard.received == 5000, "{family}: {heard:?}");
        let client = world.pod("client").act(to(PORT + 1), &["send:10", "drain"])?;
        let heard = client.wait("drain", 1)?;
        resets.wait("reset", index)?;
        ensure!(end(&heard) == RESET && heard.received == 5000, "{family}: {heard:?}");
        let filler = world.pod("client").act(to(PORT + 2), &["fill", "reset"])?;
        filler.wait("fill", 1)?;
        let heard = stalled.wait("drain", index)?;
        ensure!(end(&heard) == RESET, "{family}: {heard:?}");
    }
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn a_reset_after_an_end_of_data_arrives_too() -> Result<()> {
    let world = World::standard()?;
    let mesh = mesh(&world, "")?;
    let server = world.pod("server").act_serve(PORT, &["receive:5", "drain", "sleep:2000", "send:1"])?;
    let client = world
        .pod("client")
        .act(world.address("server", Family::V4, PORT), &["send:5", "finish", "sleep:200", "reset"])?;
    let local = client.wait("send", 1)?.local.map(|local| local.to_string()).unwrap_or_default();
    ensure!(end(&server.wait("drain", 1)?).is_none());
    // Both agents notice at once, although nobody sends anything.
    for (node, direction) in [("a", "outbound"), ("b", "inbound")] {
        let line = mesh.agent(node).wait_access(&[("direction", direction), ("src.addr", &local)])?;
        ensure!(
            line.field("outcome") == "failed" && line.field("duration_ms").parse::<f64>()? < at_most_ms(1500) as f64,
            "{line:?}"
        );
    }
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn a_refused_port_resets_the_client_at_once() -> Result<()> {
    let world = World::standard()?;
    let _mesh = mesh(&world, "")?;
    for family in Family::BOTH {
        let client = world.pod("client").act(world.address("server", family, 7999), &["drain"])?;
        let heard = client.wait_break()?;
        ensure!(end(&heard) == RESET && heard.ms < at_most_ms(1000), "{family}: {heard:?}");
    }
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn an_unreachable_pod_and_an_unreachable_application_reset_the_client_at_once() -> Result<()> {
    let world = World::standard()?;
    let _server = world.pod("server").serve(PORT)?;
    let mesh = mesh(&world, "")?;
    let is_reset = |node: &str, family: Family| -> Result<()> {
        let client = world.pod("client").act(world.address("server", family, PORT), &["drain"])?;
        let heard = client.wait_break()?;
        ensure!(end(&heard) == RESET && heard.ms < at_most_ms(1000), "node {node}, {family}: {heard:?}");
        let local = heard.local.map(|local| local.to_string());
        let fields = [("reason", Some("unreachable")), ("src.addr", local.as_deref())];
        let known: Vec<_> = fields.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        mesh.agent(node).wait_access(&known)?;
        Ok(())
    };
    let ip = |family: &str, arguments: &str| -> Result<()> {
        let server = world.pod("server");
        server.run(server.command("ip").arg(family).args(arguments.split(' ')))?.success()?;
        Ok(())
    };
    // What the server's pod itself sends to the port gets nowhere; what comes from the wire does.
    let rule = format!("pref 0 iif lo ipproto tcp dport {PORT} unreachable");
    for family in ["-4", "-6"] {
        // The rule for local addresses comes first, and would win.
        ip(family, "rule add pref 1 lookup local")?;
        ip(family, "rule del pref 0")?;
        ip(family, &format!("rule add {rule}"))?;
    }
    for family in Family::BOTH {
        is_reset("b", family)?;
    }
    for family in Family::BOTH {
        let address = world.pod("server").address(family);
        world.pod("client").netns.ip(&format!("route add unreachable {address}\n"))?;
        is_reset("a", family)?;
    }
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn a_cut_off_tls_stream_is_never_a_clean_end() -> Result<()> {
    let world = World::standard()?;
    let mesh = Mesh::setup(&world, &agent_bin()?, Mode::Strict).omitted_from("b", "server").start()?;
    let svid = mesh.svid("demo", "server")?;
    for (index, family) in (0..).zip(Family::BOTH) {
        // openssl answers in the place of an agent and dies: its kernel sends a FIN, but TLS said no goodbye.
        let mut server = openssl::server(world.pod("server"), &svid, PORT + index)?;
        let client = world.pod("client").act(world.address("server", family, PORT + index), &["send:10", "drain"])?;
        client.wait("send", 1)?;
        wait_until(LIMIT, "openssl's handshake", || {
            Ok(server.stderr()?.contains("CONNECTION ESTABLISHED").then_some(()))
        })?;
        server.kill9()?;
        let heard = client.wait("drain", 1)?;
        ensure!(end(&heard) == RESET, "{family}: {heard:?}");
    }
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn a_cut_off_tls_client_is_a_reset_for_the_application() -> Result<()> {
    let world = World::standard()?;
    let server = world.pod("server").act_serve(PORT, &["drain"])?;
    let mesh = mesh(&world, "")?;
    let svid = mesh.svid("outside", "tester")?;
    for (index, family) in (1..).zip(Family::BOTH) {
        let to = world.address("server", family, PORT);
        let mut client = openssl::client(&world, world.pod("outsider"), &svid, to, MARKER)?;
        let delivered =
            || Ok((mesh.agent("b").metric("mesh_handshake_seconds_count", &[])? >= f64::from(index)).then_some(()));
        wait_until(LIMIT, "the handshake", delivered)?;
        client.kill9()?;
        let heard = server.wait("drain", usize::try_from(index)?)?;
        ensure!(end(&heard) == RESET, "{family}: {heard:?}");
    }
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn a_stalled_reader_stops_its_sender_and_loses_nothing() -> Result<()> {
    let world = World::standard()?;
    // Shorter than the stall: a reader that only doesn't read is not dead.
    let mesh = mesh(&world, "deadPeer: 1s")?;
    let server = world.pod("server").act_serve(PORT, &["sleep:6000", "drain"])?;
    for (index, family) in (1..).zip(Family::BOTH) {
        let before: Vec<u64> =
            ["a", "b"].iter().map(|node| mesh.agent(node).resident_bytes()).collect::<Result<_>>()?;
        let client = world.pod("client").act(world.address("server", family, PORT), &["fill", "sleep:500", "close"])?;
        let filled = client.wait("fill", 1)?;
        ensure!(end(&filled).is_none() && filled.sent < 64 * MIB, "{family}: {filled:?}");
        for (node, before) in ["a", "b"].iter().zip(before) {
            let after = mesh.agent(node).resident_bytes()?;
            ensure!(after < before + 4 * MIB, "node {node} grew from {before} to {after} bytes");
        }
        let heard = server.wait("drain", index)?;
        ensure!(end(&heard).is_none() && heard.received == filled.sent, "{family}: {heard:?}, {filled:?}");
        ensure!(heard.sum == pattern_sum(filled.sent), "{family}: the bytes differ");
    }
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn a_dead_peer_node_is_noticed_with_and_without_data_under_way() -> Result<()> {
    let world = World::standard()?;
    let _mesh = mesh(&world, "deadPeer: 2s")?;
    let server = world.pod("server").act_serve(PORT, &["receive:10", "drain"])?;
    let to = world.address("server", Family::V4, PORT);
    let idle = world.pod("client").act(to, &["send:10", "drain"])?;
    let busy = world.pod("client").act(to, &["send:10", "sleep:1000", "send:10", "drain"])?;
    // A client's own send succeeds before its connection has crossed the wire.
    server.wait("receive", 2)?;
    world.node("a").place().netns.ip(&format!("link set {} down\n", WIRE))?;
    let began = Instant::now();
    for heard in [idle.wait("drain", 1)?, busy.wait("drain", 1)?, server.wait("drain", 1)?, server.wait("drain", 2)?] {
        ensure!(end(&heard) == RESET, "{heard:?}");
    }
    ensure!(began.elapsed() < scale::longer(Duration::from_secs(8)), "noticed after {:?}", began.elapsed());
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn time_limits_are_the_configured_ones() -> Result<()> {
    let world = World::standard()?;
    let _mesh = mesh(&world, "connect: 1s, handshake: 500ms")?;
    // Silence instead of a hello.
    let silent = world.pod("outsider").act(world.address("server", Family::V4, PORT), &["drain"])?.wait_break()?;
    ensure!(end(&silent) == RESET && (450..at_most_ms(2000)).contains(&silent.ms), "{silent:?}");
    // Nobody answers the SYN.
    world.node("b").place().netns.ip(&format!("link set {} down\n", WIRE))?;
    let client = world.pod("client").act(world.address("server", Family::V4, PORT), &["drain"])?;
    let unanswered = client.wait_break()?;
    ensure!(end(&unanswered) == RESET && unanswered.ms < at_most_ms(3000), "{unanswered:?}");
    Ok(())
}
