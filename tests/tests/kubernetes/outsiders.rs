//! Who is not in the mesh gets nothing from a strict server, by whichever way. Each way is shown to lead to a server outside the mesh.

use std::net::SocketAddr;
use std::process::Output;

use anyhow::Result;
use mesh_tests::cluster::Meshed;
use mesh_tests::wait::wait_until;

use crate::{PATIENCE, PORT, SECRET};

/// A pod without the label, pods on their nodes' networks, and whoever comes by a node's port.
pub(crate) fn who_is_not_in_the_mesh_is_refused(meshed: &Meshed) -> Result<()> {
    let open = SocketAddr::new(meshed.pod_of("elsewhere", "open")?.address, PORT);
    for pod in ["stranger", "host", "host-2"] {
        let answer = meshed.fetch("elsewhere", pod, open)?;
        assert!(is_page(&answer), "{pod} reaches nobody: {answer:?}");
        // On the same node, and on the other.
        for node in ["node-1", "node-2"] {
            let server = SocketAddr::new(meshed.pod_on("web", node)?.address, PORT);
            let answer = meshed.fetch("elsewhere", pod, server)?;
            assert!(!answer.status.success() && answer.stdout.is_empty(), "{pod} to {node}: {answer:?}");
        }
    }
    let (strict, open) = (node_port(meshed, "shop", "web")?, node_port(meshed, "elsewhere", "open")?);
    for node in ["node-1", "node-2"] {
        let address = meshed.node_address(node)?;
        let ask = |port| meshed.fetch("elsewhere", "host", SocketAddr::new(address, port));
        wait_until(PATIENCE, "the port of a node leads to the open server", || Ok(is_page(&ask(open)?).then_some(())))?;
        let answer = ask(strict)?;
        assert!(!answer.status.success() && answer.stdout.is_empty(), "port of {node}: {answer:?}");
    }
    Ok(())
}

fn is_page(answer: &Output) -> bool {
    answer.status.success() && String::from_utf8_lossy(&answer.stdout).contains(SECRET)
}

fn node_port(meshed: &Meshed, namespace: &str, service: &str) -> Result<u16> {
    let namespace = format!("--namespace={namespace}");
    let port = [&namespace, "get", "service", service, "--output=jsonpath={.spec.ports[0].nodePort}"];
    Ok(meshed.kubectl.run(&port)?.parse()?)
}
