//! Configuration files: every mistake has its place, and their order means nothing to what is right.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mesh_agent::config::{ConfigError, MeshConfig, SourceFile, parse};
use mesh_agent::model::workload::Workload;
use mesh_agent::policy::Connection;
use mesh_agent::state::{MeshState, Route, explain, policy_findings};

/// Stands between two files in one input.
const NEXT_FILE: char = '\u{c}';

/// Checks `input` as one file or several.
pub fn check(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    let mut files: Vec<SourceFile> = (1..)
        .zip(text.split(NEXT_FILE))
        .map(|(number, text)| SourceFile { name: PathBuf::from(format!("{number}.yaml")), text: text.to_owned() })
        .collect();
    let parsed = parse(&files);
    files.reverse();
    let backwards = parse(&files);
    match parsed {
        Ok(config) => {
            assert_eq!(Ok(&config), backwards.as_ref(), "another order of files is another configuration");
            check_config(config);
        }
        Err(errors) => {
            assert!(backwards.is_err(), "wrong in one order only: {errors}");
            assert!(!errors.0.is_empty());
            let names: BTreeSet<_> = files.iter().map(|file| &file.name).collect();
            for error in &errors.0 {
                assert!(has_place(error), "{error:?}");
                assert!(error.file.as_ref().is_none_or(|file| names.contains(file)), "{error:?}");
                assert!(!error.reason.is_empty() && !error.to_string().contains('\n'), "{error:?}");
            }
        }
    }
}

/// A file and a document; but what is nowhere has no place.
fn has_place(error: &ConfigError) -> bool {
    let nowhere = error.document.is_none() && error.object.is_none() && error.reason.starts_with("no Mesh object");
    if error.file.is_some() { error.document.is_some_and(|number| number > 0) } else { nowhere }
}

/// Whoever is in it has an identity of its trust domain, and is found at its addresses.
fn check_config(config: MeshConfig) {
    let (trust_domain, workloads) = (config.mesh.trust_domain.clone(), config.workloads.clone());
    assert!(workloads.is_sorted_by(|one, other| one.uid < other.uid), "two workloads of one name");
    policy_findings(&config);
    let state = MeshState::new(config);
    let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    for workload in &workloads {
        check_policies(&state, workload, now);
        assert_eq!(workload.identity.trust_domain(), &trust_domain);
        for address in &workload.addresses {
            assert_eq!(state.at(*address).map(|found| &found.uid), Some(&workload.uid), "{address}");
            assert!(state.diverted().any(|range| range.contains(address)), "{address} is not diverted");
        }
    }
}

/// What decides about a connection explains it the same way, and the future of a decision is in the future.
fn check_policies(state: &MeshState, workload: &Workload, now: SystemTime) {
    let destination = (workload.addresses[0], 80).into();
    let Some(explained) = explain(state, workload, destination, now) else { return };
    let Some(arrival) = explained.arrival else { return };
    let peer = matches!(explained.route, Route::Mesh(_)).then_some(&workload.identity);
    let connection = Connection { peer, source: explained.source_address, destination, now };
    assert_eq!(state.policies().evaluate(&workload.uid, &connection), arrival.decision);
    assert!(arrival.holds_until.is_none_or(|until| until > now));
}
