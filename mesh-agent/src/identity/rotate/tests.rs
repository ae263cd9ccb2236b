//! The three steps, and what an agent that watches the files makes of them.

use std::time::{Duration, SystemTime};

use super::{CaDirectory, RotateError};
use crate::identity::ca::{init_dir, intermediate_dir};
use crate::identity::{EmbeddedIssuer, Issuer};
use crate::model::mesh::{CaFiles, SvidSettings};
use crate::model::spiffe::TrustDomain;

#[tokio::test]
async fn each_step_changes_one_thing() {
    let (directory, trust_domain) = (tempfile::tempdir().unwrap(), TrustDomain::parse("cluster.local").unwrap());
    let (path, now) = (directory.path(), SystemTime::now());
    init_dir(path, trust_domain.clone(), now).unwrap();
    let issuer =
        EmbeddedIssuer::open(trust_domain.clone(), CaFiles::of_directory(path), SvidSettings::default()).unwrap();
    let old = issuer.ca().anchors().clone();
    let ca = CaDirectory { path, trust_domain: &trust_domain };
    assert!(matches!(ca.activate(), Err(RotateError::Order(_))));
    assert!(matches!(ca.retire(Duration::ZERO, now), Err(RotateError::Order(_))));

    ca.prepare(now).unwrap();
    assert!(matches!(ca.prepare(now), Err(RotateError::Order(_))));
    assert!(matches!(ca.retire(Duration::ZERO, now), Err(RotateError::Order(_))));
    issuer.refresh(now).await.unwrap();
    let prepared = issuer.ca().anchors().clone();
    assert_eq!((&prepared.signer, prepared.bundle.roots.len()), (&old.signer, 2));

    ca.activate().unwrap();
    issuer.refresh(now).await.unwrap();
    let active = issuer.ca().anchors().clone();
    assert!(active.signer != old.signer && active.bundle.roots.len() == 2);
    assert!(!path.join("next.key").exists(), "the old key and the next are gone");

    assert!(matches!(ca.retire(Duration::from_hours(1), now), Err(RotateError::Early { .. })));
    ca.retire(Duration::ZERO, now).unwrap();
    issuer.refresh(now).await.unwrap();
    let retired = issuer.ca().anchors().clone();
    assert_eq!((&retired.signer, retired.bundle.roots.len()), (&active.signer, 1));
    assert!(!retired.bundle.roots.contains(&old.bundle.roots[0]));
    assert_eq!(*issuer.trust().borrow().as_ref(), retired);
}

#[tokio::test]
async fn what_cannot_be_used_changes_nothing() {
    let (directory, trust_domain) = (tempfile::tempdir().unwrap(), TrustDomain::parse("cluster.local").unwrap());
    let path = directory.path();
    init_dir(path, trust_domain.clone(), SystemTime::now()).unwrap();
    let issuer = EmbeddedIssuer::open(trust_domain, CaFiles::of_directory(path), SvidSettings::default()).unwrap();
    let before = issuer.ca().anchors().clone();
    std::fs::write(path.join("ca.crt"), "half a certif").unwrap();
    issuer.refresh(SystemTime::now()).await.unwrap_err();
    assert_eq!(*issuer.ca().anchors(), before);
}

#[test]
fn the_root_of_an_intermediate_is_replaced_elsewhere() {
    let (directory, trust_domain) = (tempfile::tempdir().unwrap(), TrustDomain::parse("cluster.local").unwrap());
    let (root, below) = (directory.path().join("root"), directory.path().join("below"));
    let now = SystemTime::now();
    init_dir(&root, trust_domain.clone(), now).unwrap();
    intermediate_dir(&root, &below, &trust_domain, now).unwrap();
    let ca = CaDirectory { path: &below, trust_domain: &trust_domain };
    assert!(matches!(ca.prepare(now), Err(RotateError::Intermediate)));
}
