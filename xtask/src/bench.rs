//! What the mesh costs, side by side with no mesh and with a pair of haproxy, between two nodes on this machine.
//!
//! The bench itself is in `mesh_benches`; this builds what it measures, with optimisations. `bench vm` counts instructions
//! on other kernels instead, and `bench kubernetes` measures one agent in a large cluster.
use std::{
    path::PathBuf,
    process::{ExitCode, Stdio},
};

use anyhow::{Context as _, Result, bail};
use mesh_benches::BenchOptions;
use serde_json::Value;

use crate::{
    build,
    process::say,
    setup::{self, Purpose},
    workspace,
};

mod kubernetes;
mod vm;

/// The load generator.
const LOAD: &str = "mesh-bench-load";

/// Measure the mesh beside no mesh and beside a pair of haproxy
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Options {
    #[command(subcommand)]
    elsewhere: Option<Elsewhere>,
    /// How often every mode is measured
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// For how long each time
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// One short round: shows that the bench works, and little else
    #[arg(long, conflicts_with_all = ["rounds", "seconds"])]
    quick: bool,
    /// Only the tasks whose name begins so, like `bulk.up` or `request.64`
    #[arg(long, default_value = "")]
    only: String,
    /// Write the lines of JSON to this file instead of standard output
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Not between two nodes of this machine.
#[derive(clap::Subcommand)]
enum Elsewhere {
    Kubernetes(kubernetes::Options),
    Vm(vm::Options),
}

impl Options {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        match &self.elsewhere {
            Some(Elsewhere::Kubernetes(options)) => return options.run(),
            Some(Elsewhere::Vm(options)) => return options.run(),
            None => {}
        }
        setup::ensure(Purpose::Bench)?;
        let built = build::build(true)?;
        let load = build_program("--bin", LOAD)?;
        let (rounds, seconds) = if self.quick { (1, 0.5) } else { (self.rounds, self.seconds) };
        let options = BenchOptions { rounds, seconds, only: self.only.clone(), json: self.json.clone() };
        mesh_benches::run(&built.agent, &load, &options)
    }
}

/// Builds a program of the bench, whatever profile this one has: an unoptimised one would measure itself.
fn build_program(kind: &str, name: &str) -> Result<PathBuf> {
    let mut command = workspace::cargo();
    command.args(["build", "--quiet", "--locked", "--release", "--package", "mesh-benches", kind, name]);
    command.args(["--message-format", "json-render-diagnostics"]).stderr(Stdio::inherit());
    say(format_args!("building {name}"));
    let output = command.output().context("start cargo")?;
    if !output.status.success() {
        bail!("building {name} failed: {}", output.status);
    }
    executable(name, &String::from_utf8(output.stdout)?).with_context(|| format!("cargo named no executable of {name}"))
}

fn executable(name: &str, messages: &str) -> Option<PathBuf> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    messages
        .filter(|message| message["target"]["name"] == name)
        .find_map(|message| Some(message["executable"].as_str()?.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_says_where_the_load_generator_is() {
        let messages = "{\"target\":{\"name\":\"mesh_benches\"},\"executable\":null}\n\
                        {\"target\":{\"name\":\"mesh-bench-load\"},\"executable\":\"/t/release/mesh-bench-load\"}\n";
        assert_eq!(executable(LOAD, messages), Some("/t/release/mesh-bench-load".into()));
    }
}
