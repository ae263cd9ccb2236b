//! SIGTERM drains: no new connections, time for the open ones, a reset for what is left, exit code 0.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mesh_tests::claims;
use mesh_tests::mesh::{Mesh, Mode, agent_bin};
use mesh_tests::scale;
use mesh_tests::stage::MARKER;
use mesh_tests::wait::{LIMIT, wait_until};
use mesh_tests::world::{Family, World};

const PORT: u16 = 7000;

fn mesh(world: &World, drain_seconds: u64) -> Result<Mesh> {
    Mesh::setup(world, &agent_bin()?, Mode::Strict).drain_seconds(drain_seconds).start()
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn open_connections_end_by_themselves_while_new_ones_are_refused() -> Result<()> {
    for node in ["a", "b"] {
        let world = World::standard()?;
        let _server = world.pod("server").serve(PORT)?;
        let mut mesh = mesh(&world, 20)?;
        let to = world.address("server", Family::V4, PORT);
        let client = world.pod("client").act(to, &["chat:1", "chat:40", "finish", "drain"])?;
        client.wait("chat", 1)?;
        let began = Instant::now();
        mesh.agent(node).ask_to_stop()?;
        wait_until(LIMIT, "new connections are refused", || {
            let called = world.pod("client").call(to, MARKER)?;
            Ok(claims::is_refused(&called).is_ok().then_some(()))
        })?;
        ensure!(client.reports()?.len() == 1, "the open connection had ended before: {:?}", client.reports()?);
        let (chat, rest) = (client.wait("chat", 2)?, client.wait("drain", 1)?);
        ensure!(chat.end.is_none() && rest.end.is_none(), "node {node}: {chat:?} {rest:?}");
        ensure!(mesh.agent_mut(node).wait_end()?.success(), "node {node}");
        ensure!(
            began.elapsed() < scale::longer(Duration::from_secs(15)),
            "it went on waiting for {:?}",
            began.elapsed()
        );
    }
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn what_has_not_ended_by_the_deadline_is_reset() -> Result<()> {
    for node in ["a", "b"] {
        let world = World::standard()?;
        let server = world.pod("server").act_serve(PORT, &["receive:5", "drain"])?;
        let mut mesh = mesh(&world, 2)?;
        let client = world.pod("client").act(world.address("server", Family::V6, PORT), &["send:5", "drain"])?;
        server.wait("receive", 1)?;
        let began = Instant::now();
        ensure!(mesh.agent_mut(node).terminate()?.success(), "node {node}");
        let most = scale::longer(Duration::from_secs(6)).as_secs();
        ensure!((2..most).contains(&began.elapsed().as_secs()), "it drained for {:?}", began.elapsed());
        for heard in [client.wait("drain", 1)?, server.wait("drain", 1)?] {
            ensure!(heard.end.as_deref() == Some("ConnectionReset"), "node {node}: {heard:?}");
        }
    }
    Ok(())
}
