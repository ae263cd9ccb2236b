//! Names of trust domains and workloads as the SPIFFE-ID specification defines them.
//!
//! Identities are compared, indexed and logged everywhere, so they are parsed once, here, and are valid from then on.
//! This module doesn't read certificates (`tls::verify` does) and doesn't know which identities exist.

use std::fmt;
use std::sync::Arc;

/// Where the mesh's own parts have their names.
const RESERVED: &str = "/hauberk";
const ISSUER: &str = "/hauberk/issuer";
const NODES: &str = "/hauberk/node/";
const SCHEME: &str = "spiffe://";
/// SPIFFE-ID §2.3: longer IDs may be refused by other implementations.
const MAX_ID_BYTES: usize = 2048;
/// SPIFFE-ID §2.3: the longest trust domain name.
const MAX_TRUST_DOMAIN_BYTES: usize = 255;

/// Why a text is no SPIFFE ID or trust domain name.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SpiffeIdError {
    /// It doesn't begin with `spiffe://`.
    #[error("does not begin with `spiffe://`")]
    Scheme,
    /// The trust domain is empty.
    #[error("has no trust domain")]
    TrustDomainMissing,
    /// SPIFFE-ID §2.1 allows `a-z`, `0-9`, `.`, `-` and `_`; no port, no user.
    #[error("has a trust domain with a character other than a-z, 0-9, `.`, `-` and `_`")]
    TrustDomainCharacter,
    /// SPIFFE-ID §2.2 allows `a-z`, `A-Z`, `0-9`, `.`, `-` and `_`; no percent-encoding, query or fragment.
    #[error("has a path with a character other than a-z, A-Z, 0-9, `.`, `-` and `_`")]
    PathCharacter,
    /// Two slashes in a row, or one at the end.
    #[error("has an empty path segment")]
    PathSegmentEmpty,
    /// A segment `.` or `..`.
    #[error("has a relative path segment")]
    PathSegmentRelative,
    /// More than 255 bytes of trust domain or 2048 bytes in total.
    #[error("is too long")]
    TooLong,
}

/// The name of a trust domain: the authority part of a SPIFFE ID.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Parses a bare name such as `cluster.local` (SPIFFE-ID §2.1).
    pub fn parse(name: &str) -> Result<Self, SpiffeIdError> {
        if name.is_empty() {
            return Err(SpiffeIdError::TrustDomainMissing);
        }
        if name.len() > MAX_TRUST_DOMAIN_BYTES {
            return Err(SpiffeIdError::TooLong);
        }
        if !name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_')) {
            return Err(SpiffeIdError::TrustDomainCharacter);
        }
        Ok(Self(Arc::from(name)))
    }

    /// The bare name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The trust domain's own ID, `spiffe://<trust domain>`: what a CA certificate carries.
    pub fn id(&self) -> SpiffeId {
        SpiffeId { trust_domain: self.clone(), path: Arc::from("") }
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An identity: `spiffe://<trust domain><path>`. Cloning copies two pointers.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SpiffeId {
    trust_domain: TrustDomain,
    /// Empty, or begins with a slash.
    path: Arc<str>,
}

impl SpiffeId {
    /// Parses an ID (SPIFFE-ID §2). An ID without a path names the trust domain itself.
    pub fn parse(id: &str) -> Result<Self, SpiffeIdError> {
        if id.len() > MAX_ID_BYTES {
            return Err(SpiffeIdError::TooLong);
        }
        let rest = id.strip_prefix(SCHEME).ok_or(SpiffeIdError::Scheme)?;
        let (name, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let trust_domain = TrustDomain::parse(name)?;
        check_path(path)?;
        Ok(Self { trust_domain, path: Arc::from(path) })
    }

    /// The ID of a Kubernetes service account: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
    pub fn of_service_account(
        trust_domain: &TrustDomain,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, SpiffeIdError> {
        check_segment(namespace)?;
        check_segment(service_account)?;
        let id =
            Self { trust_domain: trust_domain.clone(), path: format!("/ns/{namespace}/sa/{service_account}").into() };
        let bytes = SCHEME.len() + id.trust_domain.0.len() + id.path.len();
        if bytes > MAX_ID_BYTES { Err(SpiffeIdError::TooLong) } else { Ok(id) }
    }

    /// The ID of a node's agent, good for the issuer and for nothing else: `spiffe://<trust domain>/hauberk/node/<name>`.
    pub fn of_node(trust_domain: &TrustDomain, node: &str) -> Result<Self, SpiffeIdError> {
        check_segment(node)?;
        Ok(Self { trust_domain: trust_domain.clone(), path: format!("{NODES}{node}").into() })
    }

    /// The ID of the service that signs SVIDs: `spiffe://<trust domain>/hauberk/issuer`.
    pub fn of_issuer(trust_domain: &TrustDomain) -> Self {
        Self { trust_domain: trust_domain.clone(), path: Arc::from(ISSUER) }
    }

    /// The node's name, if it is a node's ID.
    pub fn node(&self) -> Option<&str> {
        self.path.strip_prefix(NODES).filter(|name| !name.contains('/'))
    }

    /// The authority part.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The path: empty for a trust domain's own ID, else beginning with a slash.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The Kubernetes namespace, where the path has the form of a service account's.
    pub fn namespace(&self) -> Option<&str> {
        self.service_account_parts().map(|(namespace, _)| namespace)
    }

    /// The Kubernetes service account, where the path has the form of a service account's.
    pub fn service_account(&self) -> Option<&str> {
        self.service_account_parts().map(|(_, service_account)| service_account)
    }

    /// Whether it is a part of the mesh itself, `spiffe://<trust domain>/hauberk/…`, and so never a workload's.
    pub fn is_reserved(&self) -> bool {
        *self.path == *RESERVED || self.path.starts_with("/hauberk/")
    }

    fn service_account_parts(&self) -> Option<(&str, &str)> {
        let (namespace, service_account) = self.path.strip_prefix("/ns/")?.split_once("/sa/")?;
        let one_segment_each = !namespace.contains('/') && !service_account.contains('/');
        one_segment_each.then_some((namespace, service_account))
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}{}", self.trust_domain, self.path)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn check_path(path: &str) -> Result<(), SpiffeIdError> {
    path.split('/').skip(1).try_for_each(check_segment)
}

fn check_segment(segment: &str) -> Result<(), SpiffeIdError> {
    match segment {
        "" => Err(SpiffeIdError::PathSegmentEmpty),
        "." | ".." => Err(SpiffeIdError::PathSegmentRelative),
        _ if segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte)) => Ok(()),
        _ => Err(SpiffeIdError::PathCharacter),
    }
}

#[cfg(test)]
mod tests;
