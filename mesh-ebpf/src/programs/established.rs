//! sock_ops: moves facts from the connecting socket to the accepted one, before accept() returns.
use mesh_common::{
    conn::{SockFacts, SockKind},
    divert::is_divert_port,
    event::Counter,
};

use super::{
    ctx::{Callback, Operation},
    maps,
};

pub fn sock_ops(call: &Callback<'_>) -> u32 {
    match call.operation() {
        Operation::Accepted => accepted(call),
        Operation::Connect => connect(call),
        Operation::Other => {}
        Operation::State => {
            // Established or closed: no SYN of this connection has business on the wire any more.
            let flow = call.outgoing(false);
            match call.facts() {
                Some(facts) if facts.is(SockKind::Probe) => maps::close_probe(&flow),
                _ => maps::close_flow(&flow),
            }
            call.watch(false);
        }
    }
    1
}

#[inline(always)]
fn connect(call: &Callback<'_>) {
    let Some(facts) = call.facts() else { return };
    if facts.is(SockKind::Outer) {
        if !maps::open_flow(&call.outgoing(false)) {
            maps::count(Counter::FactsLost);
        }
        call.watch(true);
        return;
    }
    if facts.is(SockKind::Probe) {
        if !maps::open_probe(&call.outgoing(false)) {
            maps::count(Counter::FactsLost);
        }
        call.watch(true);
        return;
    }
    let Some(kind) = facts.inherited() else { return };
    let (key, facts) = (call.outgoing(true), SockFacts { kind: kind as u16, ..*facts });
    if facts.is(SockKind::Attested) {
        maps::remember_peer(&key, &facts);
    }
    if !maps::leave_facts(&key, &facts) {
        maps::count(Counter::FactsLost);
    }
}

#[inline(always)]
fn accepted(call: &Callback<'_>) {
    let key = call.incoming();
    let Some(facts) = maps::take_facts(&key) else {
        if is_divert_port(key.destination_port) && key.source == key.destination {
            maps::count(Counter::FactsMissing);
        }
        return;
    };
    maps::count(if call.set_facts(facts) { Counter::FactsMoved } else { Counter::FactsLost });
}
