//! TLS configurations of one pod: made once for each SVID and peer, shared by its connections.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::{ClientConfig, ServerConfig};
use tokio::sync::watch;

use crate::model::mesh::TlsSettings;
use crate::model::spiffe::SpiffeId;
use crate::model::svid::{Trust, X509Svid};
use crate::tls::config::{TlsConfigError, client_config, server_config};

/// Configurations for the newest SVID and the newest roots.
pub(super) struct Contexts {
    svid: watch::Receiver<Arc<X509Svid>>,
    trust: watch::Receiver<Arc<Trust>>,
    settings: TlsSettings,
    made: Mutex<Made>,
}

/// What was made, and from what.
#[derive(Default)]
struct Made {
    from: Option<(Arc<X509Svid>, Arc<Trust>)>,
    server: Option<Arc<ServerConfig>>,
    clients: HashMap<SpiffeId, Arc<ClientConfig>>,
}

impl Contexts {
    pub(super) fn new(
        svid: watch::Receiver<Arc<X509Svid>>,
        trust: watch::Receiver<Arc<Trust>>,
        settings: TlsSettings,
    ) -> Self {
        Self { svid, trust, settings, made: Mutex::default() }
    }

    /// The pod's own SVID, always the newest.
    pub(super) fn svid(&self) -> watch::Receiver<Arc<X509Svid>> {
        self.svid.clone()
    }

    /// For a connection to a peer that must be `expected`.
    pub(super) fn client(&self, expected: &SpiffeId) -> Result<Arc<ClientConfig>, TlsConfigError> {
        self.with_newest(|made, svid, trust| {
            if let Some(config) = made.clients.get(expected) {
                return Ok(Arc::clone(config));
            }
            let config = client_config(svid, &trust.bundle, expected, &self.settings)?;
            made.clients.insert(expected.clone(), Arc::clone(&config));
            Ok(config)
        })
    }

    /// For a connection from any peer of the mesh.
    pub(super) fn server(&self) -> Result<Arc<ServerConfig>, TlsConfigError> {
        self.with_newest(|made, svid, trust| match &made.server {
            Some(config) => Ok(Arc::clone(config)),
            None => {
                let config = server_config(svid, &trust.bundle, &self.settings)?;
                made.server = Some(Arc::clone(&config));
                Ok(config)
            }
        })
    }

    fn with_newest<T>(&self, make: impl FnOnce(&mut Made, &X509Svid, &Trust) -> T) -> T {
        let (svid, trust) = (Arc::clone(&self.svid.borrow()), Arc::clone(&self.trust.borrow()));
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new =
            |(old, roots): &(Arc<X509Svid>, Arc<Trust>)| !Arc::ptr_eq(old, &svid) || !Arc::ptr_eq(roots, &trust);
        if made.from.as_ref().is_none_or(is_new) {
            *made = Made { from: Some((Arc::clone(&svid), Arc::clone(&trust))), ..Made::default() };
        }
        make(&mut made, &svid, &trust)
    }
}
