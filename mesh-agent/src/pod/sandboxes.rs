//! Pods whose network namespace the CNI plugin has handed over before any of their processes ran.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::enrol::Handed;
use crate::model::cluster::{ObjectName, SandboxState};
use crate::model::workload::PodUid;
use crate::sys::netns::Netns;

/// What a pod has before it runs.
#[derive(Clone, Debug)]
pub struct Sandbox {
    record: Record,
    /// `None`: it was handed to an earlier agent.
    netns: Option<Arc<OwnedFd>>,
    is_held: bool,
}

/// What of a sandbox the next agent must know: the API may not show the pod's addresses yet, and then the pod would be
/// taken for one that is gone.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Record {
    /// The pod.
    pub pod: ObjectName,
    /// The runtime's name for the sandbox.
    pub container: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The cookie of its network namespace, by which it is found among what its processes make; `None`: nobody knows.
    pub netns: Option<u64>,
}

impl Sandbox {
    /// One that is handed over now; an error if `netns` is no network namespace.
    pub fn new(record: Record, netns: OwnedFd) -> io::Result<Self> {
        let cookie = Netns::of_descriptor(netns.try_clone()?)?.cookie();
        Ok(Self { record: Record { netns: Some(cookie), ..record }, netns: Some(Arc::new(netns)), is_held: false })
    }

    /// One that was handed to an earlier agent.
    pub fn recorded(record: Record) -> Self {
        Self { record, netns: None, is_held: false }
    }

    /// Whether it is in this namespace, as far as this agent knows.
    fn is_in(&self, cookie: u64) -> bool {
        self.record.netns.is_none_or(|own| own == cookie)
    }
}

/// The sandboxes of this node. Clones share. The states change under the lock, so that they agree with the rest.
#[derive(Clone, Debug)]
pub struct Sandboxes {
    all: Arc<Mutex<All>>,
    states: watch::Sender<HashMap<PodUid, SandboxState>>,
    seen: watch::Receiver<HashMap<PodUid, SandboxState>>,
    held: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct All {
    running: HashMap<PodUid, Sandbox>,
    /// The last sandboxes of pods that have ended.
    ended: HashMap<PodUid, Record>,
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
        let state = SandboxState::Runs(sandbox.record.addresses.clone());
        let mut all = self.lock();
        all.ended.remove(uid);
        all.running.insert(uid.clone(), sandbox);
        self.states.send_modify(|known| drop(known.insert(uid.clone(), state)));
        drop(all);
        self.held.send_replace(());
    }

    /// A pod's sandbox is gone, and the pod with it, whatever anybody else still says. `last` is what is known of the
    /// sandbox by who says so.
    pub fn end(&self, uid: &PodUid, last: Record) {
        let mut all = self.lock();
        let known = all.running.remove(uid).map(|sandbox| sandbox.record);
        let netns = known.as_ref().and_then(|known| known.netns).or(last.netns);
        all.ended.insert(uid.clone(), Record { netns, ..known.unwrap_or(last) });
        self.states.send_modify(|known| drop(known.insert(uid.clone(), SandboxState::Ended)));
        drop(all);
        self.held.send_replace(());
    }

    /// The sandboxes that were handed to this agent, with their namespaces.
    pub fn handed_over(&self) -> Vec<(PodUid, Record, Arc<OwnedFd>)> {
        let all = self.lock();
        let open = |(uid, sandbox): (&PodUid, &Sandbox)| {
            Some((uid.clone(), sandbox.record.clone(), Arc::clone(sandbox.netns.as_ref()?)))
        };
        all.running.iter().filter_map(open).collect()
    }

    /// The pods that have ended, with their last sandboxes.
    pub fn ended(&self) -> Vec<(PodUid, Record)> {
        self.lock().ended.iter().map(|(uid, last)| (uid.clone(), last.clone())).collect()
    }

    /// A pod that ended with the sandbox `last` goes on to be what others say of it: it has got another sandbox that nobody
    /// has handed over. Returns whether it had ended so.
    pub fn revive(&self, uid: &PodUid, last: &Record) -> bool {
        let mut all = self.lock();
        let is_last = all.ended.get(uid) == Some(last);
        if is_last {
            all.ended.remove(uid);
            self.states.send_modify(|known| drop(known.remove(uid)));
        }
        is_last
    }

    /// Forgets that a pod has ended, or that an earlier agent knew it: nobody says any more that there is one.
    pub fn forget(&self, uid: &PodUid) {
        let mut all = self.lock();
        match all.running.get(uid) {
            Some(sandbox) if sandbox.netns.is_some() => return,
            _ => drop(all.running.remove(uid)),
        }
        all.ended.remove(uid);
        self.states.send_if_modified(|known| known.remove(uid).is_some());
    }

    /// Forgets the sandbox `container` of a pod that goes on to be what others say of it.
    pub fn remove(&self, uid: &PodUid, container: &str) {
        let mut all = self.lock();
        if all.running.get(uid).is_some_and(|sandbox| sandbox.record.container == container) {
            all.running.remove(uid);
            self.states.send_modify(|known| drop(known.remove(uid)));
        }
    }

    /// A pod's sandbox, as the runtime calls it.
    pub fn container(&self, uid: &PodUid) -> Option<String> {
        self.lock().running.get(uid).map(|sandbox| sandbox.record.container.clone())
    }

