//! Judges the peer's certificate: the one place where a peer gets its identity.
//!
//! One body for both directions. webpki checks signatures, dates, basicConstraints and extended key usage up to a root
//! of the trust bundle; the SPIFFE rules, which it doesn't know (URI SAN, keyUsage), are here (SPIFFE X509-SVID §5).
//! The roots' own dates aren't looked at (RFC 5280 §6.1.1): issuers sign nothing that outlives them.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, PeerIncompatible, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::OID_X509_EXT_SUBJECT_ALT_NAME;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::model::revocation::{CertificateId, IssuerName, Serial};
use crate::model::spiffe::{SpiffeId, SpiffeIdError, TrustDomain};

/// The longest chain that is looked at: a leaf and five CAs.
const MAX_CERTIFICATES: usize = 6;
/// The largest certificate that is looked at: an SVID has less than a tenth of it.
const MAX_CERTIFICATE_BYTES: usize = 8 * 1024;

/// Why a certificate chain gives its holder no identity, or not the expected one.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// The leaf may sign certificates: it is a CA's (SPIFFE X509-SVID §4.1).
    #[error("the peer's certificate is one of a CA")]
    CaAsLeaf,
    /// It leads to no root of the bundle, is expired, or is otherwise refused by webpki.
    #[error("the peer's certificate chain is not valid")]
    Chain(#[source] webpki::Error),
    /// A certificate is no X.509, or has an extension twice.
    #[error("the peer's certificate can't be parsed")]
    Encoding,
    /// A CA of the chain limits names in a way that can't be checked for URIs.
    #[error("a CA of the peer's chain has name constraints, which are not supported")]
    IssuerConstrained,
    /// A CA of the chain has the name of another trust domain, or of a workload.
    #[error("a CA of the peer's chain has a name that is not the trust domain's")]
    IssuerName,
    /// A CA of the chain isn't allowed to sign certificates (SPIFFE X509-SVID §4.3).
    #[error("a CA of the peer's chain may not sign certificates")]
    IssuerUsage,
    /// keyUsage is missing, doesn't allow handshakes, or allows what only a CA does (SPIFFE X509-SVID §4.3).
    #[error("the peer's key is not one for handshakes only")]
    KeyUsage,
    /// More certificates, or larger ones, than a mesh has any use for.
    #[error("the peer's certificate chain is too large")]
    Oversized,
    /// The ID has no path: it names a trust domain and no workload.
    #[error("the peer's SPIFFE ID names no workload")]
    PathEmpty,
    /// The ID is one of the mesh's own parts, where a workload's is expected, or the reverse.
    #[error("`{0}` has no place in this kind of connection")]
    Role(SpiffeId),
    /// The URI SAN is no SPIFFE ID.
    #[error("the peer's name is not a SPIFFE ID")]
    SpiffeId(#[source] SpiffeIdError),
    /// The ID is another trust domain's.
    #[error("the peer `{0}` belongs to another trust domain")]
    TrustDomain(SpiffeId),
    /// There must be exactly one URI SAN (SPIFFE X509-SVID §2).
    #[error("the peer's certificate has {0} URI names, not one")]
    UriNames(usize),
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
            Self::CaAsLeaf => "ca_as_leaf",
            Self::Chain(error) => chain_reason(error),
            Self::Encoding => "bad_certificate",
            Self::IssuerConstrained => "name_constraints",
            Self::IssuerName => "issuer_name",
            Self::IssuerUsage => "issuer_key_usage",
            Self::KeyUsage => "key_usage",
            Self::Oversized => "oversized_chain",
            Self::PathEmpty => "no_workload",
            Self::Role(_) => "wrong_role",
            Self::SpiffeId(_) => "invalid_spiffe_id",
            Self::TrustDomain(_) => "foreign_trust_domain",
            Self::UriNames(0) => "no_uri_name",
            Self::UriNames(_) => "several_uri_names",
            Self::WrongIdentity { .. } => "wrong_identity",
        }
    }
}

