//! Services: an address that no pod has, endpoints on two nodes, the same mutual TLS.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use mesh_tests::claims;
use mesh_tests::mesh::{Mesh, Mode, spiffe_id};
use mesh_tests::stage::{MARKER, PORT};
use mesh_tests::wait::{LIMIT, wait_until};
use mesh_tests::world::{Family, PodSpec, World};
use serde_json::Value;

/// Outside of the pod ranges, as a cluster's services are.
const ADDRESSES: [&str; 2] = ["10.96.0.10", "fd96::10"];
const SERVICE_PORT: u16 = 80;

fn world() -> Result<World> {
    World::builder()
        .node("a")
        .pod(PodSpec::workload("client"))
        .pod(PodSpec::workload("near"))
        .pod(PodSpec::outsider("bare"))
        .node("b")
        .pod(PodSpec::workload("far"))
        .build()
}

fn service(family: Family, port: u16) -> Result<SocketAddr> {
    let [v4, v6] = ADDRESSES;
    let address = if family == Family::V4 { v4 } else { v6 };
    Ok(SocketAddr::new(address.parse()?, port))
}

/// Puts the service into the configuration of both nodes, and waits until it is in force.
fn put(world: &World, mesh: &Mesh, endpoints: &[&str], settings: &str) -> Result<()> {
    let all: Vec<_> =
        endpoints.iter().flat_map(|pod| Family::BOTH.map(|family| world.pod(pod).address(family))).collect();
    let all: Vec<_> = all.iter().map(|address| format!("'{address}'")).collect();
    let spec = format!(
        "{{addresses: ['{}'], ports: [{{port: {SERVICE_PORT}, targetPort: {PORT}}}], endpoints: [{}]{settings}}}",
        ADDRESSES.join("', '"),
        all.join(", ")
    );
    let count = |node| mesh.agent(node).metric("mesh_config_accepted_total", &[]);
    for node in ["a", "b"] {
        let before = count(node)?;
        mesh.write_document(node, "Service", "db", &spec)?;
        wait_until(LIMIT, "the service is in force", || Ok((count(node)? > before + 0.5).then_some(())))?;
    }
    Ok(())
}

/// Which pod answered a call to the service, by the access line; checks what the client saw.
fn called(world: &World, mesh: &Mesh, pod: &str, family: Family) -> Result<String> {
    let to = service(family, SERVICE_PORT)?;
    let called = world.pod(pod).call(to, MARKER)?;
    claims::answer_is_right(&called)?;
    // The application sees whom it called.
    ensure!(called.peer == Some(to), "{called:?}");
    let local = called.local.context("no address")?.to_string();
    let line = mesh.agent("a").wait_access(&[("direction", "outbound"), ("src.addr", &local)])?;
    ensure!(line.has(&[("dst.addr", &to.to_string()), ("service", "demo/db"), ("outcome", "ok")]), "{line:?}");
    let endpoint: SocketAddr = line.field("endpoint.addr").parse().with_context(|| format!("{line:?}"))?;
    ensure!(endpoint.port() == PORT, "{line:?}");
    let chosen = world.pods().iter().find(|pod| pod.address(family) == endpoint.ip()).context("nobody's address")?;
    if chosen.is_workload() && chosen.name() != pod {
        ensure!(line.has(&[("tls.version", "TLSv1.3"), ("peer.id", &spiffe_id(chosen.name()))]), "{line:?}");
    }
    Ok(chosen.name().to_owned())
}

/// Who answers, among enough calls that nobody is left out by chance (2^-29 for each of two).
fn answering(world: &World, mesh: &Mesh, family: Family) -> Result<BTreeSet<String>> {
    (0..30).map(|_| called(world, mesh, "client", family)).collect()
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn a_service_is_reached_by_mutual_tls_at_each_of_its_endpoints() -> Result<()> {
    let world = world()?;
    let _servers = ["near", "far"].map(|pod| world.pod(pod).serve(PORT));
    let mesh = Mesh::start(&world, Mode::Strict)?;
    put(&world, &mesh, &["near", "far"], "")?;
    let capture = world.capture()?;
    let mark = capture.mark()?;
    for family in Family::BOTH {
        ensure!(answering(&world, &mesh, family)? == ["far".to_owned(), "near".to_owned()].into());
        // Neither the marker nor the service's address leaves the node.
        let trace = capture.trace()?.since(mark);
        trace.all_tls13(world.address("far", family, PORT))?;
        ensure!(!trace.contains(MARKER) && trace.flows_to(service(family, SERVICE_PORT)?).is_empty());
    }
    // A client that is an endpoint itself reaches itself without leaving its pod, and the others by mutual TLS.
    let reached: Result<BTreeSet<_>> = (0..30).map(|_| called(&world, &mesh, "near", Family::V4)).collect();
    ensure!(reached? == ["far".to_owned(), "near".to_owned()].into());

    let refused = world.pod("client").call(service(Family::V4, SERVICE_PORT + 1)?, MARKER)?;
    claims::is_refused(&refused)?;
    mesh.agent("a").wait_access(&[("reason", "no_service_port"), ("service", "demo/db")])?;
    put(&world, &mesh, &[], "")?;
    claims::is_refused(&world.pod("client").call(service(Family::V6, SERVICE_PORT)?, MARKER)?)?;
    mesh.agent("a").wait_access(&[("reason", "no_endpoint")])?;
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn affinity_and_the_local_policy_choose() -> Result<()> {
    let world = world()?;
    let _servers = ["near", "far"].map(|pod| world.pod(pod).serve(PORT));
    let mesh = Mesh::start(&world, Mode::Strict)?;
    put(&world, &mesh, &["near", "far"], ", sessionAffinity: ClientIP")?;
    let chosen = answering(&world, &mesh, Family::V4)?;
    ensure!(chosen.len() == 1, "{chosen:?}");
    put(&world, &mesh, &["near", "far"], ", internalTrafficPolicy: Local")?;
    ensure!(answering(&world, &mesh, Family::V4)? == ["near".to_owned()].into());
    let explained = mesh.agent("a").ask(&["explain", "demo/client", "demo/db:80", "-o", "json"])?;
    let explained: Value = serde_json::from_str(&explained)?;
    ensure!(explained["service"]["name"] == "demo/db" && explained["allowed"] == true, "{explained}");
    let near = world.address("near", Family::V4, PORT).to_string();
    ensure!(explained["connections"][0]["destination"] == near.as_str(), "{explained}");
    ensure!(explained["connections"].as_array().is_some_and(|all| all.len() == 1), "{explained}");
    let text = mesh.agent("a").ask(&["explain", "demo/client", "demo/near:80"])?;
    ensure!(text.contains("mutual TLS as") && text.contains("allowed: no ALLOW policy"), "{text}");
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn an_endpoint_outside_the_mesh_is_served_as_its_mode_says() -> Result<()> {
    for (mode, expected) in [(Mode::Permissive, true), (Mode::Strict, false)] {
        let world = world()?;
        let server = world.pod("bare").serve(PORT)?;
        let mesh = Mesh::start(&world, mode)?;
        put(&world, &mesh, &["bare"], "")?;
        if expected {
            ensure!(called(&world, &mesh, "client", Family::V4)? == "bare");
        } else {
            let before = server.accepted()?.len();
            claims::is_refused(&world.pod("client").call(service(Family::V4, SERVICE_PORT)?, MARKER)?)?;
            mesh.agent("a").wait_access(&[("reason", "unknown_destination"), ("service", "demo/db")])?;
            ensure!(server.accepted()?.len() == before, "the application saw a connection");
        }
    }
    Ok(())
}
