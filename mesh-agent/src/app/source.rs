//! Where the agent's configuration comes from: a directory, or a Kubernetes cluster.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::sleep;

use super::RunError;
use crate::args::RunArgs;
use crate::bpf::{BpfError, Kernel};
use crate::config::MeshConfig;
use crate::kubernetes::{Kubernetes, KubernetesError};
use crate::model::cluster::ObjectName;
use crate::model::workload::{NodeName, PodUid, WorkloadUid};
use crate::pod::{Readiness, Sandboxes};
use crate::sources::kubernetes::KubernetesSource;
use crate::sources::watch::Watch;
use crate::state::MeshState;
use crate::store::Publisher;
use crate::telemetry::Metrics;

/// Why a pod on the node's network isn't in the mesh.
const HOST_NETWORK: &str = "the pod is on its node's network (hostNetwork), where the mesh can't tell it from the node";
/// How long a pod's status waits that couldn't be written.
const ANNOUNCE_AGAIN: Duration = Duration::from_secs(1);

/// A source with its first configuration.
pub(super) enum Source {
    Directory(Box<Watch>),
    Cluster { kubernetes: Kubernetes, source: Box<KubernetesSource>, first: Box<MeshConfig> },
}

impl Source {
    /// Waits for the first configuration of a cluster; that of a directory must be there.
    pub(super) async fn open(args: &RunArgs, sandboxes: &Sandboxes) -> Result<Self, RunError> {
        if let Some(directory) = &args.config {
            return Ok(Self::Directory(Box::new(Watch::begin(directory)?)));
        }
        let kubernetes = Kubernetes::connect().await?;
        let mut source = KubernetesSource::begin(
            kubernetes.client(),
            kubernetes.namespace(),
            Some(&NodeName::new(&args.node)),
            sandboxes.states(),
        );
        let first = Box::new(source.first().await);
        Ok(Self::Cluster { kubernetes, source: Box::new(source), first })
    }

    /// The first configuration.
    pub(super) fn first(&self) -> &MeshConfig {
        match self {
            Self::Directory(watch) => watch.in_force(),
            Self::Cluster { first, .. } => first,
        }
    }

    /// The API server and what is followed of it, if the source is a cluster.
    pub(super) fn cluster(&self) -> Option<(&Kubernetes, &KubernetesSource)> {
        match self {
            Self::Directory(_) => None,
            Self::Cluster { kubernetes, source, .. } => Some((kubernetes, source)),
        }
    }

    /// Publishes each good configuration and reports what of it can't be taken, for ever.
    pub(super) async fn run(
        self,
        publisher: Publisher,
        metrics: Arc<Metrics>,
        uninstall: watch::Sender<bool>,
    ) -> Infallible {
        let (mut source, first) = match self {
            Self::Directory(watch) => return watch.run(publisher, metrics).await,
            Self::Cluster { source, first, .. } => (source, first),
        };
        metrics.configuration(SystemTime::now(), None);
        let (digest, workloads) = (&first.digest, first.workloads.len());
        tracing::info!(target: "audit", %digest, workloads, "configuration taken");
        loop {
            let taken = source.next().await;
            if taken.documents {
                metrics.configuration(SystemTime::now(), None);
                let policies = taken.config.policy_names();
                metrics.keep_policies(|policy| policies.contains(policy));
                let (digest, workloads) = (&taken.config.digest, taken.config.workloads.len());
                tracing::info!(target: "audit", %digest, workloads, "changed configuration taken");
                if !taken.pending_restart.is_empty() {
                    let fields = taken.pending_restart.join(", ");
                    tracing::error!(target: "audit", fields, "only a restart of the agent can change these");
                    let waits = format!("only a restart of the agent can change {fields}");
                    metrics.configuration(SystemTime::now(), Some(waits));
                }
            }
            publisher.publish(MeshState::after(taken.config, Some(&publisher.snapshot())));
            let shall_leave = source.cluster().is_uninstalled();
            uninstall.send_if_modified(|known| std::mem::replace(known, shall_leave) != shall_leave);
        }
    }
}

