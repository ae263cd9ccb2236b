//! The CA itself: a key of this process that signs SVIDs.
//!
//! What a certificate contains is decided in `issue`; here is which CA certificates are fit for use, because webpki looks
//! neither at keyUsage nor at a URI's name constraints. Files are read and watched elsewhere (`files`, `embedded`).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use rcgen::{Certificate, CertificateParams, SubjectPublicKeyInfo};
use rustls_pki_types::{CertificateDer, SubjectPublicKeyInfoDer, UnixTime};
use tokio::sync::watch;
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use super::issue::{self, Validity};
use super::key::{SecretKey, random_serial};
use super::{IssueError, IssuedChain, Issuer};
use crate::model::bundle::{self, BundleError, UnfitCa, check_ca};
use crate::model::mesh::SvidSettings;
use crate::model::revocation::Serial;
use crate::model::spiffe::{SpiffeId, TrustDomain};
use crate::model::svid::{Trust, TrustBundle, fingerprint};

mod files;

pub use files::{CaFileError, ensure_dir, init_dir, intermediate_dir};
pub(super) use files::{load_files, read_secret, write_new};

/// Why a CA can't be made or loaded.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The CA above isn't valid now.
    #[error("the CA certificate is not valid now")]
    Expired,
    /// Making a key or signing the certificate failed.
    #[error("make a CA")]
    Create(#[source] rcgen::Error),
    /// The key is no private key in PEM.
    #[error("read the CA key")]
    Key(#[source] rcgen::Error),
    /// The certificates or the bundle can't be read.
    #[error("read the CA certificates")]
    Bundle(#[from] BundleError),
    /// A certificate is no X.509, or there is none.
    #[error("the CA certificate is not a certificate")]
    Encoding,
    /// A certificate or a root is not fit for the trust domain.
    #[error("the CA certificate {0}")]
    Unfit(#[from] UnfitCa),
    /// It has a subject that can't be repeated byte by byte in the certificates it issues.
    #[error("the CA certificate has a subject of an unsupported form")]
    Subject,
    /// It leads to no root of the bundle.
    #[error("the CA certificate leads to no root of the bundle")]
    Untrusted,
    /// The key isn't the certificate's.
    #[error("the CA key does not belong to the CA certificate")]
    KeyMismatch,
}

/// The texts that a CA is loaded from.
pub struct CaTexts<'a> {
    /// PEM: the CA's certificate, then those of the CAs above it. Without `bundle`, all of them are roots.
    pub certificates: &'a str,
    /// PEM: the CA's PKCS #8 key.
    pub key: &'a str,
    /// The roots: PEM or a SPIFFE bundle.
    pub bundle: Option<&'a str>,
}

/// A CA whose key is in this process.
pub struct LocalCa {
    issuer: rcgen::Issuer<'static, SecretKey>,
    /// What it signs ends with it, and with those above it.
    validity: Validity,
    /// What SVIDs carry besides the leaf.
    above: Vec<CertificateDer<'static>>,
    root: CertificateDer<'static>,
    trust: Trust,
    certificate_pem: String,
    settings: SvidSettings,
}

impl LocalCa {
    /// Makes a root CA with a new P-256 key and a self-signed certificate.
    pub fn create(trust_domain: TrustDomain, settings: SvidSettings, now: SystemTime) -> Result<Self, CaError> {
        let (key, params) = new_ca(&trust_domain, Validity::of_ca(now), issue::ROOT_PATH_LENGTH)?;
        let certificate = params.self_signed(&key).map_err(CaError::Create)?;
        Self::from_parts(trust_domain, &certificate.pem(), None, key, settings)
    }

    /// Makes a CA below this one, so that this one's key can be kept elsewhere.
    pub fn create_intermediate(&self, now: SystemTime) -> Result<Self, CaError> {
        let trust_domain = &self.trust.bundle.trust_domain;
        let validity = Validity::of_svid(now, issue::INTERMEDIATE_LIFETIME, issue::BACK_DATED, self.validity);
        let validity = validity.ok_or(CaError::Expired)?;
        let (key, params) = new_ca(trust_domain, validity, 0)?;
        let certificate: Certificate = params.signed_by(&key, &self.issuer).map_err(CaError::Create)?;
        let certificates = certificate.pem() + &bundle::to_pem(&self.above);
        let roots = bundle::to_pem(&self.trust.bundle.roots);
        Self::from_parts(trust_domain.clone(), &certificates, Some(&roots), key, self.settings)
    }

    /// Takes a CA from texts.
    pub fn load(trust_domain: TrustDomain, texts: &CaTexts<'_>, settings: SvidSettings) -> Result<Self, CaError> {
        let key = SecretKey::from_pem(texts.key).map_err(CaError::Key)?;
        Self::from_parts(trust_domain, texts.certificates, texts.bundle, key, settings)
    }

    /// As [`LocalCa::load`], with a name of the texts: other texts, another name.
    pub(super) fn load_named(
        trust_domain: &TrustDomain,
        texts: &CaTexts<'_>,
        settings: SvidSettings,
    ) -> Result<(Self, String), CaError> {
        let ca = Self::load(trust_domain.clone(), texts, settings)?;
        let read = Zeroizing::new([texts.certificates, texts.key, texts.bundle.unwrap_or_default()].join("\0"));
        Ok((ca, fingerprint(read.as_bytes())))
    }

    /// The CA's certificate in PEM, and what it was loaded with.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The CA's private key in PEM: for `ca init`, `ca intermediate`, `ca rotate` and a cluster's Secret, and nobody else.
    pub fn key_pem(&self) -> Zeroizing<String> {
        self.issuer.key().to_pem()
    }

    /// The roots, and who signs.
    pub fn anchors(&self) -> &Trust {
        &self.trust
    }

    /// The root that its SVIDs lead to.
    pub fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    /// Signs something that is no certificate: `message` must begin with what no certificate begins with.
    pub(super) fn sign_message(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        rcgen::SigningKey::sign(self.issuer.key(), message)
    }

    /// The certificate of the key that signs.
    pub(super) fn signing_certificate(&self) -> Result<CertificateDer<'static>, BundleError> {
        let first = bundle::from_pem(&self.certificate_pem)?.into_iter().next();
        first.ok_or(BundleError::Empty)
    }

    fn from_parts(
        trust_domain: TrustDomain,
        certificates_pem: &str,
        roots: Option<&str>,
        key: SecretKey,
        settings: SvidSettings,
    ) -> Result<Self, CaError> {
        let mut certificates = bundle::from_pem(certificates_pem)?;
        let roots = roots.map(bundle::parse).transpose()?;
        for certificate in certificates.iter().chain(roots.iter().flatten()) {
            check_ca(certificate, &trust_domain)?;
        }
        let signing = certificates.first().ok_or(CaError::Encoding)?.clone();
        if parse(&signing)?.public_key().raw != key.public_key().as_ref() {
            return Err(CaError::KeyMismatch);
        }
        let roots = match roots {
            Some(roots) => {
                let own = certificates.iter().position(|certificate| roots.contains(certificate));
                certificates.truncate(own.unwrap_or(certificates.len()));
                roots
            }
            None => std::mem::take(&mut certificates),
        };
        let signer = fingerprint(&signing);
        let trust = Trust { bundle: Arc::new(TrustBundle { trust_domain, roots }), signer };
        let mut ca = Self {
            issuer: rcgen::Issuer::from_ca_cert_der(&signing, key).map_err(CaError::Create)?,
            validity: validity(&signing)?,
            above: certificates,
            root: signing.clone(),
            trust,
            certificate_pem: certificates_pem.to_owned(),
            settings,
        };
        ca.find_root(&signing)?;
        Ok(ca)
    }

    /// Signs a certificate on trial: it must lead to a root, and bear the CA's name, which rcgen rebuilds from parsed
    /// parts; some names don't survive that.
    fn find_root(&mut self, signing: &CertificateDer<'_>) -> Result<(), CaError> {
        for certificate in &self.above {
            self.validity = self.validity.intersection(validity(certificate)?);
        }
        let id = self.trust.bundle.trust_domain.id();
        let trial = self.sign(&id, self.issuer.key(), self.validity).map_err(CaError::Create)?;
        let leaf = &trial.certificates[0];
        if parse(leaf)?.issuer().as_raw() != parse(signing)?.subject().as_raw() {
            return Err(CaError::Subject);
        }
        let root = self.trust.bundle.roots.iter().find(|root| leads_to(leaf, &self.above, root, self.validity));
        self.root = root.ok_or(CaError::Untrusted)?.clone();
        self.validity = self.validity.intersection(validity(&self.root)?);
        Ok(())
    }

    /// Issues a chain for the holder of `public_key`, which is all that comes from a request.
    pub fn sign_for(
        &self,
        id: &SpiffeId,
        public_key: &SubjectPublicKeyInfoDer<'_>,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<IssuedChain, IssueError> {
        if *id.trust_domain() != self.trust.bundle.trust_domain || id.path().is_empty() {
            return Err(IssueError::Identity(id.clone()));
        }
        let validity = Validity::of_svid(now, lifetime, self.settings.clock_skew, self.validity);
        let validity = validity.ok_or(IssueError::CaExpired)?;
        let failed = |source| IssueError::Sign { id: id.clone(), source };
        let public_key = SubjectPublicKeyInfo::from_der(public_key).map_err(failed)?;
        self.sign(id, &public_key, validity).map_err(failed)
    }

    /// What its certificates are like.
    pub fn settings(&self) -> SvidSettings {
        self.settings
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
            certificates: std::iter::once(leaf.der().clone()).chain(self.above.iter().cloned()).collect(),
            serial: Serial::from_der(&serial),
            not_before: validity.not_before,
            not_after: validity.not_after,
        })
    }
}

