//! Explains what would become of a connection, and why: the same rules as for a real one, asked step by step.

use std::net::{IpAddr, SocketAddr};
use std::time::SystemTime;

use super::{Fallback, MeshState, Route, route};
use crate::model::spiffe::SpiffeId;
use crate::model::workload::{Workload, WorkloadUid};
use crate::policy::{Connection, Considered, Decision, EffectiveMode};

/// What would become of a connection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Explanation {
    /// Who connects.
    pub source: WorkloadUid,
    /// Its identity.
    pub source_id: SpiffeId,
    /// The address that it connects from.
    pub source_address: IpAddr,
    /// What it connects to.
    pub destination: SocketAddr,
    /// How its own agent takes it there.
    pub route: Route,
    /// What happens where it arrives; `None`: that is no workload of the mesh, or the mesh leaves the port alone.
    pub arrival: Option<Arrival>,
}

/// What happens where a connection arrives.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Arrival {
    /// The workload.
    pub workload: WorkloadUid,
    /// What the connection must be.
    pub mode: EffectiveMode,
    /// Whether it may be.
    pub decision: Decision,
    /// Every policy that selects the workload, in the order in which they decide.
    pub considered: Vec<Considered>,
    /// When the decision may change by time alone.
    pub holds_until: Option<SystemTime>,
}

/// Explains a connection of `source` to `destination` at `now`; `None`: `source` has no address of that family.
pub fn explain(state: &MeshState, source: &Workload, destination: SocketAddr, now: SystemTime) -> Option<Explanation> {
    let destination = SocketAddr::new(destination.ip().to_canonical(), destination.port());
    let of_family = |address: &&IpAddr| address.is_ipv6() == destination.is_ipv6();
    let source_address = *source.addresses.iter().find(of_family)?;
    let route = route(state, source, destination);
    let port = destination.port();
    // What its owner excludes at either end doesn't meet the agent there.
    let workload = state
        .at(destination.ip())
        .filter(|workload| workload.uid != source.uid && !workload.exclude.inbound_ports.contains(&port));
    let arrival = workload.map(|workload| {
        let peer = matches!(route, Route::Mesh(_)).then_some(&source.identity);
        let connection = Connection { peer, source: source_address, destination, now };
        let policies = state.policies();
        Arrival {
            workload: workload.uid.clone(),
            mode: state.modes().of(&workload.uid, port),
            decision: policies.evaluate(&workload.uid, &connection),
            considered: policies.considered(&workload.uid, &connection),
            holds_until: policies.holds_until(&workload.uid, now),
        }
    });
    let (uid, id) = (source.uid.clone(), source.identity.clone());
    Some(Explanation { source: uid, source_id: id, source_address, destination, route, arrival })
}

impl Explanation {
    /// Whether the connection would reach its destination, as far as the mesh decides.
    pub fn is_allowed(&self) -> bool {
        !matches!(self.route, Route::Unknown(Fallback::Reset))
            && self.arrival.as_ref().is_none_or(|arrival| arrival.decision.is_allowed())
    }
}
