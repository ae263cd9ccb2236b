//! Decides what becomes of a pod's `connect()`: it passes, goes to the agent, or is refused.
//!
//! The rule lives here and not in `mesh-ebpf` so that `cargo test` runs the code the kernel runs: no kernel can dry-run
//! a `cgroup/connect4` program. Ports are in host order; `ctx.rs` converts.
use crate::{PortList, addr::IpKey, event::Counter, lists};

/// First of the ports that connects are diverted to, on the pod's own address. Below every usual ephemeral range, so
/// that no outgoing connection of the pod has one of them as its source.
pub const DIVERT_FIRST_PORT: u16 = 15_872;

/// Diverted ports. Destinations are spread over them, or two connections from one source port to different
/// destinations would meet in one local address pair.
pub const DIVERT_PORTS: u16 = 64;

/// The value of a range in `DESTINATIONS` that is diverted.
pub const DIVERTED: u32 = 1;
/// The value of one that is not, though a wider range that has it is.
pub const EXEMPT: u32 = 2;

/// Deepest cgroup level that pods are looked for; the cgroup2 mount is level 0.
pub const MAX_CGROUP_LEVEL: u32 = 16;

/// Node-wide values of the kernel programs.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Settings {
    /// Bit n is set if some enrolled pod's cgroup is at level n.
    pub pod_levels: u32,
    /// 1 if the mesh is strict: then nothing may reach a pod beside the agent.
    pub strict: u32,
    /// Id of the cgroup whose processes probe pods (the kubelet's); 0: nobody does.
    pub prober: u64,
    /// Cookie of the network namespace that they probe from: the node's.
    pub prober_netns: u64,
    /// Level of that cgroup.
    pub prober_level: u32,
    /// Zero.
    pub padding: u32,
}

impl Settings {
    /// Whether a `connect()` in this namespace is a probe: it reaches the application in every mode, as without a mesh.
    /// `cgroup` is the caller's ancestor at [`Self::prober_level`]. The caller attests it; an address never does, since
    /// what comes through a NodePort has the node's too.
    pub const fn is_probe(&self, netns: u64, cgroup: u64) -> bool {
        self.prober != 0 && self.prober == cgroup && self.prober_netns == netns
    }
}

/// A pod's entry in the `PODS` map.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct PodDivert {
    /// Id of the pod's cgroup; 0 if the workload names none, then the namespace alone attests.
    pub cgroup: u64,
    /// The pod's IPv4 address; `::` if it has none.
    pub address4: IpKey,
    /// The pod's IPv6 address; `::` if it has none.
    pub address6: IpKey,
    /// Number of the pod: its listeners and exclusions go by it.
    pub pod: u32,
    /// Level of the pod's cgroup below the cgroup2 mount.
    pub cgroup_level: u32,
    /// Destination ports that the pod's owner keeps out of the mesh.
    pub excluded_ports: PortList,
}

/// What the maps know of a destination, for the pod that connects.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Destination {
    /// In a range that the pod's owner keeps out of the mesh.
    Excluded,
    /// A mesh workload, or an address in the ranges of pods or services.
    Mesh,
    /// Anywhere else.
    Outside,
}

/// What becomes of one `connect()`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ConnectVerdict {
    /// To the agent, at this address and port of the pod.
    Divert {
        /// The pod's own address in the destination's family.
        address: IpKey,
        /// Host order.
        port: u16,
    },
    /// Untouched.
    Pass,
    /// The application gets EPERM; the counter says why.
    Refuse(Counter),
}

impl PodDivert {
    /// Decides one `connect()` to `destination`; `cgroup` is the caller's ancestor at [`Self::cgroup_level`].
    pub fn decide(&self, destination: &IpKey, port: u16, known: Destination, cgroup: u64) -> ConnectVerdict {
        if !self.captures(destination, port, known) {
            return ConnectVerdict::Pass;
        }
        // A namespace and a cgroup that disagree attest nobody.
        if self.cgroup != 0 && self.cgroup != cgroup {
            return ConnectVerdict::Refuse(Counter::ConnectUnattested);
        }
        let address = if destination.is_v4() { self.address4 } else { self.address6 };
        if address.is_unspecified() {
            return ConnectVerdict::Refuse(Counter::ConnectNoAddress);
        }
        ConnectVerdict::Divert { address, port: DIVERT_FIRST_PORT + spread(destination, port) }
    }

    /// Whether traffic to `destination` belongs into the mesh. Says the same for a `connect()` and for a bare SYN.
    pub fn captures(&self, destination: &IpKey, port: u16, known: Destination) -> bool {
        // Containers of one pod talk among themselves, and the agent delivers to the pod's own address.
        let stays_in_pod = destination.is_unspecified()
            || destination.is_loopback()
            || destination.is_link_local()
            || *destination == self.address4
            || *destination == self.address6;
        !stays_in_pod && known == Destination::Mesh && !lists(&self.excluded_ports, port)
    }
}

