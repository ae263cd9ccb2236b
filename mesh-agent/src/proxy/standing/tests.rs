//! What ends a connection: by identity, by time, by policy.

use super::*;
use crate::config::{SourceFile, parse};
use crate::model::revocation::IssuerName;
use crate::model::svid::TrustBundle;
use crate::store::{Publisher, channel};
use crate::telemetry::metrics::Views;
use std::time::UNIX_EPOCH;

/// The identity of the workload shop/web.
const WEB_ID: &str = "spiffe://test/ns/shop/sa/web";

fn state(revocation: &str) -> MeshState {
    let head = "apiVersion: mesh.hauberk.dev/v1alpha1\nkind:";
    let text = format!(
        "{head} Mesh\nmetadata: {{name: mesh}}\nspec:\n  trustDomain: test\n  \
         issuer: {{embedded: {{certificate: ca.crt, key: ca.key}}}}\n{revocation}"
    );
    let text = text.replace(
        "WEB",
        &format!(
            "---\n{head} Workload\nmetadata: {{name: web, namespace: shop}}\nspec: {{node: a, serviceAccount: web, addresses: [10.0.0.2]}}\n"
        ),
    );
    let text = text
        .replace("POLICY", &format!("---\n{head} AuthorizationPolicy\nmetadata: {{name: p, namespace: shop}}\nspec:"));
    let text = text.replace("MODE", &format!("---\n{head} PeerAuthentication\nmetadata: {{name: m, namespace: shop}}\nspec: {{mtls: {{mode: PERMISSIVE}}}}\n"));
    let text = text.replace("REVOKE", &format!("---\n{head} Revocation\nmetadata: {{name: lost}}\nspec:"));
    MeshState::new(parse(&[SourceFile { name: "mesh.yaml".into(), text }]).unwrap())
}

fn svid(not_after: SystemTime) -> Arc<X509Svid> {
    let id = SpiffeId::parse("spiffe://test/web").unwrap();
    let (serial, not_before) = (Serial::parse("aa").unwrap(), UNIX_EPOCH);
    Arc::new(X509Svid { id, chain: Vec::new(), private_key: Vec::new().into(), serial, not_before, not_after })
}

/// A connection between `web` (serial number aa), whose SVID expires at `not_after`, and `db` (bb).
fn standing(not_after: SystemTime) -> (Standing, Publisher, watch::Sender<Arc<X509Svid>>) {
    let (publisher, store) = channel(state("WEB"));
    let (sender, svid) = watch::channel(svid(not_after));
    let end = |id, serial| (SpiffeId::parse(id).unwrap(), Serial::parse(serial).unwrap());
    let (own, (id, serial)) = (end(WEB_ID, "aa"), end("spiffe://test/db", "bb"));
    let bundle = Arc::new(TrustBundle { trust_domain: id.trust_domain().clone(), roots: Vec::new() });
    let trust = watch::channel(Arc::new(Trust { bundle, signer: String::new() })).1;
    let peer = Some(Peer { id, chain: Arc::new([CertificateId { issuer: IssuerName::from_der(b""), serial }]) });
    let (listed, workload, access) = (Arc::default(), WorkloadUid::new("shop", "web"), None);
    (Standing { store, svid, trust, listed, rego: Arc::default(), workload, own, peer, access }, publisher, sender)
}

#[test]
fn either_end_loses_its_standing_by_identity_or_serial_number() {
    let (standing, publisher, _svid) = standing(UNIX_EPOCH + Duration::from_secs(9));
    let check = |revocation, now| {
        publisher.publish(state(&format!("WEB{revocation}")));
        let state = standing.store.snapshot();
        standing.judge(&state, UNIX_EPOCH + Duration::from_secs(now), true).err().map(|(lost, _)| lost.reason)
    };
    assert_eq!(check("", 9), None);
    assert_eq!(check("REVOKE {spiffeIds: [spiffe://test/db]}", 9), Some("revoked"));
    assert_eq!(check("REVOKE {spiffeIds: [spiffe://test/ns/shop/sa/web]}", 9), Some("revoked"));
    assert_eq!(check("REVOKE {serials: ['aa']}", 9), Some("revoked"));
    assert_eq!(check("REVOKE {serials: ['bb']}", 9), Some("revoked"));
    assert_eq!(check("REVOKE {spiffeIds: [spiffe://test/other], serials: ['cc']}", 9), None);
    assert_eq!(check("", 10), Some("svid_expired"));
}

#[tokio::test]
async fn a_live_connection_hears_of_it() {
    let (standing, publisher, _svid) = standing(SystemTime::now() + Duration::from_hours(1));
    let watching = tokio::spawn(standing.until_lost());
    publisher.publish(state("WEBREVOKE {serials: ['bb']}"));
    assert_eq!(watching.await.unwrap().reason, "revoked");
}

