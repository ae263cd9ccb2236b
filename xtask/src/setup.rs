//! Finds what this machine lacks to build, test and show the mesh, and installs it where it may.
//!
//! `build`, `test`, `demo` and `bench` call this first, so a fresh clone needs no list of things to do. Where it may not install,
//! it fails with the exact commands.
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};
use ebpf_build::{COMPILER_PACKAGES, Error, Missing, Toolchain, describe, find_program, linker_arguments, llvm_prefix};

use crate::{
    process::{self, say},
    vm, workspace,
};

pub(crate) mod tools;

mod debian;

use tools::{
    BENCH_TOOLS, BUILD_TOOLS, CLUSTER_TOOLS, CNI_PLUGINS, EMULATOR, EMULATOR_COMPANIONS, RUN_TOOLS, Tool, VM_TOOLS,
};

/// Install what the build, the tests and the demo need
#[derive(clap::Args)]
pub(crate) struct Options {}

/// What the machine is wanted for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Purpose {
    /// Build the agent with a real eBPF object.
    Build,
    /// Also run the native tests or the demo.
    Run,
    /// Also run the bench.
    Bench,
    /// Also run the native tests in virtual machines.
    Vm,
    /// Also run a Kubernetes cluster.
    Cluster,
}

impl Options {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        ensure(Purpose::Vm)?;
        say("nothing is missing");
        Ok(ExitCode::SUCCESS)
    }
}

/// Installs what `purpose` lacks, or fails with the commands that would.
pub(crate) fn ensure(purpose: Purpose) -> Result<()> {
    let tools = missing_tools(purpose);
    let toolchain = missing_toolchain()?;
    if tools.is_empty() && toolchain.is_none() {
        return Ok(());
    }
    for tool in &tools {
        say(format_args!("missing: {} (package {}): {}", tool.program, tool.package, tool.purpose));
    }
    if !may_install() {
        bail!(instructions(&tools, toolchain.as_ref()));
    }
    let mut apt = debian::Apt::default();
    let backported = |tool: &&Tool| tool.package == EMULATOR.package && debian::is_bookworm();
    let (emulator, ordinary): (Vec<_>, Vec<_>) = tools.into_iter().partition(backported);
    apt.install(&tools::packages(&ordinary))?;
    if !emulator.is_empty() {
        let companions = EMULATOR_COMPANIONS.map(str::to_owned);
        vm::install(&[tools::packages(&emulator), companions.to_vec()].concat())?;
    }
    if let Some(missing) = &toolchain {
        install_toolchain(&mut apt, missing)?;
    }
    still_missing(purpose)
}

fn missing_tools(purpose: Purpose) -> Vec<&'static Tool> {
    let find = |program: &str| find_program(program).is_some();
    let mut missing = tools::missing(&BUILD_TOOLS, find);
    if purpose != Purpose::Build {
        missing.extend(tools::missing(&RUN_TOOLS, find));
    }
    if purpose == Purpose::Bench {
        missing.extend(tools::missing(&BENCH_TOOLS, find));
    }
    if purpose == Purpose::Cluster {
        missing.extend(tools::missing(&CLUSTER_TOOLS, find));
        missing.extend((!std::path::Path::new(CNI_PLUGINS.program).exists()).then_some(&CNI_PLUGINS));
    }
    if purpose == Purpose::Vm {
        missing.extend(tools::missing(&VM_TOOLS, find));
        missing.extend(tools::missing(std::slice::from_ref(&EMULATOR), find));
    }
    missing
}

/// What the BPF toolchain lacks. An object that is given ready-made needs none.
fn missing_toolchain() -> Result<Option<Missing>> {
    if std::env::var_os(ebpf_build::OBJECT_ENV).is_some() {
        return Ok(None);
    }
    match Toolchain::find_native() {
        Ok(_) => Ok(None),
        Err(Error::MissingToolchain(missing)) => Ok(Some(missing)),
        Err(error) => Err(error.into()),
    }
}

fn may_install() -> bool {
    rustix::process::geteuid().is_root() && debian::is_debian_like()
}

fn install_toolchain(apt: &mut debian::Apt, missing: &Missing) -> Result<()> {
    if missing.compiler {
        apt.install(&COMPILER_PACKAGES.map(str::to_owned)).with_context(|| missing.to_string())?;
    }
    if missing.linker {
        // Asked again: the compiler that has just come knows which LLVM it has.
        let llvm = missing_toolchain()?.map_or(missing.llvm, |now| now.llvm);
        apt.install(&[format!("llvm-{llvm}-dev")]).with_context(|| missing.to_string())?;
        process::run(&mut linker_command(llvm))?;
    }
    Ok(())
}

fn linker_command(llvm: u32) -> Command {
    let mut command = workspace::cargo();
    command.args(linker_arguments(llvm)).env("LLVM_PREFIX", llvm_prefix(llvm));
    command
}

/// Looks again, for an installation that succeeds and brings nothing must not pass.
fn still_missing(purpose: Purpose) -> Result<()> {
    let (tools, toolchain) = (missing_tools(purpose), missing_toolchain()?);
    if tools.is_empty() && toolchain.is_none() {
        return Ok(());
    }
    bail!("still missing after the installation: {}", instructions(&tools, toolchain.as_ref()))
}

/// What a person has to do where we may not.
fn instructions(tools: &[&Tool], toolchain: Option<&Missing>) -> String {
    let mut text = String::from("this machine lacks what the command needs");
    if !tools.is_empty() {
        let command = describe(&debian::install_command(&tools::packages(tools)));
        text += &format!("; programs. On Debian, as root:\n    {command}");
    }
    if let Some(missing) = toolchain {
        text += &format!("\n{missing}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_commands_to_paste() {
        let missing = Missing { compiler: true, linker: true, llvm: 22 };
        let text = instructions(&[&RUN_TOOLS[0]], Some(&missing));
        assert!(text.contains("apt-get install --yes --no-install-recommends curl"), "{text}");
        assert!(text.contains("apt-get install rustc-web libstd-rust-web-dev-bpf llvm-22-dev"), "{text}");
    }

    #[test]
    fn the_linker_is_built_with_the_compilers_llvm() {
        let shown = describe(&linker_command(22));
        assert!(shown.starts_with("LLVM_PREFIX=/usr/lib/llvm-22 "), "{shown}");
        assert!(shown.ends_with("--features llvm-22"), "{shown}");
    }
}
