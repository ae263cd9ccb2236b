//! TLS configurations of one pod: made once for each SVID and peer, shared by its connections.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::{ClientConfig, ServerConfig};
use tokio::sync::watch;

use crate::model::mesh::TlsSettings;
use crate::model::spiffe::SpiffeId;
use crate::model::svid::{Trust, TrustBundle, X509Svid};
use crate::store::Store;
use crate::tls::config::{TlsConfigError, client_config, server_config};

/// Configurations for the newest SVID and the newest roots.
pub(super) struct Contexts {
    svid: watch::Receiver<Arc<X509Svid>>,
    trust: watch::Receiver<Arc<Trust>>,
    store: Store,
    settings: TlsSettings,
    made: Mutex<Made>,
}

/// What a configuration is made from: our SVID, our roots, those of other trust domains.
type Origin = (Arc<X509Svid>, Arc<Trust>, Arc<[TrustBundle]>);

/// What was made, and from what.
#[derive(Default)]
struct Made {
    from: Option<Origin>,
    server: Option<Arc<ServerConfig>>,
    clients: HashMap<SpiffeId, Arc<ClientConfig>>,
}

impl Contexts {
    pub(super) fn new(
        svid: watch::Receiver<Arc<X509Svid>>,
        trust: watch::Receiver<Arc<Trust>>,
        store: Store,
        settings: TlsSettings,
    ) -> Self {
        Self { svid, trust, store, settings, made: Mutex::default() }
    }

    /// The pod's own SVID, always the newest.
    pub(super) fn svid(&self) -> watch::Receiver<Arc<X509Svid>> {
        self.svid.clone()
    }

    /// For a connection to a peer that must be `expected`.
    pub(super) fn client(&self, expected: &SpiffeId) -> Result<Arc<ClientConfig>, TlsConfigError> {
        self.with_newest(|made, svid, bundles| {
            if let Some(config) = made.clients.get(expected) {
                return Ok(Arc::clone(config));
            }
            let config = client_config(svid, bundles, expected, &self.settings)?;
            made.clients.insert(expected.clone(), Arc::clone(&config));
            Ok(config)
        })
    }

    /// For a connection from any peer of the mesh.
    pub(super) fn server(&self) -> Result<Arc<ServerConfig>, TlsConfigError> {
        self.with_newest(|made, svid, bundles| match &made.server {
            Some(config) => Ok(Arc::clone(config)),
            None => {
                let config = server_config(svid, bundles, &self.settings)?;
                made.server = Some(Arc::clone(&config));
                Ok(config)
            }
        })
    }

    fn with_newest<T>(&self, make: impl FnOnce(&mut Made, &X509Svid, Vec<&TrustBundle>) -> T) -> T {
        let (svid, trust) = (Arc::clone(&self.svid.borrow()), Arc::clone(&self.trust.borrow()));
        let federated = Arc::clone(self.store.snapshot().federated());
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let is_current = made.from.as_ref().is_some_and(|(of_svid, of_trust, of_federated)| {
            // A new snapshot mostly has the same bundles again: sessions needn't end for that.
            Arc::ptr_eq(of_svid, &svid) && Arc::ptr_eq(of_trust, &trust) && *of_federated == federated
        });
        if !is_current {
            let from = Some((Arc::clone(&svid), Arc::clone(&trust), Arc::clone(&federated)));
            *made = Made { from, ..Made::default() };
        }
        make(&mut made, &svid, std::iter::once(&*trust.bundle).chain(&*federated).collect())
    }
}
