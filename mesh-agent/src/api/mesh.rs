//! `Mesh`: the settings that hold everywhere.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

use super::rule::{self, CRD, DURATION, Rule, between, exactly_one};
use super::text::{
    AbsolutePath, Bytes, DnsLabel, Duration, HostAndPort, Loosener, OpaServer, Path, Range, RegoFile, RegoRule,
    TrustDomain,
};

/// The settings that hold everywhere. There is exactly one.
#[derive(Clone, Debug, Eq, JsonSchema, PartialEq)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
pub struct MeshSpec {
    /// The trust domain whose identities are accepted. It can't be changed: every identity begins with it.
    #[schemars(extend("x-rules" = [Rule::cel("self == oldSelf", "can't be changed: every identity begins with it")]))]
    pub trust_domain: TrustDomain,
    /// What inbound connections must be, if no PeerAuthentication says.
    pub mtls: Option<MeshMtls>,
    /// Where pods have their addresses: a destination in here that no workload has yet is waited for. Default: nowhere.
    #[schemars(extend("uniqueItems" = true))]
    pub pod_ranges: Option<Vec<Range>>,
    /// What both ends may negotiate, and how sessions are carried. TLS 1.3 only.
    pub tls: Option<Tls>,
    /// Time limits.
    pub timeouts: Option<Timeouts>,
    /// Who signs SVIDs.
    pub issuer: Issuer,
    /// Policies of this namespace are for the whole mesh. Default: `hauberk-system`.
    pub root_namespace: Option<DnsLabel>,
    /// The loosest mode that a PeerAuthentication may give a port. Default: that of the whole mesh.
    pub minimum_mode: Option<MinimumMode>,
    /// Whose policies may be looser than those of the whole mesh: namespaces, single policies (`namespace/name`), or `*`.
    #[schemars(extend("uniqueItems" = true))]
    pub may_loosen: Option<Vec<Loosener>>,
    /// Who else is asked about connections that policies allow.
    pub authorization: Option<Authorization>,
    /// What becomes of connections that are older than a workload's enrolment, or in plaintext and older than STRICT. Default:
    /// `Destroy`.
    pub existing_connections: Option<ExistingConnections>,
}

/// What becomes of connections that are older than the mesh.
#[derive(Clone, Copy, Debug, Eq, JsonSchema, PartialEq)]
pub enum ExistingConnections {
    /// they are reset
    Destroy,
    /// they live, and are counted
    Keep,
}

/// What inbound connections must be.
#[derive(Clone, Debug, Eq, JsonSchema, PartialEq)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
pub struct MeshMtls {
    /// The mode. Default: `STRICT`.
    pub mode: Option<MeshMode>,
    /// With `PERMISSIVE`: silence after which a connection counts as plaintext, 10 ms to 5 min. Default: `200ms`.
    #[schemars(extend("x-rules" = between("10ms", "5m")))]
    pub plaintext_detection: Option<Duration>,
}

/// What inbound connections must be.
#[derive(Clone, Copy, Debug, Eq, JsonSchema, PartialEq)]
#[schemars(rename_all = "UPPERCASE")]
pub enum MeshMode {
    /// mutual TLS or plaintext, told apart by the first bytes
    Permissive,
    /// mutual TLS
    Strict,
}

/// The loosest mode.
#[derive(Clone, Copy, Debug, Eq, JsonSchema, PartialEq)]
#[schemars(rename_all = "UPPERCASE")]
pub enum MinimumMode {
    /// plaintext
    Disable,
    /// mutual TLS or plaintext
    Permissive,
    /// mutual TLS
    Strict,
}