#[test]
fn a_workload_that_left_or_is_somebody_else_now_has_no_standing() {
    let (standing, publisher, _svid) = standing(SystemTime::now() + Duration::from_hours(1));
    let check = |state: MeshState| {
        publisher.publish(state);
        standing.judge(&standing.store.snapshot(), SystemTime::now(), true).err().map(|(lost, _)| lost.reason)
    };
    assert_eq!(check(state("WEB")), None);
    assert_eq!(check(state("")), Some("withdrawn"));
    let (mut other, _store, _svid) = self::standing(SystemTime::now() + Duration::from_hours(1));
    other.own.0 = SpiffeId::parse("spiffe://test/ns/shop/sa/old").unwrap();
    let lost = other.judge(&other.store.snapshot(), SystemTime::now(), true).err().map(|(lost, _)| lost.reason);
    assert_eq!(lost, Some("withdrawn"));
}

#[tokio::test]
async fn an_svid_that_is_not_renewed_ends_the_connection() {
    let (expired, _publisher, sender) = standing(SystemTime::now() + Duration::from_millis(20));
    let watching = tokio::spawn(expired.until_lost());
    assert_eq!(watching.await.unwrap().reason, "svid_expired");
    drop(sender);
}

/// The same connection, arriving at shop/web; of `db` or of nobody.
fn arriving(is_mesh: bool, documents: &str) -> (Standing, Publisher, watch::Sender<Arc<X509Svid>>) {
    let (mut standing, publisher, svid) = standing(SystemTime::now() + Duration::from_hours(1));
    let (source, destination) = ("192.0.2.7:9".parse().unwrap(), "10.0.0.2:80".parse().unwrap());
    standing.access = Some(Access { source, destination });
    standing.peer = standing.peer.filter(|_| is_mesh);
    publisher.publish(state(documents));
    (standing, publisher, svid)
}

async fn refused(is_mesh: bool, documents: &str) -> Option<(&'static str, Option<String>)> {
    let (standing, _publisher, _svid) = arriving(is_mesh, documents);
    let id = SpiffeId::parse("spiffe://test/web").unwrap();
    let (source, destination) = ("192.0.2.7:9".parse().unwrap(), "10.0.0.2:80".parse().unwrap());
    let started = std::time::Instant::now();
    let mut summary = ConnectionSummary::new(Direction::Inbound, source, destination, id, started);
    let Err(end) = standing.admit(&mut summary, &Metrics::new(Views::none())).await else { return None };
    let End::Denied(reason) = end else { panic!("{end:?}") };
    Some((reason, summary.policy.map(|policy| policy.to_string())))
}

#[tokio::test]
async fn a_policy_refuses_what_arrives() {
    let db_only = "WEBPOLICY {rules: [{from: [{source: {principals: [test/db]}}]}]}";
    let denied = Some(("policy", Some("shop/p".to_owned())));
    assert_eq!(refused(true, "WEB").await, None);
    assert_eq!(refused(true, db_only).await, None);
    assert_eq!(refused(true, "WEBPOLICY {}").await, denied);
    assert_eq!(refused(false, &format!("MODE{db_only}")).await, Some(("plaintext_refused", Some("shop/m".to_owned()))));
    assert_eq!(refused(true, "").await, Some(("withdrawn", None)));
}

#[tokio::test]
async fn a_live_connection_falls_with_a_new_policy() {
    let (standing, publisher, _svid) = arriving(true, "WEB");
    let watching = tokio::spawn(standing.until_lost());
    publisher.publish(state("WEBPOLICY {action: DENY, rules: [{}]}"));
    let lost = watching.await.unwrap();
    assert_eq!((lost.reason, lost.policy.unwrap().as_str()), ("policy", "shop/p"));
}

#[test]
fn plaintext_that_is_older_than_strict_falls_unless_it_may_stay() {
    let check = |settings: &str, lives| {
        let (standing, _publisher, _svid) = arriving(false, &format!("{settings}WEB"));
        standing.judge(&standing.store.snapshot(), SystemTime::now(), lives).err().map(|(lost, _)| lost.reason)
    };
    let keep = "  existingConnections: Keep\n";
    assert_eq!([check("", true), check("", false), check(keep, false)], [Some("plaintext_refused"); 3]);
    assert_eq!(check(keep, true), None);
}

#[test]
fn a_connection_is_looked_at_again_when_its_hours_end() {
    let now = UNIX_EPOCH + Duration::from_secs(1_795_435_200);
    let (standing, _publisher, _svid) =
        arriving(false, "WEBPOLICY {rules: [{when: [{time: {from: '08:00', to: '12:30'}}]}]}");
    let until = standing.holds_until(&standing.store.snapshot(), now);
    assert_eq!(until, Some(now + Duration::from_mins(30)));
}
