//! Walks through a document and notes every mistake with its field path.
//!
//! Written by hand, because serde stops at the first mistake. A walk never fails: what can't be read is noted in the
//! [`Report`] and left out, and whoever started the walk looks at the report before using what came out.

use std::cell::RefCell;

use serde_json::{Map, Value};

/// The mistakes of one document: field path and reason.
#[derive(Debug, Default)]
pub(super) struct Report(RefCell<Vec<(String, String)>>);

impl Report {
    /// Takes the mistakes, in the order in which they were found.
    pub(super) fn into_mistakes(self) -> Vec<(String, String)> {
        self.0.into_inner()
    }
}

/// A value and where it is.
#[derive(Debug)]
pub(super) struct Node<'a> {
    value: &'a Value,
    path: String,
    report: &'a Report,
}

/// The fields of an object.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    map: &'a Map<String, Value>,
    path: String,
    report: &'a Report,
}

/// The fields that a walker asked for, so that a test can compare them with `api`.
#[cfg(test)]
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) path: String,
    pub(super) known: Vec<String>,
    pub(super) elsewhere: Vec<(String, String)>,
}

#[cfg(test)]
thread_local! {
    /// Of this thread, since somebody took them.
    pub(super) static SEEN: RefCell<Vec<Seen>> = const { RefCell::new(Vec::new()) };
}

#[cfg(test)]
impl Seen {
    fn note(path: &str, known: &[&str], elsewhere: &[(&str, &str)]) {
        let known = known.iter().map(|name| (*name).to_owned()).collect();
        let elsewhere = elsewhere.iter().map(|(name, why)| ((*name).to_owned(), (*why).to_owned())).collect();
        SEEN.with_borrow_mut(|seen| seen.push(Self { path: path.to_owned(), known, elsewhere }));
    }
}

impl<'a> Node<'a> {
    /// The whole document.
    pub(super) fn root(value: &'a Value, report: &'a Report) -> Self {
        Self { value, path: String::new(), report }
    }

    /// Notes a mistake of this value.
    pub(super) fn refuse(&self, reason: impl Into<String>) {
        self.report.0.borrow_mut().push((self.path.clone(), reason.into()));
    }

