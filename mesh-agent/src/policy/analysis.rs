//! Finds policies that don't do what their author may hope: they select nobody, can't match, or are looser than allowed.
//!
//! No mistakes: a workload may come later. So they are told and not refused.

use std::fmt;
use std::iter;
use std::sync::Arc;

use jiff::tz::TimeZone;

use super::Roster;
use super::mode::Modes;
use super::select::Selector;
use crate::model::mesh::Mesh;
use crate::model::policy::{
    Action, AuthorizationPolicy, Condition, Match, Pattern, PeerAuthentication, PolicyName, Rule, Scope, Source,
};
use crate::model::spiffe::TrustDomain;
use crate::model::svid::TrustBundle;
use crate::model::window::{DAY_MINUTES, TimeWindow};
use crate::model::workload::Workload;

/// What the author of a policy should know.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Finding {
    /// `AuthorizationPolicy` or `PeerAuthentication`.
    pub kind: &'static str,
    /// Which.
    pub policy: PolicyName,
    /// The field's path; empty for the whole policy.
    pub field: String,
    /// What it doesn't do: a lower-case fragment.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, policy, field, what } = self;
        let colon = if field.is_empty() { "" } else { ": " };
        write!(f, "{kind} {policy}: {field}{colon}{what}")
    }
}

/// Looks through all policies of a mesh, which are in the order of their names.
pub fn findings(
    mesh: &Mesh,
    federated: &[TrustBundle],
    workloads: &[Arc<Workload>],
    authorization: &[AuthorizationPolicy],
    peer_authentication: &Arc<[PeerAuthentication]>,
) -> Vec<Finding> {
    let federated = federated.iter().map(|bundle| bundle.trust_domain.clone());
    let known: Vec<_> = iter::once(mesh.trust_domain.clone()).chain(federated).collect();
    let selector = Selector::of(workloads.iter().map(Arc::as_ref));
    let mut found = Vec::new();
    for policy in authorization {
        let tell = |field: String, what: &str| Finding {
            kind: "AuthorizationPolicy",
            policy: policy.name.clone(),
            field,
            what: what.to_owned(),
        };
        found.extend(selects_nobody(&selector, &policy.scope).map(|what| tell("spec.selector".to_owned(), what)));
        for (index, rule) in policy.rules.iter().enumerate() {
            found.extend(
                impossible(&known, rule).map(|(field, what)| tell(format!("spec.rules[{index}]{field}"), what)),
            );
        }
        let narrow = policy.action == Action::Allow && policy.scope.namespace.is_some();
        let wider = |other: &AuthorizationPolicy| other.action == Action::Allow && other.scope.namespace.is_none();
        if narrow && !mesh.bounds.may_loosen(&policy.name) && authorization.iter().any(wider) {
            found.push(tell(String::new(), "allows nothing that the mesh-wide ALLOW policies don't allow too, since the Mesh's mayLoosen doesn't name it"));
        }
    }
    let modes = Modes::new(mesh, &Roster::new(workloads.to_vec()), peer_authentication, None);
    for policy in peer_authentication.iter() {
        let mut tell = |field: String, what: &str| {
            let (kind, policy, what) = ("PeerAuthentication", policy.name.clone(), what.to_owned());
            found.push(Finding { kind, policy, field, what });
        };
        if let Some(what) = selects_nobody(&selector, &policy.scope) {
            tell("spec.selector".to_owned(), what);
        }
        let limited = "is looser than the operator allows, so the mesh's minimum holds";
        let is_limited = |port| {
            selector.select(&policy.scope).any(|workload| {
                let effective = modes.of(&workload.uid, port);
                effective.is_limited && effective.by.as_ref() == Some(&policy.name)
            })
        };
        // Port 0 stands for all that no document lists.
        if is_limited(0) {
            tell("spec.mtls.mode".to_owned(), limited);
        }
        for port in policy.ports.keys().filter(|port| is_limited(**port)) {
            tell(format!("spec.portLevelMtls[{port}].mode"), limited);
        }
    }
    found
}

