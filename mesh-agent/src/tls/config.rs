//! Builds rustls configurations from an SVID, a trust bundle and the settings.
//!
//! One configuration serves any number of connections between the same two identities; make a new one on rotation.

use std::sync::Arc;

use rustls::{ClientConfig, ServerConfig};

use crate::model::mesh::TlsSettings;
use crate::model::spiffe::SpiffeId;
use crate::model::svid::{TrustBundle, X509Svid};

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
}

/// For connections from the workload of `svid` to a peer that must be `expected`.
pub fn client_config(
    svid: &X509Svid,
    bundle: &TrustBundle,
    expected: &SpiffeId,
    settings: &TlsSettings,
) -> Result<Arc<ClientConfig>, TlsConfigError> {
    let _ = (svid, bundle, expected, settings);
    unimplemented!()
}

/// For connections to the workload of `svid` from any identity of the bundle's trust domain.
pub fn server_config(
    svid: &X509Svid,
    bundle: &TrustBundle,
    settings: &TlsSettings,
) -> Result<Arc<ServerConfig>, TlsConfigError> {
    let _ = (svid, bundle, settings);
    unimplemented!()
}
