//! Holds the SVIDs of this node's workloads and rotates them.
//!
//! Users get a `watch` receiver and always see the newest SVID; connections keep the `Arc` they began with. An identity
//! is rotated for as long as somebody holds a receiver. When rotation fails the old SVID stays, also beyond its end:
//! users ask [`X509Svid::is_valid_at`]. Nothing is written anywhere.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::StreamExt as _;
use futures_util::stream;
use tokio::sync::{Notify, watch};

use super::health::Health;
use super::key::{SecretKey, jitter};
use super::{IssueError, Issuer, ca, schedule};
use crate::model::spiffe::SpiffeId;
use crate::model::svid::{Trust, X509Svid};
use crate::telemetry::metrics::IdentityView;

/// The longest sleep: timers stand still while a machine sleeps and don't see that its clock was set.
const MAX_SLEEP: Duration = Duration::from_mins(1);
/// How many SVIDs are asked for at once. Those that expire first come first.
const AT_ONCE: usize = 8;

/// The SVIDs of this node.
pub struct SvidManager {
    issuer: Arc<dyn Issuer>,
    trust: watch::Receiver<Arc<Trust>>,
    entries: Mutex<HashMap<SpiffeId, Entry>>,
    health: Mutex<Health>,
    added: Notify,
}

struct Entry {
    svid: watch::Sender<Arc<X509Svid>>,
    due: SystemTime,
    /// Failed rotations in a row.
    failures: u32,
    /// Who signed it.
    signer: String,
}

impl SvidManager {
    /// Starts with no SVIDs.
    pub fn new(issuer: Arc<dyn Issuer>) -> Self {
        let trust = issuer.trust();
        Self { issuer, trust, entries: Mutex::default(), health: Mutex::default(), added: Notify::new() }
    }

    /// The SVID of `id`: issued now if it is new, else the one at hand. It is rotated for as long as a receiver lives.
    pub async fn svid(&self, id: &SpiffeId, now: SystemTime) -> Result<watch::Receiver<Arc<X509Svid>>, IssueError> {
        if let Some(entry) = self.entries().get(id) {
            return Ok(entry.svid.subscribe());
        }
        let (signer, issued) = self.issue(id, now).await;
        let svid = issued?;
        tracing::info!(target: "audit", { svid.id = %id, svid.serial = %svid.serial }, "svid issued");
        let entry = Entry {
            due: schedule::rotate_at(now, svid.not_after, jitter()),
            svid: watch::Sender::new(Arc::new(svid)),
            failures: 0,
            signer,
        };
        // Somebody else may have been faster meanwhile; then theirs is the one.
        let receiver = self.entries().entry(id.clone()).or_insert(entry).svid.subscribe();
        self.added.notify_one();
        Ok(receiver)
    }

    /// The issuer's roots, always the newest.
    pub fn trust(&self) -> watch::Receiver<Arc<Trust>> {
        self.trust.clone()
    }

    /// The SVIDs of now, by identity.
    pub fn held(&self) -> Vec<Arc<X509Svid>> {
        let mut held: Vec<_> = self.entries().values().map(|entry| Arc::clone(&entry.svid.borrow())).collect();
        held.sort_by_key(|svid| svid.id.to_string());
        held
    }

    /// How issuing goes.
    pub fn view(&self) -> IdentityView {
        let first = self.held().into_iter().min_by_key(|svid| svid.not_after);
        let bundle = Arc::clone(&self.trust.borrow().bundle);
        IdentityView {
            next_expiry: first.as_ref().map(|svid| svid.not_after),
            next_lifetime: first.and_then(|svid| svid.not_after.duration_since(svid.not_before).ok()),
            root_expiry: bundle.roots.iter().filter_map(|root| Some(ca::validity(root).ok()?.not_after)).min(),
            trust_roots: bundle.roots.len(),
            ..self.health().view()
        }
    }

    /// Rotates SVIDs when they are due, and asks the issuer for news every `refresh`, for ever.
    pub async fn run(&self, refresh: Duration) {
        let watching = async {
            let mut timer = tokio::time::interval(refresh);
            loop {
                timer.tick().await;
                self.refresh(SystemTime::now()).await;
            }
        };
        tokio::join!(watching, self.rotate());
    }

