//! The files of an audit log: appended to, set aside when they are big, read back at the start.
//!
//! `audit.jsonl` is written; a file that was set aside has the number of its last record behind its name. What a crash
//! has left half written stays, and a record after it names it: only so can nobody pass off a change as a crash.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::record::{Hash, Head, Record};

/// Bytes at the end of a file that are no record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Torn {
    pub(super) bytes: u64,
    /// Of the bytes without a last line feed.
    pub(super) hash: Hash,
}

/// What the files end with.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Found {
    pub(super) head: Head,
    pub(super) torn: Option<Torn>,
}

/// The file that is written.
#[derive(Debug)]
pub(super) struct AuditFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    keep: usize,
}

impl AuditFile {
    /// Opens the log or begins one, and says how it ends.
    pub(super) fn open(path: &Path, keep: usize) -> io::Result<(Self, Found)> {
        let file = create(path)?;
        let mut found = last_record(&file)?;
        let mut log = Self { path: path.to_owned(), bytes: file.metadata()?.len(), file, keep };
        if found.head == Head::default()
            && let Some((_, newest)) = set_aside(path)?.pop()
        {
            found.head = last_record(&File::open(newest)?)?.head;
        }
        if log.bytes > 0 && !ends_a_line(&log.path)? {
            log.append(b"\n")?;
        }
        Ok((log, found))
    }

    /// Begins the file anew if somebody has removed it; says whether that was so.
    pub(super) fn restore(&mut self) -> io::Result<bool> {
        let vanished = self.file.metadata()?.nlink() == 0;
        if vanished {
            (self.file, self.bytes) = (create(&self.path)?, 0);
        }
        Ok(vanished)
    }

    /// Adds whole records; what can't be written whole is taken back.
    pub(super) fn append(&mut self, records: &[u8]) -> io::Result<()> {
        let written = self.file.write_all(records).and_then(|()| self.file.sync_data());
        match written {
            Ok(()) => self.bytes += records.len() as u64,
            Err(error) => {
                self.file.set_len(self.bytes)?;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Whether these records would make the file bigger than it may be.
    pub(super) fn is_full(&self, more: usize, max: u64) -> bool {
        self.bytes > 0 && self.bytes + more as u64 > max
    }

    /// Sets the file aside, whose last record has the number `sequence`, and begins another.
    pub(super) fn rotate(&mut self, sequence: u64) -> io::Result<()> {
        let mut aside = self.path.clone().into_os_string();
        aside.push(format!(".{sequence:012}"));
        match std::fs::rename(&self.path, aside) {
            // An attempt that failed half way has done this part, or somebody has removed the file.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            renamed => renamed?,
        }
        self.file = create(&self.path)?;
        self.bytes = 0;
        let all = set_aside(&self.path)?;
        for (_, oldest) in &all[..all.len().saturating_sub(self.keep)] {
            std::fs::remove_file(oldest)?;
        }
        Ok(())
    }
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).read(true).append(true).mode(0o600).open(path)
}

/// The files that were set aside, oldest first.
fn set_aside(path: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let prefix = format!("{}.", path.file_name().unwrap_or_default().to_string_lossy());
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(&prefix)?.parse().ok());
        found.extend(number.map(|number| (number, entry.path())));
    }
    found.sort();
    Ok(found)
}

/// The last whole record of a file, and what follows it.
fn last_record(file: &File) -> io::Result<Found> {
    let (mut found, mut rest) = (Found::default(), Vec::new());
    let (mut reader, mut line) = (BufReader::new(file), Vec::new());
    while reader.read_until(b'\n', &mut line)? > 0 {
        match Record::parse(line.strip_suffix(b"\n").unwrap_or(&line)).filter(Record::is_whole) {
            Some(record) => {
                found.head = record.head();
                rest.clear();
            }
            None => rest.extend_from_slice(&line),
        }
        line.clear();
    }
    let rest = rest.strip_suffix(b"\n").unwrap_or(&rest);
    found.torn = (!rest.is_empty()).then(|| Torn { bytes: rest.len() as u64, hash: Hash::of(rest) });
    Ok(found)
}

fn ends_a_line(path: &Path) -> io::Result<bool> {
    let file = File::open(path)?;
    let mut last = [0];
    file.read_exact_at(&mut last, file.metadata()?.len().saturating_sub(1))?;
    Ok(last == *b"\n")
}
