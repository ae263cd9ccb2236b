//! sk_lookup: hands a pod's incoming connections to the agent's listeners.
use aya_ebpf::programs::SkLookupContext;
use mesh_common::{
    event::Counter,
    steer::{SteerVerdict, decide_unlisted},
};

use super::{ctx, maps};

const PASS: u32 = 1;
const DROP: u32 = 0;

pub fn sk_lookup(context: &SkLookupContext) -> u32 {
    let Some(lookup) = ctx::lookup(context) else { return PASS };
    // The program runs in the namespaces of enrolled pods only.
    if maps::is_probe(&lookup.flow()) {
        maps::count(Counter::ProbePassed);
        return PASS;
    }
    let verdict = match maps::steer(&lookup.local) {
        Some(pod) => pod.decide(lookup.port, lookup.remote == lookup.local, lookup.v6),
        None => decide_unlisted(&lookup.local, &lookup.remote, maps::is_strict()),
    };
    match verdict {
        SteerVerdict::Agent(slot) => match maps::listeners().redirect_sk_lookup(context, slot, 0) {
            Ok(()) => {
                maps::count(Counter::InboundSteered);
                PASS
            }
            // Fail closed: no agent, no connection. The peer gets a reset.
            Err(_) => refuse(),
        },
        SteerVerdict::Pass => {
            maps::count(Counter::InboundPassed);
            PASS
        }
        SteerVerdict::Refuse => refuse(),
    }
}

#[inline(always)]
fn refuse() -> u32 {
    maps::count(Counter::InboundRefused);
    DROP
}
