//! The commands that ask a running agent, as an operator meets them.

use anyhow::{Result, ensure};
use mesh_tests::mesh::{Mesh, Mode, agent_bin, spiffe_id};
use mesh_tests::stage::PORT;
use mesh_tests::wait::{LIMIT, wait_until};
use mesh_tests::world::{Family, World};
use serde_json::Value;

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn an_agent_tells_its_status_workloads_connections_and_certificates() -> Result<()> {
    let world = World::standard()?;
    let _server = world.pod("server").serve(PORT)?;
    let mesh = Mesh::start(&world, Mode::Strict)?;
    let agent = mesh.agent("a");
    let to = world.address("server", Family::V4, PORT);
    let long = world.pod("client").act(to, &["chat:1", "chat:10"])?;
    long.wait("chat", 1)?;
    let json = |command: &str| -> Result<Value> { Ok(serde_json::from_str(&agent.ask(&[command, "-o", "json"])?)?) };

    let connections = wait_until(LIMIT, "the connection has moved bytes", || {
        let all = json("connections")?;
        Ok(all[0]["bytes_received"].as_u64().is_some_and(|bytes| bytes > 0).then_some(all))
    })?;
    let of = |field: &str| connections[0][field].as_str().unwrap_or_default().to_owned();
    ensure!(connections.as_array().is_some_and(|all| all.len() == 1), "{connections}");
    ensure!((of("direction"), of("destination")) == ("outbound".to_owned(), to.to_string()), "{connections}");
    ensure!((of("workload"), of("peer")) == (spiffe_id("client"), spiffe_id("server")), "{connections}");
    ensure!(of("process").starts_with("mesh-test-app ("), "{connections}");
    let table = agent.ask(&["connections"])?;
    ensure!(table.starts_with("DIRECTION  SOURCE"), "{table}");
    ensure!(table.contains(&spiffe_id("server")) && !table.contains('\x1b'), "{table}");

    let status = json("status")?;
    ensure!(status["ready"] == true && status["node"] == "a" && status["connections"] == 1, "{status}");
    ensure!(status["configuration"]["rejected"] == Value::Null && status["issuer"]["trust_roots"] == 1, "{status}");
    ensure!(status["audit"]["sequence"].as_u64().is_some_and(|number| number > 0), "{status}");
    let table = agent.ask(&["status"])?;
    ensure!(table.contains("\nready          yes\n") && table.contains("\nconnections    1\n"), "{table}");

    let yaml = agent.ask(&["workloads", "-o", "yaml"])?;
    ensure!(yaml.contains(&format!("identity: {}", spiffe_id("client"))) && yaml.contains("enrolled: true"), "{yaml}");
    let certificates = json("certificates")?;
    let svids = certificates["svids"].as_array().map_or(0, Vec::len);
    ensure!(svids >= 1 && certificates["svids"][0]["valid"] == true, "{certificates}");
    let line = agent.wait_access(&[("outcome", "ok")]);
    drop(long);
    drop(line);

    mesh.write_document("a", "Revocation", "lost", "{spiffeId: []}")?;
    wait_until(LIMIT, "the rejection is told", || {
        Ok(agent.ask(&["status"])?.contains("spec.spiffeId: unknown field").then_some(()))
    })
}

/// Who gets past the file's mode, with a capability, is refused all the same: the kernel says who it is.
#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn another_user_is_told_nothing_and_audited() -> Result<()> {
    const NOBODY: &str = "65534";
    let world = World::standard()?;
    let mesh = Mesh::start(&world, Mode::Strict)?;
    let agent = mesh.agent("a");
    let ask = |capabilities: &[&str]| {
        let mut command = agent.place().command("setpriv");
        command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]).args(capabilities);
        command.arg(agent_bin()?).args(["status", "--admin-socket"]).arg(agent.socket());
        agent.place().run(&mut command)
    };
    let overriding = "+dac_override";
    let privileged = ask(&["--inh-caps", overriding, "--ambient-caps", overriding])?;
    ensure!(!privileged.status.success() && privileged.stdout.is_empty(), "{privileged:?}");
    ensure!(privileged.stderr.contains("the agent gave no answer"), "{privileged:?}");
    let record = agent.wait_audit("the refusal", |record| record["event"] == "admin access refused")?;
    ensure!(record["fields"]["peer.uid"] == 65534, "{record}");
    let plain = ask(&[])?;
    ensure!(!plain.status.success() && plain.stdout.is_empty() && plain.stderr.contains("are you root?"), "{plain:?}");
    ensure!(agent.ask(&["status"])?.starts_with("node           a"));
    Ok(())
}
