//! Finds the workloads that a policy selects, in time that grows with their number and not with that of all workloads.

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
