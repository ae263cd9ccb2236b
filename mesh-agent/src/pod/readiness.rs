//! How far each of the node's workloads is.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::model::workload::{PodUid, Workload, WorkloadUid};
use crate::telemetry::Metrics;

/// How far one workload is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Stage {
    /// Nothing holds it: it talks plaintext. The reason.
    Waiting(String),
    /// The kernel hands its connections to the agent, where they wait; none leaves as plaintext. The reason.
    Held(String),
    /// Its connections are carried.
    Served,
}

impl Stage {
    /// Why it isn't served.
    pub fn why_not(&self) -> Option<&str> {
        match self {
            Self::Waiting(why) | Self::Held(why) => Some(why),
            Self::Served => None,
        }
    }
}

/// Which workloads are in the mesh, and why the others aren't.
#[derive(Debug)]
pub struct Readiness {
    all: Mutex<BTreeMap<WorkloadUid, (Option<PodUid>, Stage)>>,
    changes: watch::Sender<()>,
}

impl Readiness {
    /// All of these wait. Complete from the start: who asks before the first enrolment must not hear "ready".
    pub fn waiting<'a>(workloads: impl Iterator<Item = &'a Arc<Workload>>) -> Self {
        let not_yet = |workload: &Arc<Workload>| (workload.pod.clone(), Stage::Waiting("not enrolled yet".to_owned()));
        let all = workloads.map(|workload| (workload.uid.clone(), not_yet(workload))).collect();
        Self { all: Mutex::new(all), changes: watch::Sender::new(()) }
    }

    /// Each workload with its pod and how far it is.
    pub fn stages(&self) -> Vec<(WorkloadUid, Option<PodUid>, Stage)> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|(uid, (pod, stage))| (uid.clone(), pod.clone(), stage.clone())).collect()
    }

    /// The workloads that aren't served, each with the reason.
    pub fn pending(&self) -> Vec<(WorkloadUid, String)> {
        let pending = |(uid, _, stage): (WorkloadUid, _, Stage)| Some((uid, stage.why_not()?.to_owned()));
        self.stages().into_iter().filter_map(pending).collect()
    }

    /// Sees every change from now on.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Forgets the others.
    pub(super) fn keep(&self, wanted: impl Fn(&WorkloadUid) -> bool, metrics: &Metrics) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let before = all.len();
        all.retain(|uid, _| wanted(uid));
        count(&all, metrics);
        if all.len() != before {
            self.changes.send_replace(());
        }
    }

    /// Returns whether this is news.
    pub(super) fn set(&self, workload: &Workload, stage: Stage, metrics: &Metrics) -> bool {
        self.set_pod(&workload.uid, workload.pod.clone(), stage, metrics)
    }

    /// The same of a pod that is no workload.
    pub(super) fn set_pod(&self, uid: &WorkloadUid, pod: Option<PodUid>, stage: Stage, metrics: &Metrics) -> bool {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let next = (pod, stage);
        let is_news = all.get(uid) != Some(&next);
        all.insert(uid.clone(), next);
        count(&all, metrics);
        if is_news {
            self.changes.send_replace(());
        }
        is_news
    }
}

fn count(all: &BTreeMap<WorkloadUid, (Option<PodUid>, Stage)>, metrics: &Metrics) {
    let pending = all.values().filter(|(_, stage)| *stage != Stage::Served).count();
    metrics.workloads(all.len() - pending, pending);
}
