//! Holds the SVIDs of this node's workloads and rotates them.
//!
//! Users get a `watch` receiver and always see the newest SVID; connections keep the `Arc` they began with.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;

use super::{IssueError, Issuer};
use crate::model::spiffe::SpiffeId;
use crate::model::svid::{TrustBundle, X509Svid};

/// The SVIDs of this node.
pub struct SvidManager<I> {
    issuer: I,
}

impl<I: Issuer> SvidManager<I> {
    /// Starts with no SVIDs.
    pub fn new(issuer: I) -> Self {
        Self { issuer }
    }

    /// The SVID of `id`: issued now if it is new, else the one at hand. It is rotated for as long as a receiver lives.
    pub async fn svid(&self, id: &SpiffeId, now: SystemTime) -> Result<watch::Receiver<Arc<X509Svid>>, IssueError> {
        let _ = (id, now);
        unimplemented!()
    }

    /// The issuer's roots.
    pub fn trust_bundle(&self) -> Arc<TrustBundle> {
        self.issuer.trust_bundle()
    }

    /// Rotates SVIDs when they are due, for ever. Cancel-safe.
    pub async fn run(&self) {
        unimplemented!()
    }
}
