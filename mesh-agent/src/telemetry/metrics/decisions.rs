//! Counts what policies decided, by their names.
//!
//! Names come from documents, which anybody who may edit a namespace can write: so their number is bounded, and a name goes
//! with its document.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::Metrics;

/// The most policies with series of their own.
pub(super) const MAX_POLICIES: usize = 256;

/// The policies beyond, together. No document has such a name.
const OTHER: &str = "(other)";

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, Ord, PartialEq, PartialOrd)]
struct DecisionLabels {
    action: &'static str,
    policy: String,
}

/// The metric, and which series it has.
#[derive(Debug, Default)]
pub(super) struct Decisions {
    counters: Family<DecisionLabels, Counter>,
    known: Mutex<BTreeSet<DecisionLabels>>,
}

impl Decisions {
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Decisions about inbound connections, by what became of them and the policy that decided";
        registry.register("policy_decisions", help, self.counters.clone());
    }
}

impl Metrics {
    /// Counts a decision: `allow`, `deny` or `audit`; `policy`: who decided, if anybody had to.
    pub fn decided(&self, action: &'static str, policy: Option<&str>) {
        let mut labels = DecisionLabels { action, policy: policy.unwrap_or_default().to_owned() };
        let mut known = self.decisions.known.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = policy.is_some() && !known.contains(&labels);
        if is_new && known.len() < MAX_POLICIES {
            known.insert(labels.clone());
        } else if is_new {
            OTHER.clone_into(&mut labels.policy);
        }
        drop(known);
        self.decisions.counters.get_or_create(&labels).inc();
    }

    /// Forgets the series of policies that are not `in_force` any more.
    pub fn keep_policies(&self, in_force: impl Fn(&str) -> bool) {
        let mut known = self.decisions.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|labels| {
            let stays = in_force(&labels.policy) || labels.policy.starts_with('(');
            if !stays {
                self.decisions.counters.remove(labels);
            }
            stays
        });
    }
}
