//! Who gets which certificate from the signing service.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::json;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{Admission, Service, ServiceError, SvidAnswer};
use crate::config::{self, SourceFile};
use crate::identity::ca::init_dir;
use crate::identity::token::JoinToken;
use crate::identity::{EmbeddedIssuer, SecretKey};
use crate::model::mesh::{CaFiles, SvidSettings};
use crate::model::spiffe::{SpiffeId, TrustDomain};
use crate::signing::wire::{decode, encode};

const DOCUMENTS: &str = "
apiVersion: mesh.hauberk.dev/v1alpha1
kind: Mesh
metadata: {name: mesh}
spec:
  trustDomain: mesh.test
  podRanges: [10.0.0.0/8]
  issuer: {remote: {address: 'ca:15100', tokenFile: token}}
---
apiVersion: mesh.hauberk.dev/v1alpha1
kind: Workload
metadata: {name: web, namespace: shop}
spec: {node: a, serviceAccount: web, addresses: [10.1.2.3]}
---
apiVersion: mesh.hauberk.dev/v1alpha1
kind: Workload
metadata: {name: db, namespace: shop}
spec: {node: b, serviceAccount: db, addresses: [10.1.2.4]}
";

const WEB: &str = "spiffe://mesh.test/ns/shop/sa/web";
const DB: &str = "spiffe://mesh.test/ns/shop/sa/db";
const TEN_MINUTES: Duration = Duration::from_mins(10);

struct Stage {
    directory: tempfile::TempDir,
    service: Service,
}

fn service(directory: &Path) -> Service {
    let files = CaFiles::of_directory(directory);
    let issuer = EmbeddedIssuer::open(trust_domain(), files, SvidSettings::default()).unwrap();
    let documents = [SourceFile { name: "mesh.yaml".into(), text: DOCUMENTS.to_owned() }];
    let config = config::parse(&documents).unwrap();
    Service::new(Arc::new(issuer), Admission::JoinTokens, &directory.join("journal"), &config).unwrap()
}

fn stage() -> Stage {
    let directory = tempfile::tempdir().unwrap();
    init_dir(directory.path(), trust_domain(), SystemTime::now()).unwrap();
    let service = service(directory.path());
    Stage { directory, service }
}

fn trust_domain() -> TrustDomain {
    TrustDomain::parse("mesh.test").unwrap()
}

fn node(name: &str) -> SpiffeId {
    SpiffeId::of_node(&trust_domain(), name).unwrap()
}

fn request() -> String {
    encode(&SecretKey::generate().unwrap().to_request().unwrap())
}

fn ask(stage: &Stage, caller: Option<&SpiffeId>, id: &str) -> Result<SvidAnswer, ServiceError> {
    let body = json!({ "id": id, "request": request() }).to_string();
    stage.service.svid(caller, body.as_bytes(), SystemTime::now())
}

fn join(stage: &Stage, token: &JoinToken, now: SystemTime) -> Result<SvidAnswer, ServiceError> {
    let body = json!({ "token": token.to_string(), "request": request() }).to_string();
    stage.service.join(body.as_bytes(), now)
}

fn token(stage: &Stage, node: &str) -> JoinToken {
    JoinToken::issue(&stage.service.issuer().ca(), node, TEN_MINUTES, SystemTime::now()).unwrap()
}

#[track_caller]
fn refused(answer: Result<SvidAnswer, ServiceError>, why: &str) {
    match answer {
        Err(ServiceError::Refused(reason)) => assert_eq!(reason, why),
        other => panic!("{other:?}"),
    }
}

fn journal(stage: &Stage) -> String {
    std::fs::read_to_string(stage.directory.path().join("journal")).unwrap()
}

#[test]
fn a_node_gets_the_identities_of_its_own_workloads_only() {
    let stage = stage();
    let not_here = "this node runs no workload with this identity";
    ask(&stage, Some(&node("a")), WEB).unwrap();
    refused(ask(&stage, Some(&node("a")), DB), not_here);
    refused(ask(&stage, Some(&node("b")), WEB), not_here);
    refused(ask(&stage, Some(&node("c")), WEB), not_here);
    ask(&stage, Some(&node("a")), "spiffe://mesh.test/hauberk/node/a").unwrap();
    refused(ask(&stage, Some(&node("a")), "spiffe://mesh.test/hauberk/node/b"), not_here);
    refused(ask(&stage, Some(&node("a")), "spiffe://mesh.test/hauberk/issuer"), not_here);
    refused(ask(&stage, Some(&node("a")), "spiffe://other.test/ns/shop/sa/web"), not_here);
    let text = journal(&stage);
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(text.lines().all(|line| line.contains("\"node\":\"a\"")) && text.contains(WEB), "{text}");
}

#[test]
fn where_nodes_are_reviewed_none_renews_its_own_identity() {
    let Stage { directory, mut service } = stage();
    service.admission = Admission::Reviewed;
    let stage = Stage { directory, service };
    refused(ask(&stage, Some(&node("a")), &node("a").to_string()), "a node's identity is not renewed here: join again");
    ask(&stage, Some(&node("a")), WEB).unwrap();
    let asked = Service::introduction(json!({ "token": "", "request": request() }).to_string().as_bytes()).unwrap();
    let now = SystemTime::now();
    let joined = stage.service.admit(Ok("a".to_owned()), &asked, now).unwrap();
    let leaf = decode(&joined.chain[0]).unwrap();
    let (_, leaf) = X509Certificate::from_der(&leaf).unwrap();
    let ends: SystemTime = leaf.validity().not_after.to_datetime().into();
    assert!(ends <= now + Duration::from_hours(24), "its key must not outlive the node for long");
    let unknown = Err("the cluster has no node a".to_owned());
    refused(stage.service.admit(unknown, &asked, now), "the cluster has no node a");
}