fn selects_nobody(selector: &Selector<'_>, scope: &Scope) -> Option<&'static str> {
    selector.select(scope).next().is_none().then_some("selects no workload")
}

/// Why no connection ever matches: field below the rule, and reason.
fn impossible(known: &[TrustDomain], rule: &Rule) -> Option<(&'static str, &'static str)> {
    let sources: Vec<_> = rule.from.iter().map(|source| impossible_source(known, source)).collect();
    if let Some(Some(reason)) = sources.first()
        && sources.iter().all(Option::is_some)
    {
        return Some((".from", reason));
    }
    if !rule.to.is_empty() && rule.to.iter().all(|operation| excluded(&operation.ports, PartialEq::eq)) {
        return Some((".to", "can never match: every port is also in `notPorts`"));
    }
    let windows: Vec<_> = rule.when.iter().filter_map(window).collect();
    if windows.iter().any(|window| never_together(&windows, &window.time_zone)) {
        return Some((".when", "can never match: its time windows have no minute in common"));
    }
    rule.when.iter().any(|condition| impossible_condition(known, condition)).then_some((".when", "can never match"))
}

fn window(condition: &Condition) -> Option<&TimeWindow> {
    if let Condition::Time(window) = condition { Some(window) } else { None }
}

fn impossible_source(known: &[TrustDomain], source: &Source) -> Option<&'static str> {
    if foreign(known, &source.principals) {
        return Some("can never match: every principal is of a trust domain that this mesh doesn't know");
    }
    let out = excluded(&source.principals, covers)
        || excluded(&source.namespaces, covers)
        || excluded(&source.service_accounts, PartialEq::eq)
        || excluded(&source.ip_blocks, |not, range| not.contains(range));
    out.then_some("can never match: all that it means is also what it excludes")
}

fn impossible_condition(known: &[TrustDomain], condition: &Condition) -> bool {
    match condition {
        Condition::DestinationIp(ranges) | Condition::SourceIp(ranges) => {
            excluded(ranges, |not, range| not.contains(range))
        }
        Condition::DestinationPort(ports) => excluded(ports, PartialEq::eq),
        Condition::SourceNamespace(texts) => excluded(texts, covers),
        Condition::SourcePrincipal(texts) => excluded(texts, covers) || foreign(known, texts),
        Condition::Time(_) => false,
    }
}

/// Whether each item of what is meant is covered by one of what isn't.
fn excluded<T>(both: &Match<T>, covers: impl Fn(&T, &T) -> bool) -> bool {
    !both.any.is_empty() && both.any.iter().all(|item| both.not.iter().any(|not| covers(not, item)))
}

/// Whether every text that `other` means is meant by `pattern` too.
fn covers(pattern: &Pattern, other: &Pattern) -> bool {
    match (pattern, other) {
        (Pattern::Present, _) => true,
        (_, Pattern::Exact(text)) => pattern.matches(text),
        (Pattern::Prefix(short), Pattern::Prefix(long)) => long.starts_with(short),
        (Pattern::Suffix(short), Pattern::Suffix(long)) => long.ends_with(short),
        _ => false,
    }
}

fn foreign(known: &[TrustDomain], principals: &Match<Pattern>) -> bool {
    let is_foreign = |pattern: &Pattern| match pattern {
        Pattern::Exact(text) | Pattern::Prefix(text) => {
            text.split_once('/').is_some_and(|(domain, _)| !known.iter().any(|known| known.as_str() == domain))
        }
        Pattern::Present | Pattern::Suffix(_) => false,
    };
    !principals.any.is_empty() && principals.any.iter().all(is_foreign)
}

/// Of those in one time zone: windows of different ones move against each other.
fn never_together(windows: &[&TimeWindow], zone: &TimeZone) -> bool {
    let there: Vec<_> = windows.iter().filter(|window| window.time_zone == *zone).collect();
    let mut minutes = (0..7).flat_map(|day| (0..DAY_MINUTES).map(move |minute| (day, minute)));
    !minutes.any(|(day, minute)| there.iter().all(|window| window.contains_minute(day, minute)))
}