/// Whether this is one of the diverted ports.
pub const fn is_divert_port(port: u16) -> bool {
    port >= DIVERT_FIRST_PORT && port < DIVERT_FIRST_PORT + DIVERT_PORTS
}

/// Multiplicative hash (Knuth, TAOCP 6.4) to `0..DIVERT_PORTS`: no loop, for the verifier.
fn spread(destination: &IpKey, port: u16) -> u16 {
    let [a, b, c, d] = destination.words();
    let mixed = (a ^ b ^ c ^ u32::from_be(d) ^ u32::from(port)).wrapping_mul(0x9E37_79B1);
    // Six bits are left.
    (mixed >> 26) as u16
}

// A layout change must fail the build of both sides, not a running node.
const _: () = assert!(size_of::<PodDivert>() == 80 && align_of::<PodDivert>() == 8);
const _: () = assert!(size_of::<Settings>() == 32 && align_of::<Settings>() == 8);
const _: () = assert!(DIVERT_PORTS == 1 << (32 - 26));

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::IpAddr;

    const NO_ADDRESS: ConnectVerdict = ConnectVerdict::Refuse(Counter::ConnectNoAddress);
    const UNATTESTED: ConnectVerdict = ConnectVerdict::Refuse(Counter::ConnectUnattested);

    fn key(address: &str) -> IpKey {
        address.parse::<IpAddr>().unwrap().into()
    }

    fn pod() -> PodDivert {
        PodDivert {
            cgroup: 7,
            address4: key("10.1.2.9"),
            address6: key("fd77::9"),
            excluded_ports: [22, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            ..PodDivert::default()
        }
    }

    fn decide(destination: &str, port: u16, known: Destination, cgroup: u64) -> ConnectVerdict {
        pod().decide(&key(destination), port, known, cgroup)
    }

    #[test]
    fn a_mesh_destination_is_diverted_to_the_pods_own_address_of_its_family() {
        for (destination, own) in [("10.1.2.3", "10.1.2.9"), ("::ffff:10.1.2.3", "10.1.2.9"), ("fd77::3", "fd77::9")] {
            let ConnectVerdict::Divert { address, port } = decide(destination, 5432, Destination::Mesh, 7) else {
                panic!("{destination} is not diverted")
            };
            assert_eq!(address, key(own));
            assert!(is_divert_port(port));
        }
    }

    #[test]
    fn what_stays_in_the_pod_or_leaves_the_mesh_passes() {
        for destination in ["127.0.0.1", "::1", "0.0.0.0", "::", "10.1.2.9", "fd77::9", "169.254.1.1", "fe80::1"] {
            assert_eq!(decide(destination, 80, Destination::Mesh, 7), ConnectVerdict::Pass, "{destination}");
        }
        assert_eq!(decide("10.1.2.3", 80, Destination::Outside, 7), ConnectVerdict::Pass);
        assert_eq!(decide("10.1.2.3", 80, Destination::Excluded, 7), ConnectVerdict::Pass);
        assert_eq!(decide("10.1.2.3", 22, Destination::Mesh, 7), ConnectVerdict::Pass);
    }

    #[test]
    fn a_caller_outside_the_pods_cgroup_is_refused_but_may_leave_the_mesh() {
        assert_eq!(decide("10.1.2.3", 80, Destination::Mesh, 8), UNATTESTED);
        assert_eq!(decide("10.1.2.3", 80, Destination::Outside, 8), ConnectVerdict::Pass);
        assert_eq!(decide("127.0.0.1", 80, Destination::Mesh, 8), ConnectVerdict::Pass);
    }

    #[test]
    fn a_pod_without_an_address_of_the_family_is_refused_rather_than_leaked() {
        let v4_only = PodDivert { address6: IpKey::default(), ..pod() };
        assert_eq!(v4_only.decide(&key("fd77::3"), 80, Destination::Mesh, 7), NO_ADDRESS);
    }

    #[test]
    fn only_the_kubelet_in_the_nodes_namespace_probes() {
        let settings = Settings { prober: 5, prober_netns: 1, ..Settings::default() };
        assert!(settings.is_probe(1, 5));
        assert!(!settings.is_probe(1, 6) && !settings.is_probe(2, 5));
        assert!(!Settings::default().is_probe(0, 0));
    }

    #[test]
    fn destinations_spread_over_the_ports() {
        let mut seen = std::collections::BTreeSet::new();
        for last in 0..=255_u8 {
            let address = IpKey::from(IpAddr::from([10, 1, 3, last]));
            if let ConnectVerdict::Divert { port, .. } = pod().decide(&address, 80, Destination::Mesh, 7) {
                seen.insert(port);
            }
        }
        assert!(seen.len() > 48, "{} ports of {DIVERT_PORTS}", seen.len());
    }
}
