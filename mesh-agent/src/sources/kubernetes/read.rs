//! What we keep of each object that the API server has.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1;
use k8s_openapi::api::discovery::v1::{EndpointConditions, EndpointSlice};
use k8s_openapi::api::networking::v1::ServiceCIDR;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::DynamicObject;
use serde_json::{Value, json};

use crate::config::{API_GROUP, API_VERSION, Told, Written};
use crate::kubernetes::ACCEPTED;
use crate::model::cluster::{
    ClusterService, ENROLLED_LABEL, FOREIGN_ENDPOINTS_ANNOTATION, Namespace, Node, OPT_OUT_LABEL, ObjectName, Pod,
    SERVED_CONDITION, Slice, SliceEndpoint, UNINSTALL_LABEL,
};
use crate::model::service::{Affinity, Condition, TrafficPolicy};
use crate::model::workload::{NodeName, PodUid};

/// Phases in which a pod's containers have ended for good.
const FINISHED: [&str; 2] = ["Succeeded", "Failed"];
/// On the mirror of a static pod, by its kubelet: the hash of its manifest.
const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";
const HASH_ANNOTATION: &str = "kubernetes.io/config.hash";
/// Labels of the API server's own.
const SERVICE_OF_SLICE: &str = "kubernetes.io/service-name";
const OTHER_PROXY: &str = "service.kubernetes.io/service-proxy-name";
const ZONE_OF_NODE: &str = "topology.kubernetes.io/zone";
/// The service account of a pod that names none.
const DEFAULT_SERVICE_ACCOUNT: &str = "default";

/// Namespace and name; `None` for what the API server would never send.
pub(super) fn name(metadata: &ObjectMeta) -> Option<ObjectName> {
    Some(ObjectName { namespace: metadata.namespace.clone().unwrap_or_default(), name: metadata.name.clone()? })
}

/// A pod; `None` without a uid that we can use.
pub(super) fn pod(pod: &v1::Pod) -> Option<Pod> {
    let (spec, status) = (pod.spec.as_ref()?, pod.status.clone().unwrap_or_default());
    let listed = status.pod_ips.unwrap_or_default().into_iter().map(|ip| ip.ip);
    let addresses = distinct(listed.chain(status.pod_ip).filter_map(|address| unicast(&address)).collect());
    let served = |conditions: Vec<v1::PodCondition>| {
        conditions.iter().any(|condition| condition.type_ == SERVED_CONDITION && condition.status == "True")
    };
    Some(Pod {
        uid: PodUid::parse(pod.metadata.uid.as_deref()?)?,
        static_uid: static_uid(pod),
        node: spec.node_name.as_deref().filter(|node| !node.is_empty()).map(NodeName::new),
        service_account: spec.service_account_name.clone().unwrap_or_else(|| DEFAULT_SERVICE_ACCOUNT.to_owned()),
        addresses,
        labels: pod.metadata.labels.clone().unwrap_or_default(),
        host_network: spec.host_network.unwrap_or_default(),
        finished: status.phase.is_some_and(|phase| FINISHED.contains(&&*phase)),
        served: status.conditions.is_some_and(served),
    })
}

/// What the node calls a static pod, which the API shows by a mirror: only that of the pod's own node counts, which no service
/// account is for.
fn static_uid(pod: &v1::Pod) -> Option<PodUid> {
    let (spec, annotations) = (pod.spec.as_ref()?, pod.metadata.annotations.as_ref()?);
    let (mirror, hash) = (annotations.get(MIRROR_ANNOTATION)?, annotations.get(HASH_ANNOTATION)?);
    let owner = pod.metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))?;
    let is_its_nodes =
        owner.kind == "Node" && owner.api_version == "v1" && Some(&owner.name) == spec.node_name.as_ref();
    let is_nobodys = spec.service_account_name.as_ref().is_none_or(String::is_empty);
    PodUid::parse(hash).filter(|uid| uid.is_static() && mirror == hash && is_its_nodes && is_nobodys)
}

