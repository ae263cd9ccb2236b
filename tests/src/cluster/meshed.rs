//! A cluster with the mesh and an application on it, for the tests and the demo.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context as _, Result};

use super::{Cluster, Kubectl};
use crate::capture::Capture;

/// The application: `web` and its `client` in the namespace `shop`, which is enrolled, and strangers in `elsewhere`.
pub const SHOP: &str = include_str!("shop.yaml");

/// A cluster with the mesh and the application on it.
#[derive(Debug)]
pub struct Meshed {
    /// The cluster.
    pub cluster: Cluster,
    /// Its API server.
    pub kubectl: Kubectl,
}

/// A pod of the application.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
}

impl Meshed {
    /// Installs the mesh as an operator does, from the image that MESH_IMAGE names.
    pub fn install(cluster: Cluster) -> Result<Self> {
        cluster.load(&[image_from_environment()?])?;
        let meshed = Self::without_mesh(cluster);
        meshed.apply_mesh()?;
        Ok(meshed)
    }

    /// A cluster that has the image, and no mesh yet.
    pub fn without_mesh(cluster: Cluster) -> Self {
        Self { kubectl: cluster.kubectl(), cluster }
    }

    /// The name of one of the two nodes that everything is on: `node-1` and `node-2`, or the first two of a cluster elsewhere.
    pub fn node_name(&self, own: &str) -> Result<String> {
        if !self.cluster.is_elsewhere() {
            return Ok(own.to_owned());
        }
        let names = self.kubectl.run(&["get", "nodes", "--output=jsonpath={.items[*].metadata.name}"])?;
        let index = if own == "node-1" { 0 } else { 1 };
        names.split_whitespace().nth(index).map(str::to_owned).context("the cluster has fewer than two nodes")
    }

    /// The address of a node.
    pub fn node_address(&self, own: &str) -> Result<IpAddr> {
        let path = r#"--output=jsonpath={.status.addresses[?(@.type=="InternalIP")].address}"#;
        let all = self.kubectl.run(&["get", "node", &self.node_name(own)?, path])?;
        Ok(all.split_whitespace().next().context("a node without an address")?.parse()?)
    }

    /// Applies documents that name nodes.
    pub fn apply(&self, documents: &str) -> Result<()> {
        let mut documents = documents.to_owned();
        if self.cluster.is_elsewhere() {
            for own in ["node-1", "node-2"] {
                documents = documents.replace(own, &self.node_name(own)?);
            }
        }
        self.kubectl.apply(&documents).map(drop)
    }

    /// Applies the manifests and waits until all parts of the mesh are ready.
    pub fn apply_mesh(&self) -> Result<()> {
        self.kubectl.run(&["apply", "--kustomize", &manifests()])?;
        self.wait_rollouts("hauberk-system", &["deployment/hauberk-ca", "daemonset/hauberk-agent"])
    }

    /// Deploys the application.
    pub fn deploy(&self) -> Result<()> {
        self.deploy_as(SHOP)?;
        self.wait_served()
    }

    /// Deploys the application from these documents, and waits for its pods but not for the mesh.
    pub fn deploy_as(&self, documents: &str) -> Result<()> {
        self.apply(documents)?;
        self.wait_rollouts("shop", &["deployment/web", "deployment/client"])?;
        let others = ["--namespace=elsewhere", "wait", "pods", "--all", "--for=condition=Ready", "--timeout=60s"];
        self.kubectl.run(&others).map(drop)
    }

    fn wait_rollouts(&self, namespace: &str, parts: &[&str]) -> Result<()> {
        let namespace = format!("--namespace={namespace}");
        for part in parts {
            let waited = self.kubectl.run(&[&namespace, "rollout", "status", part, "--timeout=120s"]);
            waited.with_context(|| logs(&self.kubectl))?;
        }
        Ok(())
    }

    /// Waits until every pod of the application is served, and ready.
    pub fn wait_served(&self) -> Result<()> {
        for condition in ["mesh.hauberk.dev/Served", "Ready"] {
            let condition = format!("--for=condition={condition}");
            let wait = ["--namespace=shop", "wait", "pods", "--all", &condition, "--timeout=60s"];
            self.kubectl.run(&wait).with_context(|| logs(&self.kubectl))?;
        }
        Ok(())
    }

