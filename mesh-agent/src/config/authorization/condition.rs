//! Lowers conditions: Istio's keys as far as a connection has them, and time windows.

use super::super::value::{self, listed};
use super::super::walk::Node;
use super::{LAYER_7, list, source, window};
use crate::model::policy::Condition;

const KEYS: [&str; 5] = ["source.ip", "source.namespace", "source.principal", "destination.ip", "destination.port"];
const LISTS: [&str; 2] = ["values", "notValues"];

/// Reads one item of `when`.
pub(super) fn lower(item: &Node<'_>) -> Option<Condition> {
    let fields = item.object(&["key", "values", "notValues", "time"])?;
    if let Some(time) = fields.optional("time") {
        for node in ["key", "values", "notValues"].into_iter().filter_map(|name| fields.optional(name)) {
            node.refuse("can't be beside `time`, write two conditions");
        }
        return window::lower(&time).map(Condition::Time);
    }
    let key = fields.required("key").and_then(|node| node.parse(key));
    if LISTS.iter().all(|name| fields.optional(name).is_none()) {
        item.refuse("compares with nothing, expected `values` or `notValues`");
    }
    let addresses = || list(&fields, LISTS, |node| node.parse(value::range_or_address));
    let ports = || list(&fields, LISTS, |node| node.port_or_text());
    Some(match key? {
        "source.ip" => Condition::SourceIp(addresses()),
        "source.namespace" => Condition::SourceNamespace(source::namespaces(&fields, LISTS)),
        "source.principal" => Condition::SourcePrincipal(source::principals(&fields, LISTS)),
        "destination.ip" => Condition::DestinationIp(addresses()),
        _ => Condition::DestinationPort(ports()),
    })
}

fn key(text: &str) -> Result<&'static str, String> {
    if let Some(key) = KEYS.into_iter().find(|key| *key == text) {
        return Ok(key);
    }
    if text.starts_with("request.") {
        return Err(format!("`{text}` {LAYER_7}"));
    }
    Err(format!("`{text}` is not one of {}", listed(KEYS.iter().map(|key| format!("`{key}`")))))
}
