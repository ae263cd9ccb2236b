//! Names of the maps and programs, once for both sides.
//!
//! The kernel keeps 15 bytes of a name. `mesh-ebpf` must repeat them in attributes, which take literals only; the
//! loader fails when one of these is missing in the object.

/// Netns cookie → [`crate::divert::PodDivert`].
pub const PODS: &str = "mesh_pods";
/// Cgroup id → pod number: finds a pod's process that has left the pod's namespace.
pub const CGROUPS: &str = "mesh_cgroups";
/// Address of a pod of this node → [`crate::steer::PodSteer`].
pub const ADDRESSES: &str = "mesh_addresses";
/// Address ranges that are diverted; see [`crate::divert::Destination`].
pub const DESTINATIONS: &str = "mesh_dests";
/// Address ranges that one pod keeps out of the mesh.
pub const EXCLUDED: &str = "mesh_excluded";
/// The agent's listening sockets, by [`crate::steer::listener_slot`].
pub const LISTENERS: &str = "mesh_listeners";
/// Facts in a socket's own storage: [`crate::conn::SockFacts`].
pub const SOCKETS: &str = "mesh_sockets";
/// Facts on their way from the connecting socket to the accepted one.
pub const PENDING: &str = "mesh_pending";
/// Original destinations for sockets that can't hold facts: see `mesh-ebpf`'s peername.rs.
pub const PEERS: &str = "mesh_peers";
/// Connections that the agent is opening toward other nodes.
pub const FLOWS: &str = "mesh_flows";
/// Probes of the kubelet between SYN and establishment.
pub const PROBES: &str = "mesh_probes";
/// Per-CPU counters by [`crate::event::Counter`].
pub const COUNTERS: &str = "mesh_counters";
/// Ring buffer of [`crate::event::Event`].
pub const EVENTS: &str = "mesh_events";
/// One [`crate::divert::Settings`].
pub const SETTINGS: &str = "mesh_settings";

/// Every map, in reading order.
pub const MAPS: [&str; 14] = [
    PODS,
    CGROUPS,
    ADDRESSES,
    DESTINATIONS,
    EXCLUDED,
    LISTENERS,
    SOCKETS,
    PENDING,
    PEERS,
    FLOWS,
    PROBES,
    COUNTERS,
    EVENTS,
    SETTINGS,
];

/// Diverts IPv4 connects.
pub const CONNECT4: &str = "mesh_connect4";
/// Diverts IPv6 and `::ffff:` connects.
pub const CONNECT6: &str = "mesh_connect6";
/// Shows applications the true IPv4 peer.
pub const GETPEERNAME4: &str = "mesh_peername4";
/// Shows applications the true IPv6 peer.
pub const GETPEERNAME6: &str = "mesh_peername6";
/// Moves facts between the two ends of a local connection.
pub const SOCK_OPS: &str = "mesh_sockops";
/// Stops raw-socket SYNs of enrolled pods.
pub const EGRESS: &str = "mesh_egress";
/// Steers incoming connections to the agent.
pub const SK_LOOKUP: &str = "mesh_sk_lookup";
/// Stops AF_PACKET SYNs, on the host's side of a pod's veth.
pub const VETH: &str = "mesh_veth";

/// The programs at the cgroup root, in the order in which they are attached: what moves facts comes first.
pub const CGROUP_PROGRAMS: [&str; 6] = [SOCK_OPS, GETPEERNAME4, GETPEERNAME6, EGRESS, CONNECT4, CONNECT6];

const fn fit(names: &[&str]) -> bool {
    let mut i = 0;
    while i < names.len() {
        if names[i].len() > 15 {
            return false;
        }
        i += 1;
    }
    true
}

const _: () = assert!(fit(&MAPS) && fit(&CGROUP_PROGRAMS) && fit(&[SK_LOOKUP, VETH]));
