//! Checks the rules of the house that neither the compiler nor clippy knows: which module may import which, where
//! `unsafe` may stand, and what every file and crate must have.
//!
//! Works on tokens, not on a syntax tree: paths in macros and in the middle of expressions count like those in `use`.
use std::{fmt, io::Write as _, path::Path, process::ExitCode};

use anyhow::{Result, bail};

use crate::workspace;

mod files;
mod layers;
mod paths;
mod source;

/// Check the layers of imports and the other rules of the house
#[derive(clap::Args)]
pub(crate) struct Options {}

impl Options {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let violations = check(&workspace::root())?;
        let mut out = std::io::stdout().lock();
        for violation in &violations {
            writeln!(out, "{violation}")?;
        }
        if !violations.is_empty() {
            bail!("{} violations", violations.len());
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// A broken rule, with its place.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Violation {
    /// Relative to the workspace.
    file: String,
    /// Counted from 1.
    line: usize,
    what: String,
}

impl Violation {
    fn new(file: &str, line: usize, what: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line, what: what.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.what)
    }
}

/// Every violation in the workspace at `root`, by file and line.
fn check(root: &Path) -> Result<Vec<Violation>> {
    let mut violations = Vec::new();
    for file in files::workspace_files(root)? {
        if file.name.ends_with(".rs") {
            violations.extend(check_source(&file.name, &file.text));
        } else {
            violations.extend(files::check_manifest(&file.name, &file.text));
        }
    }
    violations.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
    Ok(violations)
}

/// Every violation in one Rust file; `name` is relative to the workspace.
fn check_source(name: &str, text: &str) -> Vec<Violation> {
    let mut violations = source::check_text(name, text);
    match paths::parse(text) {
        Ok(tokens) => {
            let paths = paths::collect(&tokens);
            violations.extend(source::check_unsafe(name, &paths));
            violations.extend(source::check_names(name, &tokens));
            violations.extend(layers::check(name, &paths));
        }
        Err(line) => violations.push(Violation::new(name, line, "is no Rust")),
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_tidy() {
        let violations = check(&workspace::root()).unwrap();
        let shown: Vec<_> = violations.iter().map(Violation::to_string).collect();
        assert!(shown.is_empty(), "\n{}", shown.join("\n"));
    }

    #[test]
    fn a_violation_names_file_and_line() {
        let found = check_source("mesh-agent/src/tls/verify.rs", "//! Why.\n\nuse crate::proxy::Relay;\n");
        let shown: Vec<_> = found.iter().map(Violation::to_string).collect();
        assert_eq!(shown, ["mesh-agent/src/tls/verify.rs:3: `tls` (L3) imports `proxy` (L4): imports point down only"]);
    }
}
