//! What the admin socket shows, gathered from everywhere; and the commands that ask it.

use std::io::IsTerminal as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::CertificateDer;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::explain::explained;
use super::prober::Attested;
use super::ready::Gate;
use crate::admin::client::{AskError, ask};
use crate::admin::show;
use crate::admin::socket::Inspect;
use crate::admin::table::Style;
use crate::admin::view::{
    AuditStatus, CertificateView, Certificates, CipherPath, Configuration, ConnectionView, IssuerStatus, KubeletStatus,
    OlderConnections, Rejected, Status, WorkloadView,
};
use crate::args::inspect::{InspectArgs, Output};
use crate::identity::SvidManager;
use crate::model::connection::DataPath;
use crate::model::mesh::{CipherSuite, MtlsMode};
use crate::model::revocation::Serial;
use crate::model::workload::{NodeName, WorkloadUid};
use crate::pod::{Readiness, Stage};
use crate::proxy::{Live, LiveConnections};
use crate::state::MeshState;
use crate::store::Store;
use crate::telemetry::audit::{AuditHandle, AuditView};
use crate::telemetry::metrics::OlderView;
use crate::telemetry::{Direction, Metrics, moment};
use crate::tls::datapath::DataPaths;

/// Where everything is that can be looked at.
pub(super) struct Sources {
    pub(super) node: NodeName,
    pub(super) started: SystemTime,
    pub(super) store: Store,
    pub(super) metrics: Arc<Metrics>,
    pub(super) data_paths: Arc<DataPaths>,
    pub(super) svids: Arc<SvidManager>,
    pub(super) readiness: Arc<Readiness>,
    pub(super) gate: Gate,
    pub(super) live: LiveConnections,
    pub(super) audit: Option<AuditHandle>,
    pub(super) cluster: Option<watch::Receiver<Option<SystemTime>>>,
    pub(super) kubelet: Option<watch::Receiver<Attested>>,
}

impl Sources {
    pub(super) fn inspect(self) -> Inspect {
        let of = Arc::new(self);
        let [status, workloads, connections, certificates, explain] = [(); 5].map(|()| Arc::clone(&of));
        Inspect {
            status: Box::new(move || status.status()),
            workloads: Box::new(move || workloads.workloads()),
            connections: Box::new(move || connections.live.all().iter().map(|live| connection(live)).collect()),
            certificates: Box::new(move || certificates.certificates(SystemTime::now())),
            explain: Box::new(move |asked| {
                explained(&explain.store.snapshot(), asked, SystemTime::now()).map_err(|error| error.to_string())
            }),
        }
    }

    fn status(&self) -> Status {
        let state = self.store.snapshot();
        let pending = self.gate.pending();
        let workloads_pending = self.readiness.pending().len();
        let config = self.metrics.config_view();
        let issuer = self.svids.view();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: self.node.to_string(),
            trust_domain: state.mesh().trust_domain.to_string(),
            mode: state.mesh().mode.name().to_owned(),
            started: second(self.started),
            ready: pending.is_empty(),
            pending,
            data_paths: self.cipher_paths(),
            configuration: Configuration {
                digest: state.digest().to_string(),
                in_force_since: second(config.in_force_since),
                rejected: config.rejected.map(|(since, reason)| Rejected { since: second(since), reason }),
                cluster_answered: self.cluster.as_ref().and_then(|contact| contact.borrow().map(second)),
            },
            issuer: IssuerStatus {
                failing_since: issuer.issuer_failing_since.map(second),
                next_expiry: issuer.next_expiry.map(second),
                trust_roots: issuer.trust_roots,
                issued: issuer.issued,
                failed: issuer.failed,
            },
            workloads_enrolled: self.readiness.stages().iter().filter(|(_, _, stage)| *stage == Stage::Served).count(),
            workloads_pending,
            connections: self.live.count(),
            older_connections: self.older(&state),
            audit: self.audit.as_ref().map(|audit| audit_status(audit.view())),
            kubelet: self.kubelet.as_ref().map(|kubelet| kubelet_status(&kubelet.borrow())),
        }
    }

    fn older(&self, state: &MeshState) -> OlderConnections {
        let is_older = |live: &&Arc<Live>| {
            let mode =
                state.at(live.destination.ip()).map(|at| state.modes().of(&at.uid, live.destination.port()).mode);
            live.direction == Direction::Inbound && live.tls.is_none() && mode == Some(MtlsMode::Strict)
        };
        let OlderView { destroyed, left, failing } = self.metrics.older_view();
        let plaintext = self.live.all().iter().filter(is_older).count();
        OlderConnections { destroyed, left, failing, plaintext: u64::try_from(plaintext).unwrap_or(u64::MAX) }
    }

    fn cipher_paths(&self) -> Vec<CipherPath> {
        let kernel = self.data_paths.kernel().map_or(&[][..], |kernel| &kernel.ciphers);
        let path = |cipher: CipherSuite| {
            let path = if kernel.contains(&cipher) { DataPath::Kernel } else { DataPath::Userspace };
            CipherPath { cipher: cipher.name().to_owned(), data_path: path.label().to_owned() }
        };
        self.store.snapshot().mesh().tls.cipher_suites.iter().copied().map(path).collect()
    }

    fn workloads(&self) -> Vec<WorkloadView> {
        let (state, pending) = (self.store.snapshot(), self.readiness.pending());
        let of_node = state.on_node(&self.node).map(|workload| {
            let reason = pending.iter().find(|(uid, _)| *uid == workload.uid).map(|(_, why)| why.clone());
            WorkloadView {
                workload: workload.uid.to_string(),
                identity: workload.identity.to_string(),
                addresses: workload.addresses.iter().map(ToString::to_string).collect(),
                enrolled: reason.is_none(),
                reason,
            }
        });
        // Those of the mesh that are no workloads: nobody has an address of theirs.
        let is_apart = |uid: &WorkloadUid| state.workload(uid).is_none_or(|workload| workload.node != self.node);
        let apart = pending.iter().filter(|(uid, _)| is_apart(uid)).map(|(uid, why)| WorkloadView {
            workload: uid.to_string(),
            reason: Some(why.clone()),
            ..WorkloadView::default()
        });
        of_node.chain(apart).collect()
    }

    fn certificates(&self, now: SystemTime) -> Certificates {
        let trust = self.svids.trust();
        let trust = Arc::clone(&trust.borrow());
        let leaves = self.svids.held();
        let svids = leaves.iter().filter_map(|svid| certificate(svid.chain.first()?, Some(svid.id.to_string()), now));
        let roots = trust.bundle.roots.iter().filter_map(|root| certificate(root, None, now));
        Certificates { svids: svids.collect(), roots: roots.collect() }
    }
}

