//! Enrols the node's workloads, tries again those that can't be yet, and withdraws what is no longer configured.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::enrol::{self, Enrolled, PodError};
use super::numbers::Numbers;
use crate::bpf::{BpfError, Kernel, Maps};
use crate::identity::SvidManager;
use crate::model::mesh::MtlsMode;
use crate::model::workload::{NodeName, Workload, WorkloadUid};
use crate::store::Store;
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

    /// Returns whether this is news.
    fn set(&self, uid: &WorkloadUid, why_not: Option<String>, metrics: &Metrics) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = all.insert(uid.clone(), why_not.clone());
        let pending = all.values().flatten().count();
        metrics.workloads(all.len() - pending, pending);
        before != Some(why_not)
    }
}

/// Runs the enrolments of one node. Hands each pod to `start`, which carries its connections.
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

impl<S: Fn(Enrolled)> PodManager<S> {
    /// Enrols everything, trying again for ever what can't be enrolled yet.
    pub async fn run(mut self) -> Result<(), BpfError> {
        let maps = self.kernel.maps();
        let left = maps.pods()?;
        let mut numbers = Numbers::restored(left.iter().map(|(cookie, pod)| (*cookie, pod.pod)));
        let state = self.store.snapshot();
        let mut waiting: Vec<Arc<Workload>> = state.on_node(&self.node).cloned().collect();
        maps.set_strict(state.mesh().mode == MtlsMode::Strict)?;
        maps.set_destinations(state.diverted())?;
        let mut served = Vec::new();
        loop {
            let mut later = Vec::new();
            for workload in waiting {
                match self.enrol(&maps, &mut numbers, &workload).await {
                    Ok(cookie) => {
                        served.push(cookie);
                        tracing::info!(workload = %workload.uid, id = %workload.identity, "workload enrolled");
                        self.readiness.set(&workload.uid, None, &self.metrics);
                    }
                    Err(error) => {
                        let why = chain(&error);
                        if self.readiness.set(&workload.uid, Some(why.clone()), &self.metrics) {
                            tracing::warn!(workload = %workload.uid, error = why, "workload not enrolled");
                        }
                        later.push(workload);
                    }
                }
            }
            if later.is_empty() {
                // Only now is it known whose an old entry is: one without a workload belongs to a pod that is gone.
                self.withdraw_others(&maps, &mut numbers, &served)?;
                std::future::pending::<()>().await;
            }
            waiting = later;
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn enrol(&mut self, maps: &Maps, numbers: &mut Numbers, workload: &Arc<Workload>) -> Result<u64, PodError> {
        let mut netns = enrol::open_netns(workload)?;
        let again = numbers.has(netns.cookie());
        enrol::reuse_ports(&mut netns, workload, again);
        let netns = Arc::new(netns);
        let (cookie, number) = (netns.cookie(), numbers.assign(netns.cookie()));
        let svid = self.svids.svid(&workload.identity, SystemTime::now()).await?;
        let listeners = enrol::open_listeners(maps, workload, &netns, number)?;
        enrol::attach(&mut self.kernel, &netns)?;
        enrol::publish(maps, &self.cgroup_mount, workload, cookie, number)?;
        (self.start)(Enrolled { workload: Arc::clone(workload), number, netns, listeners, svid });
        Ok(cookie)
    }

    fn withdraw_others(&mut self, maps: &Maps, numbers: &mut Numbers, served: &[u64]) -> Result<(), BpfError> {
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
