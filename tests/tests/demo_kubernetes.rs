//! The demo on Kubernetes as a stranger meets it: every claim holds, and interrupted it leaves nothing behind.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use mesh_tests::app;
use mesh_tests::cluster::remains;
use mesh_tests::process::Process;
use mesh_tests::wait::wait_until;
use rustix::process::Signal;
use std::os::unix::process::CommandExt as _;
use std::time::Duration;

/// How long a cluster may take to come and to go, on a machine that does much else.
const LIMIT: Duration = Duration::from_secs(600);

/// Starts the demo in a process group of its own.
fn start(output: &Path) -> Result<Process> {
    let agent = std::env::var_os("MESH_AGENT_BIN").context("MESH_AGENT_BIN names no agent")?;
    let mut command = Command::new(app::find()?);
    command.args(["demo", "--kubernetes", "--agent"]).arg(agent).process_group(0);
    Process::start(&mut command, output.join("stdout"), output.join("stderr"))
}

#[test]
#[cfg_attr(not(feature = "kubernetes"), ignore = "brings up a cluster: cargo xtask test kubernetes")]
fn every_claim_of_the_demo_on_kubernetes_holds() -> Result<()> {
    let output = tempfile::tempdir()?;
    let mut demo = start(output.path())?;
    let status = demo.wait_exit(LIMIT)?;
    let told = demo.stdout()?;
    ensure!(status.success(), "{status}\n{told}\n{}", demo.stderr()?);
    let last = told.lines().last().unwrap_or_default();
    ensure!(last.ends_with(" passed, 0 failed") && !last.starts_with("0 "), "{told}");
    ensure!(remains()?.is_empty(), "{:?} stayed", remains()?);
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "kubernetes"), ignore = "brings up a cluster: cargo xtask test kubernetes")]
fn an_interrupted_demo_on_kubernetes_leaves_nothing_behind() -> Result<()> {
    let output = tempfile::tempdir()?;
    let mut demo = start(output.path())?;
    wait_until(LIMIT, "the chapter `Installed`", || {
        let told = demo.stdout()?;
        ensure!(!told.contains("FAILED"), "{told}");
        Ok(told.contains("3. Installed").then_some(()))
    })?;
    demo.signal(Signal::INT)?;
    let status = demo.wait_exit(LIMIT)?;
    ensure!(!status.success(), "interrupted, and yet a success");
    ensure!(remains()?.is_empty(), "{:?} stayed", remains()?);
    Ok(())
}
