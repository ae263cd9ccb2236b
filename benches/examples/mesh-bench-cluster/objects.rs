//! The objects of a simulated cluster.

use std::net::Ipv4Addr;
use std::path::Path;

use serde_json::{Value, json};

/// The mesh's.
pub(super) const TRUST_DOMAIN: &str = "mesh.test";
/// Pods of one namespace.
const PODS_A_NAMESPACE: u32 = 200;
/// Pods of one workload: they share labels, a service account and a Service.
pub(super) const PODS_AN_APP: u32 = 20;
/// Addresses of one node's range, without its first.
const ADDRESSES_A_NODE: u32 = 250;

/// How large the cluster is.
#[derive(Clone, Copy, clap::Args)]
pub(super) struct Plan {
    /// Pods, all of them in the mesh and on other nodes than the agent's
    #[arg(long, default_value_t = 10_000)]
    pub(super) pods: u32,
    /// AuthorizationPolicies
    #[arg(long, default_value_t = 1_000)]
    pub(super) policies: u32,
    /// Nodes
    #[arg(long, default_value_t = 500)]
    pub(super) nodes: u32,
    /// Services with an EndpointSlice each
    #[arg(long, default_value_t = 500)]
    pub(super) services: u32,
}

/// What must be there before all else: the agent's node and the Mesh, whose CA is in `ca`.
pub(super) fn head(ca: &Path) -> String {
    let ca = ca.display();
    format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{name: a}}\nspec: {{podCIDR: 10.42.1.0/24, podCIDRs: [10.42.1.0/24]}}\n---\n\
         apiVersion: mesh.hauberk.dev/v1alpha1\nkind: Mesh\nmetadata: {{name: mesh}}\n\
         spec: {{trustDomain: {TRUST_DOMAIN}, mtls: {{mode: STRICT}}, \
         issuer: {{embedded: {{certificate: {ca}/ca.crt, key: {ca}/ca.key}}}}}}\n"
    )
}

impl Plan {
    pub(super) fn namespaces(self) -> impl Iterator<Item = Value> {
        (0..self.pods.div_ceil(PODS_A_NAMESPACE)).map(|number| {
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {
                "name": namespace(number * PODS_A_NAMESPACE), "labels": {"mesh.hauberk.dev/enrolled": "true"},
            }})
        })
    }

    pub(super) fn nodes(self) -> impl Iterator<Item = Value> {
        (0..self.nodes).map(|number| {
            let range = format!("{}/24", first_address(number));
            json!({"apiVersion": "v1", "kind": "Node",
                "metadata": {"name": node(number), "labels": {"topology.kubernetes.io/zone": format!("z{}", number % 3)}},
                "spec": {"podCIDR": range, "podCIDRs": [range]}})
        })
    }

    pub(super) fn policies(self) -> impl Iterator<Item = Value> {
        (0..self.policies).map(move |number| {
            // Spread over all workloads.
            let pod = u32::try_from(u64::from(number) * u64::from(self.pods) / u64::from(self.policies)).unwrap_or(0);
            let from = |caller: u32| format!("{TRUST_DOMAIN}/ns/{}/sa/caller-{number}-{caller}", namespace(pod));
            json!({"apiVersion": "mesh.hauberk.dev/v1alpha1", "kind": "AuthorizationPolicy",
            "metadata": {"name": format!("p{number}"), "namespace": namespace(pod)},
            "spec": {"selector": {"matchLabels": {"app": app(pod)}}, "rules": [{
                "from": [{"source": {"principals": [from(0), from(1), from(2)]}}],
                "to": [{"operation": {"ports": ["80", "8080"]}}],
            }]}})
        })
    }

    pub(super) fn services(self) -> impl Iterator<Item = (Value, Value)> {
        (0..self.services).map(move |number| {
            let pod = number * PODS_AN_APP;
            let (name, namespace) = (app(pod), namespace(pod));
            let service = json!({"apiVersion": "v1", "kind": "Service",
                "metadata": {"name": name, "namespace": namespace},
                "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}});
            let endpoints = self.endpoints(pod, None);
            let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": {"name": name, "namespace": namespace, "labels": {"kubernetes.io/service-name": name}},
                "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints});
            (service, slice)
        })
    }

    /// The endpoints of the Service of this pod, but for `without`.
    pub(super) fn endpoints(self, pod: u32, without: Option<u32>) -> Vec<Value> {
        let first = pod / PODS_AN_APP * PODS_AN_APP;
        let pods = (first..first + PODS_AN_APP).filter(|pod| Some(*pod) != without);
        pods.map(|pod| json!({"addresses": [self.address(pod)], "conditions": {"ready": true, "serving": true}}))
            .collect()
    }

    /// The name of the EndpointSlice that the pod of this number is in, if there is one.
    pub(super) fn slice_of(self, pod: u32) -> Option<String> {
        (pod / PODS_AN_APP < self.services).then(|| app(pod))
    }

    /// The pod of this number as its workload's controller makes it: with what most pods have, though the agent keeps little of it.
    pub(super) fn pod(self, number: u32, name: &str) -> Value {
        let (namespace, app) = (namespace(number), app(number));
        let variable =
            |index: u32| json!({"name": format!("SETTING_{index}"), "value": format!("value-{index}-of-{app}")});
        let probe = json!({"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 10});
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace,
                "labels": {"app": app, "version": "v1", "pod-template-hash": format!("{:x}", number / PODS_AN_APP + 0x5d_b8c0),
                    "app.kubernetes.io/part-of": namespace},
                "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": "8080"}},
            "spec": {"nodeName": node(number % self.nodes), "serviceAccountName": app, "containers": [{
                "name": "main", "image": "registry.test/shop/main:1.0", "ports": [{"containerPort": 8080, "name": "http"}],
                "env": (0..12).map(variable).collect::<Vec<_>>(), "readinessProbe": probe, "livenessProbe": probe,
                "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            }], "volumes": [{"name": "data", "emptyDir": {}}]}})
    }

    /// What the kubelet says of it once it runs.
    pub(super) fn status(self, number: u32) -> Value {
        let address = self.address(number);
        let condition =
            |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": "2026-11-23T08:00:00Z"});
        let conditions =
            ["Initialized", "Ready", "ContainersReady", "PodScheduled", "mesh.hauberk.dev/Served"].map(condition);
        json!({"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "conditions": conditions,
            "containerStatuses": [{"name": "main", "ready": true, "restartCount": 0, "image": "registry.test/shop/main:1.0",
                "imageID": "registry.test/shop/main@sha256:0", "state": {"running": {"startedAt": "2026-11-23T08:00:00Z"}}}]}})
    }

    /// Of the pod of this number; another one has it only if there are more than the nodes have addresses.
    fn address(self, number: u32) -> Ipv4Addr {
        let index = number / self.nodes % ADDRESSES_A_NODE;
        Ipv4Addr::from(first_address(number % self.nodes).to_bits() + index + 2)
    }
}

pub(super) fn namespace(pod: u32) -> String {
    format!("team-{}", pod / PODS_A_NAMESPACE)
}

pub(super) fn name(pod: u32, generation: u32) -> String {
    format!("{}-{pod:05}-{generation}", app(pod))
}

fn app(pod: u32) -> String {
    format!("app-{}", pod / PODS_AN_APP)
}

fn node(number: u32) -> String {
    format!("node-{number:03}")
}

fn first_address(node: u32) -> Ipv4Addr {
    Ipv4Addr::from(Ipv4Addr::new(10, 64, 0, 0).to_bits() + (node << 8))
}
