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
        self.answered |= has_answered(failure);
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
        self.answered |= has_answered(issued.as_ref().err());
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

/// A refusal is an answer too.
fn has_answered(failure: Option<&IssueError>) -> bool {
    matches!(failure, None | Some(IssueError::Refused(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_issuer_that_refuses_has_answered_and_one_that_is_away_has_not() {
        let mut health = Health::default();
        let away = || IssueError::Unavailable("away".into());
        health.note(Some(&away()), SystemTime::UNIX_EPOCH);
        health.count::<()>(&Err(away()));
        assert!(!health.view().issuer_answered);
        health.count::<()>(&Err(IssueError::Refused("not this node's".to_owned())));
        assert!(health.view().issuer_answered);
    }
}
