//! Two nodes on this machine, real applications between them, and what the wire shows: the mesh in one command.
//!
//! The demo itself is in `mesh_tests`: it makes the claims that the native tests make.
use std::process::ExitCode;

use anyhow::Result;
use mesh_tests::demo::{self, DemoOptions, kubernetes::ClusterDemo};

use crate::{
    build, cluster, image, process,
    setup::{self, Purpose},
    workspace,
};

/// Show the mesh at work between two nodes on this machine
#[derive(clap::Args)]
pub(crate) struct Options {
    /// List the claims at the end, each passed or failed
    #[arg(long)]
    check: bool,
    /// Leave the mesh running until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// On a Kubernetes cluster of two nodes, brought up for it
    #[arg(long)]
    kubernetes: bool,
}

impl Options {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let options = DemoOptions { check: self.check, keep: self.keep };
        if self.kubernetes {
            return on_cluster(options);
        }
        setup::ensure(Purpose::Run)?;
        let built = build::build(true)?;
        build_test_program()?;
        demo::run(&built.agent, options)
    }
}

fn on_cluster(options: DemoOptions) -> Result<ExitCode> {
    let cluster = cluster::build()?;
    let written = image::write(&image::default_name(), &image::default_archive()?)?;
    let demo = ClusterDemo { plan: cluster.plan(2, &[]), image: written.archive, agent: written.agent };
    demo::kubernetes::run(&demo, options)
}

/// Builds what runs inside the pods, in this program's own profile: the demo looks for it beside this program.
fn build_test_program() -> Result<()> {
    let mut command = workspace::cargo();
    command.args(["build", "--quiet", "--locked", "--package", "mesh-tests", "--bin", "mesh-test-app"]);
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    process::run(&mut command)
}
