//! Writes the audit log: one thread that seals events into records, sets full files aside, and signs checkpoints.

use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Map, Value};

use super::file::{AuditFile, Torn};
use super::key::{CHECKPOINT, Signer};
use super::queue::{Batch, Event, Queue};
use super::record::{Head, seal};
use super::{AuditError, AuditHandle, AuditSettings, Destination};
use crate::telemetry::moment;

/// Events that are written and synced at once.
const BATCH: usize = 64;
/// Records after which a checkpoint is signed in any case.
const RECORDS_BETWEEN: u64 = 1000;
/// How long until a failed write is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// The event that names what a crash has left half written.
pub(super) const TORN: &str = "torn record found";

enum Sink {
    File(AuditFile),
    Stdout,
}

/// The writing end of an audit log.
pub(super) struct Writer {
    sink: Sink,
    signer: Signer,
    settings: AuditSettings,
    queue: Arc<Queue>,
    handle: AuditHandle,
    head: Head,
    /// The newest checkpoint.
    signed: u64,
    /// When the oldest record after it was written.
    unsigned_since: Option<Instant>,
}

impl Writer {
    /// Opens what the settings name, and writes the first records.
    pub(super) fn open(settings: &AuditSettings, queue: Arc<Queue>, handle: AuditHandle) -> Result<Self, AuditError> {
        let (sink, signer, head, torn) = match &settings.destination {
            Destination::Stdout => (Sink::Stdout, Signer::ephemeral()?, Head::default(), None),
            Destination::File(path) => {
                make_directory(path).map_err(AuditError::file(path))?;
                let signer = Signer::open(path, &path.with_extension("key"), &path.with_extension("pub"))?;
                let (file, found) = AuditFile::open(path, settings.keep).map_err(AuditError::file(path))?;
                (Sink::File(file), signer, found.head, found.torn)
            }
        };
        let settings = settings.clone();
        let mut writer =
            Self { sink, signer, settings, queue, handle, head, signed: head.sequence, unsigned_since: None };
        let path = match &writer.settings.destination {
            Destination::File(path) => path.clone(),
            Destination::Stdout => "-".into(),
        };
        writer.begin(torn).map_err(AuditError::file(&path))?;
        Ok(writer)
    }

    fn begin(&mut self, torn: Option<Torn>) -> io::Result<()> {
        let mut entries = Vec::new();
        if let Some(Torn { bytes, hash }) = torn {
            tracing::warn!(bytes, "the audit log ends with what is no whole record: it is kept");
            entries.push(Entry::now(TORN, [("bytes", bytes.into()), ("sha256", hash.to_string().into())]));
        }
        let (node, version) = (self.settings.node.clone(), env!("CARGO_PKG_VERSION"));
        let key = self.signer.public().to_base64();
        entries.push(Entry::now(
            "audit log opened",
            [("node", node.into()), ("version", version.into()), ("key", key.into())],
        ));
        self.write(&entries)
    }

    /// Until the queue is closed and empty.
    pub(super) fn run(mut self) {
        loop {
            let batch = self.queue.take(BATCH, self.until_due());
            let last = batch.last;
            let entries = self.entries(batch);
            let written = entries.is_empty() || self.insist(|writer| writer.write(&entries));
            let due = last || self.is_due();
            let signed = !due || self.signed == self.head.sequence || self.insist(Self::checkpoint);
            if last || !written || !signed {
                return;
            }
        }
    }

    fn entries(&self, batch: Batch) -> Vec<Entry> {
        let mut entries = Vec::new();
        if batch.lost > 0 {
            self.handle.update(|view| view.lost += batch.lost);
            entries.push(Entry::now("records lost", [("count", batch.lost.into())]));
        }
        entries.extend(batch.events.into_iter().map(|Event { time, name: event, fields }| Entry {
            time: moment(time),
            event,
            fields,
        }));
        if batch.last {
            entries.push(Entry::now("audit log closed", []));
        }
        entries
    }

