//! SPIFFE IDs from certificates and configurations: what is accepted is exactly what was written, and nothing hides in it.

use mesh_agent::model::spiffe::{SpiffeId, TrustDomain};

/// Checks `input` as an ID.
pub fn check(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    let Ok(id) = SpiffeId::parse(text) else {
        assert!(!is_plain(text), "refused: {text:?}");
        return;
    };
    assert!(is_plain(text), "accepted: {text:?}");
    assert_eq!(id.to_string(), text, "an ID has one spelling");
    assert_eq!(TrustDomain::parse(id.trust_domain().as_str()).as_ref(), Ok(id.trust_domain()));
    assert_eq!(id.trust_domain().id().to_string() + id.path(), text);
    assert_eq!(id.namespace().is_some(), id.service_account().is_some());
    if let (Some(namespace), Some(account)) = (id.namespace(), id.service_account()) {
        assert_eq!(SpiffeId::of_service_account(id.trust_domain(), namespace, account), Ok(id.clone()));
    }
}

/// SPIFFE-ID §2, said another way than the parser says it.
fn is_plain(text: &str) -> bool {
    let mut parts = text.split('/');
    let head = [parts.next(), parts.next()] == [Some("spiffe:"), Some("")];
    let domain = parts.next().unwrap_or_default();
    let lower = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
    let any = |byte: u8| lower(byte.to_ascii_lowercase());
    let mut segments = parts.map(|part| !["", ".", ".."].contains(&part) && part.bytes().all(any));
    let domain = (1..=255).contains(&domain.len()) && domain.bytes().all(lower);
    head && domain && text.len() <= 2048 && segments.all(|good| good)
}
