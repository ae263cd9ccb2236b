//! A real Kubernetes on this machine: upstream's control plane, and nodes with kubelet, containerd, CNI and kube-proxy.
//!
//! Each node is a mount, PID, UTS and network namespace, so that its paths are those of any node. It outlives the program that makes it,
//! and nothing is written down about it: what runs is found again by its cgroups, and ends with them.

mod components;
mod control;
mod kubectl;
mod meshed;
mod network;
mod node;
mod node_files;
mod pki;
mod remove;
mod runner;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

pub use components::{Go, program};
pub use kubectl::Kubectl;
pub use meshed::{Meshed, Pod, SHOP, image_from_environment, logs, manifests};
pub use node::Node;
pub use remove::{exists, remains, remove};

use crate::guard::{Cleanup, Undo};
use crate::netns::Netns;
use crate::wait::wait_until;
use control::Control;
pub(crate) use control::{ETCD, etcd_arguments};

/// In every name that the cluster has on the machine: namespaces, cgroups, directories.
pub const NAME: &str = "hauberk-k8s";

/// As many as the addresses are laid out for.
pub const MOST_NODES: u8 = 9;

/// Where the cluster keeps its files; on a disk, for images are unpacked here.
const STATE: &str = "/var/lib/hauberk-k8s";

/// How long the cluster may take to come up, on a machine that does much else.
const UP: std::time::Duration = std::time::Duration::from_secs(180);

/// What a cluster is made of.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The program with all components ([`program`]).
    pub program: PathBuf,
    /// Nodes, named `node-1` and so on.
    pub nodes: u8,
    /// OCI archives that every node gets.
    pub images: Vec<PathBuf>,
}

/// A cluster that is there.
#[derive(Clone, Debug)]
pub struct Cluster {
    program: PathBuf,
    nodes: Vec<Node>,
    control: Control,
    /// How to ask it, if it isn't ours.
    elsewhere: Option<Kubectl>,
}

impl Plan {
    /// What `cargo xtask cluster build` has built and the Kubernetes tier hands over, in `MESH_CLUSTER_PROGRAM` and `MESH_CLUSTER_IMAGES`.
    pub fn from_environment(nodes: u8) -> Result<Self> {
        let variable =
            |name| std::env::var_os(name).with_context(|| format!("{name} isn't set: `cargo xtask test kubernetes`"));
        let images = variable("MESH_CLUSTER_IMAGES")?;
        Ok(Self {
            program: variable("MESH_CLUSTER_PROGRAM")?.into(),
            nodes,
            images: std::env::split_paths(&images).collect(),
        })
    }
}

