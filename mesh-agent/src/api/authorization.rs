//! `AuthorizationPolicy`: who may connect to whom, in Istio's shapes as far as a connection goes.

use schemars::JsonSchema;
use serde_json::{Value, json};

use super::rule::{self, LAYER_7};
use super::selector::Selector;
use super::text::{
    AddressOrRange, ConditionValue, Days, NamespacePattern, Port, Principal, ServiceAccount, TimeOfDay, TimeZone,
};

/// Who may connect to the workloads that it selects. It is decided where a connection arrives, by the verified identity of the
/// peer: a DENY policy that matches ends it; if ALLOW policies select the workload, one must match. Policies of the Mesh's
/// root namespace are for all namespaces.
#[derive(Clone, Debug, Eq, JsonSchema, PartialEq)]
#[schemars(rename_all = "camelCase", deny_unknown_fields, extend("x-rules" = [never()], "x-refused" = not_here()))]
pub struct AuthorizationPolicySpec {
    /// Whom it protects. Without it: all workloads of the namespace.
    pub selector: Option<Selector>,
    /// What a match means. Default: `ALLOW`.
    pub action: Option<Action>,
    /// A connection matches if it matches one of them. ALLOW without rules allows nothing.
    pub rules: Option<Vec<Rule>>,
}

fn never() -> rule::Rule {
    let rule = "!has(self.action) || !(self.action in ['AUDIT', 'DENY']) || (has(self.rules) && self.rules.size() > 0)";
    let json = json!({
        "if": {"properties": {"action": {"enum": ["AUDIT", "DENY"]}}, "required": ["action"]},
        "then": {"properties": {"rules": {"minItems": 1}}, "required": ["rules"]},
    });
    let message = "has no rules, so it never matches; for every connection write `rules: [{}]`";
    rule::Rule::cel(rule, message).or_json(json)
}

fn not_here() -> Value {
    let mut fields = rule::attachments();
    let provider = "belongs to the action CUSTOM, which is not possible here";
    fields.push(("provider", rule::object_of_texts(&["name"]), provider));
    rule::refused(&fields)
}

/// What a match means.
#[derive(Clone, Copy, Debug, Eq, JsonSchema, PartialEq)]
#[schemars(rename_all = "UPPERCASE", extend("x-refused-values" = {"CUSTOM": CUSTOM}))]
pub enum Action {
    /// the connection may be, and what no ALLOW policy of the workload matches may not
    Allow,
    /// it is recorded, and nothing else
    Audit,
    /// it may not be, whatever else says so
    Deny,
}

const CUSTOM: &str =
    "`CUSTOM` is not possible here: no external authorizer is asked; expected `ALLOW`, `DENY` or `AUDIT`";

/// Matches if one of `from`, one of `to` and all of `when` do; a list that isn't there matches everything.
#[derive(Clone, Debug, Eq, JsonSchema, PartialEq)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rule {
    /// Who connects.
    #[schemars(length(min = 1))]
    pub from: Option<Vec<From>>,
    /// To what.
    #[schemars(length(min = 1))]
    pub to: Option<Vec<To>>,
    /// What else must hold.
    #[schemars(length(min = 1))]
    pub when: Option<Vec<Condition>>,
}

/// One of those who may be meant.
#[derive(Clone, Debug, Eq, JsonSchema, PartialEq)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
pub struct From {
    /// Who connects.
    pub source: Source,
}

