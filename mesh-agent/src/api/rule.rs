//! Rules between fields: in CEL for the API server, and as JSON Schema as far as that can say them.
//!
//! A type carries its rules under the keyword [`RULES`], and fields that it refuses with an explanation under [`REFUSED`]; the
//! writers turn both into what their reader understands. The texts are those of `config`'s walkers.

use serde::Serialize;
use serde_json::{Map, Value, json};

/// Rules of a type or field.
pub(super) const RULES: &str = "x-rules";
/// Fields that others have here, and we refuse.
pub(super) const REFUSED: &str = "x-refused";
/// Values of an enumeration that others have, and we refuse.
pub(super) const REFUSED_VALUES: &str = "x-refused-values";
/// What a CustomResourceDefinition says instead of the type's schema.
pub(super) const CRD: &str = "x-crd";

/// Why fields of requests are refused.
pub(super) const LAYER_7: &str = "needs the content of requests, which the mesh does not read: check it in the \
                                  application or in a layer-7 proxy, and say here who may connect \
                                  (`source.principals`, `operation.ports`)";

/// One rule.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Rule {
    /// CEL; must be true.
    rule: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    /// CEL that makes the message.
    #[serde(skip_serializing_if = "Option::is_none")]
    message_expression: Option<String>,
    /// The field that is wrong, if it is not the one that has the rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    field_path: Option<String>,
    /// The same in JSON Schema; null where that can't say it.
    json: Value,
}

impl Rule {
    /// A rule in CEL alone.
    pub(super) fn cel(rule: impl Into<String>, message: impl Into<String>) -> Self {
        let (message, message_expression, field_path) = (Some(message.into()), None, None);
        Self { rule: rule.into(), message, message_expression, field_path, json: Value::Null }
    }

    /// The same in JSON Schema.
    pub(super) fn or_json(self, json: Value) -> Self {
        Self { json, ..self }
    }

    /// It is this field that is wrong.
    pub(super) fn of(self, field: &str) -> Self {
        Self { field_path: Some(format!(".{field}")), ..self }
    }

    /// The message begins with the value, as `config` quotes it.
    pub(super) fn quoting(self) -> Self {
        let message = self.message.unwrap_or_default().replace('\\', "\\\\").replace('\'', "\\'");
        Self { message: None, message_expression: Some(format!("'`' + self + '` {message}'")), ..self }
    }
}

/// Exactly one of the fields.
pub(super) fn exactly_one<const N: usize>(fields: [&str; N]) -> Rule {
    let named: Vec<_> = fields.iter().map(|field| format!("`{field}`")).collect();
    let (last, others) = named.split_last().map_or(("", &[][..]), |(last, others)| (last.as_str(), others));
    let message = format!("needs exactly one of {} and {last}", others.join(", "));
    let one = |field: &str| json!({"required": [field]});
    let count = fields.map(|field| format!("(has(self.{field}) ? 1 : 0)")).join(" + ");
    Rule::cel(format!("{count} == 1"), message).or_json(json!({"oneOf": fields.map(one).to_vec()}))
}

/// At least one of the fields.
pub(super) fn some_of(fields: &[&str], message: &str) -> Rule {
    let one = |field: &&str| json!({"required": [field]});
    let has = fields.iter().map(|field| format!("has(self.{field})")).collect::<Vec<_>>().join(" || ");
    Rule::cel(has, message).or_json(json!({"anyOf": fields.iter().map(one).collect::<Vec<_>>()}))
}

/// `field` can't be beside `other`.
pub(super) fn not_beside(field: &str, other: &str, message: &str) -> Rule {
    let json = json!({"not": {"required": [field, other]}});
    Rule::cel(format!("!has(self.{field}) || !has(self.{other})"), message).of(field).or_json(json)
}

/// A duration.
pub(super) fn duration() -> Rule {
    form(DURATION, "is not a duration like `200ms`, `10s`, `5m`, `24h` or `1h30m`")
}

/// A duration within these bounds, as `config` shows them.
pub(super) fn between(min: &str, max: &str) -> [Rule; 2] {
    let rule = format!("!self.matches('{DURATION}') || {}", within("self", min, max));
    [duration(), Rule::cel(rule, format!("is not between {min} and {max}")).quoting()]
}

/// CEL for a duration within bounds.
pub(super) fn within(duration: &str, min: &str, max: &str) -> String {
    format!("(duration({duration}) >= duration('{min}') && duration({duration}) <= duration('{max}'))")
}

/// A text of this form; otherwise it `is_not` something.
pub(super) fn form(pattern: &str, is_not: &str) -> Rule {
    let json = json!({"pattern": pattern});
    Rule::cel(format!("self.matches('{pattern}')"), is_not).quoting().or_json(json)
}

/// A number of bytes.
pub(super) fn bytes() -> Rule {
    form(BYTES, "is not an amount like `64Mi`, `10Gi` or `1Ti`")
}

/// The form of numbers of bytes.
pub(super) const BYTES: &str = "^[0-9]+(Ki|Mi|Gi|Ti)$";

/// The form of durations.
pub(super) const DURATION: &str = "^([0-9]+(h|m|s|ms))+$";

/// Fields that are refused: name, the schema of what others write there, and what to do instead.
pub(super) fn refused(fields: &[(&str, Value, &str)]) -> Value {
    fields.iter().map(|(name, schema, why)| json!({"name": name, "schema": schema, "why": why})).collect()
}

/// The schema of a list of texts.
pub(super) fn texts() -> Value {
    json!({"type": "array", "items": {"type": "string"}})
}

/// The schema of an object with these fields, all texts.
pub(super) fn object_of_texts(names: &[&str]) -> Value {
    let properties: Map<_, _> = names.iter().map(|name| ((*name).to_owned(), json!({"type": "string"}))).collect();
    json!({"type": "object", "properties": properties})
}

/// What Istio attaches policies with.
pub(super) fn attachments() -> Vec<(&'static str, Value, &'static str)> {
    const ATTACHED: &str = "policies select workloads here, not gateways or services: use `selector`";
    // With all of Istio's fields: an API server must not stumble over an unknown one before it says why.
    let object = object_of_texts(&["group", "kind", "name", "namespace"]);
    vec![("targetRef", object.clone(), ATTACHED), ("targetRefs", json!({"type": "array", "items": object}), ATTACHED)]
}
