//! Random policies, workloads and connections out of small worlds, in which much matches by chance.

use super::{index, mesh, naive};
use crate::config::MeshConfig;
use crate::model::policy::*;
use crate::model::spiffe::SpiffeId;
use crate::model::window::TimeWindow;
use crate::model::workload::{Workload, WorkloadUid};
use crate::policy::Connection;
use jiff::tz::TimeZoneDatabase;
use std::time::{Duration, UNIX_EPOCH};

/// SplitMix64 (Steele, Lea and Flood 2014): the seed in a failure's message is all that it takes to see it again.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound).unwrap()).unwrap()
    }

    fn of<T: Clone>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())].clone()
    }

    fn some<T>(&mut self, most: usize, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(most + 1)).map(|_| make(self)).collect()
    }

    fn both<T>(&mut self, mut make: impl FnMut(&mut Self) -> T) -> Match<T> {
        // Mostly nothing, so that whole rules match now and then.
        let any = if self.below(3) == 0 { self.some(3, &mut make) } else { Vec::new() };
        let not = if self.below(4) == 0 { self.some(2, &mut make) } else { Vec::new() };
        Match { any, not }
    }
}

const NAMESPACES: [&str; 3] = ["shop", "bank", "sh"];
const ACCOUNTS: [&str; 2] = ["web", "db"];
const ADDRESSES: [&str; 4] = ["10.0.0.1", "10.0.1.1", "192.0.2.7", "fd00::1"];
const RANGES: [&str; 6] = ["10.0.0.0/8", "10.0.1.0/24", "10.0.0.1/32", "0.0.0.0/0", "fd00::/8", "::/0"];
const PORTS: [u16; 3] = [80, 443, 8080];

fn identity(random: &mut Random) -> String {
    let (domain, namespace, account) = (random.of(&["td", "far"]), random.of(&NAMESPACES), random.of(&ACCOUNTS));
    format!("{domain}/ns/{namespace}/sa/{account}")
}

fn cut(random: &mut Random, text: &str) -> Pattern {
    let at = random.below(text.len());
    match random.below(6) {
        0 => Pattern::Present,
        1 => Pattern::Prefix(text[..=at].to_owned()),
        2 => Pattern::Suffix(text[at..].to_owned()),
        _ => Pattern::Exact(text.to_owned()),
    }
}

fn principals(random: &mut Random) -> Match<Pattern> {
    random.both(|random| {
        let text = identity(random);
        cut(random, &text)
    })
}

fn namespaces(random: &mut Random) -> Match<Pattern> {
    random.both(|random| {
        let text = random.of(&NAMESPACES);
        cut(random, text)
    })
}

fn ranges(random: &mut Random) -> Match<ipnet::IpNet> {
    random.both(|random| random.of(&RANGES).parse().unwrap())
}

fn source(random: &mut Random) -> Source {
    let account = |random: &mut Random| ServiceAccount {
        namespace: random.of(&NAMESPACES).to_owned(),
        name: random.of(&ACCOUNTS).to_owned(),
    };
    let mut source = Source {
        principals: principals(random),
        namespaces: namespaces(random),
        service_accounts: random.both(account),
        ip_blocks: ranges(random),
    };
    if !source.service_accounts.any.is_empty() {
        (source.principals.any, source.namespaces.any) = (Vec::new(), Vec::new());
    }
    source
}

fn condition(random: &mut Random) -> Condition {
    match random.below(6) {
        0 => Condition::DestinationIp(ranges(random)),
        1 => Condition::DestinationPort(random.both(|random| random.of(&PORTS))),
        2 => Condition::SourceIp(ranges(random)),
        3 => Condition::SourceNamespace(namespaces(random)),
        4 => Condition::SourcePrincipal(principals(random)),
        _ => {
            let days = std::array::from_fn(|_| random.below(2) == 0);
            let (from, to) = (random.of(&[0, 480, 1320]), random.of(&[360, 1080, 1440]));
            let time_zone = TimeZoneDatabase::bundled().get(random.of(&["UTC", "Europe/Berlin"])).unwrap();
            Condition::Time(TimeWindow { days, from, to, time_zone })
        }
    }
}

fn rule(random: &mut Random) -> Rule {
    let from = random.some(2, source);
    let to = random.some(1, |random| Operation { ports: random.both(|random| random.of(&PORTS)) });
    Rule { from, to, when: random.some(1, condition) }
}

fn policy(random: &mut Random, number: usize) -> AuthorizationPolicy {
    let namespace = (random.below(3) > 0).then(|| random.of(&NAMESPACES).to_owned());
    let labels = random.some(2, |random| (random.of(&["app", "tier"]).to_owned(), random.of(&["a", "b"]).to_owned()));
    let name = PolicyName::new(namespace.as_deref(), &format!("p{number:02}"));
    let scope = Scope { namespace, labels: labels.into_iter().collect() };
    let action = random.of(&[Action::Allow, Action::Allow, Action::Allow, Action::Deny, Action::Audit]);
    AuthorizationPolicy { name, scope, action, rules: random.some(3, rule) }
}

fn world(random: &mut Random, template: &MeshConfig) -> MeshConfig {
    let mut config = template.clone();
    let web = config.workloads.remove(0);
    for (number, namespace) in NAMESPACES.iter().flat_map(|namespace| [(1, namespace), (2, namespace)]) {
        let labels =
            random.some(2, |random| (random.of(&["app", "tier"]).to_owned(), random.of(&["a", "b"]).to_owned()));
        let uid = WorkloadUid::new(namespace, &format!("w{number}"));
        let labels = labels.into_iter().collect();
        config.workloads.push(Workload { uid, labels, ..Workload::clone(&web) }.into());
    }
    let mut policies: Vec<_> = (0..random.below(12)).map(|number| policy(random, number)).collect();
    policies.sort_by(|one, other| one.name.cmp(&other.name));
    config.authorization = policies.into();
    let loosener = [
        Loosener::Everybody,
        Loosener::Namespace("shop".to_owned()),
        Loosener::Policy(PolicyName::new(Some("bank"), "p03")),
    ];
    config.mesh.bounds.may_loosen = random.some(2, |random| random.of(&loosener));
    config
}

#[test]
fn the_index_agrees_with_the_definition() {
    let template = mesh("", &[]);
    let mut seen = std::collections::BTreeMap::new();
    for seed in 0..1500 {
        let random = &mut Random(seed);
        let config = world(random, &template);
        let index = index(&config);
        for _ in 0..20 {
            let peer =
                (random.below(5) > 0).then(|| SpiffeId::parse(&format!("spiffe://{}", identity(random))).unwrap());
            let connection = Connection {
                peer: peer.as_ref(),
                source: random.of(&ADDRESSES).parse().unwrap(),
                destination: std::net::SocketAddr::new(random.of(&ADDRESSES).parse().unwrap(), random.of(&PORTS)),
                now: UNIX_EPOCH + Duration::from_secs(1_795_435_200 + random.next() % 1_209_600),
            };
            let workload = random.of(&config.workloads).uid.clone();
            let decision = index.evaluate(&workload, &connection);
            assert_eq!(decision, naive::evaluate(&config, &workload, &connection), "seed {seed}: {connection:?}");
            let kind = super::shown(&decision).split(' ').take(2).collect::<Vec<_>>().join(" ");
            let audited = !decision.audited.is_empty();
            *seen.entry((kind, audited)).or_insert(0) += 1;
        }
    }
    // "ok", "ok by" and "no by", each audited or not: chance has reached all of them often.
    assert!(seen.len() >= 6 && seen.values().all(|count| *count > 100), "{seen:?}");
}