/// Who connects: every field must match, each by one of its values, and by none of the `not` form's.
#[derive(Clone, Debug, Eq, JsonSchema, PartialEq)]
#[schemars(rename_all = "camelCase", deny_unknown_fields, extend("x-rules" = source_rules(), "x-refused" = source_refused()))]
pub struct Source {
    /// Identities, `<trust domain>/ns/<namespace>/sa/<service account>`; also `abc*`, `*abc`, and `*` for anybody who has one.
    #[schemars(length(min = 1), extend("uniqueItems" = true))]
    pub principals: Option<Vec<Principal>>,
    /// Identities that are not meant. Plaintext has none, so `["*"]` matches it.
    #[schemars(length(min = 1), extend("uniqueItems" = true))]
    pub not_principals: Option<Vec<Principal>>,
    /// Namespaces of the mesh's own trust domain; also with `*` at one end.
    #[schemars(length(min = 1), extend("uniqueItems" = true))]
    pub namespaces: Option<Vec<NamespacePattern>>,
    /// Namespaces that are not meant.
    #[schemars(length(min = 1), extend("uniqueItems" = true))]
    pub not_namespaces: Option<Vec<NamespacePattern>>,
    /// Service accounts of the mesh's own trust domain: `<namespace>/<name>`, or `<name>` in the policy's namespace.
    #[schemars(length(min = 1), extend("uniqueItems" = true))]
    pub service_accounts: Option<Vec<ServiceAccount>>,
    /// Service accounts that are not meant.
    #[schemars(length(min = 1), extend("uniqueItems" = true))]
    pub not_service_accounts: Option<Vec<ServiceAccount>>,
    /// Addresses of the connection, and ranges of them. An address proves nothing: prefer identities.
    #[schemars(length(min = 1), extend("uniqueItems" = true))]
    pub ip_blocks: Option<Vec<AddressOrRange>>,
    /// Addresses that are not meant.
    #[schemars(length(min = 1), extend("uniqueItems" = true))]
    pub not_ip_blocks: Option<Vec<AddressOrRange>>,
}

const REMOTE_IP: &str =
    "is what a layer-7 proxy reports, and nobody does here: use `ipBlocks`, the address of the connection";

fn source_refused() -> Value {
    let field = |name, why| (name, rule::texts(), why);
    rule::refused(&[
        field("requestPrincipals", LAYER_7),
        field("notRequestPrincipals", LAYER_7),
        field("remoteIpBlocks", REMOTE_IP),
        field("notRemoteIpBlocks", REMOTE_IP),
    ])
}

fn source_rules() -> [rule::Rule; 3] {
    // With a refused field the source isn't empty: there is a better reason to refuse it.
    let fields = [
        "principals",
        "notPrincipals",
        "namespaces",
        "notNamespaces",
        "serviceAccounts",
        "notServiceAccounts",
        "ipBlocks",
        "notIpBlocks",
        "requestPrincipals",
        "notRequestPrincipals",
        "remoteIpBlocks",
        "notRemoteIpBlocks",
    ];
    let empty = "is empty, expected one of `principals`, `namespaces`, `serviceAccounts`, `ipBlocks` or their `not` \
                 forms; for everybody leave `from` out";
    let twice = "can't be beside `serviceAccounts`, which says the same more exactly";
    [
        rule::some_of(&fields, empty),
        rule::not_beside("principals", "serviceAccounts", twice),
        rule::not_beside("namespaces", "serviceAccounts", twice),
    ]
}

/// One of those that may be meant.
#[derive(Clone, Debug, Eq, JsonSchema, PartialEq)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
pub struct To {
    /// What is connected to.
    pub operation: Operation,
}

/// What is connected to.
#[derive(Clone, Debug, Eq, JsonSchema, PartialEq)]
#[schemars(rename_all = "camelCase", deny_unknown_fields, extend("x-rules" = [operation_rule()], "x-refused" = operation_refused()))]
pub struct Operation {
    /// Ports of the workload.
    #[schemars(length(min = 1), extend("uniqueItems" = true))]
    pub ports: Option<Vec<Port>>,
    /// Ports that are not meant.
    #[schemars(length(min = 1), extend("uniqueItems" = true))]
    pub not_ports: Option<Vec<Port>>,
}

const REQUESTS: [&str; 6] = ["hosts", "notHosts", "methods", "notMethods", "paths", "notPaths"];

fn operation_refused() -> Value {
    rule::refused(&REQUESTS.map(|name| (name, rule::texts(), LAYER_7)))
}

fn operation_rule() -> rule::Rule {
    let fields: Vec<_> = ["ports", "notPorts"].into_iter().chain(REQUESTS).collect();
    rule::some_of(&fields, "is empty, expected `ports` or `notPorts`; for every port leave `to` out")
}

