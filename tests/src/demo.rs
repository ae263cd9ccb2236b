//! `cargo xtask demo`: an unmodified client and server on two nodes, first without and then with the mesh, with the
//! wire between them recorded.
//!
//! The story and the claims are the tests' own (`claims`): what a reader is shown is what CI checks.

mod application;
mod keep;
pub mod kubernetes;
mod scenes;
mod story;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use crate::mesh::Mode;
use crate::stage::{self, Stage};
use crate::wait::{LIMIT, wait_until};
use crate::world::leftovers;
use application::Application;
use story::Story;

/// What the demo shall do.
#[derive(Clone, Copy, Debug, Default)]
pub struct DemoOptions {
    /// End with a list of the claims, each passed or failed.
    pub check: bool,
    /// Leave everything running until Ctrl-C.
    pub keep: bool,
}

/// Runs the demo with the given agent; fails unless every claim holds.
pub fn run(agent_bin: &Path, options: DemoOptions) -> Result<ExitCode> {
    let mut story = Story::default();
    let played = play(&mut story, agent_bin, options);
    if let Err(error) = played {
        story.claim("the demo runs to its end", || Err(error))?;
    }
    story.finish(options.check)
}

fn play(story: &mut Story, agent_bin: &Path, options: DemoOptions) -> Result<()> {
    let world = stage::world().context("build the two nodes")?;
    let name = world.name().to_owned();
    let application = Application::start(&world).context("start the application")?;
    scenes::introduce(story, &world, &application)?;
    scenes::without_the_mesh(story, &world, &application)?;

    let mut stage = Stage::on(world, agent_bin, Mode::Strict).context("start the mesh")?;
    scenes::with_the_mesh(story, &stage, &application)?;
    scenes::identities(story, &stage)?;
    scenes::refusals(story, &stage)?;
    scenes::crash(story, &mut stage)?;
    scenes::counters(story, &stage)?;
    if options.keep {
        keep::until_interrupted(story, &stage, &application)?;
    }

    story.chapter("Cleaning up")?;
    drop(application);
    stage.remove()?;
    let mut left = Vec::new();
    story.claim("nothing is left: no namespace, cgroup, pin, process or file", || {
        // Killed processes whose parent was killed too wait for init to reap them.
        wait_until(LIMIT, "removing everything", || {
            left = leftovers(&name)?;
            Ok(left.is_empty().then_some(()))
        })
        .with_context(|| format!("{left:?}"))?;
        Ok(String::new())
    })
}
