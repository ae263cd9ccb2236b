//! Builds rustls configurations from an SVID, a trust bundle and the settings.
//!
//! One configuration serves any number of connections between the same two identities; a new SVID or a new root needs a
//! new one. rustls runs no verifier on a resumed session, so sessions never cross configurations: a client's tickets and
//! a server's ticket keys live and die with theirs, and what time can change is checked again ([`super::handshake`]).
//! There is no early data, and no SNI: the address already names the workload.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::{self, Ticketer, cipher_suite, kx_group, sign};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig, SupportedCipherSuite};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, TrustAnchor};

use super::ALPN;
use super::verify::{Accepted, SpiffeVerifier};
use crate::model::mesh::{CipherSuite, KeyExchange, TlsSettings};
use crate::model::spiffe::SpiffeId;
use crate::model::svid::{TrustBundle, X509Svid};

/// Servers that a client remembers, by address. The oldest is forgotten: then a handshake is a full one.
const MAX_SESSIONS: usize = 256;

/// For a connection's successor. More would pay only for many that begin at once.
const TICKETS: usize = 1;

/// Why there is no TLS configuration.
#[derive(Debug, thiserror::Error)]
pub enum TlsConfigError {
    /// rustls refuses the key, the chain or the settings.
    #[error("set up TLS for `{id}`")]
    Setup {
        /// Whose SVID.
        id: SpiffeId,
        /// The cause.
        source: rustls::Error,
    },
    /// A root is no certificate.
    #[error("read root {index} of the trust bundle")]
    Root {
        /// Counted from 0.
        index: usize,
        /// The cause.
        source: webpki::Error,
    },
    /// A root limits names, and URI names can't be checked against limits.
    #[error("root {index} of the trust bundle has name constraints, which are not supported")]
    RootConstrained {
        /// Counted from 0.
        index: usize,
    },
}

/// For connections from the workload of `svid` to a peer that must be `expected`.
pub fn client_config<'b>(
    svid: &X509Svid,
    bundles: impl IntoIterator<Item = &'b TrustBundle>,
    expected: &SpiffeId,
    settings: &TlsSettings,
) -> Result<Arc<ClientConfig>, TlsConfigError> {
    let setup = |source| TlsConfigError::Setup { id: svid.id.clone(), source };
    let provider = Arc::new(provider(settings));
    let verifier = verifier(bundles, Accepted::Workload(expected.clone()), &provider)?;
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13]).map_err(setup)?;
    let mut config = builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(certified_key(svid).map_err(setup)?));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.enable_sni = false;
    config.resumption =
        if settings.resumption { Resumption::in_memory_sessions(MAX_SESSIONS) } else { Resumption::disabled() };
    // The record layer is ours, or the kernel's: it gets the keys.
    config.enable_secret_extraction = true;
    Ok(Arc::new(config))
}

/// For connections to the workload of `svid` from any identity of the bundles' trust domains.
pub fn server_config<'b>(
    svid: &X509Svid,
    bundles: impl IntoIterator<Item = &'b TrustBundle>,
    settings: &TlsSettings,
) -> Result<Arc<ServerConfig>, TlsConfigError> {
    let setup = |source| TlsConfigError::Setup { id: svid.id.clone(), source };
    let provider = Arc::new(provider(settings));
    let verifier = verifier(bundles, Accepted::Workloads, &provider)?;
    let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13]).map_err(setup)?;
    let mut config = builder
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(certified_key(svid).map_err(setup)?));
    config.alpn_protocols = vec![ALPN.to_vec()];
    if settings.resumption {
        // Its keys are this configuration's own, and change every six hours, with overlap.
        config.ticketer = Ticketer::new().map_err(setup)?;
        config.send_tls13_tickets = TICKETS;
    } else {
        config.send_tls13_tickets = 0;
    }
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ignore_client_order = settings.server_decides;
    config.enable_secret_extraction = true;
    Ok(Arc::new(config))
}

pub(super) fn verifier<'b>(
    bundles: impl IntoIterator<Item = &'b TrustBundle>,
    accepted: Accepted,
    provider: &CryptoProvider,
) -> Result<SpiffeVerifier, TlsConfigError> {
    let algorithms = provider.signature_verification_algorithms;
    let anchors = bundles.into_iter().map(|bundle| Ok((bundle.trust_domain.clone(), anchors(bundle)?)));
    Ok(SpiffeVerifier { anchors: anchors.collect::<Result<_, _>>()?, accepted, algorithms })
}

fn anchors(bundle: &TrustBundle) -> Result<Vec<TrustAnchor<'static>>, TlsConfigError> {
    let anchor = |(index, root)| {
        let anchor = webpki::anchor_from_trusted_cert(root).map_err(|source| TlsConfigError::Root { index, source })?;
        match anchor.name_constraints {
            Some(_) => Err(TlsConfigError::RootConstrained { index }),
            None => Ok(anchor.to_owned()),
        }
    };
    bundle.roots.iter().enumerate().map(anchor).collect()
}

/// rustls gets a view of the key and makes its own, which aws-lc wipes.
pub(super) fn certified_key(svid: &X509Svid) -> Result<SingleCertAndKey, rustls::Error> {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(svid.private_key.as_slice()));
    let certified = CertifiedKey::new(svid.chain.clone(), sign::any_supported_type(&key)?);
    certified.keys_match()?;
    Ok(SingleCertAndKey::from(certified))
}

pub(super) fn provider(settings: &TlsSettings) -> CryptoProvider {
    CryptoProvider {
        cipher_suites: settings.cipher_suites.iter().map(|suite| cipher_suite(*suite)).collect(),
        kx_groups: settings.key_exchange.iter().map(|group| kx_group(*group)).collect(),
        ..aws_lc_rs::default_provider()
    }
}

fn cipher_suite(suite: CipherSuite) -> SupportedCipherSuite {
    match suite {
        CipherSuite::Aes256Gcm => cipher_suite::TLS13_AES_256_GCM_SHA384,
        CipherSuite::Aes128Gcm => cipher_suite::TLS13_AES_128_GCM_SHA256,
        CipherSuite::Chacha20Poly1305 => cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    }
}

fn kx_group(group: KeyExchange) -> &'static dyn SupportedKxGroup {
    match group {
        KeyExchange::X25519MlKem768 => kx_group::X25519MLKEM768,
        KeyExchange::X25519 => kx_group::X25519,
        KeyExchange::P256 => kx_group::SECP256R1,
    }
}
