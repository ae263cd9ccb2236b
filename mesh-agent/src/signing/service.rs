//! What the signing API does with a request: the rules of who gets which certificate.

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustls_pki_types::SubjectPublicKeyInfoDer;

use super::journal::{Journal, JournalError};
use super::wire::{JoinRequest, SvidAnswer, SvidRequest, decode, encode};
use crate::config::MeshConfig;
use crate::identity::token::JoinToken;
use crate::identity::{EmbeddedIssuer, IssuedChain, request};
use crate::model::spiffe::SpiffeId;
use crate::state::MeshState;

/// How agents join, and so how a node's identity goes on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Admission {
    /// By a join token that is good once. Without its identity an agent needs a new one, so it may renew that by itself.
    JoinTokens,
    /// By somebody who knows which nodes there are, and is asked each time: a node that is gone must not go on by itself.
    Reviewed,
}

impl Admission {
    /// How long a node's identity lasts where workloads' SVIDs have this lifetime: so long that it is there whenever one is
    /// due, also after an outage.
    fn node_lifetime(self, lifetime: Duration) -> Duration {
        let (shortest, longest) = match self {
            Self::JoinTokens => (Duration::from_hours(24), Duration::from_hours(30 * 24)),
            Self::Reviewed => (Duration::from_hours(1), Duration::from_hours(24)),
        };
        (2 * lifetime).clamp(shortest, longest)
    }
}

/// Why a request gets nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum ServiceError {
    /// The caller may not have it. Audited.
    #[error("{0}")]
    Refused(String),
    /// It is no request.
    #[error("{0}")]
    Malformed(String),
    /// The caller asks too much at once.
    #[error("too many requests to join at once: try again")]
    Busy,
    /// It isn't the caller's fault.
    #[error("the issuer is out of order")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// What the service believes.
struct Documents {
    /// Which node runs a workload with which identity.
    placed: HashSet<(String, SpiffeId)>,
    state: MeshState,
}

impl Documents {
    fn new(config: &MeshConfig) -> Arc<Self> {
        Arc::new(Self { placed: places(config), state: MeshState::new(config.clone()) })
    }
}

/// The signing service, apart from its sockets.
pub(super) struct Service {
    issuer: Arc<EmbeddedIssuer>,
    admission: Admission,
    journal: Mutex<Journal>,
    documents: Mutex<Arc<Documents>>,
}

impl Service {
    pub(super) fn new(
        issuer: Arc<EmbeddedIssuer>,
        admission: Admission,
        journal: &Path,
        config: &MeshConfig,
    ) -> Result<Self, JournalError> {
        let journal = Mutex::new(Journal::open(journal)?);
        Ok(Self { issuer, admission, journal, documents: Mutex::new(Documents::new(config)) })
    }

    /// Takes new documents.
    pub(super) fn update(&self, config: &MeshConfig) {
        *self.documents.lock().unwrap_or_else(PoisonError::into_inner) = Documents::new(config);
    }

    pub(super) fn issuer(&self) -> &EmbeddedIssuer {
        &self.issuer
    }

    /// A token for a node's identity.
    pub(super) fn join(&self, body: &[u8], now: SystemTime) -> Result<SvidAnswer, ServiceError> {
        let JoinRequest { token, request } = Self::introduction(body)?;
        let token = JoinToken::parse(&token).map_err(malformed)?;
        let public_key = public_key(&request)?;
        let ca = self.issuer.ca();
        let refused = |reason: String| refuse(&token.node, "join", reason);
        token.verify(&ca, now).map_err(|error| refused(error.to_string()))?;
        let id = SpiffeId::of_node(&ca.anchors().bundle.trust_domain, &token.node).map_err(malformed)?;
        if self.is_revoked(&id) {
            return Err(refused("the node is revoked".to_owned()));
        }
        // Held from the question whether the token is used until it is: two that come at once are still two.
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        if journal.is_used(&token.serial) {
            return Err(refused("the join token has been used".to_owned()));
        }
        self.welcome(&mut journal, (&token.node, &id), &public_key, Some(&token.serial), now)
    }

    /// Reads a request to join.
    pub(super) fn introduction(body: &[u8]) -> Result<JoinRequest, ServiceError> {
        serde_json::from_slice(body).map_err(malformed)
    }

    /// A node's identity for the agent that somebody else knows: the node's name, or why it gets nothing.
    pub(super) fn admit(
        &self,
        node: Result<String, String>,
        asked: &JoinRequest,
        now: SystemTime,
    ) -> Result<SvidAnswer, ServiceError> {
        let node = node.map_err(|reason| refuse("unknown", "join", reason))?;
        let id = SpiffeId::of_node(&self.issuer.ca().anchors().bundle.trust_domain, &node).map_err(malformed)?;
        if self.is_revoked(&id) {
            return Err(refuse(&node, "join", "the node is revoked".to_owned()));
        }
        let public_key = public_key(&asked.request)?;
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        self.welcome(&mut journal, (&node, &id), &public_key, None, now)
    }