/// Once the mesh shall leave every node, and this one's workloads and its CNI plugin have left: removes what is pinned in
/// `bpffs`, notes that in `left`, and says so in the status of the agent's own pod. Then the agent has nothing left to do. Ends
/// if the mesh shall stay after all: only a new agent can begin anew.
pub(super) async fn withdraw(
    kubernetes: Kubernetes,
    own_pod: Option<String>,
    bpffs: PathBuf,
    readiness: Arc<Readiness>,
    mut uninstall: watch::Receiver<bool>,
    mut plugin_left: watch::Receiver<bool>,
    left: Arc<AtomicBool>,
) -> Result<(), BpfError> {
    let mut changes = readiness.changes();
    while !(*uninstall.borrow_and_update() && readiness.stages().is_empty() && *plugin_left.borrow_and_update()) {
        tokio::select! {
            Ok(()) = uninstall.changed() => {}
            Ok(()) = changes.changed() => {}
            Ok(()) = plugin_left.changed() => {}
            else => std::future::pending().await,
        }
    }
    Kernel::uninstall(&bpffs)?;
    left.store(true, Ordering::Relaxed);
    tracing::info!(target: "audit", "withdrew the mesh from this node");
    while let Some(own_pod) = &own_pod {
        match kubernetes.announce_withdrawal(own_pod).await {
            Ok(()) => break,
            Err(error) => warn_of(&error),
        }
        sleep(ANNOUNCE_AGAIN).await;
    }
    while *uninstall.borrow_and_update() {
        if uninstall.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
    tracing::info!("the mesh shall stay after all: this agent makes way for another");
    Ok(())
}

fn warn_of(error: &KubernetesError) {
    let error: &dyn std::error::Error = error;
    tracing::warn!(error, "the withdrawal can't be announced yet");
}

/// Says in the status of each of the node's pods how far it is, for ever.
pub(super) async fn announce(
    kubernetes: Kubernetes,
    readiness: Arc<Readiness>,
    mut barred: watch::Receiver<Vec<(WorkloadUid, PodUid)>>,
) -> Infallible {
    let mut changes = readiness.changes();
    let mut told: BTreeMap<(WorkloadUid, PodUid), Option<String>> = BTreeMap::new();
    loop {
        changes.borrow_and_update();
        let stages = readiness.stages().into_iter();
        let ours = stages.filter_map(|(uid, pod, stage)| Some(((uid, pod?), stage.why_not().map(str::to_owned))));
        let theirs = barred.borrow_and_update().clone().into_iter().map(|who| (who, Some(HOST_NETWORK.to_owned())));
        let now: BTreeMap<_, _> = theirs.chain(ours).collect();
        // Who is no longer there has left the mesh, or is gone altogether.
        let left = told.keys().filter(|known| !now.contains_key(known)).cloned().collect::<Vec<_>>();
        let gone = Some("the workload has left the mesh".to_owned());
        let next = now.iter().map(|(who, why)| (who.clone(), why.clone()));
        let mut failed = false;
        for (who, why_not) in left.iter().map(|who| (who.clone(), gone.clone())).chain(next) {
            if told.get(&who) == Some(&why_not) {
                continue;
            }
            let (uid, pod) = &who;
            let Some((namespace, name)) = uid.as_str().split_once('/') else { continue };
            let name = ObjectName { namespace: namespace.to_owned(), name: name.to_owned() };
            match kubernetes.announce(&name, pod, why_not.as_deref()).await {
                Ok(()) => drop(told.insert(who, why_not)),
                Err(error) if error.is_about_a_gone_object() => drop(told.insert(who, why_not)),
                Err(error) => {
                    failed = true;
                    let error: &dyn std::error::Error = &error;
                    tracing::debug!(error, workload = %uid, "a pod's status is not written yet");
                }
            }
        }
        told.retain(|who, why_not| now.contains_key(who) || *why_not != gone);
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { std::future::pending::<()>().await },
            Ok(()) = barred.changed() => {}
            () = sleep(ANNOUNCE_AGAIN), if failed => {}
        }
    }
}
