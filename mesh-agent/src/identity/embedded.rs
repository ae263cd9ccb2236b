//! An issuer in this process, from files that may change, or from texts that somebody replaces.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use futures_util::future::BoxFuture;
use tokio::sync::watch;

use super::ca::{CaError, CaFileError, CaTexts, load_files};
use super::{IssueError, IssuedChain, Issuer, LocalCa, SecretKey};
use crate::model::mesh::{CaFiles, SvidSettings};
use crate::model::spiffe::{SpiffeId, TrustDomain};
use crate::model::svid::Trust;

/// A CA, always the newest that can be used.
pub struct EmbeddedIssuer {
    trust_domain: TrustDomain,
    /// `None`: somebody else looks for changes.
    files: Option<CaFiles>,
    settings: SvidSettings,
    current: Mutex<Current>,
    trust: watch::Sender<Arc<Trust>>,
}

struct Current {
    ca: Arc<LocalCa>,
    /// Names what was read.
    texts: String,
}

impl EmbeddedIssuer {
    /// Loads the CA; it must be usable.
    pub fn open(trust_domain: TrustDomain, files: CaFiles, settings: SvidSettings) -> Result<Self, CaFileError> {
        let (ca, texts) = load_files(&trust_domain, &files, settings)?;
        Ok(Self::new(trust_domain, Some(files), settings, ca, texts))
    }

    /// Takes a CA from texts; it must be usable.
    pub fn of_texts(trust_domain: TrustDomain, texts: &CaTexts<'_>, settings: SvidSettings) -> Result<Self, CaError> {
        let (ca, name) = LocalCa::load_named(&trust_domain, texts, settings)?;
        Ok(Self::new(trust_domain, None, settings, ca, name))
    }

    fn new(
        trust_domain: TrustDomain,
        files: Option<CaFiles>,
        settings: SvidSettings,
        ca: LocalCa,
        texts: String,
    ) -> Self {
        let trust = watch::Sender::new(Arc::new(ca.anchors().clone()));
        let current = Mutex::new(Current { ca: Arc::new(ca), texts });
        Self { trust_domain, files, settings, current, trust }
    }

    /// Takes other texts; what can't be used changes nothing.
    pub fn replace(&self, texts: &CaTexts<'_>) -> Result<(), CaError> {
        let (ca, name) = LocalCa::load_named(&self.trust_domain, texts, self.settings)?;
        self.take(ca, name);
        Ok(())
    }

    /// The CA as of now.
    pub fn ca(&self) -> Arc<LocalCa> {
        Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner).ca)
    }

    /// Reads the files; what can't be used changes nothing. They are replaced one after the other, so an error may pass.
    fn reload(&self) -> Result<(), CaFileError> {
        let Some(files) = &self.files else { return Ok(()) };
        let (ca, texts) = load_files(&self.trust_domain, files, self.settings)?;
        self.take(ca, texts);
        Ok(())
    }

    fn take(&self, ca: LocalCa, texts: String) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.texts != texts {
            tracing::info!(
                target: "audit",
                roots = ca.anchors().bundle.roots.len(),
                ca.signer = ca.anchors().signer,
                "the CA has changed"
            );
            self.trust.send_replace(Arc::new(ca.anchors().clone()));
            *current = Current { ca: Arc::new(ca), texts };
        }
    }
}

impl Issuer for EmbeddedIssuer {
    fn issue<'a>(
        &'a self,
        id: &'a SpiffeId,
        key: &'a SecretKey,
        now: SystemTime,
    ) -> BoxFuture<'a, Result<IssuedChain, IssueError>> {
        Box::pin(async move { self.ca().sign_for(id, &key.public_key(), self.settings.lifetime, now) })
    }

    fn refresh(&self, _now: SystemTime) -> BoxFuture<'_, Result<(), IssueError>> {
        Box::pin(async move { Ok(self.reload()?) })
    }

    fn trust(&self) -> watch::Receiver<Arc<Trust>> {
        self.trust.subscribe()
    }
}
