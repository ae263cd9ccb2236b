//! The remote issuer: an agent's side of the signing API.
//!
//! It is introduced when it has no node identity, and from half of that identity's life on again, or renews it where a token is
//! good only once. It learns of new roots by asking. The node's key is in memory only: after a restart the agent is introduced
//! again.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::SystemTime;

use futures_util::future::BoxFuture;
use rustls_pki_types::CertificateDer;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{Mutex, watch};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::exchange::{ask, unavailable};
use super::wire::{self, JoinRequest, SvidAnswer, SvidRequest, TrustAnswer, decode_chain, encode};
use crate::identity::token::JoinToken;
use crate::identity::{IssueError, IssuedChain, Issuer, SecretKey};
use crate::model::bundle;
use crate::model::revocation::Serial;
use crate::model::spiffe::{SpiffeId, TrustDomain};
use crate::model::svid::{Trust, TrustBundle, X509Svid};
use crate::tls::issuer::{IssuerAnchor, node_identity, signing_client_config};

/// What an agent knows of its issuer before it has an identity.
pub struct Introduction {
    /// `host:port` of the service.
    pub address: String,
    /// What shows who the agent is.
    pub token: String,
    /// How the issuer is recognised.
    pub anchor: Anchor,
}

/// How an issuer is recognised before its roots are known from itself.
pub enum Anchor {
    /// By the SHA-256 of its root's public key, in hexadecimal.
    Pin(String),
    /// By roots that came another way.
    Roots(Vec<CertificateDer<'static>>),
}

/// Introduces an agent to its issuer.
pub trait Introducer: Send + Sync {
    /// Whether it can be done again and again: then nobody renews an identity without it.
    fn is_lasting(&self) -> bool;

    /// Where the issuer is now, and what to show it.
    fn introduce(&self) -> BoxFuture<'_, Result<Introduction, IssueError>>;
}

/// Introduces by a join token in a file.
pub struct JoinTokenFile {
    /// `host:port` of the service.
    pub address: String,
    /// Where the token is.
    pub path: PathBuf,
}

impl Introducer for JoinTokenFile {
    fn is_lasting(&self) -> bool {
        false
    }

    fn introduce(&self) -> BoxFuture<'_, Result<Introduction, IssueError>> {
        Box::pin(async move {
            let text = std::fs::read_to_string(&self.path)
                .map_err(|error| unavailable(format!("read {}: {error}", self.path.display()).into()))?;
            let pin = JoinToken::parse(&text).map_err(|error| unavailable(error.into()))?.pin;
            let (address, token) = (self.address.clone(), text.trim().to_owned());
            Ok(Introduction { address, token, anchor: Anchor::Pin(pin) })
        })
    }
}

/// A signing service elsewhere.
pub struct RemoteIssuer {
    introducer: Box<dyn Introducer>,
    /// Where it was last; empty: nowhere yet.
    address: std::sync::Mutex<String>,
    /// It didn't answer there: it may have moved.
    lost: AtomicBool,
    trust_domain: TrustDomain,
    node: SpiffeId,
    /// Who this agent is to the issuer; `None` until it has joined.
    joined: Mutex<Option<Joined>>,
    trust: watch::Sender<Arc<Trust>>,
}

/// The node's identity, and who was known to sign when it was issued: another signer's roots may not last.
#[derive(Clone)]
struct Joined {
    svid: Arc<X509Svid>,
    signer: String,
}

impl RemoteIssuer {
    /// Nothing is asked yet, and nobody trusted.
    pub fn new(introducer: impl Introducer + 'static, trust_domain: TrustDomain, node: SpiffeId) -> Self {
        let bundle = Arc::new(TrustBundle { trust_domain: trust_domain.clone(), roots: Vec::new() });
        let trust = watch::Sender::new(Arc::new(Trust { bundle, signer: String::new() }));
        Self {
            introducer: Box::new(introducer),
            address: std::sync::Mutex::default(),
            lost: AtomicBool::new(false),
            trust_domain,
            node,
            joined: Mutex::default(),
            trust,
        }
    }

