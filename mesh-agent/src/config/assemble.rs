//! Puts objects together into one configuration and finds the mistakes that no object shows alone.
//!
//! Exactly one Mesh; no object, address, network namespace or cgroup twice; no workload outside
//! the mesh's ranges, and no identity of a trust domain that nobody vouches for.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use super::error::ConfigError;
use super::object::Object;
use super::rego::{RegoDraft, Source};
use super::service::{self, ServiceDraft};
use super::workload::Draft;
use super::{ConfigDigest, ConfigErrors, MeshConfig, Released, SourceFile};
use crate::model::mesh::{IssuerSource, Mesh};
use crate::model::policy::{AuthorizationPolicy, PeerAuthentication, PolicyName, Scope};
use crate::model::rego::{RegoBody, RegoSettings};
use crate::model::revocation::Revocation;
use crate::model::service::{ServiceSpace, ServiceUid};
use crate::model::spiffe::{SpiffeId, TrustDomain};
use crate::model::svid::TrustBundle;
use crate::model::workload::{NodeName, Workload, WorkloadUid};

/// Where an object was read.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// File and document in it, counted from 1. `None`: from the Kubernetes API.
    pub(super) file: Option<(PathBuf, usize)>,
    pub(super) object: Option<String>,
}

impl Place {
    pub(super) fn mistake(&self, field: impl Into<String>, reason: impl Into<String>) -> ConfigError {
        ConfigError {
            file: self.file.as_ref().map(|(file, _)| file.clone()),
            document: self.file.as_ref().map(|(_, document)| *document),
            object: self.object.clone(),
            field: field.into(),
            reason: reason.into(),
        }
    }

    fn short(&self) -> String {
        match &self.file {
            Some((file, document)) => format!("{} document {document}", file.display()),
            None => self.object.clone().unwrap_or_default(),
        }
    }
}

/// What only one workload can have.
#[derive(Debug, Eq, Hash, PartialEq)]
enum Claim {
    Address(IpAddr),
    Cgroup(NodeName, PathBuf),
    Netns(NodeName, PathBuf),
}

/// What has been read so far.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    errors: Vec<ConfigError>,
    mesh: Option<Place>,
    mesh_settings: Option<Mesh>,
    rego: Option<RegoDraft>,
    /// Policies in Rego, by the name of their file.
    modules: HashMap<String, String>,
    workloads: Vec<(Place, Draft)>,
    places: HashMap<WorkloadUid, Place>,
    owners: HashMap<Claim, (WorkloadUid, Place)>,
    authorization: Named<PolicyName, AuthorizationPolicy>,
    federated: Named<TrustDomain, TrustBundle>,
    peer_authentication: Named<PolicyName, PeerAuthentication>,
    revocations: Named<String, Revocation>,
    services: Named<ServiceUid, ServiceDraft>,
}

/// Objects of one kind by name, each with its place.
type Named<K, T> = BTreeMap<K, (Place, T)>;

impl Assembly {
    /// Notes mistakes.
    pub(super) fn refuse(&mut self, mistakes: impl IntoIterator<Item = ConfigError>) {
        self.errors.extend(mistakes);
    }

    /// Notes that there is a Mesh, also if it has mistakes.
    pub(super) fn saw_mesh(&mut self, place: &Place) {
        match &self.mesh {
            Some(first) => {
                let reason = format!("there can be only one Mesh, and {} has one", first.short());
                self.errors.push(place.mistake("kind", reason));
            }
            None => self.mesh = Some(place.clone()),
        }
    }

    /// Takes a policy in Rego. It counts if the Mesh names it.
    pub(super) fn add_module(&mut self, file: &SourceFile) {
        let name = file.name.file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.modules.insert(name, file.text.clone());
    }

    /// Takes an object that is right in itself.
    pub(super) fn add(&mut self, place: Place, object: Object) {
        match object {
            Object::Authorization(policy) => {
                let name = policy.name.clone();
                add_named(&mut self.authorization, &mut self.errors, NAME, (place, name, policy));
            }
            Object::Federated(bundle) => {
                let name = bundle.trust_domain.clone();
                add_named(&mut self.federated, &mut self.errors, "spec.trustDomain", (place, name, bundle));
            }
            Object::Mesh(mesh, rego) => {
                if self.mesh_settings.is_none() {
                    (self.mesh_settings, self.rego) = (Some(*mesh), rego);
                }
            }
            Object::PeerAuthentication(policy) => {
                let name = policy.name.clone();
                add_named(&mut self.peer_authentication, &mut self.errors, NAME, (place, name, policy));
            }
            Object::Revocation(revocation) => {
                let name = revocation.name.clone();
                add_named(&mut self.revocations, &mut self.errors, NAME, (place, name, revocation));
            }
            Object::Service(draft) => {
                let name = draft.uid.clone();
                add_named(&mut self.services, &mut self.errors, NAME, (place, name, draft));
            }
            Object::Workload(draft) => self.add_workload(place, draft),
        }
    }

