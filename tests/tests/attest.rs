//! Identity comes from the kernel, and nothing in a pod gets around it: foreign cgroups, raw sockets, the agent's ports.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use mesh_tests::mesh::{Mesh, Mode};
use mesh_tests::stage::{MARKER, PORT};
use mesh_tests::world::{Family, Pod, PodSpec, World};
use mesh_tests::{app, claims};

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
        let refused = || mesh.agent("a").metric("mesh_kernel_events_total", &[("reason", "connect_unattested")]);
        let before = refused()?;
        let to = world.address("server", family, PORT);
        let (client, foreign) = (world.pod("client"), &world.pod("neighbour").cgroup);
        // A cgroup program that refuses a connect() makes it EPERM.
        let called = client.call_in(foreign, to, MARKER)?;
        assert_eq!(called.error.as_deref(), Some("PermissionDenied"), "{called:?}");
        ensure!(capture.trace()?.syns_to(to).is_empty(), "it reached the wire");
        ensure!(refused()? > before, "the refusal is not counted");
    }
    assert_eq!(server.accepted()?, []);
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn a_process_of_the_pod_in_another_namespace_is_refused_and_audited() -> Result<()> {
    let world = world()?;
    let server = world.pod("server").serve(PORT)?;
    let mesh = Mesh::start(&world, Mode::Strict)?;
    for family in Family::BOTH {
        let to = world.address("server", family, PORT);
        let elsewhere = world.nodes()[0].place();
        let mut call = elsewhere.command_in(&world.pod("client").cgroup, app::find()?);
        let finished = elsewhere.run(call.args(["call", "--say", MARKER, "--to", &to.to_string()]))?;
        ensure!(finished.stdout.contains("PermissionDenied"), "{finished:?}");
        let audited = |line: &str| line.contains("\"audit\"") && line.contains(&format!("\"dst.addr\":\"{to}\""));
        mesh.agent("a").wait_log("an audit record of the refusal", audited)?;
    }
    assert_eq!(server.accepted()?, []);
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn an_address_that_the_workload_does_not_list_is_no_way_in() -> Result<()> {
    let world = world()?;
    let (pod, node) = (world.pod("server"), world.nodes()[1].place());
    let _server = pod.serve(PORT)?;
    let unlisted: SocketAddr = format!("10.99.0.1:{PORT}").parse()?;
    pod.run(pod.command("ip").args(["address", "add", "10.99.0.1/32", "dev", "eth0"]))?.success()?;
    let via = pod.address(Family::V4).to_string();
    node.run(node.command("ip").args(["route", "add", "10.99.0.1", "via", &via]))?.success()?;
    let call = || -> Result<String> {
        let mut command = node.command(app::find()?);
        Ok(node.run(command.args(["call", "--say", MARKER, "--to", &unlisted.to_string()]))?.stdout)
    };
    let before = call()?;
    ensure!(before.contains(MARKER), "without the mesh it must be a way in: {before}");
    let _mesh = Mesh::start(&world, Mode::Strict)?;
    let after = call()?;
    ensure!(after.contains("ConnectionRefused"), "{after}");
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn an_address_of_the_pod_range_that_nobody_has_is_refused_by_the_agent() -> Result<()> {
    let world = world()?;
    let mesh = Mesh::start(&world, Mode::Strict)?;
    let capture = world.capture()?;
    let nobody: SocketAddr = "10.42.2.250:80".parse()?;
    claims::is_refused(&world.pod("client").call(nobody, MARKER)?)?;
    mesh.agent("a").wait_access(&[("dst.addr", "10.42.2.250:80"), ("reason", "unknown_destination")])?;
    ensure!(capture.trace()?.syns_to(nobody).is_empty(), "it reached the wire");
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
        for (bypass, port, counter) in [("raw-syn", 7301, "egress_dropped"), ("packet-syn", 7302, "veth_dropped")] {
            let dropped = || mesh.agent("a").metric("mesh_kernel_events_total", &[("reason", counter)]);
            let before = dropped()?;
            let (client, to) = (world.pod("client"), world.address("server", family, port));
            // The kernel may refuse it at the socket or drop it later.
            drop(client.bypass(bypass, SocketAddr::new(client.address(family), 40_000), to));
            client.udp_call(world.address("server", family, 5353), MARKER)?;
            let trace = capture.trace()?;
            ensure!(trace.syns_to(to).is_empty(), "{bypass} {family} reached the wire");
            ensure!(dropped()? > before, "{bypass} {family}: the drop is not counted");
        }
    }
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
