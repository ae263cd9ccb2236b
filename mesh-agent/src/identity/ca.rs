//! The embedded CA: a key that this agent holds and signs SVIDs with.
//!
//! Good for one machine and for the demo. What a certificate contains is decided in `issue`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls_pki_types::SubjectPublicKeyInfoDer;

use super::{IssueError, IssuedChain, Issuer};
use crate::model::spiffe::{SpiffeId, TrustDomain};
use crate::model::svid::TrustBundle;

/// Why a CA can't be made, loaded or stored.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// Writing or reading a file failed.
    #[error("{operation} {}", path.display())]
    File {
        /// `create`, `write` or `read`.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// A CA whose key is in this process.
pub struct LocalCa {}

impl LocalCa {
    /// Makes a CA with a new P-256 key and a self-signed certificate.
    pub fn create(trust_domain: TrustDomain, svid_lifetime: Duration, now: SystemTime) -> Result<Self, CaError> {
        let _ = (trust_domain, svid_lifetime, now);
        unimplemented!()
    }

    /// Takes a CA from PEM texts: the CA's certificate (and after it further roots to trust), and its PKCS #8 key.
    pub fn load(
        trust_domain: TrustDomain,
        certificates: &str,
        key: &str,
        svid_lifetime: Duration,
    ) -> Result<Self, CaError> {
        let _ = (trust_domain, certificates, key, svid_lifetime);
        unimplemented!()
    }

    /// Reads both PEM files and loads them.
    pub fn load_files(
        trust_domain: TrustDomain,
        certificates: &Path,
        key: &Path,
        svid_lifetime: Duration,
    ) -> Result<Self, CaError> {
        let _ = (trust_domain, certificates, key, svid_lifetime);
        unimplemented!()
    }
}

impl Issuer for LocalCa {
    async fn issue(
        &self,
        id: &SpiffeId,
        public_key: SubjectPublicKeyInfoDer<'_>,
        now: SystemTime,
    ) -> Result<IssuedChain, IssueError> {
        let _ = (id, public_key, now);
        unimplemented!()
    }

    fn trust_bundle(&self) -> Arc<TrustBundle> {
        unimplemented!()
    }
}

/// Makes a CA and writes `ca.crt` and `ca.key` (mode 0600) into `directory`, which it creates; never overwrites a file.
pub fn init_dir(directory: &Path, trust_domain: TrustDomain, now: SystemTime) -> Result<(), CaError> {
    let _ = (directory, trust_domain, now);
    unimplemented!()
}
