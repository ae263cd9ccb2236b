//! Pods whose network namespace the CNI plugin has handed over before any of their processes ran.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::model::cluster::SandboxState;
use crate::model::workload::PodUid;
use crate::sys::netns::Netns;

/// What a pod has before it runs.
#[derive(Clone, Debug)]
pub struct Sandbox {
    container: String,
    netns: Arc<OwnedFd>,
    cookie: u64,
    addresses: Vec<IpAddr>,
    is_held: bool,
}

impl Sandbox {
    /// That of the runtime's `container`; an error if `netns` is no network namespace.
    pub fn new(container: String, netns: OwnedFd, addresses: Vec<IpAddr>) -> io::Result<Self> {
        let cookie = Netns::of_descriptor(netns.try_clone()?)?.cookie();
        Ok(Self { container, netns: Arc::new(netns), cookie, addresses, is_held: false })
    }
}

/// The sandboxes of this node. Clones share.
#[derive(Clone, Debug)]
pub struct Sandboxes {
    all: Arc<Mutex<HashMap<PodUid, Sandbox>>>,
    states: watch::Sender<HashMap<PodUid, SandboxState>>,
    seen: watch::Receiver<HashMap<PodUid, SandboxState>>,
    held: watch::Sender<()>,
}

impl Default for Sandboxes {
    fn default() -> Self {
        let (states, seen) = watch::channel(HashMap::new());
        Self { all: Arc::default(), states, seen, held: watch::Sender::new(()) }
    }
}

impl Sandboxes {
    /// What is known of each, always the newest.
    pub fn states(&self) -> watch::Receiver<HashMap<PodUid, SandboxState>> {
        self.states.subscribe()
    }

    /// Takes a sandbox. An earlier one of the same pod is no more.
    pub fn set(&self, uid: &PodUid, sandbox: Sandbox) {
        let state = SandboxState::Runs(sandbox.addresses.clone());
        self.lock().insert(uid.clone(), sandbox);
        self.states.send_modify(|known| drop(known.insert(uid.clone(), state)));
        self.held.send_replace(());
    }

    /// A pod's sandbox is gone, and the pod with it, whatever anybody else still says.
    pub fn end(&self, uid: &PodUid) {
        self.lock().remove(uid);
        self.states.send_modify(|known| drop(known.insert(uid.clone(), SandboxState::Ended)));
        self.held.send_replace(());
    }

    /// Forgets that a pod has ended: nobody says any more that there is one.
    pub fn forget_ended(&self, uid: &PodUid) {
        self.states.send_if_modified(|known| {
            let has_ended = known.get(uid) == Some(&SandboxState::Ended);
            if has_ended {
                known.remove(uid);
            }
            has_ended
        });
    }

    /// Forgets the sandbox `container` of a pod that goes on to be what others say of it.
    pub fn remove(&self, uid: &PodUid, container: &str) {
        let mut all = self.lock();
        if all.get(uid).is_some_and(|sandbox| sandbox.container == container) {
            all.remove(uid);
            drop(all);
            self.states.send_modify(|known| drop(known.remove(uid)));
        }
    }

    /// A pod's sandbox, as the runtime calls it.
    pub fn container(&self, uid: &PodUid) -> Option<String> {
        self.lock().get(uid).map(|sandbox| sandbox.container.clone())
    }

    /// All pods with their sandboxes.
    pub fn containers(&self) -> Vec<(PodUid, String)> {
        self.lock().iter().map(|(uid, sandbox)| (uid.clone(), sandbox.container.clone())).collect()
    }

    /// Whether the kernel holds the connections of a pod's sandbox `container`; `None`: it is not the pod's.
    pub fn is_held(&self, uid: &PodUid, container: &str) -> Option<bool> {
        self.lock().get(uid).filter(|sandbox| sandbox.container == container).map(|sandbox| sandbox.is_held)
    }

    /// Waits until it does, or until it is not the pod's; returns which.
    pub async fn wait_held(&self, uid: &PodUid, container: &str) -> bool {
        let mut changes = self.held.subscribe();
        loop {
            changes.borrow_and_update();
            match self.is_held(uid, container) {
                Some(true) => return true,
                Some(false) => {}
                None => return false,
            }
            // This value has a sender too, so there is always one.
            if changes.changed().await.is_err() {
                return false;
            }
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

    /// Whether a pod was handed over in another namespace than this one.
    pub(super) fn is_elsewhere(&self, uid: &PodUid, cookie: u64) -> bool {
        self.lock().get(uid).is_some_and(|sandbox| sandbox.cookie != cookie)
    }

    /// The kernel holds a pod's connections in this namespace.
    pub(super) fn set_held(&self, uid: &PodUid, cookie: u64) {
        let mut all = self.lock();
        if let Some(sandbox) = all.get_mut(uid).filter(|sandbox| sandbox.cookie == cookie && !sandbox.is_held) {
            sandbox.is_held = true;
            drop(all);
            self.held.send_replace(());
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PodUid, Sandbox>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sandbox(container: &str) -> Sandbox {
        let netns = OwnedFd::from(tempfile::tempfile().unwrap());
        Sandbox {
            container: container.to_owned(),
            netns: netns.into(),
            cookie: 7,
            addresses: Vec::new(),
            is_held: false,
        }
    }

    #[tokio::test]
    async fn a_sandbox_is_held_in_its_own_namespace_alone() {
        let sandboxes = Sandboxes::default();
        let uid = PodUid::parse("u-1").unwrap();
        sandboxes.set(&uid, sandbox("one"));
        sandboxes.set_held(&uid, 8);
        assert_eq!(sandboxes.is_held(&uid, "one"), Some(false), "that was another namespace");
        assert!(sandboxes.is_elsewhere(&uid, 8) && !sandboxes.is_elsewhere(&uid, 7));
        let (waiting, asked) = (sandboxes.clone(), uid.clone());
        let waiting = tokio::spawn(async move { waiting.wait_held(&asked, "one").await });
        tokio::task::yield_now().await;
        sandboxes.set_held(&uid, 7);
        assert!(waiting.await.unwrap());
        // A new one must be held anew.
        sandboxes.set(&uid, sandbox("two"));
        assert_eq!((sandboxes.is_held(&uid, "one"), sandboxes.is_held(&uid, "two")), (None, Some(false)));
        assert!(!sandboxes.wait_held(&uid, "one").await);
    }

    #[test]
    fn a_pod_that_has_ended_stays_so_until_nobody_speaks_of_it() {
        let sandboxes = Sandboxes::default();
        let uid = PodUid::parse("u-1").unwrap();
        let state = |sandboxes: &Sandboxes| sandboxes.states().borrow().get(&uid).cloned();
        sandboxes.set(&uid, sandbox("one"));
        sandboxes.remove(&uid, "two");
        assert_eq!(state(&sandboxes), Some(SandboxState::Runs(Vec::new())));
        sandboxes.end(&uid);
        assert_eq!((state(&sandboxes), sandboxes.container(&uid)), (Some(SandboxState::Ended), None));
        sandboxes.forget_ended(&uid);
        assert_eq!(state(&sandboxes), None);
        sandboxes.set(&uid, sandbox("two"));
        sandboxes.forget_ended(&uid);
        assert_eq!(state(&sandboxes), Some(SandboxState::Runs(Vec::new())), "it runs again");
    }
}
