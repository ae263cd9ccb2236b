//! A cluster with the mesh and an application on it, for tests.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Output;

use anyhow::{Context as _, Result};
use mesh_tests::capture::Capture;
use mesh_tests::cluster::{Cluster, Kubectl};

const SHOP: &str = include_str!("shop.yaml");

/// A cluster with the mesh and the application on it.
pub(crate) struct Meshed {
    /// The cluster.
    pub(crate) cluster: Cluster,
    /// Its API server.
    pub(crate) kubectl: Kubectl,
}

/// A pod of the application.
pub(crate) struct Pod {
    /// Its name.
    pub(crate) name: String,
    /// Its address.
    pub(crate) address: IpAddr,
}

impl Meshed {
    /// Installs the mesh as an operator does.
    pub(crate) fn install(cluster: Cluster) -> Result<Self> {
        let kubectl = cluster.kubectl();
        let image = std::env::var("MESH_IMAGE").context("MESH_IMAGE names the archive of `cargo xtask image`")?;
        cluster.load(&[image.into()])?;
        kubectl.run(&["apply", "--kustomize", &manifests()])?;
        for part in ["deployment/hauberk-ca", "daemonset/hauberk-agent"] {
            let waited = kubectl.run(&["--namespace=hauberk-system", "rollout", "status", part, "--timeout=120s"]);
            waited.with_context(|| logs(&kubectl))?;
        }
        Ok(Self { cluster, kubectl })
    }

    /// Deploys the application.
    pub(crate) fn deploy(&self) -> Result<()> {
        self.kubectl.apply(SHOP)?;
        for part in ["deployment/web", "deployment/client"] {
            let waited = self.kubectl.run(&["--namespace=shop", "rollout", "status", part, "--timeout=120s"]);
            waited.with_context(|| logs(&self.kubectl))?;
        }
        self.wait_served()?;
        let others = ["--namespace=elsewhere", "wait", "pods", "--all", "--for=condition=Ready", "--timeout=60s"];
        self.kubectl.run(&others).map(drop)
    }

    /// Waits until every pod of the application is served, and ready.
    pub(crate) fn wait_served(&self) -> Result<()> {
        for condition in ["mesh.hauberk.dev/Served", "Ready"] {
            let condition = format!("--for=condition={condition}");
            let wait = ["--namespace=shop", "wait", "pods", "--all", &condition, "--timeout=60s"];
            self.kubectl.run(&wait).with_context(|| logs(&self.kubectl))?;
        }
        Ok(())
    }

    /// The agent's own program, which is in its image.
    pub(crate) fn program(&self) -> Result<std::path::PathBuf> {
        let program = std::env::var("MESH_AGENT_BIN").context("MESH_AGENT_BIN names the built agent")?;
        Ok(program.into())
    }

    /// The pod of a node's agent.
    pub(crate) fn agent_on(&self, node: &str) -> Result<String> {
        let field = format!("--field-selector=spec.nodeName={node}");
        let get =
            ["--namespace=hauberk-system", "get", "pods", "--selector=app.kubernetes.io/name=hauberk-agent", &field];
        self.kubectl.run(&[&get[..], &["--output=jsonpath={.items[*].metadata.name}"]].concat())
    }

    /// What an agent's own command says, inside its pod.
    pub(crate) fn agent(&self, pod: &str, command: &[&str]) -> Result<String> {
        let exec = ["--namespace=hauberk-system", "exec", pod, "--", "/bin/mesh-agent"];
        self.kubectl.run(&[&exec[..], command].concat())
    }

    /// Records what crosses the wire between the two nodes.
    pub(crate) fn capture(&self) -> Result<Capture> {
        let [one, other] = [0, 1].map(|index| &self.cluster.nodes()[index]);
        let (one_netns, other_netns) = (one.netns(), other.netns());
        let ends = [(&one_netns, one.address().into()), (&other_netns, other.address().into())];
        Capture::start(ends, "eth0")
    }

    /// A pod by its name.
    pub(crate) fn pod_of(&self, namespace: &str, name: &str) -> Result<Pod> {
        let namespace = format!("--namespace={namespace}");
        let address = self.kubectl.run(&[&namespace, "get", "pod", name, "--output=jsonpath={.status.podIP}"])?;
        Ok(Pod { name: name.to_owned(), address: address.parse()? })
    }

    /// The pod of a deployment on a node.
    pub(crate) fn pod_on(&self, app: &str, node: &str) -> Result<Pod> {
        let (label, field) = (format!("--selector=app={app}"), format!("--field-selector=spec.nodeName={node}"));
        let path = "--output=jsonpath={.items[*].metadata.name} {.items[*].status.podIP}";
        let said = self.kubectl.run(&["--namespace=shop", "get", "pods", &label, &field, path])?;
        let [name, address] = said.split_whitespace().collect::<Vec<_>>()[..] else {
            anyhow::bail!("pods of {app} on {node}: `{said}`")
        };
        Ok(Pod { name: name.to_owned(), address: address.parse()? })
    }

    /// What a pod gets from an address.
    pub(crate) fn fetch(&self, namespace: &str, pod: &str, from: SocketAddr) -> Result<Output> {
        let (namespace, url) = (format!("--namespace={namespace}"), format!("http://{from}/page"));
        self.kubectl.output(&[&namespace, "exec", pod, "--", "wget", "-qO-", &url], "")
    }
}

/// What is applied.
pub(crate) fn manifests() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/overlays/dev").display().to_string()
}

/// What the mesh's own parts said, for a failure.
pub(crate) fn logs(kubectl: &Kubectl) -> String {
    let namespace = "--namespace=hauberk-system";
    let all = [
        vec!["get", "pods", "--all-namespaces", "--output=wide"],
        vec![namespace, "get", "events"],
        vec!["--namespace=shop", "get", "events"],
        vec![namespace, "logs", "--selector=app.kubernetes.io/name=hauberk-ca", "--tail=40"],
        vec![namespace, "logs", "--selector=app.kubernetes.io/name=hauberk-agent", "--tail=60"],
    ];
    let say = |arguments: Vec<&str>| kubectl.run(&arguments).unwrap_or_else(|error| format!("{error:#}"));
    all.into_iter().map(say).collect::<Vec<_>>().join("\n")
}