    async fn rotate(&self) {
        let mut trust = self.trust.clone();
        loop {
            let next = self.rotate_due(SystemTime::now()).await;
            let until_next = next.and_then(|next| next.duration_since(SystemTime::now()).ok());
            let wait = if next.is_some() { until_next.unwrap_or_default().min(MAX_SLEEP) } else { MAX_SLEEP };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.added.notified() => {}
                // An issuer lives as long as this; if it didn't, nothing would ever change again.
                Ok(()) = trust.changed() => {}
            }
        }
    }

    /// Asks the issuer for new roots: this is also how an outage is seen while no SVID is due.
    async fn refresh(&self, now: SystemTime) {
        let refreshed = self.issuer.refresh(now).await;
        self.health().note(refreshed.as_ref().err(), now);
    }

    /// Rotates what is due at `now`, forgets what nobody uses, and says when the next is due.
    async fn rotate_due(&self, now: SystemTime) -> Option<SystemTime> {
        let due = self.due(now);
        stream::iter(&due)
            .for_each_concurrent(AT_ONCE, async |id| {
                let (signer, issued) = self.issue(id, now).await;
                if let Some(entry) = self.entries().get_mut(id) {
                    entry.apply(id, signer, issued, now);
                }
            })
            .await;
        self.entries().values().map(|entry| entry.due).min()
    }

    /// What is due, the next to expire first.
    fn due(&self, now: SystemTime) -> Vec<SpiffeId> {
        let signer = self.trust.borrow().signer.clone();
        let mut entries = self.entries();
        entries.retain(|_, entry| entry.svid.receiver_count() > 0);
        let mut due = Vec::new();
        for (id, entry) in entries.iter_mut() {
            let not_after = entry.svid.borrow().not_after;
            if entry.signer != signer {
                entry.due = entry.due.min(schedule::reissue_at(now, not_after, jitter()));
                entry.signer.clone_from(&signer);
            }
            if entry.due <= now {
                due.push((not_after, id.clone()));
            }
        }
        due.sort();
        due.into_iter().map(|(_, id)| id).collect()
    }

    /// Gets an SVID and says who was known to sign before: if that has changed meanwhile, it is issued once more.
    async fn issue(&self, id: &SpiffeId, now: SystemTime) -> (String, Result<X509Svid, IssueError>) {
        let signer = self.trust.borrow().signer.clone();
        let issued = self.ask(id, now).await;
        self.health().count(&issued);
        // The first contact with an issuer is also when its signer becomes known.
        let signer = if signer.is_empty() { self.trust.borrow().signer.clone() } else { signer };
        (signer, issued)
    }

    async fn ask(&self, id: &SpiffeId, now: SystemTime) -> Result<X509Svid, IssueError> {
        let key = SecretKey::generate().map_err(|source| IssueError::Sign { id: id.clone(), source })?;
        let issued = self.issuer.issue(id, &key, now).await?;
        Ok(issued.into_svid(id, &key))
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<SpiffeId, Entry>> {
        // The map is whole after every statement, so a panic elsewhere leaves nothing half done.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn apply(&mut self, id: &SpiffeId, signer: String, issued: Result<X509Svid, IssueError>, now: SystemTime) {
        match issued {
            Ok(svid) => {
                tracing::info!(target: "audit", { svid.id = %id, svid.serial = %svid.serial }, "svid rotated");
                self.due = schedule::rotate_at(now, svid.not_after, jitter());
                (self.failures, self.signer) = (0, signer);
                self.svid.send_replace(Arc::new(svid));
            }
            Err(error) => {
                self.failures = self.failures.saturating_add(1);
                self.due = now + schedule::retry_after(self.failures, jitter());
                let error: &dyn std::error::Error = &error;
                tracing::warn!(target: "audit", { svid.id = %id, error, failures = self.failures }, "svid rotation failed");
            }
        }
    }
}

#[cfg(test)]
mod tests;
