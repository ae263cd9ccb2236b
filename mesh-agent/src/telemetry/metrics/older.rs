//! Counts the connections of pods that are older than their enrolment.

use std::sync::{Mutex, PoisonError};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::Metrics;

/// The two metrics, and what they can't say.
#[derive(Debug, Default)]
pub(super) struct Older {
    destroyed: Counter,
    left: Gauge,
    failing: Mutex<Option<String>>,
}

impl Older {
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Connections that were reset because they are older than their pod's enrolment";
        registry.register("older_connections_destroyed", help, self.destroyed.clone());
        let help = "Connections that are older than their pod's enrolment and live on, outside of the mesh";
        registry.register("older_connections", help, self.left.clone());
    }
}

/// How many connections are older than their pod's enrolment.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct OlderView {
    /// Reset since the agent runs.
    pub destroyed: u64,
    /// Still there.
    pub left: u64,
    /// Why those could not be reset.
    pub failing: Option<String>,
}

impl Metrics {
    /// Counts connections older than their pod's enrolment: those that were reset now, and all that are left.
    pub fn older_connections(&self, destroyed: usize, left: usize, failing: Option<String>) {
        self.older.destroyed.inc_by(u64::try_from(destroyed).unwrap_or(u64::MAX));
        self.older.left.set(i64::try_from(left).unwrap_or(i64::MAX));
        *self.older.failing.lock().unwrap_or_else(PoisonError::into_inner) = failing;
    }

    /// How many of them there are.
    pub fn older_view(&self) -> OlderView {
        OlderView {
            destroyed: self.older.destroyed.get(),
            left: u64::try_from(self.older.left.get()).unwrap_or_default(),
            failing: self.older.failing.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}
