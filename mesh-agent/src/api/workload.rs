//! `Workload`: one running instance that has an identity, and that no Kubernetes pod stands for.

use schemars::JsonSchema;

use super::text::{AbsolutePath, Address, DnsSubdomain, Range, TrustDomain};

/// One running instance that has an identity. Its labels are those that policies select.
#[derive(Clone, Debug, Eq, JsonSchema, PartialEq)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadSpec {
    /// The node whose agent serves it.
    pub node: DnsSubdomain,
    /// The name in its identity, `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`. Default: `default`.
    pub service_account: Option<DnsSubdomain>,
    /// Its trust domain: the Mesh's (the default), or one of a FederatedTrustDomain.
    pub trust_domain: Option<TrustDomain>,
    /// Its addresses, which no other workload has and which lie in the Mesh's `podRanges`.
    #[schemars(length(min = 1), extend("uniqueItems" = true))]
    pub addresses: Vec<Address>,
    /// Its network namespace on the node, such as `/run/netns/web`. Needed there only.
    pub netns: Option<AbsolutePath>,
    /// Its cgroup on the node, below the cgroup2 mount. Needed there only.
    pub cgroup: Option<AbsolutePath>,
    /// What its owner keeps out of the mesh.
    pub exclude: Option<Exclude>,
}

/// Traffic that the mesh leaves alone.
#[derive(Clone, Debug, Eq, JsonSchema, PartialEq)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
pub struct Exclude {
    /// Destination ports of connections that it opens.
    #[schemars(length(max = 16), inner(range(min = 1)), extend("uniqueItems" = true))]
    pub outbound_ports: Option<Vec<u16>>,
    /// Destination ranges of connections that it opens.
    #[schemars(extend("uniqueItems" = true))]
    pub outbound_ranges: Option<Vec<Range>>,
    /// Its own ports.
    #[schemars(length(max = 16), inner(range(min = 1)), extend("uniqueItems" = true))]
    pub inbound_ports: Option<Vec<u16>>,
}
