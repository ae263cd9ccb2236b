//! Identity comes from the kernel, and nothing in a pod gets around it: foreign cgroups, raw sockets, the agent's ports.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use mesh_tests::claims;
use mesh_tests::mesh::{Mesh, Mode};
use mesh_tests::stage::{MARKER, PORT};
use mesh_tests::world::{Family, Pod, PodSpec, World};

/// `client` and `neighbour` on node `a`, `server` on node `b`.
fn world() -> Result<World> {
    World::builder()
        .node("a")
        .pod(PodSpec::workload("client"))
        .pod(PodSpec::workload("neighbour"))
        .node("b")
        .pod(PodSpec::workload("server"))
        .build()
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn a_process_in_the_pods_namespace_but_another_cgroup_is_refused_and_counted() -> Result<()> {
    let world = world()?;
    let server = world.pod("server").serve(PORT)?;
    let mesh = Mesh::start(&world, Mode::Strict)?;
    let capture = world.capture()?;
    for family in Family::BOTH {
        let before = mesh.agent("a").metric_by("mesh_kernel_events_total", "reason")?;
        let to = world.address("server", family, PORT);
        let (client, foreign) = (world.pod("client"), &world.pod("neighbour").cgroup);
        claims::is_refused(&client.call_in(foreign, to, MARKER)?)?;
        ensure!(capture.trace()?.syns_to(to).is_empty(), "it reached the wire");
        let after = mesh.agent("a").metric_by("mesh_kernel_events_total", "reason")?;
        let risen: Vec<&String> = after.keys().filter(|key| after.get(*key) > before.get(*key)).collect();
        ensure!(risen.iter().any(|reason| reason.contains("cgroup")), "what rose: {risen:?}");
    }
    assert_eq!(server.accepted()?, []);
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn a_container_below_the_pods_cgroup_is_the_pod() -> Result<()> {
    let world = world()?;
    let _server = world.pod("server").serve(PORT)?;
    let client = world.pod("client");
    let (before, after) = (client.cgroup.join("early"), client.cgroup.join("late/nested"));
    std::fs::create_dir_all(&before)?;
    let _mesh = Mesh::start(&world, Mode::Strict)?;
    std::fs::create_dir_all(&after)?;
    for container in [before, after] {
        let called = client.call_in(&container, world.address("server", Family::V4, PORT), MARKER)?;
        claims::answer_is_right(&called)?;
    }
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn raw_and_packet_sockets_of_an_enrolled_pod_do_not_reach_the_wire() -> Result<()> {
    let world = world()?;
    let _udp = world.pod("server").serve_udp(5353)?;
    let mesh = Mesh::start(&world, Mode::Strict)?;
    let capture = world.capture()?;
    for family in Family::BOTH {
        for (bypass, port) in [("raw-syn", 7301), ("packet-syn", 7302)] {
            let (client, to) = (world.pod("client"), world.address("server", family, port));
            // The kernel may refuse it at the socket or drop it later.
            drop(client.bypass(bypass, SocketAddr::new(client.address(family), 40_000), to));
            client.udp_call(world.address("server", family, 5353), MARKER)?;
            let trace = capture.trace()?;
            ensure!(trace.syns_to(to).is_empty(), "{bypass} {family} reached the wire");
        }
    }
    ensure!(mesh.agent("a").metric("mesh_kernel_events_total", &[])? > 0.0);
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn the_agents_own_ports_are_closed_to_the_pod() -> Result<()> {
    let world = world()?;
    let _mesh = Mesh::start(&world, Mode::Strict)?;
    let client = world.pod("client");
    let listeners = listeners(client)?;
    ensure!(!listeners.is_empty(), "the agent has no listener in the pod's namespace");
    for listener in listeners {
        claims::is_refused(&client.call(listener, MARKER)?).with_context(|| format!("listener {listener}"))?;
    }
    Ok(())
}

/// Every listening TCP socket in the pod's namespace, where somebody in the pod can reach it.
fn listeners(pod: &Pod) -> Result<Vec<SocketAddr>> {
    let mut command = pod.command("ss");
    let table = pod.run(command.args(["-H", "-l", "-t", "-n"]))?.success()?;
    let addresses = table.lines().map(|line| {
        let local = line.split_whitespace().nth(3).with_context(|| format!("unreadable: {line}"))?;
        let (host, port) = local.rsplit_once(':').with_context(|| format!("unreadable: {line}"))?;
        let host = host.split('%').next().unwrap_or(host).trim_matches(['[', ']']);
        let ip = match host {
            "*" | "0.0.0.0" => "127.0.0.1",
            "::" => "::1",
            host => host,
        };
        Ok(SocketAddr::new(ip.parse()?, port.parse()?))
    });
    addresses.collect()
}
