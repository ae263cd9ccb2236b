//! Lowers `AuthorizationPolicy` objects, except for what the Mesh's root namespace means: see `config::assemble`.
//!
//! Istio's shapes at layer 4. What needs layer 7 is refused, because a policy that is only half obeyed is none.

use super::object::Metadata;
use super::policy::{self, ELSEWHERE};
use super::value;
use super::walk::{Fields, Node};
use crate::model::policy::{Action, AuthorizationPolicy, Match, Operation, Rule};

mod condition;
mod source;
mod window;

/// Why fields of requests are refused.
const LAYER_7: &str = "needs the content of requests, which the mesh does not read: check it in the application or in a \
                       layer-7 proxy, and say here who may connect (`source.principals`, `operation.ports`)";
const CUSTOM: &str = "is not possible here: no external authorizer is asked; expected `ALLOW`, `DENY` or `AUDIT`";

/// Reads `spec`; `None` only if something required is missing or unreadable.
pub(super) fn lower(metadata: &Metadata, spec: &Node<'_>) -> Option<AuthorizationPolicy> {
    let elsewhere =
        [ELSEWHERE[0], ELSEWHERE[1], ("provider", "belongs to the action CUSTOM, which is not possible here")];
    let fields = spec.object_explaining(&["selector", "action", "rules"], &elsewhere)?;
    let scope = policy::scope(metadata, &fields);
    let action = fields.optional("action").map_or(Some(Action::default()), |node| node.parse(action));
    let rules = fields.optional("rules").map(|node| node.items()).unwrap_or_default();
    if rules.is_empty() && action.is_some_and(|action| action != Action::Allow) {
        spec.refuse("has no rules, so it never matches; for every connection write `rules: [{}]`");
    }
    let namespace = metadata.namespace.as_deref();
    let rules = rules.iter().filter_map(|node| rule(node, namespace)).collect();
    Some(AuthorizationPolicy { name: policy::name(metadata)?, scope, action: action?, rules })
}

fn action(text: &str) -> Result<Action, String> {
    if text == "CUSTOM" {
        return Err(format!("`CUSTOM` {CUSTOM}"));
    }
    value::choice(&[("ALLOW", Action::Allow), ("DENY", Action::Deny), ("AUDIT", Action::Audit)])(text)
}

fn rule(node: &Node<'_>, namespace: Option<&str>) -> Option<Rule> {
    let fields = node.object(&["from", "to", "when"])?;
    let from = some_items(&fields, "from").iter().filter_map(|item| source::lower(item, namespace)).collect();
    let to = some_items(&fields, "to").iter().filter_map(operation).collect();
    let when = some_items(&fields, "when").iter().filter_map(condition::lower).collect();
    Some(Rule { from, to, when })
}

fn operation(item: &Node<'_>) -> Option<Operation> {
    let node = item.object(&["operation"])?.required("operation")?;
    let elsewhere = ["hosts", "notHosts", "methods", "notMethods", "paths", "notPaths"].map(|field| (field, LAYER_7));
    let fields = node.object_explaining(&["ports", "notPorts"], &elsewhere)?;
    let ports = list(&fields, ["ports", "notPorts"], |node| node.port_or_text());
    // With a mistake in it, the author did mean something.
    if ["ports", "notPorts"].iter().all(|name| fields.optional(name).is_none())
        && !node.has_any(&elsewhere.map(|(name, _)| name))
    {
        node.refuse("is empty, expected `ports` or `notPorts`; for every port leave `to` out");
    }
    Some(Operation { ports })
}

/// A list of items that is not empty if it is there: an empty one would mean everything to us and nothing to its author.
fn some_items<'a>(fields: &Fields<'a>, name: &str) -> Vec<Node<'a>> {
    let Some(node) = fields.optional(name) else { return Vec::new() };
    let items = node.items();
    if items.is_empty() && node.is_list() {
        node.refuse("is empty, expected at least one item");
    }
    items
}

/// A positive and a negative list.
fn list<T: PartialEq>(fields: &Fields<'_>, [any, not]: [&str; 2], read: impl Fn(&Node<'_>) -> Option<T>) -> Match<T> {
    let read = |name| fields.optional(name).map(|node: Node<'_>| node.some_distinct(&read)).unwrap_or_default();
    Match { any: read(any), not: read(not) }
}
