//! What the admin socket shows, as JSON: the same shapes for the agent that writes and the command that reads them.
//!
//! Times are ISO 8601 in UTC. Nothing here is secret, and nothing is a key.

use serde::{Deserialize, Serialize};

/// `/v1/status`: how the agent does.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Status {
    /// The agent's version.
    pub version: String,
    /// The node that it serves.
    pub node: String,
    /// The trust domain.
    pub trust_domain: String,
    /// `STRICT` or `PERMISSIVE`.
    pub mode: String,
    /// Since when it runs.
    pub started: String,
    /// Whether it serves: each of the workloads that it found was tried, and the issuer and the CNI plugin are there.
    pub ready: bool,
    /// What keeps it from being ready.
    pub pending: Vec<String>,
    /// Where the records of each cipher's sessions are protected.
    pub data_paths: Vec<CipherPath>,
    /// The configuration.
    pub configuration: Configuration,
    /// Who signs.
    pub issuer: IssuerStatus,
    /// Workloads of this node in the mesh.
    pub workloads_enrolled: usize,
    /// Workloads of this node that wait.
    pub workloads_pending: usize,
    /// Connections that are carried now.
    pub connections: usize,
    /// Connections that are older than what the mesh asks of them.
    pub older_connections: OlderConnections,
    /// The audit log, if there is one.
    pub audit: Option<AuditStatus>,
    /// The kubelet, where there should be one.
    pub kubelet: Option<KubeletStatus>,
}

/// Whose probes reach applications in every mode.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct KubeletStatus {
    /// The kubelet's cgroup; `None`: nobody's probes do.
    pub cgroup: Option<String>,
    /// Why it isn't known.
    pub problem: Option<String>,
}

/// Connections that are older than their workload's enrolment, or in plaintext and older than STRICT.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct OlderConnections {
    /// Older than the enrolment: reset since the agent runs.
    pub destroyed: u64,
    /// Older than the enrolment, and still there.
    pub left: u64,
    /// Why those could not be reset.
    pub failing: Option<String>,
    /// Plaintext at ports that have become strict since.
    pub plaintext: u64,
}

/// Where one cipher's records are protected.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct CipherPath {
    /// The cipher suite.
    pub cipher: String,
    /// `kernel` or `userspace`.
    pub data_path: String,
}

/// What configuration is in force.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Configuration {
    /// The beginning of a SHA-256 over its documents: the same on nodes that have the same.
    pub digest: String,
    /// Since when.
    pub in_force_since: String,
    /// A newer one that was rejected, if the files hold one.
    pub rejected: Option<Rejected>,
    /// When the Kubernetes API answered last; `None`: the configuration comes from files.
    pub cluster_answered: Option<String>,
}

/// A configuration that was not taken.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Rejected {
    /// Since when.
    pub since: String,
    /// Every mistake, one a line.
    pub reason: String,
}

/// How issuing goes.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct IssuerStatus {
    /// Since when the issuer doesn't answer; `None` if it does.
    pub failing_since: Option<String>,
    /// When the first of the node's SVIDs expires.
    pub next_expiry: Option<String>,
    /// Roots in the trust bundle.
    pub trust_roots: usize,
    /// SVIDs that were issued since the start.
    pub issued: u64,
    /// Attempts that failed.
    pub failed: u64,
}

/// How the audit log stands.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct AuditStatus {
    /// Number of the newest record.
    pub sequence: u64,
    /// Its hash.
    pub hash: String,
    /// Number of the newest checkpoint.
    pub checkpoint: u64,
    /// Events that found no room.
    pub lost: u64,
    /// Why nothing can be written now.
    pub failing: Option<String>,
}

/// One entry of `/v1/workloads`: a workload of this node.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct WorkloadView {
    /// `<namespace>/<name>`.
    pub workload: String,
    /// Its SPIFFE ID.
    pub identity: String,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// Whether it is in the mesh.
    pub enrolled: bool,
    /// Why not.
    pub reason: Option<String>,
}

/// One entry of `/v1/connections`: a connection whose two ends stand.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct ConnectionView {
    /// `inbound` or `outbound`.
    pub direction: String,
    /// The connecting end.
    pub source: String,
    /// The end that it meant to reach.
    pub destination: String,
    /// If that is a service: the endpoint that was chosen.
    pub endpoint: Option<String>,
    /// The identity of this node's workload.
    pub workload: String,
    /// Who is at the other end; `None`: plaintext.
    pub peer: Option<String>,
    /// The cipher suite.
    pub cipher: Option<String>,
    /// The key exchange.
    pub key_exchange: Option<String>,
    /// `kernel` or `userspace`; `None`: plaintext.
    pub data_path: Option<String>,
    /// Command and process id of who connected, where the kernel attested it.
    pub process: Option<String>,
    /// Since it was accepted.
    pub age_seconds: u64,
    /// Bytes from the source to the destination so far.
    pub bytes_sent: u64,
    /// Bytes from the destination to the source so far.
    pub bytes_received: u64,
}

/// `/v1/certificates`: what this node proves itself with, and whom it believes.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Certificates {
    /// The workloads' SVIDs.
    pub svids: Vec<CertificateView>,
    /// The roots of the trust bundle.
    pub roots: Vec<CertificateView>,
}

/// One certificate.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct CertificateView {
    /// An SVID's SPIFFE ID; a root's subject.
    pub subject: String,
    /// The issuer's name in it.
    pub issuer: String,
    /// Its serial number, as a `Revocation` names it.
    pub serial: String,
    /// SHA-256 of its DER.
    pub fingerprint: String,
    /// When it becomes valid.
    pub not_before: String,
    /// Its last moment.
    pub not_after: String,
    /// Whether it is valid now.
    pub valid: bool,
}