/// A namespace, by its labels.
pub(super) fn namespace(labels: Option<&BTreeMap<String, String>>) -> Namespace {
    let is = |label: &str, value: &str| labels.and_then(|labels| labels.get(label)).is_some_and(|held| held == value);
    Namespace {
        enrolled: is(ENROLLED_LABEL, "true"),
        may_opt_out: is(OPT_OUT_LABEL, "allowed"),
        uninstall: is(UNINSTALL_LABEL, "true"),
    }
}

/// A node.
pub(super) fn node(node: &v1::Node) -> Node {
    let spec = node.spec.clone().unwrap_or_default();
    let ranges = spec.pod_cidrs.unwrap_or_default().into_iter().chain(spec.pod_cidr);
    let pod_ranges = distinct(ranges.filter_map(|range| range.parse().ok()).collect());
    let zone = node.metadata.labels.as_ref().and_then(|labels| labels.get(ZONE_OF_NODE)).cloned();
    let addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    let addresses = addresses.filter_map(|address| address.address.parse::<IpAddr>().ok());
    Node { addresses: distinct(addresses.map(|address| address.to_canonical()).collect()), pod_ranges, zone }
}

/// Ranges that Services get their addresses from.
pub(super) fn service_ranges(range: &ServiceCIDR) -> Vec<IpNet> {
    let ranges = range.spec.iter().flat_map(|spec| &spec.cidrs).flatten();
    distinct(ranges.filter_map(|range| range.parse().ok()).collect())
}

/// A Service; `None` if it has no addresses of its own.
pub(super) fn service(service: &v1::Service) -> Option<ClusterService> {
    let spec = service.spec.as_ref()?;
    let addresses: Vec<_> =
        spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip).filter_map(|address| unicast(address)).collect();
    let ports = spec.ports.iter().flatten().filter(|port| is_tcp(port.protocol.as_deref()));
    let annotations = service.metadata.annotations.as_ref();
    let foreign = annotations.and_then(|all| all.get(FOREIGN_ENDPOINTS_ANNOTATION)).map_or("", String::as_str);
    let is = |field: &Option<String>, value: &str| field.as_deref() == Some(value);
    (!addresses.is_empty()).then(|| ClusterService {
        addresses: distinct(addresses),
        external: external(spec, service.status.as_ref()),
        is_proxied_elsewhere: service.metadata.labels.as_ref().is_some_and(|all| all.contains_key(OTHER_PROXY)),
        ports: ports.filter_map(|port| named(port.name.as_deref(), port.port)).collect(),
        affinity: if is(&spec.session_affinity, "ClientIP") { Affinity::ClientIp } else { Affinity::None },
        traffic: if is(&spec.internal_traffic_policy, "Local") { TrafficPolicy::Local } else { TrafficPolicy::Cluster },
        foreign: foreign.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect(),
    })
}

/// Addresses outside of the cluster that kube-proxy takes for the Service's where a pod calls them. Those of a load balancer that
/// doesn't serve everybody are left to kube-proxy, which knows whom.
fn external(spec: &v1::ServiceSpec, status: Option<&v1::ServiceStatus>) -> Vec<IpAddr> {
    let is_open = spec.load_balancer_source_ranges.as_ref().is_none_or(Vec::is_empty);
    let balancer = status.and_then(|status| status.load_balancer.as_ref()).filter(|_| is_open);
    // A proxy would miss the connection: it knows more of it than its address.
    let is_passed_on = |ingress: &&v1::LoadBalancerIngress| ingress.ip_mode.as_deref().is_none_or(|mode| mode == "VIP");
    let ingress = balancer.iter().flat_map(|balancer| &balancer.ingress).flatten().filter(is_passed_on);
    let all = spec.external_ips.iter().flatten().chain(ingress.filter_map(|ingress| ingress.ip.as_ref()));
    distinct(all.filter_map(|address| unicast(address)).collect())
}

