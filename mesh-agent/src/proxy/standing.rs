//! Watches whether a connection keeps its standing, from the end of the handshake on.
//!
//! TLS looks at certificates once, and not at all when it resumes a session. What happens afterwards ends connections
//! here: a revocation of either end, that this node holds no valid SVID of its own workload any more or runs it no more
//! under that identity, and inbound a policy or a mode that no longer allows it, be it by a new configuration or by the hour.
//! That the *peer's* SVID expires is its own agent's to notice: TLS 1.3 can't show a new one on a live connection.

use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::sleep;

use super::listed::Listed;
use super::listener::PodProxy;
use super::rego::{Decision, NO_ANSWER, Rego};
use crate::model::mesh::{ExistingConnections, MtlsMode};
use crate::model::policy::PolicyName;
use crate::model::revocation::{CertificateId, Serial};
use crate::model::spiffe::SpiffeId;
use crate::model::svid::{Trust, X509Svid};
use crate::model::workload::WorkloadUid;
use crate::policy::{Cause, Connection, Verdict};
use crate::state::{MeshState, rego_input};
use crate::store::Store;
use crate::telemetry::{ConnectionSummary, Direction, End, Metrics, Refusal};

/// The longest sleep: timers stand still while a machine sleeps, and don't see that its clock was set.
const MAX_SLEEP: Duration = Duration::from_mins(1);

/// Under which a decision in Rego is counted; no document has such a name.
const REGO: &str = "(rego)";

/// Live connections are asked about no more often.
const MIN_RECHECK: Duration = Duration::from_secs(1);

/// The two ends of one connection, and where news of them comes from.
pub(super) struct Standing {
    store: Store,
    svid: watch::Receiver<Arc<X509Svid>>,
    trust: watch::Receiver<Arc<Trust>>,
    listed: Arc<Listed>,
    rego: Arc<Rego>,
    workload: WorkloadUid,
    own: (SpiffeId, Serial),
    /// `None`: plaintext.
    peer: Option<Peer>,
    /// Inbound: policies are enforced where the connection arrives.
    access: Option<Access>,
}

/// Who the other end has proven to be.
struct Peer {
    id: SpiffeId,
    /// The certificates that prove it, leaf first. Never empty.
    chain: Arc<[CertificateId]>,
}

impl Peer {
    fn serial(&self) -> &Serial {
        &self.chain[0].serial
    }
}

/// What policies are asked.
struct Access {
    source: SocketAddr,
    destination: SocketAddr,
}

/// Why a connection has no standing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Lost {
    /// The label in logs and metrics.
    pub(super) reason: &'static str,
    /// The policy that says so.
    pub(super) policy: Option<PolicyName>,
    rule: Option<usize>,
    rego: Option<Box<Decision>>,
}

impl Lost {
    fn by(reason: &'static str) -> Self {
        Self { reason, policy: None, rule: None, rego: None }
    }

    /// Counts the decision, if a document or a policy in Rego made it.
    pub(super) fn count(&self, metrics: &Metrics) {
        let asked = self.rego.as_ref().map(|_| REGO);
        if let Some(by) = self.policy.as_ref().map(PolicyName::as_str).or(asked) {
            metrics.decided("deny", Some(by));
        }
    }
}

/// A connection that has standing.
struct Good {
    /// The ALLOW policy that it matches.
    policy: Option<PolicyName>,
    /// The AUDIT policies that it matches.
    audited: Vec<PolicyName>,
}

impl Standing {
    /// Of a connection whose peer is known by now, if it has one.
    pub(super) fn of(pod: &PodProxy, summary: &ConnectionSummary) -> Self {
        let svid = pod.contexts.svid();
        let own = (pod.workload.identity.clone(), svid.borrow().serial.clone());
        let access = (summary.direction == Direction::Inbound)
            .then_some(Access { source: summary.source, destination: summary.destination });
        let peer = summary.tls.as_ref().map(|tls| Peer { id: tls.peer.clone(), chain: Arc::clone(&tls.chain) });
        let (shared, workload) = (&pod.shared, pod.workload.uid.clone());
        let (store, trust, listed) = (shared.store.clone(), shared.trust.clone(), Arc::clone(&shared.listed));
        let rego = Arc::clone(&shared.rego);
        Self { store, svid, trust, listed, rego, workload, own, peer, access }
    }

