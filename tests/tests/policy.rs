//! Who may connect to whom: enforced at the server's node, changed live, and told in the access log.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use mesh_tests::app::Called;
use mesh_tests::claims;
use mesh_tests::mesh::{Mesh, Mode, TRUST_DOMAIN};
use mesh_tests::scale;
use mesh_tests::stage::{MARKER, PORT, Stage};
use mesh_tests::wait::{LIMIT, wait_until};
use mesh_tests::world::{Family, WORKLOAD_NAMESPACE};
use serde_json::Value;

/// The bound for connections that are no longer allowed.
const BOUND: Duration = Duration::from_secs(5);
/// A port that no document is about.
const OTHER_PORT: u16 = 7001;

const AUTHORIZATION: &str = "AuthorizationPolicy";
const AUTHENTICATION: &str = "PeerAuthentication";

/// A rule for the identity of one workload.
fn from(pod: &str) -> String {
    format!("[{{from: [{{source: {{principals: [{TRUST_DOMAIN}/ns/{WORKLOAD_NAMESPACE}/sa/{pod}]}}}}]}}]")
}

/// The rules of an access line's `policy`.
fn named(policy: &str) -> String {
    format!("{WORKLOAD_NAMESPACE}/{policy}")
}

fn call(stage: &Stage, pod: &str) -> Result<Called> {
    stage.call_from(pod, Family::V4)
}

/// Waits until `node` has taken as many configurations as it is told to.
fn write(mesh: &Mesh, node: &str, kind: &str, name: &str, spec: &str) -> Result<()> {
    taken(mesh, node, || mesh.write_document(node, kind, name, spec))
}

fn remove(mesh: &Mesh, node: &str, name: &str) -> Result<()> {
    taken(mesh, node, || mesh.remove_file(node, &format!("{name}.yaml")))
}

fn taken(mesh: &Mesh, node: &str, change: impl FnOnce() -> Result<()>) -> Result<()> {
    let count = || mesh.agent(node).metric("mesh_config_accepted_total", &[]);
    let before = count()?;
    change()?;
    wait_until(LIMIT, "the new configuration is in force", || Ok((count()? > before + 0.5).then_some(())))
}

/// `client` gets a reset, the application hears nothing of it, and the log names the policy.
fn is_denied(stage: &Stage, policy: &str) -> Result<()> {
    let called = claims::plaintext_is_refused(stage, "client", Family::V4)?;
    let local = called.local.context("the client has no address")?.to_string();
    let named = named(policy);
    let fields = [("src.addr", &*local), ("outcome", "denied"), ("reason", "policy"), ("policy", &named)];
    let line = stage.mesh.agent("b").wait_access(&fields)?;
    ensure!(line.field("src.id").ends_with("/client"), "{line:?}");
    // One record, with everything.
    let agent = stage.mesh.agent("b");
    let of_it = |record: &Value| record["fields"]["src.addr"] == local.as_str();
    let record = agent.wait_audit("the record of the denial", of_it)?;
    let fields = &record["fields"];
    ensure!(record["event"] == "connection denied" && fields["reason"] == "policy", "{record}");
    ensure!(fields["policy"] == named.as_str() && fields["peer.serial"].is_string(), "{record}");
    ensure!(fields["workload.serial"].is_string(), "{record}");
    let fence = agent.audit_records()?;
    ensure!(fence.iter().filter(|record| of_it(record)).count() == 1, "{fence:?}");
    Ok(())
}

