//! Reads what both kinds of policies have, and what the Mesh says of them.

use super::object::{Metadata, labels};
use super::value;
use super::walk::{Fields, Node};
use crate::model::mesh::MtlsMode;
use crate::model::policy::{Loosener, PolicyBounds, PolicyName, Scope};

/// The modes by their names.
pub(super) const MODES: [(&str, MtlsMode); 3] =
    [("STRICT", MtlsMode::Strict), ("PERMISSIVE", MtlsMode::Permissive), ("DISABLE", MtlsMode::Disable)];

/// Where Istio attaches policies to what we don't have.
pub(super) const ELSEWHERE: [(&str, &str); 2] = [("targetRef", ATTACHED), ("targetRefs", ATTACHED)];
const ATTACHED: &str = "policies select workloads here, not gateways or services: use `selector`";

/// The name of a policy.
pub(super) fn name(metadata: &Metadata) -> Option<PolicyName> {
    Some(PolicyName::new(metadata.namespace.as_deref(), metadata.name.as_deref()?))
}

/// Whom a policy is for.
pub(super) fn scope(metadata: &Metadata, fields: &Fields<'_>) -> Scope {
    let selector = fields.optional("selector").and_then(|node| node.object(&["matchLabels"]));
    let wanted = selector.and_then(|selector| selector.optional("matchLabels"));
    Scope { namespace: metadata.namespace.clone(), labels: wanted.map(|node| labels(&node)).unwrap_or_default() }
}

/// What the Mesh allows the authors of policies.
pub(super) fn bounds(mesh: &Fields<'_>) -> PolicyBounds {
    let default = PolicyBounds::default();
    let root = mesh.optional("rootNamespace").and_then(|node| node.parse(value::dns_label));
    let minimum = mesh.optional("minimumMode").and_then(|node| node.parse(value::choice(&MODES)));
    let looseners = mesh.optional("mayLoosen").map(|node| node.distinct(|item: &Node<'_>| item.parse(loosener)));
    PolicyBounds {
        root_namespace: root.unwrap_or(default.root_namespace),
        minimum_mode: minimum,
        may_loosen: looseners.unwrap_or_default(),
    }
}

fn loosener(text: &str) -> Result<Loosener, String> {
    if text == "*" {
        return Ok(Loosener::Everybody);
    }
    let Some((namespace, name)) = text.split_once('/') else {
        return value::dns_label(text).map(Loosener::Namespace);
    };
    let (namespace, name) = (value::dns_label(namespace)?, value::dns_subdomain(name)?);
    Ok(Loosener::Policy(PolicyName::new(Some(&namespace), &name)))
}
