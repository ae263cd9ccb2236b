//! Trust bundles in PEM, read with the CA's own certificate: only roots that can sign get in, each as it was written.

use std::sync::{Arc, OnceLock};

use mesh_agent::identity::LocalCa;
use mesh_agent::identity::ca::CaTexts;
use mesh_agent::model::mesh::SvidSettings;
use mesh_agent::model::spiffe::TrustDomain;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use webpki::anchor_from_trusted_cert;

/// A CA of this process: its certificate and its key, in PEM.
struct Ca {
    certificate: String,
    key: String,
}

/// Checks `input` as further roots.
///
/// # Panics
/// Also if a CA can't be made: then nothing can be checked.
pub fn check(input: &[u8]) {
    static CA: OnceLock<Ca> = OnceLock::new();
    let Ok(text) = str::from_utf8(input) else { return };
    let Ca { certificate, key } = CA.get_or_init(make_ca);
    let trust_domain = TrustDomain::parse("cluster.local").expect("a trust domain");
    let load = |certificates: &str| {
        LocalCa::load(trust_domain.clone(), &CaTexts { certificates, key, bundle: None }, SvidSettings::default())
    };
    let Ok(ca) = load(&format!("{certificate}\n{text}")) else { return };
    let bundle = Arc::clone(&ca.anchors().bundle);
    assert_eq!(bundle.trust_domain, trust_domain);
    let own = CertificateDer::from_pem_slice(certificate.as_bytes()).expect("our own certificate");
    assert_eq!(bundle.roots.first(), Some(&own), "the CA that signs comes first");
    for root in &bundle.roots {
        // What was loaded can be used: no root is dropped later, in the middle of a handshake.
        let anchor = anchor_from_trusted_cert(root).unwrap_or_else(|error| panic!("webpki refuses a root: {error}"));
        assert!(anchor.name_constraints.is_none(), "a root with name constraints");
    }
    // The text that other agents and tools get says the same.
    let again = load(ca.certificate_pem()).expect("loaded once, loaded twice");
    assert_eq!(again.anchors().bundle, bundle);
}

fn make_ca() -> Ca {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("a certificate").pem();
    Ca { certificate, key: key.serialize_pem() }
}
