//! The SPIFFE-ID specification, as sentences.

use super::{SpiffeId, SpiffeIdError, TrustDomain};

#[test]
fn a_service_account_has_its_well_known_path() {
    let trust_domain = TrustDomain::parse("cluster.local").unwrap();
    let id = SpiffeId::of_service_account(&trust_domain, "shop", "web").unwrap();
    assert_eq!(id.to_string(), "spiffe://cluster.local/ns/shop/sa/web");
    assert_eq!(SpiffeId::parse(&id.to_string()), Ok(id.clone()));
    assert_eq!((id.namespace(), id.service_account()), (Some("shop"), Some("web")));
}

#[test]
fn a_name_cannot_smuggle_a_segment() {
    let trust_domain = TrustDomain::parse("cluster.local").unwrap();
    for name in ["a/sa/b", "", "..", "a%2fb", "a b"] {
        assert!(SpiffeId::of_service_account(&trust_domain, name, "web").is_err(), "{name}");
        assert!(SpiffeId::of_service_account(&trust_domain, "shop", name).is_err(), "{name}");
    }
}

#[test]
fn only_the_exact_form_names_a_service_account() {
    for id in ["spiffe://t", "spiffe://t/ns/a", "spiffe://t/ns/a/sa/b/c", "spiffe://t/ns/a/b/sa/c", "spiffe://t/sa/b"] {
        assert_eq!(SpiffeId::parse(id).unwrap().service_account(), None, "{id}");
    }
}

#[test]
fn an_id_without_a_path_is_the_trust_domain() {
    let id = SpiffeId::parse("spiffe://cluster.local").unwrap();
    assert_eq!(id, TrustDomain::parse("cluster.local").unwrap().id());
    assert_eq!(id.path(), "");
}

#[test]
fn what_the_specification_forbids_is_refused() {
    use SpiffeIdError::*;
    let long_domain = format!("spiffe://{}/a", "d".repeat(256));
    let long_path = format!("spiffe://t/{}", "p".repeat(2048));
    for (id, error) in [
        ("", Scheme),
        ("SPIFFE://t/a", Scheme),
        ("https://t/a", Scheme),
        ("spiffe:/t/a", Scheme),
        ("spiffe://", TrustDomainMissing),
        ("spiffe:///a", TrustDomainMissing),
        ("spiffe://T/a", TrustDomainCharacter),
        ("spiffe://user@t/a", TrustDomainCharacter),
        ("spiffe://t:8443/a", TrustDomainCharacter),
        ("spiffe://t?q", TrustDomainCharacter),
        ("spiffe://t/", PathSegmentEmpty),
        ("spiffe://t/a/", PathSegmentEmpty),
        ("spiffe://t//a", PathSegmentEmpty),
        ("spiffe://t/a/../b", PathSegmentRelative),
        ("spiffe://t/./b", PathSegmentRelative),
        ("spiffe://t/a%20b", PathCharacter),
        ("spiffe://t/a?q", PathCharacter),
        ("spiffe://t/a#f", PathCharacter),
        ("spiffe://t/é", PathCharacter),
        (long_domain.as_str(), TooLong),
        (long_path.as_str(), TooLong),
    ] {
        assert_eq!(SpiffeId::parse(id), Err(error), "{id}");
    }
}

#[test]
fn the_meshs_own_parts_have_names_that_no_workload_has() {
    let trust_domain = TrustDomain::parse("cluster.local").unwrap();
    let node = SpiffeId::of_node(&trust_domain, "rack-1.a").unwrap();
    assert_eq!(node.to_string(), "spiffe://cluster.local/hauberk/node/rack-1.a");
    assert_eq!((node.node(), node.is_reserved()), (Some("rack-1.a"), true));
    assert!(SpiffeId::of_node(&trust_domain, "a/b").is_err() && SpiffeId::of_node(&trust_domain, "").is_err());
    let issuer = SpiffeId::of_issuer(&trust_domain);
    assert_eq!((issuer.node(), issuer.is_reserved()), (None, true));
    for (id, reserved) in [("/hauberk", true), ("/hauberk/x", true), ("/hauberks", false), ("/ns/hauberk/sa/x", false)]
    {
        assert_eq!(SpiffeId::parse(&format!("spiffe://cluster.local{id}")).unwrap().is_reserved(), reserved, "{id}");
    }
}
