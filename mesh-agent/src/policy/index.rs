//! Policies by the workload that they select, and the decision on one connection.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use jiff::Timestamp;

use super::compile::{Asked, Compiled, Compiler};
use super::select::Selector;
use super::text::Numbers;
use super::{Cause, Connection, Decision, Verdict};
use crate::model::mesh::Mesh;
use crate::model::policy::{Action, AuthorizationPolicy, PolicyName};
use crate::model::spiffe::TrustDomain;
use crate::model::window::TimeWindow;
use crate::model::workload::{Workload, WorkloadUid};

/// All policies, by workload.
#[derive(Debug)]
pub struct PolicyIndex {
    trust_domain: TrustDomain,
    principals: Numbers,
    workloads: HashMap<WorkloadUid, Selecting>,
}

/// The policies that select one workload, by what they do; each list by name.
#[derive(Debug, Default)]
struct Selecting {
    audit: Vec<Arc<Compiled>>,
    deny: Vec<Arc<Compiled>>,
    /// ALLOW, for the whole mesh.
    wide: Vec<Arc<Compiled>>,
    /// ALLOW, of a namespace, and the mesh lets it be looser than what is for the whole mesh.
    loosening: Vec<Arc<Compiled>>,
    /// ALLOW, of a namespace.
    narrow: Vec<Arc<Compiled>>,
    windows: Vec<Arc<TimeWindow>>,
}

/// A policy that selects a workload, and what one connection is to it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Considered {
    /// Its name.
    pub policy: PolicyName,
    /// What its match means.
    pub action: Action,
    /// The first of its rules that matches, counted from 0.
    pub rule: Option<usize>,
}

impl PolicyIndex {
    /// Indexes policies, which are in the order of their names.
    pub fn new<'w>(
        mesh: &Mesh,
        workloads: impl Iterator<Item = &'w Workload>,
        policies: &[AuthorizationPolicy],
    ) -> Self {
        let selector = Selector::of(workloads);
        let mut compiler =
            Compiler { trust_domain: &mesh.trust_domain, numbers: Numbers::default(), zones: Numbers::default() };
        let mut workloads: HashMap<WorkloadUid, Selecting> = HashMap::new();
        for policy in policies {
            let compiled = Arc::new(compiler.policy(policy));
            for workload in selector.select(&policy.scope) {
                let selecting = workloads.entry(workload.uid.clone()).or_default();
                selecting.windows.extend(compiled.windows().cloned());
                selecting.list(mesh, policy).push(Arc::clone(&compiled));
            }
        }
        Self { trust_domain: mesh.trust_domain.clone(), principals: compiler.numbers, workloads }
    }

    /// Decides on a connection to `workload`.
    pub fn evaluate(&self, workload: &WorkloadUid, connection: &Connection<'_>) -> Decision {
        match self.workloads.get(workload) {
            None => Decision { verdict: Verdict::Allowed(None), audited: Vec::new() },
            Some(selecting) => self.ask(connection, |asked| selecting.decide(asked)),
        }
    }

    /// When the decisions on connections to `workload` may change by time alone; `None`: never.
    pub fn holds_until(&self, workload: &WorkloadUid, now: SystemTime) -> Option<SystemTime> {
        let now = timestamp(now);
        let windows = &self.workloads.get(workload)?.windows;
        windows.iter().filter_map(|window| window.next_edge(now)).min().map(SystemTime::from)
    }

    /// Every policy that selects `workload`, in the order in which they decide.
    pub fn considered(&self, workload: &WorkloadUid, connection: &Connection<'_>) -> Vec<Considered> {
        let Some(selecting) = self.workloads.get(workload) else { return Vec::new() };
        let Selecting { audit, deny, wide, loosening, narrow, windows: _ } = selecting;
        let allow = [wide, loosening, narrow].map(|list| (Action::Allow, list));
        self.ask(connection, |asked| {
            let lists = [(Action::Audit, audit), (Action::Deny, deny)].into_iter().chain(allow);
            let policies = lists.flat_map(|(action, list)| list.iter().map(move |policy| (action, policy)));
            policies
                .map(|(action, policy)| Considered {
                    policy: policy.name.clone(),
                    action,
                    rule: policy.matching(asked),
                })
                .collect()
        })
    }

    fn ask<T>(&self, connection: &Connection<'_>, answer: impl FnOnce(&Asked<'_>) -> T) -> T {
        // As Istio writes identities: without their scheme.
        let principal = connection.peer.map(|peer| [peer.trust_domain().as_str(), peer.path()].concat());
        // A namespace of another trust domain is another one, whatever its name.
        let own = connection.peer.filter(|peer| *peer.trust_domain() == self.trust_domain);
        answer(&Asked {
            connection,
            principal: principal.as_deref().map(|text| self.principals.known(text)),
            namespace: own.and_then(|peer| peer.namespace()).map(|text| self.principals.known(text)),
            now: timestamp(connection.now),
            local: Cell::new(None),
        })
    }
}

impl Selecting {
    fn list(&mut self, mesh: &Mesh, policy: &AuthorizationPolicy) -> &mut Vec<Arc<Compiled>> {
        match policy.action {
            Action::Allow if policy.scope.namespace.is_none() => &mut self.wide,
            Action::Allow if mesh.bounds.may_loosen(&policy.name) => &mut self.loosening,
            Action::Allow => &mut self.narrow,
            Action::Audit => &mut self.audit,
            Action::Deny => &mut self.deny,
        }
    }

    fn decide(&self, asked: &Asked<'_>) -> Decision {
        let audited = self.audit.iter().filter(|policy| policy.matching(asked).is_some());
        Decision { audited: audited.map(|policy| policy.name.clone()).collect(), verdict: self.verdict(asked) }
    }

    /// DENY first. Then both those for the whole mesh, if there are any, and those of the namespace, if there are any,
    /// must allow; policies that may loosen count as both. Without bounds (`mayLoosen: ["*"]`) these are Istio's rules.
    fn verdict(&self, asked: &Asked<'_>) -> Verdict {
        if let Some(cause) = matching(&self.deny, asked) {
            return Verdict::Denied(cause);
        }
        let either = |list| matching(list, asked).or_else(|| matching(&self.loosening, asked));
        let mut allowed = None;
        let alone: &[Arc<Compiled>] =
            if self.wide.is_empty() && self.narrow.is_empty() { &self.loosening } else { &[] };
        for list in [alone, &self.wide, &self.narrow] {
            let Some(first) = list.first() else { continue };
            allowed = either(list);
            if allowed.is_none() {
                return Verdict::Denied(Cause { policy: first.name.clone(), rule: None });
            }
        }
        Verdict::Allowed(allowed)
    }
}

fn matching(policies: &[Arc<Compiled>], asked: &Asked<'_>) -> Option<Cause> {
    policies.iter().find_map(|policy| {
        let rule = policy.matching(asked)?;
        Some(Cause { policy: policy.name.clone(), rule: Some(rule) })
    })
}

/// No clock shows a time that this can't.
fn timestamp(now: SystemTime) -> Timestamp {
    Timestamp::try_from(now).unwrap_or(Timestamp::UNIX_EPOCH)
}
