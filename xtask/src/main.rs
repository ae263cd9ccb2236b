//! Development commands: `cargo xtask <command>`. Each command is a file with one `Options` struct.
//!
//! A program of ours rather than scripts, so that what a machine needs, builds and tests is typed and tested too.
#![deny(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;

mod build;
mod ci;
mod demo;
mod doctor;
mod process;
mod setup;
mod sys;
mod test;
mod workspace;

/// Development commands of Hauberk.
#[derive(Parser)]
#[command(name = "cargo xtask", disable_help_subcommand = true)]
enum Command {
    Build(build::Options),
    Ci(ci::Options),
    Demo(demo::Options),
    Doctor(doctor::Options),
    Setup(setup::Options),
    Test(test::Options),
}

fn main() -> anyhow::Result<ExitCode> {
    match Command::parse() {
        Command::Build(options) => options.run(),
        Command::Ci(options) => options.run(),
        Command::Demo(options) => options.run(),
        Command::Doctor(options) => options.run(),
        Command::Setup(options) => options.run(),
        Command::Test(options) => options.run(),
    }
}