    /// All pods with their sandboxes.
    pub fn records(&self) -> Vec<(PodUid, Record)> {
        self.lock().running.iter().map(|(uid, sandbox)| (uid.clone(), sandbox.record.clone())).collect()
    }

    /// Whether the kernel holds the connections of a pod's sandbox `container`; `None`: it is not the pod's.
    pub fn is_held(&self, uid: &PodUid, container: &str) -> Option<bool> {
        let all = self.lock();
        all.running.get(uid).filter(|sandbox| sandbox.record.container == container).map(|sandbox| sandbox.is_held)
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

    /// Whether a pod's sandbox is gone, and the pod with it.
    pub(super) fn has_ended(&self, uid: &PodUid) -> bool {
        self.states.borrow().get(uid) == Some(&SandboxState::Ended)
    }

    /// Waits for a change that this clone has not waited for yet.
    pub(super) async fn changed(&mut self) {
        // This clone holds a sender too, so there is always one.
        if self.seen.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// The namespace of a pod, as far as it is known.
    pub(super) fn netns(&self, uid: &PodUid) -> Option<Handed> {
        let all = self.lock();
        let sandbox = all.running.get(uid)?;
        let open = sandbox.netns.as_ref().map(|netns| Handed::Open(Arc::clone(netns)));
        open.or(sandbox.record.netns.map(Handed::Known))
    }

    /// Whether a pod was handed over in another namespace than this one.
    pub(super) fn is_elsewhere(&self, uid: &PodUid, cookie: u64) -> bool {
        self.lock().running.get(uid).is_some_and(|sandbox| !sandbox.is_in(cookie))
    }

    /// The kernel holds a pod's connections in this namespace.
    pub(super) fn set_held(&self, uid: &PodUid, cookie: u64) {
        let mut all = self.lock();
        if let Some(sandbox) = all.running.get_mut(uid).filter(|sandbox| sandbox.is_in(cookie) && !sandbox.is_held) {
            sandbox.is_held = true;
            drop(all);
            self.held.send_replace(());
        }
    }

    fn lock(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(container: &str) -> Record {
        let pod = ObjectName { namespace: "shop".to_owned(), name: "web".to_owned() };
        Record { pod, container: container.to_owned(), addresses: Vec::new(), netns: None }
    }

    fn sandbox(container: &str) -> Sandbox {
        let netns = Arc::new(OwnedFd::from(tempfile::tempfile().unwrap()));
        let record = Record { netns: Some(7), ..record(container) };
        Sandbox { netns: Some(netns), ..Sandbox::recorded(record) }
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
        sandboxes.end(&uid, record("one"));
        assert_eq!((state(&sandboxes), sandboxes.container(&uid)), (Some(SandboxState::Ended), None));
        sandboxes.forget(&uid);
        assert_eq!(state(&sandboxes), None);
        sandboxes.set(&uid, sandbox("two"));
        sandboxes.forget(&uid);
        assert_eq!(state(&sandboxes), Some(SandboxState::Runs(Vec::new())), "it runs again");
    }

    #[test]
    fn a_pod_that_has_ended_and_got_another_sandbox_is_what_others_say() {
        let sandboxes = Sandboxes::default();
        let uid = PodUid::parse("u-1").unwrap();
        let state = |sandboxes: &Sandboxes| sandboxes.states().borrow().get(&uid).cloned();
        sandboxes.set(&uid, sandbox("one"));
        sandboxes.end(&uid, record("one"));
        let last = Record { netns: Some(7), ..record("one") };
        assert_eq!(sandboxes.ended(), [(uid.clone(), last.clone())], "its namespace is known from ADD");
        assert!(!sandboxes.revive(&uid, &Record { netns: Some(8), ..record("one") }));
        assert_eq!(state(&sandboxes), Some(SandboxState::Ended));
        assert!(sandboxes.revive(&uid, &last));
        assert_eq!((state(&sandboxes), sandboxes.ended()), (None, Vec::new()));
        // Its ADD has come after all.
        sandboxes.end(&uid, last.clone());
        sandboxes.set(&uid, sandbox("two"));
        assert!(!sandboxes.revive(&uid, &last) && sandboxes.ended().is_empty());
        assert_eq!(state(&sandboxes), Some(SandboxState::Runs(Vec::new())));
    }

    #[test]
    fn what_an_earlier_agent_was_told_holds_wherever_the_pod_is_found() {
        let sandboxes = Sandboxes::default();
        let uid = PodUid::parse("u-1").unwrap();
        sandboxes.set(&uid, Sandbox::recorded(record("one")));
        assert!(!sandboxes.is_elsewhere(&uid, 5) && sandboxes.netns(&uid).is_none());
        sandboxes.set_held(&uid, 5);
        assert_eq!(sandboxes.is_held(&uid, "one"), Some(true));
        assert_eq!(sandboxes.records(), [(uid.clone(), record("one"))]);
        sandboxes.forget(&uid);
        assert_eq!((sandboxes.records(), sandboxes.states().borrow().len()), (Vec::new(), 0));
        sandboxes.set(&uid, Sandbox::recorded(Record { netns: Some(7), ..record("one") }));
        assert!(matches!(sandboxes.netns(&uid), Some(Handed::Known(7))));
        assert!(sandboxes.is_elsewhere(&uid, 5) && !sandboxes.is_elsewhere(&uid, 7));
    }
}
