//! Enrols the node's workloads, tries again those that can't be yet, and withdraws what is no longer meant to be in the mesh.
//!
//! A pod that only has lost its address, or its object in the API, and still runs is fenced: nobody carries its connections, and none
//! is plain.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::enrol::{self, Enrolled, Place, PodError};
use super::numbers::Numbers;
use super::older::Older;
use super::readiness::{Readiness, Stage};
use super::sandboxes::Sandboxes;
use crate::bpf::{BpfError, Kernel, Maps};
use crate::config::Released;
use crate::identity::{IssueError, SvidManager};
use crate::model::spiffe::SpiffeId;
use crate::model::svid::X509Svid;
use crate::model::workload::{NodeName, PodUid, Workload, WorkloadUid};
use crate::state::MeshState;
use crate::store::Store;
use crate::sys;
use crate::sys::netns::Netns;
use crate::telemetry::{Direction, Metrics, chain};

/// A pod may come a little after its configuration.
const RETRY: Duration = Duration::from_secs(1);

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
    /// The cgroup that this node's pods are below.
    pub cgroup_root: PathBuf,
    /// Pods that were handed over before they run.
    pub sandboxes: Sandboxes,
    /// The id of the agent's own cgroup.
    pub own_cgroup: u64,
    /// The SVIDs.
    pub svids: Arc<SvidManager>,
    /// What `/readyz` shows.
    pub readiness: Arc<Readiness>,
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// Who carries the connections.
    pub start: S,
}

/// A pod whose connections the kernel hands to the agent.
struct Held<G> {
    workload: Arc<Workload>,
    netns: Arc<Netns>,
    number: u32,
    older: Older,
    carried: Carried<G>,
    /// Whether a process of it has been seen.
    ran: bool,
}

/// Who carries a pod's connections.
enum Carried<G> {
    /// Nobody yet: they wait in the listeners' queues, or are refused where there are none.
    Waiting(Vec<(Direction, TcpListener)>),
    /// Whoever gave this.
    By { _until_dropped: G },
    /// Nobody: they are refused until the pod is a workload again, is released, or is gone.
    Fenced,
}

/// The pods of this node that are in the mesh.
type Pods<G> = BTreeMap<WorkloadUid, Held<G>>;

