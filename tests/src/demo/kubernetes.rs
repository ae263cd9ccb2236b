//! `cargo xtask demo --kubernetes`: the same story on a real cluster, as its operator lives it.
//!
//! An application that is there already, the mesh installed with one command, a label, a policy, and the mesh gone again; the wire between
//! the nodes is recorded all the while.

mod scenes;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use super::DemoOptions;
use super::story::Story;
use crate::cluster::{self, Cluster, Meshed, Plan, SHOP};
use crate::guard::Cleanup;
use scenes::Scene;

/// What the demo is made of.
#[derive(Clone, Debug)]
pub struct ClusterDemo {
    /// The cluster.
    pub plan: Plan,
    /// The archive of the agent's image.
    pub image: PathBuf,
    /// The agent that is in it, for the operator's own commands.
    pub agent: PathBuf,
}

/// What enrols a namespace, as [`SHOP`] has it: here the application comes first, and the label later.
const LABEL: &str = ", labels: {mesh.hauberk.dev/enrolled: 'true'}";

/// Runs the demo; fails unless every claim holds.
pub fn run(demo: &ClusterDemo, options: DemoOptions) -> Result<ExitCode> {
    ensure!(!cluster::exists()?, "a cluster runs here: `cargo xtask cluster down` first");
    let mut story = Story::default();
    if let Err(error) = play(&mut story, demo, options) {
        story.claim("the demo runs to its end", || Err(error))?;
    }
    story.finish(options.check)
}

fn play(story: &mut Story, demo: &ClusterDemo, options: DemoOptions) -> Result<()> {
    story.chapter("A Kubernetes cluster on this machine: upstream's components, two nodes")?;
    let started = Instant::now();
    let (cluster, cleanup) = Cluster::temporary(&demo.plan).context("bring up the cluster")?;
    cluster.load(std::slice::from_ref(&demo.image))?;
    let meshed = Meshed::without_mesh(cluster);
    let documents = SHOP.replacen(LABEL, "", 1);
    ensure!(documents != SHOP, "the application's namespace has no label to take off");
    meshed.deploy_as(&documents)?;
    scenes::introduce(story, &meshed, started)?;

    let capture = meshed.capture()?;
    let pristine = scenes::on_nodes(&meshed)?;
    let scene = Scene::look(&meshed, &capture, &demo.agent)?;
    scene.without_the_mesh(story)?;
    scene.install(story)?;
    scene.enrol(story)?;
    scene.with_the_mesh(story)?;
    scene.policy(story)?;
    if options.keep {
        scene.keep(story)?;
    }
    scene.uninstall(story, &pristine)?;

    story.chapter("Cleaning up")?;
    drop(capture);
    story.claim("nothing is left: no namespace, cgroup, process or file of the cluster", || finish(&cleanup))
}

fn finish(cleanup: &Cleanup) -> Result<String> {
    cleanup.finish()?;
    let left = cluster::remains()?;
    ensure!(left.is_empty(), "{left:?}");
    Ok(String::new())
}
