//! Undoes what a world made on the machine, whatever way the program ends: return, error, panic or signal.
//!
//! What is to be undone is written down *before* it is made, under one lock with the undoing: a signal in the middle
//! of building leaves nothing behind and nothing is made after it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError, Weak};

use anyhow::{Context as _, Result, ensure};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::{cgroup, cluster};

/// One thing on the machine that must go away again.
#[derive(Debug)]
pub enum Undo {
    /// A cgroup with all below it; its processes are killed.
    Cgroup(PathBuf),
    /// The Kubernetes cluster of this machine.
    Cluster,
    /// A directory with all below it.
    Dir(PathBuf),
    /// A mount.
    Mount(PathBuf),
    /// A named network namespace, by its file.
    Netns(PathBuf),
}

#[derive(Debug, Default)]
struct State {
    undo: Vec<Undo>,
    closed: bool,
}

/// The list of what one world made. Dropping it undoes all, last made first.
#[derive(Debug)]
pub struct Cleanup(Arc<Mutex<State>>);

/// Every live list of this process: a signal handler has no other way to find them.
static LIVE: Mutex<Vec<Weak<Mutex<State>>>> = Mutex::new(Vec::new());
static HANDLER: Once = Once::new();
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Returns unless a signal is being handled: then the process is about to end, and what fails now tells nobody anything.
pub fn pause_if_interrupted() {
    while INTERRUPTED.load(Ordering::Relaxed) {
        std::thread::park();
    }
}

impl Cleanup {
    /// An empty list, which from now on is also undone at SIGINT, SIGTERM and SIGHUP.
    pub fn new() -> Result<Self> {
        let mut signals = None;
        HANDLER.call_once(|| signals = Some(Signals::new([SIGHUP, SIGINT, SIGTERM])));
        if let Some(signals) = signals {
            let mut signals = signals.context("handle signals")?;
            std::thread::spawn(move || {
                if let Some(signal) = signals.forever().next() {
                    INTERRUPTED.store(true, Ordering::Relaxed);
                    say("interrupted: removing namespaces, cgroups, pins and processes");
                    undo_everything();
                    std::process::exit(128 + signal);
                }
            });
        }
        let state = Arc::default();
        let mut live = lock(&LIVE);
        live.retain(|state| state.strong_count() > 0);
        live.push(Arc::downgrade(&state));
        Ok(Self(state))
    }

    /// Makes something that `undo` takes away again.
    pub fn make<T>(&self, undo: Undo, create: impl FnOnce() -> Result<T>) -> Result<T> {
        let mut state = lock(&self.0);
        ensure!(!state.closed, "interrupted");
        state.undo.push(undo);
        create()
    }

    /// Undoes everything now and says what could not be undone.
    pub fn finish(&self) -> Result<()> {
        finish(&self.0)
    }
}

impl Drop for Cleanup {
    fn drop(&mut self) {
        if let Err(error) = self.finish() {
            report(&error);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while the lock was held must not keep the rest from being cleaned up.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn undo_everything() {
    for state in lock(&LIVE).iter().filter_map(Weak::upgrade) {
        if let Err(error) = finish(&state) {
            report(&error);
        }
    }
}

fn report(error: &anyhow::Error) {
    say(&format!("left behind: {error:#}"));
}

/// There is nobody left to return it to; and whether it can be written changes nothing.
fn say(text: &str) {
    drop(writeln!(std::io::stderr(), "{text}"));
}

fn finish(state: &Mutex<State>) -> Result<()> {
    let mut state = lock(state);
    state.closed = true;
    let mut result = Ok(());
    for undo in state.undo.drain(..).rev() {
        let undone = undo.run().with_context(|| format!("{undo:?}"));
        result = result.and(undone);
    }
    result
}

impl Undo {
    fn run(&self) -> Result<()> {
        match self {
            Undo::Cgroup(path) => cgroup::remove(path),
            Undo::Cluster => cluster::remove(),
            Undo::Dir(path) => missing_is_fine(std::fs::remove_dir_all(path)),
            Undo::Mount(path) => detach(path),
            Undo::Netns(path) => {
                detach(path)?;
                missing_is_fine(std::fs::remove_file(path))
            }
        }
    }
}

/// Unmounts `path`; fine if the mount was never made.
fn detach(path: &Path) -> Result<()> {
    match unmount(path, UnmountFlags::DETACH) {
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(error) => Err(error).context("unmount"),
    }
}

fn missing_is_fine(result: std::io::Result<()>) -> Result<()> {
    match result {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}
