//! What was issued, to whom: a file that only grows, on disk before the certificate leaves.
//!
//! One JSON object a line. It is also the memory of which join tokens are used. It holds no keys and no tokens.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::identity::IssuedChain;
use crate::model::revocation::Serial;
use crate::model::spiffe::SpiffeId;

/// Why the journal can't be used. Then nothing is issued.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file can't be opened, read or written.
    #[error("use the journal {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A line that is no entry, and isn't the last: the file was changed by others.
    #[error("line {line} of the journal {} is not an entry", path.display())]
    Entry {
        /// Counted from 1.
        line: usize,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: serde_json::Error,
    },
}

/// One issued certificate.
#[derive(Debug, Deserialize, Serialize)]
struct Entry {
    time: String,
    node: String,
    id: String,
    serial: String,
    not_after: String,
    /// The serial of the join token that was used for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
}

pub(super) struct Journal {
    path: PathBuf,
    file: File,
    used: HashSet<String>,
}

impl Journal {
    /// Opens a journal, or begins one. A last line that a crash cut off was never answered, and is cut away.
    pub(super) fn open(path: &Path) -> Result<Self, JournalError> {
        let failed = |source| JournalError::File { path: path.to_owned(), source };
        let mut options = OpenOptions::new();
        let mut file = options.create(true).read(true).append(true).mode(0o600).open(path).map_err(failed)?;
        let mut used = HashSet::new();
        let whole = each_entry(path, &file, |entry| used.extend(entry.token))?;
        file.set_len(whole).and_then(|()| file.seek(SeekFrom::End(0))).map_err(failed)?;
        Ok(Self { path: path.to_owned(), file, used })
    }

    /// Whether this token has already let somebody join.
    pub(super) fn is_used(&self, token: &str) -> bool {
        self.used.contains(token)
    }

    /// Writes down a certificate before it is given away.
    pub(super) fn note(
        &mut self,
        node: &str,
        id: &SpiffeId,
        issued: &IssuedChain,
        token: Option<&str>,
    ) -> Result<(), JournalError> {
        let entry = Entry {
            time: moment(SystemTime::now()),
            node: node.to_owned(),
            id: id.to_string(),
            serial: issued.serial.to_string(),
            not_after: moment(issued.not_after),
            token: token.map(str::to_owned),
        };
        let line = serde_json::to_string(&entry).map_err(io::Error::from).map(|line| line + "\n");
        let written = line.and_then(|line| self.file.write_all(line.as_bytes())).and_then(|()| self.file.sync_data());
        written.map_err(|source| JournalError::File { path: self.path.clone(), source })?;
        self.used.extend(entry.token);
        Ok(())
    }
}

/// What is still good of that which a node got: the serial numbers, in the order of issue. The service may be running.
pub fn issued_to(path: &Path, node: &str, now: SystemTime) -> Result<Vec<Serial>, JournalError> {
    let file = File::open(path).map_err(|source| JournalError::File { path: path.to_owned(), source })?;
    let mut serials = Vec::new();
    each_entry(path, &file, |entry| {
        // What can't be read is taken as good still.
        let expired = OffsetDateTime::parse(&entry.not_after, &Rfc3339).is_ok_and(|end| SystemTime::from(end) < now);
        if entry.node == node && !expired {
            serials.extend(Serial::parse(&entry.serial));
        }
    })?;
    Ok(serials)
}

/// Calls `take` with every whole line; says how many bytes they are together.
fn each_entry(path: &Path, file: &File, mut take: impl FnMut(Entry)) -> Result<u64, JournalError> {
    let (mut reader, mut whole) = (BufReader::new(file), 0);
    for number in 1.. {
        let mut line = Vec::new();
        let read = reader.read_until(b'\n', &mut line);
        let read = read.map_err(|source| JournalError::File { path: path.to_owned(), source })?;
        if line.last() != Some(&b'\n') {
            break;
        }
        let entry = serde_json::from_slice(&line);
        take(entry.map_err(|source| JournalError::Entry { line: number, path: path.to_owned(), source })?);
        whole += read as u64;
    }
    Ok(whole)
}

fn moment(time: SystemTime) -> String {
    OffsetDateTime::from(time).format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn issued(serial: &str) -> IssuedChain {
        let now = SystemTime::now();
        IssuedChain {
            certificates: Vec::new(),
            serial: Serial::parse(serial).unwrap(),
            not_before: now,
            not_after: now,
        }
    }

    #[test]
    fn a_used_token_stays_used_and_a_torn_line_is_cut_away() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let id = SpiffeId::parse("spiffe://cluster.local/hauberk/node/a").unwrap();
        let mut journal = Journal::open(&path).unwrap();
        journal.note("a", &id, &issued("01"), Some("token-1")).unwrap();
        journal.note("a", &id, &issued("02"), None).unwrap();
        drop(journal);
        let whole = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{whole}{{\"time\":\"20")).unwrap();
        let mut journal = Journal::open(&path).unwrap();
        assert!(journal.is_used("token-1") && !journal.is_used("token-2"));
        journal.note("a", &id, &issued("03"), Some("token-2")).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with(&whole) && text.lines().count() == 3, "{text}");
        std::fs::write(&path, format!("nonsense\n{whole}")).unwrap();
        assert!(matches!(Journal::open(&path).err(), Some(JournalError::Entry { line: 1, .. })));
    }

    #[test]
    fn what_a_node_got_and_is_still_good_can_be_found() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let id = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/web").unwrap();
        let mut journal = Journal::open(&path).unwrap();
        for (node, serial, minutes) in [("a", "01", 1), ("b", "02", 60), ("a", "03", 60), ("a", "04", 60)] {
            let not_after = issued(serial).not_after + Duration::from_mins(minutes);
            journal.note(node, &id, &IssuedChain { not_after, ..issued(serial) }, None).unwrap();
        }
        let later = SystemTime::now() + Duration::from_mins(30);
        let serials = issued_to(&path, "a", later).unwrap();
        assert_eq!(serials, ["3", "4"].map(|serial| Serial::parse(serial).unwrap()));
        assert_eq!(issued_to(&path, "c", later).unwrap(), []);
        assert!(matches!(issued_to(&directory.path().join("none"), "a", later), Err(JournalError::File { .. })));
    }
}
