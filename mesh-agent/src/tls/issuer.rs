//! TLS of the signing API: the issuer's own identity on one side, a node's on the other, and nobody else's.
//!
//! An agent that has just joined no mesh yet has no roots: it knows the issuer by the hash that its join token carries.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::server::NoServerSessionStorage;
use rustls::version::TLS13;
use rustls::{ClientConfig, DigitallySignedStruct, PeerIncompatible, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::TlsConfigError;
use super::config::{certified_key, provider, verifier};
use super::verify::{Accepted, PeerError, SpiffeVerifier, leaf_identity};
use crate::model::mesh::TlsSettings;
use crate::model::spiffe::{SpiffeId, TrustDomain};
use crate::model::svid::{TrustBundle, X509Svid, fingerprint};

/// The ALPN protocol of the signing API.
pub const ISSUER_ALPN: &[u8] = b"hauberk-issuer/1";

/// By what an agent knows the issuer.
pub enum IssuerAnchor<'a> {
    /// By the roots.
    Bundle(&'a TrustBundle),
    /// By the SHA-256 of its root's public key, in hexadecimal: before there are roots.
    Pin {
        /// Whose issuer it must be.
        trust_domain: &'a TrustDomain,
        /// The hash.
        pin: &'a str,
    },
}

/// For an agent that asks the issuer. Without a node's SVID it can only join.
pub fn signing_client_config(
    node: Option<&X509Svid>,
    anchor: &IssuerAnchor<'_>,
) -> Result<Arc<ClientConfig>, TlsConfigError> {
    let (id, provider) = (node.map(|svid| svid.id.clone()), Arc::new(provider(&TlsSettings::default())));
    let verifier: Arc<dyn ServerCertVerifier> = match anchor {
        IssuerAnchor::Bundle(bundle) => Arc::new(verifier([*bundle], Accepted::Issuer, &provider)?),
        IssuerAnchor::Pin { trust_domain, pin } => Arc::new(PinnedVerifier {
            pin: (*pin).to_owned(),
            trust_domain: (*trust_domain).clone(),
            provider: Arc::clone(&provider),
        }),
    };
    let setup = |source| TlsConfigError::Setup { id: id.clone().unwrap_or_else(|| anchor.trust_domain().id()), source };
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13]).map_err(setup)?;
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let mut config = match node {
        Some(svid) => builder.with_client_cert_resolver(Arc::new(certified_key(svid).map_err(setup)?)),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ISSUER_ALPN.to_vec()];
    config.enable_sni = false;
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// For the issuer: nodes prove who they are, and who wants to join has nothing to prove it with. The chain carries its
/// root, for those who know its hash only.
pub fn signing_server_config(svid: &X509Svid, bundle: &TrustBundle) -> Result<Arc<ServerConfig>, TlsConfigError> {
    let setup = |source| TlsConfigError::Setup { id: svid.id.clone(), source };
    let provider = Arc::new(provider(&TlsSettings::default()));
    let verifier = verifier([bundle], Accepted::Nodes, &provider)?;
    let with_root = X509Svid {
        id: svid.id.clone(),
        chain: svid.chain.iter().chain(root_of(svid, bundle)).cloned().collect(),
        private_key: svid.private_key.clone(),
        serial: svid.serial.clone(),
        ..*svid
    };
    let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13]).map_err(setup)?;
    let mut config = builder
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(certified_key(&with_root).map_err(setup)?));
    config.alpn_protocols = vec![ISSUER_ALPN.to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}

/// The node that a verified chain names.
pub fn node_identity(chain: &[CertificateDer<'_>]) -> Option<SpiffeId> {
    leaf_identity(chain.first()?).ok()
}

fn root_of<'b>(svid: &X509Svid, bundle: &'b TrustBundle) -> Option<&'b CertificateDer<'static>> {
    let (_, last) = X509Certificate::from_der(svid.chain.last()?).ok()?;
    bundle.roots.iter().find(|root| {
        let root = X509Certificate::from_der(root);
        root.is_ok_and(|(_, root)| root.subject().as_raw() == last.issuer().as_raw())
    })
}

impl IssuerAnchor<'_> {
    fn trust_domain(&self) -> &TrustDomain {
        match self {
            Self::Bundle(bundle) => &bundle.trust_domain,
            Self::Pin { trust_domain, .. } => trust_domain,
        }
    }
}

/// Takes for a root whichever certificate of the chain has the pinned key.
#[derive(Debug)]
struct PinnedVerifier {
    pin: String,
    trust_domain: TrustDomain,
    provider: Arc<CryptoProvider>,
}

impl PinnedVerifier {
    fn is_pinned(&self, certificate: &CertificateDer<'_>) -> bool {
        let parsed = X509Certificate::from_der(certificate);
        parsed.is_ok_and(|(_, parsed)| fingerprint(parsed.public_key().raw) == self.pin)
    }
}

impl ServerCertVerifier for PinnedVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let root = intermediates.iter().find(|certificate| self.is_pinned(certificate));
        let root = root.ok_or(PeerError::Chain(webpki::Error::UnknownIssuer))?;
        let anchor = webpki::anchor_from_trusted_cert(root).map_err(PeerError::Chain)?.to_owned();
        let verifier = SpiffeVerifier {
            anchors: HashMap::from([(self.trust_domain.clone(), vec![anchor])]),
            accepted: Accepted::Issuer,
            algorithms: self.provider.signature_verification_algorithms,
        };
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
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
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
