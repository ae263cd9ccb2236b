//! Decides who may connect to whom, and what an inbound connection must be: Istio's layer-4 semantics, and one bound more.
//!
//! Pure: the time is an argument. A snapshot holds the indexes; a connection asks them with its own facts. Policies that
//! select other workloads cost a connection nothing.

use std::net::{IpAddr, SocketAddr};
use std::time::SystemTime;

use crate::model::policy::PolicyName;
use crate::model::spiffe::SpiffeId;

mod addresses;
mod analysis;
mod compile;
mod index;
mod mode;
mod roster;
mod select;
mod text;

pub use addresses::Addresses;
pub use analysis::{Finding, findings};
pub use index::{Considered, PolicyIndex};
pub use mode::{EffectiveMode, Modes};
pub use roster::Roster;

/// What policies look at in a connection to a workload.
#[derive(Clone, Copy, Debug)]
pub struct Connection<'a> {
    /// Who connects, from its certificate; `None`: plaintext, so nobody knows.
    pub peer: Option<&'a SpiffeId>,
    /// The address that the connection comes from.
    pub source: IpAddr,
    /// The workload's address and port.
    pub destination: SocketAddr,
    /// The time.
    pub now: SystemTime,
}

/// What becomes of a connection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Decision {
    /// Whether it may be.
    pub verdict: Verdict,
    /// The AUDIT policies that it matches; whatever the verdict.
    pub audited: Vec<PolicyName>,
}

/// Whether a connection may be, and why.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// It may. `None`: no ALLOW policy selects the workload.
    Allowed(Option<Cause>),
    /// It may not.
    Denied(Cause),
}

/// What decided.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cause {
    /// The policy; of several ALLOW policies that all don't match, the first by name.
    pub policy: PolicyName,
    /// Which of its rules matched, counted from 0; `None`: that none did.
    pub rule: Option<usize>,
}

impl Decision {
    /// Whether the connection may be.
    pub fn is_allowed(&self) -> bool {
        matches!(self.verdict, Verdict::Allowed(_))
    }
}
