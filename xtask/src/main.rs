//! Development commands: `cargo xtask <command>`. Each command is a file with one `Options` struct.
//!
//! A program of ours rather than scripts, so that what a machine needs, builds and tests is typed and tested too.
#![deny(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;

mod bench;
mod build;
mod ci;
mod cluster;
mod crds;
mod demo;
mod doctor;
mod fuzz;
mod image;
mod process;
mod setup;
mod sys;
mod test;
mod tidy;
mod vm;
mod workspace;

/// Development commands of Hauberk.
#[derive(Parser)]
#[command(name = "cargo xtask", disable_help_subcommand = true)]
enum Command {
    Bench(bench::Options),
    Build(build::Options),
    Ci(ci::Options),
    Cluster(cluster::Options),
    Crds(crds::Options),
    Demo(demo::Options),
    Doctor(doctor::Options),
    Fuzz(fuzz::Options),
    Image(image::Options),
    Setup(setup::Options),
    Test(test::Options),
    Tidy(tidy::Options),
}

fn main() -> ExitCode {
    // Not returned: with RUST_BACKTRACE set, a backtrace of xtask would bury what has to be done.
    Command::parse().run().unwrap_or_else(|error| {
        process::say(format_args!("error: {error:#}"));
        ExitCode::FAILURE
    })
}

impl Command {
    fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Bench(options) => options.run(),
            Self::Build(options) => options.run(),
            Self::Ci(options) => options.run(),
            Self::Cluster(options) => options.run(),
            Self::Crds(options) => options.run(),
            Self::Demo(options) => options.run(),
            Self::Doctor(options) => options.run(),
            Self::Fuzz(options) => options.run(),
            Self::Image(options) => options.run(),
            Self::Setup(options) => options.run(),
            Self::Test(options) => options.run(),
            Self::Tidy(options) => options.run(),
        }
    }
}
