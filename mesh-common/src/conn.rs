//! What the kernel knows of a connection: its key, and the facts in a socket's storage.
//!
//! Facts live in socket storage because it dies with the socket: a hash with a close callback lost two of three entries
//! under resets (KERNEL.md §1).
use crate::addr::IpKey;

/// A local connection while it is being set up, or (with netns 0) one that leaves the node.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[repr(C)]
pub struct ConnKey {
    /// Cookie of the network namespace; 0 for a flow on the wire.
    pub netns: u64,
    /// Address of the end that connects.
    pub source: IpKey,
    /// Address of the end that accepts.
    pub destination: IpKey,
    /// Host order.
    pub source_port: u16,
    /// Host order.
    pub destination_port: u16,
    /// Zero: the kernel compares every byte of a key.
    pub padding: u32,
}

impl ConnKey {
    /// No connection.
    pub const UNSET: Self = Self {
        netns: 0,
        source: IpKey::from_words([0; 4]),
        destination: IpKey::from_words([0; 4]),
        source_port: 0,
        destination_port: 0,
        padding: 0,
    };
}

/// What a socket is to the mesh.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u16)]
pub enum SockKind {
    /// The application's socket whose `connect()` was diverted; the address is the original destination.
    Diverted = 1,
    /// The agent's end of a diverted connection; the address is the original destination.
    Attested = 2,
    /// The agent's socket toward another node; no address.
    Outer = 3,
    /// The agent's socket toward an application; the address is the real client.
    Delivery = 4,
    /// The application's end of a delivery; the address is the real client.
    Delivered = 5,
    /// The kubelet's socket toward an application that it probes; no address.
    Probe = 6,
}

/// The facts in a socket's storage. New fields go to the end: live sockets keep what an older agent wrote.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct SockFacts {
    /// By [`SockKind`]: original destination or real client.
    pub address: IpKey,
    /// Cookie of the application's socket; 0 if the agent wrote the facts.
    pub cookie: u64,
    /// Cgroup of the process that connected.
    pub cgroup: u64,
    /// Port that goes with the address, host order.
    pub port: u16,
    /// A [`SockKind`]; 0 if unset.
    pub kind: u16,
    /// Number of the pod that the socket belongs to.
    pub pod: u32,
    /// Process (thread group) that connected; for logs only.
    pub tgid: u32,
    /// User that connected; for logs only.
    pub uid: u32,
    /// Command that connected; for logs only.
    pub comm: [u8; 16],
}

impl SockFacts {
    /// Whether these are facts of such a socket.
    pub const fn is(&self, kind: SockKind) -> bool {
        self.kind == kind as u16
    }

    /// What the accepting end inherits from the connecting one; `None` if these facts stay where they are.
    pub const fn inherited(&self) -> Option<SockKind> {
        if self.is(SockKind::Diverted) {
            Some(SockKind::Attested)
        } else if self.is(SockKind::Delivery) {
            Some(SockKind::Delivered)
        } else {
            None
        }
    }

    /// Whether getpeername shows this address instead of the real one. Never on the agent's own sockets.
    pub const fn replaces_peer(&self) -> bool {
        self.is(SockKind::Diverted) || self.is(SockKind::Delivered)
    }
}

const _: () = assert!(size_of::<ConnKey>() == 48 && align_of::<ConnKey>() == 8);
const _: () = assert!(size_of::<SockFacts>() == 64 && align_of::<SockFacts>() == 8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_application_sockets_show_another_peer() {
        let shows = |kind: SockKind| SockFacts { kind: kind as u16, ..SockFacts::default() }.replaces_peer();
        assert!(shows(SockKind::Diverted) && shows(SockKind::Delivered));
        assert!(!shows(SockKind::Attested) && !shows(SockKind::Outer) && !shows(SockKind::Delivery));
    }

    #[test]
    fn facts_move_to_the_accepting_end_once() {
        let next = |kind: SockKind| SockFacts { kind: kind as u16, ..SockFacts::default() }.inherited();
        assert_eq!(next(SockKind::Diverted), Some(SockKind::Attested));
        assert_eq!(next(SockKind::Delivery), Some(SockKind::Delivered));
        assert_eq!((next(SockKind::Attested), next(SockKind::Outer), next(SockKind::Delivered)), (None, None, None));
        assert_eq!(SockFacts::default().inherited(), None);
    }
}
