//! Tells the demo on standard output and keeps the score of its claims.

use std::io::{Write, stdout};
use std::process::ExitCode;

use anyhow::Result;

use crate::guard;

/// How much of a connection's beginning is shown.
const SHOWN_BYTES: usize = 48;

#[derive(Debug, Default)]
pub(super) struct Story {
    chapters: usize,
    claims: Vec<(String, Result<(), String>)>,
}

impl Story {
    pub(super) fn chapter(&mut self, title: &str) -> Result<()> {
        self.chapters += 1;
        self.line("")?;
        self.line(&format!("{}. {title}", self.chapters))
    }

    /// Prints a line at once; a reader follows along.
    pub(super) fn line(&self, text: &str) -> Result<()> {
        guard::pause_if_interrupted();
        let mut out = stdout().lock();
        writeln!(out, "{text}")?;
        out.flush()?;
        Ok(())
    }

    /// Makes a claim: `check` returns the evidence that the reader is shown.
    pub(super) fn claim(&mut self, claim: &str, check: impl FnOnce() -> Result<String>) -> Result<()> {
        let checked = check();
        guard::pause_if_interrupted();
        let result = match checked {
            Ok(evidence) => {
                self.line(&format!("   ok: {claim}"))?;
                for line in evidence.lines() {
                    self.line(&format!("       {line}"))?;
                }
                Ok(())
            }
            Err(error) => {
                self.line(&format!("   FAILED: {claim}"))?;
                for line in format!("{error:#}").lines() {
                    self.line(&format!("       {line}"))?;
                }
                Err(format!("{error:#}"))
            }
        };
        self.claims.push((claim.to_owned(), result));
        Ok(())
    }

    /// Tells the score.
    pub(super) fn finish(self, check: bool) -> Result<ExitCode> {
        let failed = self.claims.iter().filter(|(_, result)| result.is_err()).count();
        let passed = self.claims.len() - failed;
        self.line("")?;
        if check {
            for (claim, result) in &self.claims {
                match result {
                    Ok(()) => self.line(&format!("passed  {claim}"))?,
                    Err(error) => {
                        let first = error.lines().next().unwrap_or_default();
                        self.line(&format!("FAILED  {claim}: {first}"))?;
                    }
                }
            }
            self.line(&format!("{passed} passed, {failed} failed"))?;
        } else if failed == 0 {
            self.line(&format!("All {passed} claims hold. `--check` lists them, `--keep` leaves the mesh running."))?;
        } else {
            self.line(&format!("{failed} of {} claims do not hold.", passed + failed))?;
        }
        Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// The beginning of a connection, as a packet dump shows it.
pub(super) fn dump(bytes: &[u8]) -> String {
    let rows = bytes[..bytes.len().min(SHOWN_BYTES)].chunks(16).map(|row| {
        let hex: Vec<String> = row.iter().map(|byte| format!("{byte:02x}")).collect();
        let text: String =
            row.iter().map(|byte| if byte.is_ascii_graphic() { char::from(*byte) } else { '.' }).collect();
        format!("{:<48} {text}\n", hex.join(" "))
    });
    rows.collect()
}
