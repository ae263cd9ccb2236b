//! Who has which address, and the switch between the nodes: a bridge in the control plane's namespace.

use std::net::Ipv4Addr;

use anyhow::Result;

use super::NAME;
use crate::netns::Netns;

/// The API server's address on the switch, and the nodes' default gateway.
pub(super) const API_SERVER: Ipv4Addr = Ipv4Addr::new(10, 43, 0, 254);
/// The API server's port.
pub(super) const API_PORT: u16 = 6443;
/// Addresses of Services. `kubernetes.default` has the first.
pub(super) const SERVICES: &str = "10.96.0.0/16";
pub(super) const FIRST_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// Addresses of all pods.
pub(super) const PODS: &str = "10.44.0.0/16";

/// A node's address on the switch.
pub(super) fn node_address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 43, 0, number)
}

/// The addresses of a node's pods.
pub(super) fn pods_of(number: u8) -> String {
    format!("10.44.{number}.0/24")
}

/// The name of a node's namespace.
pub(super) fn name_of(number: u8) -> String {
    format!("{NAME}-{number}")
}

/// Makes the namespaces and the switch between them.
pub(super) fn make(nodes: u8) -> Result<()> {
    let control = Netns::make_lasting(NAME)?;
    control.sysctl(&[("ipv4/ip_forward", "1")])?;
    control.ip(&format!(
        "link set lo up\nlink add switch type bridge\naddr add {API_SERVER}/24 dev switch\nlink set switch up\n"
    ))?;
    for number in 1..=nodes {
        let (name, address, pods) = (name_of(number), node_address(number), pods_of(number));
        let node = Netns::make_lasting(&name)?;
        node.sysctl(&[("ipv4/ip_forward", "1")])?;
        control.ip(&format!(
            "link add node{number} type veth peer name eth0 netns {name}\nlink set node{number} master switch up\n"
        ))?;
        let others = (1..=nodes).filter(|other| *other != number);
        let routes: String =
            others.map(|other| format!("route add {} via {}\n", pods_of(other), node_address(other))).collect();
        node.ip(&format!("link set lo up\naddr add {address}/24 dev eth0\nlink set eth0 up\nroute add default via {API_SERVER}\n{routes}"))?;
        control.ip(&format!("route add {pods} via {address}\n"))?;
    }
    Ok(())
}
