//! One record of the audit log: a line of JSON that holds the hash of the one before, and its own.
//!
//! A record's hash is the SHA-256 of its line up to `,"hash":"`, so it can be checked with `sed` and `sha256sum`, and
//! there is no second form of a record to agree about.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What a record's own hash begins with.
const OWN_HASH: &[u8] = b",\"hash\":\"";
const HASH_DIGITS: usize = 64;

/// A SHA-256; shown in hexadecimal.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Hash([u8; 32]);

impl Hash {
    pub(super) fn of(bytes: &[u8]) -> Self {
        let mut hash = Self::default();
        hash.0.copy_from_slice(digest(&SHA256, bytes).as_ref());
        hash
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        if text.len() != HASH_DIGITS {
            return None;
        }
        let mut hash = Self::default();
        for (byte, pair) in hash.0.iter_mut().zip(text.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(hash)
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The newest record: what the next one follows. Its default is what the first one follows.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Head {
    pub(super) sequence: u64,
    pub(super) hash: Hash,
}

#[derive(Serialize)]
struct Body<'a> {
    seq: u64,
    time: &'a str,
    event: &'a str,
    fields: &'a Map<String, Value>,
    prev: String,
}

/// The line of the record that follows `head`, with its line feed, and the new head.
pub(super) fn seal(head: Head, time: &str, event: &str, fields: &Map<String, Value>) -> (String, Head) {
    let sequence = head.sequence + 1;
    let body = Body { seq: sequence, time, event, fields, prev: head.hash.to_string() };
    // Strings, numbers and maps with string keys can't fail.
    let mut line = serde_json::to_string(&body).unwrap_or_default();
    line.truncate(line.len().saturating_sub(1));
    let hash = Hash::of(line.as_bytes());
    (format!("{line},\"hash\":\"{hash}\"}}\n"), Head { sequence, hash })
}

#[derive(Deserialize)]
struct Sealed {
    seq: u64,
    time: String,
    event: String,
    fields: Map<String, Value>,
    prev: String,
    #[serde(rename = "hash")]
    _hash: String,
}

/// A line that has the form of a record.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) sequence: u64,
    pub(super) time: String,
    pub(super) event: String,
    pub(super) fields: Map<String, Value>,
    pub(super) prev: Hash,
    /// What it says.
    pub(super) stated: Hash,
    /// What it is.
    pub(super) computed: Hash,
}

impl Record {
    /// Reads a line without its line feed.
    pub(super) fn parse(line: &[u8]) -> Option<Self> {
        let body = line.len().checked_sub(OWN_HASH.len() + HASH_DIGITS + 2)?;
        let (body, rest) = line.split_at(body);
        let stated = Hash::parse(rest.strip_prefix(OWN_HASH)?.strip_suffix(b"\"}")?)?;
        let Sealed { seq: sequence, time, event, fields, prev, _hash } = serde_json::from_slice(line).ok()?;
        let prev = Hash::parse(prev.as_bytes())?;
        Some(Self { sequence, time, event, fields, prev, stated, computed: Hash::of(body) })
    }

    /// Whether nothing in it has changed.
    pub(super) fn is_whole(&self) -> bool {
        self.stated == self.computed
    }

    pub(super) fn head(&self) -> Head {
        Head { sequence: self.sequence, hash: self.stated }
    }

    /// A field that is text.
    pub(super) fn text(&self, field: &str) -> Option<&str> {
        self.fields.get(field)?.as_str()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_record_reads_back_and_follows_the_one_before() {
        let fields = Map::from_iter([("dst.addr".to_owned(), "10.0.0.1:80".into())]);
        let (first, head) = seal(Head::default(), "2026-01-02T03:04:05Z", "connection denied", &fields);
        let (second, _) = seal(head, "2026-01-02T03:04:06Z", "svid rotated", &Map::new());
        let first = Record::parse(first.trim_end().as_bytes()).unwrap();
        let second = Record::parse(second.trim_end().as_bytes()).unwrap();
        assert!(first.is_whole() && second.is_whole());
        assert_eq!((first.sequence, second.sequence, second.prev), (1, 2, first.stated));
        assert_eq!((&*first.event, first.text("dst.addr")), ("connection denied", Some("10.0.0.1:80")));
    }

    #[test]
    fn each_byte_of_a_record_counts() {
        let (line, _) = seal(Head::default(), "2026-01-02T03:04:05Z", "connection denied", &Map::new());
        let line = line.trim_end().as_bytes();
        for at in 0..line.len() {
            let mut changed = line.to_vec();
            changed[at] ^= 1;
            assert!(Record::parse(&changed).is_none_or(|record| !record.is_whole()), "byte {at}");
        }
    }
}
