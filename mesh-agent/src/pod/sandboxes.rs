//! Pods whose network namespace somebody has handed over before any of their processes ran (the CNI plugin).

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::model::workload::PodUid;

/// What a pod has before it runs.
#[derive(Clone, Debug)]
pub struct Sandbox {
    /// Its network namespace.
    pub netns: Arc<OwnedFd>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// The sandboxes of this node. Clones share.
#[derive(Clone, Debug)]
pub struct Sandboxes {
    all: Arc<Mutex<HashMap<PodUid, Sandbox>>>,
    addresses: watch::Sender<HashMap<PodUid, Vec<IpAddr>>>,
    seen: watch::Receiver<HashMap<PodUid, Vec<IpAddr>>>,
}

impl Default for Sandboxes {
    fn default() -> Self {
        let (addresses, seen) = watch::channel(HashMap::new());
        Self { all: Arc::default(), addresses, seen }
    }
}

impl Sandboxes {
    /// The addresses of all, always the newest.
    pub fn addresses(&self) -> watch::Receiver<HashMap<PodUid, Vec<IpAddr>>> {
        self.addresses.subscribe()
    }

    /// Takes a sandbox.
    pub fn set(&self, uid: &PodUid, sandbox: Sandbox) {
        let addresses = sandbox.addresses.clone();
        self.lock().insert(uid.clone(), sandbox);
        self.addresses.send_modify(|known| drop(known.insert(uid.clone(), addresses)));
    }

    /// Forgets a sandbox.
    pub fn remove(&self, uid: &PodUid) {
        if self.lock().remove(uid).is_some() {
            self.addresses.send_modify(|known| drop(known.remove(uid)));
        }
    }

    /// Waits for a change that this clone has not waited for yet.
    pub(super) async fn changed(&mut self) {
        // This clone holds a sender too, so there is always one.
        if self.seen.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// The namespace of a pod.
    pub(super) fn netns(&self, uid: &PodUid) -> Option<Arc<OwnedFd>> {
        self.lock().get(uid).map(|sandbox| Arc::clone(&sandbox.netns))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<PodUid, Sandbox>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
