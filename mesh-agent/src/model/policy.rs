//! Who may connect to whom, as its author wrote it: Istio's shapes for layer 4, and time windows of our own.
//!
//! Values only. `policy` says what they mean, `config` reads them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;

use super::mesh::MtlsMode;
use super::window::TimeWindow;

/// Names a policy of one kind: `<namespace>/<name>`, or `<name>` without a namespace.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PolicyName(Arc<str>);

impl PolicyName {
    /// Joins names that are already known to be DNS-1123 names.
    pub fn new(namespace: Option<&str>, name: &str) -> Self {
        Self(namespace.map_or_else(|| name.into(), |namespace| format!("{namespace}/{name}").into()))
    }

    /// As logs show it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which workloads a policy is for: those that have all these labels, in its namespace or in all.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Scope {
    /// `None`: the whole mesh.
    pub namespace: Option<String>,
    /// None: all workloads.
    pub labels: BTreeMap<String, String>,
}

/// One `AuthorizationPolicy`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AuthorizationPolicy {
    /// Its name.
    pub name: PolicyName,
    /// Whom it protects.
    pub scope: Scope,
    /// What a match means.
    pub action: Action,
    /// A connection matches if it matches one of them; without any, none does.
    pub rules: Vec<Rule>,
}

/// What the match of a policy means.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Action {
    /// The connection may be; and what no ALLOW policy of the workload matches may not.
    #[default]
    Allow,
    /// It is recorded, and nothing else.
    Audit,
    /// It may not be, whatever else says so.
    Deny,
}

impl Action {
    /// As documents write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allow => "ALLOW",
            Self::Audit => "AUDIT",
            Self::Deny => "DENY",
        }
    }
}

/// Matches if a source, an operation and every condition do; an empty list matches all.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Rule {
    /// Who connects.
    pub from: Vec<Source>,
    /// To what.
    pub to: Vec<Operation>,
    /// When.
    pub when: Vec<Condition>,
}

/// A list of which one must match (none: all do), and one of which none may.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Match<T> {
    /// What is meant.
    pub any: Vec<T>,
    /// What isn't.
    pub not: Vec<T>,
}

impl<T> Default for Match<T> {
    fn default() -> Self {
        Self { any: Vec::new(), not: Vec::new() }
    }
}

/// Who connects; every field must match.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Source {
    /// Identities without their scheme: `<trust domain>/ns/<namespace>/sa/<service account>`.
    pub principals: Match<Pattern>,
    /// Namespaces of the mesh's own trust domain.
    pub namespaces: Match<Pattern>,
    /// Service accounts of the mesh's own trust domain.
    pub service_accounts: Match<ServiceAccount>,
    /// Source addresses.
    pub ip_blocks: Match<IpNet>,
}

/// A service account of the mesh's own trust domain.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServiceAccount {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// What is connected to.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Operation {
    /// The workload's ports.
    pub ports: Match<u16>,
}

/// What else must hold.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Condition {
    /// `destination.ip`
    DestinationIp(Match<IpNet>),
    /// `destination.port`
    DestinationPort(Match<u16>),
    /// `source.ip`
    SourceIp(Match<IpNet>),
    /// `source.namespace`
    SourceNamespace(Match<Pattern>),
    /// `source.principal`
    SourcePrincipal(Match<Pattern>),
    /// It is this time of the week.
    Time(TimeWindow),
}

/// A text to compare with.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Pattern {
    /// The text itself.
    Exact(String),
    /// `abc*`
    Prefix(String),
    /// `*`: anything, but not nothing.
    Present,
    /// `*abc`
    Suffix(String),
}

impl Pattern {
    /// Reads Istio's form: a `*` is special at one end only.
    pub fn parse(text: &str) -> Self {
        match (text.strip_prefix('*'), text.strip_suffix('*')) {
            (Some(""), _) => Self::Present,
            (Some(suffix), _) => Self::Suffix(suffix.to_owned()),
            (None, Some(prefix)) => Self::Prefix(prefix.to_owned()),
            (None, None) => Self::Exact(text.to_owned()),
        }
    }

    /// Whether `text` is meant.
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == text,
            Self::Prefix(prefix) => text.starts_with(prefix),
            Self::Present => !text.is_empty(),
            Self::Suffix(suffix) => text.ends_with(suffix),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) => f.write_str(text),
            Self::Prefix(text) => write!(f, "{text}*"),
            Self::Present => f.write_str("*"),
            Self::Suffix(text) => write!(f, "*{text}"),
        }
    }
}

/// One `PeerAuthentication`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PeerAuthentication {
    /// Its name.
    pub name: PolicyName,
    /// Whose inbound connections it is about.
    pub scope: Scope,
    /// What they must be; `None`: as the next wider document says.
    pub mode: Option<MtlsMode>,
    /// What those to single ports must be; `None`: as for other ports.
    pub ports: BTreeMap<u16, Option<MtlsMode>>,
}

/// What the mesh's operator allows the authors of policies.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PolicyBounds {
    /// Policies of this namespace are for the whole mesh.
    pub root_namespace: String,
    /// The loosest mode that a document may give a port; `None`: that of the whole mesh.
    pub minimum_mode: Option<MtlsMode>,
    /// Whose policies may be looser than those of the whole mesh.
    pub may_loosen: Vec<Loosener>,
}

impl PolicyBounds {
    /// The namespace for mesh-wide policies, if nothing is said.
    pub const ROOT_NAMESPACE: &str = "hauberk-system";

    /// Whether a policy of this name may loosen what holds for the whole mesh.
    pub fn may_loosen(&self, name: &PolicyName) -> bool {
        self.may_loosen.iter().any(|loosener| match loosener {
            Loosener::Everybody => true,
            Loosener::Namespace(namespace) => {
                name.as_str().split_once('/').is_some_and(|(of, _)| of == namespace.as_str())
            }
            Loosener::Policy(policy) => policy == name,
        })
    }
}

impl Default for PolicyBounds {
    fn default() -> Self {
        Self { root_namespace: Self::ROOT_NAMESPACE.to_owned(), minimum_mode: None, may_loosen: Vec::new() }
    }
}

/// Whose policies may be looser than those of the whole mesh.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Loosener {
    /// `*`
    Everybody,
    /// All policies of a namespace.
    Namespace(String),
    /// One policy: `<namespace>/<name>`.
    Policy(PolicyName),
}
