//! connect4 and connect6: keeps the original destination and who connects, and sends the call to the agent.
use mesh_common::{
    conn::{SockFacts, SockKind},
    divert::{ConnectVerdict, Destination},
    event::Counter,
};

use super::{ctx, ctx::Connect, maps};

const ALLOW: i32 = 1;
const REFUSE: i32 = 0;

#[inline(always)]
pub fn connect<const V6: bool>(call: &Connect<'_, V6>) -> i32 {
    if !call.is_stream() {
        return ALLOW;
    }
    match maps::pod(call.netns()) {
        Some(pod) => from_pod(call, pod),
        None => from_elsewhere(call),
    }
}

#[inline(always)]
fn from_pod<const V6: bool>(call: &Connect<'_, V6>, pod: &'static mesh_common::divert::PodDivert) -> i32 {
    // The agent's own sockets live in the pod's namespace too: it flags them before it connects.
    if call.facts().is_some_and(|facts| facts.is(SockKind::Outer) || facts.is(SockKind::Delivery)) {
        return ALLOW;
    }
    let (destination, port) = (call.address(), call.port());
    let known = maps::destination(&destination, Some(pod.pod));
    match pod.decide(&destination, port, known, ctx::ancestor_cgroup(pod.cgroup_level)) {
        ConnectVerdict::Divert { address, port } => {
            let facts = SockFacts { kind: SockKind::Diverted as u16, ..call.attest(pod.pod) };
            if !call.set_facts(facts) {
                maps::count(Counter::FactsLost);
                return REFUSE;
            }
            call.set(&address, port);
            maps::count(Counter::ConnectDiverted);
            ALLOW
        }
        ConnectVerdict::Pass => {
            // The socket may have been diverted before and disconnected since (AF_UNSPEC).
            call.forget();
            maps::count(Counter::ConnectPassed);
            ALLOW
        }
        ConnectVerdict::Refuse(reason) => {
            call.report(reason, call.attest(pod.pod));
            REFUSE
        }
    }
}

/// The kubelet probes from outside. A process of an enrolled pod that has left the pod's namespace has no identity there.
#[inline(always)]
fn from_elsewhere<const V6: bool>(call: &Connect<'_, V6>) -> i32 {
    if maps::destination(&call.address(), None) != Destination::Mesh {
        return ALLOW;
    }
    let settings = maps::settings();
    if settings.is_probe(call.netns(), ctx::ancestor_cgroup(settings.prober_level)) {
        if maps::steer(&call.address()).is_some() {
            let facts = SockFacts { kind: SockKind::Probe as u16, ..call.attest(u32::MAX) };
            if !call.set_facts(facts) {
                maps::count(Counter::FactsLost);
            }
        }
        return ALLOW;
    }
    if !ctx::in_pod_cgroup() {
        return ALLOW;
    }
    call.report(Counter::ConnectUnattested, call.attest(u32::MAX));
    REFUSE
}
