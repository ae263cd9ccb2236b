//! The kinds: what each is called, and where its objects belong.

use serde_json::Value;

use super::authorization::AuthorizationPolicySpec;
use super::federation::FederatedTrustDomainSpec;
use super::mesh::MeshSpec;
use super::peer_authentication::PeerAuthenticationSpec;
use super::raw;
use super::revocation::RevocationSpec;
use super::service::ServiceSpec;
use super::workload::WorkloadSpec;

/// A kind of documents.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// As documents write it.
    pub name: &'static str,
    /// As URLs of the API write it.
    pub plural: &'static str,
    /// For `kubectl`. None of Istio's or Kubernetes' own.
    pub short: &'static str,
    /// Where its objects belong.
    pub scope: Scope,
    /// Whether Kubernetes has it, or files alone.
    pub in_kubernetes: bool,
    /// The only name that an object may have in Kubernetes.
    pub only_name: Option<&'static str>,
    /// What `kubectl get` shows: heading and path.
    pub(super) columns: &'static [(&'static str, &'static str)],
    /// The schema of `spec`, in raw form.
    pub(super) spec: fn() -> Value,
}

/// Where objects belong.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Scope {
    /// To no namespace.
    Cluster,
    /// To a namespace.
    Namespaced,
    /// To a namespace. In a file also to none, and so to the whole mesh; in Kubernetes the Mesh's root namespace says that.
    NamespacedOrMesh,
}

impl Kind {
    /// All kinds, by name.
    pub const ALL: [Self; 7] = [
        Self {
            name: "AuthorizationPolicy",
            plural: "authorizationpolicies",
            short: "hbap",
            scope: Scope::NamespacedOrMesh,
            in_kubernetes: true,
            only_name: None,
            columns: &[("Action", ".spec.action")],
            spec: raw::of::<AuthorizationPolicySpec>,
        },
        Self {
            name: "FederatedTrustDomain",
            plural: "federatedtrustdomains",
            short: "hbftd",
            scope: Scope::Cluster,
            in_kubernetes: true,
            only_name: None,
            columns: &[("Trust Domain", ".spec.trustDomain")],
            spec: raw::of::<FederatedTrustDomainSpec>,
        },
        Self {
            name: "Mesh",
            plural: "meshes",
            short: "hbmesh",
            scope: Scope::Cluster,
            in_kubernetes: true,
            only_name: Some("mesh"),
            columns: &[("Trust Domain", ".spec.trustDomain"), ("Mode", ".spec.mtls.mode")],
            spec: raw::of::<MeshSpec>,
        },
        Self {
            name: "PeerAuthentication",
            plural: "peerauthentications",
            short: "hbpa",
            scope: Scope::NamespacedOrMesh,
            in_kubernetes: true,
            only_name: None,
            columns: &[("Mode", ".spec.mtls.mode")],
            spec: raw::of::<PeerAuthenticationSpec>,
        },
        Self {
            name: "Revocation",
            plural: "revocations",
            short: "hbrev",
            scope: Scope::Cluster,
            in_kubernetes: true,
            only_name: None,
            columns: &[],
            spec: raw::of::<RevocationSpec>,
        },
        Self {
            name: "Service",
            plural: "services",
            short: "hbsvc",
            scope: Scope::Namespaced,
            in_kubernetes: false,
            only_name: None,
            columns: &[],
            spec: raw::of::<ServiceSpec>,
        },
        Self {
            name: "Workload",
            plural: "workloads",
            short: "hbwl",
            scope: Scope::Namespaced,
            in_kubernetes: true,
            only_name: None,
            columns: &[("Node", ".spec.node"), ("Addresses", ".spec.addresses")],
            spec: raw::of::<WorkloadSpec>,
        },
    ];

    /// The kinds that Kubernetes has.
    pub fn in_kubernetes() -> impl Iterator<Item = &'static Self> {
        Self::ALL.iter().filter(|kind| kind.in_kubernetes)
    }

    /// The kind of this name, as people write it: upper and lower case don't matter.
    pub fn of_name(name: &str) -> Option<&'static Self> {
        Self::ALL.iter().find(|kind| kind.name.eq_ignore_ascii_case(name))
    }
}
