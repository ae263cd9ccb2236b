//! Identities end on live connections, and configuration changes under a running agent.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mesh_tests::claims;
use mesh_tests::issuer::IssuerKind;
use mesh_tests::mesh::{Mesh, Mode, agent_bin, spiffe_id};
use mesh_tests::scale;
use mesh_tests::script::Script;
use mesh_tests::stage::{MARKER, PORT};
use mesh_tests::wait::{LIMIT, wait_until};
use mesh_tests::world::{Family, World};

/// The script's server.
const BULK_PORT: u16 = 7001;
/// The bound of every connection without standing.
const BOUND: Duration = Duration::from_secs(5);

fn call(world: &World) -> Result<mesh_tests::app::Called> {
    world.pod("client").call(world.address("server", Family::V4, PORT), MARKER)
}

fn document(spec: &str) -> Vec<u8> {
    format!("apiVersion: mesh.hauberk.dev/v1alpha1\nkind: Revocation\nmetadata: {{name: lost}}\nspec: {spec}\n")
        .into_bytes()
}

/// A transfer that never ends by itself, under way.
fn bulk(world: &World) -> Result<(Script, Script)> {
    let server = world.pod("server").act_serve(BULK_PORT, &["drain"])?;
    let to = world.address("server", Family::V4, BULK_PORT);
    let client = world.pod("client").act(to, &["send:1000000", "send:1000000000000"])?;
    client.wait("send", 1)?;
    Ok((client, server))
}

/// Only `node` hears of the revocation, so what happens is this end's own doing.
fn revoked_on(
    tls: &str,
    (node, direction): (&str, &str),
    revoke: impl Fn(&World, &Mesh) -> Result<Vec<u8>>,
) -> Result<()> {
    revoked_by_file("lost.yaml", tls, (node, direction), revoke)
}

