//! Policies by the workload that they select, and the decision on one connection.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use jiff::Timestamp;

use super::compile::{Asked, Compiled, Compiler};
use super::select::{Scopes, selects};
use super::text::Numbers;
use super::{Cause, Connection, Decision, Roster, Verdict};
use crate::model::mesh::Mesh;
use crate::model::policy::{Action, AuthorizationPolicy, PolicyBounds, PolicyName};
use crate::model::spiffe::TrustDomain;
use crate::model::window::TimeWindow;
use crate::model::workload::{Workload, WorkloadUid};

/// All policies, by workload. Who is not asked about costs nothing: most workloads are on other nodes.
#[derive(Debug)]
pub struct PolicyIndex {
    policies: Arc<Policies>,
    workloads: Roster,
    /// Of the workloads that were asked about.
    selecting: RwLock<HashMap<WorkloadUid, Arc<Selecting>>>,
}

/// All policies, whoever they select.
#[derive(Debug)]
struct Policies {
    trust_domain: TrustDomain,
    bounds: PolicyBounds,
    documents: Arc<[AuthorizationPolicy]>,
    compiled: Box<[Arc<Compiled>]>,
    scopes: Scopes,
    principals: Numbers,
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
    /// Indexes policies, which are in the order of their names. What another index has made of the same documents is taken over.
    pub fn new(mesh: &Mesh, workloads: &Roster, documents: &Arc<[AuthorizationPolicy]>, before: Option<&Self>) -> Self {
        let before = before.map(|before| &before.policies).filter(|before| before.are_of(mesh, documents));
        let policies = before.map_or_else(|| Arc::new(Policies::of(mesh, documents)), Arc::clone);
        Self { policies, workloads: workloads.clone(), selecting: RwLock::default() }
    }

    /// Decides on a connection to `workload`.
    pub fn evaluate(&self, workload: &WorkloadUid, connection: &Connection<'_>) -> Decision {
        match self.selecting(workload) {
            None => Decision { verdict: Verdict::Allowed(None), audited: Vec::new() },
            Some(selecting) => self.ask(connection, |asked| selecting.decide(asked)),
        }
    }

    /// When the decisions on connections to `workload` may change by time alone; `None`: never.
    pub fn holds_until(&self, workload: &WorkloadUid, now: SystemTime) -> Option<SystemTime> {
        let now = timestamp(now);
        let selecting = self.selecting(workload)?;
        selecting.windows.iter().filter_map(|window| window.next_edge(now)).min().map(SystemTime::from)
    }

    /// `None`: there is no such workload.
    fn selecting(&self, uid: &WorkloadUid) -> Option<Arc<Selecting>> {
        if let Some(known) = self.selecting.read().unwrap_or_else(PoisonError::into_inner).get(uid) {
            return Some(Arc::clone(known));
        }
        let made = Arc::new(self.policies.selecting(self.workloads.get(uid)?));
        let mut all = self.selecting.write().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(all.entry(uid.clone()).or_insert(made)))
    }

    /// Every policy that selects `workload`, in the order in which they decide.
    pub fn considered(&self, workload: &WorkloadUid, connection: &Connection<'_>) -> Vec<Considered> {
        let Some(selecting) = self.selecting(workload) else { return Vec::new() };
        let Selecting { audit, deny, wide, loosening, narrow, windows: _ } = &*selecting;
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
        let own = connection.peer.filter(|peer| *peer.trust_domain() == self.policies.trust_domain);
        answer(&Asked {
            connection,
            principal: principal.as_deref().map(|text| self.policies.principals.known(text)),
            namespace: own.and_then(|peer| peer.namespace()).map(|text| self.policies.principals.known(text)),
            now: timestamp(connection.now),
            local: Cell::new(None),
        })
    }
}

impl Policies {
    fn of(mesh: &Mesh, documents: &Arc<[AuthorizationPolicy]>) -> Self {
        let mut compiler =
            Compiler { trust_domain: &mesh.trust_domain, numbers: Numbers::default(), zones: Numbers::default() };
        let compiled = documents.iter().map(|policy| Arc::new(compiler.policy(policy))).collect();
        Self {
            principals: compiler.numbers,
            compiled,
            scopes: Scopes::of(documents.iter().map(|policy| &policy.scope)),
            trust_domain: mesh.trust_domain.clone(),
            bounds: mesh.bounds.clone(),
            documents: Arc::clone(documents),
        }
    }

    fn are_of(&self, mesh: &Mesh, documents: &Arc<[AuthorizationPolicy]>) -> bool {
        (&self.trust_domain, &self.bounds) == (&mesh.trust_domain, &mesh.bounds)
            && Arc::ptr_eq(&self.documents, documents)
    }

    fn selecting(&self, workload: &Workload) -> Selecting {
        let mut selecting = Selecting::default();
        for place in self.scopes.candidates(workload) {
            let (policy, compiled) = (&self.documents[place], &self.compiled[place]);
            if selects(&policy.scope, workload) {
                selecting.windows.extend(compiled.windows().cloned());
                selecting.list(&self.bounds, policy).push(Arc::clone(compiled));
            }
        }
        selecting
    }
}

impl Selecting {
    fn list(&mut self, bounds: &PolicyBounds, policy: &AuthorizationPolicy) -> &mut Vec<Arc<Compiled>> {
        match policy.action {
            Action::Allow if policy.scope.namespace.is_none() => &mut self.wide,
            Action::Allow if bounds.may_loosen(&policy.name) => &mut self.loosening,
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
