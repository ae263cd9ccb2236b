//! Connections that are older than the mesh: found in the kernel's own list, reset, or kept and counted.

use anyhow::{Result, ensure};
use mesh_tests::claims;
use mesh_tests::mesh::{Mesh, Mode, agent_bin};
use mesh_tests::scale;
use mesh_tests::script::Script;
use mesh_tests::stage::{MARKER, PORT};
use mesh_tests::wait::{LIMIT, wait_until};
use mesh_tests::world::{Exclusions, Family, PodSpec, World};
use serde_json::Value;

/// Ports that the pods keep out of the mesh.
const EXCLUDED: [u16; 2] = [7100, 7200];
/// Longer than any test: who says so much lives until it is told to end.
const LONG: &str = "chat:100000";

fn world() -> Result<World> {
    let [outbound, inbound] = EXCLUDED;
    let client = Exclusions { outbound_ports: vec![outbound], ..Exclusions::default() };
    let server = Exclusions { inbound_ports: vec![outbound, inbound], ..Exclusions::default() };
    World::builder()
        .node("a")
        .pod(PodSpec::workload("client").excluding(client))
        .pod(PodSpec::outsider("outsider"))
        .node("b")
        .pod(PodSpec::workload("server").excluding(server))
        .pod(PodSpec::stranger("web"))
        .build()
}

fn older(mesh: &Mesh, node: &str) -> Result<Value> {
    let status: Value = serde_json::from_str(&mesh.agent(node).ask(&["status", "-o", "json"])?)?;
    Ok(status["older_connections"].clone())
}

/// A connection that is alive: it says and hears something for as long as nobody breaks it.
fn live(world: &World, pod: &str, to: (&str, u16), family: Family) -> Result<Script> {
    let script = world.pod(pod).act(world.address(to.0, family, to.1), &["chat:1", LONG])?;
    script.wait("chat", 1)?;
    Ok(script)
}

/// Whether it is alive: it says something more.
fn still_lives(world: &World, pod: &str, to: (&str, u16), script: &Script) -> Result<()> {
    claims::answer_is_right(&world.pod(pod).call(world.address(to.0, Family::V4, to.1), MARKER)?)?;
    ensure!(script.reports()?.iter().all(|report| report.end.is_none()), "{:?}", script.reports());
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn connections_older_than_the_enrolment_fall_and_what_the_mesh_leaves_alone_stays() -> Result<()> {
    let world = world()?;
    let _servers = [PORT, EXCLUDED[0]].map(|port| world.pod("server").serve(port));
    let _web = world.pod("web").serve(PORT)?;
    let mut old = Vec::new();
    for family in Family::BOTH {
        old.push(live(&world, "client", ("server", PORT), family)?);
        old.push(live(&world, "outsider", ("server", PORT), family)?);
    }
    let excluded = live(&world, "client", ("server", EXCLUDED[0]), Family::V4)?;
    let outside = live(&world, "client", ("web", PORT), Family::V4)?;
    let mesh = Mesh::start(&world, Mode::Strict)?;
    for script in &old {
        script.wait_break()?;
    }
    // Whichever agent was first has reset a connection for both.
    let destroyed = wait_until(LIMIT, "all are counted", || {
        let count = |node| Ok::<_, anyhow::Error>(older(&mesh, node)?["destroyed"].as_u64().unwrap_or_default());
        let both = count("a")? + count("b")?;
        Ok((both >= 4).then_some(both))
    })?;
    ensure!(destroyed <= 6, "{destroyed} of 4 connections, 2 of them with both ends in the mesh");
    ensure!(mesh.agent("b").metric("mesh_older_connections_destroyed_total", &[])? >= 2.0);
    ensure!(older(&mesh, "b")?["left"] == 0, "{}", older(&mesh, "b")?);
    let record = mesh
        .agent("b")
        .wait_audit("the record of it", |record| record["event"] == "connections older than the enrolment")?;
    ensure!(record["fields"]["workload"] == "demo/server" && record["fields"]["left"] == 0, "{record}");
    // New ones are the mesh's, and no later look takes them for old.
    let fresh = live(&world, "client", ("server", PORT), Family::V6)?;
    still_lives(&world, "client", ("server", EXCLUDED[0]), &excluded)?;
    still_lives(&world, "client", ("web", PORT), &outside)?;
    still_lives(&world, "client", ("server", PORT), &fresh)?;
    mesh.agent("b").wait_access(&[("direction", "inbound"), ("outcome", "ok"), ("tls.version", "TLSv1.3")])?;
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn kept_connections_live_and_are_counted_until_they_may_not() -> Result<()> {
    let world = world()?;
    let _server = world.pod("server").serve(PORT)?;
    let old = live(&world, "client", ("server", PORT), Family::V4)?;
    let mut mesh = Mesh::setup(&world, &agent_bin()?, Mode::Strict).setting("existingConnections: Keep").start()?;
    for node in ["a", "b"] {
        wait_until(LIMIT, "it is counted", || Ok((older(&mesh, node)?["left"] == 1).then_some(())))?;
        ensure!(mesh.agent(node).metric("mesh_older_connections", &[])? > 0.5);
        ensure!(older(&mesh, node)?["destroyed"] == 0);
    }
    let table = mesh.agent("a").ask(&["status"])?;
    ensure!(table.contains("older          1 older than an enrolment\n"), "{table}");
    still_lives(&world, "client", ("server", PORT), &old)?;
    // A new agent counts it again, and takes none of the mesh's for it.
    mesh.agent_mut("b").kill9()?;
    mesh.agent_mut("b").restart()?;
    wait_until(LIMIT, "it is counted", || Ok((older(&mesh, "b")?["left"] == 1).then_some(())))?;
    let fresh = live(&world, "client", ("server", PORT), Family::V4)?;
    still_lives(&world, "client", ("server", PORT), &old)?;
    for node in ["a", "b"] {
        let path =
            mesh.document(node, "mesh.yaml")?.replace("existingConnections: Keep", "existingConnections: Destroy");
        mesh.write_file(node, "mesh.yaml", path.as_bytes())?;
    }
    old.wait_break()?;
    wait_until(LIMIT, "none is left", || Ok((older(&mesh, "b")?["left"] == 0).then_some(())))?;
    still_lives(&world, "client", ("server", PORT), &fresh)
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn plaintext_that_is_older_than_strict_is_kept_where_the_mesh_says_so() -> Result<()> {
    let world = world()?;
    let _server = world.pod("server").serve(PORT)?;
    let mesh = Mesh::setup(&world, &agent_bin()?, Mode::Permissive).setting("existingConnections: Keep").start()?;
    let old = live(&world, "outsider", ("server", PORT), Family::V4)?;
    mesh.write_document("b", "PeerAuthentication", "strict", "{mtls: {mode: STRICT}}")?;
    wait_until(scale::longer(LIMIT), "it is counted", || Ok((older(&mesh, "b")?["plaintext"] == 1).then_some(())))?;
    claims::is_refused(&world.pod("outsider").call(world.address("server", Family::V4, PORT), MARKER)?)?;
    still_lives(&world, "client", ("server", PORT), &old)?;
    let document =
        mesh.document("b", "mesh.yaml")?.replace("existingConnections: Keep", "existingConnections: Destroy");
    mesh.write_file("b", "mesh.yaml", document.as_bytes())?;
    old.wait_break()?;
    mesh.agent("b").wait_access(&[("reason", "plaintext_refused"), ("outcome", "failed")])?;
    Ok(())
}
