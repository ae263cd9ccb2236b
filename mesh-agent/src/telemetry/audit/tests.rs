//! The audit log as a whole: written by its thread, read back by `verify`, with every way of tampering.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use tracing_subscriber::layer::SubscriberExt as _;

use super::key::CheckpointKey;
use super::verify::{Evidence, Findings, verify};
use super::{AuditError, AuditLog, AuditSettings, Destination};

fn settings(directory: &TempDir, max_bytes: u64) -> AuditSettings {
    AuditSettings {
        destination: Destination::File(directory.path().join("audit.jsonl")),
        max_bytes,
        keep: 3,
        checkpoint_every: Duration::from_secs(3600),
        node: "a".to_owned(),
    }
}

/// Tells the log of these events, and closes it.
fn tell(settings: &AuditSettings, numbers: std::ops::Range<u64>) {
    let log = AuditLog::open(settings).unwrap();
    tracing::subscriber::with_default(tracing_subscriber::registry().with(log.layer()), || {
        for number in numbers {
            tracing::warn!(target: "audit", number, dst.addr = %"10.0.0.1:80", "svid rotated");
            tracing::warn!(number, "not for the audit log");
        }
    });
}

/// A closed log: record 1 `opened`, 2 to 9 the events, 10 `closed`, 11 a checkpoint.
fn log() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    tell(&settings(&directory, 1 << 20), 0..8);
    let path = directory.path().join("audit.jsonl");
    (directory, path)
}

fn files(directory: &TempDir) -> Vec<PathBuf> {
    let all = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<_> = all.filter(|path| path.to_string_lossy().contains("jsonl")).collect();
    all.sort();
    all
}

fn key(directory: &TempDir) -> Option<CheckpointKey> {
    CheckpointKey::from_pem(&fs::read_to_string(directory.path().join("audit.pub")).unwrap())
}

fn check(path: &Path, evidence: &Evidence) -> Findings {
    verify(&[path.to_owned()], evidence).unwrap()
}

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
}

/// Writes lines and says what is wrong with them: line and reason.
fn tampered(path: &Path, lines: &[String], evidence: &Evidence) -> Vec<(usize, String)> {
    fs::write(path, lines.join("\n") + "\n").unwrap();
    check(path, evidence).problems.into_iter().map(|problem| (problem.line, problem.what)).collect()
}

