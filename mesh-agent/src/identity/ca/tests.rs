//! What the embedded CA signs, refuses to load, and writes.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose, SanType};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::X509Certificate;

use super::{CaError, CaTexts, LocalCa, UnfitCa, bundle, ensure_dir, init_dir, intermediate_dir, load_files, parse};
use crate::identity::key::SecretKey;
use crate::identity::{IssueError, IssuedChain, Issuer};
use crate::model::mesh::{CaFiles, SvidSettings};
use crate::model::spiffe::{SpiffeId, TrustDomain};

const HOUR: Duration = Duration::from_hours(1);

fn settings() -> SvidSettings {
    SvidSettings { lifetime: HOUR, ..SvidSettings::default() }
}

fn load_texts(certificates: &str, key: &str, bundle: Option<&str>) -> Result<LocalCa, CaError> {
    LocalCa::load(trust_domain(), &CaTexts { certificates, key, bundle }, settings())
}

fn trust_domain() -> TrustDomain {
    TrustDomain::parse("cluster.local").unwrap()
}

/// Some whole second.
fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn uris<'cert>(certificate: &'cert X509Certificate<'_>) -> Vec<&'cert str> {
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    names.value.general_names.iter().map(|name| if let GeneralName::URI(uri) = name { *uri } else { "?" }).collect()
}

async fn issue(ca: &LocalCa, id: &str, now: SystemTime) -> Result<IssuedChain, IssueError> {
    let key = SecretKey::generate().unwrap();
    ca.issue(&SpiffeId::parse(id).unwrap(), &key, now).await
}

#[tokio::test]
async fn a_leaf_has_one_name_and_no_more_rights_than_it_needs() {
    let ca = LocalCa::create(trust_domain(), settings(), now()).unwrap();
    let issued = issue(&ca, "spiffe://cluster.local/ns/shop/sa/web", now()).await.unwrap();
    assert_eq!((issued.not_before, issued.not_after), (now() - Duration::from_mins(1), now() + HOUR));
    let leaf = parse(&issued.certificates[0]).unwrap();
    assert_eq!(uris(&leaf), ["spiffe://cluster.local/ns/shop/sa/web"]);
    assert_eq!(SystemTime::from(leaf.validity().not_after.to_datetime()), issued.not_after);
    let constraints = leaf.basic_constraints().unwrap().unwrap();
    assert!(!constraints.value.ca && constraints.critical);
    let usage = leaf.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && usage.flags.count_ones() == 1);
    let extended = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && extended.client_auth && !extended.any);
    assert_eq!(leaf.raw_serial_as_string().replace(':', ""), issued.serial.to_string());
    leaf.verify_signature(Some(parse(&ca.anchors().bundle.roots[0]).unwrap().public_key())).unwrap();
}

#[tokio::test]
async fn serial_numbers_are_unpredictable() {
    let ca = LocalCa::create(trust_domain(), settings(), now()).unwrap();
    let one = issue(&ca, "spiffe://cluster.local/a", now()).await.unwrap().serial;
    let other = issue(&ca, "spiffe://cluster.local/a", now()).await.unwrap().serial;
    assert!(one.to_string().len() == 32 && one != other);
}

#[tokio::test]
async fn only_workloads_of_the_own_trust_domain_get_an_svid() {
    let ca = LocalCa::create(trust_domain(), settings(), now()).unwrap();
    for id in ["spiffe://cluster.local", "spiffe://other.domain/ns/shop/sa/web"] {
        assert!(matches!(issue(&ca, id, now()).await, Err(IssueError::Identity(_))), "{id}");
    }
}

#[tokio::test]
async fn an_svid_never_outlives_its_ca() {
    let ca = LocalCa::create(trust_domain(), settings(), now()).unwrap();
    let end = ca.validity.not_after;
    let late = issue(&ca, "spiffe://cluster.local/a", end - Duration::from_mins(1)).await.unwrap();
    assert_eq!(late.not_after, end);
    assert!(matches!(issue(&ca, "spiffe://cluster.local/a", end).await, Err(IssueError::CaExpired)));
}

