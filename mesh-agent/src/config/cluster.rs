//! Makes a configuration of a Kubernetes cluster's objects: our own kinds, and the pods that are in the mesh.
//!
//! A document with a mistake doesn't hold back the others, as files do, and no pod: it is refused alone, and its last good form
//! stays. Pods have what a Workload claims too.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde_json::Value;

use super::{ConfigErrors, MeshConfig, Released};
use crate::model::cluster::{
    ClusterService, ENROLLED_LABEL, Namespace, Node, ObjectName, Pod, SYSTEM_NAMESPACE, SandboxState, Slice,
};
use crate::model::workload::{NodeName, PodUid, WorkloadUid};

mod documents;
mod pods;
mod services;
mod tracked;

use documents::Documents;
pub use documents::{Told, Written};
use pods::Made;
pub use tracked::Tracked;

/// Whether a pod is in the mesh, and why not.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Membership {
    /// It is.
    In,
    /// Nobody has labelled it or its namespace.
    NotLabelled,
    /// Its own label takes it out, and its namespace allows that.
    OptedOut,
    /// It should be, but is on the node's own network.
    HostNetwork,
    /// It belongs to the cluster or to the mesh itself.
    System,
    /// The mesh is on its way out.
    Uninstalled,
    /// Its namespace is not known yet.
    Unknown,
}

/// What became of one document.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Verdict {
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: ObjectName,
    /// Which generation of it was judged.
    pub generation: i64,
    /// Every mistake, if it is refused.
    pub mistakes: Option<ConfigErrors>,
    /// What its status says so far.
    pub told: Option<Told>,
}

/// The objects of a cluster.
#[derive(Debug, Default)]
pub struct Cluster {
    own_namespace: String,
    /// The agent's node; `None`: nobody's, for a signing service.
    own_node: Option<NodeName>,
    documents: Documents,
    namespaces: Tracked<String, Namespace>,
    nodes: Tracked<NodeName, Node>,
    pods: Tracked<ObjectName, Pod>,
    services: Tracked<ObjectName, ClusterService>,
    slices: Tracked<ObjectName, Slice>,
    /// The ranges that Services have their addresses from, by the name of who says so.
    service_ranges: Tracked<String, Vec<IpNet>>,
    /// What is known of pods of this node that the API doesn't show yet.
    sandboxes: Tracked<PodUid, SandboxState>,
    made: Made,
    /// What the Services made last.
    kept: services::Kept,
}

impl Cluster {
    /// Nothing yet. The mesh's own parts are in `own_namespace`; `own_node` is who asks.
    pub fn new(own_namespace: &str, own_node: Option<&NodeName>) -> Self {
        Self { own_namespace: own_namespace.to_owned(), own_node: own_node.cloned(), ..Self::default() }
    }

    /// Takes a document of ours. A mistake is in the verdict, and its last good form stays.
    pub fn set_document(&mut self, kind: &str, name: &ObjectName, written: Written) -> &Verdict {
        self.documents.set(kind, name, written)
    }

    /// Pods of the agent's node that should be in the mesh and can't be.
    pub fn barred(&self) -> Vec<(WorkloadUid, PodUid)> {
        let here = self.pods.iter().filter(|(_, pod)| !pod.finished && pod.node.is_some() && pod.node == self.own_node);
        let barred = here.filter(|(name, pod)| self.membership(name, pod) == Membership::HostNetwork);
        barred.map(|(name, pod)| (WorkloadUid::new(&name.namespace, &name.name), pod.uid.clone())).collect()
    }

    /// Forgets a document.
    pub fn remove_document(&mut self, kind: &str, name: &ObjectName) {
        self.documents.remove(kind, name);
    }

    /// The names of all documents of a kind.
    pub fn documents(&self, kind: &str) -> Vec<ObjectName> {
        self.documents.names(kind)
    }

    /// Whether any document was judged: only then can verdicts differ.
    pub fn has_judged(&self) -> bool {
        self.documents.were_judged()
    }

