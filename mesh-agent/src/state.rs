//! The immutable snapshot of the mesh that every decision is taken on.
//!
//! Sources build a new one and publish it whole; a connection keeps the one it began with.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use crate::config::{ConfigDigest, MeshConfig, Released};
use crate::model::crl::Crl;
use crate::model::mesh::Mesh;
use crate::model::rego::RegoSettings;
use crate::model::revocation::Serial;
use crate::model::spiffe::SpiffeId;
use crate::model::svid::TrustBundle;
use crate::model::workload::{NodeName, PodUid, Workload, WorkloadUid};
use crate::policy::{Addresses, Finding, Modes, PolicyIndex, Roster, findings};

mod addresses;
mod explain;
mod older;
#[cfg(test)]
mod policies;
mod rego;
mod revocation;
mod route;
mod service;

use addresses::Services;
pub use explain::{Arrival, Explanation, explain};
pub use older::older_than_enrolment;
pub use rego::rego_input;
use revocation::Revoked;
pub use route::{Fallback, Route, route};
pub use service::{NoEndpoint, Target, candidates, choose};

/// What the authors of a configuration's policies should know: see [`findings`].
pub fn policy_findings(config: &MeshConfig) -> Vec<Finding> {
    findings(&config.mesh, &config.federated, &config.workloads, &config.authorization, &config.peer_authentication)
}

/// One configuration, indexed.
#[derive(Debug)]
pub struct MeshState {
    mesh: Mesh,
    pod_ranges: Addresses,
    workloads: Roster,
    by_address: HashMap<IpAddr, Arc<Workload>>,
    outside: BTreeSet<IpAddr>,
    unaddressed: BTreeMap<WorkloadUid, (PodUid, &'static str)>,
    released: Released,
    services: Services,
    policies: PolicyIndex,
    modes: Modes,
    revoked: Revoked,
    federated: Arc<[TrustBundle]>,
    rego: Option<Arc<RegoSettings>>,
    digest: ConfigDigest,
}

impl MeshState {
    /// Indexes a valid configuration.
    pub fn new(config: MeshConfig) -> Self {
        Self::after(config, None)
    }

    /// Indexes the configuration that comes after that of `before`, and takes over what is the same.
    pub fn after(config: MeshConfig, before: Option<&Self>) -> Self {
        let revoked = Revoked::of(&config);
        let MeshConfig { mesh, workloads, outside, unaddressed, released, .. } = config;
        let (federated, authorization, peer_authentication) =
            (config.federated, config.authorization, config.peer_authentication);
        let workloads = Roster::new(workloads);
        let policies = PolicyIndex::new(&mesh, &workloads, &authorization, before.map(|before| &before.policies));
        let modes = Modes::new(&mesh, &workloads, &peer_authentication, before.map(|before| &before.modes));
        let mut by_address = HashMap::with_capacity(before.map_or(0, |before| before.by_address.len()));
        for workload in workloads.iter() {
            by_address.extend(workload.addresses.iter().map(|address| (*address, Arc::clone(workload))));
        }
        let pod_ranges = Addresses::of(&mesh.pod_ranges);
        let is_pods = |address: &IpAddr| {
            by_address.contains_key(address) || outside.contains(address) || pod_ranges.contains(*address)
        };
        let services = Services::new(config.services, config.service_space, is_pods);
        let (rego, digest) = (config.rego, config.digest);
        Self {
            mesh,
            pod_ranges,
            workloads,
            by_address,
            outside,
            unaddressed,
            released,
            services,
            policies,
            modes,
            revoked,
            federated,
            rego,
            digest,
        }
    }

    /// The mesh-wide settings.
    pub fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    /// Which configuration it is.
    pub fn digest(&self) -> &ConfigDigest {
        &self.digest
    }

    /// The workload that has this address.
    pub fn at(&self, address: IpAddr) -> Option<&Arc<Workload>> {
        self.by_address.get(&address.to_canonical())
    }

    /// The workload of this name.
    pub fn workload(&self, uid: &WorkloadUid) -> Option<&Arc<Workload>> {
        self.workloads.get(uid)
    }

    /// Who may connect to whom.
    pub fn policies(&self) -> &PolicyIndex {
        &self.policies
    }

    /// What inbound connections must be.
    pub fn modes(&self) -> &Modes {
        &self.modes
    }

    /// Whether a certificate with this identity and serial number proves nothing any more.
    pub fn revokes(&self, id: &SpiffeId, serial: &Serial) -> bool {
        self.revoked.has(id, serial)
    }

    /// Whether no certificate with this identity shall be issued any more.
    pub fn revokes_id(&self, id: &SpiffeId) -> bool {
        self.revoked.has_id(id)
    }

    /// The lists of CAs. Whose signature counts is the reader's to know.
    pub fn crls(&self) -> &[Crl] {
        self.revoked.crls()
    }

    /// Who is asked in Rego.
    pub fn rego(&self) -> Option<&Arc<RegoSettings>> {
        self.rego.as_ref()
    }

    /// What vouches for other trust domains, each for its own.
    pub fn federated(&self) -> &Arc<[TrustBundle]> {
        &self.federated
    }

    /// The workloads of one node, by name.
    pub fn on_node<'a>(&'a self, node: &'a NodeName) -> impl Iterator<Item = &'a Arc<Workload>> {
        self.workloads.iter().filter(move |workload| workload.node == *node)
    }

    /// The node's pods that are in the mesh and that nobody can connect to, each with the reason.
    pub fn unaddressed(&self) -> &BTreeMap<WorkloadUid, (PodUid, &'static str)> {
        &self.unaddressed
    }

    /// Whose networking is plain again where the mesh has held it.
    pub fn released(&self) -> &Released {
        &self.released
    }

    /// Whether a pod that is not in the mesh has this address.
    fn is_outside(&self, address: IpAddr) -> bool {
        self.outside.contains(&address.to_canonical())
    }

    fn in_pod_ranges(&self, address: IpAddr) -> bool {
        self.pod_ranges.contains(address)
    }
}
