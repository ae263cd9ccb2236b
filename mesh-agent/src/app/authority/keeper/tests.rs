//! A cluster's CA in its Secret: the layouts that operators bring, and how one is replaced.

use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use super::*;
use crate::identity::{IssuedChain, Issuer as _, SecretKey};
use crate::model::spiffe::SpiffeId;

const REFRESH: Duration = Duration::from_secs(10);

fn trust_domain() -> TrustDomain {
    TrustDomain::parse("mesh.test").unwrap()
}

fn now() -> SystemTime {
    SystemTime::now()
}

/// An operator's root as cert-manager's issuers have it: a common name, and no URI.
struct Operator {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    root: String,
}

impl Operator {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = ca_params("root");
        let root = params.self_signed(&key).unwrap().pem();
        Self { issuer: rcgen::Issuer::new(params, key), root }
    }

    /// A Secret with a CA below the root; its key is written by `key_pem`.
    fn secret(&self, key_pem: impl FnOnce(&rcgen::KeyPair) -> String) -> CaSecret {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificates = ca_params("hauberk").signed_by(&key, &self.issuer).unwrap().pem();
        CaSecret { certificates, key: Zeroizing::new(key_pem(&key)), roots: Some(self.root.clone()) }
    }
}

fn ca_params(name: &str) -> rcgen::CertificateParams {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let of_cert_manager = [rcgen::KeyUsagePurpose::DigitalSignature, rcgen::KeyUsagePurpose::KeyCertSign];
    params.key_usages = of_cert_manager.to_vec();
    params
}

fn pkcs8(key: &rcgen::KeyPair) -> String {
    key.serialize_pem()
}

/// `EC PRIVATE KEY`, which cert-manager writes unless it is told otherwise: what PKCS #8 has inside (RFC 5915).
fn sec1(key: &rcgen::KeyPair) -> String {
    let der = key.serialize_der();
    // SEQUENCE, version, algorithm, and an OCTET STRING to the end, or to optional attributes.
    let inner = der.windows(5).position(|part| part[0] == 0x30 && part[2..] == [0x02, 0x01, 0x01]).unwrap();
    let length = usize::from(der[inner + 1]) + 2;
    pem::encode(&pem::Pem::new("EC PRIVATE KEY", &der[inner..inner + length]))
}

fn self_made() -> CaSecret {
    let ca = LocalCa::create(trust_domain(), SvidSettings::default(), now()).unwrap();
    CaSecret { certificates: ca.certificate_pem().to_owned(), key: ca.key_pem(), roots: None }
}

fn copy(secret: &CaSecret) -> Option<CaSecret> {
    let CaSecret { certificates, key, roots } = secret;
    Some(CaSecret { certificates: certificates.clone(), key: key.clone(), roots: roots.clone() })
}

fn keeper(secret: &CaSecret) -> (Keeper, Published) {
    let settings = SvidSettings::default();
    let pace = pace(REFRESH, settings);
    let ca = load(&trust_domain(), secret, settings).unwrap();
    let published = Published::default().next(&ca.anchors().bundle.roots, now(), pace);
    let roots = bundle::to_pem(&published.roots());
    let issuer = Arc::new(EmbeddedIssuer::of_texts(trust_domain(), &texts(secret, &roots), settings).unwrap());
    let signing = copy(secret).unwrap();
    (Keeper { issuer, signing, trust_domain: trust_domain(), settings, pace, is_missing: false }, published)
}

async fn issue(keeper: &Keeper) -> IssuedChain {
    let id = SpiffeId::of_service_account(&trust_domain(), "shop", "web").unwrap();
    keeper.issuer.issue(&id, &SecretKey::generate().unwrap(), now()).await.unwrap()
}

/// Who signed the last certificate of a chain.
fn is_below(chain: &IssuedChain, root: &CertificateDer<'_>) -> bool {
    let (_, last) = X509Certificate::from_der(chain.certificates.last().unwrap()).unwrap();
    let (_, root) = X509Certificate::from_der(root).unwrap();
    last.verify_signature(Some(root.public_key())).is_ok()
}

