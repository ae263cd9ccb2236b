//! How far each of the node's workloads is.

use std::collections::{BTreeMap, BTreeSet};
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
    /// Held, and its SVID is asked for.
    pub(super) fn without_svid() -> Self {
        Self::Held("has no SVID yet".to_owned())
    }

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
    /// Those of the beginning whose first try has not ended.
    untried: Mutex<BTreeSet<WorkloadUid>>,
    changes: watch::Sender<()>,
}

impl Readiness {
    /// All of these wait. Complete from the start: who asks before the first enrolment must not hear "ready".
    pub fn waiting<'a>(workloads: impl Iterator<Item = &'a Arc<Workload>>) -> Self {
        let not_yet = |workload: &Arc<Workload>| (workload.pod.clone(), Stage::Waiting("not enrolled yet".to_owned()));
        let all: BTreeMap<_, _> = workloads.map(|workload| (workload.uid.clone(), not_yet(workload))).collect();
        let untried = Mutex::new(all.keys().cloned().collect());
        Self { all: Mutex::new(all), untried, changes: watch::Sender::new(()) }
    }

    /// The workloads that were there at the beginning and of which nobody knows yet whether they can be served.
    pub fn untried(&self) -> Vec<String> {
        let untried = self.untried.lock().unwrap_or_else(PoisonError::into_inner);
        untried.iter().map(ToString::to_string).collect()
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
        self.untried.lock().unwrap_or_else(PoisonError::into_inner).retain(&wanted);
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
        if stage != Stage::without_svid() {
            self.untried.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::spiffe::SpiffeId;
    use crate::model::workload::{Exclusions, NodeName};
    use crate::telemetry::metrics::Views;

    #[test]
    fn a_first_try_has_ended_when_it_is_known_whether_there_is_an_svid() {
        let workload = |name: &str| {
            Arc::new(Workload {
                uid: WorkloadUid::new("shop", name),
                identity: SpiffeId::parse("spiffe://test/ns/shop/sa/web").unwrap(),
                labels: BTreeMap::new(),
                node: NodeName::new("a"),
                addresses: Vec::new(),
                netns: None,
                cgroup: None,
                pod: None,
                announced: true,
                exclude: Exclusions::default(),
            })
        };
        let (all, metrics) = (["ended", "refused", "served"].map(workload), Metrics::new(Views::none()));
        let readiness = Readiness::waiting(all.iter());
        let [ended, refused, served] = &all;
        for of in [refused, served] {
            readiness.set(of, Stage::without_svid(), &metrics);
        }
        assert_eq!(readiness.untried().len(), 3);
        readiness.set(refused, Stage::Held("the issuer refuses".to_owned()), &metrics);
        readiness.set(served, Stage::Served, &metrics);
        assert_eq!(readiness.untried(), ["shop/ended"]);
        readiness.keep(|uid| *uid != ended.uid, &metrics);
        assert!(readiness.untried().is_empty());
        assert_eq!(readiness.pending().len(), 1, "who is refused is not served");
        // Who comes later holds up nobody.
        readiness.set(&workload("later"), Stage::without_svid(), &metrics);
        assert!(readiness.untried().is_empty());
    }
}
