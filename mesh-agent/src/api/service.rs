//! `Service`: addresses behind which an endpoint is chosen. In files alone: a cluster has services of its own.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde_json::{Value, json};

use super::rule::{self, exactly_one};
use super::text::{Address, DnsLabel, LabelValue};

/// Addresses of which each connection goes to one of several workloads. In the shape of Kubernetes' own, as far as it goes.
#[derive(Clone, Debug, Eq, JsonSchema, PartialEq)]
#[schemars(rename_all = "camelCase", deny_unknown_fields, extend("x-rules" = [exactly_one(["selector", "endpoints"])], "x-refused" = elsewhere()))]
pub struct ServiceSpec {
    /// Its addresses, which nobody else has.
    #[schemars(length(min = 1), extend("uniqueItems" = true))]
    pub addresses: Vec<Address>,
    /// Its ports.
    #[schemars(length(min = 1), extend("uniqueItems" = true))]
    pub ports: Vec<ServicePort>,
    /// Labels of the workloads of its namespace that are behind it.
    #[schemars(extend("minProperties" = 1))]
    pub selector: Option<BTreeMap<String, LabelValue>>,
    /// Addresses that are behind it, whoever has them.
    #[schemars(extend("uniqueItems" = true))]
    pub endpoints: Option<Vec<Address>>,
    /// Whether a client keeps its endpoint. Default: `None`.
    pub session_affinity: Option<SessionAffinity>,
    /// Which endpoints are chosen from. Default: `Cluster`.
    pub internal_traffic_policy: Option<InternalTrafficPolicy>,
}

fn elsewhere() -> Value {
    const ADDRESSES: &str = "are written as `addresses`";
    let text = json!({"type": "string"});
    let affinity = "affinity has no end here: a client keeps its endpoint as long as that is ready";
    rule::refused(&[
        ("clusterIP", text.clone(), ADDRESSES),
        ("clusterIPs", rule::texts(), ADDRESSES),
        ("type", text, "only what a ClusterIP is can be said here: leave it out"),
        ("sessionAffinityConfig", json!({"type": "object"}), affinity),
    ])
}

/// A port.
#[derive(Clone, Debug, Eq, JsonSchema, PartialEq)]
#[schemars(rename_all = "camelCase", deny_unknown_fields, extend("x-refused" = port_elsewhere()))]
pub struct ServicePort {
    /// Its name, for people.
    pub name: Option<DnsLabel>,
    /// Its number at the service's addresses.
    #[schemars(range(min = 1))]
    pub port: u16,
    /// Its protocol. Default: `TCP`.
    pub protocol: Option<Protocol>,
    /// The endpoints' port. Default: the same.
    #[schemars(range(min = 1))]
    pub target_port: Option<u16>,
}

fn port_elsewhere() -> Value {
    rule::refused(&[
        ("nodePort", json!({"type": "integer"}), "node ports are not the mesh's: leave it out"),
        ("appProtocol", json!({"type": "string"}), "says nothing here: leave it out"),
    ])
}

/// A protocol.
#[derive(Clone, Copy, Debug, Eq, JsonSchema, PartialEq)]
#[schemars(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// the only one
    Tcp,
}

/// Whether a client keeps its endpoint.
#[derive(Clone, Copy, Debug, Eq, JsonSchema, PartialEq)]
pub enum SessionAffinity {
    /// as long as that is ready
    ClientIP,
    /// every connection is for itself
    None,
}

/// Which endpoints are chosen from.
#[derive(Clone, Copy, Debug, Eq, JsonSchema, PartialEq)]
pub enum InternalTrafficPolicy {
    /// all
    Cluster,
    /// those of the client's node
    Local,
}
