//! The embedded CA: a key that this agent holds and signs SVIDs with.
//!
//! Good for one machine and for the demo. What a certificate contains is decided in `issue`; here is which CA
//! certificates are fit for use, because webpki looks neither at keyUsage nor at a URI's name constraints.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::SubjectPublicKeyInfo;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, SubjectPublicKeyInfoDer, pem};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use super::issue::{self, Validity};
use super::key::{SecretKey, random_serial};
use super::{IssueError, IssuedChain, Issuer};
use crate::model::spiffe::{SpiffeId, TrustDomain};
use crate::model::svid::TrustBundle;

mod files;

pub use files::{CaFileError, init_dir};

/// Why a CA can't be made or loaded.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// Making a key or signing the certificate failed.
    #[error("make a CA")]
    Create(#[source] rcgen::Error),
    /// The key is no private key in PEM.
    #[error("read the CA key")]
    Key(#[source] rcgen::Error),
    /// The certificates are no PEM.
    #[error("read the CA certificate")]
    Pem(#[source] pem::Error),
    /// A certificate is no X.509, or there is none.
    #[error("the CA certificate is not a certificate")]
    Encoding,
    /// basicConstraints or keyUsage don't let it sign certificates (SPIFFE X509-SVID §4).
    #[error("the CA certificate is not one of a CA that may sign certificates")]
    NotACa,
    /// It limits names in a way that no verifier here can check.
    #[error("the CA certificate has name constraints, which are not supported")]
    Constrained,
    /// It is another trust domain's.
    #[error("the CA certificate belongs to `{0}`")]
    TrustDomain(String),
    /// It has a subject that can't be repeated byte by byte in the certificates it issues.
    #[error("the CA certificate has a subject of an unsupported form")]
    Subject,
    /// The key isn't the certificate's.
    #[error("the CA key does not belong to the CA certificate")]
    KeyMismatch,
}

/// A CA whose key is in this process.
pub struct LocalCa {
    issuer: rcgen::Issuer<'static, SecretKey>,
    validity: Validity,
    bundle: Arc<TrustBundle>,
    certificate_pem: String,
    svid_lifetime: Duration,
}

impl LocalCa {
    /// Makes a CA with a new P-256 key and a self-signed certificate.
    pub fn create(trust_domain: TrustDomain, svid_lifetime: Duration, now: SystemTime) -> Result<Self, CaError> {
        let key = SecretKey::generate().map_err(CaError::Create)?;
        let serial = random_serial().map_err(CaError::Create)?;
        let params = issue::ca(&trust_domain, Validity::of_ca(now), serial).map_err(CaError::Create)?;
        let certificate = params.self_signed(&key).map_err(CaError::Create)?;
        Self::from_parts(trust_domain, &certificate.pem(), key, svid_lifetime)
    }

    /// Takes a CA from PEM texts: the CA's certificate (and after it further roots to trust), and its PKCS #8 key.
    pub fn load(
        trust_domain: TrustDomain,
        certificates: &str,
        key: &str,
        svid_lifetime: Duration,
    ) -> Result<Self, CaError> {
        let key = SecretKey::from_pem(key).map_err(CaError::Key)?;
        Self::from_parts(trust_domain, certificates, key, svid_lifetime)
    }

    /// The CA's certificate in PEM, and further roots if it was loaded with some.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The CA's private key in PEM: for `ca init` and nobody else.
    pub(super) fn key_pem(&self) -> Zeroizing<String> {
        self.issuer.key().to_pem()
    }

    fn from_parts(
        trust_domain: TrustDomain,
        certificates: &str,
        key: SecretKey,
        svid_lifetime: Duration,
    ) -> Result<Self, CaError> {
        let roots: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificates.as_bytes()).collect();
        let roots = roots.map_err(CaError::Pem)?;
        for root in &roots {
            check_root(&parse(root)?, &trust_domain)?;
            // Handshakes read roots with webpki, which is stricter: what it refuses must not be found out there.
            webpki::anchor_from_trusted_cert(root).map_err(|_unexplained| CaError::Encoding)?;
        }
        let signing = roots.first().ok_or(CaError::Encoding)?;
        let parsed = parse(signing)?;
        if parsed.public_key().raw != key.public_key().as_ref() {
            return Err(CaError::KeyMismatch);
        }
        let subject = parsed.subject().as_raw().to_vec();
        let validity = Validity {
            not_before: parsed.validity().not_before.to_datetime().into(),
            not_after: parsed.validity().not_after.to_datetime().into(),
        };
        let issuer = rcgen::Issuer::from_ca_cert_der(signing, key).map_err(CaError::Create)?;
        let bundle = Arc::new(TrustBundle { trust_domain, roots });
        let ca = Self { issuer, validity, bundle, certificate_pem: certificates.to_owned(), svid_lifetime };
        ca.check_subject(&subject)?;
        Ok(ca)
    }

    /// rcgen rebuilds the issuer's name from parsed parts, and some names don't survive that.
    fn check_subject(&self, subject: &[u8]) -> Result<(), CaError> {
        let id = self.bundle.trust_domain.id();
        let trial = self.sign(&id, self.issuer.key(), self.validity).map_err(CaError::Create)?;
        let same = parse(&trial.certificates[0])?.issuer().as_raw() == subject;
        if same { Ok(()) } else { Err(CaError::Subject) }
    }

    fn sign(
        &self,
        id: &SpiffeId,
        public_key: &impl rcgen::PublicKeyData,
        validity: Validity,
    ) -> Result<IssuedChain, rcgen::Error> {
        let serial = random_serial()?;
        let leaf = issue::svid(id, validity, serial)?.signed_by(public_key, &self.issuer)?;
        Ok(IssuedChain {
            certificates: vec![leaf.der().clone()],
            serial: issue::hexadecimal(serial),
            not_before: validity.not_before,
            not_after: validity.not_after,
        })
    }
}

impl Issuer for LocalCa {
    async fn issue(
        &self,
        id: &SpiffeId,
        public_key: SubjectPublicKeyInfoDer<'_>,
        now: SystemTime,
    ) -> Result<IssuedChain, IssueError> {
        if *id.trust_domain() != self.bundle.trust_domain || id.path().is_empty() {
            return Err(IssueError::Identity(id.clone()));
        }
        let validity = Validity::of_svid(now, self.svid_lifetime, self.validity).ok_or(IssueError::CaExpired)?;
        let failed = |source| IssueError::Sign { id: id.clone(), source };
        let public_key = SubjectPublicKeyInfo::from_der(&public_key).map_err(failed)?;
        self.sign(id, &public_key, validity).map_err(failed)
    }

    fn trust_bundle(&self) -> Arc<TrustBundle> {
        Arc::clone(&self.bundle)
    }
}

fn parse<'der>(certificate: &'der CertificateDer<'_>) -> Result<X509Certificate<'der>, CaError> {
    match X509Certificate::from_der(certificate) {
        Ok(([], parsed)) => Ok(parsed),
        _ => Err(CaError::Encoding),
    }
}

fn check_root(root: &X509Certificate<'_>, trust_domain: &TrustDomain) -> Result<(), CaError> {
    let key_usage = root.key_usage().map_err(|_unexplained| CaError::Encoding)?;
    if !root.is_ca() || key_usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
        return Err(CaError::NotACa);
    }
    if root.name_constraints().map_err(|_unexplained| CaError::Encoding)?.is_some() {
        return Err(CaError::Constrained);
    }
    let names = root.subject_alternative_name().map_err(|_unexplained| CaError::Encoding)?;
    let uris = names.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let own = trust_domain.id().to_string();
    match uris.into_iter().find(|uri| *uri != own) {
        Some(foreign) => Err(CaError::TrustDomain(foreign.to_owned())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
