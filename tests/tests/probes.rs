//! The kubelet's connections reach applications at strict ports, whenever and wherever it starts; nobody else's do.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use mesh_tests::app::{self, Called};
use mesh_tests::mesh::{Mesh, Mode};
use mesh_tests::process::Process;
use mesh_tests::stage::{MARKER, PORT};
use mesh_tests::wait::{LIMIT, wait_until};
use mesh_tests::world::{Family, Node, PodSpec, World};
use mesh_tests::{cgroup, claims};

/// Becomes a process with the kubelet's name.
const KUBELET: &str = "echo kubelet > /proc/$$/comm && echo named; sleep infinity & wait";

/// Who calls himself the kubelet and is not: another user's process, one of a container, one of another user namespace, one of a pod.
const IMPOSTORS: [(&str, &[&str]); 4] = [
    ("user.slice/user-1000.slice", &["setpriv", "--reuid=65534", "--clear-groups"]),
    ("container.slice", &["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]),
    ("rootless.slice", &["unshare", "--user", "--map-root-user"]),
    ("kubepods.slice/kubepods-pod0e6ae9a4_1c4b_4d1e_8a43_1f3a5c2d9b10.slice/c", &["env"]),
];

struct Kubelet<'w> {
    node: &'w Node,
    cgroup: PathBuf,
    process: Process,
}

impl<'w> Kubelet<'w> {
    /// Starts as `by` does it, in a cgroup that is made for it.
    fn start(node: &'w Node, cgroup: &str, by: &[&str]) -> Result<Self> {
        let cgroup = node.cgroup_root().join(cgroup);
        std::fs::create_dir_all(&cgroup)?;
        let mut command = node.place().command_in(&cgroup, by[0]);
        let mut process = node.place().spawn(command.args(&by[1..]).args(["sh", "-c", KUBELET]))?;
        process.wait_line("it has its name", |line| line == "named")?;
        Ok(Self { node, cgroup, process })
    }

    /// Stops as under systemd, which removes the cgroup.
    fn stop(self) -> Result<()> {
        drop(self.process);
        cgroup::remove(&self.cgroup)
    }
}

/// Connects from a cgroup of the node, as a probe does.
fn probe(node: &Node, cgroup: &Path, world: &World, family: Family) -> Result<Called> {
    let to = world.address("server", family, PORT).to_string();
    let mut call = node.place().command_in(cgroup, app::find()?);
    let printed = node.place().run(call.args(["call", "--say", MARKER, "--to", &to]))?.success()?;
    serde_json::from_str(&printed).with_context(|| format!("read {printed}"))
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn the_kubelets_probes_pass_after_its_restart_too_and_nobody_elses() -> Result<()> {
    let world = World::builder()
        .node("a")
        .pod(PodSpec::workload("server"))
        .node("b")
        .pod(PodSpec::workload("other"))
        .build()?;
    let node = world.node("a");
    let _server = world.pod("server").serve(PORT)?;
    let impostors = IMPOSTORS.map(|(cgroup, by)| Kubelet::start(node, cgroup, by));
    let impostors = impostors.into_iter().collect::<Result<Vec<_>>>()?;
    let start = || Kubelet::start(node, "system.slice/kubelet.service", &["env"]);
    let kubelet = start()?;
    let mesh = Mesh::start(&world, Mode::Strict)?;
    let agent = mesh.agent("a");

    let pass = |kubelet: &Kubelet<'_>, family| {
        wait_until(LIMIT, "the kubelet's probe passes", || {
            Ok(claims::answer_is_right(&probe(kubelet.node, &kubelet.cgroup, &world, family)?).ok())
        })
    };
    let only_the_kubelets_pass = |kubelet: Option<&Kubelet<'_>>| -> Result<()> {
        for family in Family::BOTH {
            kubelet.map_or(Ok(()), |kubelet| pass(kubelet, family))?;
            for impostor in &impostors {
                let called = probe(node, &impostor.cgroup, &world, family)?;
                claims::is_refused(&called).with_context(|| impostor.cgroup.display().to_string())?;
            }
        }
        Ok(())
    };
    only_the_kubelets_pass(Some(&kubelet))?;
    let status = agent.ask(&["status"])?;
    ensure!(status.contains("system.slice/kubelet.service pass"), "{status}");

    kubelet.stop()?;
    let attested = || agent.metric("mesh_kubelet_attested", &[]);
    wait_until(LIMIT, "the kubelet is missed", || Ok((attested()? < 0.5).then_some(())))?;
    let status = agent.ask(&["status"])?;
    ensure!(status.contains("none pass: no process of root's"), "{status}");
    agent.wait_log("a warning", |line| line.contains("probes are refused") && line.contains("WARN"))?;
    only_the_kubelets_pass(None)?;

    let kubelet = start()?;
    only_the_kubelets_pass(Some(&kubelet))?;
    ensure!(attested()? > 0.5, "the metric says that it is missing");
    Ok(())
}
