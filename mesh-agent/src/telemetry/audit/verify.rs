//! Reads audit files back and finds what was changed in them, with its place: `mesh-agent audit verify`.

use std::fmt;
use std::io::{self, BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use super::key::{CHECKPOINT, Checkpoint, CheckpointKey};
use super::record::{Hash, Head, Record};
use super::writer::TORN;

/// Who looks is told of this many mistakes; one change rarely makes more than three.
const MAX_PROBLEMS: usize = 100;

/// What else is known of the files.
#[derive(Debug, Default)]
pub struct Evidence {
    /// The key that must have signed every checkpoint.
    pub key: Option<CheckpointKey>,
    /// Text of checkpoints that were kept elsewhere, one a line.
    pub checkpoints: String,
}

/// What was found.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Findings {
    /// Whole records.
    pub records: u64,
    /// Numbers of the first and the last record.
    pub span: Option<(u64, u64)>,
    /// Number of the last record that a good checkpoint in the files covers.
    pub signed: u64,
    /// Checkpoints kept elsewhere that the files agree with.
    pub agreed: usize,
    /// What shows that the files are not what was written.
    pub problems: Vec<Problem>,
    /// What is worth knowing and no mistake.
    pub notes: Vec<String>,
}

/// A mistake and its place.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    /// The file.
    pub file: PathBuf,
    /// The line, counted from 1; 0: not in a line.
    pub line: usize,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, what } = self;
        match line {
            0 => write!(f, "{}: {what}", file.display()),
            line => write!(f, "{}:{line}: {what}", file.display()),
        }
    }
}

/// Checks files that belong together, in whichever order. Err: one can't be read, or the evidence is none.
pub fn verify(files: &[PathBuf], evidence: &Evidence) -> io::Result<Findings> {
    let mut ordered = Vec::new();
    for file in files {
        ordered.push((first_sequence(file)?, file));
    }
    ordered.sort();
    let kept = kept_checkpoints(evidence)?;
    let mut walk = Walk {
        evidence,
        kept: &kept,
        met: vec![false; kept.len()],
        findings: Findings::default(),
        before: None,
        strange: Vec::new(),
    };
    for (_, file) in &ordered {
        walk.file(file)?;
    }
    let last = ordered.last().map_or_else(PathBuf::new, |(_, file)| (*file).clone());
    Ok(walk.finish(&last))
}

/// The number of the first record in a file; an unreadable beginning is sorted by what follows.
fn first_sequence(file: &Path) -> io::Result<u64> {
    for line in lines(file)? {
        if let Some(record) = Record::parse(&line?) {
            return Ok(record.sequence);
        }
    }
    Ok(u64::MAX)
}

fn lines(file: &Path) -> io::Result<impl Iterator<Item = io::Result<Vec<u8>>>> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", file.display()));
    Ok(BufReader::new(std::fs::File::open(file).map_err(named)?).split(b'\n'))
}

fn kept_checkpoints(evidence: &Evidence) -> io::Result<Vec<Record>> {
    let no_checkpoint = |line: &str| io::Error::other(format!("`{line}` is not a checkpoint"));
    let mut kept = Vec::new();
    for line in evidence.checkpoints.lines().filter(|line| !line.trim().is_empty()) {
        let record =
            Record::parse(line.trim().as_bytes()).filter(Record::is_whole).ok_or_else(|| no_checkpoint(line))?;
        let claim = Checkpoint::of(&record).ok_or_else(|| no_checkpoint(line))?;
        let by_key = evidence.key.as_ref().is_none_or(|key| *key == claim.key);
        if !(by_key && claim.is_signed()) {
            return Err(io::Error::other(format!(
                "checkpoint {} that was kept elsewhere is not signed by the key",
                record.sequence
            )));
        }
        kept.push(record);
    }
    Ok(kept)
}

/// What the next record must follow. After a changed record both hashes will do: the change itself has been told.
struct Before {
    sequence: u64,
    hashes: [Hash; 2],
}

struct Walk<'a> {
    evidence: &'a Evidence,
    kept: &'a [Record],
    /// Which of `kept` are in the files.
    met: Vec<bool>,
    findings: Findings,
    before: Option<Before>,
    /// Lines that are no record, since the last one that is; with the place of the first.
    strange: Vec<(usize, Vec<u8>)>,
}

