//! Ports: the wire has the application's own, and short connections don't use them up.

use anyhow::{Context as _, Result, ensure};
use mesh_tests::app::Burst;
use mesh_tests::mesh::{Mesh, Mode};
use mesh_tests::scale;
use mesh_tests::stage::Stage;
use mesh_tests::wait::{LIMIT, wait_until};
use mesh_tests::world::{Family, Pod, World};
use std::net::SocketAddr;

/// 1,000 ports instead of the usual 28,232.
const NARROW: u32 = 1000;

fn narrow(pod: &Pod, ports: u32) -> Result<()> {
    // The kernel keeps even and odd ports apart: it wants as many of each.
    pod.netns.sysctl(&[("ipv4/ip_local_port_range", &format!("40000 {}", 40_000 + ((ports - 1) | 1)))])
}

/// How many connections are being made at once: on a slow machine too many miss their deadlines.
fn at_a_time(number: u32) -> usize {
    scale::less(number).max(4) as usize
}

fn all_answered(burst: &Burst, count: usize) -> Result<()> {
    ensure!(burst.answered == count && burst.failures.is_empty(), "{burst:?}");
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn five_hundred_connections_fifty_at_a_time_lose_nothing() -> Result<()> {
    let stage = Stage::start(Mode::Strict)?;
    for family in Family::BOTH {
        all_answered(&stage.world.pod("client").burst(&[stage.server_address(family)], 500, at_a_time(50))?, 500)?;
    }
    for node in ["a", "b"] {
        let failed = stage.mesh.agent(node).metric("mesh_connections_closed_total", &[("outcome", "failed")])?;
        ensure!(failed == 0.0, "node {node} reports {failed} failures");
    }
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn five_thousand_connections_through_a_thousand_ports_all_succeed() -> Result<()> {
    let world = World::standard()?;
    for pod in ["client", "server"] {
        narrow(world.pod(pod), scale::less(NARROW))?;
    }
    let _servers = [("server", 7000), ("server", 7001), ("server", 7002), ("client", 7000)]
        .map(|(pod, port)| world.pod(pod).serve(port))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    let mesh = Mesh::start(&world, Mode::Strict)?;
    let count = 5 * usize::try_from(scale::less(NARROW))?;
    let to = |pod: &str, family, port| world.address(pod, family, port);
    let one = |pod: &str, family| vec![to(pod, family, 7000)];
    let three: Vec<SocketAddr> = [7000, 7001, 7002].map(|port| to("server", Family::V6, port)).to_vec();
    for (from, to) in [("client", one("server", Family::V4)), ("server", one("client", Family::V4)), ("client", three)]
    {
        let burst = world.pod(from).burst(&to, count, at_a_time(20))?;
        ensure!(burst.answered == count, "{from} to {to:?}: {burst:?}");
    }
    for node in ["a", "b"] {
        let changed = mesh.agent(node).metric("mesh_source_ports_changed_total", &[])?;
        ensure!(changed == 0.0, "node {node} changed {changed} source ports");
    }
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn the_wire_has_a_port_that_the_application_bound_itself() -> Result<()> {
    let stage = Stage::start(Mode::Strict)?;
    let client = stage.world.pod("client");
    for family in Family::BOTH {
        // In the kernel's range, outside of it, once more at once (in TIME_WAIT), and one that takes a privilege.
        for port in [45_000, 2_000, 2_000, 900] {
            let (mark, to) = (stage.capture.mark()?, stage.server_address(family));
            let from = SocketAddr::new(client.address(family), port);
            // The application's own connection to the agent has to leave TIME_WAIT first.
            let mut trouble = String::new();
            let chat = wait_until(LIMIT, "the port can be used", || {
                let mut script = client.act_from(from, to, &["chat:1", "close"])?;
                script.0.wait_exit(LIMIT)?;
                let chat = script.reports()?.into_iter().find(|report| report.step == "chat");
                if chat.is_none() {
                    trouble = format!("{:?} {}", script.reports()?, script.0.stderr()?);
                }
                Ok(chat)
            })
            .with_context(|| format!("{family} {port}: {trouble}"))?;
            ensure!(chat.end.is_none(), "{family} {port}: {chat:?}");
            let flows = stage.capture.trace()?.since(mark).flows_to(to);
            let clients: Vec<SocketAddr> = flows.into_iter().map(|flow| flow.client).collect();
            ensure!(clients == [from], "{family} {port}: {clients:?} on the wire");
        }
    }
    let changed = stage.mesh.agent("a").metric("mesh_source_ports_changed_total", &[])?;
    ensure!(changed == 0.0, "{changed} source ports changed");
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn a_port_range_that_changed_later_costs_one_port_and_is_counted() -> Result<()> {
    let stage = Stage::start(Mode::Strict)?;
    let client = stage.world.pod("client");
    narrow(client, NARROW)?;
    let to = stage.server_address(Family::V4);
    for (port, changed) in [(50_000, 1.0), (50_001, 1.0), (50_002, 1.0)] {
        let from = SocketAddr::new(client.address(Family::V4), port);
        let chat = client.act_from(from, to, &["chat:1", "close"])?.wait("chat", 1)?;
        ensure!(chat.end.is_none(), "{chat:?}");
        let counted = stage.mesh.agent("a").metric("mesh_source_ports_changed_total", &[])?;
        ensure!(counted == changed, "{counted} source ports changed after {port}");
    }
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn a_pods_own_settings_are_restored_when_its_agent_ends() -> Result<()> {
    const SETTING: &str = "/proc/sys/net/ipv4/tcp_tw_reuse";
    let world = World::standard()?;
    let read = || world.pod("client").netns.enter(|| Ok(std::fs::read_to_string(SETTING)?));
    let before = read()?;
    let mut mesh = Mesh::start(&world, Mode::Strict)?;
    ensure!(read()? == "1\n", "while enrolled: {}", read()?);
    mesh.agent_mut("a").terminate()?;
    ensure!(read()? == before, "{} instead of {before}", read()?);
    // A killed agent restores nothing; the one after it does.
    mesh.agent_mut("a").restart()?;
    mesh.agent_mut("a").kill9()?;
    ensure!(read()? == "1\n", "after a kill: {}", read()?);
    mesh.agent_mut("a").restart()?;
    mesh.agent_mut("a").terminate()?;
    ensure!(read()? == before, "after a kill and a restart: {} instead of {before}", read()?);
    Ok(())
}