    /// The agent's own program, which is in its image: MESH_AGENT_BIN.
    pub fn program(&self) -> Result<PathBuf> {
        let program = std::env::var("MESH_AGENT_BIN").context("MESH_AGENT_BIN names the built agent")?;
        Ok(program.into())
    }

    /// A command of the agent's program as an operator of the cluster gives it, from no node.
    pub fn operator(&self, program: &Path, arguments: &[&str]) -> Command {
        if self.cluster.is_elsewhere() {
            let mut command = Command::new(program);
            command.args(arguments);
            return command;
        }
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", Cluster::control_netns().path().display())).arg("--").arg(program);
        command.args(arguments).env("KUBECONFIG", Cluster::kubeconfig());
        command
    }

    /// The pod of a node's agent.
    pub fn agent_on(&self, node: &str) -> Result<String> {
        let field = format!("--field-selector=spec.nodeName={}", self.node_name(node)?);
        let get =
            ["--namespace=hauberk-system", "get", "pods", "--selector=app.kubernetes.io/name=hauberk-agent", &field];
        self.kubectl.run(&[&get[..], &["--output=jsonpath={.items[*].metadata.name}"]].concat())
    }

    /// What an agent's own command says, inside its pod.
    pub fn agent(&self, pod: &str, command: &[&str]) -> Result<String> {
        let exec = ["--namespace=hauberk-system", "exec", pod, "--", "/bin/mesh-agent"];
        self.kubectl.run(&[&exec[..], command].concat())
    }

    /// Records what crosses the wire between the two nodes.
    pub fn capture(&self) -> Result<Capture> {
        let [one, other] = self.cluster.nodes() else { anyhow::bail!("two nodes of our own have a wire between them") };
        let (one_netns, other_netns) = (one.netns(), other.netns());
        let ends = [(&one_netns, one.address().into()), (&other_netns, other.address().into())];
        Capture::start(ends, "eth0")
    }

    /// A pod by its name.
    pub fn pod_of(&self, namespace: &str, name: &str) -> Result<Pod> {
        let namespace = format!("--namespace={namespace}");
        let address = self.kubectl.run(&[&namespace, "get", "pod", name, "--output=jsonpath={.status.podIP}"])?;
        Ok(Pod { name: name.to_owned(), address: address.parse()? })
    }

    /// The pod of a deployment on a node.
    pub fn pod_on(&self, app: &str, node: &str) -> Result<Pod> {
        let label = format!("--selector=app={app}");
        let field = format!("--field-selector=spec.nodeName={}", self.node_name(node)?);
        let path = "--output=jsonpath={.items[*].metadata.name} {.items[*].status.podIP}";
        let said = self.kubectl.run(&["--namespace=shop", "get", "pods", &label, &field, path])?;
        let [name, address] = said.split_whitespace().collect::<Vec<_>>()[..] else {
            anyhow::bail!("pods of {app} on {node}: `{said}`")
        };
        Ok(Pod { name: name.to_owned(), address: address.parse()? })
    }

    /// What a shell of a pod prints.
    pub fn sh(&self, namespace: &str, pod: &str, command: &str) -> Result<String> {
        self.kubectl.run(&[&format!("--namespace={namespace}"), "exec", pod, "--", "sh", "-c", command])
    }

    /// What a pod gets from an address.
    pub fn fetch(&self, namespace: &str, pod: &str, from: SocketAddr) -> Result<Output> {
        let (namespace, url) = (format!("--namespace={namespace}"), format!("http://{from}/page"));
        self.kubectl.output(&[&namespace, "exec", pod, "--", "wget", "-qO-", &url], "")
    }
}

/// The archive of `cargo xtask image`, which the Kubernetes tier hands over.
pub fn image_from_environment() -> Result<PathBuf> {
    std::env::var_os("MESH_IMAGE").map(PathBuf::from).context("MESH_IMAGE names the archive of `cargo xtask image`")
}

/// What is applied.
pub fn manifests() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/overlays/dev").display().to_string()
}

/// What the mesh's own parts said, for a failure.
pub fn logs(kubectl: &Kubectl) -> String {
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
