//! Rotation, with time as an argument.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::BoxFuture;
use tokio::sync::watch;

use super::SvidManager;
use crate::identity::{IssueError, IssuedChain, Issuer, LocalCa, SecretKey};
use crate::model::mesh::SvidSettings;
use crate::model::spiffe::{SpiffeId, TrustDomain};
use crate::model::svid::Trust;

const HOUR: Duration = Duration::from_hours(1);

/// A CA that can be out of reach, and be replaced.
struct Flaky {
    ca: Mutex<LocalCa>,
    down: AtomicBool,
    asked: Mutex<Vec<SpiffeId>>,
    trust: watch::Sender<Arc<Trust>>,
}

impl Flaky {
    fn replace(&self, ca: LocalCa) {
        self.trust.send_replace(Arc::new(ca.anchors().clone()));
        *self.ca.lock().unwrap() = ca;
    }

    fn answer<T>(&self, answer: T) -> Result<T, IssueError> {
        if self.down.load(Ordering::Relaxed) { Err(IssueError::Unavailable("it is down".into())) } else { Ok(answer) }
    }
}

impl Issuer for Flaky {
    fn issue<'a>(
        &'a self,
        id: &'a SpiffeId,
        key: &'a SecretKey,
        now: SystemTime,
    ) -> BoxFuture<'a, Result<IssuedChain, IssueError>> {
        Box::pin(async move {
            self.asked.lock().unwrap().push(id.clone());
            self.answer(())?;
            self.ca.lock().unwrap().sign_for(id, &key.public_key(), 24 * HOUR, now)
        })
    }

    fn refresh(&self, _now: SystemTime) -> BoxFuture<'_, Result<(), IssueError>> {
        Box::pin(async move { self.answer(()) })
    }

    fn trust(&self) -> watch::Receiver<Arc<Trust>> {
        self.trust.subscribe()
    }
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn id(name: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://cluster.local/ns/shop/sa/{name}")).unwrap()
}

fn web() -> SpiffeId {
    id("web")
}

fn ca() -> LocalCa {
    LocalCa::create(TrustDomain::parse("cluster.local").unwrap(), SvidSettings::default(), now()).unwrap()
}

/// A manager, and the issuer behind it.
fn flaky() -> (SvidManager, Arc<Flaky>) {
    let ca = ca();
    let trust = watch::Sender::new(Arc::new(ca.anchors().clone()));
    let issuer = Arc::new(Flaky { ca: Mutex::new(ca), down: AtomicBool::new(false), asked: Mutex::default(), trust });
    (SvidManager::new(Arc::clone(&issuer) as Arc<dyn Issuer>), issuer)
}

fn manager() -> SvidManager {
    flaky().0
}

#[tokio::test]
async fn an_identity_has_one_svid_for_all_who_ask() {
    let manager = manager();
    let one = manager.svid(&web(), now()).await.unwrap();
    let other = manager.svid(&web(), now() + HOUR).await.unwrap();
    assert!(Arc::ptr_eq(&one.borrow(), &other.borrow()));
    assert_eq!(one.borrow().id, web());
}

#[tokio::test]
async fn rotation_after_half_a_life_reaches_all_who_hold_a_receiver() {
    let manager = manager();
    let mut receiver = manager.svid(&web(), now()).await.unwrap();
    let first = Arc::clone(&receiver.borrow_and_update());
    let due = manager.rotate_due(now() + 11 * HOUR).await.unwrap();
    assert!(!receiver.has_changed().unwrap());
    assert!(due >= now() + 12 * HOUR && due < now() + 15 * HOUR);
    let next = manager.rotate_due(due).await.unwrap();
    assert!(receiver.has_changed().unwrap());
    let second = Arc::clone(&receiver.borrow_and_update());
    assert_ne!((&first.serial, &*first.private_key), (&second.serial, &*second.private_key));
    // They overlap: nobody needs to hurry.
    assert!(first.is_valid_at(due) && second.is_valid_at(due) && second.not_after > first.not_after);
    assert!(next >= due + 12 * HOUR);
}

