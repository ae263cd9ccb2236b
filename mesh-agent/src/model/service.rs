//! A service: addresses that no pod has, and which endpoints stand for them.
//!
//! What a source made of its objects (a selector, an EndpointSlice) is settled here: lists of endpoints, port by port.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use super::workload::NodeName;

/// Names a service in the mesh: `<namespace>/<name>`.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ServiceUid(Arc<str>);

impl ServiceUid {
    /// Joins names that are already known to be DNS-1123 names.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self(format!("{namespace}/{name}").into())
    }

    /// `<namespace>/<name>`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServiceUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Service {
    /// Its name.
    pub uid: ServiceUid,
    /// Its addresses; no workload and no other service has one of them.
    pub addresses: Vec<IpAddr>,
    /// Addresses that lead to it from within, too, but only at its ports: at others they are somebody else's.
    pub external: Vec<IpAddr>,
    /// Its ports; none is there twice.
    pub ports: Vec<ServicePort>,
    /// Which endpoint a client gets.
    pub affinity: Affinity,
    /// Whether endpoints on other nodes count, at its own addresses.
    pub traffic: TrafficPolicy,
}

impl Service {
    /// Whether one of its ports has this number.
    pub fn has_port(&self, number: u16) -> bool {
        self.ports.iter().any(|port| port.port == number)
    }
}

/// One port of a service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServicePort {
    /// The port at the service's addresses.
    pub port: u16,
    /// Who stands for it, of all families.
    pub endpoints: Vec<Endpoint>,
}

/// One that may stand for a service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Endpoint {
    /// Where it listens.
    pub address: SocketAddr,
    /// Whether it takes connections.
    pub condition: Condition,
    /// The node that it is on, if that is known.
    pub node: Option<NodeName>,
    /// Whom it is meant for.
    pub meant: Meant,
}

/// Whether an endpoint takes connections.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Condition {
    /// It does.
    #[default]
    Ready,
    /// It still would, but is about to go.
    Leaving,
    /// It does not.
    Unready,
}

/// Whether an endpoint is meant for this node and its zone; `None`: nobody says whom it is meant for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Meant {
    /// For the node.
    pub for_node: Option<bool>,
    /// For the zone.
    pub for_zone: Option<bool>,
}

/// What is known of a cluster's Service addresses, besides which services the mesh has.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ServiceSpace {
    /// The ranges that they are all from; empty: nobody says.
    pub ranges: Vec<IpNet>,
    /// Those of Services that are not the mesh's.
    pub foreign: BTreeSet<IpAddr>,
    /// Those of Services that may be the mesh's: nobody is known yet who stands for them.
    pub unsettled: BTreeSet<IpAddr>,
}

/// Which endpoint a client gets.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Affinity {
    /// Each connection one at random.
    #[default]
    None,
    /// The connections of one address the same one, as long as the endpoints are the same. Nothing is remembered: one that comes
    /// takes its share of the clients from the others.
    ClientIp,
}

impl Affinity {
    /// As documents write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::ClientIp => "ClientIP",
        }
    }
}

/// Whether endpoints on other nodes count.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum TrafficPolicy {
    /// All do.
    #[default]
    Cluster,
    /// Only those on the client's node.
    Local,
}