/// An EndpointSlice; `None` if it belongs to no Service.
pub(super) fn slice(slice: &EndpointSlice) -> Option<Slice> {
    let service = slice.metadata.labels.as_ref()?.get(SERVICE_OF_SLICE)?.clone();
    let ports = slice.ports.iter().flatten().filter(|port| is_tcp(port.protocol.as_deref()));
    let endpoint = |endpoint: &k8s_openapi::api::discovery::v1::Endpoint| {
        let hints = endpoint.hints.clone().unwrap_or_default();
        SliceEndpoint {
            addresses: endpoint.addresses.iter().filter_map(|address| unicast(address)).collect(),
            condition: condition(&endpoint.conditions.clone().unwrap_or_default()),
            node: endpoint.node_name.as_deref().map(NodeName::new),
            for_nodes: hints.for_nodes.unwrap_or_default().iter().map(|node| NodeName::new(&node.name)).collect(),
            for_zones: hints.for_zones.unwrap_or_default().into_iter().map(|zone| zone.name).collect(),
        }
    };
    Some(Slice {
        service,
        ports: ports.filter_map(|port| named(port.name.as_deref(), port.port?)).collect(),
        endpoints: slice.endpoints.iter().map(endpoint).collect(),
    })
}

/// What is not said means ready, and not about to go.
fn condition(conditions: &EndpointConditions) -> Condition {
    let ready = conditions.ready.unwrap_or(true);
    match (ready, conditions.serving.unwrap_or(ready), conditions.terminating.unwrap_or(false)) {
        (true, ..) => Condition::Ready,
        (false, true, true) => Condition::Leaving,
        (false, ..) => Condition::Unready,
    }
}

/// An address in its one form that somebody in particular has, and others reach. A mapped one would pass for neither family's.
fn unicast(text: &str) -> Option<IpAddr> {
    let address = text.parse::<IpAddr>().ok()?.to_canonical();
    let is_local = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    let is_nobodys = address.is_unspecified() || address.is_loopback() || address.is_multicast();
    (!is_local && !is_nobodys).then_some(address)
}

fn is_tcp(protocol: Option<&str>) -> bool {
    protocol.is_none_or(|protocol| protocol == "TCP")
}

fn named(name: Option<&str>, port: i32) -> Option<(String, u16)> {
    Some((name.unwrap_or_default().to_owned(), u16::try_from(port).ok()?))
}

fn distinct<T: Ord>(mut all: Vec<T>) -> Vec<T> {
    all.sort_unstable();
    all.dedup();
    all
}

/// A document of ours, with the metadata that its author wrote and no other.
pub(super) fn document(kind: &str, object: &DynamicObject) -> Written {
    let metadata = &object.metadata;
    let mut kept = json!({"name": metadata.name, "labels": metadata.labels});
    if let Some(namespace) = &metadata.namespace {
        kept["namespace"] = json!(namespace);
    }
    let api_version = format!("{API_GROUP}/{API_VERSION}");
    let conditions = object.data["status"]["conditions"].as_array().into_iter().flatten();
    Written {
        generation: metadata.generation.unwrap_or_default(),
        created: metadata.creation_timestamp.as_ref().map_or(0, |created| created.0.as_second()),
        content: json!({"apiVersion": api_version, "kind": kind, "metadata": kept, "spec": object.data["spec"]}),
        told: conditions.filter(|condition| condition["type"] == ACCEPTED).find_map(told),
    }
}

fn told(condition: &Value) -> Option<Told> {
    Some(Told {
        generation: condition["observedGeneration"].as_i64()?,
        accepted: condition["status"].as_str()? == "True",
        message: condition["message"].as_str()?.to_owned(),
        since: condition["lastTransitionTime"].as_str()?.to_owned(),
    })
}

#[cfg(test)]
mod tests;