#[test]
fn what_was_told_is_there_and_whole() {
    let (directory, path) = log();
    let found = check(&path, &Evidence { key: key(&directory), checkpoints: lines(&path)[10].clone() });
    assert_eq!((&*found.problems, &*found.notes), (&[][..], &[][..]));
    assert_eq!((found.records, found.span, found.signed, found.agreed), (11, Some((1, 11)), 10, 1));
    let text = fs::read_to_string(&path).unwrap();
    assert!(
        text.contains(r#""event":"svid rotated","fields":{"dst.addr":"10.0.0.1:80","number":7},"prev":""#),
        "{text}"
    );
    assert!(!text.contains("not for the audit log"));
    use std::os::unix::fs::PermissionsExt as _;
    for name in ["audit.jsonl", "audit.key"] {
        assert_eq!(fs::metadata(directory.path().join(name)).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn a_flipped_byte_is_found_wherever_it_is() {
    let (_directory, path) = log();
    let whole = fs::read(&path).unwrap();
    for at in (0..whole.len()).filter(|at| whole[*at] != b'\n').step_by(7) {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        fs::write(&path, &changed).unwrap();
        let line = whole[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
        let found = check(&path, &Evidence::default()).problems;
        assert_eq!(found.first().map(|problem| problem.line), Some(line), "byte {at}: {found:?}");
    }
}

#[test]
fn removed_and_swapped_lines_are_found() {
    let (_directory, path) = log();
    let whole = lines(&path);
    let mut removed = whole.clone();
    removed.remove(4);
    let missing = "records 5 to 5 are missing before record 6".to_owned();
    assert_eq!(tampered(&path, &removed, &Evidence::default()), [(5, missing)]);
    let mut swapped = whole.clone();
    swapped.swap(4, 5);
    let found = tampered(&path, &swapped, &Evidence::default());
    assert_eq!(found[0], (5, "records 5 to 5 are missing before record 6".to_owned()));
    assert_eq!(found[1], (6, "record 5 where record 7 is due".to_owned()));
}

#[test]
fn a_cut_end_is_found_by_a_checkpoint_that_was_kept_elsewhere() {
    let (_directory, path) = log();
    let whole = lines(&path);
    assert_eq!(tampered(&path, &whole[..7], &Evidence::default()), []);
    let evidence = Evidence { key: None, checkpoints: whole[10].clone() };
    let what = "checkpoint 11 was kept elsewhere, and these files end with record 7: the end was cut off".to_owned();
    assert_eq!(tampered(&path, &whole[..7], &evidence), [(0, what)]);
}

#[test]
fn a_rewritten_chain_is_found_by_the_key_or_by_a_checkpoint() {
    let (directory, path) = log();
    let (kept, known) = (lines(&path)[10].clone(), key(&directory));
    for name in ["audit.jsonl", "audit.key"] {
        fs::remove_file(directory.path().join(name)).unwrap();
    }
    // Somebody makes a chain of their own, as long, and sound in itself.
    tell(&settings(&directory, 1 << 20), 20..28);
    let problems = |evidence: &Evidence| {
        check(&path, evidence).problems.into_iter().map(|problem| (problem.line, problem.what)).collect::<Vec<_>>()
    };
    assert_eq!(problems(&Evidence::default()), []);
    let by_key = problems(&Evidence { key: known, checkpoints: String::new() });
    assert_eq!(by_key[0], (11, "checkpoint 11 is signed by another key".to_owned()));
    assert_eq!(by_key[1], (0, "no checkpoint is signed by the key".to_owned()));
    let rewritten = "record 11 is not the checkpoint that was kept elsewhere: the file was rewritten".to_owned();
    assert_eq!(problems(&Evidence { key: None, checkpoints: kept }), [(11, rewritten)]);
}

#[test]
fn the_chain_goes_on_over_restarts_and_rotation_and_old_files_go() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(&directory, 3000);
    for round in 0..5 {
        tell(&settings, round * 10..round * 10 + 10);
    }
    let files = files(&directory);
    assert_eq!(files.len(), 4, "{files:?}");
    assert!(files.iter().all(|file| fs::metadata(file).unwrap().len() < 8000));
    let found = verify(&files, &Evidence { key: key(&directory), checkpoints: String::new() }).unwrap();
    assert_eq!(found.problems, []);
    let (first, last) = found.span.unwrap();
    assert!(first > 1 && found.records == last - first + 1 && last >= 5 * 13, "{found:?}");
    // Each file that was set aside ends with a checkpoint, and its name with that record's number.
    for file in &files[1..] {
        let last = lines(file).pop().unwrap();
        let number: u64 = file.to_string_lossy().rsplit('.').next().unwrap().parse().unwrap();
        assert!(
            last.starts_with(&format!("{{\"seq\":{number},")) && last.contains("\"event\":\"checkpoint\""),
            "{last}"
        );
    }
}

#[test]
fn a_removed_file_of_several_is_found() {
    let directory = tempfile::tempdir().unwrap();
    for round in 0..4 {
        tell(&settings(&directory, 3000), round * 10..round * 10 + 10);
    }
    let mut files = files(&directory);
    files.remove(2);
    let found = verify(&files, &Evidence::default()).unwrap().problems;
    assert_eq!((found.len(), found[0].line), (1, 1));
    assert!(found[0].what.contains("are missing before record"), "{found:?}");
}

#[test]
fn what_a_crash_cuts_off_is_kept_and_named() {
    let (directory, path) = log();
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 40]).unwrap();
    tell(&settings(&directory, 1 << 20), 8..10);
    let found = check(&path, &Evidence { key: key(&directory), checkpoints: String::new() });
    assert_eq!(found.problems, []);
    assert!(found.notes[0].contains("bytes that a crash left; record 11 names them"), "{found:?}");
    // The half record is still there; whoever changes it shows.
    let mut lines = lines(&path);
    assert!(lines[10].starts_with("{\"seq\":11,") && lines[11].contains("torn record found"));
    lines[10].push('x');
    assert_eq!(tampered(&path, &lines, &Evidence::default())[0], (11, "not a record".to_owned()));
}

#[test]
fn a_record_that_lacks_only_its_line_feed_is_whole() {
    let (directory, path) = log();
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    tell(&settings(&directory, 1 << 20), 8..10);
    let found = check(&path, &Evidence { key: key(&directory), checkpoints: lines(&path)[10].clone() });
    assert_eq!((found.problems, found.span), (Vec::new(), Some((1, 16))));
}

#[test]
fn two_processes_do_not_write_one_log() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(&directory, 1 << 20);
    let _held = AuditLog::open(&settings).unwrap();
    assert!(matches!(AuditLog::open(&settings), Err(AuditError::InUse { .. })));
}

#[test]
fn a_file_that_somebody_removes_is_missed() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(&directory, 1 << 20);
    let log = AuditLog::open(&settings).unwrap();
    fs::remove_file(directory.path().join("audit.jsonl")).unwrap();
    tracing::subscriber::with_default(tracing_subscriber::registry().with(log.layer()), || {
        tracing::warn!(target: "audit", "svid rotated");
    });
    drop(log);
    let path = directory.path().join("audit.jsonl");
    let events: Vec<_> = lines(&path).iter().map(|line| line.split('"').nth(9).unwrap().to_owned()).collect();
    assert_eq!(events, ["audit file removed", "svid rotated", "audit log closed", "checkpoint"]);
    assert_eq!(check(&path, &Evidence::default()).span, Some((2, 5)));
}