#[tokio::test]
async fn a_failed_rotation_keeps_the_old_svid_and_tries_again() {
    let (manager, issuer) = flaky();
    let mut receiver = manager.svid(&web(), now()).await.unwrap();
    receiver.mark_unchanged();
    issuer.down.store(true, Ordering::Relaxed);
    let late = now() + 15 * HOUR;
    let retry = manager.rotate_due(late).await.unwrap();
    assert!(retry > late && retry <= late + Duration::from_secs(1));
    assert!(!receiver.has_changed().unwrap());
    issuer.down.store(false, Ordering::Relaxed);
    manager.rotate_due(retry).await.unwrap();
    assert!(receiver.has_changed().unwrap());
}

#[tokio::test]
async fn without_the_issuer_there_is_no_svid_and_in_the_end_none_is_valid() {
    let (manager, issuer) = flaky();
    let receiver = manager.svid(&web(), now()).await.unwrap();
    issuer.down.store(true, Ordering::Relaxed);
    let other = id("db");
    assert!(manager.svid(&other, now()).await.is_err());
    manager.rotate_due(now() + 25 * HOUR).await.unwrap();
    assert!(!receiver.borrow().is_valid_at(now() + 25 * HOUR));
}

#[tokio::test]
async fn an_identity_that_nobody_uses_is_forgotten() {
    let manager = manager();
    drop(manager.svid(&web(), now()).await.unwrap());
    assert_eq!(manager.rotate_due(now()).await, None);
}

#[tokio::test]
async fn debug_shows_no_key() {
    let manager = manager();
    let receiver = manager.svid(&web(), now()).await.unwrap();
    let svid = Arc::clone(&receiver.borrow());
    let shown = format!("{svid:?}");
    assert!(shown.contains(&svid.serial.to_string()) && shown.contains("spiffe://cluster.local/ns/shop/sa/web"));
    assert!(!shown.contains("key") && shown.len() < 300, "{shown}");
}

#[tokio::test]
async fn what_expires_first_is_asked_for_first() {
    let (manager, issuer) = flaky();
    let names = ["c", "a", "d", "b"];
    let mut held = Vec::new();
    for (hours, name) in (0..).zip(names) {
        held.push(manager.svid(&id(name), now() + hours * HOUR).await.unwrap());
    }
    issuer.asked.lock().unwrap().clear();
    manager.rotate_due(now() + 20 * HOUR).await.unwrap();
    assert_eq!(*issuer.asked.lock().unwrap(), names.map(id));
}

#[tokio::test]
async fn an_outage_shows_long_before_an_svid_is_due() {
    let (manager, issuer) = flaky();
    let _receiver = manager.svid(&web(), now()).await.unwrap();
    manager.refresh(now()).await;
    assert_eq!(manager.view().issuer_failing_since, None);
    issuer.down.store(true, Ordering::Relaxed);
    let since = now() + Duration::from_secs(10);
    manager.refresh(since).await;
    manager.refresh(since + HOUR).await;
    let view = manager.view();
    assert_eq!((view.issuer_failing_since, view.issued, view.failed), (Some(since), 1, 0));
    issuer.down.store(false, Ordering::Relaxed);
    manager.refresh(since + HOUR).await;
    assert_eq!(manager.view().issuer_failing_since, None);
}

#[tokio::test]
async fn a_new_signer_reissues_everything_within_a_minute_and_once() {
    let (manager, issuer) = flaky();
    let mut receiver = manager.svid(&web(), now()).await.unwrap();
    receiver.mark_unchanged();
    issuer.replace(ca());
    let due = manager.rotate_due(now()).await.unwrap();
    assert!(due <= now() + Duration::from_mins(1), "{due:?}");
    manager.rotate_due(due).await.unwrap();
    assert!(receiver.has_changed().unwrap());
    let next = manager.rotate_due(due).await.unwrap();
    assert!(next >= due + 12 * HOUR);
    assert_eq!(issuer.asked.lock().unwrap().len(), 2);
}
