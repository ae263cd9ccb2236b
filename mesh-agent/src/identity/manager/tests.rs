//! Rotation, with time as an argument.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::SubjectPublicKeyInfoDer;

use super::SvidManager;
use crate::identity::{IssueError, IssuedChain, Issuer, LocalCa};
use crate::model::spiffe::{SpiffeId, TrustDomain};
use crate::model::svid::TrustBundle;

const HOUR: Duration = Duration::from_hours(1);

/// A CA that can be out of reach.
struct Flaky {
    ca: LocalCa,
    down: AtomicBool,
}

impl Issuer for Flaky {
    async fn issue(
        &self,
        id: &SpiffeId,
        public_key: SubjectPublicKeyInfoDer<'_>,
        now: SystemTime,
    ) -> Result<IssuedChain, IssueError> {
        if self.down.load(Ordering::Relaxed) {
            Err(IssueError::CaExpired)
        } else {
            self.ca.issue(id, public_key, now).await
        }
    }

    fn trust_bundle(&self) -> Arc<TrustBundle> {
        self.ca.trust_bundle()
    }
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn web() -> SpiffeId {
    SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/web").unwrap()
}

fn manager() -> SvidManager<Flaky> {
    let ca = LocalCa::create(TrustDomain::parse("cluster.local").unwrap(), 24 * HOUR, now()).unwrap();
    SvidManager::new(Flaky { ca, down: AtomicBool::new(false) })
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
    let manager = manager();
    let mut receiver = manager.svid(&web(), now()).await.unwrap();
    receiver.mark_unchanged();
    manager.issuer.down.store(true, Ordering::Relaxed);
    let late = now() + 15 * HOUR;
    let retry = manager.rotate_due(late).await.unwrap();
    assert!(retry > late && retry <= late + Duration::from_secs(1));
    assert!(!receiver.has_changed().unwrap());
    manager.issuer.down.store(false, Ordering::Relaxed);
    manager.rotate_due(retry).await.unwrap();
    assert!(receiver.has_changed().unwrap());
}

#[tokio::test]
async fn without_the_issuer_there_is_no_svid_and_in_the_end_none_is_valid() {
    let manager = manager();
    let receiver = manager.svid(&web(), now()).await.unwrap();
    manager.issuer.down.store(true, Ordering::Relaxed);
    let other = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/db").unwrap();
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
    assert!(shown.contains(&svid.serial) && shown.contains("spiffe://cluster.local/ns/shop/sa/web"));
    assert!(!shown.contains("key") && shown.len() < 300, "{shown}");
}
