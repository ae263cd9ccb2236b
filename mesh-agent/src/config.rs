//! Turns configuration documents into the model: pure, total, and with every mistake reported at once.
//!
//! Reading files is `sources::file`'s business, so that the Kubernetes API can feed the same rules.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;
use walk::Report;

use crate::model::mesh::Mesh;
use crate::model::policy::{AuthorizationPolicy, PeerAuthentication};
use crate::model::rego::RegoSettings;
use crate::model::revocation::Revocation;
use crate::model::service::{Service, ServiceSpace};
use crate::model::svid::TrustBundle;
use crate::model::workload::{PodUid, Workload, WorkloadUid};

mod assemble;
mod authorization;
mod cluster;
mod digest;
mod document;
mod error;
mod federation;
mod mesh;
mod object;
mod peer_authentication;
mod policy;
mod rego;
mod revocation;
mod service;
mod value;
mod walk;
mod workload;

use assemble::{Assembly, Place};
pub use cluster::{Cluster, Membership, Told, Tracked, Verdict, Written};
pub use digest::ConfigDigest;
pub use error::{ConfigError, ConfigErrors};
pub use object::{API_GROUP, API_VERSION, KINDS};

/// One file of YAML documents; with a name in `.crl` revocation lists of CAs in PEM, in `.rego` a policy in Rego.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SourceFile {
    /// Its name, as errors show it.
    pub name: PathBuf,
    /// Its text.
    pub text: String,
}

/// A whole configuration, valid. A clone shares what is large with its original.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MeshConfig {
    /// The mesh-wide settings.
    pub mesh: Mesh,
    /// All workloads, ordered by name.
    pub workloads: Vec<Arc<Workload>>,
    /// Addresses of pods that are known not to be in the mesh.
    pub outside: BTreeSet<IpAddr>,
    /// Pods of the agent's node that are in the mesh and that nobody can connect to, each with the reason.
    pub unaddressed: BTreeMap<WorkloadUid, (PodUid, &'static str)>,
    /// Whose networking is plain again where the mesh has held it.
    pub released: Released,
    /// What vouches for other trust domains, ordered by name.
    pub federated: Arc<[TrustBundle]>,
    /// Who may connect to whom, ordered by name.
    pub authorization: Arc<[AuthorizationPolicy]>,
    /// What inbound connections must be, ordered by name.
    pub peer_authentication: Arc<[PeerAuthentication]>,
    /// Who is asked in Rego, after our own policies.
    pub rego: Option<Arc<RegoSettings>>,
    /// Addresses that stand for others, ordered by name.
    pub services: Vec<Arc<Service>>,
    /// What else is known of addresses that services have.
    pub service_space: ServiceSpace,
    /// What is revoked, ordered by name.
    pub revocations: Arc<[Revocation]>,
    /// What of, for people: the same on two nodes whose documents are the same.
    pub digest: ConfigDigest,
}

/// Which pods of the agent's node the mesh lets go if they are no workloads (any more).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Released {
    /// All: what the configuration doesn't name isn't meant to be in the mesh.
    #[default]
    Everybody,
    /// These, which are known not to be in it. Others may have lost their address, or be gone from the API while they still run.
    Pods(BTreeSet<PodUid>),
}

impl Released {
    /// Whether a pod's networking is plain again.
    pub fn has(&self, pod: &PodUid) -> bool {
        match self {
            Self::Everybody => true,
            Self::Pods(pods) => pods.contains(pod),
        }
    }
}

impl MeshConfig {
    /// The names of all policies.
    pub fn policy_names(&self) -> BTreeSet<&str> {
        let authorization = self.authorization.iter().map(|policy| policy.name.as_str());
        authorization.chain(self.peer_authentication.iter().map(|policy| policy.name.as_str())).collect()
    }
}

/// Parses documents that make up one configuration together.
pub fn parse(documents: &[SourceFile]) -> Result<MeshConfig, ConfigErrors> {
    let mut assembly = Assembly::default();
    for file in documents {
        match file.name.extension().and_then(OsStr::to_str) {
            Some("crl") => {
                read_crl(&mut assembly, file);
                continue;
            }
            Some("rego") => {
                assembly.add_module(file);
                continue;
            }
            _ => {}
        }
        for (index, document) in document::split(&file.text).into_iter().enumerate() {
            let place = Place { file: Some((file.name.clone(), index + 1)), object: None };
            match document {
                Ok(document) => read(&mut assembly, place, &document),
                Err(reason) => assembly.refuse([place.mistake("", reason)]),
            }
        }
    }
    Ok(MeshConfig { digest: ConfigDigest::of(documents), ..assembly.finish()? })
}

/// A CA's tool wrote it: there is no document around it.
fn read_crl(assembly: &mut Assembly, file: &SourceFile) {
    let place = Place { file: Some((file.name.clone(), 1)), object: None };
    match revocation::of_crl_file(&file.name.to_string_lossy(), &file.text) {
        Ok(revocation) => assembly.add(place, object::Object::Revocation(revocation)),
        Err(reason) => assembly.refuse([place.mistake("", reason)]),
    }
}

fn read(assembly: &mut Assembly, mut place: Place, document: &Value) {
    place.object = object::describe(document);
    let report = Report::default();
    let object = object::lower(document, &report);
    let mistakes = report.into_mistakes();
    #[cfg(test)]
    tests::api::a_right_document_fits(document, &mistakes);
    assembly.refuse(mistakes.into_iter().map(|(field, reason)| place.mistake(field, reason)));
    if document["kind"] == "Mesh" {
        assembly.saw_mesh(&place);
    }
    if let Some(object) = object {
        assembly.add(place, object);
    }
}

#[cfg(test)]
mod tests;