    /// The same, and from now on it was not.
    pub fn take_judged(&mut self) -> bool {
        self.documents.take_judged()
    }

    /// What became of every document, as of the configuration that was made last: alone, and together with the others.
    pub fn verdicts(&self) -> Vec<Verdict> {
        self.documents.verdicts()
    }

    /// From now on the mesh runs with this configuration. Some of its settings stay until the next start.
    pub fn begin(&mut self, config: &MeshConfig) {
        self.documents.begin(&config.mesh);
    }

    /// The settings, by field path, that only a restart takes over as documents have them.
    pub fn pending_restart(&self) -> &[&'static str] {
        self.documents.pending_restart()
    }

    /// Whether anything has changed since the configuration was made last.
    pub fn has_changed(&self) -> bool {
        let pods = self.pods.has_changed() || self.sandboxes.has_changed();
        let around = self.namespaces.has_changed() || self.nodes.has_changed();
        self.documents.have_changed() || pods || around || self.services_have_changed()
    }

    fn services_have_changed(&self) -> bool {
        self.services.has_changed() || self.slices.has_changed() || self.service_ranges.has_changed()
    }

    /// All namespaces, to be changed.
    pub fn namespaces(&mut self) -> &mut Tracked<String, Namespace> {
        &mut self.namespaces
    }

    /// All nodes, to be changed.
    pub fn nodes(&mut self) -> &mut Tracked<NodeName, Node> {
        &mut self.nodes
    }

    /// All pods, to be changed.
    pub fn pods(&mut self) -> &mut Tracked<ObjectName, Pod> {
        &mut self.pods
    }

    /// All Services, to be changed.
    pub fn services(&mut self) -> &mut Tracked<ObjectName, ClusterService> {
        &mut self.services
    }

    /// All EndpointSlices, to be changed.
    pub fn slices(&mut self) -> &mut Tracked<ObjectName, Slice> {
        &mut self.slices
    }

    /// The ranges of Services' addresses, to be changed.
    pub fn service_ranges(&mut self) -> &mut Tracked<String, Vec<IpNet>> {
        &mut self.service_ranges
    }

    /// What is known of pods of this node before the API shows it, to be changed.
    pub fn sandboxes(&mut self) -> &mut Tracked<PodUid, SandboxState> {
        &mut self.sandboxes
    }

    /// Addresses that more than one pod claimed when the configuration was made last: nobody has them.
    pub fn contested(&self) -> &BTreeSet<IpAddr> {
        &self.made.contested
    }

    /// Whether the mesh shall leave every node.
    pub fn is_uninstalled(&self) -> bool {
        self.namespaces.get(&self.own_namespace).is_some_and(|own| own.uninstall)
    }

    /// Whether a pod is in the mesh.
    pub fn membership(&self, name: &ObjectName, pod: &Pod) -> Membership {
        if self.is_uninstalled() {
            return Membership::Uninstalled;
        }
        if name.namespace == SYSTEM_NAMESPACE || name.namespace == self.own_namespace {
            return Membership::System;
        }
        let namespace = self.namespaces.get(&name.namespace).copied();
        let wanted = match (pod.labels.get(ENROLLED_LABEL).map(String::as_str), namespace) {
            (Some("true"), _) => true,
            (_, None) => return Membership::Unknown,
            (Some("false"), Some(namespace)) if namespace.enrolled && namespace.may_opt_out => {
                return Membership::OptedOut;
            }
            (_, Some(namespace)) => namespace.enrolled,
        };
        match (wanted, pod.host_network) {
            (false, _) => Membership::NotLabelled,
            (true, true) => Membership::HostNetwork,
            (true, false) => Membership::In,
        }
    }

