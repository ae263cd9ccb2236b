//! Two trust domains whose nodes trust each other's, each for its own workloads.

use anyhow::Result;
use mesh_tests::claims;
use mesh_tests::mesh::{Mesh, Mode, agent_bin, spiffe_id};
use mesh_tests::stage::{self, MARKER, PORT};
use mesh_tests::wait::{LIMIT, wait_until};
use mesh_tests::world::Family;

const OTHER: &str = "other.test";

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn workloads_of_two_trust_domains_talk_for_as_long_as_each_ones_roots_are_known() -> Result<()> {
    let world = stage::world()?;
    let _server = world.pod("server").serve(PORT)?;
    let mesh = Mesh::setup(&world, &agent_bin()?, Mode::Strict).trust_domain_of("b", OTHER).start()?;
    let call = || world.pod("client").call(world.address("server", Family::V4, PORT), MARKER);
    claims::answer_is_right(&call()?)?;
    let server = format!("spiffe://{OTHER}/{}", spiffe_id("server").splitn(4, '/').last().unwrap_or_default());
    mesh.agent("a").wait_access(&[("direction", "outbound"), ("peer.id", &server), ("outcome", "ok")])?;
    mesh.agent("b").wait_access(&[("direction", "inbound"), ("peer.id", &spiffe_id("client")), ("outcome", "ok")])?;

    // Another CA of the same name isn't the one that the client's is.
    let stranger = world.directory().join("stranger");
    mesh.make_ca(&stranger)?;
    let root = std::fs::read_to_string(mesh.authority().directory().join("ca.crt"))?;
    mesh.federate("b", mesh_tests::mesh::TRUST_DOMAIN, &std::fs::read_to_string(stranger.join("ca.crt"))?)?;
    wait_until(LIMIT, "the client is refused", || Ok(claims::is_refused(&call()?).is_ok().then_some(())))?;
    mesh.agent("b").wait_access(&[("direction", "inbound"), ("outcome", "denied"), ("reason", "untrusted")])?;
    mesh.federate("b", mesh_tests::mesh::TRUST_DOMAIN, &root)?;
    wait_until(LIMIT, "the client is served again", || Ok(claims::answer_is_right(&call()?).is_ok().then_some(())))
}
