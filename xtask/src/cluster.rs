//! A real Kubernetes on this machine, for the tests and the demo: brought up, asked and taken down by command.
//!
//! What it is made of is in `mesh_tests::cluster`; here are its program and its images, which are built and kept below cargo's target directory.
use std::{
    fs,
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use mesh_tests::{
    cluster::{self, Cluster, Plan},
    oci,
};

use crate::{
    process::{self, say},
    setup::{self, Purpose},
    workspace,
};

/// A Kubernetes cluster on this machine, of real nodes
#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Build what the cluster runs, and say where its program and its images are
    Build,
    /// Bring it up; the nodes are Ready when this ends
    Up {
        /// How many nodes
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=i64::from(cluster::MOST_NODES)))]
        nodes: u8,
        /// OCI archives to import on every node; may be repeated
        #[arg(long = "image", value_name = "FILE")]
        images: Vec<PathBuf>,
    },
    /// Remove all of it
    Down,
    /// Say what runs, and where things are
    Status,
    /// Import OCI archives on every node
    Load {
        /// The archives
        #[arg(required = true, value_name = "FILE")]
        images: Vec<PathBuf>,
    },
    /// Ask its API server, as an administrator
    #[command(disable_help_flag = true)]
    Kubectl {
        /// What kubectl is called with
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run a program in a node's namespaces
    #[command(disable_help_flag = true)]
    Node {
        /// Its number, from 1 on
        number: usize,
        /// The program and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Kill the API server and leave all else running
    StopApiserver,
    /// Start the API server again
    StartApiserver,
}

impl Options {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        if !rustix::process::geteuid().is_root() {
            bail!("a cluster needs root: namespaces and mounts");
        }
        match &self.action {
            Action::Build => {
                let built = build()?;
                say(format_args!("program: {}", built.program.display()));
                built.images.iter().for_each(|image| say(format_args!("image: {}", image.display())));
            }
            Action::Up { nodes, images } => up(*nodes, images)?,
            Action::Down => cluster::remove()?,
            Action::Status => status()?,
            Action::Load { images } => Cluster::find()?.load(images)?,
            Action::StopApiserver => Cluster::find()?.stop_apiserver()?,
            Action::StartApiserver => Cluster::find()?.start_apiserver()?,
            Action::Kubectl { arguments } => {
                let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
                return pass_on(&mut Cluster::find()?.kubectl().command(&arguments));
            }
            Action::Node { number, command } => {
                let cluster = Cluster::find()?;
                let node = number.checked_sub(1).and_then(|index| cluster.nodes().get(index));
                let node = node.with_context(|| format!("the cluster has {} nodes", cluster.nodes().len()))?;
                return pass_on(node.command(&command[0])?.args(&command[1..]).stdin(Stdio::inherit()));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Why this machine cannot build a cluster.
pub(crate) fn obstacle() -> Option<String> {
    cluster::Go::find().is_none().then(|| "needs Go, 1.21 or newer, to build Kubernetes".to_owned())
}

/// What a cluster runs, ready to run.
pub(crate) struct Built {
    /// The components.
    pub(crate) program: PathBuf,
    /// The archives of the sandbox' image and of the test pods'.
    pub(crate) images: Vec<PathBuf>,
}

impl Built {
    /// A cluster with these and `images`.
    pub(crate) fn plan(&self, nodes: u8, images: &[PathBuf]) -> Plan {
        Plan { program: self.program.clone(), nodes, images: [&self.images, images].concat() }
    }
}

/// Builds the components and the images that every cluster has, unless they are here; installs what is missing.
pub(crate) fn build() -> Result<Built> {
    setup::ensure(Purpose::Cluster)?;
    let directory = workspace::target()?.join("cluster");
    let sources = workspace::root().join("tests/cluster");
    let (program, needed) = cluster::program(&sources, &directory)?;
    if let Some(mut command) = needed {
        say("Kubernetes' components are built; from nothing that takes some ten minutes");
        process::run(&mut command)?;
    }
    let mut images = Vec::new();
    for (name, image) in [("pause", oci::pause()?), ("box", oci::test_box()?)] {
        let path = directory.join(format!("{name}.tar"));
        let (archive, _) = image.archive()?;
        fs::write(&path, archive).with_context(|| format!("write {}", path.display()))?;
        images.push(path);
    }
    Ok(Built { program, images })
}

fn up(nodes: u8, images: &[PathBuf]) -> Result<()> {
    if Cluster::find().is_ok() {
        bail!("a cluster runs already: `cargo xtask cluster down`");
    }
    let plan = build()?.plan(nodes, images);
    let started = Instant::now();
    if let Err(error) = Cluster::up(&plan) {
        // Left as it is: the logs say why, and the next `up` begins by removing it.
        bail!("{error:#}");
    }
    say(format_args!("up after {:.1} s", started.elapsed().as_secs_f64()));
    status()
}

fn status() -> Result<()> {
    let cluster = Cluster::find()?;
    let kubeconfig = Cluster::kubeconfig();
    say(format_args!("kubeconfig: {}, in {}", kubeconfig.display(), Cluster::control_netns().path().display()));
    for node in cluster.nodes() {
        let (netns, cgroup) = (node.netns(), node.cgroup());
        say(format_args!("{}: {}, pods {}", node.name(), node.address(), node.pod_range()));
        say(format_args!("  {}, {}, logs {}", netns.path().display(), cgroup.display(), node.logs().display()));
    }
    process::run(&mut cluster.kubectl().command(&["get", "nodes,pods", "--all-namespaces", "--output=wide"]))
}

/// Its exit code is ours.
fn pass_on(command: &mut Command) -> Result<ExitCode> {
    let status = command.status().context("start the program")?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}
