//! Makes a configuration of a Kubernetes cluster's objects: our own kinds, and the pods that are in the mesh.
//!
//! A document with a mistake doesn't hold back the others, as files do: it is refused alone, and its last good form stays.
//! Only if documents don't go together nothing changes at all.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::assemble::{Assembly, Place};
use super::walk::Report;
use super::{ConfigDigest, ConfigErrors, MeshConfig, object, read};
use crate::model::cluster::{
    ClusterService, ENROLLED_LABEL, Namespace, Node, ObjectName, Pod, SYSTEM_NAMESPACE, SandboxState, Slice,
};
use crate::model::workload::{NodeName, PodUid, WorkloadUid};

mod pods;
mod services;
mod tracked;

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
}

/// A document as it came, and how it was judged.
#[derive(Debug)]
struct Document {
    /// The newest without a mistake.
    good: Option<Value>,
    verdict: Verdict,
}

/// The objects of a cluster.
#[derive(Debug, Default)]
pub struct Cluster {
    own_namespace: String,
    /// The agent's node; `None`: nobody's, for a signing service.
    own_node: Option<NodeName>,
    documents: BTreeMap<(String, ObjectName), Document>,
    namespaces: Tracked<String, Namespace>,
    nodes: Tracked<NodeName, Node>,
    pods: Tracked<ObjectName, Pod>,
    services: Tracked<ObjectName, ClusterService>,
    slices: Tracked<ObjectName, Slice>,
    /// The ranges that Services have their addresses from, by the name of who says so.
    service_ranges: Tracked<String, Vec<IpNet>>,
    /// What is known of pods of this node that the API doesn't show yet.
    sandboxes: Tracked<PodUid, SandboxState>,
    /// What the documents make together; `None`: they have changed since.
    together: Option<Result<MeshConfig, ConfigErrors>>,
    /// Whether any document was judged since this was asked for.
    judged: bool,
    made: Made,
}

impl Cluster {
    /// Nothing yet. The mesh's own parts are in `own_namespace`; `own_node` is who asks.
    pub fn new(own_namespace: &str, own_node: Option<&NodeName>) -> Self {
        Self { own_namespace: own_namespace.to_owned(), own_node: own_node.cloned(), ..Self::default() }
    }

    /// Takes a document of ours as the API has it. A mistake is in the verdict, and its last good form stays.
    pub fn set_document(&mut self, kind: &str, name: &ObjectName, generation: i64, document: Value) -> &Verdict {
        let report = Report::default();
        let lowered = object::lower(&document, &report);
        let place = Place { file: None, object: object::describe(&document) };
        let mut mistakes: Vec<_> =
            report.into_mistakes().into_iter().map(|(field, reason)| place.mistake(field, reason)).collect();
        if kind == "Workload" {
            mistakes.extend(self.intrusions(&document).map(|(field, reason)| place.mistake(field, reason)));
        }
        let mistakes = (!mistakes.is_empty() || lowered.is_none()).then_some(ConfigErrors(mistakes));
        let key = (kind.to_owned(), name.clone());
        let before = self.documents.remove(&key).and_then(|known| known.good);
        let good = if mistakes.is_none() { Some(document) } else { before.clone() };
        if good != before {
            self.together = None;
        }
        self.judged = true;
        let verdict = Verdict { kind: kind.to_owned(), name: name.clone(), generation, mistakes };
        &self.documents.entry(key).or_insert(Document { good, verdict }).verdict
    }

    /// What of a Workload is not for its author to say in a cluster: whoever may write one could name another's namespace.
    fn intrusions(&self, document: &Value) -> impl Iterator<Item = (String, &'static str)> {
        let spec = &document["spec"];
        let named = ["netns", "cgroup"].into_iter().filter(|field| !spec[*field].is_null());
        let on_ours = spec["node"].as_str().is_some_and(|node| self.nodes.get(&NodeName::new(node)).is_some());
        let placed = named
            .map(|field| (format!("spec.{field}"), "is not possible in a cluster: what runs on its nodes are pods"));
        let node = on_ours.then(|| ("spec.node".to_owned(), "is a node of this cluster: what runs there are pods"));
        placed.chain(node).collect::<Vec<_>>().into_iter()
    }

