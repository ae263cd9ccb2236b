//! A peer's certificate: two parsers of X.509 must read the same name in it, and nothing may stand after it.

use mesh_agent::model::spiffe::SpiffeId;
use mesh_agent::tls::verify::leaf_identity;
use rustls_pki_types::CertificateDer;
use webpki::EndEntityCert;

/// Checks `input` as DER.
pub fn check(input: &[u8]) {
    let der = CertificateDer::from(input);
    let Ok(id) = leaf_identity(&der) else { return };
    let text = id.to_string();
    assert_eq!(SpiffeId::parse(&text).as_ref(), Ok(&id));
    assert!(!id.path().is_empty(), "a trust domain is no workload");
    assert!(input.windows(text.len()).any(|window| window == text.as_bytes()), "{text} is not in the certificate");
    // webpki looks at signatures and dates of the same bytes: it must not see another name than we do.
    if let Ok(parsed) = EndEntityCert::try_from(&der) {
        let names: Vec<&str> = parsed.valid_uri_names().collect();
        assert_eq!(names, [text.as_str()], "webpki reads other names");
    }
    let longer = CertificateDer::from([input, b"\0"].concat());
    assert!(leaf_identity(&longer).is_err(), "bytes after the certificate");
}
