//! Lowers the `Mesh` object: the settings that hold everywhere.

use std::time::Duration;

use super::rego::RegoDraft;
use super::walk::{Fields, Node};
use super::{policy, rego, value};
use crate::model::mesh::{
    CaFiles, CipherSuite, DataPathMode, ExistingConnections, IssuerSettings, IssuerSource, KeyExchange, Mesh, MtlsMode,
    SvidSettings, Timeouts, TlsSettings,
};

/// Bounds of a time limit: below, nothing would ever succeed; above, nothing would ever be cleaned up.
const MIN_TIMEOUT: Duration = Duration::from_millis(10);
const MAX_TIMEOUT: Duration = Duration::from_mins(5);
/// Bounds of a connection's age: below, applications would do little else than connect; above, no agent lives as long.
const MIN_AGE: Duration = Duration::from_secs(1);
const MAX_AGE: Duration = Duration::from_hours(30 * 24);
/// Bounds of how often the issuer is asked; an outage must show within a minute.
const MIN_REFRESH: Duration = Duration::from_millis(100);
const MAX_REFRESH: Duration = Duration::from_secs(30);

/// Below, a connection would do little else than change keys.
const MIN_REKEY_BYTES: u64 = 1 << 20;

/// Reads `spec`; `None` only if something required is missing or unreadable.
pub(super) fn lower(spec: &Node<'_>) -> Option<(Mesh, Option<RegoDraft>)> {
    let fields = spec.object(&[
        "trustDomain",
        "mtls",
        "podRanges",
        "tls",
        "timeouts",
        "issuer",
        "rootNamespace",
        "minimumMode",
        "mayLoosen",
        "authorization",
        "existingConnections",
    ])?;
    let trust_domain = fields.required("trustDomain").and_then(|node| node.parse(value::trust_domain));
    let mtls = fields.optional("mtls").and_then(|node| node.object(&["mode", "plaintextDetection"]));
    let pod_ranges = fields.optional("podRanges").map(|node| node.distinct(|item| item.parse(value::range)));
    let tls = fields.optional("tls").map(|node| tls(&node));
    let timeouts = timeouts(&fields, mtls.as_ref());
    let issuer = fields.required("issuer").and_then(|node| issuer(&node));
    let existing = value::choice(&[("Destroy", ExistingConnections::Destroy), ("Keep", ExistingConnections::Keep)]);
    let existing = fields.optional("existingConnections").and_then(|node| node.parse(existing));
    let rego = fields.optional("authorization").and_then(|node| rego::lower(&node));
    let mesh = Mesh {
        trust_domain: trust_domain?,
        mode: mtls.as_ref().and_then(|mtls| mtls.optional("mode")).and_then(|node| mode(&node)).unwrap_or_default(),
        bounds: policy::bounds(&fields),
        existing: existing.unwrap_or_default(),
        pod_ranges: pod_ranges.unwrap_or_default(),
        tls: tls.unwrap_or_default(),
        timeouts,
        issuer: issuer?,
    };
    Some((mesh, rego))
}

fn mode(node: &Node<'_>) -> Option<MtlsMode> {
    node.parse(value::choice(&[("STRICT", MtlsMode::Strict), ("PERMISSIVE", MtlsMode::Permissive)]))
}

fn tls(node: &Node<'_>) -> TlsSettings {
    let mut settings = TlsSettings::default();
    let Some(fields) = node.object(&["cipherSuites", "keyExchange", "dataPath", "rekeyAfter", "sessionResumption"])
    else {
        return settings;
    };
    let paths =
        [("Auto", DataPathMode::Auto), ("Kernel", DataPathMode::Kernel), ("Userspace", DataPathMode::Userspace)];
    let path = fields.optional("dataPath").and_then(|node| node.parse(value::choice(&paths)));
    settings.data_path = path.unwrap_or_default();
    settings.rekey_after = fields.optional("rekeyAfter").and_then(|node| node.parse(value::bytes(MIN_REKEY_BYTES)));
    let resumption = value::choice(&[("Enabled", true), ("Disabled", false)]);
    settings.resumption = fields.optional("sessionResumption").and_then(|node| node.parse(resumption)).unwrap_or(true);
    settings.ciphers_chosen = fields.optional("cipherSuites").is_some();
    let suites = CipherSuite::ALL.map(|suite| (suite.name(), suite));
    let groups = KeyExchange::ALL.map(|group| (group.name(), group));
    replace(&fields, "cipherSuites", &suites, &mut settings.cipher_suites);
    let key_exchange = fields.optional("keyExchange");
    match key_exchange.filter(|node| node.is_text()) {
        Some(node) => {
            settings.key_exchange = node.parse(post_quantum).unwrap_or_default();
        }
        None => replace(&fields, "keyExchange", &groups, &mut settings.key_exchange),
    }
    settings
}

/// The short form: peers without a post-quantum key exchange are refused.
fn post_quantum(text: &str) -> Result<Vec<KeyExchange>, String> {
    if text == "RequirePostQuantum" {
        return Ok(vec![KeyExchange::X25519MlKem768]);
    }
    Err(format!("`{text}` is neither `RequirePostQuantum` nor a list of groups"))
}

