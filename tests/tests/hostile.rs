//! The verifier's table on the wire: openssl offers each odd chain to a running agent, as a client and as a server.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use mesh_pki::{Authority, Case, Roles, cases};
use mesh_tests::mesh::{Mesh, Mode, Setup, agent_bin, spiffe_id};
use mesh_tests::openssl::OddChain;
use mesh_tests::stage::{self, MARKER, PORT};
use mesh_tests::world::{Family, World};

/// First of the ports that tell one case from the other.
const FIRST_PORT: u16 = 21_000;

/// A mesh on `world` that trusts `root`.
fn setup<'w>(world: &'w World, root: &Authority) -> Result<Setup<'w>> {
    Ok(Mesh::setup(world, &agent_bin()?, Mode::Strict).ca(root.certificate_pem(), root.key_pem()))
}

/// What openssl can be made to send, each with a port of its own.
fn sendable(root: &Authority) -> Vec<(Case, u16)> {
    let cases = cases(root, &spiffe_id("server")).into_iter().filter(|case| case.parses);
    cases.zip(FIRST_PORT..).collect()
}

fn check(mismatches: &[String], cases: &[(Case, u16)]) -> Result<()> {
    ensure!(mismatches.is_empty(), "{}", mismatches.join("\n"));
    let refused = cases.iter().filter(|(case, _)| case.refused.is_some()).count();
    ensure!(refused >= 40, "only {refused} hostile certificates were offered");
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn an_odd_client_is_judged_by_its_oddity_and_only_the_good_reach_the_application() -> Result<()> {
    let (world, root) = (stage::world()?, Authority::root("root"));
    let application = world.pod("server").serve(PORT)?;
    let mesh = setup(&world, &root)?.start()?;
    let (outsider, cases) = (world.pod("outsider"), sendable(&root));
    let to = world.address("server", Family::V4, PORT);
    let mut mismatches = Vec::new();
    for (case, port) in &cases {
        let from = SocketAddr::new(outsider.address(Family::V4), *port);
        let said = OddChain::write(&world, case)?.offer(outsider, from, to)?;
        let line = mesh.agent("b").wait_access(&[("direction", "inbound"), ("src.addr", &from.to_string())])?;
        let expected = case.refused_as(Roles::Client).unwrap_or_default();
        if line.field("reason") != expected || line.field("peer.id").is_empty() == expected.is_empty() {
            mismatches.push(format!("{}: {line:?}, not {expected:?}: {}", case.name, said.stderr));
        }
    }
    check(&mismatches, &cases)?;
    let good = cases.iter().filter(|(case, _)| case.refused_as(Roles::Client).is_none()).count();
    assert_eq!(application.accepted()?.len(), good);
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn an_odd_server_is_judged_by_its_oddity_and_only_the_good_get_the_line() -> Result<()> {
    let (world, root) = (stage::world()?, Authority::root("root"));
    // Node a takes `server` for a member of the mesh; its own node doesn't, so openssl answers there.
    let mesh = setup(&world, &root)?.omitted_from("b", "server").start()?;
    let cases = sendable(&root);
    let mut mismatches = Vec::new();
    for (case, port) in &cases {
        let server = OddChain::write(&world, case)?.serve(world.pod("server"), *port)?;
        let to = world.address("server", Family::V4, *port);
        let called = world.pod("client").call(to, MARKER)?;
        let line = mesh.agent("a").wait_access(&[("direction", "outbound"), ("dst.addr", &to.to_string())])?;
        let expected = match case.refused_as(Roles::Server).unwrap_or_default() {
            // Another reason, as one workload is expected here.
            "wrong_role" => "wrong_identity",
            expected => expected,
        };
        if line.field("reason") != expected || called.answer.is_some() != expected.is_empty() {
            mismatches.push(format!("{}: {line:?}, not {expected:?}: {}", case.name, server.stderr()?));
        }
    }
    check(&mismatches, &cases)
}
