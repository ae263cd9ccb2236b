//! The types of `api` and the walkers say the same: every field, every text, every document that is right.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::LazyLock;

use jsonschema::Validator;
use mesh_pki::Authority;
use serde_json::Value;

use super::super::walk::{Report, SEEN, Seen};
use super::super::{document, object};
use super::policy::{self, BROKEN};
use crate::api::{GROUP, Kind, Scope, VERSION, any_schema, crd, schema};

static ANY: LazyLock<Validator> = LazyLock::new(|| jsonschema::validator_for(&any_schema()).unwrap());

/// The mistakes that a walker finds in a document.
fn walk(document: &Value) -> Vec<(String, String)> {
    let report = Report::default();
    let _read = object::lower(document, &report);
    report.into_mistakes()
}

/// Called for every document that a test of this crate parses.
#[track_caller]
pub(in crate::config) fn a_right_document_fits(document: &Value, mistakes: &[(String, String)]) {
    let reasons: Vec<_> =
        ANY.iter_errors(document).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(
        !mistakes.is_empty() || reasons.is_empty(),
        "right for the agent, wrong by the schema: {document} {reasons:#?}"
    );
}

/// Documents that together have every field.
const ALL_FIELDS: &str = include_str!("api.yaml");

fn all_fields() -> Vec<Value> {
    let mut documents: Vec<Value> = document::split(ALL_FIELDS).into_iter().map(Result::unwrap).collect();
    let federated = documents.iter_mut().filter(|document| document["kind"] == "FederatedTrustDomain");
    federated.for_each(|document| document["spec"]["bundle"] = Authority::root("other").certificate_pem().into());
    documents
}

#[test]
fn every_field_of_a_type_is_known_to_the_walker_and_the_reverse() {
    let mut read: BTreeMap<String, BTreeMap<String, Fields>> = BTreeMap::new();
    let mut written: BTreeMap<String, BTreeMap<String, Fields>> = BTreeMap::new();
    for document in all_fields() {
        let kind = document["kind"].as_str().unwrap().to_owned();
        SEEN.take();
        let mistakes = walk(&document);
        assert_eq!(mistakes, [], "{document}");
        a_right_document_fits(&document, &mistakes);
        for seen in SEEN.take() {
            let place = read.entry(kind.clone()).or_default();
            place.insert(pattern(&seen.path), fields_of_walker(&kind, seen));
        }
        let schema = schema(Kind::of_name(&kind).unwrap());
        fields_of_schema(&schema, "", written.entry(kind).or_default());
    }
    assert_eq!(read.len(), Kind::ALL.len(), "a document of every kind");
    assert_eq!(read, written);
}

/// Fields that are known, and fields that are refused with an explanation.
type Fields = (BTreeSet<String>, BTreeMap<String, String>);

/// With `[]` for the items of a list and the values of a map.
fn pattern(path: &str) -> String {
    let open = path.split('[').map(|part| part.split_once(']').map_or(part, |(_, rest)| rest));
    open.collect::<Vec<_>>().join("[]")
}

fn fields_of_walker(kind: &str, seen: Seen) -> Fields {
    let mut known: BTreeSet<_> = seen.known.into_iter().collect();
    // One walker for all kinds' metadata: it refuses a namespace where there can't be one.
    let namespaced = Kind::of_name(kind).unwrap().scope != Scope::Cluster;
    if seen.path == "metadata" && !namespaced {
        known.remove("namespace");
    }
    (known, seen.elsewhere.into_iter().collect())
}

fn fields_of_schema(schema: &Value, path: &str, fields: &mut BTreeMap<String, Fields>) {
    if let Some(properties) = schema["properties"].as_object() {
        assert_eq!(schema["additionalProperties"], Value::Bool(false), "{path}: other fields are refused");
        let mut here = Fields::default();
        for (name, property) in properties {
            if property.get("not").is_some() {
                let description = property["description"].as_str().unwrap();
                let why = description.strip_prefix("Not possible: it ").and_then(|why| why.strip_suffix('.')).unwrap();
                here.1.insert(name.clone(), why.to_owned());
                continue;
            }
            here.0.insert(name.clone());
            let inner = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            fields_of_schema(property, &inner, fields);
        }
        fields.insert(path.to_owned(), here);
    }
    for name in ["items", "additionalProperties"] {
        if schema[name].is_object() {
            fields_of_schema(&schema[name], &format!("{path}[]"), fields);
        }
    }
}

