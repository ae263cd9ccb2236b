//! `/v1/explain` and `mesh-agent explain`: what would become of a connection, as JSON, and as text for people.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What is asked.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct ExplainRequest {
    /// Who connects: `namespace/name` or an address.
    pub source: String,
    /// To what: `10.1.2.3:80`, `[fd00::1]:80` or `namespace/name:80`.
    pub destination: String,
}

/// What would become of a connection.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Explained {
    /// Who connects, by name.
    pub source: String,
    /// Its identity.
    pub identity: String,
    /// The address that it connects from.
    pub address: String,
    /// What it connects to.
    pub destination: String,
    /// The service that has this address.
    pub service: Option<ServiceView>,
    /// Whether it gets there, as far as the mesh decides: for a service, to every endpoint.
    pub allowed: bool,
    /// One; for a service, one for each endpoint that could be chosen.
    pub connections: Vec<ExplainedConnection>,
    /// The rule in Rego that is asked as well.
    pub rego: Option<String>,
}

/// A service.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct ServiceView {
    /// `<namespace>/<name>`.
    pub name: String,
    /// `None` or `ClientIP`.
    pub affinity: String,
    /// Why no endpoint can be chosen.
    pub refused: Option<String>,
}

/// A connection to one address.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct ExplainedConnection {
    /// The address.
    pub destination: String,
    /// Whether it gets there.
    pub allowed: bool,
    /// How its own agent takes it there.
    pub route: RouteView,
    /// What happens where it arrives; `None`: no agent of the mesh is there, or it leaves the port alone.
    pub arrival: Option<ArrivalView>,
}

/// How a connection is taken to its destination.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum RouteView {
    /// Mutual TLS.
    Mtls {
        /// The identity that must answer.
        expects: String,
    },
    /// As the application meant it.
    #[default]
    Plaintext,
    /// Nobody has this address of the pod ranges.
    Unknown {
        /// `plaintext` or `reset`.
        then: String,
    },
}

/// What happens where a connection arrives.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct ArrivalView {
    /// The workload.
    pub workload: String,
    /// The mode of the port.
    pub mode: String,
    /// The PeerAuthentication that says so; `None`: the Mesh.
    pub mode_by: Option<String>,
    /// That document wanted less than the Mesh allows.
    pub mode_limited: bool,
    /// Whether policies allow it.
    pub allowed: bool,
    /// The policy that decides; `None`: none had to.
    pub policy: Option<String>,
    /// Its rule that matches.
    pub rule: Option<usize>,
    /// When the decision may change by time alone.
    pub holds_until: Option<String>,
    /// Every policy that selects the workload, in the order in which they are asked.
    pub considered: Vec<ConsideredView>,
}

/// One policy that was asked.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct ConsideredView {
    /// `ALLOW`, `DENY` or `AUDIT`.
    pub action: String,
    /// Its name.
    pub policy: String,
    /// The rule that matches, if one does.
    pub rule: Option<usize>,
}

impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, address, destination, service, allowed, connections, .. } = self;
        if let Some(ServiceView { name, affinity, refused }) = service {
            writeln!(f, "{source} ({address}) to {destination}: {}", verdict(*allowed))?;
            match (refused, connections.len()) {
                (Some(why), _) => writeln!(f, "  service {name}: refused ({why})")?,
                (None, 1) => writeln!(f, "  service {name}: one endpoint")?,
                (None, count) => writeln!(f, "  service {name}: one of {count} endpoints, affinity {affinity}")?,
            }
        }
        for connection in connections {
            writeln!(f, "{source} ({address}) to {}: {}", connection.destination, verdict(connection.allowed))?;
            match &connection.route {
                RouteView::Mtls { expects } => {
                    writeln!(f, "  route   mutual TLS as {}, expects {expects}", self.identity)?;
                }
                RouteView::Plaintext => writeln!(f, "  route   plaintext")?,
                RouteView::Unknown { then } => writeln!(f, "  route   nobody's address of the pod ranges: {then}")?,
            }
            match &connection.arrival {
                Some(arrival) => arrival.fmt(f)?,
                None => writeln!(f, "  policy  not asked: no agent of the mesh is at the other end")?,
            }
        }
        self.rego.as_ref().map_or(Ok(()), |rule| writeln!(f, "  then    asks {rule} in Rego"))
    }
}

impl fmt::Display for ArrivalView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { workload, mode, mode_by, mode_limited, allowed, policy, rule, holds_until, considered } = self;
        let by = mode_by.as_ref().map_or("the Mesh".to_owned(), |by| format!("PeerAuthentication {by}"));
        let limited = if *mode_limited { ", which wanted less than the Mesh allows" } else { "" };
        writeln!(f, "  mode    {mode} at {workload}, by {by}{limited}")?;
        match (policy, rule) {
            (None, _) => writeln!(f, "  policy  allowed: no ALLOW policy selects {workload}")?,
            (Some(policy), _) if *allowed => writeln!(f, "  policy  allowed by {policy}{}", Nth(*rule))?,
            (Some(policy), None) => {
                writeln!(f, "  policy  denied: no rule of {policy}, or of another ALLOW policy beside it, matches")?;
            }
            (Some(policy), rule) => writeln!(f, "  policy  denied by {policy}{}", Nth(*rule))?,
        }
        if let Some(until) = holds_until {
            writeln!(f, "  until   {until}, when a time window begins or ends")?;
        }
        for ConsideredView { action, policy, rule } in considered {
            let matches = if rule.is_some() { "matches" } else { "no match" };
            writeln!(f, "  asked   {action:<5} {policy}: {matches}{}", Nth(*rule))?;
        }
        Ok(())
    }
}

fn verdict(allowed: bool) -> &'static str {
    if allowed { "allowed" } else { "denied" }
}

/// A rule, as a document's author finds it.
struct Nth(Option<usize>);

impl fmt::Display for Nth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |rule| write!(f, ", spec.rules[{rule}]"))
    }
}
