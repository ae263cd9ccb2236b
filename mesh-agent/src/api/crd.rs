//! CustomResourceDefinitions (`apiextensions.k8s.io/v1`): structural schemas, with rules in CEL for what those can't say.
//!
//! An API server drops fields that a schema doesn't have. So fields that we refuse with an explanation are in the schema, each with
//! a rule that says it. And it refuses rules that could cost too much: lists and texts around a rule have a bound.

use serde_json::{Map, Value, json};

use super::kind::{Kind, Scope};
use super::raw::{self, NULLABLE, each_part};
use super::rule::{CRD, REFUSED, REFUSED_VALUES, RULES, Rule};
use super::status::Status;
use super::{GROUP, VERSION};

/// Most items of a list with rules inside.
const MAX_ITEMS: u64 = 256;
/// Most characters of a text with rules.
const MAX_CHARACTERS: u64 = 1024;

/// The keyword of rules there.
const VALIDATIONS: &str = "x-kubernetes-validations";

/// The CustomResourceDefinition of a kind.
pub fn crd(kind: &Kind) -> Value {
    let (mut spec, mut status) = ((kind.spec)(), raw::of::<Status>());
    write(&mut spec);
    write(&mut status);
    let mut schema = json!({
        "description": spec["description"],
        "type": "object",
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": status,
        },
        "required": ["spec"],
    });
    if let Some(name) = kind.only_name {
        let message = format!("there can be only one {}, and its name is `{name}`", kind.name);
        schema[VALIDATIONS] =
            json!([of_api_server(json!(Rule::cel(format!("self.metadata.name == '{name}'"), message)))]);
    }
    let scope = if kind.scope == Scope::Cluster { "Cluster" } else { "Namespaced" };
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{}.{GROUP}", kind.plural)},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": kind.name,
                "listKind": format!("{}List", kind.name),
                "plural": kind.plural,
                "singular": kind.name.to_lowercase(),
                "shortNames": [kind.short],
                "categories": ["hauberk"],
            },
            "scope": scope,
            "versions": [{
                "name": VERSION,
                "served": true,
                "storage": true,
                "schema": {"openAPIV3Schema": schema},
                "subresources": {"status": {}},
                "additionalPrinterColumns": columns(kind),
            }],
        },
    })
}

fn columns(kind: &Kind) -> Vec<Value> {
    let condition = |field: &str| format!(r#".status.conditions[?(@.type=="Accepted")].{field}"#);
    let text = |(name, path): (&str, String)| json!({"name": name, "type": "string", "jsonPath": path});
    let own = kind.columns.iter().map(|(name, path)| text((name, (*path).to_owned())));
    let mut columns: Vec<_> = own.chain([text(("Accepted", condition("status")))]).collect();
    let reason = json!({"name": "Reason", "type": "string", "jsonPath": condition("reason"), "priority": 1});
    columns.extend([reason, json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"})]);
    columns
}

/// Says in a structural schema what the raw form says.
fn write(schema: &mut Value) {
    let Value::Object(fields) = schema else { return };
    if let Some(instead) = fields.remove(CRD) {
        let description = fields.remove("description");
        *fields = instead.as_object().cloned().unwrap_or_default();
        fields.extend(description.map(|description| ("description".to_owned(), description)));
    }
    each_part(fields, &mut write);
    fields.remove(NULLABLE);
    if fields.get("additionalProperties") == Some(&Value::Bool(false)) {
        fields.remove("additionalProperties");
    }
    if fields.remove("uniqueItems").is_some() {
        fields.insert("x-kubernetes-list-type".to_owned(), "set".into());
    }
    let mut rules: Vec<_> = fields.remove(RULES).and_then(|rules| rules.as_array().cloned()).unwrap_or_default();
    rules.extend(refuse_fields(fields));
    rules.extend(refuse_values(fields));
    if !rules.is_empty() {
        let rules: Vec<_> = rules.into_iter().map(of_api_server).collect();
        fields.insert(VALIDATIONS.to_owned(), rules.into());
    }
    bound(fields);
}

fn of_api_server(mut rule: Value) -> Value {
    rule.as_object_mut().map(|rule| rule.remove("json"));
    rule
}

fn refuse_fields(fields: &mut Map<String, Value>) -> Vec<Value> {
    let Some(Value::Array(refused)) = fields.remove(REFUSED) else { return Vec::new() };
    let Some(Value::Object(properties)) = fields.get_mut("properties") else { return Vec::new() };
    let refuse = |mut field: Value| {
        let (name, why) = (field["name"].as_str().unwrap_or_default().to_owned(), field["why"].take());
        let why = why.as_str().unwrap_or_default();
        let mut schema = field["schema"].take();
        schema["description"] = format!("Not possible: it {why}.").into();
        properties.insert(name.clone(), schema);
        json!(Rule::cel(format!("!has(self.{name})"), why).of(&name))
    };
    refused.into_iter().map(refuse).collect()
}

fn refuse_values(fields: &mut Map<String, Value>) -> Vec<Value> {
    let Some(Value::Object(refused)) = fields.remove(REFUSED_VALUES) else { return Vec::new() };
    let Some(Value::Array(values)) = fields.get_mut("enum") else { return Vec::new() };
    values.extend(refused.keys().map(|value| json!(value)));
    let refuse = |(value, why): (&String, &Value)| {
        json!(Rule::cel(format!("self != '{value}'"), why.as_str().unwrap_or_default()))
    };
    refused.iter().map(refuse).collect()
}

/// Gives a bound to what repeats rules or is read by them.
fn bound(fields: &mut Map<String, Value>) {
    let kind = fields.get("type").and_then(Value::as_str);
    let (name, most) = match kind {
        Some("array") if fields.get("items").is_some_and(has_rules) => ("maxItems", MAX_ITEMS),
        Some("string") if fields.contains_key(VALIDATIONS) && !fields.contains_key("enum") => {
            ("maxLength", MAX_CHARACTERS)
        }
        _ => return,
    };
    fields.entry(name).or_insert_with(|| most.into());
}

fn has_rules(schema: &Value) -> bool {
    match schema {
        Value::Object(fields) => fields.contains_key(VALIDATIONS) || fields.values().any(has_rules),
        _ => false,
    }
}
