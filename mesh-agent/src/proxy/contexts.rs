//! TLS configurations of one pod: made once for each SVID and peer, shared by its connections.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::{ClientConfig, ServerConfig};
use tokio::sync::watch;

use crate::model::mesh::TlsSettings;
use crate::model::spiffe::SpiffeId;
use crate::model::svid::{TrustBundle, X509Svid};
use crate::tls::config::{TlsConfigError, client_config, server_config};

/// Configurations for the newest SVID.
pub(super) struct Contexts {
    svid: watch::Receiver<Arc<X509Svid>>,
    bundle: Arc<TrustBundle>,
    settings: TlsSettings,
    made: Mutex<Made>,
}

/// What was made, and from which SVID.
#[derive(Default)]
struct Made {
    svid: Option<Arc<X509Svid>>,
    server: Option<Arc<ServerConfig>>,
    clients: HashMap<SpiffeId, Arc<ClientConfig>>,
}

impl Contexts {
    pub(super) fn new(svid: watch::Receiver<Arc<X509Svid>>, bundle: Arc<TrustBundle>, settings: TlsSettings) -> Self {
        Self { svid, bundle, settings, made: Mutex::default() }
    }

    /// For a connection to a peer that must be `expected`.
    pub(super) fn client(&self, expected: &SpiffeId) -> Result<Arc<ClientConfig>, TlsConfigError> {
        self.with_newest(|made, svid| {
            if let Some(config) = made.clients.get(expected) {
                return Ok(Arc::clone(config));
            }
            let config = client_config(svid, &self.bundle, expected, &self.settings)?;
            made.clients.insert(expected.clone(), Arc::clone(&config));
            Ok(config)
        })
    }

    /// For a connection from any peer of the mesh.
    pub(super) fn server(&self) -> Result<Arc<ServerConfig>, TlsConfigError> {
        self.with_newest(|made, svid| match &made.server {
            Some(config) => Ok(Arc::clone(config)),
            None => {
                let config = server_config(svid, &self.bundle, &self.settings)?;
                made.server = Some(Arc::clone(&config));
                Ok(config)
            }
        })
    }

    fn with_newest<T>(&self, make: impl FnOnce(&mut Made, &X509Svid) -> T) -> T {
        let newest = Arc::clone(&self.svid.borrow());
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if !made.svid.as_ref().is_some_and(|svid| Arc::ptr_eq(svid, &newest)) {
            *made = Made { svid: Some(Arc::clone(&newest)), ..Made::default() };
        }
        make(&mut made, &newest)
    }
}