    /// Who this agent is: joins or renews if it must.
    async fn node(&self, now: SystemTime) -> Result<Arc<X509Svid>, IssueError> {
        let mut joined = self.joined.lock().await;
        let signer = self.trust.borrow().signer.clone();
        let held = joined.clone().filter(|joined| joined.svid.is_valid_at(now));
        let joins = held.is_none() || self.introducer.is_lasting();
        let renewed = match &held {
            Some(held) if now < half_life(&held.svid) && held.signer == signer => return Ok(Arc::clone(&held.svid)),
            Some(held) if !joins => self.obtain(&held.svid, &self.node).await,
            _ => self.join().await,
        };
        match (renewed, held) {
            (Ok((key, issued)), _) => {
                let svid = Arc::new(issued.into_svid(&self.node, &key));
                let signer = if joins { self.trust.borrow().signer.clone() } else { signer };
                *joined = Some(Joined { svid: Arc::clone(&svid), signer });
                Ok(svid)
            }
            // It is still good for a while; the next refresh tries again.
            (Err(error), Some(held)) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(error, "the node's identity can't be renewed now");
                Ok(held.svid)
            }
            (Err(error), None) => Err(error),
        }
    }

    async fn join(&self) -> Result<(SecretKey, IssuedChain), IssueError> {
        let Introduction { address, token, anchor } = self.introducer.introduce().await?;
        let trust_domain = &self.trust_domain;
        let bundle;
        let anchor = match &anchor {
            Anchor::Pin(pin) => IssuerAnchor::Pin { trust_domain, pin },
            Anchor::Roots(roots) => {
                bundle = TrustBundle { trust_domain: trust_domain.clone(), roots: roots.clone() };
                IssuerAnchor::Bundle(&bundle)
            }
        };
        let config = signing_client_config(None, &anchor).map_err(|error| unavailable(error.into()))?;
        let (key, request) = new_request(&self.node)?;
        let body = JoinRequest { token, request };
        let answer: SvidAnswer = ask(&address, Arc::clone(&config), wire::JOIN, Some(&body)).await?;
        let issued = understand(&answer, &self.node, &key)?;
        // Whoever signed this is recognised, so the roots are asked for in the same way.
        self.learn(ask(&address, config, wire::TRUST, None::<&()>).await?)?;
        *self.address.lock().unwrap_or_else(PoisonError::into_inner) = address;
        tracing::info!(target: "audit", { node.id = %self.node }, "joined the mesh");
        Ok((key, issued))
    }

    /// Asks with the node's identity, wherever the service is now.
    async fn ask<T: DeserializeOwned>(
        &self,
        node: &X509Svid,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, IssueError> {
        if self.lost.load(Ordering::Relaxed) {
            let address = self.introducer.introduce().await?.address;
            *self.address.lock().unwrap_or_else(PoisonError::into_inner) = address;
        }
        let address = self.address.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let answer = ask(&address, self.config(node)?, path, body).await;
        self.lost.store(matches!(answer, Err(IssueError::Unavailable(_))), Ordering::Relaxed);
        answer
    }

    async fn obtain(&self, node: &X509Svid, id: &SpiffeId) -> Result<(SecretKey, IssuedChain), IssueError> {
        let (key, request) = new_request(id)?;
        let issued = self.request(node, id, &key, request).await?;
        Ok((key, issued))
    }

    async fn request(
        &self,
        node: &X509Svid,
        id: &SpiffeId,
        key: &SecretKey,
        request: String,
    ) -> Result<IssuedChain, IssueError> {
        let body = SvidRequest { id: id.to_string(), request };
        let answer: SvidAnswer = self.ask(node, wire::SVID, Some(&body)).await?;
        understand(&answer, id, key)
    }

    fn config(&self, node: &X509Svid) -> Result<Arc<rustls::ClientConfig>, IssueError> {
        let trust = Arc::clone(&self.trust.borrow());
        let config = signing_client_config(Some(node), &IssuerAnchor::Bundle(&trust.bundle));
        config.map_err(|error| unavailable(error.into()))
    }

    fn learn(&self, answer: TrustAnswer) -> Result<(), IssueError> {
        let roots = bundle::from_spiffe(&answer.bundle).map_err(|error| unavailable(error.into()))?;
        if roots.is_empty() {
            return Err(unavailable("the issuer has no roots".into()));
        }
        let bundle = Arc::new(TrustBundle { trust_domain: self.trust_domain.clone(), roots });
        let next = Trust { bundle, signer: answer.signer };
        self.trust.send_if_modified(|current| {
            let is_new = **current != next;
            if is_new {
                tracing::info!(target: "audit", roots = next.bundle.roots.len(), signer = next.signer, "the issuer has other roots");
                *current = Arc::new(next);
            }
            is_new
        });
        Ok(())
    }
}

impl Issuer for RemoteIssuer {
    fn issue<'a>(
        &'a self,
        id: &'a SpiffeId,
        key: &'a SecretKey,
        now: SystemTime,
    ) -> BoxFuture<'a, Result<IssuedChain, IssueError>> {
        Box::pin(async move {
            let node = self.node(now).await?;
            self.request(&node, id, key, encoded_request(id, key)?).await
        })
    }

    fn refresh(&self, now: SystemTime) -> BoxFuture<'_, Result<(), IssueError>> {
        Box::pin(async move {
            let node = self.node(now).await?;
            self.learn(self.ask(&node, wire::TRUST, None::<&()>).await?)
        })
    }

    fn trust(&self) -> watch::Receiver<Arc<Trust>> {
        self.trust.subscribe()
    }
}

fn half_life(svid: &X509Svid) -> SystemTime {
    svid.not_before + svid.not_after.duration_since(svid.not_before).unwrap_or_default() / 2
}

fn new_request(id: &SpiffeId) -> Result<(SecretKey, String), IssueError> {
    let key = SecretKey::generate().map_err(|source| IssueError::Sign { id: id.clone(), source })?;
    let request = encoded_request(id, &key)?;
    Ok((key, request))
}

fn encoded_request(id: &SpiffeId, key: &SecretKey) -> Result<String, IssueError> {
    let request = key.to_request().map_err(|source| IssueError::Sign { id: id.clone(), source })?;
    Ok(encode(&request))
}

/// The chain must be for what was asked; what it is worth the peers decide.
fn understand(answer: &SvidAnswer, id: &SpiffeId, key: &SecretKey) -> Result<IssuedChain, IssueError> {
    let odd = || unavailable("the issuer's answer is not the certificate that was asked for".into());
    let certificates = decode_chain(&answer.chain).ok_or_else(odd)?;
    let leaf: &CertificateDer<'_> = certificates.first().ok_or_else(odd)?;
    let (_, parsed) = X509Certificate::from_der(leaf).map_err(|_unexplained| odd())?;
    if parsed.public_key().raw != key.public_key().as_ref() || node_identity(&certificates).as_ref() != Some(id) {
        return Err(odd());
    }
    let serial = Serial::from_der(parsed.raw_serial());
    let (not_before, not_after) = (parsed.validity().not_before, parsed.validity().not_after);
    let (not_before, not_after) = (not_before.to_datetime().into(), not_after.to_datetime().into());
    Ok(IssuedChain { serial, not_before, not_after, certificates })
}
