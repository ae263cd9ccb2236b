//! Answers the CNI plugin: whose sandbox is it, and is it held?
//!
//! A pod that isn't ours is let go at once; one that is waits until the kernel holds it, never for its SVID. What can't be
//! found out is decided by the namespace's label.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::RunError;
use crate::args::cni::{CniArgs, CniPlace};
use crate::cni::conflist;
use crate::cni::installer::{self, Installer};
use crate::cni::known::Known;
use crate::cni::plugin::SOCKET;
use crate::cni::server::CniSocket;
use crate::cni::wire::{PodName, Reply, Request};
use crate::config::Membership;
use crate::model::cluster::ObjectName;
use crate::model::workload::PodUid;
use crate::pod::{Readiness, Record, Sandbox, Sandboxes, Stage};
use crate::sources::kubernetes::Members;
use crate::sys;
use crate::sys::netns::Netns;

mod heal;
mod records;

use heal::look;

/// A pod comes by the watch before its sandbox is made, or a little after.
const WATCH: Duration = Duration::from_secs(3);
/// The API server answers, or is away.
const FETCH: Duration = Duration::from_secs(3);
/// Listeners, links and map entries take milliseconds; the pod's cgroup may take one more try.
const HOLD: Duration = Duration::from_secs(10);
/// Pods that have ended and are still shown: more, and a DEL waits.
const ENDED: usize = 1024;
/// How long a file waits that couldn't be written.
const WRITE_AGAIN: Duration = Duration::from_secs(1);

/// A refusal: why, and whether it may work a little later.
struct No {
    message: String,
    again: bool,
}

fn later(message: impl Into<String>) -> No {
    No { message: message.into(), again: true }
}

/// Who decides.
struct Decider {
    sandboxes: Sandboxes,
    readiness: Arc<Readiness>,
    members: Members,
    cgroup_root: PathBuf,
    ended: mpsc::Sender<(ObjectName, PodUid)>,
    /// Where the next agent finds them; written one at a time.
    records: Mutex<PathBuf>,
}

/// What decides needs to know.
pub(super) struct Facts {
    pub(super) sandboxes: Sandboxes,
    pub(super) readiness: Arc<Readiness>,
    pub(super) members: Members,
    pub(super) cgroup_root: PathBuf,
    pub(super) own_namespace: String,
    /// Whether the mesh shall leave the node.
    pub(super) uninstalled: watch::Receiver<bool>,
    /// Who waits for the plugin to be in place.
    pub(super) placed: watch::Sender<bool>,
}

/// Brings back what an earlier agent was told.
pub(super) fn restore(args: &CniArgs, sandboxes: &Sandboxes) -> Result<(), RunError> {
    let Some(path) = args.cni_socket.as_deref().map(records_beside) else { return Ok(()) };
    let records = records::take(&path).map_err(|source| RunError::Sandboxes { path, source })?;
    for (uid, record) in records {
        sandboxes.set(&uid, Sandbox::recorded(record));
    }
    Ok(())
}

/// Where the pods that were handed over are noted.
pub(super) fn records_beside(socket: &Path) -> PathBuf {
    socket.with_extension("sandboxes.json")
}

