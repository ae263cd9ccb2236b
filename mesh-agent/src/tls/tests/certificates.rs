//! What becomes of a handshake for a certificate that gives no identity; the whole table is in `hostile`.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::CertificateParams;

use super::pki::{Ca, REDIS, WEB, id};
use super::{check, redis};
use crate::model::mesh::TlsSettings;
use crate::model::svid::X509Svid;
use crate::tls::{client_config, server_config};

/// Presents an SVID as a client, where any workload is welcome, and as a server, where its own name is expected.
#[track_caller]
fn refused(ca: &Ca, make: impl Fn() -> X509Svid, reason: &str) {
    let settings = TlsSettings::default();
    let client = client_config(&make(), [&ca.bundle()], &id(REDIS), &settings).unwrap();
    check(Arc::unwrap_or_clone(client), redis(ca), ("ok", reason));
    let server = server_config(&make(), [&ca.bundle()], &settings).unwrap();
    let expecting = client_config(&ca.svid(WEB), [&ca.bundle()], &make().id, &settings).unwrap();
    check(Arc::unwrap_or_clone(expecting), Arc::unwrap_or_clone(server), (reason, "refused_by_peer"));
}

#[track_caller]
fn odd_leaf_refused(reason: &str, edit: impl Fn(&mut CertificateParams)) {
    let ca = Ca::new();
    refused(&ca, || ca.odd_svid(WEB, &edit), reason);
}

#[test]
fn a_foreign_ca_is_not_trusted() {
    let stranger = Ca::new();
    refused(&Ca::new(), || stranger.svid(WEB), "untrusted");
}

#[test]
fn a_foreign_trust_domain_is_refused_even_with_our_signature() {
    let ca = Ca::new();
    refused(&ca, || ca.svid("spiffe://other.domain/ns/shop/sa/web"), "foreign_trust_domain");
}

#[test]
fn dates_are_checked() {
    let now = SystemTime::now();
    odd_leaf_refused("expired", |params| params.not_after = (now - Duration::from_secs(1)).into());
    odd_leaf_refused("not_yet_valid", |params| params.not_before = (now + Duration::from_mins(1)).into());
}

#[test]
fn several_roots_are_trusted_at_once() {
    let (old, new) = (Ca::new(), Ca::new());
    let mut both = old.bundle();
    both.roots.extend(new.bundle().roots);
    let settings = TlsSettings::default();
    let client = client_config(&old.svid(WEB), [&both], &id(REDIS), &settings).unwrap();
    let server = server_config(&new.svid(REDIS), [&both], &settings).unwrap();
    check(Arc::unwrap_or_clone(client), Arc::unwrap_or_clone(server), ("ok", "ok"));
}
