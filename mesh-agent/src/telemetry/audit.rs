//! The audit log: what security events happened, in a form in which later changes show.
//!
//! Whoever has something to tell emits a `tracing` event with the target `audit`; its message names the event. [`layer`]
//! puts it into a bounded [`queue`], so that a slow disk never holds up a connection, and one thread ([`writer`]) seals
//! each into the chain of [`record`]s and signs its head now and then. [`verify`] reads the files back.
//!
//! What it withstands: whoever changes, removes or swaps lines is found by the chain alone. Whoever can rewrite the whole
//! file, or cut its end, is found only by a checkpoint that was kept elsewhere; so each is also logged (target
//! `checkpoint`). The signature says that an agent with this key wrote the checkpoint. The key lies beside the log: it
//! tells nothing against who is root on the node, from that moment on.

mod file;
mod key;
mod layer;
mod queue;
mod record;
#[cfg(test)]
mod tests;
pub mod verify;
mod writer;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

pub use key::CheckpointKey;
pub use layer::{AuditLayer, TARGET};
use queue::Queue;

/// Where the audit log goes, and how.
#[derive(Clone, Debug)]
pub struct AuditSettings {
    /// A file, or stdout.
    pub destination: Destination,
    /// A file of this size is set aside.
    pub max_bytes: u64,
    /// How many files that were set aside are kept.
    pub keep: usize,
    /// A checkpoint is signed this long after a record.
    pub checkpoint_every: Duration,
    /// Who writes: a node's name.
    pub node: String,
}

/// Where records go.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Destination {
    /// This file; older ones beside it.
    File(PathBuf),
    /// Standard output. Nothing can be read back: each start begins a new chain, with a new key.
    Stdout,
}

/// Why there is no audit log. Then the agent doesn't start.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// A file can't be used.
    #[error("use the audit log's file {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Another agent writes it.
    #[error("another process writes the audit log {}", path.display())]
    InUse {
        /// Its path.
        path: PathBuf,
    },
    /// The signing key is none, or can't be made.
    #[error("the key of the audit log is no Ed25519 key")]
    Key,
    /// No thread for it.
    #[error("start the audit log's thread")]
    Thread(#[source] io::Error),
}

impl AuditError {
    fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File { path: path.to_owned(), source }
    }
}

/// How the audit log stands.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct AuditView {
    /// Number of the newest record.
    pub sequence: u64,
    /// Its hash, in hexadecimal.
    pub hash: String,
    /// Number of the newest signed checkpoint; 0: none yet.
    pub checkpoint: u64,
    /// Events that found no room since the start.
    pub lost: u64,
    /// Why nothing can be written now.
    pub failing: Option<String>,
}

/// A look at the audit log; clones share.
#[derive(Clone, Debug)]
pub struct AuditHandle(Arc<Mutex<AuditView>>);

impl AuditHandle {
    /// How it stands now.
    pub fn view(&self) -> AuditView {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn update(&self, change: impl FnOnce(&mut AuditView)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// An open audit log. Dropping it writes what has been told so far, and a last checkpoint.
#[derive(Debug)]
pub struct AuditLog {
    queue: Arc<Queue>,
    handle: AuditHandle,
    thread: Option<JoinHandle<()>>,
}

impl AuditLog {
    /// Opens or begins it, and starts its thread.
    pub fn open(settings: &AuditSettings) -> Result<Self, AuditError> {
        let queue = Arc::new(Queue::default());
        let handle = AuditHandle(Arc::default());
        let writer = writer::Writer::open(settings, Arc::clone(&queue), handle.clone())?;
        let thread = std::thread::Builder::new().name("audit".to_owned()).spawn(move || writer.run());
        Ok(Self { queue, handle, thread: Some(thread.map_err(AuditError::Thread)?) })
    }

    /// What takes events to it.
    pub fn layer(&self) -> AuditLayer {
        AuditLayer::new(Arc::clone(&self.queue))
    }

    /// A look at it.
    pub fn handle(&self) -> AuditHandle {
        self.handle.clone()
    }
}

impl Drop for AuditLog {
    fn drop(&mut self) {
        self.queue.close();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been reported by its hook; here is nothing left to do.
            drop(thread.join());
        }
    }
}