    /// Gives a node that may join its identity, and writes that down; with the join token's serial number, if it had one.
    fn welcome(
        &self,
        journal: &mut Journal,
        (node, id): (&str, &SpiffeId),
        public_key: &SubjectPublicKeyInfoDer<'_>,
        token: Option<&str>,
        now: SystemTime,
    ) -> Result<SvidAnswer, ServiceError> {
        let issued = self.sign(id, public_key, now)?;
        journal.note(node, id, &issued, token).map_err(failed)?;
        tracing::info!(target: "audit", node, token.serial = token, svid.serial = %issued.serial, "node joined");
        Ok(answer(&issued))
    }

    /// A workload's SVID for the agent of its node, or a node's own again where it may renew that by itself.
    pub(super) fn svid(
        &self,
        caller: Option<&SpiffeId>,
        body: &[u8],
        now: SystemTime,
    ) -> Result<SvidAnswer, ServiceError> {
        let SvidRequest { id, request } = serde_json::from_slice(body).map_err(malformed)?;
        let (caller, node) = known(caller, &id)?;
        let id = SpiffeId::parse(&id).map_err(malformed)?;
        if id == *caller && self.admission == Admission::Reviewed {
            return Err(refuse(node, &id.to_string(), "a node's identity is not renewed here: join again".to_owned()));
        }
        if !(id == *caller || self.runs(node, &id)) {
            return Err(refuse(node, &id.to_string(), "this node runs no workload with this identity".to_owned()));
        }
        if self.is_revoked(caller) || self.is_revoked(&id) {
            return Err(refuse(node, &id.to_string(), "the identity is revoked".to_owned()));
        }
        let issued = self.sign(&id, &public_key(&request)?, now)?;
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        journal.note(node, &id, &issued, None).map_err(failed)?;
        tracing::info!(target: "audit", node, svid.id = %id, svid.serial = %issued.serial, "svid issued");
        Ok(answer(&issued))
    }

    fn runs(&self, node: &str, id: &SpiffeId) -> bool {
        !id.is_reserved() && self.documents().placed.contains(&(node.to_owned(), id.clone()))
    }

    fn is_revoked(&self, id: &SpiffeId) -> bool {
        self.documents().state.revokes_id(id)
    }

    fn documents(&self) -> Arc<Documents> {
        Arc::clone(&self.documents.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn sign(
        &self,
        id: &SpiffeId,
        key: &SubjectPublicKeyInfoDer<'_>,
        now: SystemTime,
    ) -> Result<IssuedChain, ServiceError> {
        let ca = self.issuer.ca();
        let lifetime = ca.settings().lifetime;
        let lifetime = if id.is_reserved() { self.admission.node_lifetime(lifetime) } else { lifetime };
        ca.sign_for(id, key, lifetime, now).map_err(failed)
    }
}

/// Only a node's own identity lets it ask: TLS has checked it, if there is one.
fn known<'c>(caller: Option<&'c SpiffeId>, what: &str) -> Result<(&'c SpiffeId, &'c str), ServiceError> {
    match caller.and_then(|caller| Some((caller, caller.node()?))) {
        Some(known) => Ok(known),
        None => Err(refuse("unknown", what, "the caller has no node's identity".to_owned())),
    }
}

fn places(config: &MeshConfig) -> HashSet<(String, SpiffeId)> {
    let place = |workload: &Arc<crate::model::workload::Workload>| {
        (workload.node.as_str().to_owned(), workload.identity.clone())
    };
    // Another trust domain's CA signs for its own.
    let own = config.workloads.iter().filter(|workload| *workload.identity.trust_domain() == config.mesh.trust_domain);
    own.map(place).collect()
}

fn public_key(request: &str) -> Result<SubjectPublicKeyInfoDer<'static>, ServiceError> {
    let der = decode(request).ok_or_else(|| ServiceError::Malformed("the request is not base64".to_owned()))?;
    request::public_key(&der).map_err(malformed)
}

fn answer(issued: &IssuedChain) -> SvidAnswer {
    SvidAnswer { chain: issued.certificates.iter().map(|der| encode(der)).collect() }
}

fn refuse(node: &str, id: &str, reason: String) -> ServiceError {
    tracing::warn!(target: "audit", node, svid.id = id, reason, "svid refused");
    ServiceError::Refused(reason)
}

fn malformed(error: impl std::error::Error) -> ServiceError {
    ServiceError::Malformed(error.to_string())
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> ServiceError {
    ServiceError::Failed(Box::new(error))
}

#[cfg(test)]
mod tests;
