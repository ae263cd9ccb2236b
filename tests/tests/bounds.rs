//! Before a peer is authenticated everything is bounded, and what is full for one is not full for others.

use anyhow::{Result, ensure};
use mesh_tests::claims;
use mesh_tests::mesh::{Mesh, Mode, agent_bin};
use mesh_tests::process::Process;
use mesh_tests::scale;
use mesh_tests::stage::{MARKER, PORT};
use mesh_tests::wait::{LIMIT, wait_until};
use mesh_tests::world::{Family, PodSpec, Server, World};

/// With so many descriptors a node carries 32 connections, and a pod 16 (`model/budget.rs`).
const FEW_DESCRIPTORS: u64 = 1024 + 2 * NODE as u64;
const NODE: usize = 32;
const POD: usize = 16;

const TOO_MANY: [(&str, &str); 1] = [("reason", "too_many_unauthenticated")];

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn ten_thousand_half_open_peers_stop_nobody_else() -> Result<()> {
    let world = World::builder()
        .node("a")
        .pod(PodSpec::workload("client"))
        .pod(PodSpec::outsider("flood"))
        .node("b")
        .pod(PodSpec::workload("server"))
        .pod(PodSpec::workload("neighbour"))
        .build()?;
    let servers = [world.pod("server").serve(PORT)?, world.pod("neighbour").serve(PORT)?];
    let mesh = Mesh::start(&world, Mode::Strict)?;
    let flood = usize::try_from(scale::less(10_000))?;
    let before = mesh.agent("b").resident_bytes()?;
    for family in Family::BOTH {
        let to = world.address("server", family, PORT);
        let (_flood, opened) = world.pod("flood").half_open(to, flood)?;
        ensure!(opened.answered >= flood - flood / 100, "the flood itself is too small: {opened:?}");
        // Peers of the flooded pod, and of another one.
        for pod in ["server", "neighbour"] {
            for round in 0..20 {
                let called = world.pod("client").call(world.address(pod, family, PORT), MARKER)?;
                claims::answer_is_right(&called).map_err(|error| error.context(format!("{pod}, round {round}")))?;
            }
        }
    }
    let after = mesh.agent("b").resident_bytes()?;
    ensure!(after < before + 128 * 1024 * 1024, "node b grew from {before} to {after} bytes");
    wait_until(LIMIT, "most of both floods is refused", || {
        let refused = mesh.agent("b").metric("mesh_connections_closed_total", &TOO_MANY)?;
        Ok((refused >= flood as f64).then_some(()))
    })?;
    for server in servers {
        ensure!(server.accepted()?.len() == 40, "the application saw {}", server.accepted()?.len());
    }
    Ok(())
}

/// Fills the pods of one end one after the other, and looks each time who is still served.
fn fill(node: &str, pods: [&str; 3], path: impl Fn(&str) -> (String, String)) -> Result<()> {
    let world = World::builder()
        .node("a")
        .pod(PodSpec::workload("a1"))
        .pod(PodSpec::workload("a2"))
        .pod(PodSpec::workload("a3"))
        .node("b")
        .pod(PodSpec::workload("b1"))
        .pod(PodSpec::workload("b2"))
        .pod(PodSpec::workload("b3"))
        .build()?;
    let servers: Vec<(&str, Server)> =
        ["b1", "b2", "b3"].into_iter().map(|pod| Ok((pod, world.pod(pod).serve(PORT)?))).collect::<Result<_>>()?;
    let mesh = Mesh::setup(&world, &agent_bin()?, Mode::Strict).descriptors(node, FEW_DESCRIPTORS).start()?;
    let refused = |wanted: f64| -> Result<()> {
        let labels = [("outcome", "denied"), ("reason", "too_many_connections")];
        let refused = mesh.agent(node).metric("mesh_connections_closed_total", &labels)?;
        ensure!((refused - wanted).abs() < 0.5, "node {node} refused {refused}, not {wanted}");
        Ok(())
    };
    let call = |pod: &str| {
        let (from, to) = path(pod);
        world.pod(&from).call(world.address(&to, Family::V4, PORT), MARKER)
    };
    // Few at a time: each counts as unauthenticated for a moment, and of those there may be fewer.
    let occupy = |pod: &str| -> Result<Vec<Process>> {
        let (from, to) = path(pod);
        let server = servers.iter().find(|(name, _)| *name == to).map(|(_, server)| server);
        let server = server.ok_or_else(|| anyhow::anyhow!("no server in {to}"))?;
        let before = server.accepted()?.len();
        let mut held = Vec::new();
        for batch in 1..=POD / 4 {
            let (process, opened) = world.pod(&from).half_open(world.address(&to, Family::V4, PORT), 4)?;
            ensure!(opened.answered == 4, "{opened:?}");
            held.push(process);
            wait_until(LIMIT, "the connections have reached the application", || {
                Ok((server.accepted()?.len() >= before + 4 * batch).then_some(()))
            })?;
        }
        Ok(held)
    };
    let first = occupy(pods[0])?;
    refused(0.0)?;
    claims::is_refused(&call(pods[0])?)?;
    refused(1.0)?;
    // A full pod is not its neighbours' trouble.
    for pod in &pods[1..] {
        claims::answer_is_right(&call(pod)?)?;
    }
    let _second = occupy(pods[1])?;
    claims::is_refused(&call(pods[2])?)?;
    refused(2.0)?;
    drop(first);
    wait_until(LIMIT, "there is room again", || Ok(claims::answer_is_right(&call(pods[2])?).is_ok().then_some(())))
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn a_full_pod_and_a_full_node_refuse_connections_from_pods() -> Result<()> {
    fill("a", ["a1", "a2", "a3"], |pod| (pod.to_owned(), pod.replace('a', "b")))
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn a_full_pod_and_a_full_node_refuse_connections_to_pods() -> Result<()> {
    fill("b", ["b1", "b2", "b3"], |pod| (pod.replace('b', "a"), pod.to_owned()))
}
