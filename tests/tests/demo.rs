//! The demo as a stranger meets it: every claim holds, and whenever it is interrupted it leaves nothing behind.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use mesh_tests::process::Process;
use mesh_tests::wait::{LIMIT, wait_until};
use mesh_tests::{app, world::leftovers};
use rustix::process::Signal;

/// Starts the demo in a process group of its own.
fn start(output: &Path) -> Result<Process> {
    let agent = std::env::var_os("MESH_AGENT_BIN").context("MESH_AGENT_BIN names no agent")?;
    let mut command = Command::new(app::find()?);
    command.args(["demo", "--agent"]).arg(agent).process_group(0);
    Process::start(&mut command, output.join("stdout"), output.join("stderr"))
}

/// The prefix of everything that the demo makes, from its first chapter.
fn world_name(demo: &mut Process) -> Result<String> {
    let line = demo.wait_line("the first node", |line| line.contains("network namespace hbk-"))?;
    let name = line.split_once("namespace ").and_then(|(_, rest)| rest.split_once("-a)"));
    Ok(name.context("no world in the demo's first chapter")?.0.to_owned())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn every_claim_of_the_demo_holds() -> Result<()> {
    let output = tempfile::tempdir()?;
    let mut demo = start(output.path())?;
    let name = world_name(&mut demo)?;
    let status = demo.wait_exit(LIMIT)?;
    let told = demo.stdout()?;
    ensure!(status.success(), "{status}\n{told}");
    let last = told.lines().last().unwrap_or_default();
    ensure!(last.ends_with(" passed, 0 failed") && !last.starts_with("0 "), "{told}");
    ensure!(leftovers(&name)?.is_empty(), "{:?} stayed", leftovers(&name)?);
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn an_interrupted_demo_leaves_nothing_behind() -> Result<()> {
    for (chapter, signal) in
        [("1. ", Signal::INT), ("2. ", Signal::TERM), ("3. ", Signal::INT), ("4. ", Signal::INT), ("6. ", Signal::TERM)]
    {
        let output = tempfile::tempdir()?;
        let mut demo = start(output.path())?;
        let name = world_name(&mut demo)?;
        demo.wait_line("the chapter", |line| line.starts_with(chapter))?;
        demo.signal(signal)?;
        let status = demo.wait_exit(LIMIT)?;
        ensure!(!status.success(), "chapter {chapter}: interrupted, and yet a success");
        // Orphans that the demo killed are gone once init has reaped them.
        let what = format!("chapter {chapter}: nothing is left");
        wait_until(LIMIT, &what, || Ok(leftovers(&name)?.is_empty().then_some(())))?;
    }
    Ok(())
}
