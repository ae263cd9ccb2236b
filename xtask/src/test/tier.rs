//! The test tiers: what each needs, what it may cost and what it runs.
use std::{fmt, process::Command, time::Instant};

use anyhow::Result;

use crate::{
    build, cluster, fuzz, image, process,
    setup::{self, Purpose},
    vm, workspace,
};

/// A group of tests with the same needs.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub(crate) enum Tier {
    /// Format and lints of the whole workspace.
    Lint,
    /// Everything that needs neither privileges nor the BPF toolchain.
    Unit,
    /// Looks for inputs that break a promise of the parsers.
    Fuzz,
    /// The native tier's tests on other kernels, in virtual machines.
    Vm,
    /// Real eBPF programs between network namespaces; needs root.
    Native,
    /// A real Kubernetes cluster; needs root and Go.
    Kubernetes,
    /// Half an hour of mixed traffic and restarts; needs root.
    Soak,
}

impl Tier {
    /// In the order they run: cheap ones first, and a tier with test results last.
    pub(crate) const ALL: [Self; 7] =
        [Self::Lint, Self::Unit, Self::Fuzz, Self::Vm, Self::Kubernetes, Self::Native, Self::Soak];

    /// Minutes that the tier should take on two cores, after the first build of the dependencies.
    pub(crate) fn budget_min(self) -> u64 {
        match self {
            Self::Lint => 2,
            Self::Unit => 3,
            Self::Fuzz => 3,
            Self::Vm => 15,
            Self::Kubernetes => 5,
            Self::Native => 6,
            Self::Soak => soak_min() + 10,
        }
    }

    /// Minutes after which the tier is killed. Leaves room for a first build: the TLS library alone takes minutes.
    pub(crate) fn limit_min(self) -> u64 {
        match self {
            Self::Lint => 15,
            Self::Unit => 20,
            Self::Fuzz => 20,
            Self::Vm => 60,
            // Kubernetes itself is built first.
            Self::Kubernetes => 45,
            Self::Native => 30,
            Self::Soak => soak_min() + 25,
        }
    }

    /// Why this machine cannot run the tier. Installs what is missing where it may.
    pub(crate) fn obstacle(self) -> Option<String> {
        match self {
            Self::Lint => ["clippy", "fmt"].into_iter().find_map(missing_component),
            Self::Unit => None,
            Self::Fuzz => lacks(Purpose::Build),
            Self::Vm => vm::obstacle().or_else(|| lacks(Purpose::Vm)),
            Self::Kubernetes | Self::Native | Self::Soak if !rustix::process::geteuid().is_root() => {
                Some("needs root: namespaces and eBPF".to_owned())
            }
            Self::Native | Self::Soak => lacks(Purpose::Run),
            Self::Kubernetes => cluster::obstacle().or_else(|| lacks(Purpose::Cluster)),
        }
    }

    /// Runs the tier until `deadline`; `selection` says what of the VM tier is wanted.
    pub(crate) fn run(self, selection: &vm::Selection, deadline: Instant) -> Result<()> {
        match self {
            Self::Lint => {
                process::run_until(&mut cargo(&["fmt", "--all", "--check"]), deadline)?;
                process::run_until(&mut cargo(&CLIPPY), deadline)
            }
            Self::Unit => process::run_until(&mut cargo(&UNIT), deadline),
            Self::Vm => vm::run(selection, deadline),
            Self::Fuzz => {
                process::run_until(&mut fuzz::build_command()?, deadline)?;
                fuzz::run_all(FUZZ_SECONDS)
            }
            Self::Native => with_agent(&NATIVE_BUILD, &NATIVE_RUN, deadline),
            Self::Kubernetes => on_cluster(selection.long, deadline),
            Self::Soak => with_agent(&SOAK, &SOAK_RUN, deadline),
        }
    }
}

/// Tests that start agents.
fn with_agent(tests: &[&str], run: &[&str], deadline: Instant) -> Result<()> {
    process::run_until(&mut build::agent_command(true)?, deadline)?;
    // The build is done: this only asks where the agent is and that its object is real.
    let built = build::build(true)?;
    process::run_until(cargo(tests).args(run).env("MESH_AGENT_BIN", built.agent), deadline)
}

/// Tests that bring up a cluster.
fn on_cluster(long: bool, deadline: Instant) -> Result<()> {
    let built = cluster::build()?;
    let archive = image::default_archive()?;
    let image = image::write(&image::default_name(), &archive)?;
    if long {
        // A whole build more.
        image::verify(&image::default_name(), &image)?;
    }
    let mut tests = cargo(&KUBERNETES);
    tests
        .env("MESH_CLUSTER_PROGRAM", built.program)
        .env("MESH_IMAGE", image.archive)
        .env("MESH_AGENT_BIN", image.agent);
    process::run_until(tests.env("MESH_CLUSTER_IMAGES", std::env::join_paths(built.images)?), deadline)
}

/// How long the soak will take, by the variable that tells it.
fn soak_min() -> u64 {
    std::env::var("MESH_SOAK_MINUTES").ok().and_then(|minutes| minutes.parse().ok()).unwrap_or(30)
}

/// For each target: enough to meet what a change has broken, not to find what has been there for long.
const FUZZ_SECONDS: u64 = 20;

// mesh-ebpf is built for the BPF target only, and there with another compiler.
const CLIPPY: [&str; 9] =
    ["clippy", "--locked", "--workspace", "--exclude", "mesh-ebpf", "--all-targets", "--", "-D", "warnings"];
const UNIT: [&str; 5] = ["test", "--locked", "--workspace", "--exclude", "mesh-ebpf"];
/// Builds the native tests. No doc-tests: the last summary is a test's.
pub(crate) const NATIVE_BUILD: [&str; 8] =
    ["test", "--locked", "--release", "--package=mesh-tests", "--lib", "--tests", "--features", "native"];
// One test at a time: they share two cores with the agents that they wait for.
const NATIVE_RUN: [&str; 2] = ["--", "--test-threads=1"];
const KUBERNETES: [&str; 15] = [
    "test",
    "--locked",
    "--release",
    "--package=mesh-tests",
    "--test=cluster",
    "--test=kubernetes",
    "--test=manifests",
    "--test=demo_kubernetes",
    "--test=ca",
    "--test=cni",
    "--test=services",
    "--features=kubernetes",
    "--",
    // What it measured is worth reading.
    "--nocapture",
    "--test-threads=1",
];
const SOAK: [&str; 9] = [
    "test",
    "--locked",
    "--release",
    "--package=mesh-tests",
    "--test=soak",
    "--test=identity",
    "--test=rego",
    "--features",
    "soak",
];
const SOAK_RUN: [&str; 3] = ["--", "--nocapture", "--test-threads=1"];

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Fuzz => "fuzz",
            Self::Kubernetes => "kubernetes",
            Self::Lint => "lint",
            Self::Native => "native",
            Self::Soak => "soak",
            Self::Unit => "unit",
            Self::Vm => "vm",
        })
    }
}

fn lacks(purpose: Purpose) -> Option<String> {
    setup::ensure(purpose).err().map(|error| format!("{error:#}"))
}

fn missing_component(name: &str) -> Option<String> {
    let found = workspace::cargo().args([name, "--version"]).output().is_ok_and(|output| output.status.success());
    (!found).then(|| format!("needs cargo {name}: rustup component add clippy rustfmt"))
}

fn cargo(arguments: &[&str]) -> Command {
    let mut command = workspace::cargo();
    command.args(arguments);
    command
}