#[tokio::test]
async fn an_operators_intermediate_signs_and_comes_along() {
    let operator = Operator::new();
    for (form, key_pem) in [("SEC1", sec1 as fn(&rcgen::KeyPair) -> String), ("PKCS #8", pkcs8)] {
        let secret = operator.secret(key_pem);
        assert_eq!(secret.key.contains("EC PRIVATE KEY"), form == "SEC1");
        let (keeper, published) = keeper(&secret);
        let roots = bundle::from_pem(&operator.root).unwrap();
        assert_eq!(published.roots(), roots, "{form}: the intermediate is no root");
        let chain = issue(&keeper).await;
        let intermediate = bundle::from_pem(&secret.certificates).unwrap();
        assert_eq!(chain.certificates[1..], intermediate, "{form}");
        assert!(is_below(&chain, &roots[0]));
    }
    let mut foreign = operator.secret(pkcs8);
    foreign.roots = Some(Operator::new().root);
    assert!(matches!(load(&trust_domain(), &foreign, SvidSettings::default()).err(), Some(CaError::Untrusted)));
}

#[tokio::test]
async fn another_intermediate_of_the_same_root_signs_at_once() {
    let operator = Operator::new();
    let (mut keeper, published) = keeper(&operator.secret(pkcs8));
    let renewed = operator.secret(sec1);
    let before = keeper.issuer.ca().anchors().signer.clone();
    assert_eq!(keeper.step(copy(&renewed), &published, now()).unwrap(), published);
    assert_ne!(keeper.issuer.ca().anchors().signer, before);
    assert_eq!(issue(&keeper).await.certificates[1..], bundle::from_pem(&renewed.certificates).unwrap());
}

#[tokio::test]
async fn a_new_root_is_trusted_before_it_signs_and_the_old_one_stays() {
    let (old, operator) = (self_made(), Operator::new());
    let (mut keeper, published) = keeper(&old);
    let (old_root, new) = (published.roots().remove(0), operator.secret(pkcs8));
    let new_root = bundle::from_pem(&operator.root).unwrap().remove(0);
    let start = now();
    let both = keeper.step(copy(&new), &published, start).unwrap();
    assert_eq!(both.roots(), [new_root.clone(), old_root.clone()]);
    let trusts = |keeper: &Keeper| keeper.issuer.trust().borrow().bundle.roots.clone();
    assert_eq!(trusts(&keeper), both.roots(), "what agents are told");
    assert!(is_below(&issue(&keeper).await, &old_root), "nobody has the new one yet");
    // Not before it is published, however long that takes.
    let later = start + Duration::from_hours(1);
    keeper.step(copy(&new), &published, later).unwrap();
    assert!(is_below(&issue(&keeper).await, &old_root));
    keeper.step(copy(&new), &both, start + 2 * REFRESH).unwrap();
    assert!(is_below(&issue(&keeper).await, &old_root), "an agent may have to look yet");
    let next = keeper.step(copy(&new), &both, start + 3 * REFRESH).unwrap();
    assert!(is_below(&issue(&keeper).await, &new_root));
    assert_eq!((next.roots(), trusts(&keeper)), (both.roots(), both.roots()));
    let end = start + Duration::from_hours(25);
    assert_eq!(keeper.step(copy(&new), &next, end).unwrap().roots(), [new_root]);
}

#[tokio::test]
async fn a_ca_goes_on_without_its_secret_and_with_one_that_is_no_use() {
    let secret = self_made();
    let (mut keeper, published) = keeper(&secret);
    let root = published.roots().remove(0);
    assert_eq!(keeper.step(None, &published, now()).unwrap(), published);
    assert!(keeper.is_missing && is_below(&issue(&keeper).await, &root));
    let broken = CaSecret { key: self_made().key, ..copy(&secret).unwrap() };
    assert!(matches!(keeper.step(Some(broken), &published, now()), Err(CaError::KeyMismatch)));
    assert!(!keeper.is_missing && is_below(&issue(&keeper).await, &root));
    // Somebody has emptied what is published.
    let again = keeper.step(copy(&secret), &Published::default(), now()).unwrap();
    assert_eq!(again.roots(), std::slice::from_ref(&root));
    assert!(is_below(&issue(&keeper).await, &root));
}