/// Starts what the flags ask for. Returns what says whether the plugin has left the node, or was never there.
pub(super) fn start(
    tasks: &mut JoinSet<Result<(), RunError>>,
    args: CniArgs,
    facts: Facts,
) -> Result<watch::Receiver<bool>, RunError> {
    let CniPlace { cni_bin_dir, cni_conf_dir } = args.place;
    let socket = args.cni_socket;
    let (left, has_left) = watch::channel(cni_bin_dir.is_none());
    if let (Some(plugins), Some(configuration)) = (cni_bin_dir, cni_conf_dir) {
        let socket = socket.as_deref().unwrap_or(Path::new(SOCKET));
        let entry = conflist::entry(&socket.to_string_lossy(), &args.cni_known.to_string_lossy());
        let installer = Installer::new(plugins, configuration, entry);
        let leave = facts.uninstalled.clone();
        tasks.spawn(async move { match installer.run(leave, left, facts.placed).await {} });
    }
    let Some(path) = socket else { return Ok(has_left) };
    let records = Mutex::new(records_beside(&path));
    let bound = CniSocket::bind(&path).map_err(|source| RunError::CniSocket { path, source })?;
    tasks.spawn(tell(facts.members.clone(), facts.own_namespace, args.cni_known, facts.uninstalled));
    let (ended, gone) = mpsc::channel(ENDED);
    let recorded = facts.sandboxes.records().into_iter().map(|(uid, record)| (record.pod, uid)).collect();
    tasks.spawn(forget(recorded, gone, facts.members.clone(), facts.sandboxes.clone()));
    let Facts { sandboxes, readiness, members, cgroup_root, .. } = facts;
    let decider = Arc::new(Decider { sandboxes, readiness, members, cgroup_root, ended, records });
    let healing = Arc::clone(&decider);
    tasks.spawn(async move {
        healing.heal().await;
        Ok(())
    });
    let decide = move |request, netns| {
        let decider = Arc::clone(&decider);
        async move { decider.decide(request, netns).await }
    };
    tasks.spawn(async move {
        bound.serve(decide).await;
        Ok(())
    });
    Ok(has_left)
}

/// Takes the plugin off this node, with what it knew.
pub fn uninstall(place: &CniPlace, known: &Path) -> io::Result<()> {
    let (Some(plugins), Some(configuration)) = (&place.cni_bin_dir, &place.cni_conf_dir) else { return Ok(()) };
    installer::uninstall(plugins, configuration)?;
    sys::file::remove(known)
}

/// Writes down which namespaces are enrolled, for the plugin while no agent answers, for ever.
async fn tell(
    members: Members,
    own: String,
    path: PathBuf,
    mut uninstalled: watch::Receiver<bool>,
) -> Result<(), RunError> {
    let mut enrolled = members.enrolled();
    loop {
        let enrolled_now = enrolled.borrow_and_update().clone();
        let known = Known { enrolled: enrolled_now, own: own.clone(), is_lost: false };
        let written = if *uninstalled.borrow_and_update() { sys::file::remove(&path) } else { known.write(&path) };
        if let Err(error) = &written {
            tracing::error!(%error, path = %path.display(), "the enrolled namespaces can't be written down");
        }
        tokio::select! {
            Ok(()) = enrolled.changed() => {}
            Ok(()) = uninstalled.changed() => {}
            () = tokio::time::sleep(WRITE_AGAIN), if written.is_err() => {}
            else => std::future::pending().await,
        }
    }
}

/// Forgets pods that have ended, and those of an earlier agent, once the API doesn't show them any more, for ever.
async fn forget(
    recorded: Vec<(ObjectName, PodUid)>,
    mut ended: mpsc::Receiver<(ObjectName, PodUid)>,
    members: Members,
    sandboxes: Sandboxes,
) -> Result<(), RunError> {
    let gone = |(name, uid): (ObjectName, PodUid)| {
        let members = members.clone();
        async move {
            members.gone(&name, &uid).await;
            uid
        }
    };
    let mut waiting: JoinSet<_> = recorded.into_iter().map(gone).collect();
    loop {
        tokio::select! {
            Some(pod) = ended.recv() => drop(waiting.spawn(gone(pod))),
            Some(gone) = waiting.join_next() => {
                let uid = gone.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
                sandboxes.forget(&uid);
            }
            else => std::future::pending().await,
        }
    }
}

