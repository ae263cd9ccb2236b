//! `mesh-agent check`: whether a node and its cluster are fit for the mesh, before and after it is installed, and what to do if not.
//!
//! What isn't installed yet is a warning; what an installed mesh lacks is a failure.

use serde::Serialize;

use super::inspect::{InspectError, in_form, style_of_stdout};
use crate::admin::table::{Cell, Style, Tone, render};
use crate::args::doctor::DoctorArgs;

mod agent;
mod cluster;
mod node;

/// How a check came out.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// As it should be.
    Ok,
    /// The mesh runs, or will; something should be looked at.
    Warn,
    /// The mesh doesn't run, or not for long.
    Fail,
}

/// What one check found.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
struct Finding {
    check: &'static str,
    state: State,
    found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, state: State::Ok, found: found.into(), remedy: None }
    }

    fn warn(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, state: State::Warn, found: found.into(), remedy: Some(remedy.into()) }
    }

    fn fail(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { state: State::Fail, ..Self::warn(check, found, remedy) }
    }
}

/// What came out of all checks.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Examined {
    /// As asked for: a table, JSON or YAML.
    pub text: String,
    /// Whether nothing failed.
    pub fit: bool,
}

/// Looks at everything.
pub async fn examine(args: &DoctorArgs) -> Result<Examined, InspectError> {
    let mut findings = Vec::new();
    if !args.no_node {
        let (status, certificates) = agent::asked(&args.inspect.admin_socket).await;
        findings.extend(node::findings(args, status.is_ok()));
        findings.extend(agent::findings(status, certificates));
    }
    if args.kubernetes {
        findings.extend(cluster::findings().await);
    }
    let fit = findings.iter().all(|finding| finding.state != State::Fail);
    // Never cut: what to do is at the end of a line.
    let style = Style { width: None, ..style_of_stdout() };
    Ok(Examined { text: in_form(&findings, args.inspect.output, || table(&findings, style))?, fit })
}

fn table(findings: &[Finding], style: Style) -> String {
    let row = |finding: &Finding| {
        let state = match finding.state {
            State::Ok => Cell("ok".to_owned(), Tone::Good),
            State::Warn => Cell("warn".to_owned(), Tone::Plain),
            State::Fail => Cell("fail".to_owned(), Tone::Bad),
        };
        let remedy = finding.remedy.clone().unwrap_or_default();
        vec![finding.check.into(), state, finding.found.clone().into(), remedy.into()]
    };
    render(&["CHECK", "STATE", "FOUND", "WHAT TO DO"], &findings.iter().map(row).collect::<Vec<_>>(), style)
}

/// An error with its causes, for one line.
fn told(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source()).map(ToString::to_string);
    // Some quote theirs.
    let all = causes.fold(
        error.to_string(),
        |text, cause| {
            if text.contains(&cause) { text } else { format!("{text}: {cause}") }
        },
    );
    all.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_says_what_to_do() {
        let findings = [
            Finding::ok("kernel", "6.12.1"),
            Finding::warn("agent", "none answers", "install the mesh"),
            Finding::fail("bpffs", "/sys/fs/bpf is no bpf file system", "mount -t bpf bpf /sys/fs/bpf"),
        ];
        let expected = "\
CHECK   STATE  FOUND                              WHAT TO DO
kernel  ok     6.12.1
agent   warn   none answers                       install the mesh
bpffs   fail   /sys/fs/bpf is no bpf file system  mount -t bpf bpf /sys/fs/bpf
";
        assert_eq!(table(&findings, Style::default()), expected);
        let json = serde_json::to_value(&findings).unwrap();
        assert_eq!(json[0], serde_json::json!({"check": "kernel", "state": "ok", "found": "6.12.1"}));
        assert_eq!(json[2]["remedy"], "mount -t bpf bpf /sys/fs/bpf");
    }
}
