//! Wires everything for `mesh-agent run`; the only module that knows all others.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::DropGuard;

use crate::admin::{self, socket::AdminSocket};
use crate::args::RunArgs;
use crate::bpf::{Kernel, Maps};
use crate::identity::SvidManager;
use crate::kubernetes::{Kubernetes, KubernetesError};
use crate::model::budget::Budget;
use crate::model::workload::NodeName;
use crate::pod::{Enrolled, PodManager, Readiness, Sandboxes};
use crate::proxy::{Drain, PodProxy, Shared};
use crate::state::MeshState;
use crate::store;
use crate::sys::{cgroup, harden};
use crate::telemetry::Metrics;
use crate::telemetry::audit::AuditHandle;
use crate::telemetry::metrics::Views;

mod audit;
pub mod authority;
pub mod check;
mod cni;
pub mod doctor;
mod error;
pub mod explain;
pub mod inspect;
pub mod issuer;
mod paths;
mod placement;
mod prober;
mod ready;
pub mod schema;
mod source;

pub use audit::verify_audit;
pub use cni::uninstall as uninstall_plugin;
pub use error::RunError;
use error::cgroup_error;
use inspect::Sources;
use paths::choose_data_paths;
pub use paths::describe_probe;
use placement::{cgroup_root, check_placement};
use prober::Prober;
use ready::Gate;
use source::Source;

/// How often denials are read from the ring buffer.
const DRAIN_DENIALS: Duration = Duration::from_millis(100);

/// Runs the agent until SIGTERM or SIGINT. What it has pinned stays: enrolled pods fail closed until the next agent.
pub async fn run(args: RunArgs, audit: Option<AuditHandle>) -> Result<(), RunError> {
    let sandboxes = Sandboxes::default();
    cni::restore(&args.cni, &sandboxes)?;
    let source = Source::open(&args, &sandboxes).await?;
    let contact = source.cluster().map(|(_, followed)| followed.contact());
    let state = MeshState::new(source.first().clone());
    let node = NodeName::new(&args.node);
    let mount = cgroup::mount_point().map_err(|source| cgroup_error(Path::new("/proc/self/mountinfo"), source))?;
    let root = cgroup_root(args.cgroup_root.as_deref(), args.kubernetes, &mount)?;
    let own_cgroup = check_placement(&state, &node, &mount, &root)?;
    let data_paths = Arc::new(choose_data_paths(&state)?);
    let svids = Arc::new(SvidManager::new(issuer::of_agent(
        state.mesh(),
        &node,
        source.cluster().map(|(kubernetes, _)| kubernetes),
    )?));
    let refresh = state.mesh().issuer.refresh;

    let root_id = cgroup::lookup(&mount, &root).map_err(|source| cgroup_error(&root, source))?.id;
    let mut kernel = Kernel::load(&args.bpffs)?;
    kernel.attach_cgroup(&root, root_id)?;
    kernel.detach_other_roots(root_id)?;

    let maps = kernel.maps();
    let expects_kubelet = args.kubernetes || args.kubelet_cgroup.is_some();
    let prober =
        Prober::start(Arc::clone(&maps), args.kubelet_cgroup.clone(), mount.clone(), root.clone(), expects_kubelet)?;
    let kubelet = prober.as_ref().map(Prober::view);
    let (counted, issuing) = (Arc::clone(&maps), Arc::clone(&svids));
    let metrics = Arc::new(Metrics::new(Views {
        kernel: Box::new(move || counted.counters()),
        identity: Box::new(move || issuing.view()),
        audit: audit.clone(),
        cluster: contact.clone(),
        kubelet: kubelet.clone(),
    }));
    metrics.kernel_tls(data_paths.kernel().map_or(&[], |kernel| &kernel.ciphers));
    let readiness = Arc::new(Readiness::waiting(state.on_node(&node)));
    let (publisher, store) = store::channel(state);
    let budget = Budget::of_descriptors(harden::raise_descriptor_limit().map_err(RunError::Descriptors)?);
    let trust = svids.trust();
    let paths = Arc::clone(&data_paths);
    let shared = Shared::new(store.clone(), Arc::clone(&maps), Arc::clone(&metrics), trust, data_paths, budget);
    let drain = shared.drain.clone();
    let shall_leave = source.cluster().is_some_and(|(_, followed)| followed.cluster().is_uninstalled());
    let (uninstall, uninstalled) = watch::channel(shall_leave);
    let (placed, plugin_placed) = watch::channel(!args.kubernetes || args.cni.place.cni_bin_dir.is_none());
    let gate = Gate {
        workloads: Arc::clone(&readiness),
        svids: Arc::clone(&svids),
        plugin: plugin_placed,
        uninstalled: uninstalled.clone(),
        drain: drain.clone(),
        passed: Arc::default(),
    };
    let inspect = Sources {
        node: node.clone(),
        started: SystemTime::now(),
        store: store.clone(),
        metrics: Arc::clone(&metrics),
        data_paths: paths,
        svids: Arc::clone(&svids),
        readiness: Arc::clone(&readiness),
        gate: gate.clone(),
        live: shared.live.clone(),
        audit,
        cluster: contact,
        kubelet,
    };
    let socket_error = |source| RunError::AdminSocket { path: args.admin_socket.clone(), source };
    let socket = AdminSocket::bind(&args.admin_socket).map_err(socket_error)?;
    let admin =
        TcpListener::bind(args.admin).await.map_err(|source| RunError::Admin { address: args.admin, source })?;

    let mut tasks = JoinSet::new();
    let (path, asked) = (args.admin_socket.clone(), admin::socket::serve(socket, inspect.inspect()));
    tasks.spawn(async move { asked.await.map_err(|source| RunError::AdminSocket { path, source }) });
    let pending: admin::Pending = Arc::new(move || gate.pending());
    let (admin_metrics, address) = (Arc::clone(&metrics), args.admin);
    tasks.spawn(async move {
        admin::serve(admin, admin_metrics, pending).await.map_err(|source| RunError::Admin { address, source })
    });
    let rotating = Arc::clone(&svids);
    tasks.spawn(async move {
        rotating.run(refresh).await;
        Ok(())
    });
    tasks.spawn(report_denials(maps));
    if let Some(prober) = prober {
        tasks.spawn(prober.run());
    }
    let watching = Arc::clone(&metrics);
    let (left, traces) = (Arc::new(AtomicBool::new(false)), traces(&args));
    if let Some((kubernetes, followed)) = source.cluster() {
        let facts = cni::Facts {
            sandboxes: sandboxes.clone(),
            readiness: Arc::clone(&readiness),
            members: followed.members(),
            cgroup_root: root.clone(),
            own_namespace: kubernetes.namespace().to_owned(),
            uninstalled: uninstalled.clone(),
            placed,
        };
        let plugin_left = cni::start(&mut tasks, args.cni, facts)?;
        let (own_pod, bpffs, ready) = (args.pod, args.bpffs, Arc::clone(&readiness));
        let left = Arc::clone(&left);
        let withdrawn = source::withdraw(kubernetes.clone(), own_pod, bpffs, ready, uninstalled, plugin_left, left);
        tasks.spawn(async move { Ok(withdrawn.await?) });
        let announced = source::announce(kubernetes.clone(), Arc::clone(&readiness), followed.barred());
        tasks.spawn(async move { match announced.await {} });
    }
    tasks.spawn(async move { match source.run(publisher, watching, uninstall).await {} });
    let pods = PodManager {
        kernel,
        store,
        node,
        cgroup_mount: mount,
        cgroup_root: root,
        sandboxes,
        own_cgroup,
        svids,
        readiness,
        metrics,
        start: move |enrolled| start_proxy(&shared, enrolled),
    };
    tasks.spawn(async move { Ok(pods.run().await?) });

    let limit = Duration::from_secs(args.drain_timeout);
    let ended = serve_until_signal(&mut tasks, &drain, limit).await;
    if left.load(Ordering::Relaxed) {
        for path in traces {
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::warn!(%error, path = %path.display(), "a file of this agent is left");
            }
        }
    }
    ended
}

