//! sk_lookup: hands a pod's incoming connections to the agent's listeners.
use aya_ebpf::programs::SkLookupContext;
use mesh_common::{event::Counter, steer::SteerVerdict};

use super::{ctx, maps};

const PASS: u32 = 1;
const DROP: u32 = 0;

pub fn sk_lookup(context: &SkLookupContext) -> u32 {
    let Some(lookup) = ctx::lookup(context) else { return PASS };
    let Some(pod) = maps::steer(&lookup.local) else { return PASS };
    match pod.decide(lookup.port, lookup.remote == lookup.local, lookup.v6) {
        SteerVerdict::Agent(slot) => match maps::listeners().redirect_sk_lookup(context, slot, 0) {
            Ok(()) => {
                maps::count(Counter::InboundSteered);
                PASS
            }
            // Fail closed: no agent, no connection. The peer gets a reset.
            Err(_) => {
                maps::count(Counter::InboundRefused);
                DROP
            }
        },
        SteerVerdict::Pass => {
            maps::count(Counter::InboundPassed);
            PASS
        }
    }
}
