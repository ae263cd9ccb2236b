//! What the mesh costs in instructions, on the kernels of the VM tier: stock Debian ones, which have kernel TLS.
use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, bail};
use mesh_benches::counted;

use super::{LOAD, build_program};
use crate::{
    build,
    process::say,
    setup::{self, Purpose},
    vm::{self, Series},
};

/// Count instructions on other kernels, emulated: no mesh, user-space TLS, kernel TLS read and written, and spliced
#[derive(clap::Args)]
pub(super) struct Options {
    /// The kernels (6.1, 6.12, latest), all if none is named
    #[arg(value_parser = series)]
    kernels: Vec<Series>,
    /// How long each task is done, in seconds of a processor with 10^9 instructions a second
    #[arg(long, default_value_t = 0.2)]
    seconds: f64,
    /// Only the modes whose name begins so, like `kernel` or `relay`, and no mesh
    #[arg(long, default_value = "")]
    only: String,
    /// Write the lines of JSON to this file instead of standard output
    #[arg(long)]
    json: Option<PathBuf>,
}

fn series(word: &str) -> Result<Series, String> {
    word.parse().map_err(|()| "not one of 6.1, 6.12, latest".to_owned())
}

impl Options {
    pub(super) fn run(&self) -> Result<ExitCode> {
        if let Some(obstacle) = vm::obstacle() {
            bail!(obstacle);
        }
        setup::ensure(Purpose::Vm)?;
        let agent = build::build(true)?.agent;
        let (program, load) = (build_program("--bin", "mesh-bench-counted")?, build_program("--bin", LOAD)?);
        let relay = build_program("--example", "mesh-bench-relay")?;
        let arguments = counted::arguments(&agent, &load, &relay, self.seconds, &self.only);
        let lines = vm::count(&self.kernels, &program, &arguments)?.concat();
        say(counted::table(&counted::read(&lines)?));
        match &self.json {
            Some(path) => fs::write(path, lines).with_context(|| format!("write {}", path.display()))?,
            None => say(lines),
        }
        Ok(ExitCode::SUCCESS)
    }
}
