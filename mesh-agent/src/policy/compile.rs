//! Turns a policy into what is quick to ask: numbers for identities, merged ranges, sorted ports.

use std::cell::Cell;
use std::sync::Arc;

use super::Connection;
use super::addresses::Addresses;
use super::text::{Known, Numbers, Texts};
use crate::model::policy::{AuthorizationPolicy, Condition, Match, Pattern, PolicyName, Rule, ServiceAccount, Source};
use crate::model::spiffe::TrustDomain;
use crate::model::window::TimeWindow;

/// A policy, ready to be asked.
#[derive(Debug)]
pub(super) struct Compiled {
    pub(super) name: PolicyName,
    rules: Box<[CompiledRule]>,
}

#[derive(Debug)]
struct CompiledRule {
    from: Box<[CompiledSource]>,
    to: Box<[Both<Box<[u16]>>]>,
    when: Box<[CompiledCondition]>,
}

#[derive(Debug)]
struct CompiledSource {
    principals: Both<Texts>,
    namespaces: Both<Texts>,
    addresses: Both<Addresses>,
}

#[derive(Debug)]
enum CompiledCondition {
    DestinationIp(Both<Addresses>),
    DestinationPort(Both<Box<[u16]>>),
    SourceIp(Both<Addresses>),
    SourceNamespace(Both<Texts>),
    SourcePrincipal(Both<Texts>),
    /// With the number of its time zone.
    Time(u32, Arc<TimeWindow>),
}

/// A connection, with what is looked up once for all policies.
pub(super) struct Asked<'a> {
    pub(super) connection: &'a Connection<'a>,
    pub(super) principal: Option<Known<'a>>,
    pub(super) namespace: Option<Known<'a>>,
    pub(super) now: jiff::Timestamp,
    /// What the wall clock shows in the time zone that was asked for last: mostly there is but one.
    pub(super) local: Cell<Option<(u32, (usize, u16))>>,
}

impl Asked<'_> {
    fn is_in(&self, zone: u32, window: &TimeWindow) -> bool {
        let known = self.local.get().filter(|(of, _)| *of == zone).map(|(_, local)| local);
        let (day, minute) = known.unwrap_or_else(|| window.local(self.now));
        self.local.set(Some((zone, (day, minute))));
        window.contains_minute(day, minute)
    }
}

/// What is meant (`None`: everything) and what isn't (`None`: nothing).
#[derive(Debug)]
struct Both<T> {
    any: Option<T>,
    not: Option<T>,
}

impl<T> Both<T> {
    fn of<I>(both: &Match<I>, mut compile: impl FnMut(&[I]) -> T) -> Self {
        let mut list = |items: &[I]| (!items.is_empty()).then(|| compile(items));
        Self { any: list(&both.any), not: list(&both.not) }
    }

    fn holds(&self, has: impl Fn(&T) -> bool) -> bool {
        self.any.as_ref().is_none_or(&has) && !self.not.as_ref().is_some_and(&has)
    }
}

/// Compiles policies of one mesh.
#[derive(Debug)]
pub(super) struct Compiler<'m> {
    pub(super) trust_domain: &'m TrustDomain,
    pub(super) numbers: Numbers,
    pub(super) zones: Numbers,
}