/// What asking for an SVID gave, and for whom.
type Asked = (WorkloadUid, SpiffeId, Result<watch::Receiver<Arc<X509Svid>>, IssueError>);

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
        let mut asking: JoinSet<Asked> = JoinSet::new();
        let (mut asked, mut failed) = (BTreeSet::new(), BTreeSet::new());
        // What the kernel has been told: in a large cluster most snapshots differ in other nodes' pods alone.
        let mut told: Option<(bool, BTreeSet<IpNet>, BTreeSet<IpNet>)> = None;
        loop {
            let state = self.store.snapshot();
            let wanted: BTreeMap<_, _> = state.on_node(&node).map(|workload| (&workload.uid, workload)).collect();
            // The kernel has one mode a node, for addresses that no workload lists: the strictest.
            let is_strict = wanted.keys().any(|uid| state.modes().is_strict_anywhere(uid));
            let tell = Some((is_strict, state.diverted().collect(), state.exempt().collect()));
            if told != tell {
                maps.set_strict(is_strict)?;
                if let Some((_, diverted, exempt)) = &tell {
                    maps.set_destinations(diverted, exempt)?;
                }
                told = tell;
            }
            let is_over =
                |uid: &WorkloadUid, held: &mut Held<G>| !wanted.contains_key(uid) && self.lets_go(&state, held);
            for (uid, held) in pods.extract_if(.., is_over).collect::<Vec<_>>() {
                tracing::info!(target: "audit", workload = %uid, "workload withdrawn");
                self.withdraw(&maps, &mut numbers, held.netns.cookie())?;
            }
            let fenced = self.fence(&state, &mut pods, |uid| wanted.contains_key(uid));
            let mut waiting = false;
            for (uid, workload) in wanted {
                let now = pods.get(uid);
                let is_moved =
                    |cookie| workload.pod.as_ref().is_some_and(|pod| self.sandboxes.is_elsewhere(pod, cookie));
                let is_same = |held: &Held<G>| {
                    let is_fenced = matches!(held.carried, Carried::Fenced);
                    !is_fenced && held.workload.is_served_as(workload) && !is_moved(held.netns.cookie())
                };
                if !now.is_some_and(is_same) {
                    // A changed one stays in the kernel's maps meanwhile: it is never without a mesh.
                    let kept = now.map(|held| Arc::clone(&held.netns));
                    waiting |= !self.try_hold(&maps, &mut numbers, &mut pods, workload, kept);
                }
                if let (Some(held), Some(pod)) = (pods.get(uid), &workload.pod) {
                    self.sandboxes.set_held(pod, held.netns.cookie());
                }
                let needs_svid = pods.get(uid).is_some_and(|held| matches!(held.carried, Carried::Waiting(_)));
                if needs_svid && asked.insert(uid.clone()) {
                    let (svids, uid, id) = (Arc::clone(&self.svids), uid.clone(), workload.identity.clone());
                    asking.spawn(async move {
                        let svid = svids.svid(&id, SystemTime::now()).await;
                        (uid, id, svid)
                    });
                }
            }
            if !waiting {
                // Only now is it known whose an old entry is: one without a workload belongs to a pod that is gone.
                waiting |= self.withdraw_others(&maps, &mut numbers, &pods, state.released())?;
            }
            waiting |= fenced || pods.values().any(|held| matches!(held.carried, Carried::Waiting(_)));
            let retry = Instant::now() + RETRY;
            loop {
                self.look_for_older(&mut pods).await;
                let due = pods.values().filter_map(|held| held.older.due()).min();
                tokio::select! {
                    () = self.store.changed() => {}
                    () = self.sandboxes.changed() => {}
                    Some(answer) = asking.join_next() => {
                        let answer = answer.unwrap_or_else(|panic| resume_unwind(panic.into_panic()));
                        let uid = answer.0.clone();
                        if self.try_serve(&mut pods, answer) {
                            asked.remove(&uid);
                        } else {
                            // It is asked for again, but not at once.
                            failed.insert(uid);
                        }
                    }
                    () = sleep_until(retry), if waiting => asked = &asked - &std::mem::take(&mut failed),
                    () = sleep_until(due.unwrap_or(retry)), if due.is_some() => continue,
                }
                break;
            }
            pods.values_mut().for_each(|held| held.older.reconsider());
        }
    }

    /// Whether what was a workload is plain again, or no more.
    fn lets_go(&self, state: &MeshState, held: &mut Held<G>) -> bool {
        let Some(pod) = &held.workload.pod else { return true };
        if state.released().has(pod) || self.sandboxes.has_ended(pod) {
            return true;
        }
        // Deleted by force, or finished by somebody's word: it is in the mesh as long as anything of it runs.
        match sys::pod::runs(&self.cgroup_root, pod.as_str()) {
            Ok(true) => {
                held.ran = true;
                false
            }
            // It may have been handed over and not have begun yet.
            Ok(false) => held.ran || self.sandboxes.container(pod).is_none(),
            Err(error) => {
                tracing::warn!(%error, workload = %held.workload.uid, "it can't be told whether the pod still runs");
                false
            }
        }
    }

    /// Lets nobody carry the connections of those that are no workloads now. Returns whether there are any.
    fn fence(&self, state: &MeshState, pods: &mut Pods<G>, is_wanted: impl Fn(&WorkloadUid) -> bool) -> bool {
        let unaddressed = state.unaddressed();
        let is_fenced = |uid: &WorkloadUid, pods: &Pods<G>| pods.contains_key(uid) || unaddressed.contains_key(uid);
        self.readiness.keep(|uid| is_wanted(uid) || is_fenced(uid, pods), &self.metrics);
        let mut any = false;
        for (uid, held) in pods.iter_mut().filter(|(uid, _)| !is_wanted(uid)) {
            let why =
                unaddressed.get(uid).map_or("no address of it is known any more, and it still runs", |(_, why)| *why);
            held.carried = Carried::Fenced;
            if self.readiness.set(&held.workload, Stage::Held(why.to_owned()), &self.metrics) {
                tracing::warn!(target: "audit", workload = %uid, reason = why, "workload fenced");
            }
            any = true;
        }
        for (uid, (pod, why)) in unaddressed.iter().filter(|(uid, _)| !pods.contains_key(uid)) {
            let stage = Stage::Waiting((*why).to_owned());
            if self.readiness.set_pod(uid, Some(pod.clone()), stage, &self.metrics) {
                tracing::warn!(target: "audit", workload = %uid, reason = why, "workload not enrolled");
            }
        }
        any
    }

    /// Looks at the pods that are due for connections that are older than their enrolment.
    async fn look_for_older(&self, pods: &mut Pods<G>) {
        let (state, now, mut destroyed) = (self.store.snapshot(), Instant::now(), 0);
        for held in pods.values_mut().filter(|held| held.older.due().is_some_and(|due| due <= now)) {
            destroyed += held.older.look(&state, &held.workload, &held.netns, self.own_cgroup).await;
        }
        let left = pods.values().map(|held| held.older.left).sum();
        let failing = pods.values().find_map(|held| held.older.failing.clone());
        self.metrics.older_connections(destroyed, left, failing);
    }

    /// Lets the kernel hold the pod's connections, from now on. Returns whether it does.
    fn try_hold(
        &mut self,
        maps: &Maps,
        numbers: &mut Numbers,
        pods: &mut Pods<G>,
        workload: &Arc<Workload>,
        kept: Option<Arc<Netns>>,
    ) -> bool {
        match self.hold(maps, numbers, workload, kept) {
            Ok(held) => {
                pods.insert(workload.uid.clone(), held);
                self.readiness.set(workload, Stage::without_svid(), &self.metrics);
                true
            }
            Err(error) => {
                let why = chain(&error);
                if self.readiness.set(workload, Stage::Waiting(why.clone()), &self.metrics) {
                    tracing::warn!(workload = %workload.uid, error = why, "workload not enrolled");
                }
                false
            }
        }
    }

    fn hold(
        &mut self,
        maps: &Maps,
        numbers: &mut Numbers,
        workload: &Arc<Workload>,
        kept: Option<Arc<Netns>>,
    ) -> Result<Held<G>, PodError> {
        let place = self.locate(workload)?;
        let mut netns = place.netns;
        let again = numbers.has(netns.cookie());
        // Its sysctls are restored when the last user lets go of it, so there must not be two.
        let netns = match kept.filter(|kept| kept.cookie() == netns.cookie()) {
            Some(kept) => kept,
            None => {
                enrol::reuse_ports(&mut netns, workload, again);
                Arc::new(netns)
            }
        };
        let (cookie, number) = (netns.cookie(), numbers.assign(netns.cookie()));
        let listeners = enrol::open_listeners(maps, workload, &netns, number)?;
        enrol::attach(&mut self.kernel, &netns)?;
        enrol::publish(maps, workload, place.cgroup, cookie, number)?;
        let (older, carried) = (Older::of(again), Carried::Waiting(listeners));
        Ok(Held { workload: Arc::clone(workload), netns, number, older, carried, ran: false })
    }

    fn locate(&self, workload: &Workload) -> Result<Place, PodError> {
        let handed = workload.pod.as_ref().and_then(|pod| self.sandboxes.netns(pod));
        enrol::locate(&self.cgroup_mount, &self.cgroup_root, workload, handed)
    }

    /// Lets the pod's connections be carried, if its SVID is there. Returns whether it is.
    fn try_serve(&mut self, pods: &mut Pods<G>, (uid, id, svid): Asked) -> bool {
        let Some(held) = pods.get_mut(&uid).filter(|held| held.workload.identity == id) else { return true };
        let Carried::Waiting(listeners) = &mut held.carried else { return true };
        match svid {
            Ok(svid) => {
                let (workload, netns) = (Arc::clone(&held.workload), Arc::clone(&held.netns));
                let mut listeners = std::mem::take(listeners);
                if listeners.is_empty() {
                    listeners = match enrol::open_listeners(&self.kernel.maps(), &workload, &netns, held.number) {
                        Ok(listeners) => listeners,
                        Err(error) => return self.stay_held(held, &error),
                    };
                }
                let enrolled = Enrolled { workload, number: held.number, netns, listeners, svid };
                held.carried = Carried::By { _until_dropped: (self.start)(enrolled) };
                tracing::info!(target: "audit", workload = %uid, id = %id, "workload enrolled");
                self.readiness.set(&held.workload, Stage::Served, &self.metrics);
                true
            }
            Err(error) => {
                // Nobody knows for how long: from now on connections are refused, and those that wait are reset.
                listeners.clear();
                self.stay_held(held, &error)
            }
        }
    }

    fn stay_held(&self, held: &Held<G>, error: &dyn std::error::Error) -> bool {
        let why = chain(error);
        if self.readiness.set(&held.workload, Stage::Held(why.clone()), &self.metrics) {
            tracing::warn!(workload = %held.workload.uid, error = why, "workload held, but not served");
        }
        false
    }

    fn withdraw(&mut self, maps: &Maps, numbers: &mut Numbers, cookie: u64) -> Result<(), BpfError> {
        for (_, pod) in maps.pods()?.into_iter().filter(|(of, _)| *of == cookie) {
            maps.remove_pod(cookie, &pod)?;
        }
        numbers.release(cookie);
        self.kernel.detach_pod(cookie)
    }

    /// Withdraws what an earlier agent has left, but for pods that run and were not released. Returns whether there are such.
    fn withdraw_others(
        &mut self,
        maps: &Maps,
        numbers: &mut Numbers,
        pods: &Pods<G>,
        released: &Released,
    ) -> Result<bool, BpfError> {
        let mut known: BTreeSet<u64> = pods.values().map(|served| served.netns.cookie()).collect();
        let left: Vec<_> = maps.pods()?.into_iter().filter(|(cookie, _)| !known.contains(cookie)).collect();
        let held = if left.is_empty() { Some(BTreeSet::new()) } else { self.still_held(released) };
        let mut stays = false;
        for (cookie, pod) in left {
            if held.as_ref().is_none_or(|held| held.contains(&pod.cgroup)) {
                known.insert(cookie);
                stays = true;
                continue;
            }
            maps.remove_pod(cookie, &pod)?;
            numbers.release(cookie);
            tracing::info!(netns.cookie = cookie, "withdrew a pod that is no longer configured");
        }
        for cookie in self.kernel.pinned_pods()?.into_iter().filter(|cookie| !known.contains(cookie)) {
            self.kernel.detach_pod(cookie)?;
        }
        Ok(stays)
    }

    /// The ids of the cgroups of pods that run and were not released; `None`: it can't be told.
    fn still_held(&self, released: &Released) -> Option<BTreeSet<u64>> {
        if *released == Released::Everybody {
            return Some(BTreeSet::new());
        }
        let is_held = |pod: &PodUid| !released.has(pod) && !self.sandboxes.has_ended(pod);
        match sys::pod::running(&self.cgroup_root) {
            Ok(running) => {
                let held = running.into_iter().filter(|(uid, _)| PodUid::parse(uid).is_none_or(|uid| is_held(&uid)));
                Some(held.map(|(_, cgroup)| cgroup).collect())
            }
            Err(error) => {
                tracing::warn!(%error, "the node's pods can't be listed: what an earlier agent held stays held");
                None
            }
        }
    }
}
