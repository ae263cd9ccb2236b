//! Says what this machine can do for the mesh, and what follows from what it cannot.
//!
//! Everything is tried rather than looked up in a table of versions. Nothing is attached and nothing stays loaded,
//! except that asking for kTLS may load the kernel's module `tls`.
use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use anyhow::Result;

// The agent's own table, so that both say the same; a file that stands alone.
#[path = "../../mesh-agent/src/model/kernel.rs"]
#[expect(unreachable_pub, reason = "the agent's interface")]
mod defects;
mod host;
mod kernel;
mod sockets;
mod table;

/// Show what this machine can do for the mesh
#[derive(clap::Args)]
pub(crate) struct Options {}

impl Options {
    /// Fails if the mesh cannot run here.
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let rows: Vec<_> = kernel::rows().into_iter().chain(sockets::rows()).chain(host::rows()).collect();
        io::stdout().lock().write_all(table::render(&rows).as_bytes())?;
        Ok(if table::is_unusable(&rows) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}
