//! Watches whether both ends of a mesh connection keep their standing, from the end of the handshake on.
//!
//! TLS looks at certificates once, and not at all when it resumes a session. What happens to an identity afterwards ends
//! its connections here: a revocation of either end, and that this node holds no valid SVID of its own workload any more.
//! That the *peer's* SVID expires is its own agent's to notice: TLS 1.3 can't show a new one on a live connection.

use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::sleep;

use super::listed::Listed;
use super::listener::PodProxy;
use crate::model::revocation::{CertificateId, Serial};
use crate::model::spiffe::SpiffeId;
use crate::model::svid::{Trust, X509Svid};
use crate::store::Store;
use crate::telemetry::{End, Tls};

/// The longest sleep: timers stand still while a machine sleeps, and don't see that its clock was set.
const MAX_SLEEP: Duration = Duration::from_mins(1);

/// The two ends of one connection, and where news of them comes from.
pub(super) struct Standing {
    store: Store,
    svid: watch::Receiver<Arc<X509Svid>>,
    trust: watch::Receiver<Arc<Trust>>,
    listed: Arc<Listed>,
    own: (SpiffeId, Serial),
    peer: SpiffeId,
    chain: Arc<[CertificateId]>,
}

impl Standing {
    /// Of a session that has just been authenticated.
    pub(super) fn of(pod: &PodProxy, tls: &Tls) -> Self {
        let svid = pod.contexts.svid();
        let own = (pod.workload.identity.clone(), svid.borrow().serial.clone());
        let (store, trust, listed) =
            (pod.shared.store.clone(), pod.shared.trust.clone(), Arc::clone(&pod.shared.listed));
        Self { store, svid, trust, listed, own, peer: tls.peer.clone(), chain: Arc::clone(&tls.chain) }
    }

    /// Refuses the session if an end has no standing even now.
    pub(super) fn admit(&self) -> Result<(), End> {
        match self.lost(SystemTime::now()) {
            Some(reason) => Err(End::Denied(self.audited(reason))),
            None => Ok(()),
        }
    }

    /// Returns, with the reason, once an end has lost its standing.
    pub(super) async fn until_lost(mut self) -> &'static str {
        loop {
            let now = SystemTime::now();
            if let Some(reason) = self.lost(now) {
                return self.audited(reason);
            }
            let left = self.svid.borrow().not_after.duration_since(now).unwrap_or_default();
            tokio::select! {
                () = self.store.changed() => {}
                () = renewed(&mut self.svid) => {}
                () = sleep((left + Duration::from_millis(1)).min(MAX_SLEEP)) => {}
            }
        }
    }

    fn lost(&self, now: SystemTime) -> Option<&'static str> {
        let (state, trust) = (self.store.snapshot(), Arc::clone(&self.trust.borrow()));
        let (own, own_serial) = &self.own;
        // CAs' lists are for those who are shown a certificate: the peer's agent looks at ours.
        if state.revokes(own, own_serial)
            || state.revokes(&self.peer, self.peer_serial())
            || self.listed.has(&state, &trust, &self.chain)
        {
            return Some("revoked");
        }
        (!self.svid.borrow().is_valid_at(now)).then_some("svid_expired")
    }

    fn peer_serial(&self) -> &Serial {
        &self.chain[0].serial
    }

    fn audited(&self, reason: &'static str) -> &'static str {
        let ((own, own_serial), (peer, peer_serial)) = (&self.own, (&self.peer, self.peer_serial()));
        tracing::warn!(
            target: "audit",
            reason,
            workload.id = %own,
            workload.serial = %own_serial,
            peer.id = %peer,
            peer.serial = %peer_serial,
            "connection without standing"
        );
        reason
    }
}

/// Waits for the next SVID; for ever when nobody rotates it any more.
async fn renewed(svid: &mut watch::Receiver<Arc<X509Svid>>) {
    if svid.changed().await.is_err() {
        pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{SourceFile, parse};
    use crate::model::revocation::IssuerName;
    use crate::model::svid::TrustBundle;
    use crate::state::MeshState;
    use crate::store::{Publisher, channel};
    use std::time::UNIX_EPOCH;

    fn state(revocation: &str) -> MeshState {
        let head = "apiVersion: mesh.hauberk.dev/v1alpha1\nkind:";
        let text = format!(
            "{head} Mesh\nmetadata: {{name: mesh}}\nspec:\n  trustDomain: test\n  \
             issuer: {{embedded: {{certificate: ca.crt, key: ca.key}}}}\n{revocation}"
        );
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
        let (publisher, store) = channel(state(""));
        let (sender, svid) = watch::channel(svid(not_after));
        let end = |id, serial| (SpiffeId::parse(id).unwrap(), Serial::parse(serial).unwrap());
        let (own, (peer, serial)) = (end("spiffe://test/web", "aa"), end("spiffe://test/db", "bb"));
        let chain = Arc::new([CertificateId { issuer: IssuerName::from_der(b""), serial }]);
        let bundle = Arc::new(TrustBundle { trust_domain: own.0.trust_domain().clone(), roots: Vec::new() });
        let trust = watch::channel(Arc::new(Trust { bundle, signer: String::new() })).1;
        (Standing { store, svid, trust, listed: Arc::default(), own, peer, chain }, publisher, sender)
    }

    #[test]
    fn either_end_loses_its_standing_by_identity_or_serial_number() {
        let (standing, publisher, _svid) = standing(UNIX_EPOCH + Duration::from_secs(9));
        let check = |revocation, now| {
            publisher.publish(state(revocation));
            standing.lost(UNIX_EPOCH + Duration::from_secs(now))
        };
        assert_eq!(check("", 9), None);
        assert_eq!(check("REVOKE {spiffeIds: [spiffe://test/db]}", 9), Some("revoked"));
        assert_eq!(check("REVOKE {spiffeIds: [spiffe://test/web]}", 9), Some("revoked"));
        assert_eq!(check("REVOKE {serials: ['aa']}", 9), Some("revoked"));
        assert_eq!(check("REVOKE {serials: ['bb']}", 9), Some("revoked"));
        assert_eq!(check("REVOKE {spiffeIds: [spiffe://test/other], serials: ['cc']}", 9), None);
        assert_eq!(check("", 10), Some("svid_expired"));
    }

    #[tokio::test]
    async fn a_live_connection_hears_of_it() {
        let (standing, publisher, _svid) = standing(SystemTime::now() + Duration::from_hours(1));
        let watching = tokio::spawn(standing.until_lost());
        publisher.publish(state("REVOKE {serials: ['bb']}"));
        assert_eq!(watching.await.unwrap(), "revoked");
    }

    #[tokio::test]
    async fn an_svid_that_is_not_renewed_ends_the_connection() {
        let (expired, _publisher, sender) = standing(SystemTime::now() + Duration::from_millis(20));
        let watching = tokio::spawn(expired.until_lost());
        assert_eq!(watching.await.unwrap(), "svid_expired");
        drop(sender);
    }
}