/// Mistakes that only the agent sees: a schema knows patterns, not meanings.
const AGENT_ALONE: [&str; 3] = ["has bits set after its prefix", "is not a time zone", "ends when it begins"];

#[test]
fn the_kinds_are_the_same() {
    assert_eq!((object::API_GROUP, object::API_VERSION), (GROUP, VERSION));
    let kinds: Vec<_> = Kind::in_kubernetes().map(|kind| (kind.name, kind.plural)).collect();
    assert_eq!(object::KINDS[..], kinds);
}

#[test]
fn what_is_broken_does_not_fit() {
    for (kind, spec, expected) in BROKEN {
        for document in document::split(&policy::document(kind, spec)) {
            let agent_alone = AGENT_ALONE.iter().any(|reason| expected.contains(reason)) && !expected.contains('|');
            assert_eq!(ANY.is_valid(&document.unwrap()), agent_alone, "{spec}");
        }
    }
    for (kind, spec, _) in MORE {
        let is_cluster_wide = Kind::of_name(kind).unwrap().scope == Scope::Cluster;
        let namespace = if is_cluster_wide { "" } else { ", namespace: shop" };
        let text = policy::document(kind, spec).replace(", namespace: shop", namespace);
        assert!(!ANY.is_valid(&document::split(&text).remove(0).unwrap()), "{spec}");
    }
}

/// Kind, `spec`, and the mistake, for texts that the policies above don't have.
const MORE: [(&str, &str, &str); 15] = [
    ("Workload", "{node: a, addresses: [10.0.0.1], netns: web}", "`web` is not an absolute path"),
    (
        "Mesh",
        "{trustDomain: a, issuer: {remote: {address: ca, tokenFile: t}}}",
        "`ca` is not a host and a port like `ca.example.org:15100` or `[fd00::1]:15100`",
    ),
    (
        "Mesh",
        "{trustDomain: a, issuer: {embedded: {directory: d}}, authorization: {rego: {policy: a/b.rego}}}",
        "`a/b.rego` is not a file beside the documents like `policy.rego`",
    ),
    (
        "Mesh",
        "{trustDomain: a, issuer: {embedded: {directory: d}}, authorization: {rego: {server: 'http://opa:8181'}}}",
        "`http://opa:8181` is not an OPA server on this node like `http://127.0.0.1:8181`",
    ),
    (
        "Mesh",
        "{trustDomain: a, issuer: {embedded: {directory: d}}, authorization: {rego: {policy: p.rego, rule: data.x}}}",
        "`data.x` is not a rule like `data.hauberk.allow`",
    ),
    ("Mesh", "{trustDomain: a, issuer: {}}", "needs exactly one of `embedded`, `remote` and `kubernetes`"),
    ("Mesh", "{trustDomain: a, issuer: {embedded: {key: k}}}", "is required"),
    (
        "Mesh",
        "{trustDomain: a, issuer: {embedded: {directory: d, key: k}}}",
        "needs either `directory`, or `certificate` and `key`",
    ),
    (
        "Mesh",
        "{trustDomain: a, issuer: {embedded: {directory: d}}, authorization: {rego: {policy: p.rego, server: 'http://127.0.0.1:1'}}}",
        "needs exactly one of `policy` and `server`",
    ),
    (
        "Mesh",
        "{trustDomain: a, issuer: {embedded: {directory: d}, refresh: soon}}",
        "`soon` is not a duration like `200ms`, `10s`, `5m`, `24h` or `1h30m`",
    ),
    (
        "Mesh",
        "{trustDomain: a, issuer: {embedded: {directory: d}}, tls: {rekeyAfter: 1MB}}",
        "`1MB` is not an amount like `64Mi`, `10Gi` or `1Ti`",
    ),
    ("Revocation", "{}", "revokes nothing, expected `spiffeIds`, `serials`, `nodes` or `crl`"),
    (
        "AuthorizationPolicy",
        "{rules: [{to: [{operation: {}}]}]}",
        "is empty, expected `ports` or `notPorts`; for every port leave `to` out",
    ),
    (
        "AuthorizationPolicy",
        "{rules: [{when: [{time: {timeZone: UTC}}]}]}",
        "is always, expected `days`, `from` or `to`",
    ),
    (
        "AuthorizationPolicy",
        "{rules: [{when: [{key: source.ip, values: [a], time: {days: [Mon]}}]}]}",
        "can't be beside `time`, write two conditions",
    ),
];

