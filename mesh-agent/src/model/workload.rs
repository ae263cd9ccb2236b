//! A workload: one running instance that has an identity (a pod).
//!
//! Where its sockets are made (`netns`, `cgroup`) is said only for workloads of this machine; nothing here opens them.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;

use super::spiffe::SpiffeId;

/// Names a workload in the mesh: `<namespace>/<name>`.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct WorkloadUid(Arc<str>);

impl WorkloadUid {
    /// Joins names that are already known to be DNS-1123 names.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self(format!("{namespace}/{name}").into())
    }

    /// `<namespace>/<name>`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WorkloadUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a node, as `--node` and `Workload.spec.node` give it.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct NodeName(Arc<str>);

impl NodeName {
    /// Takes a name that is already known to be a DNS-1123 subdomain.
    pub fn new(name: &str) -> Self {
        Self(Arc::from(name))
    }

    /// The bare name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The uid that Kubernetes gave a pod: another one each time a pod of that name is made.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PodUid(Arc<str>);

impl PodUid {
    /// The longest; Kubernetes writes 36 characters, and the uid of a static pod's mirror is as long as its hash.
    const MAX_BYTES: usize = 64;

    /// Takes what may be part of a file's name: letters, digits, `-`.
    pub fn parse(text: &str) -> Option<Self> {
        let fits = !text.is_empty() && text.len() <= Self::MAX_BYTES;
        let is_plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        (fits && is_plain).then(|| Self(Arc::from(text)))
    }

    /// Whether it is a static pod's: the hash of a manifest on its node, by which the kubelet and the runtime call the pod. In
    /// the API the pod has another uid.
    pub fn is_static(&self) -> bool {
        self.0.len() == 32 && self.0.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    }

    /// The bare uid.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One workload, as its configuration describes it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Workload {
    /// Its name.
    pub uid: WorkloadUid,
    /// The identity that its connections carry and that its peers must find.
    pub identity: SpiffeId,
    /// By which policies select it.
    pub labels: BTreeMap<String, String>,
    /// The node whose agent serves it.
    pub node: NodeName,
    /// Its addresses; no other workload has one of them.
    pub addresses: Vec<IpAddr>,
    /// Its network namespace on that node, such as `/run/netns/web`: an absolute path.
    pub netns: Option<PathBuf>,
    /// Its cgroup on that node: an absolute path below the cgroup2 mount.
    pub cgroup: Option<PathBuf>,
    /// The pod that it is, in Kubernetes: says where it is in place of `netns` and `cgroup`.
    pub pod: Option<PodUid>,
    /// Whether its own agent has said that it is served. Until then nobody speaks mesh TLS to it.
    pub announced: bool,
    /// What its owner keeps out of the mesh.
    pub exclude: Exclusions,
}

impl Workload {
    /// The namespace part of its name.
    pub fn namespace(&self) -> &str {
        self.uid.as_str().split_once('/').map_or("", |(namespace, _)| namespace)
    }

    /// Whether it is served like `other`: all but labels, which only policies look at, and what it is announced as.
    pub fn is_served_as(&self, other: &Self) -> bool {
        let Self { uid, identity, labels: _, node, addresses, netns, cgroup, pod, announced: _, exclude } = self;
        (uid, identity, node, pod) == (&other.uid, &other.identity, &other.node, &other.pod)
            && (addresses, netns, cgroup, exclude) == (&other.addresses, &other.netns, &other.cgroup, &other.exclude)
    }
}

/// Traffic of a workload that the mesh leaves alone.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Exclusions {
    /// Destination ports of connections that it opens; at most [`Exclusions::MAX_PORTS`].
    pub outbound_ports: Vec<u16>,
    /// Destination ranges of connections that it opens.
    pub outbound_ranges: Vec<IpNet>,
    /// Its own ports; at most [`Exclusions::MAX_PORTS`].
    pub inbound_ports: Vec<u16>,
}

impl Exclusions {
    /// The most ports of one list: the kernel's entry of a pod has that many slots.
    pub const MAX_PORTS: usize = 16;
}
