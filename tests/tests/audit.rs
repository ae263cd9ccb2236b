//! The audit log of a running agent: what happens is in it, a crash doesn't break it, and tampering shows.

use std::io::ErrorKind;

use anyhow::{Context as _, Result, ensure};
use mesh_tests::agent::Agent;
use mesh_tests::claims;
use mesh_tests::guard::{Cleanup, Undo};
use mesh_tests::mesh::{Mesh, Mode, spiffe_id};
use mesh_tests::stage::{MARKER, PORT};
use mesh_tests::wait::{LIMIT, wait_until};
use mesh_tests::world::{Family, World};
use rustix::mount::{MountFlags, mount};
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

/// The audit log's file system is full: the agent says so and goes on, and nothing is missing once there is room.
#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn a_full_disk_is_told_and_stops_nothing() -> Result<()> {
    let world = World::standard()?;
    let _server = world.pod("server").serve(PORT)?;
    let mut mesh = Mesh::start(&world, Mode::Strict)?;
    let directory = mesh.agent("a").audit().with_file_name("");
    mesh.agent_mut("a").terminate()?;
    std::fs::remove_dir_all(&directory)?;
    std::fs::create_dir(&directory)?;
    let cleanup = Cleanup::new()?;
    cleanup.make(Undo::Mount(directory.clone()), || {
        Ok(mount("tmpfs", &directory, "tmpfs", MountFlags::empty(), Some(c"size=256k"))?)
    })?;
    mesh.agent_mut("a").restart()?;
    let agent = mesh.agent("a");
    let filler = directory.join("filler");
    let wrote = std::fs::write(&filler, vec![0; 1 << 20]);
    ensure!(wrote.is_err_and(|error| error.kind() == ErrorKind::StorageFull));
    let call = || world.pod("client").call(world.address("server", Family::V4, PORT), MARKER);
    let id = spiffe_id("server");
    // Enough records that what is left of the file's last page doesn't take them.
    for round in 0..20 {
        mesh.write_document("a", "Revocation", "lost", &format!("{{serials: ['{round:02}']}}"))?;
        wait_until(LIMIT, "the change is taken", || {
            Ok((agent.metric("mesh_config_accepted_total", &[])? > f64::from(round) + 1.5).then_some(()))
        })?;
        if agent.metric("mesh_audit_writable", &[])? < 0.5 {
            break;
        }
    }
    wait_until(LIMIT, "the trouble is told", || Ok((agent.metric("mesh_audit_writable", &[])? < 0.5).then_some(())))?;
    agent.wait_log("the log tells it", |line| {
        line.contains("the audit log can't be written") && line.contains("No space")
    })?;
    ensure!(
        agent.ask(&["status"])?.contains("audit log      can't be written: No space"),
        "{}",
        agent.ask(&["status"])?
    );
    claims::answer_is_right(&call()?)?;
    mesh.write_document("a", "Revocation", "lost", &format!("{{spiffeIds: ['{id}']}}"))?;
    wait_until(LIMIT, "the server is refused", || Ok(claims::is_refused(&call()?).ok()))?;
    // That one may have been live already.
    claims::is_refused(&call()?)?;
    std::fs::remove_file(&filler)?;
    wait_until(LIMIT, "it is written again", || Ok((agent.metric("mesh_audit_writable", &[])? > 0.5).then_some(())))?;
    agent.wait_audit("the denial of the hard time", |record| event(record) == "connection denied")?;
    ensure!(agent.metric("mesh_audit_records_lost_total", &[])? < 0.5);
    let verified = agent.verify_audit(&[])?;
    ensure!(verified.status.success(), "{verified:?}");
    mesh.agent_mut("a").terminate()?;
    drop(cleanup);
    Ok(())
}
