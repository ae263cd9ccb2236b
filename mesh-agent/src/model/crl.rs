//! Certificate revocation lists (RFC 5280 §5) as text, and whose word they are.
//!
//! A list says which certificates of one CA prove nothing any more. It counts only with that CA's signature, so where it
//! came from doesn't matter.

use std::sync::Arc;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::certificate::X509Certificate;
use x509_parser::oid_registry::{OID_PKCS1_SHA1WITHRSA, OID_SHA1_WITH_RSA};
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use super::bundle::check_ca;
use super::revocation::{CertificateId, IssuerName, Serial};
use super::svid::TrustBundle;

/// CAs between the one that signed a list and a root.
const MAX_DEPTH: usize = 4;

/// A CA's list.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Crl {
    der: Arc<[u8]>,
    /// Who signed it, by its own words.
    issuer: IssuerName,
    /// What it lists, in its order.
    serials: Vec<Serial>,
    /// CAs that stood beside it in the text: those between its issuer and a root.
    beside: Arc<[CertificateDer<'static>]>,
}

/// Why a text has no lists that can be used.
#[derive(Debug, thiserror::Error)]
pub enum CrlError {
    /// It has none, or no PEM.
    #[error("has no `X509 CRL` in PEM (`openssl crl -inform DER` makes one)")]
    Empty,
    /// A list can't be parsed.
    #[error("list {0} is not a certificate revocation list")]
    Encoding(usize),
    /// A list means something else than it seems to: a delta, a part, or somebody else's certificates (RFC 5280 §5.2).
    #[error("list {0} has a critical extension, which is not supported")]
    Critical(usize),
}

/// Reads all lists of a PEM text. Certificates in it are those of the CAs between a list's issuer and a root.
pub fn parse(text: &str) -> Result<Vec<Crl>, CrlError> {
    let certificates = CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<Vec<_>, _>>();
    let beside: Arc<[_]> = certificates.map_err(|_unexplained| CrlError::Empty)?.into();
    let lists = CertificateRevocationListDer::pem_slice_iter(text.as_bytes()).collect::<Result<Vec<_>, _>>();
    let lists = lists.map_err(|_unexplained| CrlError::Empty)?;
    if lists.is_empty() {
        return Err(CrlError::Empty);
    }
    lists.iter().enumerate().map(|(index, der)| Crl::read(index, der, &beside)).collect()
}

impl Crl {
    fn read(index: usize, der: &[u8], beside: &Arc<[CertificateDer<'static>]>) -> Result<Self, CrlError> {
        let Ok(([], list)) = CertificateRevocationList::from_der(der) else { return Err(CrlError::Encoding(index)) };
        let of_entries = list.iter_revoked_certificates().flat_map(|entry| entry.extensions());
        if list.extensions().iter().chain(of_entries).any(|extension| extension.critical) {
            return Err(CrlError::Critical(index));
        }
        Ok(Self {
            der: der.into(),
            issuer: IssuerName::from_der(list.issuer().as_raw()),
            serials: list.iter_revoked_certificates().map(|entry| Serial::from_der(entry.raw_serial())).collect(),
            beside: Arc::clone(beside),
        })
    }

    /// What it lists.
    pub fn certificates(&self) -> impl Iterator<Item = CertificateId> {
        self.serials.iter().map(|serial| CertificateId { issuer: self.issuer, serial: serial.clone() })
    }

    /// Whether a CA that a bundle vouches for has signed it.
    pub fn is_vouched_for<'b>(&self, mut bundles: impl Iterator<Item = &'b TrustBundle>) -> bool {
        let Ok((_, list)) = CertificateRevocationList::from_der(&self.der) else { return false };
        bundles.any(|bundle| {
            let beside = self.beside.iter().filter(|ca| leads_to_root(ca, &self.beside, bundle, MAX_DEPTH));
            bundle.roots.iter().chain(beside).filter_map(|ca| issuer(ca, bundle)).any(|ca| {
                let may_sign = ca.key_usage().is_ok_and(|usage| usage.is_none_or(|usage| usage.value.crl_sign()));
                let is_strong =
                    ![OID_PKCS1_SHA1WITHRSA, OID_SHA1_WITH_RSA].contains(&list.signature_algorithm.algorithm);
                may_sign
                    && is_strong
                    && ca.subject().as_raw() == list.issuer().as_raw()
                    && list.verify_signature(ca.public_key()).is_ok()
            })
        })
    }
}

/// Whether a CA is signed by a root, or by another that is.
fn leads_to_root(ca: &CertificateDer<'_>, beside: &[CertificateDer<'_>], bundle: &TrustBundle, depth: usize) -> bool {
    let Some(parsed) = issuer(ca, bundle) else { return false };
    let signed = |by: &CertificateDer<'_>| {
        issuer(by, bundle).is_some_and(|above| {
            above.subject().as_raw() == parsed.issuer().as_raw()
                && parsed.verify_signature(Some(above.public_key())).is_ok()
        })
    };
    let is_below = |other: &CertificateDer<'_>| other != ca && signed(other);
    bundle.roots.iter().any(signed)
        || depth > 0 && beside.iter().any(|other| is_below(other) && leads_to_root(other, beside, bundle, depth - 1))
}

fn issuer<'der>(ca: &'der CertificateDer<'_>, bundle: &TrustBundle) -> Option<X509Certificate<'der>> {
    check_ca(ca, &bundle.trust_domain).ok()?;
    X509Certificate::from_der(ca).ok().map(|(_, parsed)| parsed)
}

#[cfg(test)]
mod tests;
