//! What holds for the whole mesh: trust domain, mutual TLS, time limits, issuer.
//!
//! The defaults are here, so that code and documentation can't differ from what an empty configuration means.

use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::policy::PolicyBounds;
use super::spiffe::TrustDomain;

/// The mesh-wide settings.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Mesh {
    /// The one trust domain whose identities are accepted.
    pub trust_domain: TrustDomain,
    /// What inbound connections must be.
    pub mode: MtlsMode,
    /// What policies may say.
    pub bounds: PolicyBounds,
    /// What becomes of connections that are older than the mesh.
    pub existing: ExistingConnections,
    /// Where pods have their addresses: a destination in here that no workload has yet is waited for.
    pub pod_ranges: Vec<IpNet>,
    /// What is offered and accepted in a handshake.
    pub tls: TlsSettings,
    /// Time limits.
    pub timeouts: Timeouts,
    /// Who signs SVIDs.
    pub issuer: IssuerSettings,
}

impl Mesh {
    /// The settings, by field path, in which `next` differs and that only a restart of the agent can change.
    pub fn needs_restart(&self, next: &Self) -> Vec<&'static str> {
        let Self { trust_domain, mode: _, bounds: _, existing: _, pod_ranges: _, tls, timeouts: _, issuer } = self;
        let fields = [
            ("spec.trustDomain", *trust_domain != next.trust_domain),
            ("spec.tls", *tls != next.tls),
            ("spec.issuer", *issuer != next.issuer),
        ];
        fields.into_iter().filter(|(_, differs)| *differs).map(|(field, _)| field).collect()
    }

    /// Takes over from `running` what [`Self::needs_restart`] names.
    pub fn keep_fixed(&mut self, running: &Self) {
        self.trust_domain = running.trust_domain.clone();
        self.tls = running.tls.clone();
        self.issuer = running.issuer.clone();
    }
}

/// What becomes of a workload's connections that are older than its enrolment, or in plaintext and older than STRICT.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum ExistingConnections {
    /// They are reset: both ends connect again, through the mesh.
    #[default]
    Destroy,
    /// They live until their ends close them, and are counted.
    Keep,
}

/// What an inbound connection must be.
///
/// In order: the stricter is greater.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub enum MtlsMode {
    /// Plaintext, which nobody authenticates.
    Disable,
    /// Mutual TLS or plaintext, told apart by the first bytes.
    Permissive,
    /// Mutual TLS, or it is reset.
    #[default]
    Strict,
}

impl MtlsMode {
    /// As documents write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Disable => "DISABLE",
            Self::Permissive => "PERMISSIVE",
            Self::Strict => "STRICT",
        }
    }
}

/// What both ends may negotiate, most preferred first, and how sessions are carried. TLS 1.3 only.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TlsSettings {
    /// Never empty.
    pub cipher_suites: Vec<CipherSuite>,
    /// The list of cipher suites was written by somebody.
    pub ciphers_chosen: bool,
    /// A server follows its own preference rather than the client's.
    pub server_decides: bool,
    /// Never empty.
    pub key_exchange: Vec<KeyExchange>,
    /// Where records are protected.
    pub data_path: DataPathMode,
    /// Bytes after which an AES key is replaced; `None`: at the bound of RFC 8446 §5.5.
    pub rekey_after: Option<u64>,
    /// A later connection may go on with the session of an earlier one: no certificates cross, and no signatures are made.
    pub resumption: bool,
}

impl Default for TlsSettings {
    fn default() -> Self {
        Self {
            cipher_suites: CipherSuite::ALL.to_vec(),
            ciphers_chosen: false,
            server_decides: false,
            key_exchange: KeyExchange::ALL.to_vec(),
            data_path: DataPathMode::default(),
            rekey_after: None,
            resumption: true,
        }
    }
}

/// Where the records of sessions may be protected.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum DataPathMode {
    /// In the kernel where it can, in user space elsewhere.
    #[default]
    Auto,
    /// In the kernel, or the agent doesn't start.
    Kernel,
    /// In the agent.
    Userspace,
}

/// A cipher suite of TLS 1.3 (RFC 8446 §B.4).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum CipherSuite {
    /// `TLS_AES_256_GCM_SHA384`
    Aes256Gcm,
    /// `TLS_AES_128_GCM_SHA256`
    Aes128Gcm,
    /// `TLS_CHACHA20_POLY1305_SHA256`
    Chacha20Poly1305,
}

impl CipherSuite {
    /// All of them, in the default order of preference.
    pub const ALL: [Self; 3] = [Self::Aes256Gcm, Self::Aes128Gcm, Self::Chacha20Poly1305];

