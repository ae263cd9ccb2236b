//! `PeerAuthentication`: what inbound connections must be.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde_json::{Value, json};

use super::rule::{self, Rule};
use super::selector::Selector;
use super::text::PORT;

/// What inbound connections of workloads must be: mutual TLS, or plaintext too. It can make the Mesh's mode tighter, never looser,
/// unless the Mesh allows it by name. One of the Mesh's root namespace is for all namespaces.
#[derive(Clone, Debug, Eq, JsonSchema, PartialEq)]
#[schemars(rename_all = "camelCase", deny_unknown_fields, extend("x-rules" = [needs_selector()], "x-refused" = rule::refused(&rule::attachments())))]
pub struct PeerAuthenticationSpec {
    /// Whose connections. Without it: those of all workloads of the namespace.
    pub selector: Option<Selector>,
    /// What they must be.
    pub mtls: Option<Mtls>,
    /// What those to single ports must be: by the workload's port.
    #[schemars(extend("x-rules" = [ports()], "maxProperties" = 64))]
    pub port_level_mtls: Option<BTreeMap<String, Mtls>>,
}

fn needs_selector() -> Rule {
    let selected = "(has(self.selector) && has(self.selector.matchLabels) && self.selector.matchLabels.size() > 0)";
    let labels = json!({"properties": {"matchLabels": {"minProperties": 1}}, "required": ["matchLabels"]});
    let json = json!({
        "if": {"required": ["portLevelMtls"]},
        "then": {"properties": {"selector": labels}, "required": ["selector"]},
    });
    let message = "needs a selector: ports are those of single workloads";
    Rule::cel(format!("!has(self.portLevelMtls) || {selected}"), message).of("portLevelMtls").or_json(json)
}

fn ports() -> Rule {
    let json: Value = json!({"propertyNames": {"pattern": PORT}});
    let rule = format!("self.all(port, port.size() <= 5 && port.matches('{PORT}') && int(port) <= 65535)");
    Rule::cel(rule, "has a key that is not a port (1 to 65535)").or_json(json)
}

/// What connections must be.
#[derive(Clone, Debug, Eq, JsonSchema, PartialEq)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mtls {
    /// The mode. Default: `UNSET`.
    pub mode: Option<Mode>,
}

/// What connections must be.
#[derive(Clone, Copy, Debug, Eq, JsonSchema, PartialEq)]
#[schemars(rename_all = "UPPERCASE")]
pub enum Mode {
    /// plaintext, which nobody authenticates
    Disable,
    /// mutual TLS or plaintext, told apart by the first bytes
    Permissive,
    /// mutual TLS
    Strict,
    /// as the next wider document says
    Unset,
}
