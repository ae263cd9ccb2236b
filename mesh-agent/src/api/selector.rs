//! Which workloads a policy is for.

use std::collections::BTreeMap;

use schemars::JsonSchema;

use super::rule::Rule;
use super::text::LabelValue;

/// Selects workloads by their labels.
#[derive(Clone, Debug, Eq, JsonSchema, PartialEq)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
pub struct Selector {
    /// Labels that a workload must have, all of them. None: all workloads of the namespace.
    #[schemars(extend("x-rules" = [keys()], "maxProperties" = 64))]
    pub match_labels: Option<BTreeMap<String, LabelValue>>,
}

/// The form of a label's key: `[prefix/]name`.
const KEY: &str = "^([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$";

fn keys() -> Rule {
    let json = serde_json::json!({"propertyNames": {"pattern": KEY}});
    Rule::cel(format!("self.all(key, key.size() <= 317 && key.matches('{KEY}'))"), "has a key that is not a label key")
        .or_json(json)
}
