//! Watches whether a connection keeps its standing, from the end of the handshake on.
//!
//! TLS looks at certificates once, and not at all when it resumes a session. What happens afterwards ends connections
//! here: a revocation of either end, that this node holds no valid SVID of its own workload any more, and inbound a policy
//! or a mode that no longer allows it, be it by a new configuration or by the hour.
//! That the *peer's* SVID expires is its own agent's to notice: TLS 1.3 can't show a new one on a live connection.

use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::sleep;

use super::listener::PodProxy;
use crate::model::mesh::MtlsMode;
use crate::model::policy::PolicyName;
use crate::model::revocation::Serial;
use crate::model::spiffe::SpiffeId;
use crate::model::svid::X509Svid;
use crate::model::workload::WorkloadUid;
use crate::policy::{Cause, Connection, Verdict};
use crate::state::MeshState;
use crate::store::Store;
use crate::telemetry::{ConnectionSummary, Direction, End};

/// The longest sleep: timers stand still while a machine sleeps, and don't see that its clock was set.
const MAX_SLEEP: Duration = Duration::from_mins(1);

/// The two ends of one connection, and where news of them comes from.
pub(super) struct Standing {
    store: Store,
    svid: watch::Receiver<Arc<X509Svid>>,
    own: (SpiffeId, Serial),
    /// `None`: plaintext.
    peer: Option<(SpiffeId, Serial)>,
    /// Inbound: policies are enforced where the connection arrives.
    access: Option<Access>,
}

/// What policies are asked.
struct Access {
    workload: WorkloadUid,
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
}

impl Lost {
    fn by(reason: &'static str) -> Self {
        Self { reason, policy: None, rule: None }
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
        let access = (summary.direction == Direction::Inbound).then(|| Access {
            workload: pod.workload.uid.clone(),
            source: summary.source,
            destination: summary.destination,
        });
        let peer = summary.tls.as_ref().map(|tls| (tls.peer.clone(), tls.serial.clone()));
        Self { store: pod.shared.store.clone(), svid, own, peer, access }
    }

    /// Refuses the connection if it has no standing even now; notes the policy that decided.
    pub(super) fn admit(&self, summary: &mut ConnectionSummary) -> Result<(), End> {
        let state = self.store.snapshot();
        let known = self.access.as_ref().is_none_or(|access| state.workload(&access.workload).is_some());
        let judged =
            if known { self.judge(&state, SystemTime::now()) } else { Err((Lost::by("unknown_workload"), Vec::new())) };
        match judged {
            Ok(Good { policy, audited }) => {
                audited.iter().for_each(|policy| self.matched(policy));
                summary.policy = policy;
                Ok(())
            }
            Err((lost, audited)) => {
                audited.iter().for_each(|policy| self.matched(policy));
                let Lost { reason, policy, .. } = self.audited(lost);
                summary.policy = policy;
                Err(End::Denied(reason))
            }
        }
    }

    /// Returns, with the reason, once the connection has lost its standing.
    pub(super) async fn until_lost(mut self) -> Lost {
        loop {
            let (now, state) = (SystemTime::now(), self.store.snapshot());
            if let Err((lost, _)) = self.judge(&state, now) {
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

    fn judge(&self, state: &MeshState, now: SystemTime) -> Result<Good, (Lost, Vec<PolicyName>)> {
        let lost = |reason| Err((Lost::by(reason), Vec::new()));
        if let Some(peer) = &self.peer {
            if [&self.own, peer].into_iter().any(|(id, serial)| state.revokes(id, serial)) {
                return lost("revoked");
            }
            if !self.svid.borrow().is_valid_at(now) {
                return lost("svid_expired");
            }
        }
        let Some(access) = &self.access else { return Ok(Good { policy: None, audited: Vec::new() }) };
        // No policy is for a workload that has left the mesh: what is open may end in its own time.
        if state.workload(&access.workload).is_none() {
            return Ok(Good { policy: None, audited: Vec::new() });
        }
        let mode = state.modes().of(&access.workload, access.destination.port());
        if self.peer.is_none() && mode.mode == MtlsMode::Strict {
            return Err((Lost { policy: mode.by.clone(), ..Lost::by("plaintext_refused") }, Vec::new()));
        }
        let connection = Connection {
            peer: self.peer.as_ref().map(|(id, _)| id),
            source: access.source.ip(),
            destination: access.destination,
            now,
        };
        let decision = state.policies().evaluate(&access.workload, &connection);
        match decision.verdict {
            Verdict::Allowed(by) => Ok(Good { policy: by.map(|by| by.policy), audited: decision.audited }),
            Verdict::Denied(Cause { policy, rule }) => {
                Err((Lost { reason: "policy", policy: Some(policy), rule }, decision.audited))
            }
        }
    }

    /// When the connection may lose its standing by time alone.
    fn holds_until(&self, state: &MeshState, now: SystemTime) -> Option<SystemTime> {
        let svid = self.peer.is_some().then(|| self.svid.borrow().not_after);
        let policies = self.access.as_ref().and_then(|access| state.policies().holds_until(&access.workload, now));
        svid.into_iter().chain(policies).min()
    }

    fn audited(&self, lost: Lost) -> Lost {
        let (own, own_serial) = &self.own;
        tracing::warn!(
            target: "audit",
            reason = lost.reason,
            policy = lost.policy.as_ref().map(tracing::field::display),
            policy.rule = lost.rule,
            workload.id = %own,
            workload.serial = %own_serial,
            peer.id = self.peer.as_ref().map(|(id, _)| tracing::field::display(id)),
            peer.serial = self.peer.as_ref().map(|(_, serial)| tracing::field::display(serial)),
            src.addr = self.access.as_ref().map(|access| tracing::field::display(access.source)),
            dst.addr = self.access.as_ref().map(|access| tracing::field::display(access.destination)),
            "connection without standing"
        );
        lost
    }

    fn matched(&self, policy: &PolicyName) {
        tracing::info!(
            target: "audit",
            reason = "audit_policy",
            policy = %policy,
            workload.id = %self.own.0,
            peer.id = self.peer.as_ref().map(|(id, _)| tracing::field::display(id)),
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
