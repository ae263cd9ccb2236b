//! Enrols the node's workloads, tries again those that can't be yet, and withdraws what is no longer configured, while it runs too.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::sleep;

use super::enrol::{self, Enrolled, PodError};
use super::numbers::Numbers;
use crate::bpf::{BpfError, Kernel, Maps};
use crate::identity::SvidManager;
use crate::model::workload::{NodeName, Workload, WorkloadUid};
use crate::store::Store;
use crate::sys::netns::Netns;
use crate::telemetry::Metrics;

/// A pod may come a little after its configuration.
const RETRY: Duration = Duration::from_secs(1);

/// Which workloads are in the mesh, and why the others aren't.
#[derive(Debug)]
pub struct Readiness(Mutex<BTreeMap<WorkloadUid, Option<String>>>);

impl Readiness {
    /// All of these wait. Complete from the start: who asks before the first enrolment must not hear "ready".
    pub fn waiting<'a>(workloads: impl Iterator<Item = &'a Arc<Workload>>) -> Self {
        let not_yet = || Some("not enrolled yet".to_owned());
        Self(Mutex::new(workloads.map(|workload| (workload.uid.clone(), not_yet())).collect()))
    }

    /// The workloads that wait, each with the reason.
    pub fn pending(&self) -> Vec<(WorkloadUid, String)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter_map(|(uid, why)| Some((uid.clone(), why.clone()?))).collect()
    }

    /// Forgets the others.
    fn keep(&self, wanted: impl Fn(&WorkloadUid) -> bool, metrics: &Metrics) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|uid, _| wanted(uid));
        count(&all, metrics);
    }

    /// Returns whether this is news.
    fn set(&self, uid: &WorkloadUid, why_not: Option<String>, metrics: &Metrics) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = all.insert(uid.clone(), why_not.clone());
        count(&all, metrics);
        before != Some(why_not)
    }
}

fn count(all: &BTreeMap<WorkloadUid, Option<String>>, metrics: &Metrics) {
    let pending = all.values().flatten().count();
    metrics.workloads(all.len() - pending, pending);
}

/// Keeps the node's pods as the newest snapshot has them. Hands each to `start`, which carries its connections and gives
/// back what closes the pod's listeners when it is dropped.
pub struct PodManager<S> {
    /// The programs.
    pub kernel: Kernel,
    /// The mesh.
    pub store: Store,
    /// The node whose workloads these are.
    pub node: NodeName,
    /// Where cgroups are.
    pub cgroup_mount: PathBuf,
    /// The SVIDs.
    pub svids: Arc<SvidManager>,
    /// What `/readyz` shows.
    pub readiness: Arc<Readiness>,
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// Who carries the connections.
    pub start: S,
}

/// A pod that is in the mesh.
struct Served<G> {
    workload: Arc<Workload>,
    netns: Arc<Netns>,
    _listening: G,
}

/// The pods of this node that are in the mesh.
type Pods<G> = BTreeMap<WorkloadUid, Served<G>>;

