//! Decides who may be unauthenticated when there is not room for all, and who has to make way.
//!
//! Whoever has most gives way: within a full pod the source with most connections, within a full node that of the pod
//! with most. So a flood displaces itself, and a source with few gets in, however many connections others hold open.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use crate::model::budget::Unauthenticated;

/// A place among the unauthenticated; the order of tickets is that of arrival.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) struct Ticket {
    number: u64,
    pod: u32,
    source: IpAddr,
}

/// What becomes of a newcomer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Verdict {
    /// It gets in.
    Admit(Ticket),
    /// It gets in, and the older one has to go.
    Displace(Ticket, Ticket),
    /// It stays out.
    Refuse,
}

/// Who is unauthenticated.
#[derive(Debug)]
pub(super) struct Admission {
    limits: Unauthenticated,
    pods: HashMap<u32, Pod>,
    total: usize,
    arrived: u64,
}

#[derive(Debug, Default)]
struct Pod {
    sources: HashMap<IpAddr, BTreeSet<Ticket>>,
    total: usize,
}

impl Admission {
    pub(super) fn new(limits: Unauthenticated) -> Self {
        Self { limits, pods: HashMap::new(), total: 0, arrived: 0 }
    }

    /// Decides about a connection from `source` to `pod`.
    pub(super) fn arrive(&mut self, pod: u32, source: IpAddr) -> Verdict {
        let own = self.pods.get(&pod);
        let (in_pod, of_source) = own.map_or((0, 0), |own| (own.total, own.of(&source)));
        if of_source >= self.limits.source {
            return Verdict::Refuse;
        }
        let crowded = if in_pod >= self.limits.pod {
            Some(pod)
        } else if self.total >= self.limits.node {
            self.largest_pod()
        } else {
            None
        };
        let Some(crowded) = crowded else { return Verdict::Admit(self.add(pod, source)) };
        match self.displaced(crowded, (pod, in_pod, of_source)) {
            Some(oldest) => {
                self.leave(oldest);
                Verdict::Displace(self.add(pod, source), oldest)
            }
            None => Verdict::Refuse,
        }
    }

    /// Frees a place; nothing happens if it was taken away meanwhile.
    pub(super) fn leave(&mut self, ticket: Ticket) {
        let Some(pod) = self.pods.get_mut(&ticket.pod) else { return };
        let Some(tickets) = pod.sources.get_mut(&ticket.source) else { return };
        if !tickets.remove(&ticket) {
            return;
        }
        if tickets.is_empty() {
            pod.sources.remove(&ticket.source);
        }
        pod.total -= 1;
        if pod.total == 0 {
            self.pods.remove(&ticket.pod);
        }
        self.total -= 1;
    }

    /// The oldest connection of the largest source of the `crowded` pod, if that has more than the newcomer's own.
    fn displaced(&self, crowded: u32, (pod, in_pod, of_source): (u32, usize, usize)) -> Option<Ticket> {
        let most = self.pods.get(&crowded)?;
        if crowded != pod && most.total <= in_pod + 1 {
            return None;
        }
        let tickets = most.sources.values().max_by_key(|tickets| tickets.len())?;
        let own = if crowded == pod { of_source } else { 0 };
        (tickets.len() > own + 1 || crowded != pod).then(|| tickets.first().copied())?
    }

    fn largest_pod(&self) -> Option<u32> {
        self.pods.iter().max_by_key(|(_, pod)| pod.total).map(|(number, _)| *number)
    }

    fn add(&mut self, pod: u32, source: IpAddr) -> Ticket {
        self.arrived += 1;
        let ticket = Ticket { number: self.arrived, pod, source };
        let own = self.pods.entry(pod).or_default();
        own.sources.entry(source).or_default().insert(ticket);
        own.total += 1;
        self.total += 1;
        ticket
    }
}

impl Pod {
    fn of(&self, source: &IpAddr) -> usize {
        self.sources.get(source).map_or(0, BTreeSet::len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Unauthenticated = Unauthenticated { node: 20, pod: 12, source: 8 };

    fn source(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    /// Lets connections arrive, each (pod, source, how many), and counts those that got in.
    fn fill(admission: &mut Admission, arrivals: &[(u32, u8, usize)]) -> Vec<usize> {
        let admitted = |verdict: &Verdict| *verdict != Verdict::Refuse;
        arrivals
            .iter()
            .map(|(pod, last, count)| {
                (0..*count).map(|_| admission.arrive(*pod, source(*last))).filter(admitted).count()
            })
            .collect()
    }

    #[test]
    fn a_source_gets_its_share_and_no_more() {
        let mut admission = Admission::new(LIMITS);
        assert_eq!(fill(&mut admission, &[(1, 1, 10_000), (1, 2, 3)]), [8, 3]);
        assert_eq!(admission.total, 11);
    }

    #[test]
    fn in_a_full_pod_the_largest_source_makes_way_oldest_first() {
        let mut admission = Admission::new(LIMITS);
        let Verdict::Admit(first) = admission.arrive(1, source(1)) else { panic!("there was room") };
        fill(&mut admission, &[(1, 1, 7), (1, 2, 4)]);
        assert!(matches!(admission.arrive(1, source(3)), Verdict::Displace(_, oldest) if oldest == first));
        assert_eq!(admission.total, 12);
        // Its own newcomers don't displace anybody.
        assert_eq!(admission.arrive(1, source(1)), Verdict::Refuse);
    }

    #[test]
    fn equal_shares_displace_nobody() {
        let mut admission = Admission::new(LIMITS);
        assert_eq!(fill(&mut admission, &[(1, 1, 6), (1, 2, 6), (1, 1, 1), (1, 2, 1)]), [6, 6, 0, 0]);
        assert_eq!(fill(&mut admission, &[(1, 3, 8)]), [4], "three sources, four places each");
    }

    #[test]
    fn in_a_full_node_the_largest_pod_makes_way() {
        let mut admission = Admission::new(LIMITS);
        fill(&mut admission, &[(1, 1, 8), (1, 2, 4), (2, 1, 8)]);
        assert_eq!(admission.total, 20);
        assert!(matches!(admission.arrive(3, source(9)), Verdict::Displace(_, oldest) if oldest.pod == 1));
        assert_eq!(fill(&mut admission, &[(3, 9, 4)]), [4]);
        assert_eq!(admission.total, 20);
    }

    #[test]
    fn who_leaves_makes_room_once() {
        let mut admission = Admission::new(LIMITS);
        let Verdict::Admit(ticket) = admission.arrive(1, source(1)) else { panic!("there was room") };
        admission.leave(ticket);
        admission.leave(ticket);
        assert_eq!(admission.total, 0);
        assert!(admission.pods.is_empty());
    }
}
