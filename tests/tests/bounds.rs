//! Before a peer is authenticated everything is bounded, and what is full for one is not full for others.

use anyhow::{Result, ensure};
use mesh_tests::claims;
use mesh_tests::mesh::{Mesh, Mode};
use mesh_tests::scale;
use mesh_tests::stage::{MARKER, PORT};
use mesh_tests::wait::{LIMIT, wait_until};
use mesh_tests::world::{Family, PodSpec, World};

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