impl<S, G> PodManager<S>
where
    S: Fn(Enrolled) -> G,
{
    /// Enrols, again and again what can't be enrolled yet, and withdraws, for ever.
    pub async fn run(mut self) -> Result<(), BpfError> {
        let maps = self.kernel.maps();
        let left = maps.pods()?;
        let mut numbers = Numbers::restored(left.iter().map(|(cookie, pod)| (*cookie, pod.pod)));
        let (mut pods, node) = (Pods::new(), self.node.clone());
        loop {
            let state = self.store.snapshot();
            // The kernel has one mode a node, for addresses that no workload lists: the strictest.
            maps.set_strict(state.on_node(&node).any(|workload| state.modes().is_strict_anywhere(&workload.uid)))?;
            maps.set_destinations(state.diverted())?;
            let wanted: BTreeMap<_, _> = state.on_node(&node).map(|workload| (&workload.uid, workload)).collect();
            for (uid, served) in pods.extract_if(.., |uid, _| !wanted.contains_key(uid)) {
                tracing::info!(target: "audit", workload = %uid, "workload withdrawn");
                self.withdraw(&maps, &mut numbers, served.netns.cookie())?;
            }
            self.readiness.keep(|uid| wanted.contains_key(uid), &self.metrics);
            let mut waiting = false;
            for (uid, workload) in wanted {
                let now = pods.get(uid);
                if now.is_some_and(|served| served.workload.is_served_as(workload)) {
                    continue;
                }
                // A changed one stays in the kernel's maps meanwhile: it is never without a mesh.
                let kept = now.map(|served| Arc::clone(&served.netns));
                waiting |= !self.try_enrol(&maps, &mut numbers, &mut pods, workload, kept).await;
            }
            if !waiting {
                // Only now is it known whose an old entry is: one without a workload belongs to a pod that is gone.
                self.withdraw_others(&maps, &mut numbers, &pods)?;
            }
            tokio::select! {
                () = self.store.changed() => {}
                () = sleep(RETRY), if waiting => {}
            }
        }
    }

    /// Returns whether the workload is in the mesh now.
    async fn try_enrol(
        &mut self,
        maps: &Maps,
        numbers: &mut Numbers,
        pods: &mut Pods<G>,
        workload: &Arc<Workload>,
        kept: Option<Arc<Netns>>,
    ) -> bool {
        match self.enrol(maps, numbers, workload, kept).await {
            Ok(served) => {
                tracing::info!(target: "audit", workload = %workload.uid, id = %workload.identity, "workload enrolled");
                pods.insert(workload.uid.clone(), served);
                self.readiness.set(&workload.uid, None, &self.metrics);
                true
            }
            Err(error) => {
                let why = chain(&error);
                if self.readiness.set(&workload.uid, Some(why.clone()), &self.metrics) {
                    tracing::warn!(workload = %workload.uid, error = why, "workload not enrolled");
                }
                false
            }
        }
    }

    async fn enrol(
        &mut self,
        maps: &Maps,
        numbers: &mut Numbers,
        workload: &Arc<Workload>,
        kept: Option<Arc<Netns>>,
    ) -> Result<Served<G>, PodError> {
        let mut netns = enrol::open_netns(workload)?;
        // Its sysctls are restored when the last user lets go of it, so there must not be two.
        let netns = match kept.filter(|kept| kept.cookie() == netns.cookie()) {
            Some(kept) => kept,
            None => {
                let again = numbers.has(netns.cookie());
                enrol::reuse_ports(&mut netns, workload, again);
                Arc::new(netns)
            }
        };
        let (cookie, number) = (netns.cookie(), numbers.assign(netns.cookie()));
        let svid = self.svids.svid(&workload.identity, SystemTime::now()).await?;
        let listeners = enrol::open_listeners(maps, workload, &netns, number)?;
        enrol::attach(&mut self.kernel, &netns)?;
        enrol::publish(maps, &self.cgroup_mount, workload, cookie, number)?;
        let enrolled = Enrolled { workload: Arc::clone(workload), number, netns: Arc::clone(&netns), listeners, svid };
        Ok(Served { workload: Arc::clone(workload), netns, _listening: (self.start)(enrolled) })
    }

    fn withdraw(&mut self, maps: &Maps, numbers: &mut Numbers, cookie: u64) -> Result<(), BpfError> {
        for (_, pod) in maps.pods()?.into_iter().filter(|(of, _)| *of == cookie) {
            maps.remove_pod(cookie, &pod)?;
        }
        numbers.release(cookie);
        self.kernel.detach_pod(cookie)
    }

    fn withdraw_others(&mut self, maps: &Maps, numbers: &mut Numbers, pods: &Pods<G>) -> Result<(), BpfError> {
        let served: Vec<u64> = pods.values().map(|served| served.netns.cookie()).collect();
        for (cookie, pod) in maps.pods()?.into_iter().filter(|(cookie, _)| !served.contains(cookie)) {
            maps.remove_pod(cookie, &pod)?;
            numbers.release(cookie);
            tracing::info!(netns.cookie = cookie, "withdrew a pod that is no longer configured");
        }
        for cookie in self.kernel.pinned_pods()?.into_iter().filter(|cookie| !served.contains(cookie)) {
            self.kernel.detach_pod(cookie)?;
        }
        Ok(())
    }
}

/// An error with its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