    /// An object that has no other fields than `known`.
    pub(super) fn object(&self, known: &[&str]) -> Option<Fields<'a>> {
        self.object_explaining(known, &[])
    }

    /// As [`Node::object`]; `elsewhere` are fields that other products have here, each with what to do instead.
    pub(super) fn object_explaining(&self, known: &[&str], elsewhere: &[(&str, &str)]) -> Option<Fields<'a>> {
        let fields = self.any_object()?;
        #[cfg(test)]
        Seen::note(&self.path, known, elsewhere);
        for name in fields.map.keys().filter(|name| !known.contains(&name.as_str())) {
            let explained = elsewhere.iter().find(|(other, _)| other == name).map(|(_, why)| (*why).to_owned());
            let hint = || closest(name, known).map(|field| format!(", did you mean `{field}`?")).unwrap_or_default();
            let reason = explained.unwrap_or_else(|| format!("unknown field{}", hint()));
            self.child(fields.map, name, join(&self.path, name)).refuse(reason);
        }
        Some(fields)
    }

    /// An object whose field names are its author's, as key, value pairs.
    pub(super) fn entries(&self) -> Vec<(&'a str, Node<'a>)> {
        let Some(Fields { map, .. }) = self.any_object() else { return Vec::new() };
        map.iter().map(|(name, value)| (name.as_str(), self.at(value, format!("{}[{name}]", self.path)))).collect()
    }

    /// The items of a list.
    pub(super) fn items(&self) -> Vec<Node<'a>> {
        let Value::Array(items) = self.value else {
            self.refuse_type("a list");
            return Vec::new();
        };
        items.iter().enumerate().map(|(index, item)| self.at(item, format!("{}[{index}]", self.path))).collect()
    }

    /// The items that `read` understands; none may be there twice.
    pub(super) fn distinct<T: PartialEq>(&self, read: impl Fn(&Node<'a>) -> Option<T>) -> Vec<T> {
        let mut seen = Vec::new();
        for item in self.items() {
            match read(&item) {
                Some(value) if seen.contains(&value) => item.refuse("is listed twice"),
                Some(value) => seen.push(value),
                None => {}
            }
        }
        seen
    }

    /// As [`Node::distinct`], for a list that must not be empty.
    pub(super) fn some_distinct<T: PartialEq>(&self, read: impl Fn(&Node<'a>) -> Option<T>) -> Vec<T> {
        if self.value.as_array().is_some_and(Vec::is_empty) {
            self.refuse("is empty, expected at least one item");
        }
        self.distinct(read)
    }

    /// A text.
    pub(super) fn text(&self) -> Option<&'a str> {
        if let Value::String(text) = self.value {
            return Some(text);
        }
        self.refuse_type("a string");
        None
    }

    /// Whether it is a text, where it could also be something else.
    pub(super) fn is_text(&self) -> bool {
        self.value.is_string()
    }

    /// Whether it is a list.
    pub(super) fn is_list(&self) -> bool {
        self.value.is_array()
    }

    /// Whether it is an object with one of these fields.
    pub(super) fn has_any(&self, names: &[&str]) -> bool {
        self.value.as_object().is_some_and(|map| names.iter().any(|name| map.contains_key(*name)))
    }

    /// A text that `parse` understands; its error is the mistake.
    pub(super) fn parse<T>(&self, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        parse(self.text()?).map_err(|reason| self.refuse(reason)).ok()
    }

    /// `true` or `false`.
    pub(super) fn boolean(&self) -> Option<bool> {
        let boolean = self.value.as_bool();
        if boolean.is_none() {
            self.refuse_type("a boolean");
        }
        boolean
    }

    /// A port: a number, not a text.
    pub(super) fn port(&self) -> Option<u16> {
        if !self.value.is_number() {
            self.refuse_type("a port number");
            return None;
        }
        let port = self.value.as_u64().and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
        if port.is_none() {
            self.refuse(format!("`{}` is not a port (1 to 65535)", self.value));
        }
        port
    }

    /// A port as a number or, as Istio writes it, as a text.
    pub(super) fn port_or_text(&self) -> Option<u16> {
        let Value::String(text) = self.value else { return self.port() };
        self.parse(|_| {
            text.parse().ok().filter(|port| *port != 0).ok_or_else(|| format!("`{text}` is not a port (1 to 65535)"))
        })
    }

    fn any_object(&self) -> Option<Fields<'a>> {
        if let Value::Object(map) = self.value {
            return Some(Fields { map, path: self.path.clone(), report: self.report });
        }
        self.refuse_type("an object");
        None
    }

    fn refuse_type(&self, expected: &str) {
        let found = match self.value {
            Value::Array(_) => "a list",
            Value::Bool(_) => "a boolean",
            Value::Null => "empty",
            Value::Number(_) => "a number",
            Value::Object(_) => "an object",
            Value::String(_) => "a string",
        };
        self.refuse(format!("is {found}, expected {expected}"));
    }

    fn at(&self, value: &'a Value, path: String) -> Self {
        Self { value, path, report: self.report }
    }

    fn child(&self, map: &'a Map<String, Value>, name: &str, path: String) -> Self {
        self.at(map.get(name).unwrap_or(&Value::Null), path)
    }
}

impl<'a> Fields<'a> {
    /// The field, if it is there. `field:` without a value counts as absent, as in Kubernetes.
    pub(super) fn optional(&self, name: &str) -> Option<Node<'a>> {
        let value = self.map.get(name).filter(|value| !value.is_null())?;
        Some(Node { value, path: join(&self.path, name), report: self.report })
    }

    /// The field; its absence is a mistake.
    pub(super) fn required(&self, name: &str) -> Option<Node<'a>> {
        let field = self.optional(name);
        if field.is_none() {
            self.report.0.borrow_mut().push((join(&self.path, name), "is required".to_owned()));
        }
        field
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// The candidate that `text` most likely means: at most two typing errors away, and fewer in short words.
pub(super) fn closest<'c>(text: &str, candidates: &[&'c str]) -> Option<&'c str> {
    let most = (text.chars().count() / 3).min(2);
    let distance = |candidate: &&&str| edit_distance(&text.to_lowercase(), &candidate.to_lowercase());
    candidates.iter().min_by_key(distance).filter(|candidate| distance(candidate) <= most).copied()
}

/// Levenshtein's distance, row by row.
fn edit_distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.chars().count()).collect();
    for (deleted, from_char) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = deleted + 1;
        for (index, to_char) in to.chars().enumerate() {
            let substituted = diagonal + usize::from(from_char != to_char);
            diagonal = row[index + 1];
            row[index + 1] = substituted.min(diagonal + 1).min(row[index] + 1);
        }
    }
    row[row.len() - 1]
}
