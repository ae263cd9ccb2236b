//! What the agent keeps of a Kubernetes cluster's objects: a few fields of each.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::service::{Affinity, Condition, TrafficPolicy};
use super::workload::{NodeName, PodUid};

/// The namespace of the cluster's own parts, which the mesh needs: never in it, and never held up.
pub const SYSTEM_NAMESPACE: &str = "kube-system";
/// On a namespace or a pod: whether it is in the mesh (`true` or `false`).
pub const ENROLLED_LABEL: &str = "mesh.hauberk.dev/enrolled";
/// On a namespace: `allowed` lets a pod's own label take it out of the mesh.
pub const OPT_OUT_LABEL: &str = "mesh.hauberk.dev/opt-out";
/// On the mesh's own namespace: `true` takes every node out of the mesh.
pub const UNINSTALL_LABEL: &str = "mesh.hauberk.dev/uninstall";
/// The Service by which pods reach the API server, in the namespace `default`. The API server writes its endpoints itself.
pub const API_SERVICE: (&str, &str) = ("default", "kubernetes");
/// The condition of an agent's own Pod by which it says that nothing of the mesh is left on its node.
pub const WITHDRAWN_CONDITION: &str = "mesh.hauberk.dev/Withdrawn";
/// The condition of a Pod by which its node's agent says that it is served.
pub const SERVED_CONDITION: &str = "mesh.hauberk.dev/Served";

/// On a Service: namespaces whose pods may stand for it, with commas between. Its own always may.
pub const FOREIGN_ENDPOINTS_ANNOTATION: &str = "mesh.hauberk.dev/endpoint-namespaces";

/// Namespace and name.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ObjectName {
    /// The namespace; empty: it belongs to none.
    pub namespace: String,
    /// The name in it.
    pub name: String,
}

/// A pod.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pod {
    /// Tells it from earlier pods of its name.
    pub uid: PodUid,
    /// What its node calls it, if it is a static pod.
    pub static_uid: Option<PodUid>,
    /// The node that it is bound to.
    pub node: Option<NodeName>,
    /// Whose identity it has.
    pub service_account: String,
    /// Its addresses, as far as they are known.
    pub addresses: Vec<IpAddr>,
    /// What policies select it by.
    pub labels: BTreeMap<String, String>,
    /// Whether it is on the node's own network.
    pub host_network: bool,
    /// Whether all its containers have ended for good: it uses neither its addresses nor its identity any more.
    pub finished: bool,
    /// Whether its node's agent says that it serves it.
    pub served: bool,
}

impl Pod {
    /// What its node calls it: its cgroup, and its sandbox.
    pub fn runtime_uid(&self) -> &PodUid {
        self.static_uid.as_ref().unwrap_or(&self.uid)
    }
}

/// What the CNI plugin has told of a pod of this node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum SandboxState {
    /// Its sandbox is gone: it uses neither its addresses nor its identity any more, whatever the API shows.
    Ended,
    /// It has these addresses, which the API shows later.
    Runs(Vec<IpAddr>),
}

/// A namespace.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Namespace {
    /// What [`ENROLLED_LABEL`] says.
    pub enrolled: bool,
    /// What [`OPT_OUT_LABEL`] says.
    pub may_opt_out: bool,
    /// What [`UNINSTALL_LABEL`] says.
    pub uninstall: bool,
}

/// A node.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Node {
    /// Its own addresses.
    pub addresses: Vec<IpAddr>,
    /// The zone that it is in, if its labels say.
    pub zone: Option<String>,
    /// The ranges that its pods get their addresses from; empty where somebody else than Kubernetes knows.
    pub pod_ranges: Vec<IpNet>,
}

/// A Service with addresses of its own.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClusterService {
    /// Its cluster addresses.
    pub addresses: Vec<IpAddr>,
    /// Those by which it is known outside, too.
    pub external: Vec<IpAddr>,
    /// Whether somebody else than kube-proxy stands for it.
    pub is_proxied_elsewhere: bool,
    /// Its TCP ports: what they are called, and their numbers.
    pub ports: Vec<(String, u16)>,
    /// Which endpoint a client gets.
    pub affinity: Affinity,
    /// Whether endpoints on other nodes count.
    pub traffic: TrafficPolicy,
    /// What [`FOREIGN_ENDPOINTS_ANNOTATION`] says.
    pub foreign: Vec<String>,
}

/// Some of the endpoints of a Service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Slice {
    /// The Service's name, in the slice's namespace.
    pub service: String,
    /// TCP ports: what the Service calls them, and their numbers here.
    pub ports: Vec<(String, u16)>,
    /// Who.
    pub endpoints: Vec<SliceEndpoint>,
}

/// One endpoint.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SliceEndpoint {
    /// Its addresses: of one and the same pod.
    pub addresses: Vec<IpAddr>,
    /// Whether it takes connections.
    pub condition: Condition,
    /// Where it is.
    pub node: Option<NodeName>,
    /// Nodes whose clients it is meant for; empty: nobody says.
    pub for_nodes: Vec<NodeName>,
    /// Zones whose clients it is meant for; empty: nobody says.
    pub for_zones: Vec<String>,
}
