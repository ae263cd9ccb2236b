//! Lowers what every object has: `apiVersion`, `kind`, `metadata`; and hands `spec` to the kind's own rules.
//!
//! Fields follow Kubernetes: `status` is another writer's and ignored, and what is mesh-wide has no namespace (policies
//! may also have the Mesh's root namespace).

use std::collections::BTreeMap;

use serde_json::Value;

use super::rego::RegoDraft;
use super::service::ServiceDraft;
use super::walk::{Fields, Node, Report, closest};
use super::workload::Draft;
use super::{authorization, federation, mesh, peer_authentication, revocation, service, value, workload};
use crate::model::mesh::Mesh;
use crate::model::policy::{AuthorizationPolicy, PeerAuthentication};
use crate::model::revocation::Revocation;
use crate::model::svid::TrustBundle;

/// The API group of every kind.
pub const API_GROUP: &str = "mesh.hauberk.dev";
/// The only version so far.
pub const API_VERSION: &str = "v1alpha1";
/// Every kind that the Kubernetes API has as well, with its plural there.
pub const KINDS: [(&str, &str); 6] = [
    ("AuthorizationPolicy", "authorizationpolicies"),
    ("FederatedTrustDomain", "federatedtrustdomains"),
    ("Mesh", "meshes"),
    ("PeerAuthentication", "peerauthentications"),
    ("Revocation", "revocations"),
    ("Workload", "workloads"),
];
/// In files alone: a cluster has services of its own.
const FILE_KINDS: [&str; 1] = ["Service"];
/// Kinds whose objects belong to a namespace, or to none and so to the whole mesh.
const POLICIES: [&str; 2] = ["AuthorizationPolicy", "PeerAuthentication"];
/// Kinds whose objects must belong to a namespace.
const NAMESPACED: [&str; 2] = ["Service", "Workload"];

/// An object that is right in itself.
#[derive(Debug)]
pub(super) enum Object {
    Authorization(AuthorizationPolicy),
    Federated(TrustBundle),
    Mesh(Box<Mesh>, Option<RegoDraft>),
    PeerAuthentication(PeerAuthentication),
    Revocation(Revocation),
    Service(ServiceDraft),
    Workload(Draft),
}

/// The checked names of an object.
#[derive(Debug, Default)]
pub(super) struct Metadata {
    pub(super) name: Option<String>,
    pub(super) namespace: Option<String>,
    pub(super) labels: BTreeMap<String, String>,
}

/// Reads a document; `None` if the report then holds a mistake that leaves nothing to go on with.
pub(super) fn lower(document: &Value, report: &Report) -> Option<Object> {
    let fields = Node::root(document, report).object(&["apiVersion", "kind", "metadata", "spec", "status"])?;
    let version = fields.required("apiVersion").and_then(|node| node.parse(api_version));
    let kind = fields.required("kind").and_then(|node| node.parse(kind));
    version?;
    let kind = kind?;
    let metadata = fields.required("metadata").and_then(|node| metadata(&node, kind));
    let spec = fields.required("spec");
    // Both are looked at, so that both report.
    let metadata = metadata.unwrap_or_default();
    match kind {
        "AuthorizationPolicy" => authorization::lower(&metadata, &spec?).map(Object::Authorization),
        "FederatedTrustDomain" => federation::lower(&spec?).map(Object::Federated),
        "Mesh" => mesh::lower(&spec?).map(|(mesh, rego)| Object::Mesh(Box::new(mesh), rego)),
        "PeerAuthentication" => peer_authentication::lower(&metadata, &spec?).map(Object::PeerAuthentication),
        "Revocation" => revocation::lower(&metadata, &spec?).map(Object::Revocation),
        "Service" => service::lower(&metadata, &spec?).map(Object::Service),
        _ => workload::lower(&metadata, &spec?).map(Object::Workload),
    }
}

/// `Kind namespace/name`, as far as the document says.
pub(super) fn describe(document: &Value) -> Option<String> {
    let kind = document["kind"].as_str()?;
    let metadata = &document["metadata"];
    match (metadata["namespace"].as_str(), metadata["name"].as_str()) {
        (Some(namespace), Some(name)) => Some(format!("{kind} {namespace}/{name}")),
        (None, Some(name)) => Some(format!("{kind} {name}")),
        _ => Some(kind.to_owned()),
    }
}

fn api_version(text: &str) -> Result<(), String> {
    let expected = format!("{API_GROUP}/{API_VERSION}");
    if text == expected { Ok(()) } else { Err(format!("`{text}` is not known, expected `{expected}`")) }
}

fn kind(text: &str) -> Result<&'static str, String> {
    let kinds: Vec<_> = KINDS.iter().map(|(kind, _)| *kind).chain(FILE_KINDS).collect();
    if let Some(kind) = kinds.iter().find(|kind| **kind == text) {
        return Ok(kind);
    }
    let hint = closest(text, &kinds).map(|kind| format!(", did you mean `{kind}`?"));
    Err(format!("`{text}` is not a kind of this mesh{}", hint.unwrap_or_default()))
}

fn metadata(node: &Node<'_>, kind: &str) -> Option<Metadata> {
    let known = ["name", "namespace", "labels", "annotations"];
    let fields = node.object(&known)?;
    let name = fields.required("name").and_then(|node| node.parse(value::dns_subdomain));
    let namespace = namespace(&fields, kind);
    let labels = fields.optional("labels").map(|node| labels(&node)).unwrap_or_default();
    for (key, annotation) in fields.optional("annotations").map(|node| node.entries()).unwrap_or_default() {
        check_key(key, &annotation);
        annotation.text();
    }
    Some(Metadata { name, namespace, labels })
}

/// Kubernetes labels, also where a selector asks for them.
pub(super) fn labels(node: &Node<'_>) -> BTreeMap<String, String> {
    let read = |(key, label): (&str, Node<'_>)| {
        check_key(key, &label);
        Some((key.to_owned(), label.parse(|text| value::label_value(text).map(|()| text.to_owned()))?))
    };
    node.entries().into_iter().filter_map(read).collect()
}

fn namespace(fields: &Fields<'_>, kind: &str) -> Option<String> {
    if NAMESPACED.contains(&kind) {
        return fields.required("namespace").and_then(|node| node.parse(value::dns_label));
    }
    let node = fields.optional("namespace");
    if POLICIES.contains(&kind) {
        return node.and_then(|node| node.parse(value::dns_label));
    }
    if let Some(node) = node {
        node.refuse(format!("a {kind} belongs to no namespace"));
    }
    None
}

fn check_key(key: &str, node: &Node<'_>) {
    if let Err(reason) = value::label_key(key) {
        node.refuse(reason);
    }
}