impl Compiler<'_> {
    pub(super) fn policy(&mut self, policy: &AuthorizationPolicy) -> Compiled {
        Compiled { name: policy.name.clone(), rules: policy.rules.iter().map(|rule| self.rule(rule)).collect() }
    }

    fn rule(&mut self, rule: &Rule) -> CompiledRule {
        CompiledRule {
            from: rule.from.iter().map(|source| self.source(source)).collect(),
            to: rule.to.iter().map(|operation| Both::of(&operation.ports, sorted)).collect(),
            when: rule.when.iter().map(|condition| self.condition(condition)).collect(),
        }
    }

    fn source(&mut self, source: &Source) -> CompiledSource {
        // A service account is an identity of this trust domain; no document has both as what is meant.
        let principals = Match {
            any: self.identities(&source.principals.any, &source.service_accounts.any),
            not: self.identities(&source.principals.not, &source.service_accounts.not),
        };
        CompiledSource {
            principals: self.texts(&principals),
            namespaces: self.texts(&source.namespaces),
            addresses: Both::of(&source.ip_blocks, Addresses::of),
        }
    }

    fn identities(&self, principals: &[Pattern], accounts: &[ServiceAccount]) -> Vec<Pattern> {
        let account = |ServiceAccount { namespace, name }: &ServiceAccount| {
            Pattern::Exact(format!("{}/ns/{namespace}/sa/{name}", self.trust_domain))
        };
        principals.iter().cloned().chain(accounts.iter().map(account)).collect()
    }

    fn texts(&mut self, patterns: &Match<Pattern>) -> Both<Texts> {
        Both::of(patterns, |patterns| Texts::of(patterns.iter(), &mut self.numbers))
    }

    fn condition(&mut self, condition: &Condition) -> CompiledCondition {
        match condition {
            Condition::DestinationIp(ranges) => CompiledCondition::DestinationIp(Both::of(ranges, Addresses::of)),
            Condition::DestinationPort(ports) => CompiledCondition::DestinationPort(Both::of(ports, sorted)),
            Condition::SourceIp(ranges) => CompiledCondition::SourceIp(Both::of(ranges, Addresses::of)),
            Condition::SourceNamespace(texts) => CompiledCondition::SourceNamespace(self.texts(texts)),
            Condition::SourcePrincipal(texts) => CompiledCondition::SourcePrincipal(self.texts(texts)),
            Condition::Time(window) => {
                // All come from the built-in data, and so have a name.
                let zone = self.zones.assign(window.time_zone.iana_name().unwrap_or_default());
                CompiledCondition::Time(zone, Arc::new(window.clone()))
            }
        }
    }
}

fn sorted(ports: &[u16]) -> Box<[u16]> {
    let mut ports = ports.to_vec();
    ports.sort_unstable();
    ports.into()
}

impl Compiled {
    /// The first rule that matches.
    pub(super) fn matching(&self, asked: &Asked<'_>) -> Option<usize> {
        self.rules.iter().position(|rule| rule.matches(asked))
    }

    /// Every time window in it.
    pub(super) fn windows(&self) -> impl Iterator<Item = &Arc<TimeWindow>> {
        self.rules.iter().flat_map(|rule| &rule.when).filter_map(|condition| match condition {
            CompiledCondition::Time(_, window) => Some(window),
            _ => None,
        })
    }
}

impl CompiledRule {
    fn matches(&self, asked: &Asked<'_>) -> bool {
        let port = asked.connection.destination.port();
        let to = self.to.is_empty() || self.to.iter().any(|ports| has_port(ports, port));
        to && (self.from.is_empty() || self.from.iter().any(|source| source.matches(asked)))
            && self.when.iter().all(|condition| condition.matches(asked))
    }
}

impl CompiledSource {
    fn matches(&self, asked: &Asked<'_>) -> bool {
        self.principals.holds(|texts| texts.mean(asked.principal))
            && self.namespaces.holds(|texts| texts.mean(asked.namespace))
            && self.addresses.holds(|ranges| ranges.contains(asked.connection.source))
    }
}

impl CompiledCondition {
    fn matches(&self, asked: &Asked<'_>) -> bool {
        let Connection { source, destination, .. } = asked.connection;
        match self {
            Self::DestinationIp(ranges) => ranges.holds(|ranges| ranges.contains(destination.ip())),
            Self::DestinationPort(ports) => has_port(ports, destination.port()),
            Self::SourceIp(ranges) => ranges.holds(|ranges| ranges.contains(*source)),
            Self::SourceNamespace(texts) => texts.holds(|texts| texts.mean(asked.namespace)),
            Self::SourcePrincipal(texts) => texts.holds(|texts| texts.mean(asked.principal)),
            Self::Time(zone, window) => asked.is_in(*zone, window),
        }
    }
}

fn has_port(ports: &Both<Box<[u16]>>, port: u16) -> bool {
    ports.holds(|ports| ports.binary_search(&port).is_ok())
}
