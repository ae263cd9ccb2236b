//! Decides whether a packet that leaves a pod may: stops SYNs that went around `connect()` (raw sockets, AF_PACKET).
use crate::{divert::Destination, divert::PodDivert};

/// What becomes of a packet that asks for a connection, or could.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum EgressVerdict {
    /// Dropped: it would reach the mesh without the agent.
    Drop,
    /// Untouched.
    Pass,
}

/// Who sent the packet, as far as its source address says.
#[derive(Clone, Copy, Debug)]
pub enum Sender<'a> {
    /// The agent, from a socket that it has flagged.
    Agent,
    /// An address that no enrolled pod of this node has, seen where anybody may send.
    Anybody,
    /// The agent, from a socket that may only reach the pod's own application.
    Delivery,
    /// As [`Sender::Anybody`], but seen on a pod's own interface: the pod claims an address that isn't its own.
    Impostor,
    /// An enrolled pod.
    Pod(&'a PodDivert),
}

/// Decides one SYN (or what could be one) to `port` of `destination`.
pub fn decide(sender: Sender<'_>, destination: &crate::addr::IpKey, port: u16, known: Destination) -> EgressVerdict {
    let drop = match sender {
        Sender::Agent | Sender::Anybody => false,
        // Loopback is not filtered: here it is on its way out, since the pod's address has gone.
        Sender::Delivery => true,
        Sender::Impostor => known != Destination::Outside,
        Sender::Pod(pod) => pod.captures(destination, port, known),
    };
    if drop { EgressVerdict::Drop } else { EgressVerdict::Pass }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::IpKey;
    use core::net::IpAddr;

    fn check(sender: Sender<'_>, known: Destination) -> EgressVerdict {
        decide(sender, &IpKey::from(IpAddr::from([10, 2, 0, 2])), 80, known)
    }

    #[test]
    fn a_pods_own_syn_never_reaches_the_mesh() {
        let pod = PodDivert::default();
        assert_eq!(check(Sender::Pod(&pod), Destination::Mesh), EgressVerdict::Drop);
        assert_eq!(check(Sender::Impostor, Destination::Mesh), EgressVerdict::Drop);
    }

    #[test]
    fn a_delivery_never_leaves_the_pod() {
        for known in [Destination::Mesh, Destination::Outside, Destination::Excluded] {
            assert_eq!(check(Sender::Delivery, known), EgressVerdict::Drop);
        }
    }

    #[test]
    fn the_agent_the_host_and_what_leaves_the_mesh_pass() {
        let pod = PodDivert::default();
        assert_eq!(check(Sender::Agent, Destination::Mesh), EgressVerdict::Pass);
        assert_eq!(check(Sender::Anybody, Destination::Mesh), EgressVerdict::Pass);
        assert_eq!(check(Sender::Pod(&pod), Destination::Outside), EgressVerdict::Pass);
        assert_eq!(check(Sender::Pod(&pod), Destination::Excluded), EgressVerdict::Pass);
        assert_eq!(check(Sender::Impostor, Destination::Outside), EgressVerdict::Pass);
    }
}