    /// Pods of the agent's node that should be in the mesh and can't be.
    pub fn barred(&self) -> Vec<(WorkloadUid, PodUid)> {
        let here = self.pods.iter().filter(|(_, pod)| !pod.finished && pod.node.is_some() && pod.node == self.own_node);
        let barred = here.filter(|(name, pod)| self.membership(name, pod) == Membership::HostNetwork);
        barred.map(|(name, pod)| (WorkloadUid::new(&name.namespace, &name.name), pod.uid.clone())).collect()
    }

    /// Forgets a document.
    pub fn remove_document(&mut self, kind: &str, name: &ObjectName) {
        let Some(known) = self.documents.remove(&(kind.to_owned(), name.clone())) else { return };
        self.judged = true;
        if known.good.is_some() {
            self.together = None;
        }
    }

    /// The names of all documents of a kind.
    pub fn documents(&self, kind: &str) -> Vec<ObjectName> {
        self.documents.keys().filter(|(known, _)| known == kind).map(|(_, name)| name.clone()).collect()
    }

    /// Whether any document was judged: only then can verdicts differ.
    pub fn has_judged(&self) -> bool {
        self.judged
    }

    /// The same, and from now on it was not.
    pub fn take_judged(&mut self) -> bool {
        std::mem::take(&mut self.judged)
    }

    /// Whether anything has changed since the configuration was made last.
    pub fn has_changed(&self) -> bool {
        let pods = self.pods.has_changed() || self.sandboxes.has_changed();
        let around = self.namespaces.has_changed() || self.nodes.has_changed();
        self.together.is_none() || pods || around || self.services_have_changed()
    }

    fn services_have_changed(&self) -> bool {
        self.services.has_changed() || self.slices.has_changed() || self.service_ranges.has_changed()
    }

    /// What became of every document, as of the configuration that was made last: alone, and together with the others.
    pub fn verdicts(&self) -> Vec<Verdict> {
        let together = match &self.together {
            Some(Err(ConfigErrors(mistakes))) => &mistakes[..],
            _ => &[],
        };
        let judge = |document: &Document| {
            let mut verdict = document.verdict.clone();
            let own = document.good.as_ref().and_then(object::describe);
            let with_others: Vec<_> = together.iter().filter(|mistake| mistake.object == own).cloned().collect();
            if verdict.mistakes.is_none() && own.is_some() && !with_others.is_empty() {
                verdict.mistakes = Some(ConfigErrors(with_others));
            }
            verdict
        };
        self.documents.values().map(judge).collect()
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
        let namespace = self.namespaces.get(&name.namespace).copied().unwrap_or_default();
        let wanted = match pod.labels.get(ENROLLED_LABEL).map(String::as_str) {
            Some("true") => true,
            Some("false") if namespace.enrolled && namespace.may_opt_out => return Membership::OptedOut,
            _ => namespace.enrolled,
        };
        match (wanted, pod.host_network) {
            (false, _) => Membership::NotLabelled,
            (true, true) => Membership::HostNetwork,
            (true, false) => Membership::In,
        }
    }

    /// The configuration that all objects make together.
    pub fn config(&mut self) -> Result<MeshConfig, ConfigErrors> {
        let together = match self.together.take() {
            Some(together) => together,
            None => self.assemble(),
        };
        let config = together.clone();
        self.together = Some(together);
        let mut config = config.inspect_err(|_| self.forget_made())?;
        config.mesh.pod_ranges.extend(self.nodes.iter().flat_map(|(_, node)| node.pod_ranges.iter().copied()));
        config.mesh.pod_ranges.sort_unstable();
        config.mesh.pod_ranges.dedup();
        self.add_pods(&mut config);
        self.add_services(&mut config);
        Ok(config)
    }

    fn assemble(&self) -> Result<MeshConfig, ConfigErrors> {
        let mut assembly = Assembly::default();
        for document in self.documents.values().filter_map(|document| document.good.as_ref()) {
            read(&mut assembly, Place { file: None, object: None }, document);
        }
        // Of what authors write: `metadata` and `status` change by themselves.
        let parts = self.documents.iter().filter_map(|((kind, name), document)| {
            let spec = document.good.as_ref()?["spec"].to_string();
            Some((format!("{kind} {}/{}", name.namespace, name.name), spec))
        });
        Ok(MeshConfig { digest: ConfigDigest::of_parts(parts), ..assembly.finish()? })
    }
}

fn is_of_family(range: &IpNet, address: &IpAddr) -> bool {
    matches!(range, IpNet::V4(_)) == address.is_ipv4()
}

#[cfg(test)]
mod tests;