impl Decider {
    async fn decide(&self, request: Request, netns: Option<OwnedFd>) -> Reply {
        let decided = match request {
            Request::Add { pod, container, addresses } => {
                let (shown, asked) = (format!("{}/{}", pod.namespace, pod.name), std::time::Instant::now());
                let held = self.add(pod, &container, addresses, netns).await;
                match &held {
                    Ok(true) => {
                        tracing::info!(workload = shown, seconds = asked.elapsed().as_secs_f64(), "sandbox held")
                    }
                    Ok(false) => tracing::debug!(workload = shown, "sandbox is not ours"),
                    Err(no) => {
                        tracing::warn!(target: "audit", workload = shown, reason = no.message, "sandbox refused");
                    }
                }
                held.map(drop)
            }
            Request::Check { pod, container } => self.check(pod, &container).await,
            Request::Del { pod, container } => {
                self.del(pod, container, netns).await;
                Ok(())
            }
            Request::Gc { containers } => {
                let known = self.sandboxes.records().into_iter();
                for (uid, record) in known.filter(|(_, record)| !containers.contains(&record.container)) {
                    self.collect(uid, record).await;
                }
                Ok(())
            }
            Request::Status => Ok(()),
        };
        match decided {
            Ok(()) => Reply::Done,
            Err(No { message, again }) => Reply::Failed { message, again },
        }
    }

    /// Returns whether the pod is ours, and held then.
    async fn add(
        &self,
        pod: PodName,
        container: &str,
        addresses: Vec<std::net::IpAddr>,
        netns: Option<OwnedFd>,
    ) -> Result<bool, No> {
        let shown = format!("pod {}/{}", pod.namespace, pod.name);
        let (name, uid) = identify(pod);
        if self.membership(&name, uid.as_ref(), WATCH).await? != Membership::In {
            return Ok(false);
        }
        let uid = uid.ok_or_else(|| later(format!("the runtime does not say the uid of {shown}")))?;
        let netns = netns.ok_or_else(|| later(format!("{shown} came without its network namespace")))?;
        if addresses.is_empty() {
            return Err(later(format!("{shown} has no address: this plugin comes after one that gives it one")));
        }
        let told = format!("{addresses:?}");
        let record = Record { pod: name, container: container.to_owned(), addresses, netns: None };
        let sandbox = Sandbox::new(record, netns)
            .map_err(|error| later(format!("the network namespace of {shown} can't be used: {error}")))?;
        self.sandboxes.set(&uid, sandbox);
        // Before the pod runs: an agent that starts again may find nothing else that knows the pod's addresses.
        if let Err(error) = self.save() {
            self.sandboxes.remove(&uid, container);
            return Err(later(format!("{shown} can't be written down: {error}")));
        }
        match timeout(HOLD, self.sandboxes.wait_held(&uid, container)).await {
            Ok(true) => Ok(true),
            Ok(false) => Err(later(format!("{shown} got another sandbox, or was deleted, meanwhile"))),
            Err(_late) => {
                self.sandboxes.remove(&uid, container);
                let why = match self.stage(&uid) {
                    Some(stage) => stage.why_not().unwrap_or_default().to_owned(),
                    None => format!("its addresses {told} are not its node's, or another pod claims them too"),
                };
                Err(later(format!("hauberk can't hold {shown}: {why}")))
            }
        }
    }

    async fn check(&self, pod: PodName, container: &str) -> Result<(), No> {
        let (name, uid) = identify(pod);
        let is_held = match &uid {
            Some(uid) => match self.sandboxes.is_held(uid, container) {
                Some(is_held) => Some(is_held),
                // Handed over to an earlier agent, and enrolled in place since.
                None => self.stage(uid).map(|stage| !matches!(stage, Stage::Waiting(_))),
            },
            None => None,
        };
        let is_held = match is_held {
            Some(is_held) => is_held,
            None => self.membership(&name, uid.as_ref(), FETCH).await? != Membership::In,
        };
        let why = uid.and_then(|uid| Some(self.stage(&uid)?.why_not()?.to_owned())).unwrap_or_default();
        let shown = format!("pod {}/{} is not held: {why}", name.namespace, name.name);
        if is_held { Ok(()) } else { Err(No { message: shown, again: false }) }
    }

