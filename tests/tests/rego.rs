//! Authorization in Rego: in the agent, and by a real OPA server.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mesh_tests::claims;
use mesh_tests::mesh::Mode;
use mesh_tests::process::Process;
use mesh_tests::scale;
use mesh_tests::stage::Stage;
use mesh_tests::wait::{LIMIT, wait_until};
use mesh_tests::world::{Family, WORKLOAD_NAMESPACE};

/// The bound for connections that are no longer allowed.
const BOUND: Duration = Duration::from_secs(5);
const OPA: &str = "127.0.0.1:8181";
/// The release that the test builds if nobody gives it one.
const OPA_VERSION: &str = "github.com/open-policy-agent/opa@v1.22.2";

/// Allows one service account, by everything that the input says.
fn policy(account: &str) -> String {
    format!(
        "package hauberk\n\
         default allow := {{\"allow\": false, \"reason\": \"nobody else\"}}\n\
         allow if {{\n\
         \tinput.source.serviceAccount == \"{account}\"\n\
         \tinput.source.namespace == \"{WORKLOAD_NAMESPACE}\"\n\
         \tendswith(input.source.principal, \"/sa/{account}\")\n\
         \tinput.source.workload.uid == \"{WORKLOAD_NAMESPACE}/{account}\"\n\
         \tinput.destination.workload.uid == \"{WORKLOAD_NAMESPACE}/server\"\n\
         \tregex.match(`^[0-9a-f.:]+$`, input.destination.address)\n\
         \tinput.destination.port > 1000\n\
         \ttime.now_ns() > 0\n\
         }}\n"
    )
}

fn write(stage: &Stage, account: &str) -> Result<()> {
    stage.mesh.write_file("b", "policy.rego", policy(account).as_bytes())
}

/// Waits until only `allowed` is, and checks that `denied` gets a reset that is told with its reason.
fn decides(stage: &Stage, allowed: &str, denied: &str) -> Result<()> {
    for family in Family::BOTH {
        wait_until(LIMIT, "the policy is in force", || {
            let refused = claims::is_refused(&stage.call_from(denied, family)?).is_ok();
            let served = claims::answer_is_right(&stage.call_from(allowed, family)?).is_ok();
            Ok((refused && served).then_some(()))
        })?;
        let called = stage.call_from(denied, family)?;
        claims::is_refused(&called)?;
        let local = called.local.context("the client has no address")?.to_string();
        stage.mesh.agent("b").wait_access(&[("src.addr", &local), ("outcome", "denied"), ("reason", "rego")])?;
    }
    stage.mesh.agent("b").wait_log("an audit record with the decision", |line| {
        line.contains("\"audit\"") && line.contains("\"decision.id\"") && line.contains("nobody else")
    })
}

/// A connection of `client` lives, until it is no longer allowed.
fn live_connection_falls(stage: &Stage, change: impl FnOnce() -> Result<()>) -> Result<()> {
    let live = stage.world.pod("client").act(stage.server_address(Family::V4), &["chat:1", "chat:1000000000"])?;
    live.wait("chat", 1)?;
    let began = Instant::now();
    change()?;
    let ended = live.wait("chat", 2)?;
    // A second for the file to be noticed.
    ensure!(ended.end.is_some() && began.elapsed() < scale::longer(BOUND + Duration::from_secs(1)), "{ended:?}");
    let fields = [("direction", "inbound"), ("outcome", "failed"), ("reason", "rego")];
    stage.mesh.agent("b").wait_access(&fields).map(drop)
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn the_agent_decides_by_rego_after_its_own_policies() -> Result<()> {
    let stage = Stage::start(Mode::Strict)?;
    write(&stage, "client")?;
    stage.mesh.edit_mesh("b", "authorization: {rego: {policy: policy.rego}}")?;
    decides(&stage, "client", "neighbour")?;
    live_connection_falls(&stage, || write(&stage, "neighbour"))?;
    decides(&stage, "neighbour", "client")?;
    // A policy that doesn't compile changes nothing.
    stage.mesh.write_file("b", "policy.rego", b"package hauberk\nallow if {\n")?;
    stage.mesh.agent("b").wait_log("the mistake", |line| {
        line.contains("rejected") && line.contains("spec.authorization.rego.policy") && line.contains("policy.rego:3:1")
    })?;
    decides(&stage, "neighbour", "client")
}

/// OPA, given by `MESH_OPA_BIN` or built from its module.
fn opa_bin() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("MESH_OPA_BIN") {
        return Ok(path.into());
    }
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("opa");
    if !directory.join("opa").exists() {
        let mut build = Command::new("go");
        build.env("GOBIN", &directory).env("CGO_ENABLED", "0").args(["install", OPA_VERSION]);
        let output = build.output().context("run `go` (go.dev, 1.25 or newer)")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(directory.join("opa"))
}

fn start_opa(stage: &Stage, account: &str) -> Result<Process> {
    let place = stage.world.node("b").place();
    let path = stage.world.directory().join("opa.rego");
    std::fs::write(&path, policy(account))?;
    let mut command = place.command(opa_bin()?);
    command.args(["run", "--server", "--disable-telemetry", "--watch", "--addr", OPA]).arg(path);
    let mut opa = place.spawn(&mut command)?;
    wait_until(LIMIT, "OPA serves", || {
        ensure!(opa.exited()?.is_none(), "OPA has ended: {}", opa.stderr()?);
        Ok(place.netns.enter(|| Ok(std::net::TcpStream::connect(OPA)?)).is_ok().then_some(()))
    })?;
    Ok(opa)
}

#[test]
#[cfg_attr(not(feature = "soak"), ignore = "needs a real OPA, built for minutes: cargo xtask test --long")]
fn an_opa_server_decides_alike_and_nobody_passes_without_it() -> Result<()> {
    let stage = Stage::start(Mode::Strict)?;
    let opa = start_opa(&stage, "client")?;
    stage.mesh.edit_mesh("b", "authorization: {rego: {server: 'http://127.0.0.1:8181', cacheFor: 2s}}")?;
    decides(&stage, "client", "neighbour")?;
    live_connection_falls(&stage, || {
        std::fs::write(stage.world.directory().join("opa.rego"), policy("neighbour")).context("write a policy")
    })?;
    decides(&stage, "neighbour", "client")?;
    let live = stage.world.pod("neighbour").act(stage.server_address(Family::V4), &["chat:1", "chat:100"])?;
    live.wait("chat", 1)?;
    drop(opa);
    wait_until(LIMIT, "what is remembered is over", || {
        Ok(claims::is_refused(&stage.call_from("neighbour", Family::V4)?).is_ok().then_some(()))
    })?;
    let fields = [("direction", "inbound"), ("outcome", "denied"), ("reason", "rego_failed")];
    stage.mesh.agent("b").wait_access(&fields)?;
    // What was allowed outlives the outage.
    let heard = live.wait("chat", 2)?;
    ensure!(heard.end.is_none(), "{heard:?}");
    let _opa = start_opa(&stage, "client")?;
    decides(&stage, "client", "neighbour")
}
