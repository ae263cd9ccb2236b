//! What API servers and editors take.

use serde_json::Value;

use super::{Kind, any_schema, crd, schema};

/// Calls `look` for every object, with its path.
fn visit(value: &Value, path: &str, look: &mut dyn FnMut(&str, &serde_json::Map<String, Value>)) {
    match value {
        Value::Object(fields) => {
            look(path, fields);
            fields.iter().for_each(|(name, value)| visit(value, &format!("{path}.{name}"), look));
        }
        Value::Array(items) => items.iter().for_each(|item| visit(item, path, look)),
        _ => {}
    }
}

#[test]
fn a_definition_has_what_a_structural_schema_can_have() {
    for kind in &Kind::ALL {
        visit(&crd(kind), kind.name, &mut |path, fields| {
            for name in [
                "$ref",
                "$defs",
                "definitions",
                "nullable",
                "const",
                "oneOf",
                "anyOf",
                "allOf",
                "not",
                "if",
                "uniqueItems",
            ] {
                assert!(!fields.contains_key(name), "{path}: {name}");
            }
            assert_ne!(fields.get("additionalProperties"), Some(&Value::Bool(false)), "{path}");
            let own = fields.keys().find(|name| name.starts_with("x-") && !name.starts_with("x-kubernetes-"));
            assert_eq!(own, None, "{path}");
            if fields.contains_key("x-kubernetes-preserve-unknown-fields") {
                assert!(path.ends_with(".keyExchange") && fields.contains_key("enum"), "{path}: no content is unknown");
            }
        });
    }
}

#[test]
fn a_schema_has_no_words_of_ours() {
    for schema in Kind::ALL.iter().map(schema).chain([any_schema()]) {
        jsonschema::meta::validate(&schema).unwrap();
        visit(&schema, "", &mut |path, fields| assert!(!fields.keys().any(|name| name.starts_with("x-")), "{path}"));
    }
}

#[test]
fn every_field_is_described() {
    for kind in &Kind::ALL {
        check_described(&schema(kind)["properties"]["spec"], kind.name);
    }
}

/// Only where fields are declared: conditions between them name fields too.
fn check_described(schema: &Value, path: &str) {
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        assert!(field["description"].as_str().is_some_and(|text| text.ends_with('.')), "{path}: {field}");
        check_described(field, &path);
    }
    for inner in ["items", "additionalProperties"].into_iter().filter_map(|name| schema.get(name)) {
        check_described(inner, path);
    }
}

#[test]
fn kinds_are_told_apart_by_name() {
    let names: Vec<_> = Kind::ALL.iter().flat_map(|kind| [kind.plural, kind.short]).collect();
    let once: std::collections::BTreeSet<_> = names.iter().collect();
    assert_eq!(once.len(), names.len());
    assert!(Kind::ALL.is_sorted_by_key(|kind| kind.name));
    assert_eq!(Kind::of_name("mesh").map(|kind| kind.plural), Some("meshes"));
    assert!(Kind::of_name("Pod").is_none());
}
