//! JSON Schema of documents, draft 2020-12: what editors take.

use serde_json::{Map, Value, json};

use super::kind::{Kind, Scope};
use super::raw::{self, NULLABLE, each_part};
use super::rule::{CRD, REFUSED, REFUSED_VALUES, RULES};
use super::text::{DnsLabel, DnsSubdomain, LabelValue};
use super::{GROUP, VERSION};

const DRAFT: &str = "https://json-schema.org/draft/2020-12/schema";

/// The JSON Schema of one kind's documents.
pub fn schema(kind: &Kind) -> Value {
    let mut schema = document(kind);
    schema["$schema"] = DRAFT.into();
    schema
}

/// The JSON Schema of any document.
pub fn any_schema() -> Value {
    let definitions: Map<_, _> = Kind::ALL.iter().map(|kind| (kind.name.to_owned(), document(kind))).collect();
    let is = |kind: &Kind| json!({"properties": {"kind": {"const": kind.name}}, "required": ["kind"]});
    let one = |kind: &Kind| json!({"if": is(kind), "then": {"$ref": format!("#/$defs/{}", kind.name)}});
    json!({
        "$schema": DRAFT,
        "title": format!("A document of {GROUP}/{VERSION}"),
        "type": "object",
        "properties": {"kind": {"enum": Kind::ALL.map(|kind| kind.name)}},
        "required": ["kind"],
        "allOf": Kind::ALL.iter().map(one).collect::<Vec<_>>(),
        "$defs": definitions,
    })
}

fn document(kind: &Kind) -> Value {
    let mut spec = (kind.spec)();
    write(&mut spec);
    json!({
        "title": kind.name,
        "description": spec["description"],
        "type": "object",
        "properties": {
            "apiVersion": {"const": format!("{GROUP}/{VERSION}")},
            "kind": {"const": kind.name},
            "metadata": metadata(kind),
            "spec": spec,
            "status": {"description": "Written by the mesh in Kubernetes, and ignored here."},
        },
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "additionalProperties": false,
    })
}

fn metadata(kind: &Kind) -> Value {
    let texts = |description: &str, values: Value| json!({"description": description, "type": ["object", "null"], "additionalProperties": values});
    let mut metadata = json!({
        "type": "object",
        "properties": {
            "name": raw::of::<DnsSubdomain>(),
            "labels": texts("Labels, by which policies select Workloads.", raw::of::<LabelValue>()),
            "annotations": texts("Notes for people and programs.", json!({"type": "string"})),
        },
        "required": ["name"],
        "additionalProperties": false,
    });
    let mut namespace = raw::of::<DnsLabel>();
    match kind.scope {
        Scope::Cluster => return metadata,
        Scope::Namespaced => metadata["required"] = json!(["name", "namespace"]),
        Scope::NamespacedOrMesh => namespace["type"] = json!(["string", "null"]),
    }
    metadata["properties"]["namespace"] = namespace;
    metadata
}

/// Says in JSON Schema what the raw form says.
fn write(schema: &mut Value) {
    let Value::Object(fields) = schema else { return };
    each_part(fields, &mut write);
    fields.retain(|name, _| ![CRD, REFUSED_VALUES].contains(&name.as_str()) && !name.starts_with("x-kubernetes-"));
    if let Some(Value::Array(rules)) = fields.remove(RULES) {
        let said: Vec<_> =
            rules.into_iter().map(|mut rule| rule["json"].take()).filter(|said| !said.is_null()).collect();
        if !said.is_empty() {
            fields.insert("allOf".to_owned(), said.into());
        }
    }
    if let Some(Value::Array(refused)) = fields.remove(REFUSED)
        && let Some(Value::Object(properties)) = fields.get_mut("properties")
    {
        for field in refused {
            let name = field["name"].as_str().unwrap_or_default().to_owned();
            let description = format!("Not possible: it {}.", field["why"].as_str().unwrap_or_default());
            properties.insert(name, json!({"description": description, "not": {}}));
        }
    }
    if fields.remove(NULLABLE).is_some() {
        allow_null(fields);
    }
}

fn allow_null(fields: &mut Map<String, Value>) {
    if let Some(Value::Array(values)) = fields.get_mut("enum") {
        values.push(Value::Null);
    }
    if let Some(Value::Array(choices)) = fields.get_mut("anyOf") {
        choices.push(json!({"type": "null"}));
    }
    match fields.get_mut("type") {
        Some(Value::Array(types)) => types.push("null".into()),
        Some(one) => *one = json!([one.take(), "null"]),
        None => {}
    }
}
