//! What we keep of each object that the API server has.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::DynamicObject;
use serde_json::{Value, json};

use crate::model::cluster::{
    ENROLLED_LABEL, Namespace, Node, OPT_OUT_LABEL, ObjectName, Pod, SERVED_CONDITION, UNINSTALL_LABEL,
};
use crate::model::workload::{NodeName, PodUid};

/// Phases in which a pod's containers have ended for good.
const FINISHED: [&str; 2] = ["Succeeded", "Failed"];
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
    let mut addresses: Vec<_> = listed.chain(status.pod_ip).filter_map(|address| address.parse().ok()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    let served = |conditions: Vec<v1::PodCondition>| {
        conditions.iter().any(|condition| condition.type_ == SERVED_CONDITION && condition.status == "True")
    };
    Some(Pod {
        uid: PodUid::parse(pod.metadata.uid.as_deref()?)?,
        node: spec.node_name.as_deref().filter(|node| !node.is_empty()).map(NodeName::new),
        service_account: spec.service_account_name.clone().unwrap_or_else(|| DEFAULT_SERVICE_ACCOUNT.to_owned()),
        addresses,
        labels: pod.metadata.labels.clone().unwrap_or_default(),
        host_network: spec.host_network.unwrap_or_default(),
        finished: status.phase.is_some_and(|phase| FINISHED.contains(&&*phase)),
        served: status.conditions.is_some_and(served),
    })
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
    let mut pod_ranges: Vec<_> = ranges.filter_map(|range| range.parse().ok()).collect();
    pod_ranges.sort_unstable();
    pod_ranges.dedup();
    Node { pod_ranges }
}

/// A document of ours, with the metadata that its author wrote and no other.
pub(super) fn document(kind: &str, api_version: &str, object: &DynamicObject) -> Value {
    let metadata = &object.metadata;
    let mut kept = json!({"name": metadata.name, "labels": metadata.labels});
    if let Some(namespace) = &metadata.namespace {
        kept["namespace"] = json!(namespace);
    }
    json!({"apiVersion": api_version, "kind": kind, "metadata": kept, "spec": object.data["spec"]})
}
