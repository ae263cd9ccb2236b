//! What the kernel reports: counters by reason, and records of denials in the ring buffer.
//!
//! Only what an operator must see one by one goes through the ring buffer; a record per connect lost events at 20,000
//! connects a second (KERNEL.md §1).
use crate::conn::SockFacts;

/// Index into the per-CPU counters, and a label of `mesh_kernel_events_total`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum Counter {
    /// A `connect()` went to the agent.
    ConnectDiverted,
    /// A `connect()` of an enrolled pod was left alone.
    ConnectPassed,
    /// A `connect()` was refused: the pod has no address of the destination's family.
    ConnectNoAddress,
    /// A `connect()` was refused: the caller's namespace and cgroup don't name the same pod.
    ConnectUnattested,
    /// Facts could not be kept; the connection will be reset by the agent.
    FactsLost,
    /// Facts reached the accepting socket.
    FactsMoved,
    /// An accepted connection on a diverted port had no facts.
    FactsMissing,
    /// An incoming connection went to the agent.
    InboundSteered,
    /// An incoming connection was left to the application.
    InboundPassed,
    /// An incoming connection was refused: it met no listener of the agent, or came to an address that isn't the workload's.
    InboundRefused,
    /// A SYN that went around `connect()` was dropped at the cgroup.
    EgressDropped,
    /// A SYN that went around `connect()` was dropped at the pod's interface.
    VethDropped,
    /// A record found no room in the ring buffer.
    EventLost,
    /// A probe of the kubelet was let through to the application.
    ProbePassed,
}

impl Counter {
    /// Every counter with its label, in the order of the map.
    pub const ALL: [(Self, &'static str); 14] = [
        (Self::ConnectDiverted, "connect_diverted"),
        (Self::ConnectPassed, "connect_passed"),
        (Self::ConnectNoAddress, "connect_no_address"),
        (Self::ConnectUnattested, "connect_unattested"),
        (Self::FactsLost, "facts_lost"),
        (Self::FactsMoved, "facts_moved"),
        (Self::FactsMissing, "facts_missing"),
        (Self::InboundSteered, "inbound_steered"),
        (Self::InboundPassed, "inbound_passed"),
        (Self::InboundRefused, "inbound_refused"),
        (Self::EgressDropped, "egress_dropped"),
        (Self::VethDropped, "veth_dropped"),
        (Self::EventLost, "event_lost"),
        (Self::ProbePassed, "probe_passed"),
    ];
}

/// One denial. `facts` has the destination and who asked, with kind 0.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Event {
    /// Cookie of the namespace that the call was made in.
    pub netns: u64,
    /// The [`Counter`] that counted it.
    pub counter: u32,
    /// Zero.
    pub padding: u32,
    /// Destination, cgroup, process.
    pub facts: SockFacts,
}

const _: () = assert!(size_of::<Event>() == 80 && align_of::<Event>() == 8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_stand_at_their_counters_index() {
        for (index, (counter, _)) in Counter::ALL.into_iter().enumerate() {
            assert_eq!(counter as usize, index);
        }
    }
}