impl Cluster {
    /// Brings up a cluster, after removing what another may have left. Returns when every node is Ready and the namespace `default` has its
    /// service account.
    pub fn up(plan: &Plan) -> Result<Self> {
        ensure!((1..=MOST_NODES).contains(&plan.nodes), "a cluster has 1 to {MOST_NODES} nodes");
        remove()?;
        let state = Path::new(STATE);
        std::fs::create_dir_all(state.join("log")).with_context(|| format!("make {}", state.display()))?;
        let program = components::keep(&plan.program, state)?;
        let authority = pki::Pki::make(state)?;
        network::make(plan.nodes)?;
        let control = Control::start(&program, &authority)?;
        let nodes = Node::all(1..=plan.nodes)?;
        std::thread::scope(|scope| {
            let starting: Vec<_> =
                nodes.iter().map(|node| scope.spawn(|| node.boot(&authority, &plan.images))).collect();
            starting
                .into_iter()
                .try_for_each(|node| node.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })?;
        let cluster = Self { program, nodes, control, elsewhere: None };
        cluster.finish()
    }

    /// Like [`up`](Self::up), for one program: removed when the guard is dropped or the program is interrupted.
    pub fn temporary(plan: &Plan) -> Result<(Self, Cleanup)> {
        let cleanup = Cleanup::new()?;
        let cluster = cleanup.make(Undo::Cluster, || Self::up(plan))?;
        Ok((cluster, cleanup))
    }

    /// The cluster that runs on this machine.
    pub fn find() -> Result<Self> {
        let program = components::kept(Path::new(STATE));
        ensure!(program.is_file(), "no cluster runs here: `cargo xtask cluster up`");
        let nodes: Vec<_> = Node::all(1..=MOST_NODES)?.into_iter().filter(Node::exists).collect();
        for node in &nodes {
            node.init().with_context(|| format!("{} is dead: `cargo xtask cluster down`", node.name()))?;
        }
        let control = Control::found(&program)?;
        Ok(Self { program, nodes, control, elsewhere: None })
    }

    /// The cluster that `KUBECONFIG` names. Of its nodes nothing can be seen but what the API shows.
    pub fn of_kubeconfig() -> Result<Self> {
        let (program, elsewhere) = (PathBuf::new(), Some(Kubectl::of_kubeconfig()?));
        Ok(Self { control: Control::found(&program)?, program, nodes: Vec::new(), elsewhere })
    }

    /// Whether somebody else runs it.
    pub fn is_elsewhere(&self) -> bool {
        self.elsewhere.is_some()
    }

    /// What needs the API server to be ready.
    fn finish(self) -> Result<Self> {
        let kubectl = self.kubectl();
        self.control.wait_ready(&kubectl)?;
        // Made before the kubelets come, which would not say which addresses their pods have.
        let objects: Vec<_> = self.nodes.iter().map(Node::object).collect();
        kubectl.apply(&objects.join("---\n"))?;
        self.control.start_controllers()?;
        for node in &self.nodes {
            node.join(&self.program)?;
        }
        for node in &self.nodes {
            wait_until(UP, &format!("{} is Ready", node.name()), || {
                let path = r#"jsonpath={.status.conditions[?(@.type=="Ready")].status}"#;
                let ready = kubectl.try_get(&["node", node.name(), "--output", path])?;
                Ok((ready.as_deref() == Some("True")).then_some(()))
            })
            .with_context(|| format!("its logs are in {}", node.logs().display()))?;
        }
        wait_until(UP, "the default service account", || kubectl.try_get(&["serviceaccount", "default"]))?;
        Ok(self)
    }

    /// The nodes, first to last; none of a cluster elsewhere.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// How to ask the API server, as an administrator.
    pub fn kubectl(&self) -> Kubectl {
        self.elsewhere.clone().unwrap_or_else(|| Kubectl::of_cluster(&self.program))
    }

    /// The program with all components.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// The administrator's kubeconfig. Its server is reached in the namespace of [`control_netns`](Self::control_netns).
    pub fn kubeconfig() -> PathBuf {
        Path::new(STATE).join("admin.kubeconfig")
    }

    /// The network namespace of the control plane and of the switch between the nodes: what crosses it goes from node to node.
    pub fn control_netns() -> Netns {
        Netns::existing(NAME)
    }

    /// Gives every node the images of OCI archives.
    pub fn load(&self, archives: &[PathBuf]) -> Result<()> {
        self.nodes.iter().try_for_each(|node| node.load(archives))
    }

    /// Restarts the kubelet of a node.
    pub fn restart_kubelet(&self, node: &Node) -> Result<()> {
        node.restart_kubelet(&self.program)
    }

    /// The requests of the mesh's own parts so far, as the API server's audit log has them, one JSON object a line.
    pub fn audit_log(&self) -> Result<String> {
        std::fs::read_to_string(control::AUDIT_LOG).with_context(|| format!("read {}", control::AUDIT_LOG))
    }

    /// Empties the audit log: a new API server refuses everybody's requests until it has read who may do what.
    pub fn forget_audit_log(&self) -> Result<()> {
        std::fs::write(control::AUDIT_LOG, "").with_context(|| format!("empty {}", control::AUDIT_LOG))
    }

    /// Kills the API server; etcd and all else go on.
    pub fn stop_apiserver(&self) -> Result<()> {
        self.control.stop_apiserver()
    }

    /// Starts the API server that was stopped, and returns when it is ready.
    pub fn start_apiserver(&self) -> Result<()> {
        self.control.start_apiserver()?;
        self.control.wait_ready(&self.kubectl())
    }
}