    /// Refuses the connection if it has no standing even now; notes the policy that decided.
    pub(super) async fn admit(&self, summary: &mut ConnectionSummary, metrics: &Metrics) -> Result<(), End> {
        let (state, now) = (self.store.snapshot(), SystemTime::now());
        let judged = match self.judge(&state, now, false) {
            Ok(good) => match self.ask(&state, now).await {
                Ok(()) => Ok(good),
                Err(lost) => Err((lost, good.audited)),
            },
            lost => lost,
        };
        match judged {
            Ok(Good { policy, audited }) => {
                audited.iter().for_each(|policy| self.matched(policy, metrics));
                if self.access.is_some() {
                    metrics.decided("allow", policy.as_ref().map(PolicyName::as_str));
                }
                summary.policy = policy;
                Ok(())
            }
            Err((lost, audited)) => {
                audited.iter().for_each(|policy| self.matched(policy, metrics));
                lost.count(metrics);
                let Lost { reason, policy, rule, rego } = lost;
                summary.policy = policy;
                let decision =
                    rego.map(|decision| (decision.id.to_string(), decision.detail.as_deref().map(str::to_owned)));
                summary.refusal = Some(Refusal { own_serial: self.own.1.clone(), rule, decision });
                Err(End::Denied(reason))
            }
        }
    }

    /// Returns, with the reason, once the connection has lost its standing.
    pub(super) async fn until_lost(mut self) -> Lost {
        loop {
            let (now, state) = (SystemTime::now(), self.store.snapshot());
            if let Err((lost, _)) = self.judge(&state, now, true) {
                return self.audited(lost);
            }
            // That nobody answers is no denial: what was allowed outlives an outage, and only new connections are refused.
            if let Err(lost) = self.ask(&state, now).await
                && lost.reason != NO_ANSWER
            {
                return self.audited(lost);
            }
            let left = self.holds_until(&state, now).and_then(|until| until.duration_since(now).ok());
            // Held, a snapshot would live as long as the connection.
            drop(state);
            tokio::select! {
                () = self.store.changed() => {}
                () = renewed(&mut self.svid) => {}
                () = sleep(left.map_or(MAX_SLEEP, |left| (left + Duration::from_millis(1)).min(MAX_SLEEP))) => {}
            }
        }
    }

    /// `lives`: it was admitted before.
    fn judge(&self, state: &Arc<MeshState>, now: SystemTime, lives: bool) -> Result<Good, (Lost, Vec<PolicyName>)> {
        let lost = |reason| Err((Lost::by(reason), Vec::new()));
        if let Some(peer) = &self.peer {
            let (own, own_serial) = &self.own;
            // CAs' lists are for those who are shown a certificate: the peer's agent looks at ours.
            if state.revokes(own, own_serial)
                || state.revokes(&peer.id, peer.serial())
                || self.listed.has(state, &self.trust.borrow(), &peer.chain)
            {
                return lost("revoked");
            }
            if state.workload(&self.workload).is_none_or(|workload| workload.identity != *own) {
                return lost("withdrawn");
            }
            if !self.svid.borrow().is_valid_at(now) {
                return lost("svid_expired");
            }
        }
        let Some(access) = &self.access else { return Ok(Good { policy: None, audited: Vec::new() }) };
        let mode = state.modes().of(&self.workload, access.destination.port());
        let stays = lives && state.mesh().existing == ExistingConnections::Keep;
        if self.peer.is_none() && mode.mode == MtlsMode::Strict && !stays {
            return Err((Lost { policy: mode.by, ..Lost::by("plaintext_refused") }, Vec::new()));
        }
        let connection = Connection {
            peer: self.peer.as_ref().map(|peer| &peer.id),
            source: access.source.ip(),
            destination: access.destination,
            now,
        };
        let decision = state.policies().evaluate(&self.workload, &connection);
        match decision.verdict {
            Verdict::Allowed(by) => Ok(Good { policy: by.map(|by| by.policy), audited: decision.audited }),
            Verdict::Denied(Cause { policy, rule }) => {
                Err((Lost { policy: Some(policy), rule, ..Lost::by("policy") }, decision.audited))
            }
        }
    }

