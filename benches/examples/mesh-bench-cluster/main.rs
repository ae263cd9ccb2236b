//! What a large cluster costs an agent: memory, the time until it is ready, and the processor time of changes.
//!
//! A real agent follows a real API server that has nodes, pods, Services and policies and nothing that runs them. What the API server
//! costs is not counted. An example, because it needs the client that only the agent's own dependencies have.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use mesh_tests::agent::{Agent, Cluster};
use mesh_tests::apiserver::ApiServer;
use mesh_tests::metrics;
use mesh_tests::wait::wait_until;
use mesh_tests::world::World;

mod changes;
mod load;
mod objects;
mod process;

use objects::Plan;
use process::Usage;

/// Within this a busy machine has read everything.
const READY: Duration = Duration::from_secs(120);
/// After this the first list is long gone.
const SETTLE: Duration = Duration::from_secs(5);

/// What it may cost with the sizes that are the defaults.
const MOST_MIB: u64 = 150;
const MOST_S_UNTIL_READY: f64 = 10.0;
const MOST_OF_A_CORE: f64 = 0.1;

/// Measure one agent in a large cluster.
#[derive(Parser)]
struct Options {
    /// The agent's program
    #[arg(long)]
    agent: PathBuf,
    #[command(flatten)]
    plan: Plan,
    /// Changes of pods a second
    #[arg(long, default_value_t = 100)]
    changes: u32,
    /// For how long, in seconds
    #[arg(long, default_value_t = 30)]
    seconds: u32,
    /// Fail if it costs more than it may
    #[arg(long)]
    check: bool,
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    let world = World::builder().node("a").node("b").build()?;
    let (node, directory) = (world.node("a"), world.directory());
    let (own, ca) = (directory.join("agent"), directory.join("ca"));
    std::fs::create_dir(&own)?;
    let mut init = node.place().command(&options.agent);
    node.place()
        .run(init.args(["ca", "init", "--trust-domain", objects::TRUST_DOMAIN, "--dir"]).arg(&ca))?
        .success()?;
    let api = ApiServer::start(node, directory)?;
    api.apply(&objects::head(&ca))?;
    let kubeconfig = Kubeconfig::read_from(api.kubeconfig())?;
    node.place().netns.enter(|| {
        // Its threads begin in the namespace of the one that makes them.
        tokio::runtime::Runtime::new()?.block_on(async {
            let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
            let client = Client::try_from(config)?;
            let started = Instant::now();
            load::fill(&client, &options.plan).await?;
            say(&format!("the cluster is there after {:.0} s", started.elapsed().as_secs_f64()));
            anyhow::Ok(())
        })
    })?;

    let started = Instant::now();
    let files = [("--cni-socket", "cni.sock"), ("--cni-known", "known.json")];
    let arguments = files.iter().flat_map(|(flag, file)| [(*flag).to_owned(), own.join(file).display().to_string()]);
    let arguments = arguments.collect();
    let cluster = Cluster { kubeconfig: api.kubeconfig(), arguments };
    let agent = Agent::of_cluster(&options.agent, node, &own, cluster)?;
    let pid = agent.id().context("the agent has no process")?;
    let is_ready = || {
        let answer = metrics::get(&node.place().netns, agent.admin(), "/readyz");
        Ok(answer.is_ok_and(|answer| answer.status == 200).then_some(()))
    };
    wait_until(READY, "the agent is ready", is_ready).with_context(|| agent.log().display().to_string())?;
    let ready_s = started.elapsed().as_secs_f64();
    let at_start = Usage::of(pid)?;
    pass(SETTLE)?;
    let before = Usage::of(pid)?;
    pass(SETTLE)?;
    let idle = Usage::of(pid)?.since(&before);

    let kubeconfig = Kubeconfig::read_from(api.kubeconfig())?;
    let (made, used) = node.place().netns.enter(|| {
        tokio::runtime::Runtime::new()?.block_on(async {
            let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
            let client = Client::try_from(config)?;
            let before = Usage::of(pid)?;
            let made = changes::make(&client, &options.plan, options.changes, options.seconds).await?;
            anyhow::Ok((made, Usage::of(pid)?.since(&before)))
        })
    })?;
    let after = Usage::of(pid)?;
    let last = format!("{}/{}", made.last.0, made.last.1);
    let known = wait_until(READY, "the agent knows the last pod", || {
        Ok(agent.ask(&["explain", &last, &format!("{last}:80")]).is_ok().then_some(()))
    });
    ensure!(known.is_ok(), "the agent does not know {last}, which was made last");

    let rows = [
        ("from the start until ready", format!("{ready_s:.1} s")),
        ("processor time until ready", format!("{:.1} s", at_start.cpu.as_secs_f64())),
        ("memory, most", mib(after.peak)),
        ("memory, ready", mib(before.resident)),
        ("memory, after the changes", mib(after.resident)),
        ("processor without changes", percent(&idle)),
        ("changes a second", format!("{:.0}", f64::from(made.count) / used.elapsed.as_secs_f64())),
        ("processor with changes", percent(&used)),
        ("processor time of a change", format!("{:.0} us", used.cpu.as_secs_f64() * 1e6 / f64::from(made.count))),
    ];
    rows.iter().for_each(|(what, value)| say(&format!("| {what} | {value} |")));
    let is_within = ready_s <= MOST_S_UNTIL_READY && after.peak <= MOST_MIB << 20 && share(&used) <= MOST_OF_A_CORE;
    Ok(if is_within || !options.check { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[expect(clippy::print_stdout, reason = "this is what the program is for")]
fn say(line: &str) {
    println!("{line}");
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn mib(bytes: u64) -> String {
    format!("{:.0} MiB", bytes as f64 / 1_048_576.0)
}

fn percent(used: &Usage) -> String {
    format!("{:.1} % of a core", 100.0 * share(used))
}

/// Of one processor.
fn share(used: &Usage) -> f64 {
    used.cpu.as_secs_f64() / used.elapsed.as_secs_f64()
}

/// Lets time pass, which is what is measured.
fn pass(time: Duration) -> Result<()> {
    let begun = Instant::now();
    wait_until(2 * time, "time passes", || Ok((begun.elapsed() >= time).then_some(())))
}
