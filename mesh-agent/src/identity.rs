//! Issues and rotates the SVIDs of this node's workloads.
//!
//! Who signs is behind [`Issuer`]; what a certificate contains is in `issue`, when it is rotated in `schedule`, both pure.
//! Nothing here speaks TLS or spawns a task.

use std::future::Future;
use std::sync::Arc;
use std::time::SystemTime;

use rustls_pki_types::{CertificateDer, SubjectPublicKeyInfoDer};

use crate::model::spiffe::SpiffeId;
use crate::model::svid::TrustBundle;

pub mod ca;
pub mod export;
mod issue;
mod key;
pub mod manager;
mod schedule;

pub use ca::LocalCa;
pub use manager::SvidManager;

/// What signs SVIDs.
pub trait Issuer: Send + Sync {
    /// Issues a chain for the holder of `public_key`. `now` is the clock of who asks.
    fn issue(
        &self,
        id: &SpiffeId,
        public_key: SubjectPublicKeyInfoDer<'_>,
        now: SystemTime,
    ) -> impl Future<Output = Result<IssuedChain, IssueError>> + Send;

    /// The roots that peers' chains must end in.
    fn trust_bundle(&self) -> Arc<TrustBundle>;
}

/// What an issuer gives for a public key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct IssuedChain {
    /// DER, leaf first, without the root.
    pub certificates: Vec<CertificateDer<'static>>,
    /// The leaf's serial number in lower-case hexadecimal.
    pub serial: String,
    /// When the leaf becomes valid.
    pub not_before: SystemTime,
    /// The last moment at which the leaf is valid.
    pub not_after: SystemTime,
}

/// Why no SVID was issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The identity isn't one of the issuer's trust domain, or is the trust domain itself.
    #[error("`{0}` is not an identity of this issuer's trust domain")]
    Identity(SpiffeId),
    /// The CA's own certificate is not valid now.
    #[error("the CA certificate is not valid now")]
    CaExpired,
    /// Making or signing failed; also an unusable public key.
    #[error("sign the certificate of `{id}`")]
    Sign {
        /// For whom.
        id: SpiffeId,
        /// The cause.
        source: rcgen::Error,
    },
}
