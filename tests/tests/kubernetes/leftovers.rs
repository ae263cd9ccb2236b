//! What the mesh could leave behind, and what it was not allowed to do.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use mesh_tests::cluster::{Cluster, Meshed, Node, logs, manifests};
use mesh_tests::wait::wait_until;
use serde_json::Value;

use crate::{PATIENCE, PORT};

/// Every file and rule of a node that could be the mesh's. kube-proxy's tables change with every Service.
const LOOK: &str = r#"
for program in iptables-save ip6tables-save nft tc; do command -v $program > /dev/null || { echo "needs $program" >&2; exit 1; }; done
find /sys/fs/bpf /run/hauberk /var/lib/hauberk /etc/cni /opt/cni/bin 2>/dev/null
cat /etc/cni/net.d/*
iptables-save | grep -v '^[#:]'; ip6tables-save | grep -v '^[#:]'
nft list ruleset | awk '/^table/ { ours = !/kube-proxy/ } ours' | sed 's/counter packets [0-9]* bytes [0-9]*//'
tc qdisc show | grep clsact
true"#;

/// Directories of volumes stay, empty.
const VOLUMES: [&str; 2] = ["/run/hauberk", "/var/lib/hauberk"];

/// What is on each node of our own, and last what is in the kernel, whichever node's: programs, which have no link once they are gone, and maps.
pub(crate) fn nodes(cluster: &Cluster) -> Result<Vec<BTreeSet<String>>> {
    let look = |node: &Node| {
        let output = node.command("sh")?.args(["-c", LOOK]).output().context("look at a node")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let lines = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(lines.lines().filter(|line| !VOLUMES.contains(line)).map(str::to_owned).collect())
    };
    let mut found = cluster.nodes().iter().map(look).collect::<Result<Vec<BTreeSet<_>>>>()?;
    if cluster.is_elsewhere() {
        return Ok(found);
    }
    let programs = aya::programs::loaded_programs().filter_map(|program| Some(program.ok()?.name_as_str()?.to_owned()));
    let maps = aya::maps::loaded_maps().filter_map(|map| Some(map.ok()?.name_as_str()?.to_owned()));
    found.push(programs.chain(maps).filter(|name| name.starts_with("mesh_")).collect());
    Ok(found)
}

pub(crate) fn uninstalling_leaves_the_nodes_as_they_were(meshed: &Meshed, pristine: &[BTreeSet<String>]) -> Result<()> {
    let with_the_mesh = nodes(&meshed.cluster)?;
    for (number, (now, before)) in with_the_mesh.iter().zip(pristine).enumerate() {
        // The kernel's may have been there before: another mesh's, of this machine.
        let seen = if number < meshed.cluster.nodes().len() { now.difference(before).count() } else { now.len() };
        ensure!(seen > 10, "of node {number} nothing is seen: {now:?}");
    }
    let (client, server) = (meshed.pod_on("client", "node-1")?, meshed.pod_on("web", "node-2")?);
    let destination = SocketAddr::new(server.address, PORT);
    let uninstalled = meshed.operator(&meshed.program()?, &["uninstall", "--kubernetes"]).output();
    let uninstalled = uninstalled.context("start mesh-agent uninstall")?;
    ensure!(uninstalled.status.success(), "{uninstalled:?}\n{}", logs(&meshed.kubectl));
    // Plain again, and nothing was restarted.
    let answer = meshed.fetch("shop", &client.name, destination)?;
    assert!(answer.status.success(), "{answer:?}");
    assert!(meshed.fetch("elsewhere", "stranger", destination)?.status.success());
    the_mesh_asked_for_nothing_that_it_may_not(meshed)?;
    meshed.kubectl.run(&["delete", "--kustomize", &manifests(), "--wait=true", "--timeout=60s"])?;
    let mut left = Vec::new();
    let waited = wait_until(PATIENCE, "the nodes are as they were", || {
        let now = nodes(&meshed.cluster)?;
        left = now.iter().zip(pristine).flat_map(|(now, before)| now.difference(before).cloned()).collect();
        Ok(left.is_empty().then_some(()))
    });
    waited.with_context(|| left.join("\n"))
}

/// Asked in the middle of the story and at its end, whatever went wrong in it.
pub(crate) fn the_mesh_asked_for_nothing_that_it_may_not(meshed: &Meshed) -> Result<()> {
    if meshed.cluster.is_elsewhere() {
        return Ok(());
    }
    let log = meshed.cluster.audit_log()?;
    // The last line may be half written.
    let events: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    ensure!(events.len() > 20, "only {} requests are written down", events.len());
    let is_refused = |event: &&Value| {
        event["annotations"]["authorization.k8s.io/decision"] == "forbid" || event["responseStatus"]["code"] == 403
    };
    let refused: Vec<_> = events.iter().filter(is_refused).map(Value::to_string).collect();
    ensure!(refused.is_empty(), "{} requests were refused:\n{}", refused.len(), refused.join("\n"));
    Ok(())
}
