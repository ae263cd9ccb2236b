//! Lowers what every object has: `apiVersion`, `kind`, `metadata`; and hands `spec` to the kind's own rules.
//!
//! Fields follow Kubernetes: `status` is another writer's and ignored, and what is mesh-wide has no namespace.

use serde_json::Value;

use super::walk::{Fields, Node, Report, closest};
use super::workload::Draft;
use super::{federation, mesh, revocation, value, workload};
use crate::model::mesh::Mesh;
use crate::model::revocation::Revocation;
use crate::model::svid::TrustBundle;

/// The only version so far.
const API_VERSION: &str = "mesh.hauberk.dev/v1alpha1";
const KINDS: [&str; 4] = ["FederatedTrustDomain", "Mesh", "Revocation", "Workload"];
/// The only kind whose objects belong to a namespace.
const NAMESPACED: &str = "Workload";

/// An object that is right in itself.
#[derive(Debug)]
pub(super) enum Object {
    Federated(TrustBundle),
    Mesh(Mesh),
    Revocation(Revocation),
    Workload(Draft),
}

/// The checked names of an object.
#[derive(Debug)]
pub(super) struct Metadata {
    pub(super) name: Option<String>,
    pub(super) namespace: Option<String>,
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
    let metadata = metadata.unwrap_or(Metadata { name: None, namespace: None });
    match kind {
        "FederatedTrustDomain" => federation::lower(&spec?).map(Object::Federated),
        "Mesh" => mesh::lower(&spec?).map(Object::Mesh),
        "Revocation" => revocation::lower(&metadata, &spec?).map(Object::Revocation),
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
    if text == API_VERSION { Ok(()) } else { Err(format!("`{text}` is not known, expected `{API_VERSION}`")) }
}

fn kind(text: &str) -> Result<&'static str, String> {
    if let Some(kind) = KINDS.into_iter().find(|kind| *kind == text) {
        return Ok(kind);
    }
    let hint = closest(text, &KINDS).map(|kind| format!(", did you mean `{kind}`?"));
    Err(format!("`{text}` is not a kind of this mesh{}", hint.unwrap_or_default()))
}

fn metadata(node: &Node<'_>, kind: &str) -> Option<Metadata> {
    let known = ["name", "namespace", "labels", "annotations"];
    let fields = node.object(&known)?;
    let name = fields.required("name").and_then(|node| node.parse(value::dns_subdomain));
    let namespace = namespace(&fields, kind);
    for (key, label) in fields.optional("labels").map(|node| node.entries()).unwrap_or_default() {
        check_key(key, &label);
        label.parse(value::label_value);
    }
    for (key, annotation) in fields.optional("annotations").map(|node| node.entries()).unwrap_or_default() {
        check_key(key, &annotation);
        annotation.text();
    }
    Some(Metadata { name, namespace })
}

fn namespace(fields: &Fields<'_>, kind: &str) -> Option<String> {
    if kind == NAMESPACED {
        return fields.required("namespace").and_then(|node| node.parse(value::dns_label));
    }
    if let Some(node) = fields.optional("namespace") {
        node.refuse(format!("a {kind} belongs to no namespace"));
    }
    None
}

fn check_key(key: &str, node: &Node<'_>) {
    if let Err(reason) = value::label_key(key) {
        node.refuse(reason);
    }
}
