//! `mesh-agent audit verify`: reads the evidence, and tells the findings.

use std::io;

use crate::args::audit::AuditVerifyArgs;
use crate::telemetry::audit::CheckpointKey;
use crate::telemetry::audit::verify::{Evidence, Findings, verify};

/// Checks the files, and says whether all is well.
pub fn verify_audit(args: &AuditVerifyArgs) -> io::Result<(String, bool)> {
    let mut evidence = Evidence::default();
    if let Some(path) = &args.key {
        let key = CheckpointKey::from_pem(&std::fs::read_to_string(path)?);
        let no_key = || io::Error::other(format!("{} holds no Ed25519 public key", path.display()));
        evidence.key = Some(key.ok_or_else(no_key)?);
    }
    if let Some(path) = &args.checkpoint {
        evidence.checkpoints = std::fs::read_to_string(path)?;
    }
    let findings = verify(&args.files, &evidence)?;
    Ok((describe(&findings), findings.problems.is_empty()))
}

fn describe(findings: &Findings) -> String {
    let mut lines: Vec<_> = findings.problems.iter().map(|problem| format!("problem: {problem}")).collect();
    lines.extend(findings.notes.iter().map(|note| format!("note: {note}")));
    let (first, last) = findings.span.unwrap_or_default();
    let (records, problems) = (findings.records, findings.problems.len());
    lines.push(match problems {
        0 => format!("ok: {records} records, {first} to {last}, are as they were written"),
        _ => format!("not as written: {problems} problems; {records} records are whole in themselves"),
    });
    lines.push(format!(
        "signed up to record {}; checkpoints kept elsewhere that agree: {}",
        findings.signed, findings.agreed
    ));
    lines.join("\n") + "\n"
}