    fn add_workload(&mut self, place: Place, draft: Draft) {
        if let Some(first) = self.places.get(&draft.uid) {
            self.errors.push(place.mistake("metadata.name", format!("is already in {}", first.short())));
            return;
        }
        self.places.insert(draft.uid.clone(), place.clone());
        for (field, shown, claim) in claims(&draft) {
            if let Some((owner, first)) = self.owners.get(&claim) {
                let reason = format!("`{shown}` already belongs to {owner} ({})", first.short());
                self.errors.push(place.mistake(field, reason));
            } else {
                self.owners.insert(claim, (draft.uid.clone(), place.clone()));
            }
        }
        self.workloads.push((place, draft));
    }

    /// The whole configuration, or all that is wrong with it.
    pub(super) fn finish(mut self) -> Result<MeshConfig, ConfigErrors> {
        if self.mesh.is_none() {
            let reason = "no Mesh object in the configuration, exactly one is needed".to_owned();
            self.errors.push(ConfigError { file: None, document: None, object: None, field: String::new(), reason });
        }
        let (mut workloads, mut nodes) = (Vec::with_capacity(self.workloads.len()), BTreeSet::new());
        if let Some(mesh) = &self.mesh_settings {
            for (place, draft) in self.workloads {
                self.errors.extend(outside(mesh, &place, &draft));
                nodes.insert(draft.node.clone());
                let trust_domain = draft.trust_domain.clone().unwrap_or_else(|| mesh.trust_domain.clone());
                if trust_domain != mesh.trust_domain && !self.federated.contains_key(&trust_domain) {
                    let reason = format!("`{trust_domain}` is neither the Mesh's nor that of a FederatedTrustDomain");
                    self.errors.push(place.mistake("spec.trustDomain", reason));
                }
                match draft.finish(&trust_domain) {
                    Ok(workload) => workloads.push(workload),
                    Err(error) => self.errors.push(place.mistake("spec.serviceAccount", format!("its ID {error}"))),
                }
            }
        }
        if let Some(mesh) = &self.mesh_settings {
            let known = |trust_domain: &TrustDomain| {
                *trust_domain == mesh.trust_domain || self.federated.contains_key(trust_domain)
            };
            self.errors
                .extend(self.revocations.values().flat_map(|(place, revocation)| foreign(known, place, revocation)));
            self.errors.extend(self.federated.get(&mesh.trust_domain).map(|(place, _)| {
                place.mistake("spec.trustDomain", "is the Mesh's own: its roots come from its issuer")
            }));
            for (place, policy) in self.peer_authentication.values_mut() {
                widen(mesh, &mut policy.scope);
                if policy.scope.namespace.is_none() && !policy.scope.labels.is_empty() {
                    self.errors.push(place.mistake("spec.selector", SELECTS_IN_ROOT));
                }
            }
            self.authorization.values_mut().for_each(|(_, policy)| widen(mesh, &mut policy.scope));
        }
        if let (Some(place), Some(mesh)) = (&self.mesh, &self.mesh_settings) {
            self.errors.extend(strangers(place, mesh, &nodes));
        }
        let (authorization, peer_authentication) = (objects(self.authorization), objects(self.peer_authentication));
        let rego = self.mesh.as_ref().zip(self.rego.as_ref()).and_then(|(place, draft)| {
            let asked = ask_of(draft, &self.modules);
            asked.map_err(|reason| self.errors.push(place.mistake("spec.authorization.rego.policy", reason))).ok()
        });
        let (federated, revocations) = (objects(self.federated), objects(self.revocations));
        workloads.sort_by(|one: &Workload, other| one.uid.cmp(&other.uid));
        let services = service::finish(self.services.into_values(), &workloads).unwrap_or_else(|mistakes| {
            self.errors.extend(mistakes);
            Vec::new()
        });
        match self.mesh_settings {
            Some(mesh) if self.errors.is_empty() => {
                let rego = rego.map(Arc::new);
                let (outside, digest) = (BTreeSet::new(), ConfigDigest::default());
                Ok(MeshConfig {
                    mesh,
                    workloads: workloads.into_iter().map(Arc::new).collect(),
                    outside,
                    unaddressed: BTreeMap::new(),
                    released: Released::default(),
                    authorization: authorization.into(),
                    peer_authentication: peer_authentication.into(),
                    federated: federated.into(),
                    rego,
                    services: services.into_iter().map(Arc::new).collect(),
                    service_space: ServiceSpace::default(),
                    revocations: revocations.into(),
                    digest,
                })
            }
            _ => {
                self.errors.sort_by_key(|error| (error.file.is_none(), error.file.clone(), error.document));
                Err(ConfigErrors(self.errors))
            }
        }
    }
}