/// What both ends may negotiate, and how sessions are carried.
#[derive(Clone, Debug, Eq, JsonSchema, PartialEq)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tls {
    /// Most preferred first. Default: all, in the order AES-256-GCM, AES-128-GCM, ChaCha20-Poly1305.
    #[schemars(length(min = 1), extend("uniqueItems" = true))]
    pub cipher_suites: Option<Vec<CipherSuite>>,
    /// Groups, most preferred first; or `RequirePostQuantum`: peers without X25519MLKEM768 are refused. Default: all, in the order
    /// X25519MLKEM768, x25519, secp256r1.
    pub key_exchange: Option<KeyExchange>,
    /// Where records are protected. Default: `Auto`.
    pub data_path: Option<DataPath>,
    /// Bytes after which an AES key is replaced, at least `1Mi`. Default: at the bound of RFC 8446 §5.5.
    #[schemars(extend("x-rules" = at_least_1_mi()))]
    pub rekey_after: Option<Bytes>,
    /// Whether a later connection may go on with the session of an earlier one. Default: `Enabled`.
    pub session_resumption: Option<SessionResumption>,
}

fn at_least_1_mi() -> [Rule; 2] {
    let enough = "quantity(self).compareTo(quantity('1Mi')) >= 0";
    let rule = format!("!self.matches('{}') || {enough}", rule::BYTES);
    [rule::bytes(), Rule::cel(rule, "is less than 1048576 bytes").quoting()]
}

/// A cipher suite of TLS 1.3, by its IANA name.
#[derive(Clone, Copy, Debug, Eq, JsonSchema, PartialEq)]
pub enum CipherSuite {
    /// AES-128-GCM
    #[schemars(rename = "TLS_AES_128_GCM_SHA256")]
    Aes128Gcm,
    /// AES-256-GCM
    #[schemars(rename = "TLS_AES_256_GCM_SHA384")]
    Aes256Gcm,
    /// ChaCha20-Poly1305
    #[schemars(rename = "TLS_CHACHA20_POLY1305_SHA256")]
    Chacha20Poly1305,
}

/// Groups, or the short form for the one that is safe against quantum computers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum KeyExchange {
    /// Groups, most preferred first.
    Groups(Vec<KeyExchangeGroup>),
    /// `RequirePostQuantum`
    Short(String),
}

impl JsonSchema for KeyExchange {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "KeyExchange".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let groups = json!({
            "type": "array",
            "minItems": 1,
            "uniqueItems": true,
            "items": generator.subschema_for::<KeyExchangeGroup>(),
        });
        // A structural schema can't say "text or list"; it can say which values there are, for they are few.
        let crd = json!({"x-kubernetes-preserve-unknown-fields": true, "enum": orders()});
        json_schema!({"anyOf": [{"const": REQUIRE_POST_QUANTUM}, groups], CRD: crd})
    }
}

const REQUIRE_POST_QUANTUM: &str = "RequirePostQuantum";

/// All that `keyExchange` can be: the short form, and every order of one, two or three groups.
fn orders() -> Vec<Value> {
    let mut orders = vec![json!(REQUIRE_POST_QUANTUM)];
    let mut longest = vec![Vec::new()];
    for _ in KeyExchangeGroup::NAMES {
        longest = longest.iter().flat_map(longer).collect();
        orders.extend(longest.iter().map(|order| json!(order)));
    }
    orders
}