fn is_allowed(stage: &Stage, pod: &str, policy: Option<&str>) -> Result<()> {
    let called = call(stage, pod)?;
    claims::answer_is_right(&called)?;
    let local = called.local.context("the client has no address")?.to_string();
    let line = stage.mesh.agent("b").wait_access(&[("direction", "inbound"), ("src.addr", &local)])?;
    ensure!(line.has(&[("outcome", "ok")]), "{line:?}");
    match policy {
        Some(policy) => ensure!(line.has(&[("policy", &named(policy))]), "{line:?}"),
        None => ensure!(!line.has(&[("reason", "policy")]), "{line:?}"),
    }
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn policies_are_added_and_removed_under_traffic() -> Result<()> {
    let stage = Stage::start(Mode::Strict)?;
    let mesh = &stage.mesh;
    is_allowed(&stage, "client", None)?;
    let live = stage.world.pod("neighbour").act(stage.server_address(Family::V6), &["chat:1", "chat:200", "chat:1"])?;
    live.wait("chat", 1)?;
    write(mesh, "b", AUTHORIZATION, "allow", &format!("{{rules: {}}}", from("neighbour")))?;
    // A session that is resumed is asked as well.
    is_denied(&stage, "allow")?;
    is_allowed(&stage, "neighbour", Some("allow"))?;
    write(mesh, "b", AUTHORIZATION, "allow-client", &format!("{{rules: {}}}", from("client")))?;
    is_allowed(&stage, "client", Some("allow-client"))?;
    write(mesh, "b", AUTHORIZATION, "deny", &format!("{{action: DENY, rules: {}}}", from("client")))?;
    is_denied(&stage, "deny")?;
    remove(mesh, "b", "deny")?;
    remove(mesh, "b", "allow-client")?;
    is_denied(&stage, "allow")?;
    remove(mesh, "b", "allow")?;
    is_allowed(&stage, "client", None)?;
    // Whoever was allowed all the time has noticed nothing.
    let heard = live.wait("chat", 3)?;
    ensure!(heard.end.is_none(), "{heard:?}");
    let agent = mesh.agent("b");
    ensure!(agent.metric("mesh_connections_closed_total", &[("reason", "policy")])? >= 3.0);
    // Only policies that are in force have series.
    let decided = |policy: &str| agent.metric("mesh_policy_decisions_total", &[("policy", policy)]);
    ensure!(decided(&named("deny"))? + decided(&named("allow"))? < 0.5, "{}", agent.metrics()?);
    ensure!(agent.metric("mesh_policy_decisions_total", &[("action", "allow")])? >= 2.0, "{}", agent.metrics()?);
    write(mesh, "b", AUTHORIZATION, "again", &format!("{{action: DENY, rules: {}}}", from("client")))?;
    is_denied(&stage, "again")?;
    ensure!(decided(&named("again"))? > 0.5, "{}", agent.metrics()?);
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn a_live_connection_that_is_no_longer_allowed_falls() -> Result<()> {
    let stage = Stage::start(Mode::Strict)?;
    let bulk = stage.world.pod("server").act_serve(OTHER_PORT, &["drain"])?;
    let to = stage.world.address("server", Family::V4, OTHER_PORT);
    let client = stage.world.pod("client").act(to, &["send:1000000", "send:1000000000000"])?;
    client.wait("send", 1)?;
    let began = Instant::now();
    let spec = format!("{{selector: {{matchLabels: {{app: server}}}}, action: DENY, rules: {}}}", from("client"));
    stage.mesh.write_document("b", AUTHORIZATION, "deny", &spec)?;
    for heard in [client.wait("send", 2)?, bulk.wait("drain", 1)?] {
        ensure!(heard.end.as_deref() == Some("ConnectionReset"), "{heard:?}");
    }
    ensure!(began.elapsed() < scale::longer(BOUND), "after {:?}", began.elapsed());
    let fields = [("outcome", "failed"), ("reason", "policy"), ("policy", &*named("deny"))];
    stage.mesh.agent("b").wait_access(&fields)?;
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn audit_records_and_lets_pass() -> Result<()> {
    let stage = Stage::start(Mode::Strict)?;
    write(&stage.mesh, "b", AUTHORIZATION, "see", &format!("{{action: AUDIT, rules: {}}}", from("client")))?;
    is_allowed(&stage, "client", None)?;
    let is_record = |line: &str| line.contains("audit_policy") && line.contains(&named("see"));
    stage.mesh.agent("b").wait_log("the record", is_record)
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn the_hour_decides() -> Result<()> {
    let stage = Stage::start(Mode::Strict)?;
    let hour = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() / 3600 % 24;
    let rule = |from: u64, to: u64| {
        let (from, to) = ((hour + from) % 24, (hour + to) % 24);
        format!("{{rules: [{{when: [{{time: {{from: '{from:02}:00', to: '{to:02}:00', timeZone: UTC}}}}]}}]}}")
    };
    write(&stage.mesh, "b", AUTHORIZATION, "hours", &rule(23, 2))?;
    is_allowed(&stage, "client", Some("hours"))?;
    write(&stage.mesh, "b", AUTHORIZATION, "hours", &rule(3, 22))?;
    let called = call(&stage, "client")?;
    claims::is_refused(&called)?;
    let local = called.local.context("the client has no address")?.to_string();
    let fields = [("src.addr", &*local), ("reason", "policy"), ("policy", &*named("hours"))];
    stage.mesh.agent("b").wait_access(&fields)?;
    Ok(())
}

/// Windows are whole minutes: this waits for the next one.
#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn a_live_connection_falls_when_its_hours_end() -> Result<()> {
    let stage = Stage::start(Mode::Strict)?;
    let to = stage.world.address("server", Family::V4, PORT);
    let client = stage.world.pod("client").act(to, &["chat:1", "chat:100000"])?;
    client.wait("chat", 1)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let end = (now + 5).next_multiple_of(60);
    let of_day = |minutes: u64| format!("{:02}:{:02}", minutes / 60 % 24, minutes % 60);
    let (begin, until) = (of_day(end / 60 + 24 * 60 - 120), of_day(end / 60));
    let rule = format!("{{rules: [{{when: [{{time: {{from: '{begin}', to: '{until}', timeZone: UTC}}}}]}}]}}");
    write(&stage.mesh, "b", AUTHORIZATION, "hours", &rule)?;
    is_allowed(&stage, "client", Some("hours"))?;
    let fell = wait_until(Duration::from_secs(65) + BOUND, "the connection falls", || {
        Ok(client.reports()?.into_iter().find_map(|report| report.end))
    })?;
    let late = SystemTime::now().duration_since(UNIX_EPOCH + Duration::from_secs(end)).context("it fell too early")?;
    ensure!(fell == "ConnectionReset" && late < scale::longer(BOUND), "{fell}, {late:?} after its hours");
    let fields = [("outcome", "failed"), ("reason", "policy"), ("policy", &*named("hours"))];
    stage.mesh.agent("b").wait_access(&fields)?;
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn one_port_is_strict_where_the_mesh_is_permissive() -> Result<()> {
    let stage = Stage::start(Mode::Permissive)?;
    let _other = stage.world.pod("server").serve(OTHER_PORT)?;
    let outsider = stage.world.pod("outsider");
    claims::answer_is_right(&call(&stage, "outsider")?)?;
    let old = outsider.act(stage.server_address(Family::V4), &["chat:1", "chat:1000"])?;
    old.wait("chat", 1)?;
    let spec = format!("{{selector: {{matchLabels: {{app: server}}}}, portLevelMtls: {{{PORT}: {{mode: STRICT}}}}}}");
    write(&stage.mesh, "b", AUTHENTICATION, "strict", &spec)?;
    claims::plaintext_is_refused(&stage, "outsider", Family::V4)?;
    // What is older than the rule falls with it.
    let fell = old.wait("chat", 2)?;
    ensure!(fell.end.is_some(), "{fell:?}");
    stage.mesh.agent("b").wait_access(&[("reason", "plaintext_refused"), ("policy", &named("strict"))])?;
    claims::answer_is_right(&outsider.call(stage.world.address("server", Family::V4, OTHER_PORT), MARKER)?)?;
    claims::wire_is_tls(&stage, Family::V4)?;
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn plaintext_is_nobody_to_a_policy() -> Result<()> {
    let stage = Stage::start(Mode::Permissive)?;
    let everybody = "{rules: [{from: [{source: {principals: ['*']}}]}]}";
    write(&stage.mesh, "b", AUTHORIZATION, "members", everybody)?;
    claims::plaintext_is_refused(&stage, "outsider", Family::V4)?;
    is_allowed(&stage, "client", Some("members"))
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn where_mutual_tls_is_disabled_members_talk_plaintext() -> Result<()> {
    let stage = Stage::start(Mode::Permissive)?;
    let spec = |mode| format!("{{selector: {{matchLabels: {{app: server}}}}, mtls: {{mode: {mode}}}}}");
    // The namespace may not, unless the operator lets it.
    write(&stage.mesh, "b", AUTHENTICATION, "mode", &spec("DISABLE"))?;
    write(&stage.mesh, "a", AUTHENTICATION, "mode", &spec("DISABLE"))?;
    claims::wire_is_tls(&stage, Family::V4)?;
    for node in ["a", "b"] {
        taken(&stage.mesh, node, || stage.mesh.edit_mesh(node, "mayLoosen: [demo/mode]"))?;
    }
    let mark = stage.capture.mark()?;
    let called = call(&stage, "client")?;
    claims::answer_is_right(&called)?;
    ensure!(stage.capture.trace()?.since(mark).contains(MARKER), "the wire shows no plaintext");
    let local = called.local.context("the client has no address")?.to_string();
    let line = stage.mesh.agent("b").wait_access(&[("direction", "inbound"), ("src.addr", &local)])?;
    ensure!(!line.has(&[("tls.version", "TLSv1.3")]), "{line:?}");
    Ok(())
}
