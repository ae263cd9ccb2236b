//! What proves an identity, and what proves the proof: [`X509Svid`] and [`TrustBundle`] (SPIFFE X509-SVID).
//!
//! Made by `identity`, used by `tls`, which don't know each other. The key is wiped when the last user lets go of it and
//! shows in no `Debug`.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

use super::revocation::Serial;
use super::spiffe::{SpiffeId, TrustDomain};

/// A certificate chain and its private key.
pub struct X509Svid {
    /// The identity in the leaf.
    pub id: SpiffeId,
    /// DER, leaf first, without the root. Never empty.
    pub chain: Vec<CertificateDer<'static>>,
    /// The private key of the leaf: PKCS #8 DER.
    pub private_key: Zeroizing<Vec<u8>>,
    /// The leaf's serial number.
    pub serial: Serial,
    /// When the leaf becomes valid.
    pub not_before: SystemTime,
    /// The last moment at which the leaf is valid.
    pub not_after: SystemTime,
}

impl X509Svid {
    /// Whether a peer would accept the leaf's dates. An owner without a valid SVID lets no connection live.
    pub fn is_valid_at(&self, now: SystemTime) -> bool {
        self.not_before <= now && now <= self.not_after
    }
}

impl fmt::Debug for X509Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509Svid")
            .field("id", &self.id)
            .field("serial", &self.serial)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// The CA certificates of one trust domain. Several at once, so that a root can be replaced without a gap.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TrustBundle {
    /// The trust domain that they vouch for, and no other.
    pub trust_domain: TrustDomain,
    /// DER; each is a trust anchor.
    pub roots: Vec<CertificateDer<'static>>,
}

/// What an issuer's SVIDs are checked against, and who signs them. Replaced as a whole.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Trust {
    /// The roots.
    pub bundle: Arc<TrustBundle>,
    /// Names the key that signs now: another name means that SVIDs are to be issued anew. Empty: not known yet.
    pub signer: String,
}

/// Names a certificate or a public key: its SHA-256 in lower-case hexadecimal.
pub fn fingerprint(der: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
