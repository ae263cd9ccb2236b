//! How long an identity lasts: until the pod's sandbox is taken down, and not a moment longer.

use std::net::SocketAddr;

use anyhow::Result;
use mesh_tests::cluster::{Meshed, logs};
use mesh_tests::wait::wait_until;

use crate::{PATIENCE, PORT, SECRET};

/// Calls in either direction while it ends: enough for the agents to have heard of it.
const CALLS: usize = 5;

/// With a grace of half a minute, which it uses: it serves and calls as before, until its sandbox goes.
pub(crate) fn a_pod_that_is_being_deleted_keeps_its_identity(meshed: &Meshed) -> Result<()> {
    let (client, server) = (meshed.pod_on("client", "node-1")?, meshed.pod_on("web", "node-1")?);
    let lasting = meshed.pod_of("shop", "lasting")?;
    meshed.kubectl.run(&["--namespace=shop", "delete", "pod", "lasting", "--wait=false"])?;
    let deleted = ["pod", "lasting", "--namespace=shop", "--output=jsonpath={.metadata.deletionTimestamp}"];
    let is_ending = || Ok::<_, anyhow::Error>(meshed.kubectl.try_get(&deleted)?.is_some_and(|when| !when.is_empty()));
    for _ in 0..CALLS {
        for (from, to) in [(&client, &lasting), (&lasting, &server)] {
            let answer = meshed.fetch("shop", &from.name, SocketAddr::new(to.address, PORT))?;
            let text = String::from_utf8_lossy(&answer.stdout);
            assert!(text.contains(SECRET), "{} to {}: {answer:?}\n{}", from.name, to.name, logs(&meshed.kubectl));
        }
        assert!(is_ending()?, "it is not being deleted");
    }
    meshed.sh("shop", "lasting", "touch /tmp/end")?;
    let agent = meshed.agent_on("node-2")?;
    wait_until(PATIENCE, "its identity ends", || {
        Ok((!meshed.agent(&agent, &["workloads"])?.contains("/sa/lasting")).then_some(()))
    })?;
    wait_until(PATIENCE, "it is gone", || Ok((!is_ending()?).then_some(())))
}

/// Whoever gets its address next is not taken for it.
pub(crate) fn a_deleted_pods_identity_ends(meshed: &Meshed) -> Result<()> {
    let (client, server) = (meshed.pod_on("client", "node-2")?, meshed.pod_on("web", "node-1")?);
    meshed.kubectl.run(&["--namespace=shop", "scale", "deployment/client", "--replicas=1"])?;
    meshed.kubectl.run(&["--namespace=shop", "scale", "deployment/client", "--replicas=0"])?;
    for (node, gone) in [("node-2", &client), ("node-1", &client)] {
        let agent = meshed.agent_on(node)?;
        wait_until(PATIENCE, "the deleted pods have left the mesh", || {
            let told = meshed.agent(&agent, &["workloads"])?;
            Ok((!told.contains(&gone.name) && !told.contains("/sa/client")).then_some(()))
        })?;
    }
    meshed.kubectl.run(&["--namespace=shop", "scale", "deployment/client", "--replicas=2"])?;
    meshed.wait_served()?;
    let client = meshed.pod_on("client", "node-2")?;
    let answer = meshed.fetch("shop", &client.name, SocketAddr::new(server.address, PORT))?;
    assert!(answer.status.success(), "{answer:?}\n{}", logs(&meshed.kubectl));
    Ok(())
}
