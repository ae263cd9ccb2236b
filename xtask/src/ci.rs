//! What continuous integration runs: every test tier, and a skipped one is a failure.
use std::process::ExitCode;

use anyhow::Result;

use crate::{test, vm};

/// Run every test tier; a tier that cannot run is a failure
#[derive(clap::Args)]
pub(crate) struct Options {}

impl Options {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        test::run_tiers(&[], &vm::Selection::default(), test::Skips::Fail)
    }
}
