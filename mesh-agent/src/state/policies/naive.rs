//! The definition: every policy is looked at as its author wrote it, one after the other.

use crate::config::MeshConfig;
use crate::model::policy::{Action, AuthorizationPolicy, Condition, Match, Operation, Pattern, Rule, Scope, Source};
use crate::model::workload::{Workload, WorkloadUid};
use crate::policy::{Cause, Connection, Decision, Verdict};
use jiff::Timestamp;

pub(super) fn evaluate(config: &MeshConfig, workload: &WorkloadUid, connection: &Connection<'_>) -> Decision {
    let workload = config.workloads.iter().find(|known| known.uid == *workload).unwrap();
    let asked = Asked { config, connection };
    let of = |action: Action| {
        let selecting = config.authorization.iter().filter(|policy| is_for(&policy.scope, workload));
        selecting.filter(move |policy| policy.action == action).collect::<Vec<_>>()
    };
    let matching = |policies: &[&AuthorizationPolicy]| {
        policies.iter().find_map(|policy| {
            let rule = policy.rules.iter().position(|rule| asked.rule(rule))?;
            Some(Cause { policy: policy.name.clone(), rule: Some(rule) })
        })
    };
    let audited = of(Action::Audit).into_iter().filter(|policy| matching(&[policy]).is_some());
    let audited = audited.map(|policy| policy.name.clone()).collect();
    let verdict = || {
        if let Some(cause) = matching(&of(Action::Deny)) {
            return Verdict::Denied(cause);
        }
        let is_wide = |policy: &&AuthorizationPolicy| policy.scope.namespace.is_none();
        let (wide, others): (Vec<_>, Vec<_>) = of(Action::Allow).into_iter().partition(is_wide);
        let (free, narrow): (Vec<_>, Vec<_>) =
            others.into_iter().partition(|policy| config.mesh.bounds.may_loosen(&policy.name));
        let mut stages = vec![wide, narrow];
        if stages.iter().all(Vec::is_empty) {
            stages.push(free.clone());
        }
        let mut by = None;
        for stage in stages.into_iter().filter(|stage| !stage.is_empty()) {
            by = matching(&stage).or_else(|| matching(&free));
            if by.is_none() {
                return Verdict::Denied(Cause { policy: stage[0].name.clone(), rule: None });
            }
        }
        Verdict::Allowed(by)
    };
    Decision { verdict: verdict(), audited }
}

fn is_for(scope: &Scope, workload: &Workload) -> bool {
    scope.namespace.as_deref().is_none_or(|namespace| namespace == workload.namespace())
        && scope.labels.iter().all(|(label, value)| workload.labels.get(label) == Some(value))
}

struct Asked<'a> {
    config: &'a MeshConfig,
    connection: &'a Connection<'a>,
}

impl Asked<'_> {
    fn rule(&self, rule: &Rule) -> bool {
        (rule.from.is_empty() || rule.from.iter().any(|source| self.source(source)))
            && (rule.to.is_empty() || rule.to.iter().any(|Operation { ports }| self.port(ports)))
            && rule.when.iter().all(|condition| self.condition(condition))
    }

    fn source(&self, source: &Source) -> bool {
        let account = |account: &crate::model::policy::ServiceAccount| {
            let domain = &self.config.mesh.trust_domain;
            self.principal()
                .is_some_and(|principal| principal == format!("{domain}/ns/{}/sa/{}", account.namespace, account.name))
        };
        self.principals(&source.principals)
            && self.namespaces(&source.namespaces)
            && holds(&source.service_accounts, account)
            && holds(&source.ip_blocks, |range| range.contains(&self.connection.source))
    }

    fn condition(&self, condition: &Condition) -> bool {
        let Connection { source, destination, now, .. } = self.connection;
        match condition {
            Condition::DestinationIp(ranges) => holds(ranges, |range| range.contains(&destination.ip())),
            Condition::DestinationPort(ports) => self.port(ports),
            Condition::SourceIp(ranges) => holds(ranges, |range| range.contains(source)),
            Condition::SourceNamespace(texts) => self.namespaces(texts),
            Condition::SourcePrincipal(texts) => self.principals(texts),
            Condition::Time(window) => window.contains(Timestamp::try_from(*now).unwrap()),
        }
    }

    fn principal(&self) -> Option<String> {
        self.connection.peer.map(|peer| peer.to_string().replacen("spiffe://", "", 1))
    }

    fn principals(&self, texts: &Match<Pattern>) -> bool {
        let principal = self.principal();
        holds(texts, |pattern| principal.as_deref().is_some_and(|text| pattern.matches(text)))
    }

    fn namespaces(&self, texts: &Match<Pattern>) -> bool {
        let peer = self.connection.peer.filter(|peer| *peer.trust_domain() == self.config.mesh.trust_domain);
        let namespace = peer.and_then(|peer| peer.namespace());
        holds(texts, |pattern| namespace.is_some_and(|text| pattern.matches(text)))
    }

    fn port(&self, ports: &Match<u16>) -> bool {
        holds(ports, |port| *port == self.connection.destination.port())
    }
}

fn holds<T>(both: &Match<T>, has: impl Fn(&T) -> bool) -> bool {
    (both.any.is_empty() || both.any.iter().any(&has)) && !both.not.iter().any(&has)
}
