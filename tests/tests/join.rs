//! The signing service and its nodes: who joins, who gets what, and that no secret is left anywhere.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use mesh_tests::claims;
use mesh_tests::issuer::IssuerKind;
use mesh_tests::mesh::{Mesh, Mode, agent_bin, spiffe_id};
use mesh_tests::stage::{self, MARKER, PORT};
use mesh_tests::wait::{LIMIT, wait_until};
use mesh_tests::world::{Family, PodSpec, World};

/// PKCS #8 of any P-256 key begins like this (RFC 5958, RFC 5915).
const KEY_BEGINS: &[u8] = &[
    0x02, 0x01, 0x00, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48,
    0xce, 0x3d, 0x03, 0x01, 0x07, 0x04,
];

fn mesh(world: &World) -> Result<Mesh> {
    let setup = Mesh::setup(world, &agent_bin()?, Mode::Strict).issuer(IssuerKind::Remote);
    setup.svids("svidLifetime: 8s, allowShortLifetimes: true, refresh: 300ms").start()
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn a_token_joins_once_and_not_after_its_end() -> Result<()> {
    let world = stage::world()?;
    let _server = world.pod("server").serve(PORT)?;
    let mut mesh = mesh(&world)?;
    let to = world.address("server", Family::V4, PORT);
    claims::answer_is_right(&world.pod("client").call(to, MARKER)?)?;
    let token = mesh.token_file("a");
    mesh.agent_mut("a").kill9()?;
    mesh.agent_mut("a").start_again()?;
    let refused = |line: &str, why: &str| line.contains("svid refused") && line.contains("audit") && line.contains(why);
    mesh.authority().wait_log("a used token is audited", |line| refused(line, "the join token has been used"))?;
    mesh.agent("a").wait_log("the agent says why", |line| line.contains("the join token has been used"))?;
    mesh.authority().token("a", 0, &token)?;
    mesh.authority().wait_log("an expired token is audited", |line| refused(line, "the join token has expired"))?;
    claims::is_refused(&world.pod("client").call(to, MARKER)?)?;
    // A good token is taken up without a restart.
    mesh.authority().token("a", 60, &token)?;
    mesh.agent_mut("a").wait_ready()?;
    claims::answer_is_right(&world.pod("client").call(to, MARKER)?)?;
    let joined = mesh.authority().journal()?.lines().filter(|line| line.contains("\"token\"")).count();
    ensure!(joined == 3, "{}", mesh.authority().journal()?);
    the_service_audits_who_joined(&mut mesh)
}

/// `--audit-log` of the signing service: who joined and who was refused, in a chain that goes on over a restart.
fn the_service_audits_who_joined(mesh: &mut Mesh) -> Result<()> {
    mesh.authority_mut().stop()?;
    mesh.authority_mut().start()?;
    let text = std::fs::read_to_string(mesh.authority().audit())?;
    let records: Vec<serde_json::Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let of = |event: &str| records.iter().filter(|record| record["event"] == event).count();
    ensure!(of("node joined") == 3 && of("audit log opened") == 2 && of("audit log closed") == 1, "{text}");
    ensure!(of("svid issued") >= 3, "{text}");
    let refused: Vec<_> = records.iter().filter(|record| record["event"] == "svid refused").collect();
    ensure!(refused.iter().any(|record| record["fields"]["reason"] == "the join token has been used"), "{refused:?}");
    let verified = mesh.authority().verify_audit()?;
    ensure!(verified.contains("are as they were written"), "{verified}");
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn a_node_that_asks_for_a_workload_of_another_is_refused_and_audited() -> Result<()> {
    let world = stage::world()?;
    let mesh = mesh(&world)?;
    // The issuer's own documents say where a workload runs; node a still believes that it has `client`.
    let document = mesh.authority().config().join("client.yaml");
    let text = std::fs::read_to_string(&document)?;
    ensure!(text.contains("node: a\n"), "{text}");
    std::fs::write(&document, text.replace("node: a\n", "node: b\n"))?;
    let id = spiffe_id("client");
    mesh.authority().wait_log("the refusal is audited", |line| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
        line["target"] == "audit" && line["node"] == "a" && line["svid.id"] == id.as_str()
    })?;
    wait_until(LIMIT, "the agent counts the refusal", || {
        Ok((mesh.agent("a").metric("mesh_svid_failures_total", &[])? > 0.5).then_some(()))
    })
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn no_secret_is_left_in_a_file_or_a_log_and_the_issuer_cannot_be_dumped() -> Result<()> {
    let world = stage::world()?;
    let _server = world.pod("server").serve(PORT)?;
    let mesh = mesh(&world)?;
    claims::answer_is_right(&world.pod("client").call(world.address("server", Family::V4, PORT), MARKER)?)?;
    // The keys of the audit logs prove no identity: they sign checkpoints and nothing else.
    let audit_keys = ["a", "b"].map(|node| mesh.agent(node).audit().with_extension("key"));
    let of_issuer = [mesh.authority().directory().join("ca.key"), mesh.authority().audit().with_extension("key")];
    let mut keys: Vec<_> = audit_keys.into_iter().chain(of_issuer).collect();
    keys.sort();
    let tokens = ["a", "b"].map(|node| mesh.token_file(node));
    let (mut with_key, mut with_token) = (Vec::new(), Vec::new());
    for path in files(world.directory())? {
        let bytes = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let has = |needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
        if has(b"PRIVATE KEY") || has(KEY_BEGINS) {
            with_key.push(path.clone());
        }
        // What `ca token` printed is in the test's own files, beside where it belongs.
        if has(b"hauberk-join-1:") && path.extension().is_none_or(|extension| extension != "out") {
            with_token.push(path);
        }
    }
    with_key.sort();
    ensure!(with_key == keys, "keys in {with_key:?}");
    ensure!(with_token.len() == 2 && with_token.iter().all(|path| tokens.contains(path)), "tokens in {with_token:?}");

    // Another process of root without privileges can read a bystander's memory map, but not the issuer's.
    let place = world.node("a").place();
    let readable = |id: u32| -> Result<bool> {
        let mut command = place.command("setpriv");
        command.args(["--bounding-set=-all", "--inh-caps=-all", "cat", &format!("/proc/{id}/maps")]);
        Ok(place.run(&mut command)?.status.success())
    };
    let mut bystander = place.command("setpriv");
    let bystander = place.spawn(bystander.args(["--bounding-set=-all", "--inh-caps=-all", "sleep", "1000"]))?;
    wait_until(LIMIT, "the bystander can be read", || Ok(readable(bystander.id())?.then_some(())))?;
    ensure!(!readable(mesh.authority().id()?)?, "the issuer's memory can be read");
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn what_a_node_got_is_revoked_as_a_whole_and_nothing_else() -> Result<()> {
    let world = stage::world()?;
    let _server = world.pod("server").serve(PORT)?;
    let mesh = Mesh::setup(&world, &agent_bin()?, Mode::Strict).issuer(IssuerKind::Remote).start()?;
    let to = world.address("server", Family::V4, PORT);
    claims::answer_is_right(&world.pod("client").call(to, MARKER)?)?;
    let document = mesh.authority().revocation_of("a")?;
    let serials: Vec<_> = document.lines().filter_map(|line| line.strip_prefix("    - ")).collect();
    let journal: Vec<serde_json::Value> =
        mesh.authority().journal()?.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let (of_a, others): (Vec<_>, Vec<_>) = journal.iter().partition(|entry| entry["node"] == "a");
    let is_listed =
        |entry: &&serde_json::Value| serials.contains(&&*format!("'{}'", entry["serial"].as_str().unwrap()));
    ensure!(of_a.len() > 1 && of_a.iter().all(is_listed) && !others.iter().any(is_listed), "{document}");
    mesh.write_file("b", "lost.yaml", document.as_bytes())?;
    wait_until(LIMIT, "the client of node a is refused", || {
        Ok(claims::is_refused(&world.pod("client").call(to, MARKER)?).is_ok().then_some(()))
    })?;
    // The one that was refused may have been let in before, and have fallen.
    claims::is_refused(&world.pod("client").call(to, MARKER)?)?;
    mesh.agent("b").wait_access(&[("outcome", "denied"), ("reason", "revoked")])?;
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn an_agent_alone_makes_its_ca_once() -> Result<()> {
    // All workloads are on one node.
    let world = World::builder()
        .node("a")
        .pod(PodSpec::workload("client"))
        .pod(PodSpec::workload("server"))
        .node("b")
        .build()?;
    let _server = world.pod("server").serve(PORT)?;
    let mut mesh = Mesh::setup(&world, &agent_bin()?, Mode::Strict).issuer(IssuerKind::Own).start()?;
    let call = || world.pod("client").call(world.address("server", Family::V4, PORT), MARKER);
    claims::answer_is_right(&call()?)?;
    let key = world.directory().join("mesh/a/ca/ca.key");
    let mode = std::fs::metadata(&key)?.permissions().mode() & 0o777;
    ensure!(mode == 0o600, "{mode:o}");
    let before = std::fs::read(&key)?;
    mesh.agent_mut("a").restart()?;
    claims::answer_is_right(&call()?)?;
    ensure!(std::fs::read(&key)? == before, "another CA");
    Ok(())
}

fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        match path.symlink_metadata()?.file_type() {
            kind if kind.is_dir() && !path.ends_with("bpffs") => found.extend(files(&path)?),
            kind if kind.is_file() => found.push(path),
            _ => {}
        }
    }
    found.sort();
    Ok(found)
}