    /// Asks in Rego about what our own policies allow.
    async fn ask(&self, state: &MeshState, now: SystemTime) -> Result<(), Lost> {
        let (Some(settings), Some(access)) = (state.rego(), &self.access) else { return Ok(()) };
        let peer = self.peer.as_ref().map(|peer| &peer.id);
        let input = rego_input(state, &self.workload, peer, access.source.ip(), access.destination);
        let decision = self.rego.decide(settings, &input, now).await;
        if decision.allow {
            if decision.reason == NO_ANSWER {
                let (id, why) = (&*decision.id, decision.detail.as_deref());
                tracing::warn!(target: "audit", { decision.id = id, decision.reason = why }, "allowed without an answer");
            }
            Ok(())
        } else {
            Err(Lost { rego: Some(Box::new(decision.clone())), ..Lost::by(decision.reason) })
        }
    }

    /// When the connection may lose its standing by time alone.
    fn holds_until(&self, state: &MeshState, now: SystemTime) -> Option<SystemTime> {
        let svid = self.peer.is_some().then(|| self.svid.borrow().not_after);
        let policies = self.access.as_ref().and_then(|_| state.policies().holds_until(&self.workload, now));
        // What an OPA server or the hour says may change with nobody telling.
        let rego = self.access.as_ref().and(state.rego()).map(|settings| now + settings.cache_for.max(MIN_RECHECK));
        svid.into_iter().chain(policies).chain(rego).min()
    }

    fn audited(&self, lost: Lost) -> Lost {
        let (own, own_serial) = &self.own;
        tracing::warn!(
            target: "audit",
            reason = lost.reason,
            policy = lost.policy.as_ref().map(tracing::field::display),
            policy.rule = lost.rule,
            decision.id = lost.rego.as_ref().map(|decision| &*decision.id),
            decision.reason = lost.rego.as_ref().and_then(|decision| decision.detail.as_deref()),
            workload.id = %own,
            workload.serial = %own_serial,
            peer.id = self.peer.as_ref().map(|peer| tracing::field::display(&peer.id)),
            peer.serial = self.peer.as_ref().map(|peer| tracing::field::display(peer.serial())),
            src.addr = self.access.as_ref().map(|access| tracing::field::display(access.source)),
            dst.addr = self.access.as_ref().map(|access| tracing::field::display(access.destination)),
            "connection without standing"
        );
        lost
    }

    fn matched(&self, policy: &PolicyName, metrics: &Metrics) {
        metrics.decided("audit", Some(policy.as_str()));
        tracing::info!(
            target: "audit",
            reason = "audit_policy",
            policy = %policy,
            workload.id = %self.own.0,
            peer.id = self.peer.as_ref().map(|peer| tracing::field::display(&peer.id)),
            src.addr = self.access.as_ref().map(|access| tracing::field::display(access.source)),
            dst.addr = self.access.as_ref().map(|access| tracing::field::display(access.destination)),
            "connection matches an AUDIT policy"
        );
    }
}

/// Waits for the next SVID; for ever when nobody rotates it any more.
async fn renewed(svid: &mut watch::Receiver<Arc<X509Svid>>) {
    if svid.changed().await.is_err() {
        pending::<()>().await;
    }
}

#[cfg(test)]
mod tests;