#[test]
fn the_ca_certificate_is_one_of_spiffe() {
    let ca = LocalCa::create(trust_domain(), settings(), now()).unwrap();
    let root = parse(&ca.anchors().bundle.roots[0]).unwrap();
    assert_eq!(uris(&root), ["spiffe://cluster.local"]);
    let usage = root.key_usage().unwrap().unwrap().value;
    assert!(root.is_ca() && usage.key_cert_sign() && usage.crl_sign() && usage.flags.count_ones() == 2);
}

#[test]
fn a_ca_survives_its_files() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path().join("new");
    init_dir(&at, trust_domain(), now()).unwrap();
    let mode = |name: &str| std::fs::metadata(at.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("ca.key"), 0o600);
    let (ca, _) = load_files(&trust_domain(), &CaFiles::of_directory(&at), settings()).unwrap();
    assert_eq!(ca.certificate_pem(), std::fs::read_to_string(at.join("ca.crt")).unwrap());
    assert_eq!(*ca.key_pem(), std::fs::read_to_string(at.join("ca.key")).unwrap());
}

#[test]
fn init_overwrites_nothing() {
    for existing in ["ca.crt", "ca.key"] {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(existing), "precious").unwrap();
        let error = init_dir(directory.path(), trust_domain(), now()).unwrap_err();
        assert_eq!(error.to_string(), format!("create {}", directory.path().join(existing).display()));
        let names: Vec<_> =
            std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, [existing]);
        assert_eq!(std::fs::read_to_string(directory.path().join(existing)).unwrap(), "precious");
    }
}

#[test]
fn a_ca_is_made_once_and_never_where_half_of_one_is() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path().join("new");
    assert!(ensure_dir(&at, &trust_domain(), now()).unwrap());
    let key = std::fs::read_to_string(at.join("ca.key")).unwrap();
    assert!(!ensure_dir(&at, &trust_domain(), now()).unwrap());
    std::fs::remove_file(at.join("ca.crt")).unwrap();
    assert!(!ensure_dir(&at, &trust_domain(), now()).unwrap());
    assert_eq!(std::fs::read_to_string(at.join("ca.key")).unwrap(), key);
}

#[test]
fn a_missing_file_is_named() {
    let files = CaFiles::of_directory(Path::new("/nonexistent"));
    let error = load_files(&trust_domain(), &files, settings()).err().unwrap();
    assert_eq!(error.to_string(), "read /nonexistent/ca.crt");
}

/// Loads a self-signed certificate that is a good CA but for `edit`.
fn load(edit: impl FnOnce(&mut CertificateParams)) -> Result<LocalCa, CaError> {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    edit(&mut params);
    let certificate = params.self_signed(&key).unwrap().pem();
    load_texts(&certificate, &key.serialize_pem(), None)
}

#[test]
fn an_unfit_ca_is_refused_at_load() {
    assert!(load(|_| {}).is_ok());
    assert!(matches!(load(|params| params.is_ca = IsCa::NoCa).err(), Some(CaError::Unfit(UnfitCa::NotACa))));
    let no_signing = |params: &mut CertificateParams| params.key_usages = vec![KeyUsagePurpose::CrlSign];
    assert!(matches!(load(no_signing).err(), Some(CaError::Unfit(UnfitCa::NotACa))));
    let constrained = |params: &mut CertificateParams| {
        let permitted_subtrees = vec![rcgen::GeneralSubtree::DnsName("example".to_owned())];
        params.name_constraints = Some(rcgen::NameConstraints { permitted_subtrees, excluded_subtrees: vec![] });
    };
    assert!(matches!(load(constrained).err(), Some(CaError::Unfit(UnfitCa::Constrained))));
    let foreign = |params: &mut CertificateParams| {
        params.subject_alt_names = vec![SanType::URI("spiffe://other.domain".try_into().unwrap())];
    };
    assert!(matches!(load(foreign).err(), Some(CaError::Unfit(UnfitCa::TrustDomain(_)))));
}

