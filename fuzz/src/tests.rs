//! Replays every corpus, and shows that each target reaches what it shall judge.

use std::fs;
use std::path::{Path, PathBuf};

use mesh_agent::proxy::classify::{HelloReader, Verdict};
use mesh_agent::tls::verify::leaf_identity;
use rustls_pki_types::CertificateDer;

type Check = fn(&[u8]);

const TARGETS: [(&str, Check); 7] = [
    ("bundle", crate::bundle::check),
    ("config", crate::config::check),
    ("control", crate::control::check),
    ("handshake", crate::handshake::check),
    ("hello", crate::hello::check),
    ("leaf", crate::leaf::check),
    ("spiffe_id", crate::spiffe_id::check),
];

fn home() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn inputs(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(home().join("corpus").join(target)).unwrap();
    entries.map(|entry| entry.unwrap().path()).map(|path| (path.clone(), fs::read(&path).unwrap())).collect()
}

#[test]
fn every_input_of_every_corpus_keeps_the_promises() {
    for (target, check) in TARGETS {
        let inputs = inputs(target);
        assert!(!inputs.is_empty(), "{target} has no corpus");
        for (path, input) in inputs {
            let checked = std::panic::catch_unwind(|| check(&input));
            assert!(checked.is_ok(), "{}", path.display());
        }
    }
}

#[test]
fn every_target_is_replayed() {
    let names = |directory: &str, end: &str| -> Vec<String> {
        let entries = fs::read_dir(home().join(directory)).unwrap();
        let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().trim_end_matches(end).to_owned();
        let mut names: Vec<_> = entries.map(|entry| name(&entry.unwrap().path())).collect();
        names.sort();
        names
    };
    let targets = TARGETS.map(|(name, _)| name.to_owned());
    assert_eq!(names("targets", ".rs"), targets);
    assert_eq!(names("corpus", ""), targets);
}

/// A fuzzer that never gets past the first check proves nothing.
#[test]
fn the_corpora_reach_what_is_accepted() {
    let hellos = inputs("hello");
    let judged =
        |wanted| hellos.iter().any(|(_, input)| HelloReader::default().judge(&input[4.min(input.len())..]) == wanted);
    for verdict in [Verdict::Mesh, Verdict::Open, Verdict::Plaintext, Verdict::TooLong] {
        assert!(judged(verdict), "no hello is {verdict:?}");
    }
    assert!(inputs("leaf").iter().any(|(_, input)| leaf_identity(&CertificateDer::from(&input[..])).is_ok()));
    assert!(inputs("config").iter().any(|(_, input)| is_valid_config(input)));
    assert!(inputs("bundle").iter().any(|(_, input)| input.starts_with(b"-----BEGIN CERTIFICATE-----")));
}

fn is_valid_config(input: &[u8]) -> bool {
    let text = String::from_utf8_lossy(input).into_owned();
    mesh_agent::config::parse(&[mesh_agent::config::SourceFile { name: "one.yaml".into(), text }]).is_ok()
}
