//! Issues and rotates the SVIDs of this node's workloads.
//!
//! Who signs is behind [`Issuer`]; what a certificate contains is in `issue`, when it is rotated in `schedule`, both pure.
//! Nothing here speaks TLS or spawns a task.

use std::sync::Arc;
use std::time::SystemTime;

use futures_util::future::BoxFuture;
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;

use crate::model::revocation::Serial;
use crate::model::spiffe::SpiffeId;
use crate::model::svid::{Trust, X509Svid};

pub mod ca;
pub mod embedded;
pub mod export;
mod health;
mod issue;
mod key;
pub mod manager;
pub mod request;
pub mod rotate;
mod schedule;
pub mod token;

pub use ca::LocalCa;
pub use embedded::EmbeddedIssuer;
pub use key::SecretKey;
pub use manager::SvidManager;

/// What signs SVIDs.
pub trait Issuer: Send + Sync {
    /// Issues a chain for the holder of `key`. `now` is the clock of who asks.
    fn issue<'a>(
        &'a self,
        id: &'a SpiffeId,
        key: &'a SecretKey,
        now: SystemTime,
    ) -> BoxFuture<'a, Result<IssuedChain, IssueError>>;

    /// Looks for new roots, and whether the issuer is there.
    fn refresh(&self, now: SystemTime) -> BoxFuture<'_, Result<(), IssueError>>;

    /// The roots that peers' chains must end in, always the newest.
    fn trust(&self) -> watch::Receiver<Arc<Trust>>;
}

/// What an issuer gives for a public key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct IssuedChain {
    /// DER, leaf first, without the root.
    pub certificates: Vec<CertificateDer<'static>>,
    /// The leaf's serial number.
    pub serial: Serial,
    /// When the leaf becomes valid.
    pub not_before: SystemTime,
    /// The last moment at which the leaf is valid.
    pub not_after: SystemTime,
}

impl IssuedChain {
    /// With the key that it was issued for.
    pub fn into_svid(self, id: &SpiffeId, key: &SecretKey) -> X509Svid {
        X509Svid {
            id: id.clone(),
            chain: self.certificates,
            private_key: key.to_pkcs8(),
            serial: self.serial,
            not_before: self.not_before,
            not_after: self.not_after,
        }
    }
}

/// Why no SVID was issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The CA's own certificate is not valid now.
    #[error("the CA certificate is not valid now")]
    CaExpired,
    /// The CA's files have changed and can't be used; the CA goes on as it was.
    #[error("read the CA's files again")]
    Files(#[from] ca::CaFileError),
    /// The identity isn't one of the issuer's trust domain, or is the trust domain itself.
    #[error("`{0}` is not an identity of this issuer's trust domain")]
    Identity(SpiffeId),
    /// The issuer answers that it won't.
    #[error("the issuer refuses: {0}")]
    Refused(String),
    /// Making or signing failed; also an unusable public key.
    #[error("sign the certificate of `{id}`")]
    Sign {
        /// For whom.
        id: SpiffeId,
        /// The cause.
        source: rcgen::Error,
    },
    /// The issuer can't be reached, or doesn't answer as it should.
    #[error("ask the issuer")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}