fn revoked_by_file(
    file: &str,
    tls: &str,
    (node, direction): (&str, &str),
    revoke: impl Fn(&World, &Mesh) -> Result<Vec<u8>>,
) -> Result<()> {
    let world = World::standard()?;
    let _server = world.pod("server").serve(PORT)?;
    let mesh = Mesh::setup(&world, &agent_bin()?, Mode::Strict).tls(tls).start()?;
    claims::answer_is_right(&call(&world)?)?;
    let content = revoke(&world, &mesh)?;
    let (client, server) = bulk(&world)?;
    // Leaves a ticket behind, so that the attempt below is a resumption.
    claims::answer_is_right(&call(&world)?)?;
    let began = Instant::now();
    mesh.write_file(node, file, &content)?;
    for heard in [client.wait("send", 2)?, server.wait("drain", 1)?] {
        ensure!(heard.end.as_deref() == Some("ConnectionReset"), "{file}: {heard:?}");
    }
    let took = began.elapsed();
    ensure!(took < scale::longer(BOUND), "{file}: after {took:?}");
    let agent = mesh.agent(node);
    agent.wait_access(&[("direction", direction), ("outcome", "failed"), ("reason", "revoked")])?;
    let called = call(&world)?;
    claims::is_refused(&called)?;
    let local = called.local.context("the client has no address")?.to_string();
    agent.wait_access(&[
        ("src.addr", &local),
        ("tls.resumed", "true"),
        ("outcome", "denied"),
        ("reason", "revoked"),
    ])?;
    agent.wait_log("an audit record", |line| line.contains("\"audit\"") && line.contains("\"revoked\""))?;
    ensure!(agent.metric("mesh_connections_closed_total", &[("reason", "revoked")])? >= 2.0);
    mesh.remove_file(node, file)?;
    wait_until(LIMIT, "what is not revoked any more is served", || {
        Ok(claims::answer_is_right(&call(&world)?).is_ok().then_some(()))
    })
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn the_clients_node_resets_what_goes_to_a_revoked_identity() -> Result<()> {
    revoked_on("", ("a", "outbound"), |_, _| Ok(document(&format!("{{spiffeIds: ['{}']}}", spiffe_id("server")))))
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn the_servers_node_resets_what_comes_with_a_revoked_certificate() -> Result<()> {
    revoked_on("", ("b", "inbound"), |_, mesh| {
        let line = mesh.agent("b").wait_access(&[("direction", "inbound"), ("outcome", "ok")])?;
        Ok(document(&format!("{{serials: ['{}']}}", line.field("peer.serial"))))
    })
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn a_node_resets_what_its_own_revoked_workload_has() -> Result<()> {
    revoked_on("dataPath: Userspace", ("a", "outbound"), |_, _| {
        Ok(document(&format!("{{spiffeIds: ['{}']}}", spiffe_id("client"))))
    })
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn the_servers_node_resets_what_comes_from_a_revoked_node() -> Result<()> {
    revoked_on("dataPath: Userspace", ("b", "inbound"), |_, _| Ok(document("{nodes: [a]}")))
}

/// A list of the certificate with this serial number, as an operator makes it: with openssl and the CA's files.
fn list_of(world: &World, ca: &Path, serial: &str) -> Result<Vec<u8>> {
    let work = world.directory().join(format!("crl-{serial}"));
    std::fs::create_dir_all(&work)?;
    let even =
        if serial.len().is_multiple_of(2) { serial.to_uppercase() } else { format!("0{}", serial.to_uppercase()) };
    std::fs::write(work.join("index"), format!("R\t400101000000Z\t260101000000Z\t{even}\tunknown\t/CN=lost\n"))?;
    std::fs::write(
        work.join("config"),
        format!(
            "[ca]\ndefault_ca=lists\n[lists]\ndatabase={}/index\ndefault_md=sha256\ndefault_crl_days=1\n",
            work.display()
        ),
    )?;
    let mut command = world.node("a").place().command("openssl");
    command.args(["ca", "-gencrl", "-config"]).arg(work.join("config"));
    command.arg("-cert").arg(ca.join("ca.crt")).arg("-keyfile").arg(ca.join("ca.key"));
    Ok(world.node("a").place().run(&mut command)?.success().context("openssl ca -gencrl")?.into_bytes())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn a_list_of_the_ca_resets_what_it_lists_and_a_strangers_list_nothing() -> Result<()> {
    revoked_by_file("lists.crl", "", ("b", "inbound"), |world, mesh| {
        let line = mesh.agent("b").wait_access(&[("direction", "inbound"), ("outcome", "ok")])?;
        let serial = line.field("peer.serial");
        let stranger = world.directory().join("stranger");
        mesh.make_ca(&stranger)?;
        mesh.write_file("b", "lists.crl", &list_of(world, &stranger, &serial)?)?;
        wait_until(LIMIT, "the stranger's list has been seen", || {
            claims::answer_is_right(&call(world)?)?;
            let log = std::fs::read_to_string(mesh.agent("b").log())?;
            Ok(log.contains("no trusted CA has signed").then_some(()))
        })?;
        list_of(world, mesh.authority().directory(), &serial)
    })
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn a_wrong_document_changes_nothing_and_is_reported() -> Result<()> {
    let world = World::standard()?;
    let _server = world.pod("server").serve(PORT)?;
    let mesh = Mesh::start(&world, Mode::Strict)?;
    let agent = mesh.agent("a");
    let long =
        world.pod("client").act(world.address("server", Family::V4, PORT), &["chat:1", "chat:10", "chat:1000"])?;
    long.wait("chat", 1)?;
    let id = spiffe_id("server");
    mesh.write_document(
        "a",
        "Revocation",
        "lost",
        &format!("{{spiffeIds: ['{id}', 'spiffe://else/x'], serials: [xyz]}}"),
    )?;
    wait_until(LIMIT, "the rejection is counted", || {
        Ok((agent.metric("mesh_config_rejected_total", &[])? > 0.5).then_some(()))
    })?;
    ensure!(agent.metric("mesh_config_in_force", &[])? < 0.5);
    for mistake in ["spec.serials[0]: `xyz` is not a serial number", "(Revocation lost)"] {
        agent.wait_log("the mistake", |line| line.contains("rejected") && line.contains(mistake))?;
    }
    claims::answer_is_right(&call(&world)?)?;
    long.wait("chat", 2)?;
    mesh.write_document("a", "Revocation", "lost", &format!("{{spiffeIds: ['{id}']}}"))?;
    let ended = long.wait("chat", 3)?;
    ensure!(ended.end.is_some(), "{ended:?}");
    ensure!(agent.metric("mesh_config_in_force", &[])? > 0.5);
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn a_workload_leaves_a_running_agent_and_comes_back() -> Result<()> {
    let world = World::standard()?;
    let _server = world.pod("server").serve(PORT)?;
    let mesh = Mesh::start(&world, Mode::Strict)?;
    claims::answer_is_right(&call(&world)?)?;
    let enrolled = || mesh.agent("b").metric("mesh_workloads_enrolled", &[]);
    let all = enrolled()?;
    for _ in 0..2 {
        mesh.set_configured("b", "server", false)?;
        wait_until(LIMIT, "the workload is withdrawn", || Ok((enrolled()? < all - 0.5).then_some(())))?;
        // The other node still takes it for a member: nothing is said to it in plaintext.
        claims::is_refused(&call(&world)?)?;
        mesh.set_configured("b", "server", true)?;
        wait_until(LIMIT, "the workload is enrolled", || Ok((enrolled()? > all - 0.5).then_some(())))?;
        claims::answer_is_right(&call(&world)?)?;
    }
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn a_connection_ends_at_the_greatest_age() -> Result<()> {
    let world = World::standard()?;
    let _server = world.pod("server").serve(PORT)?;
    let mesh = Mesh::setup(&world, &agent_bin()?, Mode::Strict).timeouts("maxConnectionAge: 2s").start()?;
    let old = world.pod("client").act(world.address("server", Family::V6, PORT), &["chat:1000"])?;
    let ended = old.wait("chat", 1)?;
    ensure!(ended.end.is_some() && ended.received > 0, "{ended:?}");
    let reason =
        |node| mesh.agent(node).access_lines().map(|lines| lines.iter().any(|line| line.field("reason") == "max_age"));
    wait_until(LIMIT, "an end names the reason", || Ok((reason("a")? || reason("b")?).then_some(())))
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn a_node_without_a_valid_svid_lets_no_connection_live() -> Result<()> {
    let world = World::standard()?;
    let _server = world.pod("server").serve(PORT)?;
    let svids = "svidLifetime: 10s, allowShortLifetimes: true, refresh: 300ms";
    let mut mesh = Mesh::setup(&world, &agent_bin()?, Mode::Strict).issuer(IssuerKind::Remote).svids(svids).start()?;
    let (client, server) = bulk(&world)?;
    mesh.authority_mut().stop()?;
    for heard in [client.wait("send", 2)?, server.wait("drain", 1)?] {
        ensure!(heard.end.as_deref() == Some("ConnectionReset"), "{heard:?}");
    }
    let reason = |node| {
        mesh.agent(node).access_lines().map(|lines| lines.iter().any(|line| line.field("reason") == "svid_expired"))
    };
    wait_until(LIMIT, "an end names the reason", || Ok((reason("a")? || reason("b")?).then_some(())))
}