impl Walk<'_> {
    fn file(&mut self, file: &Path) -> io::Result<()> {
        for (index, line) in lines(file)?.enumerate() {
            let (line, number) = (line?, index + 1);
            match Record::parse(&line) {
                Some(record) => self.record(file, number, &record),
                None => self.strange.push((number, line)),
            }
        }
        if let Some((line, _)) = self.strange.first() {
            self.problem(
                file,
                *line,
                "not a record, and no record after it accounts for it: cut off by a crash, or changed".to_owned(),
            );
            self.strange.clear();
        }
        Ok(())
    }

    fn record(&mut self, file: &Path, line: usize, record: &Record) {
        let sequence = record.sequence;
        self.account_for_strange(file, record);
        if !record.is_whole() {
            self.problem(file, line, format!("record {sequence} was changed: its hash is {}", record.computed));
        }
        self.follow(file, line, record);
        if record.event == CHECKPOINT {
            self.checkpoint(file, line, record);
        }
        for (index, kept) in self.kept.iter().enumerate().filter(|(_, kept)| kept.sequence == sequence) {
            self.met[index] = true;
            if kept.stated != record.computed {
                let what =
                    format!("record {sequence} is not the checkpoint that was kept elsewhere: the file was rewritten");
                push(&mut self.findings, file, line, what);
            } else {
                self.findings.agreed += 1;
            }
        }
        self.findings.records += u64::from(record.is_whole());
        let first = self.findings.span.map_or(sequence, |(first, _)| first.min(sequence));
        let last = self.findings.span.map_or(sequence, |(_, last)| last.max(sequence));
        self.findings.span = Some((first, last));
        self.before = Some(Before { sequence, hashes: [record.stated, record.computed] });
    }

    /// A crash leaves half a record; then the next one names it by its hash.
    fn account_for_strange(&mut self, file: &Path, record: &Record) {
        let Some((line, _)) = self.strange.first() else { return };
        let line = *line;
        let bytes = self.strange.iter().map(|(_, line)| line.as_slice()).collect::<Vec<_>>().join(&b'\n');
        let named =
            record.event == TORN && record.is_whole() && record.text("sha256") == Some(&*Hash::of(&bytes).to_string());
        if named {
            let note = format!(
                "{}:{line}: {} bytes that a crash left; record {} names them",
                file.display(),
                bytes.len(),
                record.sequence
            );
            self.findings.notes.push(note);
        } else {
            self.problem(file, line, "not a record".to_owned());
        }
        self.strange.clear();
    }

    fn follow(&mut self, file: &Path, line: usize, record: &Record) {
        let sequence = record.sequence;
        let Some(before) = &self.before else {
            match sequence {
                1 if record.prev == Head::default().hash => {}
                1 => self.problem(file, line, "record 1 claims to follow another".to_owned()),
                _ => self
                    .findings
                    .notes
                    .push(format!("begins with record {sequence}: what was before is not in these files")),
            }
            return;
        };
        let due = before.sequence + 1;
        let what = if sequence > due {
            format!("records {due} to {} are missing before record {sequence}", sequence - 1)
        } else if sequence < due {
            format!("record {sequence} where record {due} is due")
        } else if !before.hashes.contains(&record.prev) {
            format!("record {sequence} does not follow record {}: one of them was replaced", before.sequence)
        } else {
            return;
        };
        self.problem(file, line, what);
    }

    fn checkpoint(&mut self, file: &Path, line: usize, record: &Record) {
        let sequence = record.sequence;
        let wrong = match Checkpoint::of(record) {
            None => "says nothing",
            Some(claim) if self.evidence.key.as_ref().is_some_and(|key| *key != claim.key) => {
                "is signed by another key"
            }
            Some(claim) if !claim.is_signed() => "has a wrong signature",
            Some(claim) => {
                self.findings.signed = self.findings.signed.max(claim.covered.sequence);
                return;
            }
        };
        self.problem(file, line, format!("checkpoint {sequence} {wrong}"));
    }

    fn problem(&mut self, file: &Path, line: usize, what: String) {
        push(&mut self.findings, file, line, what);
    }

    fn finish(mut self, last_file: &Path) -> Findings {
        let (first, last) = self.findings.span.unwrap_or_default();
        for (kept, _) in self.kept.iter().zip(&self.met).filter(|(_, met)| !**met) {
            let sequence = kept.sequence;
            if sequence < first {
                self.findings.notes.push(format!("checkpoint {sequence} is older than these files"));
            } else {
                let what = format!(
                    "checkpoint {sequence} was kept elsewhere, and these files end with record {last}: the end was cut off"
                );
                push(&mut self.findings, last_file, 0, what);
            }
        }
        if self.evidence.key.is_some() && self.findings.signed == 0 {
            push(&mut self.findings, last_file, 0, "no checkpoint is signed by the key".to_owned());
        }
        if self.evidence.key.is_none() {
            self.findings.notes.push("no --key: whoever could write the files could also sign them".to_owned());
        }
        if self.kept.is_empty() {
            self.findings
                .notes
                .push("no --checkpoint: a cut end or a file made anew with the agent's key would not show".to_owned());
        }
        self.findings
    }
}

fn push(findings: &mut Findings, file: &Path, line: usize, what: String) {
    if findings.problems.len() < MAX_PROBLEMS {
        findings.problems.push(Problem { file: file.to_owned(), line, what });
    }
}
