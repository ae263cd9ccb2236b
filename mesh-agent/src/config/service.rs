//! Lowers `Service` objects. Whom a selector means is known once all workloads are: see `config::assemble`.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};

use super::assemble::Place;
use super::error::ConfigError;
use super::object::{Metadata, labels};
use super::value;
use super::walk::Node;
use crate::model::service::{Affinity, Condition, Endpoint, Meant, Service, ServicePort, ServiceUid, TrafficPolicy};
use crate::model::workload::Workload;

/// A service whose endpoints aren't known yet.
#[derive(Debug)]
pub(super) struct ServiceDraft {
    pub(super) uid: ServiceUid,
    namespace: String,
    addresses: Vec<IpAddr>,
    ports: Vec<Port>,
    backends: Backends,
    affinity: Affinity,
    traffic: TrafficPolicy,
}

#[derive(Clone, Copy, Debug)]
struct Port {
    port: u16,
    target: u16,
}

/// Equal if one address can't have both.
impl PartialEq for Port {
    fn eq(&self, other: &Self) -> bool {
        self.port == other.port
    }
}

#[derive(Debug)]
enum Backends {
    /// Workloads of the namespace with these labels.
    Selected(BTreeMap<String, String>),
    Listed(Vec<IpAddr>),
}

/// What a Service of Kubernetes has in these fields' place.
const ELSEWHERE: [(&str, &str); 4] = [
    ("clusterIP", ADDRESSES),
    ("clusterIPs", ADDRESSES),
    ("type", "only what a ClusterIP is can be said here: leave it out"),
    ("sessionAffinityConfig", "affinity has no end here: a client keeps its endpoint as long as that is ready"),
];
const ADDRESSES: &str = "are written as `addresses`";

/// Reads `spec`; `None` only if something required is missing or unreadable.
pub(super) fn lower(metadata: &Metadata, spec: &Node<'_>) -> Option<ServiceDraft> {
    let known = ["addresses", "ports", "selector", "endpoints", "sessionAffinity", "internalTrafficPolicy"];
    let fields = spec.object_explaining(&known, &ELSEWHERE)?;
    let addresses = fields.required("addresses").map(|node| node.some_distinct(|item| item.parse(value::address)));
    let ports = fields.required("ports").map(|node| node.some_distinct(port));
    let backends = match (fields.optional("selector"), fields.optional("endpoints")) {
        (Some(selector), None) => {
            let selected = labels(&selector);
            if selected.is_empty() {
                selector.refuse("is empty, expected at least one label");
            }
            Some(Backends::Selected(selected))
        }
        (None, Some(listed)) => Some(Backends::Listed(listed.distinct(|item| item.parse(value::address)))),
        _ => {
            spec.refuse("needs exactly one of `selector` and `endpoints`");
            None
        }
    };
    let affinity = [Affinity::None, Affinity::ClientIp].map(|affinity| (affinity.name(), affinity));
    let affinity = fields.optional("sessionAffinity").and_then(|node| node.parse(value::choice(&affinity)));
    let traffic = value::choice(&[("Cluster", TrafficPolicy::Cluster), ("Local", TrafficPolicy::Local)]);
    let traffic = fields.optional("internalTrafficPolicy").and_then(|node| node.parse(traffic));
    let namespace = metadata.namespace.clone()?;
    Some(ServiceDraft {
        uid: ServiceUid::new(&namespace, metadata.name.as_deref()?),
        namespace,
        addresses: addresses?,
        ports: ports?,
        backends: backends?,
        affinity: affinity.unwrap_or_default(),
        traffic: traffic.unwrap_or_default(),
    })
}

fn port(node: &Node<'_>) -> Option<Port> {
    let elsewhere = [
        ("nodePort", "node ports are not the mesh's: leave it out"),
        ("appProtocol", "says nothing here: leave it out"),
    ];
    let fields = node.object_explaining(&["name", "port", "protocol", "targetPort"], &elsewhere)?;
    fields.optional("name").and_then(|node| node.parse(value::dns_label));
    fields.optional("protocol").and_then(|node| node.parse(value::choice(&[("TCP", ())])));
    let port = fields.required("port").and_then(|node| node.port());
    let target = fields.optional("targetPort").map(|node| node.port());
    let port = port?;
    Some(Port { port, target: target.unwrap_or(Some(port))? })
}

impl ServiceDraft {
    fn finish(&self, workloads: &[Workload], nodes: &HashMap<IpAddr, &Workload>) -> Service {
        let is_selected = |workload: &&Workload, wanted: &BTreeMap<String, String>| {
            workload.namespace() == self.namespace
                && wanted.iter().all(|(key, value)| workload.labels.get(key) == Some(value))
        };
        let backends: Vec<IpAddr> = match &self.backends {
            Backends::Listed(listed) => listed.clone(),
            Backends::Selected(wanted) => {
                let selected = workloads.iter().filter(|workload| is_selected(workload, wanted));
                selected.flat_map(|workload| workload.addresses.iter().copied()).collect()
            }
        };
        let endpoint = |address: &IpAddr, target| Endpoint {
            address: SocketAddr::new(*address, target),
            condition: Condition::Ready,
            node: nodes.get(address).map(|workload| workload.node.clone()),
            meant: Meant::default(),
        };
        let port = |port: &Port| ServicePort {
            port: port.port,
            endpoints: backends.iter().map(|address| endpoint(address, port.target)).collect(),
        };
        Service {
            uid: self.uid.clone(),
            addresses: self.addresses.clone(),
            external: Vec::new(),
            ports: self.ports.iter().map(port).collect(),
            affinity: self.affinity,
            traffic: self.traffic,
        }
    }
}

/// Gives services their endpoints, and finds addresses that somebody else has.
pub(super) fn finish(
    drafts: impl Iterator<Item = (Place, ServiceDraft)>,
    workloads: &[Workload],
) -> Result<Vec<Service>, Vec<ConfigError>> {
    let by_address: HashMap<IpAddr, &Workload> = workloads
        .iter()
        .flat_map(|workload| workload.addresses.iter().map(move |address| (*address, workload)))
        .collect();
    let (mut taken, mut services, mut mistakes) = (HashMap::<IpAddr, ServiceUid>::new(), Vec::new(), Vec::new());
    for (place, draft) in drafts {
        let mut refuse = |field: String, address: &IpAddr, what: String| {
            mistakes.push(place.mistake(field, format!("`{address}` {what}")));
        };
        for (index, address) in draft.addresses.iter().enumerate() {
            let field = format!("spec.addresses[{index}]");
            if let Some(workload) = by_address.get(address) {
                refuse(field, address, format!("already belongs to the workload {}", workload.uid));
            } else if let Some(other) = taken.insert(*address, draft.uid.clone()) {
                refuse(field, address, format!("already belongs to the service {other}"));
            }
        }
        services.push(draft.finish(workloads, &by_address));
    }
    if mistakes.is_empty() { Ok(services) } else { Err(mistakes) }
}