    /// The configuration that all objects make together. An error only while there was never a Mesh.
    pub fn config(&mut self) -> Result<MeshConfig, ConfigErrors> {
        self.claim();
        self.note_changed_services();
        self.documents.refuse(self.intrusions());
        if self.documents.have_changed() {
            self.kept.forget();
        }
        let mut config = self.documents.together()?;
        config.mesh.pod_ranges.extend(self.nodes.iter().flat_map(|(_, node)| node.pod_ranges.iter().copied()));
        config.mesh.pod_ranges.sort_unstable();
        config.mesh.pod_ranges.dedup();
        self.add_pods(&mut config);
        self.add_own(&mut config);
        self.add_services(&mut config);
        Ok(config)
    }

    /// What of Workloads is not for their authors to say in a cluster: whoever may write one could name another's namespace, or take
    /// another's address.
    fn intrusions(&self) -> Vec<documents::Wrong> {
        let wrong = |(name, form): (&ObjectName, &Arc<Value>)| {
            let spec = &form["spec"];
            let mut mistakes = Vec::new();
            let mut note = |field: String, reason: String| mistakes.push((field, reason));
            for field in ["netns", "cgroup"].into_iter().filter(|field| !spec[*field].is_null()) {
                note(
                    format!("spec.{field}"),
                    "is not possible in a cluster: what runs on its nodes are pods".to_owned(),
                );
            }
            if spec["node"].as_str().is_some_and(|node| self.nodes.get(&NodeName::new(node)).is_some()) {
                note("spec.node".to_owned(), "is a node of this cluster: what runs there are pods".to_owned());
            }
            if self.pods.get(name).is_some() {
                note("metadata.name".to_owned(), "is a pod's".to_owned());
            }
            for (index, text) in spec["addresses"].as_array().into_iter().flatten().enumerate() {
                let address = text.as_str().and_then(|text| text.parse::<IpAddr>().ok());
                if let Some(whose) = address.and_then(|address| self.whose(address.to_canonical())) {
                    note(format!("spec.addresses[{index}]"), format!("is {whose}"));
                }
            }
            (!mistakes.is_empty()).then(|| (Arc::clone(form), mistakes))
        };
        self.documents.forms("Workload").filter_map(wrong).collect()
    }

    /// Whose an address is, if it is the cluster's.
    fn whose(&self, address: IpAddr) -> Option<String> {
        if self.made.is_claimed(address) {
            return Some("a pod's".to_owned());
        }
        let has = |node: &Node| {
            node.addresses.contains(&address) || node.pod_ranges.iter().any(|range| range.contains(&address))
        };
        if let Some((name, _)) = self.nodes.iter().find(|(_, node)| has(node)) {
            return Some(format!("of the node {name} or its pods"));
        }
        if self.service_ranges.iter().flat_map(|(_, ranges)| ranges).any(|range| range.contains(&address)) {
            return Some("of the range of the cluster's Services".to_owned());
        }
        let mut services = self.services.iter();
        let service = services.find(|(_, service)| service.addresses.contains(&address));
        service.map(|(name, _)| format!("of the Service {}/{}", name.namespace, name.name))
    }

    /// Adds what the agent must know of its own node's pods besides those that have an address.
    fn add_own(&self, config: &mut MeshConfig) {
        if self.is_uninstalled() {
            return;
        }
        let mut released = BTreeSet::new();
        let here = self.pods.iter().filter(|(_, pod)| pod.node.is_some() && pod.node == self.own_node);
        for (name, pod) in here {
            match self.membership(name, pod) {
                Membership::In | Membership::Unknown => {
                    if let Some(why) = self.why_unaddressed(name, pod) {
                        let uid = WorkloadUid::new(&name.namespace, &name.name);
                        config.unaddressed.insert(uid, (pod.runtime_uid().clone(), why));
                    }
                }
                _ => drop(released.insert(pod.runtime_uid().clone())),
            }
        }
        config.released = Released::Pods(released);
    }
}

fn is_of_family(range: &IpNet, address: &IpAddr) -> bool {
    matches!(range, IpNet::V4(_)) == address.is_ipv4()
}

#[cfg(test)]
mod tests;