    /// The IANA name: what configuration, logs and metrics show.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aes256Gcm => "TLS_AES_256_GCM_SHA384",
            Self::Aes128Gcm => "TLS_AES_128_GCM_SHA256",
            Self::Chacha20Poly1305 => "TLS_CHACHA20_POLY1305_SHA256",
        }
    }
}

/// A key exchange group (RFC 8446 §4.2.7).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum KeyExchange {
    /// X25519 and ML-KEM-768 together: safe against a recording that a quantum computer reads later.
    X25519MlKem768,
    /// X25519 (RFC 7748).
    X25519,
    /// NIST P-256.
    P256,
}

impl KeyExchange {
    /// All of them, in the default order of preference.
    pub const ALL: [Self; 3] = [Self::X25519MlKem768, Self::X25519, Self::P256];

    /// The IANA name: what configuration, logs and metrics show.
    pub const fn name(self) -> &'static str {
        match self {
            Self::X25519MlKem768 => "X25519MLKEM768",
            Self::X25519 => "x25519",
            Self::P256 => "secp256r1",
        }
    }
}

/// Time limits of a connection's way through the agent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Timeouts {
    /// From the first byte of a handshake to its end.
    pub handshake: Duration,
    /// For one TCP connect to an upstream.
    pub connect: Duration,
    /// How long a destination in the pod ranges may stay unknown before the connection is refused.
    pub unknown_destination: Duration,
    /// In permissive mode: silence after which a connection counts as plaintext.
    pub plaintext_detection: Duration,
    /// How long a peer may stay silent while it owes an answer, or an idle one to a probe.
    pub dead_peer: Duration,
    /// How long a connection may live; `None`: as long as its ends like.
    pub max_connection_age: Option<Duration>,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            connect: Duration::from_secs(10),
            unknown_destination: Duration::from_secs(1),
            plaintext_detection: Duration::from_millis(200),
            dead_peer: Duration::from_secs(60),
            max_connection_age: None,
        }
    }
}

/// Who signs SVIDs, and how long they live.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct IssuerSettings {
    /// Who signs.
    pub source: IssuerSource,
    /// What certificates are like. With a remote issuer its own configuration decides.
    pub svid: SvidSettings,
    /// How often an agent looks for new roots, and whether its issuer answers.
    pub refresh: Duration,
}

/// Who signs SVIDs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum IssuerSource {
    /// A CA key that this agent holds.
    Embedded(CaFiles),
    /// A CA of this agent alone, in this directory; made at the first start.
    Own(PathBuf),
    /// A signing service: `mesh-agent ca serve`.
    Remote {
        /// `host:port` of the service.
        address: String,
        /// A join token of this node, one use.
        token_file: PathBuf,
    },
    /// A signing service of the same cluster: `mesh-agent ca serve --kubernetes`.
    Kubernetes {
        /// The name of its Service, in the agent's own namespace.
        service: String,
        /// A token of the agent's service account, for [`IssuerSource::AUDIENCE`].
        token_file: PathBuf,
    },
}

impl IssuerSource {
    /// Whom tokens that agents show to the signing service are for.
    pub const AUDIENCE: &'static str = "hauberk-ca";
    /// Where the manifests put such a token.
    pub const TOKEN_FILE: &'static str = "/var/run/secrets/hauberk/token";
    /// How the manifests call the signing service.
    pub const SERVICE: &'static str = "hauberk-ca";
}

/// Where a CA is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CaFiles {
    /// PEM: the certificate of the CA that signs, then those of the CAs above it. Without `bundle`, all are roots.
    pub certificate: PathBuf,
    /// PEM: the CA's PKCS #8 private key.
    pub key: PathBuf,
    /// The roots that are trusted: PEM or a SPIFFE bundle.
    pub bundle: Option<PathBuf>,
}

/// What the issuer's certificates are like.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SvidSettings {
    /// How long an SVID is valid.
    pub lifetime: Duration,
    /// How far it begins in the past, for peers whose clock is behind.
    pub clock_skew: Duration,
}

impl SvidSettings {
    /// The shortest lifetime: below it, rotation would be all that the agent does.
    pub const MIN_LIFETIME: Duration = Duration::from_mins(1);
    /// The shortest lifetime where short ones are allowed, for tests: dates are whole seconds.
    pub const MIN_SHORT_LIFETIME: Duration = Duration::from_secs(2);
    /// The longest lifetime: what expires later is as good as never revoked.
    pub const MAX_LIFETIME: Duration = Duration::from_hours(30 * 24);
    /// The largest clock skew.
    pub const MAX_CLOCK_SKEW: Duration = Duration::from_hours(1);
}

impl Default for SvidSettings {
    fn default() -> Self {
        Self { lifetime: Duration::from_hours(24), clock_skew: Duration::from_mins(1) }
    }
}

impl IssuerSettings {
    /// How often the issuer is asked, if nothing is said.
    pub const REFRESH: Duration = Duration::from_secs(10);
}
