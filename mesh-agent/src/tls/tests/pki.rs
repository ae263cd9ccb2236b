//! Certificates for the tests, right ones and every kind of wrong one. Independent of `identity`, so that the verifier
//! isn't tested against the issuer's idea of a certificate.

use std::time::{Duration, SystemTime};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

use crate::model::spiffe::{SpiffeId, TrustDomain};
use crate::model::svid::{TrustBundle, X509Svid};

pub(super) const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";
pub(super) const REDIS: &str = "spiffe://cluster.local/ns/shop/sa/redis";

pub(super) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    /// What a leaf's chain carries besides the leaf.
    above: Vec<CertificateDer<'static>>,
    certificate: CertificateDer<'static>,
}

pub(super) fn uri(text: &str) -> SanType {
    SanType::URI(Ia5String::try_from(text).unwrap())
}

pub(super) fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
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
        Self { issuer: Issuer::new(params, key), above: Vec::new(), certificate }
    }

    /// A CA below this one; leaves send its certificate along.
    pub(super) fn intermediate(&self, edit: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = ca_params("intermediate");
        edit(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        Self { issuer: Issuer::new(params, key), above: vec![certificate.clone()], certificate }
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
        let chain = [leaf.der().clone()].into_iter().chain(self.above.clone()).collect();
        let private_key = Zeroizing::new(key.serialize_der());
        X509Svid { id: id(name), chain, private_key, serial: "01".to_owned(), not_before, not_after }
    }
}
