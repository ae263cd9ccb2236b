//! Holds the SVIDs of this node's workloads and rotates them.
//!
//! Users get a `watch` receiver and always see the newest SVID; connections keep the `Arc` they began with. An identity
//! is rotated for as long as somebody holds a receiver. When rotation fails the old SVID stays, also beyond its end:
//! users ask [`X509Svid::is_valid_at`]. Nothing is written anywhere.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, watch};

use super::key::{SecretKey, jitter};
use super::{IssueError, Issuer, schedule};
use crate::model::spiffe::SpiffeId;
use crate::model::svid::{TrustBundle, X509Svid};

/// The longest sleep: timers stand still while a machine sleeps and don't see that its clock was set.
const MAX_SLEEP: Duration = Duration::from_mins(1);

/// The SVIDs of this node.
pub struct SvidManager<I> {
    issuer: I,
    entries: Mutex<HashMap<SpiffeId, Entry>>,
    added: Notify,
}

struct Entry {
    svid: watch::Sender<Arc<X509Svid>>,
    due: SystemTime,
    /// Failed rotations in a row.
    failures: u32,
}

impl<I: Issuer> SvidManager<I> {
    /// Starts with no SVIDs.
    pub fn new(issuer: I) -> Self {
        Self { issuer, entries: Mutex::default(), added: Notify::new() }
    }

    /// The SVID of `id`: issued now if it is new, else the one at hand. It is rotated for as long as a receiver lives.
    pub async fn svid(&self, id: &SpiffeId, now: SystemTime) -> Result<watch::Receiver<Arc<X509Svid>>, IssueError> {
        if let Some(entry) = self.entries().get(id) {
            return Ok(entry.svid.subscribe());
        }
        let svid = self.issue(id, now).await?;
        let entry = Entry {
            due: schedule::rotate_at(now, svid.not_after, jitter()),
            svid: watch::Sender::new(Arc::new(svid)),
            failures: 0,
        };
        // Somebody else may have been faster meanwhile; then theirs is the one.
        let receiver = self.entries().entry(id.clone()).or_insert(entry).svid.subscribe();
        self.added.notify_one();
        Ok(receiver)
    }

    /// The issuer's roots.
    pub fn trust_bundle(&self) -> Arc<TrustBundle> {
        self.issuer.trust_bundle()
    }

    /// When the first SVID expires; `None` without any.
    pub fn next_expiry(&self) -> Option<SystemTime> {
        self.entries().values().map(|entry| entry.svid.borrow().not_after).min()
    }

    /// Rotates SVIDs when they are due, for ever.
    pub async fn run(&self) {
        loop {
            let next = self.rotate_due(SystemTime::now()).await;
            let until_next = next.and_then(|next| next.duration_since(SystemTime::now()).ok());
            let wait = if next.is_some() { until_next.unwrap_or_default().min(MAX_SLEEP) } else { MAX_SLEEP };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.added.notified() => {}
            }
        }
    }

    /// Rotates what is due at `now`, forgets what nobody uses, and says when the next is due.
    async fn rotate_due(&self, now: SystemTime) -> Option<SystemTime> {
        for id in self.due(now) {
            let issued = self.issue(&id, now).await;
            if let Some(entry) = self.entries().get_mut(&id) {
                entry.apply(&id, issued, now);
            }
        }
        self.entries().values().map(|entry| entry.due).min()
    }

    fn due(&self, now: SystemTime) -> Vec<SpiffeId> {
        let mut entries = self.entries();
        entries.retain(|_, entry| entry.svid.receiver_count() > 0);
        entries.iter().filter(|(_, entry)| entry.due <= now).map(|(id, _)| id.clone()).collect()
    }

    async fn issue(&self, id: &SpiffeId, now: SystemTime) -> Result<X509Svid, IssueError> {
        let key = SecretKey::generate().map_err(|source| IssueError::Sign { id: id.clone(), source })?;
        let issued = self.issuer.issue(id, key.public_key(), now).await?;
        Ok(X509Svid {
            id: id.clone(),
            chain: issued.certificates,
            private_key: key.to_pkcs8(),
            serial: issued.serial,
            not_before: issued.not_before,
            not_after: issued.not_after,
        })
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<SpiffeId, Entry>> {
        // The map is whole after every statement, so a panic elsewhere leaves nothing half done.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn apply(&mut self, id: &SpiffeId, issued: Result<X509Svid, IssueError>, now: SystemTime) {
        match issued {
            Ok(svid) => {
                tracing::info!(svid.id = %id, svid.serial = %svid.serial, "svid rotated");
                self.due = schedule::rotate_at(now, svid.not_after, jitter());
                self.failures = 0;
                self.svid.send_replace(Arc::new(svid));
            }
            Err(error) => {
                self.failures = self.failures.saturating_add(1);
                let wait = schedule::retry_after(self.failures, jitter());
                self.due = now + wait;
                let error: &dyn std::error::Error = &error;
                tracing::warn!(svid.id = %id, error, failures = self.failures, "svid rotation failed");
            }
        }
    }
}

#[cfg(test)]
mod tests;