/// Texts of the API server alone: it has no other documents to compare with, it knows what was there before, and it can't name a key.
const API_SERVER_ALONE: [&str; 5] = [
    "can't be changed: every identity begins with it",
    "there can be only one Mesh, and its name is `mesh`",
    "has a key that is not a label key",
    "has a key that is not a port (1 to 65535)",
    "is not between 1m (2s with `allowShortLifetimes`) and 720h",
];

#[test]
fn an_api_server_refuses_with_the_texts_of_the_walkers() {
    let mut texts: Vec<String> = API_SERVER_ALONE.map(str::to_owned).into();
    for (kind, spec, expected) in BROKEN.iter().chain(&MORE) {
        let text = policy::document(kind, spec);
        let found = walk(&document::split(&text).remove(0).unwrap());
        assert!(found.iter().any(|(_, reason)| expected.contains(reason.as_str())), "{spec}: {found:?}");
        texts.extend(found.into_iter().map(|(_, reason)| reason));
    }
    let mut messages = BTreeSet::new();
    Kind::in_kubernetes().for_each(|kind| collect_messages(&crd(kind), &mut messages));
    assert!(messages.len() > 20, "{messages:?}");
    for message in messages {
        // The bounds of durations and amounts have tests of their own.
        let is_bound = ["is not between ", "is less than "].iter().any(|bound| message.starts_with(bound));
        assert!(is_bound || texts.iter().any(|text| text.ends_with(&message)), "{message}");
    }
}

/// All texts of rules, without the quoted value that some begin with.
fn collect_messages(schema: &Value, messages: &mut BTreeSet<String>) {
    match schema {
        Value::Object(fields) => {
            messages.extend(fields.get("rule").and(fields.get("message")).and_then(Value::as_str).map(str::to_owned));
            let expression = fields.get("messageExpression").and_then(Value::as_str);
            let quoted = expression.and_then(|text| text.strip_prefix("'`' + self + '` ")?.strip_suffix('\''));
            messages.extend(quoted.map(str::to_owned));
            fields.values().for_each(|value| collect_messages(value, messages));
        }
        Value::Array(items) => items.iter().for_each(|item| collect_messages(item, messages)),
        _ => {}
    }
}

#[test]
fn documents_that_are_shown_or_fuzzed_fit_if_they_are_right() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    let files = |directory: &str| std::fs::read_dir(root.join(directory)).unwrap().map(|entry| entry.unwrap().path());
    let mut texts: Vec<String> = files("fuzz/corpus/config").map(|path| read(&path)).collect();
    texts.extend(files("mesh-agent/examples").map(|path| read(&path)));
    texts.push(read(&root.join("deploy/base/mesh.yaml")));
    for path in files("docs").chain([root.join("README.md")]) {
        let page = read(&path);
        let examples = page.split("```yaml\n").skip(1).filter_map(|rest| rest.split_once("```"));
        texts.extend(examples.map(|(example, _)| example.to_owned()));
    }
    let (mut right, mut wrong) = (0, 0);
    for text in texts.iter().flat_map(|text| text.split('\u{c}')) {
        for document in document::split(text).into_iter().filter_map(Result::ok) {
            let mistakes = walk(&document);
            a_right_document_fits(&document, &mistakes);
            if mistakes.is_empty() { right += 1 } else { wrong += 1 }
        }
    }
    assert!(right > 30 && wrong > 5, "{right} right, {wrong} wrong");
}
