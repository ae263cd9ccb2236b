//! Lowers `Workload` objects, except for what depends on other objects (identity, clashes): see `config::assemble`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use super::object::Metadata;
use super::value;
use super::walk::{Fields, Node};
use crate::model::spiffe::{SpiffeId, SpiffeIdError, TrustDomain};
use crate::model::workload::{Exclusions, NodeName, Workload, WorkloadUid};

/// The service account of a pod that names none, as in Kubernetes.
const DEFAULT_SERVICE_ACCOUNT: &str = "default";

/// A workload whose trust domain isn't known yet: the Mesh may be in a later file.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) uid: WorkloadUid,
    pub(super) addresses: Vec<IpAddr>,
    namespace: String,
    labels: BTreeMap<String, String>,
    service_account: String,
    /// `None`: the mesh's.
    pub(super) trust_domain: Option<TrustDomain>,
    pub(super) node: NodeName,
    pub(super) netns: Option<PathBuf>,
    pub(super) cgroup: Option<PathBuf>,
    exclude: Exclusions,
}

impl Draft {
    /// Gives the workload its identity.
    pub(super) fn finish(self, trust_domain: &TrustDomain) -> Result<Workload, SpiffeIdError> {
        Ok(Workload {
            uid: self.uid,
            identity: SpiffeId::of_service_account(trust_domain, &self.namespace, &self.service_account)?,
            labels: self.labels,
            node: self.node,
            addresses: self.addresses,
            netns: self.netns,
            cgroup: self.cgroup,
            pod: None,
            // From files nobody can say more: see ARCHITECTURE.md.
            announced: true,
            exclude: self.exclude,
        })
    }
}

/// Reads `spec`; `None` only if something required is missing or unreadable.
pub(super) fn lower(metadata: &Metadata, spec: &Node<'_>) -> Option<Draft> {
    let fields = spec.object(&["node", "serviceAccount", "trustDomain", "addresses", "netns", "cgroup", "exclude"])?;
    let node = fields.required("node").and_then(|node| node.parse(value::dns_subdomain));
    let service_account = fields.optional("serviceAccount").and_then(|node| node.parse(value::dns_subdomain));
    let trust_domain = fields.optional("trustDomain").and_then(|node| node.parse(value::trust_domain));
    let addresses = fields.required("addresses").map(|node| node.some_distinct(|item| item.parse(value::address)));
    let netns = fields.optional("netns").and_then(|node| node.parse(value::absolute_path));
    let cgroup = fields.optional("cgroup").and_then(|node| node.parse(value::absolute_path));
    let exclude = fields.optional("exclude").map(|node| exclusions(&node));
    let namespace = metadata.namespace.clone()?;
    Some(Draft {
        uid: WorkloadUid::new(&namespace, metadata.name.as_deref()?),
        addresses: addresses?,
        namespace,
        labels: metadata.labels.clone(),
        service_account: service_account.unwrap_or_else(|| DEFAULT_SERVICE_ACCOUNT.to_owned()),
        trust_domain,
        node: NodeName::new(&node?),
        netns,
        cgroup,
        exclude: exclude.unwrap_or_default(),
    })
}

fn exclusions(node: &Node<'_>) -> Exclusions {
    let Some(fields) = node.object(&["outboundPorts", "outboundRanges", "inboundPorts"]) else {
        return Exclusions::default();
    };
    let ranges = fields.optional("outboundRanges").map(|node| node.distinct(|item| item.parse(value::range)));
    Exclusions {
        outbound_ports: ports(&fields, "outboundPorts"),
        outbound_ranges: ranges.unwrap_or_default(),
        inbound_ports: ports(&fields, "inboundPorts"),
    }
}

fn ports(fields: &Fields<'_>, name: &str) -> Vec<u16> {
    let Some(node) = fields.optional(name) else { return Vec::new() };
    let ports = node.distinct(Node::port);
    if ports.len() > Exclusions::MAX_PORTS {
        node.refuse(format!("has {} ports, at most {} are possible", ports.len(), Exclusions::MAX_PORTS));
    }
    ports
}