/// People and their tools compare these by eye: whole seconds.
fn second(time: SystemTime) -> String {
    moment(UNIX_EPOCH + Duration::from_secs(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()))
}

fn audit_status(view: AuditView) -> AuditStatus {
    let AuditView { sequence, hash, checkpoint, lost, failing } = view;
    AuditStatus { sequence, hash, checkpoint, lost, failing }
}

fn kubelet_status(attested: &Attested) -> KubeletStatus {
    let cgroup = attested.as_ref().ok().map(|cgroup| cgroup.display().to_string());
    KubeletStatus { cgroup, problem: attested.as_ref().err().cloned() }
}

fn connection(live: &Live) -> ConnectionView {
    let info = live.tls.as_ref().map(|tls| tls.info);
    let [read_below, read_above] = live.bytes();
    ConnectionView {
        direction: live.direction.label().to_owned(),
        source: live.source.to_string(),
        destination: live.destination.to_string(),
        endpoint: live.endpoint.map(|endpoint| endpoint.to_string()),
        workload: live.workload.to_string(),
        peer: live.tls.as_ref().map(|tls| tls.peer.to_string()),
        cipher: info.map(|info| info.cipher.name().to_owned()),
        key_exchange: info.map(|info| info.key_exchange.name().to_owned()),
        data_path: info.map(|info| info.data_path.label().to_owned()),
        process: live.process.as_ref().map(|(command, id)| format!("{command} ({id})")),
        age_seconds: live.age().as_secs(),
        bytes_sent: read_below,
        bytes_received: read_above,
    }
}

/// What a certificate says; `subject` where its name is not its subject's.
fn certificate(der: &CertificateDer<'_>, subject: Option<String>, now: SystemTime) -> Option<CertificateView> {
    let (_, parsed) = X509Certificate::from_der(der).ok()?;
    let [not_before, not_after] =
        [parsed.validity().not_before, parsed.validity().not_after].map(|time| SystemTime::from(time.to_datetime()));
    Some(CertificateView {
        subject: subject.unwrap_or_else(|| parsed.subject().to_string()),
        issuer: parsed.issuer().to_string(),
        serial: Serial::from_der(parsed.raw_serial()).to_string(),
        fingerprint: crate::model::svid::fingerprint(der),
        not_before: second(not_before),
        not_after: second(not_after),
        valid: not_before <= now && now <= not_after,
    })
}

/// Which view a command shows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum View {
    /// `mesh-agent certificates`.
    Certificates,
    /// `mesh-agent connections`.
    Connections,
    /// `mesh-agent status`.
    Status,
    /// `mesh-agent workloads`.
    Workloads,
}

/// Why a view can't be shown.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The agent doesn't tell.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// It can't be written as JSON.
    #[error("write JSON")]
    Json(#[from] serde_json::Error),
    /// It can't be written as YAML.
    #[error("write YAML: {0}")]
    Yaml(String),
}

/// Asks the agent, and renders its answer.
pub async fn inspect(view: View, args: &InspectArgs) -> Result<String, InspectError> {
    let (socket, output) = (&*args.admin_socket, args.output);
    match view {
        View::Certificates => text(socket, "/v1/certificates", output, show::certificates).await,
        View::Connections => {
            text(socket, "/v1/connections", output, |all: &Vec<_>, style| show::connections(all, style)).await
        }
        View::Status => text(socket, "/v1/status", output, show::status).await,
        View::Workloads => {
            text(socket, "/v1/workloads", output, |all: &Vec<_>, style| show::workloads(all, style)).await
        }
    }
}

async fn text<T: DeserializeOwned + Serialize>(
    socket: &Path,
    view: &str,
    output: Output,
    table: impl Fn(&T, Style) -> String,
) -> Result<String, InspectError> {
    let answer: T = ask(socket, view).await?;
    in_form(&answer, output, || table(&answer, style_of_stdout()))
}

/// What a command prints: an answer as `text`, or for programs.
pub(super) fn in_form(
    answer: &impl Serialize,
    output: Output,
    text: impl FnOnce() -> String,
) -> Result<String, InspectError> {
    match output {
        Output::Json => Ok(serde_json::to_string_pretty(answer)? + "\n"),
        Output::Table => Ok(text()),
        Output::Yaml => serde_saphyr::to_string(answer).map_err(|error| InspectError::Yaml(error.to_string())),
    }
}

/// Colours and a limit of the width are for a terminal only; NO_COLOR (no-color.org) is honoured.
pub(super) fn style_of_stdout() -> Style {
    let stdout = std::io::stdout();
    if !stdout.is_terminal() {
        return Style::default();
    }
    let width =
        rustix::termios::tcgetwinsize(&stdout).ok().map(|size| usize::from(size.ws_col)).filter(|width| *width > 0);
    Style { width, colour: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) }
}