/// An order with one more group, in all ways.
fn longer(order: &Vec<&'static str>) -> Vec<Vec<&'static str>> {
    let more = KeyExchangeGroup::NAMES.into_iter().filter(|name| !order.contains(name));
    more.map(|name| order.iter().copied().chain([name]).collect()).collect()
}

/// A key exchange group, by its IANA name.
#[derive(Clone, Copy, Debug, Eq, JsonSchema, PartialEq)]
pub enum KeyExchangeGroup {
    /// NIST P-256
    #[schemars(rename = "secp256r1")]
    P256,
    /// RFC 7748
    #[schemars(rename = "x25519")]
    X25519,
    /// X25519 and ML-KEM-768 together
    #[schemars(rename = "X25519MLKEM768")]
    X25519MlKem768,
}

impl KeyExchangeGroup {
    const NAMES: [&str; 3] = ["X25519MLKEM768", "x25519", "secp256r1"];
}

/// Where records are protected.
#[derive(Clone, Copy, Debug, Eq, JsonSchema, PartialEq)]
pub enum DataPath {
    /// in the kernel where it can, in user space elsewhere
    Auto,
    /// in the kernel, or the agent doesn't start
    Kernel,
    /// in the agent
    Userspace,
}

/// Whether sessions are resumed.
#[derive(Clone, Copy, Debug, Eq, JsonSchema, PartialEq)]
pub enum SessionResumption {
    /// every connection makes a whole handshake
    Disabled,
    /// by tickets, with a new key exchange
    Enabled,
}

/// Time limits of a connection, each 10 ms to 5 min unless it says something else.
#[derive(Clone, Debug, Eq, JsonSchema, PartialEq)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
pub struct Timeouts {
    /// From the first byte of a handshake to its end. Default: `10s`.
    #[schemars(extend("x-rules" = between("10ms", "5m")))]
    pub handshake: Option<Duration>,
    /// For one TCP connect to an upstream. Default: `10s`.
    #[schemars(extend("x-rules" = between("10ms", "5m")))]
    pub connect: Option<Duration>,
    /// How long a destination in the ranges of pods or Services may stay unknown before the connection is refused. Default: `1s`.
    #[schemars(extend("x-rules" = between("10ms", "5m")))]
    pub unknown_destination: Option<Duration>,
    /// How long a peer may stay silent while it owes an answer, or an idle one to a probe. Default: `1m`.
    #[schemars(extend("x-rules" = between("10ms", "5m")))]
    pub dead_peer: Option<Duration>,
    /// How long a connection may live, 1 s to 30 days. Default: as long as its ends like.
    #[schemars(extend("x-rules" = between("1s", "720h")))]
    pub max_connection_age: Option<Duration>,
}

/// Who signs SVIDs, and how long they live: `embedded`, `remote` or `kubernetes`.
#[derive(Clone, Debug, Eq, JsonSchema, PartialEq)]
#[schemars(rename_all = "camelCase", deny_unknown_fields, extend("x-rules" = [exactly_one(["embedded", "remote", "kubernetes"]), lifetime()]))]
pub struct Issuer {
    /// A CA of this agent.
    pub embedded: Option<EmbeddedIssuer>,
    /// A signing service: `mesh-agent ca serve`.
    pub remote: Option<RemoteIssuer>,
    /// A signing service of the same cluster: `mesh-agent ca serve --kubernetes`.
    pub kubernetes: Option<KubernetesIssuer>,
    /// How long an SVID is valid, 1 min to 30 days; with a remote issuer its own configuration decides. Default: `24h`.
    pub svid_lifetime: Option<Duration>,
    /// Lets SVIDs be valid for as little as 2 s. For tests.
    pub allow_short_lifetimes: Option<bool>,
    /// How far an SVID begins in the past, for peers whose clock is behind: at most 1 h. Default: `1m`.
    #[schemars(extend("x-rules" = between("0h", "1h")))]
    pub clock_skew: Option<Duration>,
    /// How often an agent looks for new roots, and whether its issuer answers: 100 ms to 30 s. Default: `10s`.
    #[schemars(extend("x-rules" = between("100ms", "30s")))]
    pub refresh: Option<Duration>,
}

fn lifetime() -> Rule {
    let short = "(has(self.allowShortLifetimes) && self.allowShortLifetimes)";
    let (shortest, usual) =
        (rule::within("self.svidLifetime", "2s", "720h"), rule::within("self.svidLifetime", "1m", "720h"));
    let readable = format!("!has(self.svidLifetime) || !self.svidLifetime.matches('{DURATION}')");
    let message = "is not between 1m (2s with `allowShortLifetimes`) and 720h";
    Rule::cel(format!("{readable} || ({short} ? {shortest} : {usual})"), message).of("svidLifetime")
}

/// A CA key that this agent holds: `certificate` and `key`, or a `directory` in which the agent makes its own, for one node.
#[derive(Clone, Debug, Eq, JsonSchema, PartialEq)]
#[schemars(rename_all = "camelCase", deny_unknown_fields, extend("x-rules" = embedded_rules()))]
pub struct EmbeddedIssuer {
    /// PEM: the certificate of the CA that signs, then those of the CAs above it. Without `bundle`, all are roots.
    pub certificate: Option<Path>,
    /// PEM: the CA's PKCS #8 private key.
    pub key: Option<Path>,
    /// The roots that are trusted: PEM or a SPIFFE bundle.
    pub bundle: Option<Path>,
    /// Where the agent makes a CA of its own at its first start.
    pub directory: Option<Path>,
}

fn embedded_rules() -> [Rule; 3] {
    let alone = "!has(self.directory) || !(has(self.certificate) || has(self.key) || has(self.bundle))";
    let beside = |name: &str| json!({"not": {"required": ["directory", name]}});
    let needed = |name: &str| {
        let json = json!({"anyOf": [{"required": ["directory"]}, {"required": [name]}]});
        Rule::cel(format!("has(self.directory) || has(self.{name})"), "is required").of(name).or_json(json)
    };
    let besides = ["certificate", "key", "bundle"].map(beside);
    let one = json!({ "allOf": besides });
    [
        Rule::cel(alone, "needs either `directory`, or `certificate` and `key`").or_json(one),
        needed("certificate"),
        needed("key"),
    ]
}

/// A signing service.
#[derive(Clone, Debug, Eq, JsonSchema, PartialEq)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
pub struct RemoteIssuer {
    /// Where it is.
    pub address: HostAndPort,
    /// A join token of the node, good for one use.
    pub token_file: Path,
}

/// A signing service in the agent's own namespace, to which the agent shows its service account's token.
#[derive(Clone, Debug, Eq, JsonSchema, PartialEq)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
pub struct KubernetesIssuer {
    /// The name of its Service. Default: `hauberk-ca`.
    pub service: Option<DnsLabel>,
    /// A token for the audience `hauberk-ca`. Default: where the manifests mount it.
    pub token_file: Option<AbsolutePath>,
}

/// Who else is asked about connections that policies allow.
#[derive(Clone, Debug, Eq, JsonSchema, PartialEq)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
pub struct Authorization {
    /// A policy in Rego.
    pub rego: Rego,
}

/// A policy in Rego: `policy`, which the agent evaluates, or `server`.
#[derive(Clone, Debug, Eq, JsonSchema, PartialEq)]
#[schemars(rename_all = "camelCase", deny_unknown_fields, extend("x-rules" = [exactly_one(["policy", "server"])]))]
pub struct Rego {
    /// The file of the policy.
    pub policy: Option<RegoFile>,
    /// An OPA server on this node. Plain HTTP never leaves it.
    pub server: Option<OpaServer>,
    /// The rule whose value is the answer. Default: `data.hauberk.allow`.
    pub rule: Option<RegoRule>,
    /// How long an answer may take, 1 ms to 10 s. Default: `100ms`.
    #[schemars(extend("x-rules" = between("1ms", "10s")))]
    pub timeout: Option<Duration>,
    /// How long an answer holds, at most 5 min; longer than a live connection may outlive a change. Default: `4s`.
    #[schemars(extend("x-rules" = between("0h", "5m")))]
    pub cache_for: Option<Duration>,
    /// What happens without an answer. Default: `Deny`.
    pub on_failure: Option<OnFailure>,
}

/// What happens without an answer.
#[derive(Clone, Copy, Debug, Eq, JsonSchema, PartialEq)]
pub enum OnFailure {
    /// the connection is allowed
    Allow,
    /// the connection is denied
    Deny,
}
