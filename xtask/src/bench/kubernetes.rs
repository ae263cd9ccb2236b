//! What a large Kubernetes cluster costs one agent.
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};

use super::build_program;
use crate::{
    build, cluster,
    setup::{self, Purpose},
};

/// The bench.
const PROGRAM: &str = "mesh-bench-cluster";

/// Measure one agent in a large cluster: memory, time until ready, processor time while pods change
#[derive(clap::Args)]
pub(super) struct Options {
    /// Pods, all of them in the mesh and on other nodes than the agent's
    #[arg(long, default_value_t = 10_000)]
    pods: u32,
    /// AuthorizationPolicies
    #[arg(long, default_value_t = 1_000)]
    policies: u32,
    /// Nodes, which nobody runs
    #[arg(long, default_value_t = 500)]
    nodes: u32,
    /// Services with an EndpointSlice each
    #[arg(long, default_value_t = 500)]
    services: u32,
    /// Changes of pods a second
    #[arg(long, default_value_t = 100)]
    changes: u32,
    /// For how long, in seconds
    #[arg(long, default_value_t = 30)]
    seconds: u32,
    /// Fail if it costs more than it may: 150 MiB, 10 s until ready, a tenth of a core
    #[arg(long)]
    check: bool,
}

impl Options {
    pub(super) fn run(&self) -> Result<ExitCode> {
        if let Some(obstacle) = cluster::obstacle() {
            bail!(obstacle);
        }
        setup::ensure(Purpose::Bench)?;
        let agent = build::build(true)?.agent;
        let (bench, built) = (build_program("--example", PROGRAM)?, cluster::build()?);
        let mut command = Command::new(bench);
        command.env("MESH_CLUSTER_PROGRAM", built.program).arg("--agent").arg(agent);
        let numbers = [
            ("--pods", self.pods),
            ("--policies", self.policies),
            ("--nodes", self.nodes),
            ("--services", self.services),
            ("--changes", self.changes),
            ("--seconds", self.seconds),
        ];
        command.args(numbers.iter().flat_map(|(flag, number)| [(*flag).to_owned(), number.to_string()]));
        command.args(self.check.then_some("--check"));
        let status = command.status().with_context(|| format!("start {PROGRAM}"))?;
        if !status.success() {
            bail!("{PROGRAM} failed: {status}");
        }
        Ok(ExitCode::SUCCESS)
    }
}