fn chain_reason(error: &webpki::Error) -> &'static str {
    use webpki::Error as E;
    match error {
        E::CertExpired { .. } => "expired",
        E::CertNotValidYet { .. } => "not_yet_valid",
        E::CaUsedAsEndEntity => "ca_as_leaf",
        E::EmptyEkuExtension | E::RequiredEkuNotFoundContext(_) => "extended_key_usage",
        E::EndEntityUsedAsCa => "issuer_not_a_ca",
        E::InvalidSignatureForPublicKey => "bad_signature",
        E::MalformedNameConstraint | E::NameConstraintViolation | E::UnsupportedNameType => "name_constraints",
        E::MaximumPathBuildCallsExceeded | E::MaximumPathDepthExceeded | E::MaximumSignatureChecksExceeded => {
            "oversized_chain"
        }
        E::PathLenConstraintViolated => "path_length",
        E::SignatureAlgorithmMismatch
        | E::UnsupportedSignatureAlgorithmContext(_)
        | E::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => "signature_algorithm",
        E::UnknownIssuer => "untrusted",
        E::UnsupportedCriticalExtension => "critical_extension",
        _ => "bad_certificate",
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
            other => CertificateError::Other(OtherError(Arc::new(other))),
        })
    }
}

/// Whom a connection may lead to. A workload's SVID proves nothing to the issuer, and a node's nothing to a workload.
#[derive(Clone, Debug)]
pub(super) enum Accepted {
    /// Workloads of the trust domain.
    Workloads,
    /// This workload, and no other.
    Workload(SpiffeId),
    /// The service that signs SVIDs.
    Issuer,
    /// Agents of nodes.
    Nodes,
}

/// Accepts identities of trust domains, each by its own roots alone.
#[derive(Debug)]
pub(super) struct SpiffeVerifier {
    pub(super) anchors: HashMap<TrustDomain, Vec<TrustAnchor<'static>>>,
    /// Servers take any workload and leave the rest to policy.
    pub(super) accepted: Accepted,
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
        let oversized = |certificate: &CertificateDer<'_>| certificate.len() > MAX_CERTIFICATE_BYTES;
        if intermediates.len() >= MAX_CERTIFICATES || oversized(leaf) || intermediates.iter().any(oversized) {
            return Err(PeerError::Oversized);
        }
        let found = identity(&parse(leaf)?)?;
        let Some(anchors) = self.anchors.get(found.trust_domain()) else {
            return Err(PeerError::TrustDomain(found));
        };
        let parsed = EndEntityCert::try_from(leaf).map_err(PeerError::Chain)?;
        check_name(&parsed, &found)?;
        let path = parsed
            .verify_for_usage(self.algorithms.all, anchors, intermediates, now, usage, None, None)
            .map_err(PeerError::Chain)?;
        for intermediate in path.intermediate_certificates() {
            check_issuer(&intermediate.der(), found.trust_domain())?;
        }
        self.accepted.judge(found)
    }
}

impl Accepted {
    fn judge(&self, found: SpiffeId) -> Result<SpiffeId, PeerError> {
        match self {
            Self::Workloads if found.is_reserved() => Err(PeerError::Role(found)),
            Self::Nodes if found.node().is_none() => Err(PeerError::Role(found)),
            Self::Issuer if found != SpiffeId::of_issuer(found.trust_domain()) => Err(PeerError::Role(found)),
            Self::Workload(expected) if *expected != found => {
                Err(PeerError::WrongIdentity { expected: expected.clone(), found })
            }
            _ => Ok(found),
        }
    }
}

/// What webpki doesn't look at in a CA below the root (SPIFFE X509-SVID §4).
fn check_issuer(der: &[u8], trust_domain: &TrustDomain) -> Result<(), PeerError> {
    let parsed = parse(der)?;
    let usage = parsed.key_usage().map_err(|_unexplained| PeerError::Encoding)?;
    if !usage.is_some_and(|usage| usage.value.key_cert_sign()) {
        return Err(PeerError::IssuerUsage);
    }
    if parsed.name_constraints().map_err(|_unexplained| PeerError::Encoding)?.is_some() {
        return Err(PeerError::IssuerConstrained);
    }
    let own = trust_domain.id().to_string();
    if uri_names(&parsed)?.iter().all(|uri| *uri == own) { Ok(()) } else { Err(PeerError::IssuerName) }
}

