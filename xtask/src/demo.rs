//! Two nodes on this machine, real applications between them, and what the wire shows: the mesh in one command.
use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::{
    build,
    setup::{self, Purpose},
};

/// Show the mesh at work between two nodes on this machine
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Check every claim and say which passed
    #[arg(long)]
    check: bool,
    /// Leave the nodes running until Enter is pressed
    #[arg(long)]
    keep: bool,
}

impl Options {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        setup::ensure(Purpose::Run)?;
        let built = build::build(true)?;
        bail!("not wired: agent {}, check {}, keep {}", built.agent.display(), self.check, self.keep)
    }
}
