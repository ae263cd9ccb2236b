//! Explains what would become of a connection, and why: the same rules as for a real one, asked step by step.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::SystemTime;

use jiff::Timestamp;

use super::{Fallback, MeshState, Route, route};
use crate::model::spiffe::SpiffeId;
use crate::model::workload::{Workload, WorkloadUid};
use crate::policy::{Cause, Connection, Considered, Decision, EffectiveMode, Verdict};

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
    let route = route(state, destination);
    let port = destination.port();
    // What its owner excludes at either end doesn't meet the agent there.
    let workload = state.at(destination.ip()).filter(|workload| !workload.exclude.inbound_ports.contains(&port));
    let arrival = workload.map(|workload| {
        let peer = matches!(route, Route::Mesh(_)).then_some(&source.identity);
        let connection = Connection { peer, source: source_address, destination, now };
        let policies = state.policies();
        Arrival {
            workload: workload.uid.clone(),
            mode: state.modes().of(&workload.uid, port).clone(),
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

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.is_allowed() { "allowed" } else { "denied" };
        writeln!(f, "{} ({}) to {}: {verdict}", self.source, self.source_address, self.destination)?;
        match &self.route {
            Route::Mesh(expected) => writeln!(f, "  route   mutual TLS as {}, expects {expected}", self.source_id)?,
            Route::Plaintext => writeln!(f, "  route   plaintext")?,
            Route::Unknown(Fallback::Plaintext) => {
                writeln!(f, "  route   nobody's address of the pod ranges: plaintext")?
            }
            Route::Unknown(Fallback::Reset) => writeln!(f, "  route   nobody's address of the pod ranges: reset")?,
        }
        match &self.arrival {
            Some(arrival) => arrival.fmt(f),
            None => writeln!(f, "  policy  not asked: no agent of the mesh is at the other end"),
        }
    }
}

impl fmt::Display for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = self.mode.by.as_ref().map_or("the Mesh".to_owned(), |by| format!("PeerAuthentication {by}"));
        let limited = if self.mode.is_limited { ", which wanted less than the Mesh allows" } else { "" };
        writeln!(f, "  mode    {} at {}, by {by}{limited}", self.mode.mode.name(), self.workload)?;
        match &self.decision.verdict {
            Verdict::Allowed(None) => writeln!(f, "  policy  allowed: no ALLOW policy selects {}", self.workload)?,
            Verdict::Allowed(Some(Cause { policy, rule })) => {
                writeln!(f, "  policy  allowed by {policy}{}", Nth(*rule))?
            }
            Verdict::Denied(Cause { policy, rule: None }) => {
                writeln!(f, "  policy  denied: no rule of {policy}, or of another ALLOW policy beside it, matches")?;
            }
            Verdict::Denied(Cause { policy, rule }) => writeln!(f, "  policy  denied by {policy}{}", Nth(*rule))?,
        }
        if let Some(until) = self.holds_until.and_then(|until| Timestamp::try_from(until).ok()) {
            writeln!(f, "  until   {until:.0}, when a time window begins or ends")?;
        }
        for Considered { policy, action, rule } in &self.considered {
            let matches = if rule.is_some() { "matches" } else { "no match" };
            writeln!(f, "  asked   {:<5} {policy}: {matches}{}", action.name(), Nth(*rule))?;
        }
        Ok(())
    }
}

/// A rule, as a document's author finds it.
struct Nth(Option<usize>);

impl fmt::Display for Nth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |rule| write!(f, ", spec.rules[{rule}]"))
    }
}
