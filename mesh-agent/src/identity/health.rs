//! Whether the issuer answers, since when it doesn't, and how often it did.
//!
//! An outage is invisible to traffic for as long as SVIDs live, so it has to be seen here first.

use std::time::SystemTime;

use super::IssueError;
use crate::telemetry::metrics::IdentityView;

#[derive(Debug, Default)]
pub(super) struct Health {
    failing_since: Option<SystemTime>,
    answered: bool,
    issued: u64,
    failed: u64,
}

impl Health {
    /// Notes how asking for news went; the log hears of the first failure and of the end.
    pub(super) fn note(&mut self, failure: Option<&IssueError>, now: SystemTime) {
        self.answered |= failure.is_none();
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
        // A refusal may be the node's own: whoever was never let in has no issuer.
        self.answered |= issued.is_ok();
        match issued {
            Ok(_) => self.issued += 1,
            Err(_) => self.failed += 1,
        }
    }

    /// What it knows; the rest is as without SVIDs and roots.
    pub(super) fn view(&self) -> IdentityView {
        let Self { failing_since, answered, issued, failed } = *self;
        IdentityView {
            issuer_answered: answered,
            issuer_failing_since: failing_since,
            issued,
            failed,
            ..IdentityView::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_issuer_has_answered_once_it_gave_its_roots_or_an_svid() {
        let mut health = Health::default();
        health.note(Some(&IssueError::Unavailable("away".into())), SystemTime::UNIX_EPOCH);
        health.count::<()>(&Err(IssueError::Refused("the token is nobody's".to_owned())));
        assert!(!health.view().issuer_answered);
        health.note(None, SystemTime::UNIX_EPOCH);
        assert!(health.view().issuer_answered);
        let mut health = Health::default();
        health.count(&Ok(()));
        assert!(health.view().issuer_answered);
    }
}
