//! The audit log of a running agent: what happens is in it, a crash doesn't break it, and tampering shows.

use anyhow::{Context as _, Result, ensure};
use mesh_tests::agent::Agent;
use mesh_tests::claims;
use mesh_tests::mesh::{Mesh, Mode, spiffe_id};
use mesh_tests::stage::{MARKER, PORT};
use mesh_tests::wait::{LIMIT, wait_until};
use mesh_tests::world::{Family, World};
use serde_json::Value;

fn event(record: &Value) -> &str {
    record["event"].as_str().unwrap_or_default()
}

/// The newest checkpoint that the agent logged: the copy that is kept elsewhere.
fn logged_checkpoint(agent: &Agent) -> Result<String> {
    let text = std::fs::read_to_string(agent.log())?;
    let mut lines = text.lines().rev().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let checkpoint = lines.find(|line| line["target"] == "checkpoint").context("no checkpoint in the log")?;
    Ok(checkpoint["record"].as_str().context("no record")?.to_owned())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn security_events_are_audited_over_a_crash_and_tampering_shows() -> Result<()> {
    let world = World::standard()?;
    let _server = world.pod("server").serve(PORT)?;
    let mut mesh = Mesh::start(&world, Mode::Strict)?;
    let call = || world.pod("client").call(world.address("server", Family::V4, PORT), MARKER);
    claims::answer_is_right(&call()?)?;
    let agent = mesh.agent("a");
    let id = spiffe_id("client");
    agent.wait_audit("an SVID is issued", |record| {
        event(record) == "svid issued" && record["fields"]["svid.id"] == id.as_str()
    })?;
    mesh.write_document("a", "Revocation", "lost", &format!("{{spiffeIds: ['{}']}}", spiffe_id("server")))?;
    agent.wait_audit("the change", |record| event(record) == "changed configuration taken")?;
    claims::is_refused(&call()?)?;
    let denied = agent.wait_audit("the denial", |record| event(record) == "connection denied")?;
    ensure!(denied["fields"]["reason"] == "revoked" && denied["time"].as_str().is_some_and(|time| time.ends_with('Z')));
    mesh.write_document("a", "Revocation", "lost", "{spiffeId: []}")?;
    let rejected = agent.wait_audit("the rejection", |record| event(record) == "changed configuration rejected")?;
    ensure!(rejected["fields"]["reason"].as_str().is_some_and(|reason| reason.contains("spec.spiffeId")), "{rejected}");
    let crashed_at = agent.audit_records()?.len();
    mesh.remove_file("a", "lost.yaml")?;

    let agent = mesh.agent_mut("a");
    agent.kill9()?;
    agent.restart()?;
    let agent = mesh.agent("a");
    let sequence = |record: &Value| record["seq"].as_u64();
    let records = agent.audit_records()?;
    ensure!(records.len() > crashed_at && records.iter().map(sequence).eq((1..=records.len() as u64).map(Some)));
    ensure!(records.iter().filter(|record| event(record) == "audit log opened").count() == 2);
    wait_until(LIMIT, "a checkpoint after the restart", || {
        let number = logged_checkpoint(agent).map(|line| serde_json::from_str::<Value>(&line).ok());
        Ok(number?.and_then(|line| sequence(&line)).filter(|number| *number > crashed_at as u64 + 1))
    })?;

    let kept = agent.audit().with_file_name("kept");
    std::fs::write(&kept, logged_checkpoint(agent)?)?;
    let key = agent.audit().with_extension("pub");
    let evidence = ["--key", &key.display().to_string(), "--checkpoint", &kept.display().to_string()];
    let said = agent.verify_audit(&evidence)?.success()?;
    ensure!(
        said.contains("are as they were written") && said.contains("checkpoints kept elsewhere that agree: 1"),
        "{said}"
    );
    mesh.agent_mut("a").terminate()?;
    tampering_shows(mesh.agent("a"), &evidence)
}

fn tampering_shows(agent: &Agent, evidence: &[&str]) -> Result<()> {
    let whole = std::fs::read_to_string(agent.audit())?;
    ensure!(whole.lines().last().is_some_and(|line| line.contains("\"event\":\"checkpoint\"")), "{whole}");
    let cases = [
        (whole.replacen("\"revoked\"", "\"resumed\"", 1), "was changed: its hash is"),
        (whole.split_inclusive('\n').skip(1).collect(), "begins with record 2"),
        (whole.split_inclusive('\n').take(4).collect(), "the end was cut off"),
    ];
    for (text, expected) in cases {
        std::fs::write(agent.audit(), text)?;
        let found = agent.verify_audit(evidence)?;
        ensure!(found.stdout.contains(expected), "`{expected}` is not in\n{}", found.stdout);
        ensure!(found.status.success() == expected.starts_with("begins"), "{expected}");
    }
    Ok(())
}
