//! Two nodes on one machine: each a network namespace, joined by one veth pair, with pods behind them.
//!
//! Pods reach each other across the nodes by plain routing with their own addresses: no NAT and no packet filter. So
//! whatever a test sees on the wire, the applications or the mesh put there.

mod build;
mod layout;
mod leftovers;
mod pod;
mod server;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

pub use build::Builder;
pub use layout::{POD_RANGES, WIRE};
pub use leftovers::leftovers;
pub use pod::{Exclusions, Pod, PodSpec, WORKLOAD_NAMESPACE};
pub use server::{Accepted, Server, ServerKind};

use crate::capture::Capture;
use crate::guard::Cleanup;
use crate::process::Place;

/// An IP version; every claim is made for both.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both, to run a claim over.
    pub const BOTH: [Family; 2] = [Family::V4, Family::V6];
}

impl fmt::Display for Family {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        })
    }
}

/// A node: where its agent runs.
#[derive(Debug)]
pub struct Node {
    name: String,
    place: Place,
    address: IpAddr,
    cgroup_root: PathBuf,
    bpffs: PathBuf,
}

impl Node {
    /// The node's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its agent runs: the node's namespace, and a cgroup below `cgroup_root`.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Its own IPv4 address, on the wire.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The cgroup that holds the agent and the node's pods.
    pub fn cgroup_root(&self) -> &Path {
        &self.cgroup_root
    }

    /// The node's directory on the world's bpffs.
    pub fn bpffs(&self) -> &Path {
        &self.bpffs
    }

    /// The files pinned in the node's bpffs directory, at any depth.
    pub fn pins(&self) -> Result<Vec<PathBuf>> {
        let mut pins = Vec::new();
        list_files(&self.bpffs, &mut pins)?;
        Ok(pins)
    }
}

fn list_files(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    if !directory.exists() {
        return Ok(());
    }
    for entry in std::fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            list_files(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

/// The whole test bed. Dropping it removes everything that it made.
#[derive(Debug)]
pub struct World {
    name: String,
    nodes: Vec<Node>,
    pods: Vec<Pod>,
    directory: PathBuf,
    // Last: the fields above only name what this removes.
    cleanup: Cleanup,
}

impl World {
    /// Starts to describe a world: `node`, then its pods, then the next node.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// What most tests need: `client` and, outside every mesh, `outsider` (inside the pod range) and `stranger`
    /// (outside it) on node `a`; `server` on node `b`.
    pub fn standard() -> Result<Self> {
        Self::builder()
            .node("a")
            .pod(PodSpec::workload("client"))
            .pod(PodSpec::outsider("outsider"))
            .pod(PodSpec::stranger("stranger"))
            .node("b")
            .pod(PodSpec::workload("server"))
            .build()
    }

    /// The prefix of everything that this world makes.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The node called `name`.
    pub fn node(&self, name: &str) -> &Node {
        find(&self.nodes, name, Node::name)
    }

    /// The pod called `name`.
    pub fn pod(&self, name: &str) -> &Pod {
        find(&self.pods, name, Pod::name)
    }

    /// All nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// All pods and outsiders.
    pub fn pods(&self) -> &[Pod] {
        &self.pods
    }

    /// A directory for files of the test; removed with the world.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Starts to record what passes between the nodes.
    pub fn capture(&self) -> Result<Capture> {
        let [first, second] = [0, 1].map(|index| (&self.nodes[index].place.netns, self.nodes[index].address));
        Capture::start([first, second], WIRE)
    }

    /// Removes everything and says what could not be removed; dropping the world does the same, silently.
    pub fn remove(self) -> Result<()> {
        self.cleanup.finish()
    }

    /// A socket address of the pod called `pod`.
    pub fn address(&self, pod: &str, family: Family, port: u16) -> SocketAddr {
        SocketAddr::new(self.pod(pod).address(family), port)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // For a developer or a CI run that wants to read the logs of a failed test.
        let Some(keep) = std::env::var_os("MESH_TEST_LOGS") else { return };
        let target = Path::new(&keep).join(&self.name);
        if std::fs::create_dir_all(&target).is_err() {
            return;
        }
        for entry in std::fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            if entry.path().is_file() {
                drop(std::fs::copy(entry.path(), target.join(entry.file_name())));
            }
        }
    }
}

fn find<'a, T>(items: &'a [T], name: &str, name_of: impl Fn(&T) -> &str) -> &'a T {
    match items.iter().find(|item| name_of(item) == name) {
        Some(item) => item,
        None => panic!("this world has no `{name}`: a mistake in the test"),
    }
}