/// The files that an agent has while it runs, and that mean something to the next one.
fn traces(args: &RunArgs) -> Vec<PathBuf> {
    let plugin = args.cni.cni_socket.iter().flat_map(|socket| [socket.clone(), cni::records_beside(socket)]);
    plugin.chain([args.admin_socket.clone()]).collect()
}

/// The agents' DaemonSet and service account, as the manifests have them.
const AGENT: &str = "hauberk-agent";
/// The labels of the agents' pods.
const AGENTS: &str = "app.kubernetes.io/name=hauberk-agent";
/// The namespace of the mesh's own parts, as the manifests have it.
const NAMESPACE: &str = "hauberk-system";

/// Takes the mesh off every node of a cluster, within `limit`.
pub async fn uninstall_cluster(limit: Duration) -> Result<(), KubernetesError> {
    let kubernetes = Kubernetes::connect().await?.in_namespace(NAMESPACE);
    let mut said = Vec::new();
    let say = |left: &[String]| {
        if said != left {
            tracing::info!(nodes = left.join(", "), "waiting for their agents to withdraw");
            said = left.to_vec();
        }
    };
    let left = kubernetes.uninstall(AGENT, AGENTS, limit, say).await?;
    if !left.is_empty() {
        return Err(KubernetesError::Object(format!(
            "no agent has taken the mesh off these nodes: {}. Delete the nodes that are gone for good, run `mesh-agent uninstall` on \
             the others, or mend their agents and try again",
            left.join(", ")
        )));
    }
    tracing::info!("no node has anything of the mesh; now delete its objects: kubectl delete -k deploy/");
    Ok(())
}

/// Until a signal comes and the connections have ended, or a task ends that should not.
async fn serve_until_signal(
    tasks: &mut JoinSet<Result<(), RunError>>,
    drain: &Drain,
    limit: Duration,
) -> Result<(), RunError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Signals)?;
    let mut next_signal = async || {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    };
    let signal = tokio::select! {
        signal = next_signal() => signal,
        Some(ended) = tasks.join_next() => return ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic())),
    };
    tracing::info!(signal, "draining; enrolled pods stay in the mesh and fail closed");
    let reset = drain.run(limit, next_signal()).await;
    tracing::info!(connections.reset = reset, "drained");
    Ok(())
}

fn start_proxy(shared: &Arc<Shared>, enrolled: Enrolled) -> DropGuard {
    let Enrolled { workload, number, netns, listeners, svid } = enrolled;
    let proxy = PodProxy::new(Arc::clone(shared), workload, number, netns, svid);
    for (direction, listener) in listeners {
        proxy.start(direction, listener);
    }
    proxy.listening()
}

async fn report_denials(maps: Arc<Maps>) -> Result<(), RunError> {
    let mut timer = tokio::time::interval(DRAIN_DENIALS);
    loop {
        timer.tick().await;
        for denial in maps.denials() {
            tracing::warn!(
                target: "audit",
                reason = denial.reason,
                dst.addr = %denial.destination,
                netns.cookie = denial.netns,
                cgroup.id = denial.cgroup,
                process.comm = denial.comm,
                process.pid = denial.tgid,
                process.uid = denial.uid,
                "connect refused"
            );
        }
    }
}
