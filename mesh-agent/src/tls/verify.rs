//! Judges the peer's certificate: the one place where a peer gets its identity.
//!
//! One body for both directions. webpki checks signatures, dates, basicConstraints and extended key usage up to a root
//! of the trust bundle; the SPIFFE rules, which it doesn't know (URI SAN, keyUsage), are here (SPIFFE X509-SVID §5).
//! The roots' own dates aren't looked at (RFC 5280 §6.1.1): issuers sign nothing that outlives them.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, PeerIncompatible, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::model::spiffe::{SpiffeId, SpiffeIdError, TrustDomain};

/// Why a certificate chain gives its holder no identity, or not the expected one.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// The certificate is no X.509.
    #[error("the peer's certificate can't be parsed")]
    Encoding,
    /// It leads to no root of the bundle, is expired, or is otherwise refused by webpki.
    #[error("the peer's certificate chain is not valid")]
    Chain(#[source] webpki::Error),
    /// The leaf is a CA, or may sign certificates, or may not sign handshakes.
    #[error("the peer's certificate is not one of a workload")]
    Usage,
    /// There must be exactly one URI SAN.
    #[error("the peer's certificate has {0} URI names, not one")]
    UriNames(usize),
    /// The URI SAN is no SPIFFE ID.
    #[error("the peer's name is not a SPIFFE ID")]
    SpiffeId(#[source] SpiffeIdError),
    /// The ID has no path: it names a trust domain and no workload.
    #[error("the peer's SPIFFE ID names no workload")]
    PathEmpty,
    /// The ID is another trust domain's.
    #[error("the peer `{0}` belongs to another trust domain")]
    TrustDomain(SpiffeId),
    /// A valid workload, but not the one that has this address.
    #[error("the peer is `{found}`, not `{expected}`")]
    WrongIdentity {
        /// Who has the address.
        expected: SpiffeId,
        /// Who answered.
        found: SpiffeId,
    },
}

impl PeerError {
    /// A stable label for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Chain(webpki::Error::CertExpired { .. }) => "expired",
            Self::Chain(webpki::Error::CertNotValidYet { .. }) => "not_yet_valid",
            Self::Chain(_) => "untrusted",
            Self::Encoding | Self::PathEmpty | Self::SpiffeId(_) | Self::UriNames(_) | Self::Usage => "invalid_svid",
            Self::TrustDomain(_) => "foreign_trust_domain",
            Self::WrongIdentity { .. } => "wrong_identity",
        }
    }
}

/// rustls picks the alert by the variant; [`PeerError`] itself comes back out of the handshake where there is none.
impl From<PeerError> for rustls::Error {
    fn from(error: PeerError) -> Self {
        Self::InvalidCertificate(match error {
            PeerError::Chain(webpki::Error::CertExpired { time, not_after }) => {
                CertificateError::ExpiredContext { time, not_after }
            }
            PeerError::Chain(webpki::Error::CertNotValidYet { time, not_before }) => {
                CertificateError::NotValidYetContext { time, not_before }
            }
            PeerError::Chain(webpki::Error::UnknownIssuer) => CertificateError::UnknownIssuer,
            PeerError::Encoding => CertificateError::BadEncoding,
            other => CertificateError::Other(OtherError(Arc::new(other))),
        })
    }
}

/// Accepts the workloads of one trust domain; as a client, one workload only.
#[derive(Debug)]
pub(super) struct SpiffeVerifier {
    pub(super) anchors: Vec<TrustAnchor<'static>>,
    pub(super) trust_domain: TrustDomain,
    /// Who the server must be; servers take any workload and leave the rest to policy.
    pub(super) expected: Option<SpiffeId>,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

impl SpiffeVerifier {
    /// The identity that the chain proves.
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: KeyUsage,
        now: UnixTime,
    ) -> Result<SpiffeId, PeerError> {
        let parsed = EndEntityCert::try_from(leaf).map_err(PeerError::Chain)?;
        let algorithms = self.algorithms.all;
        parsed
            .verify_for_usage(algorithms, &self.anchors, intermediates, now, usage, None, Some(&may_sign))
            .map_err(PeerError::Chain)?;
        let found = leaf_identity(leaf)?;
        if *found.trust_domain() != self.trust_domain {
            return Err(PeerError::TrustDomain(found));
        }
        match &self.expected {
            Some(expected) if *expected != found => Err(PeerError::WrongIdentity { expected: expected.clone(), found }),
            _ => Ok(found),
        }
    }
}

/// webpki doesn't look at keyUsage: an intermediate that has one must be allowed to sign certificates.
fn may_sign(path: &VerifiedPath<'_>) -> Result<(), webpki::Error> {
    for intermediate in path.intermediate_certificates() {
        let der = intermediate.der();
        let usage = X509Certificate::from_der(&der).ok().and_then(|(_, parsed)| {
            let usage = parsed.key_usage().ok()?;
            Some(usage.is_none_or(|usage| usage.value.key_cert_sign()))
        });
        if usage != Some(true) {
            return Err(webpki::Error::EndEntityUsedAsCa);
        }
    }
    Ok(())
}

/// The identity in a leaf, by SPIFFE X509-SVID §5.2; says nothing about who signed it.
pub fn leaf_identity(leaf: &CertificateDer<'_>) -> Result<SpiffeId, PeerError> {
    let (rest, parsed) = X509Certificate::from_der(leaf).map_err(|_unexplained| PeerError::Encoding)?;
    if !rest.is_empty() {
        return Err(PeerError::Encoding);
    }
    let key_usage = parsed.key_usage().map_err(|_unexplained| PeerError::Encoding)?;
    let is_workload = key_usage.is_none_or(|usage| {
        let usage = usage.value;
        usage.digital_signature() && !usage.key_cert_sign() && !usage.crl_sign()
    });
    if !is_workload || parsed.is_ca() {
        return Err(PeerError::Usage);
    }
    let id = SpiffeId::parse(only_uri_name(&parsed)?).map_err(PeerError::SpiffeId)?;
    if id.path().is_empty() { Err(PeerError::PathEmpty) } else { Ok(id) }
}

fn only_uri_name<'cert>(certificate: &'cert X509Certificate<'_>) -> Result<&'cert str, PeerError> {
    let names = certificate.subject_alternative_name().map_err(|_unexplained| PeerError::Encoding)?;
    let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
    let mut uris = Vec::new();
    for name in names {
        match name {
            GeneralName::URI(uri) => uris.push(*uri),
            // It may be a URI that only other parsers can read.
            GeneralName::Invalid(..) => return Err(PeerError::Encoding),
            _ => {}
        }
    }
    match uris[..] {
        [uri] => Ok(uri),
        _ => Err(PeerError::UriNames(uris.len())),
    }
}

impl ServerCertVerifier for SpiffeVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, KeyUsage::server_auth(), now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for SpiffeVerifier {
    /// None: a client has one SVID and sends it.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, KeyUsage::client_auth(), now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
