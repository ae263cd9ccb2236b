//! Reports one finished connection: the access line and all counters, in one place.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::metrics::{Closed, Metrics};
use crate::model::connection::{PathQuality, TlsInfo};
use crate::model::policy::PolicyName;
use crate::model::revocation::{CertificateId, Serial};
use crate::model::service::ServiceUid;
use crate::model::spiffe::SpiffeId;

/// Which way a connection goes, seen from the pod.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Direction {
    /// To the pod.
    Inbound,
    /// From the pod.
    Outbound,
}

impl Direction {
    /// The label in metrics and logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// How a connection ended. The reasons are stable labels.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum End {
    /// Both ends said that they are done.
    Closed,
    /// A rule refused it.
    Denied(&'static str),
    /// Something broke: before the relay (a connect) or in it (a reset).
    Failed(&'static str),
    /// A TLS handshake that we began came to nothing: who answered didn't prove to be the one that was meant.
    Unproven(&'static str),
}

impl End {
    /// What the audit log calls it, if it is an event of security.
    const fn security_event(self) -> Option<&'static str> {
        match self {
            Self::Closed | Self::Failed(_) => None,
            Self::Denied(_) => Some("connection denied"),
            Self::Unproven(_) => Some("handshake failed"),
        }
    }
}

/// The TLS side of a connection.
#[derive(Clone, Debug)]
pub struct Tls {
    /// The authenticated peer.
    pub peer: SpiffeId,
    /// The certificates that it showed, leaf first: what a `Revocation` can name. Never empty.
    pub chain: Arc<[CertificateId]>,
    /// What was negotiated.
    pub info: TlsInfo,
}

impl Tls {
    /// The serial number of its leaf.
    pub fn serial(&self) -> &Serial {
        &self.chain[0].serial
    }
}

/// What refused a connection at its admission, beside the reason and the policy.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The serial number of this node's certificate.
    pub own_serial: Serial,
    /// The rule of the policy that matches.
    pub rule: Option<usize>,
    /// Who asked in Rego: the decision's id, and what it says.
    pub decision: Option<(String, Option<String>)>,
}

/// What is known of a connection; filled in on its way, reported at its end.
#[derive(Clone, Debug)]
pub struct ConnectionSummary {
    /// Which way.
    pub direction: Direction,
    /// The connecting end.
    pub source: SocketAddr,
    /// The end that it meant to reach.
    pub destination: SocketAddr,
    /// If that is a service: which, and the endpoint that was chosen, if there was one.
    pub endpoint: Option<(ServiceUid, Option<SocketAddr>)>,
    /// The identity of this node's workload.
    pub workload: SpiffeId,
    /// Bytes from the source to the destination.
    pub bytes_sent: u64,
    /// Bytes from the destination to the source.
    pub bytes_received: u64,
    /// `None`: plaintext, or it never came to TLS.
    pub tls: Option<Tls>,
    /// Who made the connection, if the kernel attested it: command and process id.
    pub process: Option<(String, u32)>,
    /// The policy that allowed or refused it; `None` if none was asked, or none had to decide.
    pub policy: Option<PolicyName>,
    /// What refused it, for the audit log.
    pub refusal: Option<Refusal>,
    /// How the path to the other node did, as the kernel measured it; `None` if the connection was never carried.
    pub path: Option<PathQuality>,
    started: Instant,
}

impl ConnectionSummary {
    /// Begins a connection at `started`.
    pub fn new(
        direction: Direction,
        source: SocketAddr,
        destination: SocketAddr,
        workload: SpiffeId,
        started: Instant,
    ) -> Self {
        let (tls, process, policy, refusal, path, endpoint) = (None, None, None, None, None, None);
        let (bytes_sent, bytes_received) = (0, 0);
        Self {
            direction,
            source,
            destination,
            endpoint,
            workload,
            bytes_sent,
            bytes_received,
            tls,
            process,
            policy,
            refusal,
            path,
            started,
        }
    }

    /// When it was accepted.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Writes the access line and counts the connection.
    pub fn finish(&self, end: End, metrics: &Metrics) {
        let (outcome, reason) = match end {
            End::Closed => ("ok", None),
            End::Denied(reason) => ("denied", Some(reason)),
            End::Failed(reason) | End::Unproven(reason) => ("failed", Some(reason)),
        };
        let info = self.tls.as_ref().map(|tls| tls.info);
        let (service, endpoint) = self.endpoint.as_ref().map(|(service, endpoint)| (service, *endpoint)).unzip();
        let endpoint = endpoint.flatten();
        let peer = self.tls.as_ref().map(|tls| &tls.peer);
        let (source_id, destination_id) = match self.direction {
            Direction::Inbound => (peer, Some(&self.workload)),
            Direction::Outbound => (Some(&self.workload), peer),
        };
        tracing::info!(
            target: "access",
            direction = self.direction.label(),
            src.addr = %self.source,
            dst.addr = %self.destination,
            service = service.map(tracing::field::display),
            endpoint.addr = endpoint.map(tracing::field::display),
            src.id = source_id.map(tracing::field::display),
            dst.id = destination_id.map(tracing::field::display),
            peer.id = peer.map(tracing::field::display),
            peer.serial = self.tls.as_ref().map(|tls| tracing::field::display(tls.serial())),
            tls.version = info.map(|info| info.version),
            tls.cipher = info.map(|info| info.cipher.name()),
            tls.key_exchange = info.map(|info| info.key_exchange.name()),
            tls.resumed = info.map(|info| info.resumed),
            datapath = info.map(|info| info.data_path.label()),
            process.comm = self.process.as_ref().map(|(comm, _pid)| comm.as_str()),
            process.pid = self.process.as_ref().map(|(_comm, pid)| *pid),
            bytes_sent = self.bytes_sent,
            bytes_received = self.bytes_received,
            rtt_ms = self.path.map(|path| path.rtt.as_secs_f64() * 1e3),
            retransmits = self.path.map(|path| path.retransmits),
            duration_ms = self.started.elapsed().as_secs_f64() * 1e3,
            outcome,
            reason,
            policy = self.policy.as_ref().map(tracing::field::display),
            "connection"
        );
        if let Some(event) = end.security_event() {
            let refusal = self.refusal.as_ref();
            let decision = refusal.and_then(|refusal| refusal.decision.as_ref());
            tracing::warn!(
                target: "audit",
                direction = self.direction.label(),
                src.addr = %self.source,
                dst.addr = %self.destination,
                endpoint.addr = endpoint.map(tracing::field::display),
                src.id = source_id.map(tracing::field::display),
                dst.id = destination_id.map(tracing::field::display),
                peer.serial = self.tls.as_ref().map(|tls| tracing::field::display(tls.serial())),
                workload.serial = refusal.map(|refusal| tracing::field::display(&refusal.own_serial)),
                process.comm = self.process.as_ref().map(|(comm, _pid)| comm.as_str()),
                reason,
                policy = self.policy.as_ref().map(tracing::field::display),
                policy.rule = refusal.and_then(|refusal| refusal.rule),
                decision.id = decision.map(|(id, _)| id.as_str()),
                decision.reason = decision.and_then(|(_, reason)| reason.as_deref()),
                "{event}"
            );
        }
        metrics.closed(&Closed {
            direction: self.direction.label(),
            outcome,
            reason: reason.unwrap_or_default(),
            tls: info.map_or("none", |info| info.version),
            bytes_sent: self.bytes_sent,
            bytes_received: self.bytes_received,
        });
    }
}
