//! Which certificates give their holder an identity.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType};

use super::pki::{Ca, REDIS, WEB, id, uri};
use super::{check, redis, web};
use crate::model::mesh::TlsSettings;
use crate::model::svid::X509Svid;
use crate::tls::{client_config, server_config};

/// Presents an SVID as a client, where any workload is welcome, and as a server, where its own name is expected.
#[track_caller]
fn refused(ca: &Ca, make: impl Fn() -> X509Svid, reason: &str) {
    let settings = TlsSettings::default();
    let client = client_config(&make(), &ca.bundle(), &id(REDIS), &settings).unwrap();
    check(Arc::unwrap_or_clone(client), redis(ca), ("ok", reason));
    let server = server_config(&make(), &ca.bundle(), &settings).unwrap();
    let expecting = client_config(&ca.svid(WEB), &ca.bundle(), &make().id, &settings).unwrap();
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
fn there_is_exactly_one_uri_name_and_it_is_a_spiffe_id() {
    for names in [
        vec![uri(WEB), uri(REDIS)],
        vec![uri(WEB), uri(WEB)],
        vec![uri(WEB), uri("https://example")],
        vec![],
        vec![SanType::DnsName("web".try_into().unwrap())],
        vec![uri("https://cluster.local/ns/shop/sa/web")],
        vec![uri("spiffe://cluster.local/ns/shop/../sa/web")],
        vec![uri("spiffe://cluster.local")],
    ] {
        odd_leaf_refused("invalid_svid", |params| params.subject_alt_names.clone_from(&names));
    }
}

#[test]
fn other_names_beside_the_uri_do_not_matter() {
    let ca = Ca::new();
    let names = vec![SanType::DnsName("redis".try_into().unwrap()), uri(REDIS)];
    let svid = ca.odd_svid(REDIS, |params| params.subject_alt_names = names);
    let server = server_config(&svid, &ca.bundle(), &TlsSettings::default()).unwrap();
    check(web(&ca), Arc::unwrap_or_clone(server), ("ok", "ok"));
}

#[test]
fn a_leaf_is_no_ca_and_signs_handshakes_only() {
    use KeyUsagePurpose::{CrlSign, DigitalSignature, KeyCertSign, KeyEncipherment};
    // webpki refuses this one before the SPIFFE rules are asked.
    odd_leaf_refused("untrusted", |params| {
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    });
    for usages in [vec![DigitalSignature, KeyCertSign], vec![DigitalSignature, CrlSign], vec![KeyEncipherment]] {
        odd_leaf_refused("invalid_svid", |params| params.key_usages.clone_from(&usages));
    }
}

#[test]
fn extended_key_usage_covers_the_role() {
    let ca = Ca::new();
    let svid = ca.odd_svid(WEB, |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
    let client = client_config(&svid, &ca.bundle(), &id(REDIS), &TlsSettings::default()).unwrap();
    check(Arc::unwrap_or_clone(client), redis(&ca), ("ok", "untrusted"));
    let svid = ca.odd_svid(REDIS, |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]);
    let server = server_config(&svid, &ca.bundle(), &TlsSettings::default()).unwrap();
    check(web(&ca), Arc::unwrap_or_clone(server), ("untrusted", "refused_by_peer"));
}

#[test]
fn intermediates_must_be_allowed_to_sign() {
    let root = Ca::new();
    let accepts = |ca: &Ca| server_config(&ca.svid(REDIS), &root.bundle(), &TlsSettings::default()).unwrap();
    let good = root.intermediate(|_| {});
    check(web(&root), Arc::unwrap_or_clone(accepts(&good)), ("ok", "ok"));
    let no_usage = root.intermediate(|params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature]);
    refused(&root, || no_usage.svid(WEB), "untrusted");
    // A workload that signs with its own SVID.
    let workload = root.intermediate(|params| params.is_ca = IsCa::ExplicitNoCa);
    refused(&root, || workload.svid(WEB), "untrusted");
}

#[test]
fn several_roots_are_trusted_at_once() {
    let (old, new) = (Ca::new(), Ca::new());
    let mut both = old.bundle();
    both.roots.extend(new.bundle().roots);
    let settings = TlsSettings::default();
    let client = client_config(&old.svid(WEB), &both, &id(REDIS), &settings).unwrap();
    let server = server_config(&new.svid(REDIS), &both, &settings).unwrap();
    check(Arc::unwrap_or_clone(client), Arc::unwrap_or_clone(server), ("ok", "ok"));
}
