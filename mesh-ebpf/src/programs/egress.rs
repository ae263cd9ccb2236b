//! The two SYN filters: at the socket's cgroup for raw sockets, at the pod's veth for AF_PACKET.
use aya_ebpf::programs::{SkBuffContext, TcContext};
use mesh_common::{
    conn::ConnKey,
    egress::{EgressVerdict, Sender, decide},
    event::Counter,
    packet::{PacketKind, classify},
};

use super::{ctx, ctx::Skb, maps};

const LOOPBACK: u32 = 1;
const ETHERNET_HEADER: usize = 14;

/// cgroup_skb: the packet starts at its IP header, and its socket is known.
pub fn from_socket(context: &SkBuffContext) -> i32 {
    const ALLOW: i32 = 1;
    const DROP: i32 = 0;
    if ctx::interface(context) == LOOPBACK {
        return ALLOW;
    }
    let (kind, key) = classify(&Skb(&context.skb), 0);
    if kind == PacketKind::Other {
        return ALLOW;
    }
    match verdict(&key, ctx::agent_socket(context), Sender::Anybody) {
        EgressVerdict::Pass => ALLOW,
        EgressVerdict::Drop => {
            maps::count(Counter::EgressDropped);
            DROP
        }
    }
}

/// tc: the packet starts at its Ethernet header, and its socket is not known any more.
pub fn from_veth(context: &TcContext) -> i32 {
    const ALLOW: i32 = 0; // TC_ACT_OK
    const DROP: i32 = 2; // TC_ACT_SHOT
    let (kind, key) = classify(&Skb(&context.skb), ETHERNET_HEADER);
    if kind == PacketKind::Other {
        return ALLOW;
    }
    let agent = if maps::is_flow(&key) { Some(Sender::Agent) } else { None };
    match verdict(&key, agent, Sender::Impostor) {
        EgressVerdict::Pass => ALLOW,
        EgressVerdict::Drop => {
            maps::count(Counter::VethDropped);
            DROP
        }
    }
}

#[inline(always)]
fn verdict(key: &ConnKey, agent: Option<Sender<'static>>, stranger: Sender<'static>) -> EgressVerdict {
    let pod = maps::steer(&key.source).and_then(|steer| maps::pod(steer.netns));
    let known = maps::destination(&key.destination, pod.map(|pod| pod.pod));
    let sender = agent.unwrap_or(pod.map_or(stranger, Sender::Pod));
    decide(sender, &key.destination, key.destination_port, known)
}
