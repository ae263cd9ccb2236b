//! Wires everything for `mesh-agent run`; the only module that knows all others.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::DropGuard;

use crate::admin::{self, socket::AdminSocket};
use crate::args::RunArgs;
use crate::bpf::{BpfError, Kernel, Maps};
use crate::identity::SvidManager;
use crate::identity::ca::{CaError, CaFileError};
use crate::kubernetes::{Kubernetes, KubernetesError};
use crate::model::budget::Budget;
use crate::model::kernel::{KernelDefect, defects_of, parse_version};
use crate::model::mesh::CipherSuite;
use crate::model::spiffe::SpiffeIdError;
use crate::model::workload::NodeName;
use crate::pod::{Enrolled, PodManager, Readiness, Sandboxes};
use crate::proxy::{Drain, PodProxy, Shared};
use crate::signing::JournalError;
use crate::sources::file::LoadError;
use crate::state::MeshState;
use crate::store;
use crate::sys::netns::Netns;
use crate::sys::{cgroup, harden, pod};
use crate::telemetry::Metrics;
use crate::telemetry::audit::AuditHandle;
use crate::telemetry::metrics::Views;
use crate::tls::datapath::{DataPathError, DataPaths};
use crate::tls::probe::{ProbeError, probe};

mod audit;
pub mod authority;
pub mod check;
mod cni;
pub mod explain;
pub mod inspect;
pub mod issuer;
pub mod schema;
mod source;

pub use audit::verify_audit;
pub use cni::uninstall as uninstall_plugin;
use inspect::Sources;
use source::Source;

/// How often denials are read from the ring buffer.
const DRAIN_DENIALS: Duration = Duration::from_millis(100);

