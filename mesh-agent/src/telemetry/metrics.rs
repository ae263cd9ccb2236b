//! The Prometheus metrics: names, labels, units.
//!
//! Label values come from the code, never from the network: their number is bounded.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use tokio::sync::watch;

use super::access::Direction;
use super::audit::AuditHandle;
use crate::model::connection::TlsInfo;
use crate::model::mesh::CipherSuite;

mod decisions;
mod older;

pub use older::OlderView;

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct DirectionLabel {
    direction: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct CipherLabel {
    cipher: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ByteLabels {
    direction: &'static str,
    flow: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ClosedLabels {
    direction: &'static str,
    outcome: &'static str,
    reason: &'static str,
    tls: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct HandshakeLabels {
    direction: &'static str,
    kind: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct SessionLabels {
    direction: &'static str,
    datapath: &'static str,
}

/// One finished connection, as labels and values.
pub(super) struct Closed {
    pub(super) direction: &'static str,
    pub(super) outcome: &'static str,
    pub(super) reason: &'static str,
    pub(super) tls: &'static str,
    pub(super) bytes_sent: u64,
    pub(super) bytes_received: u64,
}

/// Every metric of the agent. Clones share.
pub struct Metrics {
    registry: Registry,
    opened: Family<DirectionLabel, Counter>,
    closed: Family<ClosedLabels, Counter>,
    active: Family<DirectionLabel, Gauge>,
    bytes: Family<ByteLabels, Counter>,
    handshakes: Family<HandshakeLabels, Histogram>,
    sessions: Family<SessionLabels, Counter>,
    source_ports: Counter,
    kernel_tls: Family<CipherLabel, Gauge>,
    enrolled: Gauge,
    pending: Gauge,
    config_in_force: Gauge,
    config_accepted: Counter,
    config_rejected: Counter,
    config: Mutex<ConfigView>,
    decisions: decisions::Decisions,
    older: older::Older,
}

impl Metrics {
    /// Makes and registers all metrics.
    pub fn new(views: Views) -> Self {
        // 0.5 ms to 8 s: a handshake takes about one of the former, and its deadline is 10 s.
        let buckets: fn() -> Histogram = || Histogram::new(exponential_buckets(0.0005, 2.0, 15));
        let mut metrics = Self {
            registry: Registry::default(),
            opened: Family::default(),
            closed: Family::default(),
            active: Family::default(),
            bytes: Family::default(),
            handshakes: Family::new_with_constructor(buckets),
            sessions: Family::default(),
            source_ports: Counter::default(),
            kernel_tls: Family::default(),
            enrolled: Gauge::default(),
            pending: Gauge::default(),
            config_in_force: Gauge::default(),
            config_accepted: Counter::default(),
            config_rejected: Counter::default(),
            config: Mutex::new(ConfigView { in_force_since: SystemTime::now(), rejected: None }),
            decisions: decisions::Decisions::default(),
            older: older::Older::default(),
        };
        metrics.register(views);
        metrics
    }

    fn register(&mut self, views: Views) {
        let registry = self.registry.sub_registry_with_prefix("mesh");
        registry.register("connections_opened", "Connections accepted from pods or peers", self.opened.clone());
        registry.register("connections_closed", "Connections that ended, with how and why", self.closed.clone());
        registry.register("connections_active", "Connections open now", self.active.clone());
        let help = "Application bytes relayed; sent is from the source to the destination";
        registry.register_with_unit("relayed", help, Unit::Bytes, self.bytes.clone());
        let help = "Duration of TLS handshakes that succeeded, full or resumed";
        registry.register_with_unit("handshake", help, Unit::Seconds, self.handshakes.clone());
        let help = "TLS sessions that began, by where their records are protected";
        registry.register("tls_sessions", help, self.sessions.clone());
        let help = "Outbound connections whose source port could not be kept";
        registry.register("source_ports_changed", help, self.source_ports.clone());
        let help = "Whether the kernel protects the records of this cipher's sessions";
        registry.register("kernel_tls", help, self.kernel_tls.clone());
        registry.register("workloads_enrolled", "Workloads of this node that are in the mesh", self.enrolled.clone());
        registry.register("workloads_pending", "Workloads of this node that wait to be enrolled", self.pending.clone());
        let help = "Whether the configuration as it is now is in force; if not, the last good one is";
        registry.register("config_in_force", help, self.config_in_force.clone());
        registry.register("config_accepted", "Configurations taken, the first included", self.config_accepted.clone());
        registry.register(
            "config_rejected",
            "Changed configurations that were not taken",
            self.config_rejected.clone(),
        );
        self.decisions.register(registry);
        self.older.register(registry);
        registry.register_collector(Box::new(views));
    }

    /// The text exposition format.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// Counts a connection that was accepted; the guard counts it as active while it lives.
    pub fn opened(&self, direction: Direction) -> ActiveGuard {
        let label = DirectionLabel { direction: direction.label() };
        self.opened.get_or_create(&label).inc();
        let gauge = self.active.get_or_create(&label).clone();
        gauge.inc();
        ActiveGuard(gauge)
    }

    pub(super) fn closed(&self, closed: &Closed) {
        let Closed { direction, outcome, reason, tls, bytes_sent, bytes_received } = *closed;
        self.closed.get_or_create(&ClosedLabels { direction, outcome, reason, tls }).inc();
        self.bytes.get_or_create(&ByteLabels { direction, flow: "sent" }).inc_by(bytes_sent);
        self.bytes.get_or_create(&ByteLabels { direction, flow: "received" }).inc_by(bytes_received);
    }

    /// Counts a handshake that succeeded, and where its session goes on.
    pub fn handshake(&self, direction: Direction, info: &TlsInfo, took: Duration) {
        let (direction, kind) = (direction.label(), if info.resumed { "resumed" } else { "full" });
        self.handshakes.get_or_create(&HandshakeLabels { direction, kind }).observe(took.as_secs_f64());
        self.sessions.get_or_create(&SessionLabels { direction, datapath: info.data_path.label() }).inc();
    }

    /// Counts an outbound connection that had to take another source port than the application's.
    pub fn source_port_changed(&self) {
        self.source_ports.inc();
    }

    /// Sets which ciphers the kernel carries.
    pub fn kernel_tls(&self, carried: &[CipherSuite]) {
        for cipher in CipherSuite::ALL {
            let gauge = self.kernel_tls.get_or_create(&CipherLabel { cipher: cipher.name() });
            gauge.set(i64::from(carried.contains(&cipher)));
        }
    }

    /// Counts a configuration that was read at `now`, and notes why it was rejected, if it was.
    pub fn configuration(&self, now: SystemTime, rejection: Option<String>) {
        self.config_in_force.set(i64::from(rejection.is_none()));
        let mut config = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        match rejection {
            None => {
                self.config_accepted.inc();
                *config = ConfigView { in_force_since: now, rejected: None };
            }
            Some(reason) => {
                self.config_rejected.inc();
                config.rejected = Some((now, reason));
            }
        }
    }

    /// What configuration is in force.
    pub fn config_view(&self) -> ConfigView {
        self.config.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets how many of the node's workloads are in the mesh, and how many wait.
    pub fn workloads(&self, enrolled: usize, pending: usize) {
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.enrolled.set(gauge(enrolled));
        self.pending.set(gauge(pending));
    }
}

/// Holds a connection's place in the gauge of active ones.
pub struct ActiveGuard(Gauge);

impl Drop for ActiveGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// What is read at each scrape instead of being counted here.
pub struct Views {
    /// What the kernel programs did, by reason.
    pub kernel: Box<dyn Fn() -> Vec<(&'static str, u64)> + Send + Sync>,
    /// How issuing goes.
    pub identity: Box<dyn Fn() -> IdentityView + Send + Sync>,
    /// How the audit log stands, if there is one.
    pub audit: Option<AuditHandle>,
    /// When the Kubernetes API answered last, if the configuration comes from there.
    pub cluster: Option<watch::Receiver<Option<SystemTime>>>,
    /// The cgroup of the kubelet or why it isn't known, where there should be one.
    pub kubelet: Option<watch::Receiver<Result<PathBuf, String>>>,
}

#[cfg(test)]
impl Views {
    /// Of nothing.
    pub(crate) fn none() -> Self {
        Self {
            kernel: Box::new(Vec::new),
            identity: Box::new(IdentityView::default),
            audit: None,
            cluster: None,
            kubelet: None,
        }
    }
}

/// What configuration is in force.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConfigView {
    /// Since when.
    pub in_force_since: SystemTime,
    /// When a newer one was rejected, and why; `None` once one is taken.
    pub rejected: Option<(SystemTime, String)>,
}

/// How issuing goes.
#[derive(Clone, Copy, Debug, Default)]
pub struct IdentityView {
    /// When the first of the node's SVIDs expires; `None` without any.
    pub next_expiry: Option<SystemTime>,
    /// For how long that one is valid in all.
    pub next_lifetime: Option<Duration>,
    /// When the first of the roots ends.
    pub root_expiry: Option<SystemTime>,
    /// Whether the issuer has given anything, be it its roots.
    pub issuer_answered: bool,
    /// Since when the issuer doesn't answer; `None` if it does.
    pub issuer_failing_since: Option<SystemTime>,
    /// SVIDs that were issued.
    pub issued: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Roots in the trust bundle.
    pub trust_roots: usize,
}

impl fmt::Debug for Views {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Views")
    }
}

impl Collector for Views {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "What the kernel programs did, by reason";
        let mut family = encoder.encode_descriptor("kernel_events", help, None, MetricType::Counter)?;
        for (reason, value) in (self.kernel)() {
            ConstCounter::new(value).encode(family.encode_family(&[("reason", reason)])?)?;
        }
        let view = (self.identity)();
        gauge(&mut encoder, "issuer_up", "Whether the issuer answers", f64::from(view.issuer_failing_since.is_none()))?;
        if let Some(since) = view.issuer_failing_since {
            timestamp(&mut encoder, "issuer_failing_since_timestamp", "Since when the issuer doesn't answer", since)?;
        }
        #[expect(clippy::cast_precision_loss, reason = "nobody has as many roots")]
        gauge(&mut encoder, "trust_roots", "Roots in the trust bundle", view.trust_roots as f64)?;
        let mut count = |name, help, value| {
            let family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(value).encode(family)
        };
        count("svids_issued", "SVIDs issued to this agent", view.issued)?;
        count("svid_failures", "Attempts to get an SVID that failed", view.failed)?;
        if let Some(audit) = self.audit.as_ref().map(AuditHandle::view) {
            count("audit_records_lost", "Security events that the audit log had no room for", audit.lost)?;
            let writable = f64::from(audit.failing.is_none());
            gauge(&mut encoder, "audit_writable", "Whether the audit log can be written", writable)?;
        }
        if let Some(answered) = self.cluster.as_ref().and_then(|contact| *contact.borrow()) {
            let help = "When the Kubernetes API answered last and no watch was failing, in Unix time: what is in force is as old";
            timestamp(&mut encoder, "kubernetes_contact_timestamp", help, answered)?;
        }
        if let Some(end) = view.root_expiry {
            timestamp(&mut encoder, "root_expiry_timestamp", "When the first of the roots ends, in Unix time", end)?;
        }
        if let Some(lifetime) = view.next_lifetime {
            let help = "For how long the first of this node's SVIDs to expire is valid in all";
            seconds(&mut encoder, "svid_lifetime", help, lifetime)?;
        }
        if let Some(kubelet) = &self.kubelet {
            let help = "Whether the kubelet is known, so that its probes reach applications in strict mode";
            gauge(&mut encoder, "kubelet_attested", help, f64::from(kubelet.borrow().is_ok()))?;
        }
        let Some(expiry) = view.next_expiry else { return Ok(()) };
        let help = "When the first of this node's SVIDs expires, in Unix time";
        timestamp(&mut encoder, "svid_expiry_timestamp", help, expiry)
    }
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: f64) -> fmt::Result {
    ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
}

fn timestamp(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, time: SystemTime) -> fmt::Result {
    seconds(encoder, name, help, time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn seconds(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, time: Duration) -> fmt::Result {
    let family = encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Gauge)?;
    ConstGauge::new(time.as_secs_f64()).encode(family)
}

#[cfg(test)]
mod tests;
