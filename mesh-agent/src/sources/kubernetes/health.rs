//! Whether what is known of the cluster is how the API server has it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The longest pause between two tries of a watch that fails. Pods that start after an outage wait for it.
pub(super) const LATEST: Duration = Duration::from_secs(10);
/// How long after its last failure a watch counts as failing: that pause, with jitter, and an answer that takes its time.
const CALM: Duration = Duration::from_secs(30);

/// Which watches fail. Clones share.
#[derive(Clone, Debug, Default)]
pub(super) struct Health(Arc<Mutex<HashMap<&'static str, Instant>>>);

impl Health {
    /// Whether all watches work, as far as can be told: one that works says nothing while there are no news.
    pub(super) fn is_good(&self) -> bool {
        self.lock().values().all(|failed| failed.elapsed() >= CALM)
    }

    /// A watch has failed just now.
    pub(super) fn failed(&self, what: &'static str) {
        self.lock().insert(what, Instant::now());
    }

    /// A watch has told news.
    pub(super) fn works(&self, what: &'static str) {
        self.lock().remove(what);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<&'static str, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_failed_is_trusted_again_when_it_tells_news_or_after_a_while() {
        let health = Health::default();
        assert!(health.is_good());
        health.failed("Pod");
        health.failed("Node");
        health.works("Pod");
        assert!(!health.is_good());
        advance(CALM).await;
        assert!(health.is_good());
    }
}
