//! Lists as CAs write them, and as others would.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CrlDistributionPoint,
    CrlIssuingDistributionPoint, CrlScope, DnType, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SerialNumber, date_time_ymd,
};

use super::*;
use crate::model::spiffe::TrustDomain;

struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    der: CertificateDer<'static>,
}

fn params(name: &str, usages: &[KeyUsagePurpose]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = usages.to_vec();
    params
}

const BOTH: [KeyUsagePurpose; 2] = [KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];

impl Ca {
    fn root(name: &str, usages: &[KeyUsagePurpose]) -> Self {
        let (params, key) = (params(name, usages), KeyPair::generate().unwrap());
        let certificate = params.self_signed(&key).unwrap();
        Self { pem: certificate.pem(), der: certificate.der().clone(), issuer: Issuer::new(params, key) }
    }

    fn below(&self, name: &str) -> Self {
        let (params, key) = (params(name, &BOTH), KeyPair::generate().unwrap());
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Self { pem: certificate.pem(), der: certificate.der().clone(), issuer: Issuer::new(params, key) }
    }

    fn list(&self, serials: &[u8], edit: impl FnOnce(&mut CertificateRevocationListParams)) -> String {
        let revoked = |serial: &u8| RevokedCertParams {
            serial_number: SerialNumber::from_slice(&[*serial]),
            revocation_time: date_time_ymd(2026, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let mut params = CertificateRevocationListParams {
            this_update: date_time_ymd(2026, 1, 1),
            next_update: date_time_ymd(2026, 1, 2),
            crl_number: SerialNumber::from_slice(&[1]),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        edit(&mut params);
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    fn bundle(&self) -> TrustBundle {
        TrustBundle { trust_domain: TrustDomain::parse("mesh.test").unwrap(), roots: vec![self.der.clone()] }
    }
}

fn counts(text: &str, bundle: &TrustBundle) -> bool {
    let [crl] = &parse(text).unwrap()[..] else { panic!("one list") };
    crl.is_vouched_for([bundle].into_iter())
}

#[test]
fn a_list_names_certificates_of_its_issuer_alone() {
    let (one, other) = (Ca::root("one", &BOTH), Ca::root("other", &BOTH));
    let lists = parse(&(one.list(&[1, 2], |_| {}) + &other.list(&[], |_| {}))).unwrap();
    let [of_one, of_other] = &lists[..] else { panic!("{lists:?}") };
    let parsed = X509Certificate::from_der(&one.der).unwrap().1;
    let issuer = IssuerName::from_der(parsed.subject().as_raw());
    let expected = ["1", "2"].map(|serial| CertificateId { issuer, serial: Serial::parse(serial).unwrap() });
    assert_eq!(of_one.certificates().collect::<Vec<_>>(), expected);
    assert_eq!(of_other.certificates().count(), 0);
}

#[test]
fn only_a_trusted_cas_signature_makes_a_list_count() {
    let root = Ca::root("root", &BOTH);
    assert!(counts(&root.list(&[1], |_| {}), &root.bundle()));
    // Somebody else with the same name.
    assert!(!counts(&Ca::root("root", &BOTH).list(&[1], |_| {}), &root.bundle()));
    assert!(!counts(&root.list(&[1], |_| {}), &Ca::root("other", &BOTH).bundle()));
    let no_lists = Ca::root("root", &[KeyUsagePurpose::KeyCertSign]);
    let signed = Issuer::new(params("root", &BOTH), KeyPair::from_pem(&no_lists.issuer.key().serialize_pem()).unwrap());
    let list = Ca { issuer: signed, ..no_lists };
    assert!(!counts(&list.list(&[1], |_| {}), &list.bundle()), "keyUsage without cRLSign");
}

#[test]
fn a_ca_below_the_root_stands_beside_its_list() {
    let root = Ca::root("root", &BOTH);
    let middle = root.below("middle");
    let lower = middle.below("lower");
    let list = lower.list(&[1], |_| {});
    assert!(counts(&[&*list, &lower.pem, &middle.pem].concat(), &root.bundle()));
    assert!(!counts(&list, &root.bundle()));
    assert!(!counts(&[&*list, &lower.pem].concat(), &root.bundle()), "a gap in the chain");
    let stranger = Ca::root("root", &BOTH).below("lower");
    assert!(!counts(&(stranger.list(&[1], |_| {}) + &stranger.pem), &root.bundle()));
}

#[test]
fn what_is_no_list_or_only_part_of_one_is_refused() {
    let root = Ca::root("root", &BOTH);
    let point = CrlIssuingDistributionPoint {
        distribution_point: CrlDistributionPoint { uris: vec!["http://a.test".to_owned()] },
        scope: Some(CrlScope::UserCertsOnly),
    };
    let part = root.list(&[1], |params| params.issuing_distribution_point = Some(point));
    let cut = root.list(&[1], |_| {}).lines().take(3).collect::<Vec<_>>().join("\n") + "\n-----END X509 CRL-----\n";
    for (text, error) in [
        ("", "has no `X509 CRL` in PEM (`openssl crl -inform DER` makes one)"),
        (&root.pem, "has no `X509 CRL` in PEM (`openssl crl -inform DER` makes one)"),
        (&cut, "list 0 is not a certificate revocation list"),
        (&part, "list 0 has a critical extension, which is not supported"),
    ] {
        assert_eq!(parse(text).unwrap_err().to_string(), error);
    }
}
