//! Ends the agent's connections in order: no new ones, time for the open ones, a reset for what is left.
//!
//! Owns every task of the proxies, so that the end of the last is known.

use std::future::Future;
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Resetting is a matter of one poll of each task.
const RESET_LIMIT: Duration = Duration::from_secs(2);

/// The tasks of the proxies; clones share.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    begun: CancellationToken,
    overdue: CancellationToken,
    tasks: TaskTracker,
}

impl Drain {
    /// Runs a task that takes part in the drain.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        drop(self.tasks.spawn(task));
    }

    /// Returns once no new connection shall be accepted.
    pub(super) async fn begun(&self) {
        self.begun.cancelled().await;
    }

    /// Whether the agent is about to end.
    pub fn has_begun(&self) -> bool {
        self.begun.is_cancelled()
    }

    /// Returns once an open connection shall be reset.
    pub(super) async fn overdue(&self) {
        self.overdue.cancelled().await;
    }

    /// Drains for `limit` at most, or until `impatient` resolves. Returns how many tasks had to be cut off.
    pub async fn run(&self, limit: Duration, impatient: impl Future) -> usize {
        self.begun.cancel();
        self.tasks.close();
        tokio::select! {
            ended = timeout(limit, self.tasks.wait()) => if ended.is_ok() { return 0 },
            _ = impatient => {}
        }
        let left = self.tasks.len();
        self.overdue.cancel();
        // Past this the process' end resets what is left.
        drop(timeout(RESET_LIMIT, self.tasks.wait()).await);
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;

    /// One task of a connection that ends by itself after `seconds`; how many are cut off by a drain of 10 s.
    async fn check(seconds: u64, impatient: impl Future) -> usize {
        let drain = Drain::default();
        let held = drain.clone();
        drain.spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(seconds)) => {}
                () = held.overdue() => {}
            }
        });
        drain.run(Duration::from_secs(10), impatient).await
    }

    #[tokio::test(start_paused = true)]
    async fn connections_get_their_time_and_not_more() {
        assert_eq!(check(9, pending::<()>()).await, 0);
        assert_eq!(check(11, pending::<()>()).await, 1);
        assert_eq!(check(9, async {}).await, 1);
    }
}