    fn until_due(&self) -> Duration {
        let age = self.unsigned_since.map(|since| since.elapsed());
        age.map_or(Duration::MAX / 2, |age| self.settings.checkpoint_every.saturating_sub(age))
            .min(Duration::from_hours(1))
    }

    fn is_due(&self) -> bool {
        self.head.sequence - self.signed >= RECORDS_BETWEEN
            || self.unsigned_since.is_some_and(|since| since.elapsed() >= self.settings.checkpoint_every)
    }

    /// Tries until it works; gives up only when the agent ends.
    fn insist(&mut self, mut step: impl FnMut(&mut Self) -> io::Result<()>) -> bool {
        while let Err(error) = step(self) {
            if self.failed(&error) {
                return false;
            }
        }
        self.handle.update(|view| view.failing = None);
        true
    }

    /// Returns whether to give up.
    fn failed(&self, error: &io::Error) -> bool {
        let reason = error.to_string();
        if self.handle.view().failing.as_ref() != Some(&reason) {
            tracing::error!(error = reason, "the audit log can't be written");
            self.handle.update(|view| view.failing = Some(reason));
        }
        self.queue.closed_within(RETRY)
    }

    fn write(&mut self, entries: &[Entry]) -> io::Result<()> {
        if let Sink::File(file) = &mut self.sink
            && file.restore()?
        {
            tracing::error!("somebody has removed the audit log's file: it is begun anew");
            return self.write(&[Entry::now("audit file removed", [])]).and_then(|()| self.write(entries));
        }
        let mut sealed = self.seal(entries);
        if self.is_full(sealed.0.len()) {
            // The last record of each file is a checkpoint.
            if self.signed < self.head.sequence {
                self.checkpoint()?;
            }
            if let Sink::File(file) = &mut self.sink {
                file.rotate(self.head.sequence)?;
            }
            sealed = self.seal(entries);
        }
        let (lines, head) = sealed;
        self.append(&lines)?;
        self.head = head;
        self.unsigned_since.get_or_insert_with(Instant::now);
        self.show();
        Ok(())
    }

    fn is_full(&self, more: usize) -> bool {
        matches!(&self.sink, Sink::File(file) if file.is_full(more, self.settings.max_bytes))
    }

    fn seal(&self, entries: &[Entry]) -> (String, Head) {
        entries.iter().fold((String::new(), self.head), |(lines, head), entry| {
            let (line, head) = seal(head, &entry.time, &entry.event, &entry.fields);
            (lines + &line, head)
        })
    }

    fn checkpoint(&mut self) -> io::Result<()> {
        let time = moment(SystemTime::now());
        let claim = self.signer.checkpoint(&self.settings.node, self.head, &time);
        let (line, head) = seal(self.head, &time, CHECKPOINT, &claim);
        self.append(&line)?;
        // For whoever collects the log: it is the copy elsewhere.
        tracing::info!(target: "checkpoint", record = line.trim_end(), "audit checkpoint");
        (self.head, self.signed, self.unsigned_since) = (head, head.sequence, None);
        self.show();
        Ok(())
    }

    fn append(&mut self, lines: &str) -> io::Result<()> {
        match &mut self.sink {
            Sink::File(file) => file.append(lines.as_bytes()),
            Sink::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(lines.as_bytes()).and_then(|()| stdout.flush())
            }
        }
    }

    fn show(&self) {
        self.handle.update(|view| {
            (view.sequence, view.hash, view.checkpoint) = (self.head.sequence, self.head.hash.to_string(), self.signed);
        });
    }
}

/// A record that is not sealed yet.
struct Entry {
    time: String,
    event: String,
    fields: Map<String, Value>,
}

impl Entry {
    fn now<const N: usize>(event: &str, fields: [(&str, Value); N]) -> Self {
        let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Self { time: moment(SystemTime::now()), event: event.to_owned(), fields }
    }
}

/// Makes the directory of a file; others may not look into it.
fn make_directory(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)
        }
        _ => Ok(()),
    }
}