/// Checks that every certificate of a chain is valid at `now`: what time can change of a chain that was once verified.
pub(super) fn check_dates(chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), rustls::Error> {
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    for certificate in chain {
        let Ok(parsed) = parse(certificate) else { return Err(CertificateError::BadEncoding.into()) };
        if parsed.validity().not_before.timestamp() > now {
            return Err(CertificateError::NotValidYet.into());
        }
        if parsed.validity().not_after.timestamp() < now {
            return Err(CertificateError::Expired.into());
        }
    }
    Ok(())
}

/// The identity in a leaf; says nothing about who signed it.
pub fn leaf_identity(leaf: &[u8]) -> Result<SpiffeId, PeerError> {
    let found = identity(&parse(leaf)?)?;
    check_name(&EndEntityCert::try_from(&CertificateDer::from(leaf)).map_err(PeerError::Chain)?, &found)?;
    Ok(found)
}

/// webpki judges the same bytes with a parser of its own: it must not see another name in them (a URI whose tag says
/// that it is made of parts, for one).
fn check_name(leaf: &EndEntityCert<'_>, found: &SpiffeId) -> Result<(), PeerError> {
    let found = found.to_string();
    if leaf.valid_uri_names().eq([found.as_str()]) { Ok(()) } else { Err(PeerError::Encoding) }
}

/// The identity in a chain's leaf, and the names of all its certificates, leaf first.
pub(super) fn chain_identity(chain: &[CertificateDer<'_>]) -> Result<(SpiffeId, Vec<CertificateId>), PeerError> {
    let parsed = chain.iter().map(|certificate| parse(certificate)).collect::<Result<Vec<_>, _>>()?;
    let id = identity(parsed.first().ok_or(PeerError::Encoding)?)?;
    let name = |certificate: &X509Certificate<'_>| CertificateId {
        issuer: IssuerName::from_der(certificate.issuer().as_raw()),
        serial: Serial::from_der(certificate.raw_serial()),
    };
    Ok((id, parsed.iter().map(name).collect()))
}

/// By SPIFFE X509-SVID §5.2.
fn identity(parsed: &X509Certificate<'_>) -> Result<SpiffeId, PeerError> {
    let constraints = parsed.basic_constraints().map_err(|_unexplained| PeerError::Encoding)?;
    let usage = parsed.key_usage().map_err(|_unexplained| PeerError::Encoding)?.map(|usage| usage.value);
    let signs = usage.is_some_and(|usage| usage.key_cert_sign() || usage.crl_sign());
    if signs || constraints.is_some_and(|constraints| constraints.value.ca) {
        return Err(PeerError::CaAsLeaf);
    }
    if !usage.is_some_and(|usage| usage.digital_signature()) {
        return Err(PeerError::KeyUsage);
    }
    let names = uri_names(parsed)?;
    let [name] = names[..] else { return Err(PeerError::UriNames(names.len())) };
    let id = SpiffeId::parse(name).map_err(PeerError::SpiffeId)?;
    if id.path().is_empty() { Err(PeerError::PathEmpty) } else { Ok(id) }
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, PeerError> {
    match X509Certificate::from_der(der) {
        Ok(([], parsed)) => Ok(parsed),
        _ => Err(PeerError::Encoding),
    }
}

fn uri_names<'cert>(certificate: &X509Certificate<'cert>) -> Result<Vec<&'cert str>, PeerError> {
    let mut uris = Vec::new();
    let extension = certificate.get_extension_unique(&OID_X509_EXT_SUBJECT_ALT_NAME);
    let Some(extension) = extension.map_err(|_unexplained| PeerError::Encoding)? else { return Ok(uris) };
    let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() else {
        return Err(PeerError::Encoding);
    };
    for name in &names.general_names {
        match name {
            GeneralName::URI(uri) => uris.push(*uri),
            // It may be a URI that only other parsers can read.
            GeneralName::Invalid(..) => return Err(PeerError::Encoding),
            _ => {}
        }
    }
    Ok(uris)
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
    /// A node that wants to join has nothing to show yet; what it then may do, the signing API decides.
    fn client_auth_mandatory(&self) -> bool {
        !matches!(self.accepted, Accepted::Nodes)
    }

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
