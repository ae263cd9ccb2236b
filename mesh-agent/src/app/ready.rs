//! When an agent is ready: what a rolling update of all agents waits for.
//!
//! It is said once. A pod that can't be served must not stop the others' agents from being replaced: `mesh_workloads_pending` and
//! the pod's condition tell of it. But an agent that has no issuer, or whose plugin is in no chain, serves nobody: then the old agents
//! of other nodes should stay.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

use crate::identity::SvidManager;
use crate::model::cluster::UNINSTALL_LABEL;
use crate::pod::Readiness;
use crate::proxy::Drain;

/// What an agent waits for before it is ready.
#[derive(Clone)]
pub(super) struct Gate {
    pub(super) workloads: Arc<Readiness>,
    pub(super) svids: Arc<SvidManager>,
    /// Whether the CNI plugin is where it should be, or none should be anywhere.
    pub(super) plugin: watch::Receiver<bool>,
    /// Whether the mesh shall leave the cluster.
    pub(super) uninstalled: watch::Receiver<bool>,
    pub(super) drain: Drain,
    /// Whether it has been ready.
    pub(super) passed: Arc<AtomicBool>,
}

impl Gate {
    /// What keeps the agent from being ready; nothing if it is.
    pub(super) fn pending(&self) -> Vec<String> {
        if self.drain.has_begun() {
            return vec!["draining".to_owned()];
        }
        if self.passed.load(Ordering::Relaxed) {
            return Vec::new();
        }
        if *self.uninstalled.borrow() {
            return vec![format!("the mesh shall leave the cluster: its namespace has the label {UNINSTALL_LABEL}")];
        }
        let untried = self.workloads.untried();
        let pending = waits(untried, self.svids.view().issuer_answered, *self.plugin.borrow());
        self.passed.store(pending.is_empty(), Ordering::Relaxed);
        pending
    }
}

fn waits(untried: Vec<String>, issuer_answered: bool, plugin_in_place: bool) -> Vec<String> {
    let mut waits: Vec<_> = untried.into_iter().map(|uid| format!("{uid}: not tried yet")).collect();
    if !issuer_answered {
        waits.push("the issuer has not answered yet".to_owned());
    }
    if !plugin_in_place {
        waits.push("the CNI plugin is not in the node's network configuration".to_owned());
    }
    waits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_workload_the_issuer_and_the_plugin_are_waited_for() {
        assert_eq!(waits(Vec::new(), true, true), Vec::<String>::new());
        let all = waits(vec!["shop/web".to_owned()], false, false);
        assert_eq!(all.len(), 3);
        assert!(all[0].contains("shop/web") && all[1].contains("issuer") && all[2].contains("CNI"), "{all:?}");
    }
}
