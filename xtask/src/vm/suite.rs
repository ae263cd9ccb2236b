//! The native tier's test programs, found where cargo put them: a new file in `tests/tests` is in the VM by itself.
use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result, bail};
use ebpf_build::describe;
use serde_json::Value;

use super::{Selection, left_out};
use crate::{process::say, test::NATIVE_BUILD, workspace};

/// What runs in a guest.
pub(super) struct Suite {
    /// The agent under test.
    pub(super) agent: PathBuf,
    pub(super) programs: Vec<Program>,
}

/// One test program.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Program {
    pub(super) name: String,
    pub(super) executable: PathBuf,
    /// Where cargo would run it.
    pub(super) directory: PathBuf,
    /// Its tests that need a kernel with TLS, and are ignored elsewhere, run too.
    pub(super) with_ignored: bool,
}

/// The programs with such tests.
const NEED_KERNEL_TLS: [&str; 2] = ["datapath", "session"];

/// Builds what TLS sessions promise.
const SESSION_BUILD: [&str; 6] = ["test", "--locked", "--release", "--package=mesh-agent", "--test", "session"];

/// Builds the selected test programs.
pub(super) fn build(agent: PathBuf, selection: &Selection) -> Result<Suite> {
    let wanted = &selection.tests;
    let all = programs(&(messages(&NATIVE_BUILD)? + &messages(&SESSION_BUILD)?));
    if let Some(unknown) = wanted.iter().find(|name| all.iter().all(|program| program.name != **name)) {
        bail!("there is no test program `{unknown}`");
    }
    let is_selected = |name: &String| {
        if selection.is_everyday() { left_out::is_everyday(name) } else { wanted.is_empty() || wanted.contains(name) }
    };
    let programs = all.into_iter().filter(|program| is_selected(&program.name)).collect();
    Ok(Suite { agent, programs })
}

/// What cargo says about a build.
fn messages(arguments: &[&str]) -> Result<String> {
    let mut command = workspace::cargo();
    command.args(arguments).args(["--no-run", "--message-format", "json-render-diagnostics"]);
    let shown = describe(&command);
    say(format_args!("$ {shown}"));
    let output = command.stderr(Stdio::inherit()).output().with_context(|| format!("start `{shown}`"))?;
    if !output.status.success() {
        bail!("`{shown}` failed: {}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The test programs among cargo's messages, by name.
fn programs(messages: &str) -> Vec<Program> {
    let mut programs: Vec<_> = messages.lines().filter_map(|line| program(&serde_json::from_str(line).ok()?)).collect();
    programs.sort_by(|one, other| one.name.cmp(&other.name));
    programs
}

fn program(message: &Value) -> Option<Program> {
    let target = &message["target"];
    // The programs that tests start have no tests of their own.
    let is_bin = target["kind"].as_array()?.iter().any(|kind| kind == "bin");
    let is_test = message["reason"] == "compiler-artifact" && message["profile"]["test"] == true && !is_bin;
    is_test.then(|| {
        let name = target["name"].as_str()?;
        Some(Program {
            with_ignored: NEED_KERNEL_TLS.contains(&name),
            name: name.to_owned(),
            executable: message["executable"].as_str()?.into(),
            directory: Path::new(message["manifest_path"].as_str()?).parent()?.to_owned(),
        })
    })?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_test_program_is_found_and_nothing_else() {
        let message = |name: &str, kind: &str, test: bool| {
            format!(
                r#"{{"reason":"compiler-artifact","manifest_path":"/w/tests/Cargo.toml","target":{{"name":"{name}","kind":["{kind}"]}},"profile":{{"test":{test}}},"executable":"/t/{name}-1"}}"#
            )
        };
        let messages = [
            message("mtls", "test", true),
            message("app", "bin", true),
            message("app", "bin", false),
            message("attest", "test", true),
            "no message".to_owned(),
        ];
        let names: Vec<_> = programs(&messages.join("\n")).into_iter().map(|program| program.name).collect();
        assert_eq!(names, ["attest", "mtls"]);
    }
}