    async fn del(&self, pod: PodName, container: String, netns: Option<OwnedFd>) {
        let (name, Some(uid)) = identify(pod) else { return };
        let netns = netns.and_then(|netns| Netns::of_descriptor(netns).ok()).map(|netns| netns.cookie());
        let is_its = match self.sandboxes.container(&uid) {
            Some(known) => known == container,
            // Nobody here knows its sandbox, so this may be an earlier one than the one it runs in.
            None => {
                let moved = look(&self.cgroup_root, &uid, move |cgroup| sys::pod::has_moved(cgroup, netns)).await;
                !moved.unwrap_or_default()
            }
        };
        if is_its {
            self.end(uid, Record { pod: name, container, addresses: Vec::new(), netns }).await;
        }
    }

    /// Ends a sandbox that the runtime doesn't list any more, unless it is plain that it is wrong.
    async fn collect(&self, uid: PodUid, record: Record) {
        let netns = record.netns;
        let runs = look(&self.cgroup_root, &uid, move |cgroup| sys::pod::runs_in(cgroup, netns)).await;
        if runs.unwrap_or(true) {
            let workload = format!("{}/{}", record.pod.namespace, record.pod.name);
            tracing::warn!(target: "audit", workload, "the runtime does not list a sandbox that runs: it stays in the mesh");
            return;
        }
        self.end(uid, record).await;
    }

    async fn end(&self, uid: PodUid, last: Record) {
        let name = last.pod.clone();
        tracing::debug!(workload = %format_args!("{}/{}", name.namespace, name.name), "sandbox gone");
        self.sandboxes.end(&uid, last);
        if let Err(error) = self.save() {
            tracing::warn!(%error, "a sandbox that is gone can't be struck off");
        }
        // Its receiver ends with the agent alone.
        drop(self.ended.send((name, uid)).await);
    }

    fn save(&self) -> io::Result<()> {
        let path = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        records::write(&path, self.sandboxes.records())
    }

    /// Whether a pod is in the mesh, by what can be found out in bounded time.
    async fn membership(&self, name: &ObjectName, uid: Option<&PodUid>, wait: Duration) -> Result<Membership, No> {
        let mut why = "the runtime does not say its uid".to_owned();
        if let Some(uid) = uid {
            if let Ok(membership) = timeout(wait, self.members.membership(name, uid)).await {
                return Ok(membership);
            }
            why = match timeout(FETCH, self.members.fetch(name, uid)).await {
                Ok(Ok(true)) => match timeout(FETCH, self.members.membership(name, uid)).await {
                    Ok(membership) => return Ok(membership),
                    Err(_late) => {
                        let shown = format!("pod {}/{}: its namespace is not known yet", name.namespace, name.name);
                        return Err(later(shown));
                    }
                },
                Ok(Ok(false)) => format!("the API server has no such pod with the uid {uid}"),
                Ok(Err(error)) => format!("the API server can't be asked: {error}"),
                Err(_late) => "the API server does not answer".to_owned(),
            };
        }
        if !self.members.enrolled().borrow().contains(&name.namespace) {
            return Ok(Membership::NotLabelled);
        }
        Err(later(format!("pod {}/{} is in an enrolled namespace, and {why}", name.namespace, name.name)))
    }

    fn stage(&self, uid: &PodUid) -> Option<Stage> {
        let stages = self.readiness.stages().into_iter();
        stages.filter(|(_, pod, _)| pod.as_ref() == Some(uid)).map(|(_, _, stage)| stage).next()
    }
}

fn identify(pod: PodName) -> (ObjectName, Option<PodUid>) {
    let uid = pod.uid.as_deref().and_then(PodUid::parse);
    (ObjectName { namespace: pod.namespace, name: pod.name }, uid)
}
