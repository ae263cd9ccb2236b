//! Certificates for the tests, right ones and every kind of wrong one. Independent of `identity`, so that the verifier
//! isn't tested against the issuer's idea of a certificate.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

use crate::model::revocation::Serial;
use crate::model::spiffe::{SpiffeId, TrustDomain};
use crate::model::svid::{TrustBundle, X509Svid};

pub(super) const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";
pub(super) const REDIS: &str = "spiffe://cluster.local/ns/shop/sa/redis";

pub(super) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

pub(super) fn uri(text: &str) -> SanType {
    SanType::URI(Ia5String::try_from(text).unwrap())
}

pub(super) fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}

/// Each CA has a name of its own, as in life.
fn ca_params(name: &str) -> CertificateParams {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, format!("{name} {}", NEXT.fetch_add(1, Ordering::Relaxed)));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

impl Ca {
    pub(super) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(super) fn with(edit: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = ca_params("root");
        edit(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    pub(super) fn bundle(&self) -> TrustBundle {
        let trust_domain = TrustDomain::parse("cluster.local").unwrap();
        TrustBundle { trust_domain, roots: vec![self.certificate.clone()] }
    }

    pub(super) fn svid(&self, name: &str) -> X509Svid {
        self.odd_svid(name, |_| {})
    }

    /// A good leaf but for `edit`.
    pub(super) fn odd_svid(&self, name: &str, edit: impl FnOnce(&mut CertificateParams)) -> X509Svid {
        let now = SystemTime::now();
        let (not_before, not_after) = (now - Duration::from_mins(1), now + Duration::from_hours(1));
        let mut params = CertificateParams::default();
        (params.not_before, params.not_after) = (not_before.into(), not_after.into());
        params.subject_alt_names = vec![uri(name)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        edit(&mut params);
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        let chain = vec![leaf.der().clone()];
        let private_key = Zeroizing::new(key.serialize_der());
        X509Svid { id: id(name), chain, private_key, serial: Serial::from_der(&[1]), not_before, not_after }
    }
}