#[test]
fn a_nodes_identity_lasts_as_long_as_its_agent_can_do_without_another() {
    let hours = Duration::from_hours;
    let lifetimes = [hours(24), hours(720), Duration::from_mins(1)];
    assert_eq!(lifetimes.map(|svid| Admission::Reviewed.node_lifetime(svid)), [hours(24), hours(24), hours(1)]);
    assert_eq!(lifetimes.map(|svid| Admission::JoinTokens.node_lifetime(svid)), [hours(48), hours(720), hours(24)]);
}

#[test]
fn a_workload_is_nobody_to_the_issuer() {
    let stage = stage();
    let nobody = "the caller has no node's identity";
    refused(ask(&stage, Some(&SpiffeId::parse(WEB).unwrap()), WEB), nobody);
    refused(ask(&stage, Some(&SpiffeId::of_issuer(&trust_domain())), WEB), nobody);
    refused(ask(&stage, None, WEB), nobody);
    assert_eq!(journal(&stage), "");
}

#[test]
fn a_token_lets_its_node_join_once_also_over_a_restart() {
    let stage = stage();
    let (token, now) = (token(&stage, "a"), SystemTime::now());
    let answer = join(&stage, &token, now).unwrap();
    let leaf = decode(&answer.chain[0]).unwrap();
    let (_, leaf) = X509Certificate::from_der(&leaf).unwrap();
    assert!(format!("{:?}", leaf.subject_alternative_name().unwrap()).contains("spiffe://mesh.test/hauberk/node/a"));
    refused(join(&stage, &token, now), "the join token has been used");
    let Stage { directory, service: before } = stage;
    drop(before);
    let again = service(directory.path());
    refused(join(&Stage { directory, service: again }, &token, now), "the join token has been used");
}

#[test]
fn an_expired_or_foreign_token_is_refused() {
    let (stage, other) = (stage(), stage());
    refused(join(&stage, &token(&stage, "a"), SystemTime::now() + TEN_MINUTES), "the join token has expired");
    refused(join(&stage, &token(&other, "a"), SystemTime::now()), "the join token is not this CA's");
}

#[test]
fn only_the_key_comes_from_a_request_and_must_be_proven() {
    let stage = stage();
    // It asks for a CA's rights, another name and another identity.
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["evil.example".to_owned()]).unwrap();
    params.subject_alt_names.push(rcgen::SanType::URI(DB.try_into().unwrap()));
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    let mut request = params.serialize_request(&key).unwrap().der().to_vec();
    let body = |request: &[u8]| json!({ "id": WEB, "request": encode(request) }).to_string();
    let ask = |body: String| stage.service.svid(Some(&node("a")), body.as_bytes(), SystemTime::now());
    let leaf = decode(&ask(body(&request)).unwrap().chain[0]).unwrap();
    let (_, leaf) = X509Certificate::from_der(&leaf).unwrap();
    let names = &leaf.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert!(names.len() == 1 && format!("{names:?}").contains(WEB), "{names:?}");
    assert!(!leaf.key_usage().unwrap().unwrap().value.key_cert_sign() && !leaf.is_ca());
    *request.last_mut().unwrap() ^= 1;
    assert!(matches!(ask(body(&request)), Err(ServiceError::Malformed(_))));
    for odd in ["", "{}", "[]", "{\"id\":\"x\",\"request\":\"\"}"] {
        assert!(matches!(ask(odd.to_owned()), Err(ServiceError::Malformed(_))), "{odd}");
    }
}

#[test]
fn new_documents_move_a_workload() {
    let stage = stage();
    let moved = DOCUMENTS.replace("node: a,", "node: c,");
    stage.service.update(&config::parse(&[SourceFile { name: "mesh.yaml".into(), text: moved }]).unwrap());
    ask(&stage, Some(&node("c")), WEB).unwrap();
    assert!(ask(&stage, Some(&node("a")), WEB).is_err());
}

#[test]
fn what_is_revoked_gets_nothing() {
    let stage = stage();
    let with = |spec: &str| {
        let head = "apiVersion: mesh.hauberk.dev/v1alpha1\nkind: Revocation\nmetadata: {name: lost}";
        let text = format!("{DOCUMENTS}---\n{head}\nspec: {spec}\n");
        stage.service.update(&config::parse(&[SourceFile { name: "mesh.yaml".into(), text }]).unwrap());
    };
    with(&format!("{{spiffeIds: ['{WEB}']}}"));
    refused(ask(&stage, Some(&node("a")), WEB), "the identity is revoked");
    ask(&stage, Some(&node("b")), DB).unwrap();
    with("{nodes: [a]}");
    refused(ask(&stage, Some(&node("a")), WEB), "the identity is revoked");
    refused(ask(&stage, Some(&node("a")), &node("a").to_string()), "the identity is revoked");
    refused(join(&stage, &token(&stage, "a"), SystemTime::now()), "the node is revoked");
    join(&stage, &token(&stage, "b"), SystemTime::now()).unwrap();
}