/// Why an agent doesn't run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The admin address can't be served.
    #[error("serve the admin endpoints on {address}")]
    Admin {
        /// The configured address.
        address: std::net::SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// The admin socket can't be served.
    #[error("serve the admin socket {}", path.display())]
    AdminSocket {
        /// The configured path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The CNI socket can't be served.
    #[error("serve the CNI socket {}", path.display())]
    CniSocket {
        /// The configured path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The kernel side doesn't stand.
    #[error(transparent)]
    Bpf(#[from] BpfError),
    /// The CA can't be used.
    #[error(transparent)]
    Ca(#[from] CaFileError),
    /// A CA isn't fit for use.
    #[error(transparent)]
    UnfitCa(#[from] CaError),
    /// The default Mesh can't be read.
    #[error("read {}", path.display())]
    DefaultMesh {
        /// Its file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A cgroup can't be used.
    #[error("look up cgroup {}", path.display())]
    Cgroup {
        /// Which.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The configuration is wrong: exit code 2.
    #[error(transparent)]
    Config(#[from] LoadError),
    /// The agent is where the kernel programs can't tell it from pods, or don't see it.
    #[error("the agent runs in cgroup {}, which {problem}", own.display())]
    Placement {
        /// The agent's own cgroup.
        own: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The kernel can't do what the configuration wants of it.
    #[error(transparent)]
    DataPath(#[from] DataPathError),
    /// The number of descriptors can't be raised.
    #[error("raise the limit of open files")]
    Descriptors(#[source] io::Error),
    /// A network namespace can't be opened.
    #[error("open network namespace {}", path.display())]
    Netns {
        /// Which.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The node's name can't be part of an identity.
    #[error("the node `{node}` can't have an identity")]
    NodeName {
        /// The name.
        node: NodeName,
        /// The cause.
        source: SpiffeIdError,
    },
    /// The signing service can't write down what it issues.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The Kubernetes API can't be used.
    #[error(transparent)]
    Kubernetes(#[from] KubernetesError),
    /// The Mesh names an issuer that only a cluster has.
    #[error("the Mesh's issuer is `kubernetes`, and the configuration comes from files")]
    NoKubernetes,
    /// A tool needs a CA's key, and the configuration names a remote issuer.
    #[error("the Mesh has no embedded issuer")]
    NoEmbeddedCa,
    /// What an earlier agent wrote of pods can't be read.
    #[error("read {}", path.display())]
    Sandboxes {
        /// Its file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The signing API's address can't be served.
    #[error("serve the signing API on {address}")]
    SigningAddress {
        /// The configured address.
        address: std::net::SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// Signals can't be caught.
    #[error("set up signals")]
    Signals(#[source] io::Error),
}

/// Runs the agent until SIGTERM or SIGINT. What it has pinned stays: enrolled pods fail closed until the next agent.
pub async fn run(args: RunArgs, audit: Option<AuditHandle>) -> Result<(), RunError> {
    let sandboxes = Sandboxes::default();
    cni::restore(&args.cni, &sandboxes)?;
    let source = Source::open(&args, &sandboxes).await?;
    let kubernetes = source.kubernetes().cloned();
    let state = MeshState::new(source.first().clone());
    let node = NodeName::new(&args.node);
    let mount = cgroup::mount_point().map_err(|source| cgroup_error(Path::new("/proc/self/mountinfo"), source))?;
    let root = cgroup_root(&args, &mount)?;
    let own_cgroup = check_placement(&state, &node, &mount, &root)?;
    let data_paths = Arc::new(choose_data_paths(&state)?);
    let svids = Arc::new(SvidManager::new(issuer::of_agent(state.mesh(), &node, kubernetes.as_ref())?));
    let refresh = state.mesh().issuer.refresh;

    let root_id = cgroup::lookup(&mount, &root).map_err(|source| cgroup_error(&root, source))?.id;
    let mut kernel = Kernel::load(&args.bpffs)?;
    kernel.attach_cgroup(&root, root_id)?;
    kernel.detach_other_roots(root_id)?;

    let maps = kernel.maps();
    attest_probes(&maps, args.kubelet_cgroup.as_deref(), &mount, &root)?;
    let (counted, issuing) = (Arc::clone(&maps), Arc::clone(&svids));
    let metrics = Arc::new(Metrics::new(Views {
        kernel: Box::new(move || counted.counters()),
        identity: Box::new(move || issuing.view()),
        audit: audit.clone(),
    }));
    metrics.kernel_tls(data_paths.kernel().map_or(&[], |kernel| &kernel.ciphers));
    let readiness = Arc::new(Readiness::waiting(state.on_node(&node)));
    let (publisher, store) = store::channel(state);
    let budget = Budget::of_descriptors(harden::raise_descriptor_limit().map_err(RunError::Descriptors)?);
    let trust = svids.trust();
    let paths = Arc::clone(&data_paths);
    let shared = Shared::new(store.clone(), Arc::clone(&maps), Arc::clone(&metrics), trust, data_paths, budget);
    let drain = shared.drain.clone();
    let inspect = Sources {
        node: node.clone(),
        started: SystemTime::now(),
        store: store.clone(),
        metrics: Arc::clone(&metrics),
        data_paths: paths,
        svids: Arc::clone(&svids),
        readiness: Arc::clone(&readiness),
        drain: drain.clone(),
        live: shared.live.clone(),
        audit,
    };
    let socket_error = |source| RunError::AdminSocket { path: args.admin_socket.clone(), source };
    let socket = AdminSocket::bind(&args.admin_socket).map_err(socket_error)?;
    let admin =
        TcpListener::bind(args.admin).await.map_err(|source| RunError::Admin { address: args.admin, source })?;

    let mut tasks = JoinSet::new();
    let (path, asked) = (args.admin_socket, admin::socket::serve(socket, inspect.inspect()));
    tasks.spawn(async move { asked.await.map_err(|source| RunError::AdminSocket { path, source }) });
    let pending = pending_view(Arc::clone(&readiness), drain.clone());
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
    let watching = Arc::clone(&metrics);
    let (uninstall, uninstalled) = watch::channel(false);
    if let (Some(members), Some(kubernetes)) = (source.members(), kubernetes) {
        let facts = cni::Facts {
            sandboxes: sandboxes.clone(),
            readiness: Arc::clone(&readiness),
            members,
            cgroup_root: root.clone(),
            own_namespace: kubernetes.namespace().to_owned(),
            uninstalled: uninstalled.clone(),
        };
        let plugin_left = cni::start(&mut tasks, args.cni, facts)?;
        let (own_pod, bpffs, ready) = (args.pod, args.bpffs, Arc::clone(&readiness));
        let withdrawn = source::withdraw(kubernetes.clone(), own_pod, bpffs, ready, uninstalled, plugin_left);
        tasks.spawn(async move { match withdrawn.await? {} });
        let announced = source::announce(kubernetes, Arc::clone(&readiness));
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
    serve_until_signal(&mut tasks, &drain, limit).await
}

/// The labels of the agents' pods.
const AGENTS: &str = "app.kubernetes.io/name=hauberk-agent";
/// The namespace of the mesh's own parts, as the manifests have it.
const NAMESPACE: &str = "hauberk-system";

/// Takes the mesh off every node of a cluster.
pub async fn uninstall_cluster() -> Result<(), KubernetesError> {
    let kubernetes = Kubernetes::connect().await?.in_namespace(NAMESPACE);
    let mut said = Vec::new();
    let say = |left: &[String]| {
        if said != left {
            tracing::info!(agents = left.join(", "), "waiting for the nodes of");
            said = left.to_vec();
        }
    };
    kubernetes.uninstall(AGENTS, say).await?;
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

/// Asks the kernel, unless the configuration wants nothing of it, and says what came out.
fn choose_data_paths(state: &MeshState) -> Result<DataPaths, DataPathError> {
    let settings = &state.mesh().tls;
    let mut why = None;
    let asked = || probe().inspect_err(|error| why = Some(error.to_string()));
    let paths = DataPaths::new(settings, asked)?;
    match paths.kernel() {
        Some(kernel) => {
            let ciphers: Vec<_> = kernel.ciphers.iter().map(|cipher| cipher.name()).collect();
            tracing::info!(
                datapath = "kernel",
                ?ciphers,
                rekey = kernel.rekey,
                "TLS records are protected in the kernel"
            );
        }
        None => {
            tracing::info!(datapath = "userspace", why, "TLS records are protected in user space");
        }
    }
    if paths.kernel().is_some_and(|kernel| kernel.interrupted_send_breaks) {
        tracing::warn!("this kernel breaks a TLS connection whose sender a signal interrupts (errno 512)");
    }
    for defect in paths.kernel().into_iter().flat_map(|_| known_defects()) {
        tracing::warn!(cve = defect.cve, "this kernel's TLS has a known defect: {}", defect.summary);
    }
    Ok(paths)
}

/// What is known against this kernel's TLS, by its version.
fn known_defects() -> impl Iterator<Item = &'static KernelDefect> {
    let name = rustix::system::uname();
    let version = parse_version(&name.release().to_string_lossy(), &name.version().to_string_lossy());
    version.into_iter().flat_map(defects_of)
}

/// What this kernel's TLS can do, for people: `mesh-agent probe`.
pub fn describe_probe() -> Result<String, ProbeError> {
    let support = probe()?;
    let mut text = format!("kernel     {}\n", rustix::system::uname().release().to_string_lossy());
    for defect in known_defects() {
        text += &format!("defect     {}: {}\n", defect.cve, defect.summary);
    }
    for cipher in CipherSuite::ALL {
        let carried = if support.ciphers.contains(&cipher) { "in the kernel" } else { "in user space" };
        text += &format!("cipher     {}: {carried}\n", cipher.name());
    }
    let can = |can: bool| if can { "yes" } else { "no" };
    text += &format!("rekey      {}\nerrno 512  {}\n", can(support.rekey), can(support.interrupted_send_breaks));
    Ok(text)
}

fn start_proxy(shared: &Arc<Shared>, enrolled: Enrolled) -> DropGuard {
    let Enrolled { workload, number, netns, listeners, svid } = enrolled;
    let proxy = PodProxy::new(Arc::clone(shared), workload, number, netns, svid);
    for (direction, listener) in listeners {
        proxy.start(direction, listener);
    }
    proxy.listening()
}

/// sock_ops programs run by the socket's cgroup, so the agent's sockets must be below the root; and a pod's cgroup around
/// the agent would make the agent that pod. Returns the id of the agent's own.
fn check_placement(state: &MeshState, node: &NodeName, mount: &Path, root: &Path) -> Result<u64, RunError> {
    let own = cgroup::own(mount).map_err(|source| cgroup_error(Path::new("/proc/self/cgroup"), source))?;
    let problem = if !own.starts_with(root) {
        format!("is not below the cgroup root {}: start it there", root.display())
    } else if let Some(pod) =
        state.on_node(node).find(|workload| workload.cgroup.as_ref().is_some_and(|cgroup| own.starts_with(cgroup)))
    {
        format!("belongs to the workload {}: start it elsewhere", pod.uid)
    } else {
        return cgroup::lookup(mount, &own).map(|own| own.id).map_err(|source| cgroup_error(&own, source));
    };
    Err(RunError::Placement { own, problem })
}

/// The cgroup that holds the agent and its pods: what is configured, or in a pod what the kubelet calls its root, or all.
fn cgroup_root(args: &RunArgs, mount: &Path) -> Result<PathBuf, RunError> {
    if let Some(root) = &args.cgroup_root {
        return Ok(root.clone());
    }
    let own = cgroup::own(mount).map_err(|source| cgroup_error(Path::new("/proc/self/cgroup"), source))?;
    let above = args.kubernetes.then(|| pod::root_above(&own)).flatten();
    Ok(above.unwrap_or(mount).to_owned())
}

/// Tells the kernel whose connections are probes. Without a kubelet, nobody's are.
fn attest_probes(maps: &Maps, configured: Option<&Path>, mount: &Path, root: &Path) -> Result<(), RunError> {
    let found = pod::kubelet(mount, root).map_err(|source| cgroup_error(Path::new("/proc"), source))?;
    let Some(path) = configured.or(found.as_deref()) else {
        return Ok(maps.set_prober(0, 0, 0)?);
    };
    let cgroup = cgroup::lookup(mount, path).map_err(|source| cgroup_error(path, source))?;
    let own = Path::new("/proc/self/ns/net");
    let own = Netns::open(own).map_err(|source| RunError::Netns { path: own.to_owned(), source })?;
    tracing::info!(cgroup = %path.display(), "the kubelet's probes reach applications in every mode");
    Ok(maps.set_prober(cgroup.id, cgroup.level, own.cookie())?)
}

fn pending_view(readiness: Arc<Readiness>, drain: Drain) -> admin::Pending {
    Arc::new(move || {
        let waiting = readiness.pending().into_iter().map(|(uid, why)| format!("{uid}: {why}"));
        drain.has_begun().then(|| "draining".to_owned()).into_iter().chain(waiting).collect()
    })
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

fn cgroup_error(path: &Path, source: io::Error) -> RunError {
    RunError::Cgroup { path: path.to_owned(), source }
}