/// Reads a list of choices, which must not be empty if it is there.
fn replace<T: Copy + PartialEq>(fields: &Fields<'_>, name: &str, choices: &[(&str, T)], setting: &mut Vec<T>) {
    let Some(node) = fields.optional(name) else { return };
    *setting = node.some_distinct(|item| item.parse(value::choice(choices)));
}

fn timeouts(fields: &Fields<'_>, mtls: Option<&Fields<'_>>) -> Timeouts {
    let read = |fields: Option<&Fields<'_>>, name, default| {
        let node = fields.and_then(|fields| fields.optional(name));
        node.and_then(|node| node.parse(value::duration(MIN_TIMEOUT, MAX_TIMEOUT))).unwrap_or(default)
    };
    let node = fields.optional("timeouts");
    let limits = node
        .and_then(|node| node.object(&["handshake", "connect", "unknownDestination", "deadPeer", "maxConnectionAge"]));
    let age = limits.as_ref().and_then(|limits| limits.optional("maxConnectionAge"));
    let default = Timeouts::default();
    Timeouts {
        handshake: read(limits.as_ref(), "handshake", default.handshake),
        connect: read(limits.as_ref(), "connect", default.connect),
        unknown_destination: read(limits.as_ref(), "unknownDestination", default.unknown_destination),
        dead_peer: read(limits.as_ref(), "deadPeer", default.dead_peer),
        max_connection_age: age.and_then(|node| node.parse(value::duration(MIN_AGE, MAX_AGE))),
        plaintext_detection: read(mtls, "plaintextDetection", default.plaintext_detection),
    }
}

fn issuer(node: &Node<'_>) -> Option<IssuerSettings> {
    let known = ["embedded", "remote", "kubernetes", "svidLifetime", "allowShortLifetimes", "clockSkew", "refresh"];
    let fields = node.object(&known)?;
    let sources = ["embedded", "remote", "kubernetes"].map(|name| fields.optional(name));
    let source = match sources {
        [Some(embedded), None, None] => this_ca(&embedded),
        [None, Some(remote), None] => signing_service(&remote),
        [None, None, Some(service)] => clusters_service(&service),
        _ => {
            node.refuse("needs exactly one of `embedded`, `remote` and `kubernetes`");
            None
        }
    };
    let short = fields.optional("allowShortLifetimes").and_then(|node| node.boolean()).unwrap_or_default();
    let shortest = if short { SvidSettings::MIN_SHORT_LIFETIME } else { SvidSettings::MIN_LIFETIME };
    let read = |name, min, max, default| {
        fields.optional(name).and_then(|node| node.parse(value::duration(min, max))).unwrap_or(default)
    };
    let default = SvidSettings::default();
    let lifetime = read("svidLifetime", shortest, SvidSettings::MAX_LIFETIME, default.lifetime);
    let clock_skew = read("clockSkew", Duration::ZERO, SvidSettings::MAX_CLOCK_SKEW, default.clock_skew);
    let refresh = read("refresh", MIN_REFRESH, MAX_REFRESH, IssuerSettings::REFRESH);
    Some(IssuerSettings { source: source?, svid: SvidSettings { lifetime, clock_skew }, refresh })
}

fn this_ca(node: &Node<'_>) -> Option<IssuerSource> {
    let fields = node.object(&["certificate", "key", "bundle", "directory"])?;
    if let Some(directory) = fields.optional("directory") {
        if ["certificate", "key", "bundle"].iter().any(|name| fields.optional(name).is_some()) {
            node.refuse("needs either `directory`, or `certificate` and `key`");
        }
        return directory.parse(value::path).map(IssuerSource::Own);
    }
    let certificate = fields.required("certificate").and_then(|node| node.parse(value::path));
    let key = fields.required("key").and_then(|node| node.parse(value::path));
    let bundle = fields.optional("bundle").and_then(|node| node.parse(value::path));
    Some(IssuerSource::Embedded(CaFiles { certificate: certificate?, key: key?, bundle }))
}

fn signing_service(node: &Node<'_>) -> Option<IssuerSource> {
    let fields = node.object(&["address", "tokenFile"])?;
    let address = fields.required("address").and_then(|node| node.parse(value::host_and_port));
    let token_file = fields.required("tokenFile").and_then(|node| node.parse(value::path));
    Some(IssuerSource::Remote { address: address?, token_file: token_file? })
}

fn clusters_service(node: &Node<'_>) -> Option<IssuerSource> {
    let fields = node.object(&["service", "tokenFile"])?;
    let service =
        fields.optional("service").map_or(Some(IssuerSource::SERVICE.to_owned()), |node| node.parse(value::dns_label));
    let token_file = fields
        .optional("tokenFile")
        .map_or(Some(IssuerSource::TOKEN_FILE.into()), |node| node.parse(value::absolute_path));
    Some(IssuerSource::Kubernetes { service: service?, token_file: token_file? })
}
