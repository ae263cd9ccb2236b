//! Publishes the current snapshot: sources write, everybody else reads or waits for a newer one.

use std::sync::Arc;

use tokio::sync::watch;

use crate::state::MeshState;

/// The writing end.
#[derive(Debug)]
pub struct Publisher(watch::Sender<Arc<MeshState>>);

/// The reading end; clones share.
#[derive(Clone, Debug)]
pub struct Store(watch::Receiver<Arc<MeshState>>);

/// Starts with a first snapshot.
pub fn channel(first: MeshState) -> (Publisher, Store) {
    let (sender, receiver) = watch::channel(Arc::new(first));
    (Publisher(sender), Store(receiver))
}

impl Publisher {
    /// The snapshot that was published last.
    pub fn snapshot(&self) -> Arc<MeshState> {
        Arc::clone(&self.0.borrow())
    }

    /// Replaces the snapshot.
    pub fn publish(&self, next: MeshState) {
        self.0.send_replace(Arc::new(next));
    }
}

impl Store {
    /// The newest snapshot.
    pub fn snapshot(&self) -> Arc<MeshState> {
        Arc::clone(&self.0.borrow())
    }

    /// Waits for a snapshot that this clone has not waited for yet; for ever when no publisher is left.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits for a snapshot that satisfies `wanted`, this one included; the newest as it is when no publisher is left.
    pub async fn wait_for(&self, mut wanted: impl FnMut(&MeshState) -> bool) -> Arc<MeshState> {
        let mut receiver = self.0.clone();
        let found = receiver.wait_for(|state| wanted(state)).await.map(|state| Arc::clone(&state));
        found.unwrap_or_else(|_closed| self.snapshot())
    }
}
