//! The documents as types, and what is made of them: JSON Schema for editors, CustomResourceDefinitions for Kubernetes.
//!
//! The agent reads documents with the walkers of `config`, which report every mistake at once; these types say the same
//! for others. Tests hold the two together. Nothing here reads a document.

mod authorization;
mod crd;
mod federation;
mod json;
mod kind;
mod mesh;
mod peer_authentication;
mod raw;
mod revocation;
mod rule;
mod selector;
mod service;
mod status;
mod text;
mod workload;

pub use authorization::{
    Action, AuthorizationPolicySpec, Condition, ConditionKey, From, Operation, Rule, Source, TimeWindow, To,
};
pub use federation::FederatedTrustDomainSpec;
pub use json::{any_schema, schema};
pub use kind::{Kind, Scope};
pub use mesh::{
    Authorization, CipherSuite, DataPath, EmbeddedIssuer, ExistingConnections, Issuer, KeyExchange, KeyExchangeGroup,
    KubernetesIssuer, MeshMode, MeshMtls, MeshSpec, MinimumMode, OnFailure, Rego, RemoteIssuer, SessionResumption,
    Timeouts, Tls,
};
pub use peer_authentication::{Mode, Mtls, PeerAuthenticationSpec};
pub use revocation::RevocationSpec;
pub use selector::Selector;
pub use service::{InternalTrafficPolicy, Protocol, ServicePort, ServiceSpec, SessionAffinity};
pub use status::{ConditionStatus, Status, StatusCondition};
pub use text::{
    AbsolutePath, Address, AddressOrRange, Bytes, ConditionValue, Days, DnsLabel, DnsSubdomain, Duration, HostAndPort,
    LabelValue, Loosener, NamespacePattern, OpaServer, Path, Pem, Port, Principal, Range, RegoFile, RegoRule, Serial,
    ServiceAccount, SpiffeId, TimeOfDay, TimeZone, TrustDomain,
};
pub use workload::{Exclude, WorkloadSpec};

pub use crd::crd;

/// The API group of all kinds.
pub const GROUP: &str = "mesh.hauberk.dev";

/// Its only version so far.
pub const VERSION: &str = "v1alpha1";

#[cfg(test)]
mod tests;
