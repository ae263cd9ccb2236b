//! Decides which socket takes an incoming connection of a pod: the application's, one of the agent's, or none.
//!
//! The mode is not asked here: in every mode the agent's inbound listener takes the connection, and without a listener
//! the kernel refuses it. So a dead agent opens nothing.
use crate::{PortList, addr::IpKey, divert::is_divert_port, lists};

/// A pod's entry in the `ADDRESSES` map.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct PodSteer {
    /// Cookie of the pod's network namespace.
    pub netns: u64,
    /// Number of the pod.
    pub pod: u32,
    /// Local ports that the pod's owner keeps out of the mesh.
    pub excluded_ports: PortList,
    /// Zero.
    pub padding: u32,
}

/// Who takes an incoming connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SteerVerdict {
    /// The agent's listener in this slot; if it is empty, nobody.
    Agent(u32),
    /// Whoever the application has listening.
    Pass,
    /// Nobody: the peer gets a reset.
    Refuse,
}

/// What one of the agent's listeners is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Direction {
    /// Connections from elsewhere to the pod.
    Inbound = 0,
    /// The pod's own diverted connections.
    Outbound = 1,
}

/// Listeners of one pod: two directions, two families.
pub const LISTENERS_PER_POD: u32 = 4;

/// Slot of a pod's listener in the `LISTENERS` map.
pub const fn listener_slot(pod: u32, direction: Direction, v6: bool) -> u32 {
    pod * LISTENERS_PER_POD + direction as u32 * 2 + v6 as u32
}

impl PodSteer {
    /// Decides one connection to `port` of the pod; `from_self`: its source is the pod's own address.
    pub fn decide(&self, port: u16, from_self: bool, v6: bool) -> SteerVerdict {
        if from_self {
            // Also the agent's delivery to the application.
            return match is_divert_port(port) {
                true => SteerVerdict::Agent(listener_slot(self.pod, Direction::Outbound, v6)),
                false => SteerVerdict::Pass,
            };
        }
        if lists(&self.excluded_ports, port) {
            return SteerVerdict::Pass;
        }
        SteerVerdict::Agent(listener_slot(self.pod, Direction::Inbound, v6))
    }
}

/// Decides one connection to an address of an enrolled pod that its workload doesn't list, such as a link-local one.
pub fn decide_unlisted(local: &IpKey, remote: &IpKey, strict: bool) -> SteerVerdict {
    let stays_in_pod = local.is_loopback() || local == remote;
    // Without its pod's number no listener can be named; the agent could not tell whose it is either.
    if stays_in_pod || !strict { SteerVerdict::Pass } else { SteerVerdict::Refuse }
}

const _: () = assert!(size_of::<PodSteer>() == 48 && align_of::<PodSteer>() == 8);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::divert::DIVERT_FIRST_PORT;

    fn pod() -> PodSteer {
        PodSteer { pod: 3, excluded_ports: [9090, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], ..PodSteer::default() }
    }

    #[test]
    fn what_comes_from_elsewhere_meets_the_agent_on_every_port() {
        for port in [1, 80, DIVERT_FIRST_PORT, 65535] {
            assert_eq!(pod().decide(port, false, false), SteerVerdict::Agent(12), "{port}");
            assert_eq!(pod().decide(port, false, true), SteerVerdict::Agent(13), "{port}");
        }
    }

    #[test]
    fn the_pods_own_connections_meet_the_agent_on_diverted_ports_only() {
        assert_eq!(pod().decide(DIVERT_FIRST_PORT + 5, true, false), SteerVerdict::Agent(14));
        assert_eq!(pod().decide(DIVERT_FIRST_PORT + 5, true, true), SteerVerdict::Agent(15));
        assert_eq!(pod().decide(80, true, false), SteerVerdict::Pass);
    }

    #[test]
    fn an_address_that_the_workload_does_not_list_is_closed_in_strict_mode() {
        let key = |text: &str| IpKey::from(text.parse::<core::net::IpAddr>().unwrap());
        let decide = |local: &str, remote: &str, strict| decide_unlisted(&key(local), &key(remote), strict);
        assert_eq!(decide("fe80::2", "fe80::1", true), SteerVerdict::Refuse);
        assert_eq!(decide("10.9.9.9", "10.1.0.2", true), SteerVerdict::Refuse);
        assert_eq!(decide("10.9.9.9", "10.1.0.2", false), SteerVerdict::Pass);
        assert_eq!(decide("127.0.0.1", "127.0.0.1", true), SteerVerdict::Pass);
        assert_eq!(decide("::1", "::1", true), SteerVerdict::Pass);
        assert_eq!(decide("fe80::2", "fe80::2", true), SteerVerdict::Pass);
    }

    #[test]
    fn an_excluded_port_is_the_applications() {
        assert_eq!(pod().decide(9090, false, false), SteerVerdict::Pass);
    }
}
