//! Finds the workloads that a policy selects, and the policies that select a workload: each in time that grows with what is found
//! and not with all that there is.

use std::collections::HashMap;

use crate::model::policy::Scope;
use crate::model::workload::Workload;

/// Workloads by namespace and label.
#[derive(Debug)]
pub(super) struct Selector<'w> {
    workloads: Vec<&'w Workload>,
    by_namespace: HashMap<&'w str, Vec<usize>>,
    /// Namespace (`None`: in all), label, value.
    by_label: HashMap<(Option<&'w str>, &'w str, &'w str), Vec<usize>>,
}

impl<'w> Selector<'w> {
    pub(super) fn of(workloads: impl Iterator<Item = &'w Workload>) -> Self {
        let mut selector =
            Self { workloads: workloads.collect(), by_namespace: HashMap::new(), by_label: HashMap::new() };
        for (index, workload) in selector.workloads.iter().enumerate() {
            let namespace = workload.namespace();
            selector.by_namespace.entry(namespace).or_default().push(index);
            for (label, value) in &workload.labels {
                for scope in [None, Some(namespace)] {
                    selector.by_label.entry((scope, label, value)).or_default().push(index);
                }
            }
        }
        selector
    }

    /// The workloads that have all of the scope's labels and are in its namespace.
    pub(super) fn select<'s>(&'s self, scope: &'s Scope) -> Box<dyn Iterator<Item = &'w Workload> + 's> {
        let namespace = scope.namespace.as_deref();
        if scope.labels.is_empty() {
            return match namespace {
                None => Box::new(self.workloads.iter().copied()),
                Some(namespace) => Box::new(self.at(self.by_namespace.get(namespace))),
            };
        }
        let with = |(label, value): (&'s String, &'s String)| {
            self.by_label.get(&(namespace, label.as_str(), value.as_str())).map(Vec::as_slice).unwrap_or_default()
        };
        let fewest = scope.labels.iter().map(with).min_by_key(|found| found.len()).unwrap_or_default();
        let has =
            |workload: &&Workload| scope.labels.iter().all(|(label, value)| workload.labels.get(label) == Some(value));
        Box::new(fewest.iter().map(|index| self.workloads[*index]).filter(has))
    }

    fn at<'s>(&'s self, found: Option<&'s Vec<usize>>) -> impl Iterator<Item = &'w Workload> + use<'s, 'w> {
        found.into_iter().flatten().map(|index| self.workloads[*index])
    }
}

/// Policies by what they select.
#[derive(Debug, Default)]
pub(super) struct Scopes {
    mesh: Level,
    namespaces: HashMap<String, Level>,
}

/// Those for the whole mesh, or for one namespace.
#[derive(Debug, Default)]
struct Level {
    /// For all workloads.
    all: Vec<usize>,
    /// By label and value: each by one of the labels that it asks for.
    by_label: HashMap<String, HashMap<String, Vec<usize>>>,
}

impl Scopes {
    /// Of policies that are known by their places in a list.
    pub(super) fn of<'p>(scopes: impl Iterator<Item = &'p Scope>) -> Self {
        let mut index = Self::default();
        for (place, scope) in scopes.enumerate() {
            let level = match &scope.namespace {
                None => &mut index.mesh,
                Some(namespace) => index.namespaces.entry(namespace.clone()).or_default(),
            };
            let list = match scope.labels.first_key_value() {
                None => &mut level.all,
                Some((label, value)) => {
                    level.by_label.entry(label.clone()).or_default().entry(value.clone()).or_default()
                }
            };
            list.push(place);
        }
        index
    }

    /// Whether there is no policy.
    pub(super) fn is_empty(&self) -> bool {
        self.namespaces.is_empty() && self.mesh.all.is_empty() && self.mesh.by_label.is_empty()
    }

    /// The places of those that may select the workload, in their order. Whoever asks for more than one label may still not.
    pub(super) fn candidates(&self, workload: &Workload) -> Vec<usize> {
        let mut found = Vec::new();
        for level in [Some(&self.mesh), self.namespaces.get(workload.namespace())].into_iter().flatten() {
            found.extend_from_slice(&level.all);
            for (label, value) in &workload.labels {
                found.extend(level.by_label.get(label).and_then(|values| values.get(value)).into_iter().flatten());
            }
        }
        found.sort_unstable();
        found
    }
}

/// Whether a policy with this scope selects the workload.
pub(super) fn selects(scope: &Scope, workload: &Workload) -> bool {
    scope.namespace.as_deref().is_none_or(|namespace| namespace == workload.namespace())
        && scope.labels.iter().all(|(label, value)| workload.labels.get(label) == Some(value))
}