/// Istio ignores these; ignored, they would only look like protection.
const SELECTS_IN_ROOT: &str =
    "a mesh-wide PeerAuthentication is for all workloads: put it into the namespace of those that it selects";

/// Where most objects have their name.
const NAME: &str = "metadata.name";

/// Adds an object of which there can't be two of one name, which is in `field`.
fn add_named<K: Ord, T>(
    named: &mut Named<K, T>,
    errors: &mut Vec<ConfigError>,
    field: &str,
    (place, name, object): (Place, K, T),
) {
    match named.get(&name) {
        Some((first, _)) => errors.push(place.mistake(field, format!("is already in {}", first.short()))),
        None => drop(named.insert(name, (place, object))),
    }
}

fn objects<K, T>(named: Named<K, T>) -> Vec<T> {
    named.into_values().map(|(_, object)| object).collect()
}

/// What is in the root namespace is for the whole mesh.
fn widen(mesh: &Mesh, scope: &mut Scope) {
    if scope.namespace.as_deref() == Some(&mesh.bounds.root_namespace) {
        scope.namespace = None;
    }
}

/// With the module that the Mesh names, compiled.
fn ask_of(draft: &RegoDraft, modules: &HashMap<String, String>) -> Result<RegoSettings, String> {
    match &draft.source {
        Source::Server(address) => Ok(draft.finish(RegoBody::Server(address.clone()))),
        Source::File(name) => {
            let text = modules.get(name).ok_or_else(|| format!("there is no file `{name}` beside the documents"))?;
            draft.with_module(name, text)
        }
    }
}

/// Field, value as shown, and claim of everything that no other workload may have.
fn claims(draft: &Draft) -> Vec<(String, String, Claim)> {
    let addresses =
        draft.addresses.iter().enumerate().map(|(index, address)| {
            (format!("spec.addresses[{index}]"), address.to_string(), Claim::Address(*address))
        });
    let on_node = |field: &str, path: &Option<PathBuf>, claim: fn(NodeName, PathBuf) -> Claim| {
        let path = path.clone()?;
        Some((field.to_owned(), path.display().to_string(), claim(draft.node.clone(), path)))
    };
    let netns = on_node("spec.netns", &draft.netns, Claim::Netns);
    let cgroup = on_node("spec.cgroup", &draft.cgroup, Claim::Cgroup);
    addresses.chain(netns).chain(cgroup).collect()
}

/// Addresses outside of the mesh's ranges: other pods would never be diverted to them. Without ranges anything goes.
fn outside(mesh: &Mesh, place: &Place, draft: &Draft) -> Vec<ConfigError> {
    let is_outside =
        |address: &IpAddr| !mesh.pod_ranges.is_empty() && !mesh.pod_ranges.iter().any(|range| range.contains(address));
    let found = draft.addresses.iter().enumerate().filter(|(_, address)| is_outside(address));
    found
        .map(|(index, address)| {
            place.mistake(format!("spec.addresses[{index}]"), format!("`{address}` is in none of the Mesh's podRanges"))
        })
        .collect()
}

/// Nodes whose agents would each make a CA of their own, and trust nobody else's.
fn strangers(place: &Place, mesh: &Mesh, nodes: &BTreeSet<NodeName>) -> Option<ConfigError> {
    let is_alone = nodes.len() < 2 || !matches!(mesh.issuer.source, IssuerSource::Own(_));
    let names = nodes.iter().map(NodeName::as_str).collect::<Vec<_>>().join(", ");
    let reason = format!(
        "is for one node, and there are workloads on {names}: use `remote`, or `certificate` and `key` of one CA for all"
    );
    (!is_alone).then(|| place.mistake("spec.issuer.embedded.directory", reason))
}

/// Identities that no peer can have: their author hopes in vain that they are revoked.
fn foreign(known: impl Fn(&TrustDomain) -> bool, place: &Place, revocation: &Revocation) -> Vec<ConfigError> {
    let found = revocation.spiffe_ids.iter().enumerate().filter(|(_, id)| !known(id.trust_domain()));
    let refuse = |(index, id): (usize, &SpiffeId)| {
        place.mistake(format!("spec.spiffeIds[{index}]"), format!("`{id}` is of no trust domain that this mesh knows"))
    };
    found.map(refuse).collect()
}