#[test]
fn a_key_must_be_the_certificates() {
    let ca = LocalCa::create(trust_domain(), settings(), now()).unwrap();
    let other = LocalCa::create(trust_domain(), settings(), now()).unwrap();
    let load = |certificates: &str, key: &str| load_texts(certificates, key, None).err();
    assert!(matches!(load(ca.certificate_pem(), &other.key_pem()), Some(CaError::KeyMismatch)));
    assert!(matches!(load(ca.certificate_pem(), "no key"), Some(CaError::Key(_))));
    assert!(matches!(load("no certificate", &ca.key_pem()), Some(CaError::Encoding)));
}

#[test]
fn further_certificates_are_further_roots() {
    let ca = LocalCa::create(trust_domain(), settings(), now()).unwrap();
    let next = LocalCa::create(trust_domain(), settings(), now()).unwrap();
    let both = format!("{}{}", ca.certificate_pem(), next.certificate_pem());
    let loaded = load_texts(&both, &ca.key_pem(), None).unwrap();
    assert_eq!(loaded.anchors().bundle.roots.len(), 2);
}

#[tokio::test]
async fn below_an_offline_root_svids_carry_the_intermediate_and_end_with_the_first_above_them() {
    let directory = tempfile::tempdir().unwrap();
    let (root, below) = (directory.path().join("root"), directory.path().join("below"));
    init_dir(&root, trust_domain(), now()).unwrap();
    intermediate_dir(&root, &below, &trust_domain(), now()).unwrap();
    std::fs::remove_file(root.join("ca.key")).unwrap();
    let (ca, _) = load_files(&trust_domain(), &CaFiles::of_directory(&below), settings()).unwrap();
    let issued = issue(&ca, "spiffe://cluster.local/a", now()).await.unwrap();
    let [leaf, above] = &issued.certificates[..] else { panic!("{} certificates", issued.certificates.len()) };
    let (leaf, above, root) = (parse(leaf).unwrap(), parse(above).unwrap(), parse(ca.root()).unwrap());
    leaf.verify_signature(Some(above.public_key())).unwrap();
    above.verify_signature(Some(root.public_key())).unwrap();
    assert_eq!(above.basic_constraints().unwrap().unwrap().value.path_len_constraint, Some(0));
    let end: SystemTime = above.validity().not_after.to_datetime().into();
    assert_eq!(issue(&ca, "spiffe://cluster.local/a", end - Duration::from_mins(1)).await.unwrap().not_after, end);
    assert!(matches!(issue(&ca, "spiffe://cluster.local/a", end).await, Err(IssueError::CaExpired)));
}

#[test]
fn a_ca_must_lead_to_a_root_of_its_bundle() {
    let ca = LocalCa::create(trust_domain(), settings(), now()).unwrap();
    let other = LocalCa::create(trust_domain(), settings(), now()).unwrap();
    let roots = bundle::to_spiffe(&other.anchors().bundle.roots).unwrap().to_string();
    assert!(matches!(load_texts(ca.certificate_pem(), &ca.key_pem(), Some(&roots)).err(), Some(CaError::Untrusted)));
    let roots = roots + "x";
    assert!(matches!(load_texts(ca.certificate_pem(), &ca.key_pem(), Some(&roots)).err(), Some(CaError::Bundle(_))));
    let roots = bundle::to_spiffe(&[&other.anchors().bundle.roots[..], &ca.anchors().bundle.roots].concat()).unwrap();
    let loaded = load_texts(ca.certificate_pem(), &ca.key_pem(), Some(&roots.to_string())).unwrap();
    assert_eq!((loaded.root(), loaded.anchors().bundle.roots.len()), (ca.root(), 2));
}