/// What else must hold: a property of the connection, or a time of the week.
#[derive(Clone, Debug, Eq, JsonSchema, PartialEq)]
#[schemars(rename_all = "camelCase", deny_unknown_fields, extend("x-rules" = condition_rules()))]
pub struct Condition {
    /// The property.
    pub key: Option<ConditionKey>,
    /// What it must be: one of these.
    #[schemars(length(min = 1), extend("uniqueItems" = true))]
    pub values: Option<Vec<ConditionValue>>,
    /// What it must not be.
    #[schemars(length(min = 1), extend("uniqueItems" = true))]
    pub not_values: Option<Vec<ConditionValue>>,
    /// A time of the week; without the other fields.
    pub time: Option<TimeWindow>,
}

fn condition_rules() -> Vec<rule::Rule> {
    let alone = "can't be beside `time`, write two conditions";
    let compares = "compares with nothing, expected `values` or `notValues`";
    let mut rules = vec![
        rule::some_of(&["key", "time"], "is required").of("key"),
        rule::some_of(&["values", "notValues", "time"], compares),
    ];
    rules.extend(["key", "values", "notValues"].map(|field| rule::not_beside(field, "time", alone)));
    rules
}

/// A property of a connection.
#[derive(Clone, Copy, Debug, Eq, JsonSchema, PartialEq)]
#[schemars(extend("x-crd" = key_of_api_server()))]
pub enum ConditionKey {
    /// the workload's address; values as in `ipBlocks`
    #[schemars(rename = "destination.ip")]
    DestinationIp,
    /// the workload's port
    #[schemars(rename = "destination.port")]
    DestinationPort,
    /// the peer's address; values as in `ipBlocks`
    #[schemars(rename = "source.ip")]
    SourceIp,
    /// the peer's namespace; values as in `namespaces`
    #[schemars(rename = "source.namespace")]
    SourceNamespace,
    /// the peer's identity; values as in `principals`
    #[schemars(rename = "source.principal")]
    SourcePrincipal,
}

/// An enumeration there could not explain why `request.…` is refused.
fn key_of_api_server() -> Value {
    let keys = ["source.ip", "source.namespace", "source.principal", "destination.ip", "destination.port"];
    let listed = keys.map(|key| format!("`{key}`")).join(", ");
    let quoted = keys.map(|key| format!("'{key}'")).join(", ");
    let known = format!("self.startsWith('request.') || self in [{quoted}]");
    json!({
        "type": "string",
        "maxLength": 64,
        "x-rules": [
            rule::Rule::cel("!self.startsWith('request.')", LAYER_7).quoting(),
            rule::Rule::cel(known, format!("is not one of {listed}")).quoting(),
        ],
    })
}

/// A time of the week, by the wall clock of a time zone. A `to` before `from` is on the next day.
#[derive(Clone, Debug, Eq, JsonSchema, PartialEq)]
#[schemars(rename_all = "camelCase", deny_unknown_fields, extend("x-rules" = window_rules()))]
pub struct TimeWindow {
    /// Days on which it begins. Default: every day.
    #[schemars(length(min = 1), extend("uniqueItems" = true))]
    pub days: Option<Vec<Days>>,
    /// When it begins. Default: `00:00`.
    pub from: Option<TimeOfDay>,
    /// When it ends. Default: `24:00`, the day's end.
    pub to: Option<TimeOfDay>,
    /// Whose wall clock. Default: `UTC`. Known are those of the built-in data.
    pub time_zone: Option<TimeZone>,
}

fn window_rules() -> [rule::Rule; 2] {
    let from = "(has(self.from) ? self.from : '00:00')";
    let to = "(has(self.to) ? self.to : '24:00')";
    let ends = "ends when it begins; a whole day is from \"00:00\" to \"24:00\"";
    [
        rule::some_of(&["days", "from", "to"], "is always, expected `days`, `from` or `to`"),
        rule::Rule::cel(format!("{from} != {to} && {from} != '24:00'"), ends),
    ]
}