/// A CA that never changes: for tools and tests. Agents use `EmbeddedIssuer`.
impl Issuer for LocalCa {
    fn issue<'a>(
        &'a self,
        id: &'a SpiffeId,
        key: &'a SecretKey,
        now: SystemTime,
    ) -> BoxFuture<'a, Result<IssuedChain, IssueError>> {
        Box::pin(async move { self.sign_for(id, &key.public_key(), self.settings.lifetime, now) })
    }

    fn refresh(&self, _now: SystemTime) -> BoxFuture<'_, Result<(), IssueError>> {
        Box::pin(async { Ok(()) })
    }

    fn trust(&self) -> watch::Receiver<Arc<Trust>> {
        watch::channel(Arc::new(self.trust.clone())).1
    }
}

fn new_ca(
    trust_domain: &TrustDomain,
    validity: Validity,
    path_length: u8,
) -> Result<(SecretKey, CertificateParams), CaError> {
    let key = SecretKey::generate().map_err(CaError::Create)?;
    let serial = random_serial().map_err(CaError::Create)?;
    Ok((key, issue::ca(trust_domain, validity, serial, path_length).map_err(CaError::Create)?))
}

fn leads_to(
    leaf: &CertificateDer<'_>,
    above: &[CertificateDer<'_>],
    root: &CertificateDer<'_>,
    validity: Validity,
) -> bool {
    let (Ok(leaf), Ok(anchor)) = (EndEntityCert::try_from(leaf), webpki::anchor_from_trusted_cert(root)) else {
        return false;
    };
    // At its first moment: a CA that has expired is loaded too, and says so when it is asked.
    let moment = validity.not_before.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let moment = UnixTime::since_unix_epoch(moment);
    let algorithms = webpki::ALL_VERIFICATION_ALGS;
    leaf.verify_for_usage(algorithms, &[anchor], above, moment, KeyUsage::server_auth(), None, None).is_ok()
}

pub(super) fn validity(certificate: &CertificateDer<'_>) -> Result<Validity, CaError> {
    let parsed = parse(certificate)?;
    Ok(Validity {
        not_before: parsed.validity().not_before.to_datetime().into(),
        not_after: parsed.validity().not_after.to_datetime().into(),
    })
}

fn parse<'der>(certificate: &'der CertificateDer<'_>) -> Result<X509Certificate<'der>, CaError> {
    match X509Certificate::from_der(certificate) {
        Ok(([], parsed)) => Ok(parsed),
        _ => Err(CaError::Encoding),
    }
}

#[cfg(test)]
mod tests;
