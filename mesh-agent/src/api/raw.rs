//! The schema of a type, in one plain form that both writers start from.
//!
//! schemars says the same thing in several ways: an optional enumeration is an `anyOf` with `null`, one with documented
//! values a `oneOf`. Here a schema has one type, `x-nullable` if the field may be left empty, and an `enum`.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

/// The field may be empty, which means that it isn't there.
pub(super) const NULLABLE: &str = "x-nullable";

/// The schema of `T`, without references.
pub(super) fn of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    normalise(&mut schema);
    schema
}

/// Calls `change` for every schema directly in `schema`.
pub(super) fn each_part(schema: &mut Map<String, Value>, change: &mut dyn FnMut(&mut Value)) {
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        properties.values_mut().for_each(&mut *change);
    }
    if let Some(Value::Array(choices)) = schema.get_mut("anyOf") {
        choices.iter_mut().for_each(&mut *change);
    }
    for name in ["items", "additionalProperties"] {
        schema.get_mut(name).filter(|part| part.is_object()).into_iter().for_each(&mut *change);
    }
}

fn normalise(schema: &mut Value) {
    let Value::Object(fields) = schema else { return };
    fields.remove("title");
    if let Some(Value::String(description)) = fields.get_mut("description") {
        *description = description.replace('\n', " ");
    }
    if fields.get("format").and_then(Value::as_str).is_some_and(|format| format.starts_with("uint")) {
        fields.remove("format");
    }
    lift_optional(fields);
    let types = fields.get_mut("type").and_then(Value::as_array_mut);
    if let Some(types) = types
        && let Some(index) = types.iter().position(|name| name == "null")
    {
        types.remove(index);
        let only = (types.len() == 1).then(|| types.remove(0));
        only.map(|only| fields.insert("type".to_owned(), only));
        fields.insert(NULLABLE.to_owned(), true.into());
    }
    if let Some(Value::Array(values)) = fields.get_mut("enum") {
        values.retain(|value| !value.is_null());
    }
    list_choices(fields);
    each_part(fields, &mut normalise);
}

/// `anyOf: [something, null]` is something nullable.
fn lift_optional(fields: &mut Map<String, Value>) {
    let Some(Value::Array(choices)) = fields.get("anyOf") else { return };
    let [Value::Object(something), null] = &choices[..] else { return };
    if *null != json!({"type": "null"}) {
        return;
    }
    let something = something.clone();
    fields.remove("anyOf");
    for (name, value) in something {
        fields.entry(name).or_insert(value);
    }
    fields.insert(NULLABLE.to_owned(), true.into());
}

/// A choice of documented constants is an enumeration; the description explains its values.
fn list_choices(fields: &mut Map<String, Value>) {
    let Some(Value::Array(choices)) = fields.get("oneOf") else { return };
    let values: Vec<_> = choices.iter().filter_map(|choice| choice.get("const").cloned()).collect();
    if values.len() != choices.len() {
        return;
    }
    let text = |choice: &Value, name: &str| choice.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let explained =
        choices.iter().map(|choice| format!("`{}`: {}", text(choice, "const"), text(choice, "description")));
    let explained = explained.collect::<Vec<_>>().join("; ");
    let description = fields.get("description").and_then(Value::as_str).unwrap_or_default();
    let description = format!("{description} {explained}.");
    fields.remove("oneOf");
    fields.insert("description".to_owned(), description.trim_start().into());
    fields.insert("type".to_owned(), "string".into());
    fields.insert("enum".to_owned(), values.into());
}
