//! The addresses of a world. All of it lives in namespaces, so worlds can run side by side with the same addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Family;

/// The wire's interface in either node.
pub const WIRE: &str = "wire0";

/// The ranges that hold every pod.
pub const POD_RANGES: [&str; 2] = ["10.42.0.0/16", "fd42::/48"];

/// The next hop of every pod, on every pod's link.
pub(super) const GATEWAY_V6: &str = "fe80::1";

/// Where an address lies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Range {
    Outside,
    Pods,
}

/// The node's own address, the next hop of its pods.
pub(super) fn gateway_v4(node: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 42, node + 1, 1)
}

/// Address of the `index`th pod of a node.
pub(super) fn pod_address(range: Range, node: u8, index: u8, family: Family) -> IpAddr {
    let (subnet, host) = (node + 1, index + 10);
    match (range, family) {
        (Range::Pods, Family::V4) => Ipv4Addr::new(10, 42, subnet, host).into(),
        (Range::Pods, Family::V6) => Ipv6Addr::new(0xfd42, 0, 0, subnet.into(), 0, 0, 0, host.into()).into(),
        (Range::Outside, Family::V4) => Ipv4Addr::new(198, 18, subnet, host).into(),
        (Range::Outside, Family::V6) => Ipv6Addr::new(0x2001, 0xdb8, 0, subnet.into(), 0, 0, 0, host.into()).into(),
    }
}

/// What is routed to a node over the wire.
pub(super) fn node_ranges(node: u8) -> [String; 4] {
    let subnet = node + 1;
    [
        format!("10.42.{subnet}.0/24"),
        format!("198.18.{subnet}.0/24"),
        format!("fd42:0:0:{subnet:x}::/64"),
        format!("2001:db8:0:{subnet:x}::/64"),
    ]
}

/// The node's address on the wire.
pub(super) fn wire_address(node: u8, family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(172, 31, 0, node + 1).into(),
        Family::V6 => Ipv6Addr::new(0xfd31, 0, 0, 0, 0, 0, 0, u16::from(node) + 1).into(),
    }
}

/// The node's end of a pod's link and the pod's, which need no lookup before the first packet.
pub(super) fn link_addresses(node: u8, index: u8) -> [String; 2] {
    [format!("02:00:00:{node:02x}:{index:02x}:01"), format!("02:00:00:{node:02x}:{index:02x}:02")]
}

/// The hardware address of a node's end of the wire.
pub(super) fn wire_link_address(node: u8) -> String {
    format!("02:00:00:{node:02x}:ff:00")
}
