//! Whether the issuer answers, since when it doesn't, and how often it did.
//!
//! An outage is invisible to traffic for as long as SVIDs live, so it has to be seen here first.

use std::time::SystemTime;

use super::IssueError;
use crate::telemetry::metrics::IdentityView;

#[derive(Debug, Default)]
pub(super) struct Health {
    failing_since: Option<SystemTime>,
    issued: u64,
    failed: u64,
}

impl Health {
    /// Notes how asking for news went; the log hears of the first failure and of the end.
    pub(super) fn note(&mut self, failure: Option<&IssueError>, now: SystemTime) {
        match (failure, self.failing_since) {
            (Some(error), None) => {
                let error: &dyn std::error::Error = error;
                tracing::warn!(error, "the issuer is out of order; SVIDs at hand stay in use");
                self.failing_since = Some(now);
            }
            (None, Some(since)) => {
                let seconds = now.duration_since(since).unwrap_or_default().as_secs();
                tracing::info!(outage.seconds = seconds, "the issuer answers again");
                self.failing_since = None;
            }
            _ => {}
        }
    }

    /// Counts an attempt to get an SVID.
    pub(super) fn count<T>(&mut self, issued: &Result<T, IssueError>) {
        match issued {
            Ok(_) => self.issued += 1,
            Err(_) => self.failed += 1,
        }
    }

    pub(super) fn view(&self, next_expiry: Option<SystemTime>, trust_roots: usize) -> IdentityView {
        let Self { failing_since, issued, failed } = *self;
        IdentityView { next_expiry, issuer_failing_since: failing_since, issued, failed, trust_roots }
    }
}
