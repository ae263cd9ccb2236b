//! One node: its namespaces, its file systems, its cgroups and what runs in them.
//!
//! Inside, every path is the standard one: `/etc/cni/net.d`, `/opt/cni/bin`, `/var/lib/kubelet`, `/run/containerd`, `/sys/fs/bpf`. They are
//! the node's own, so that two nodes of one machine don't meet and nothing of it stays on the machine.

use std::ffi::OsStr;
use std::fs::File;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::pki::Pki;
use super::{NAME, STATE, network, node_files, remove, runner};
use crate::cgroup;
use crate::netns::Netns;
use crate::wait::{LIMIT, wait_until};

/// The node's first process: it ends when asked, and reaps whom nobody else does.
const INIT: &str = "trap 'exit 0' TERM INT; while :; do sleep 1000000 & wait; done";
/// Where the node's own directory is seen inside.
const OWN: &str = "/run/node";

/// A node of the cluster.
#[derive(Clone, Debug)]
pub struct Node {
    number: u8,
    name: String,
    directory: PathBuf,
    cgroup: PathBuf,
}

impl Node {
    /// The nodes of these numbers, whether they run or not.
    pub(super) fn all(numbers: RangeInclusive<u8>) -> Result<Vec<Self>> {
        let root = runner::cgroup_root()?;
        let node = |number| {
            let name = format!("node-{number}");
            Self { number, directory: Path::new(STATE).join(&name), cgroup: root.join(&name), name }
        };
        Ok(numbers.map(node).collect())
    }

    /// Its name in Kubernetes.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address, which its hostNetwork pods share.
    pub fn address(&self) -> Ipv4Addr {
        network::node_address(self.number)
    }

    /// The range of its pods' addresses.
    pub fn pod_range(&self) -> String {
        network::pods_of(self.number)
    }

    /// The root of its cgroups: `system/kubelet`, `system/containerd`, `kubepods` and so on are below.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// Its network namespace.
    pub fn netns(&self) -> Netns {
        Netns::existing(&network::name_of(self.number))
    }

    /// Its components' logs.
    pub fn logs(&self) -> PathBuf {
        self.directory.join("log")
    }

    pub(super) fn exists(&self) -> bool {
        self.directory.exists()
    }

    /// The Node object, with the range of addresses that nobody allocates here.
    pub(super) fn object(&self) -> String {
        let (name, range) = (&self.name, self.pod_range());
        format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\nspec: {{podCIDR: {range}, podCIDRs: [{range}]}}\n"
        )
    }

    /// The process id, as this machine sees it, of the node's first process.
    pub fn init(&self) -> Result<u32> {
        let found = runner::processes(&self.cgroup.join("system/init")).into_iter().find(|pid| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
            let mut ids = ids.split_whitespace().skip(1);
            ids.next() == Some("1") && ids.next().is_none()
        });
        found.with_context(|| format!("{} doesn't run", self.name))
    }

    /// The process ids, as this machine sees them, of all that runs in the node's pods.
    pub fn pod_processes(&self) -> Result<Vec<u32>> {
        runner::processes_below(&self.cgroup.join("kubepods"))
    }

    /// A command that will run in the node's namespaces, in this program's cgroup.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        let enter = self.enter()?;
        let mut command = Command::new(&enter[0]);
        command.args(&enter[1..]).arg(program).stdin(Stdio::null());
        Ok(command)
    }

    fn enter(&self) -> Result<[String; 8]> {
        let init = self.init()?.to_string();
        Ok(["nsenter", "--target", &init, "--mount", "--uts", "--net", "--pid", "--"].map(str::to_owned))
    }

    /// Makes the node up to a running containerd that has `images`. It needs no API server.
    pub(super) fn boot(&self, pki: &Pki, images: &[PathBuf]) -> Result<()> {
        self.make_cgroups()?;
        node_files::write(&self.directory, self.number, &format!("/{NAME}/{}", self.name))?;
        let kubernetes = Path::new("etc/kubernetes");
        pki.write_node(&self.name, &self.directory.join(kubernetes), &Path::new("/").join(kubernetes))?;
        self.start_init()?;
        self.mount()?;
        self.run("containerd", ["containerd"])?;
        self.wait_containerd()?;
        self.load(images)
    }

    /// Starts what joins the cluster: the kubelet and kube-proxy.
    pub(super) fn join(&self, program: &Path) -> Result<()> {
        self.start_kubelet(program)?;
        let (program, name) = (program.to_string_lossy(), format!("--hostname-override={}", self.name));
        self.run("kube-proxy", [&program, "kube-proxy", "--config=/etc/kubernetes/kube-proxy.yaml", &name])
    }

    fn start_kubelet(&self, program: &Path) -> Result<()> {
        let kubelet = program.with_file_name("kubelet");
        let (name, address) = (format!("--hostname-override={}", self.name), format!("--node-ip={}", self.address()));
        let (config, user) =
            ("--config=/etc/kubernetes/kubelet.yaml", "--kubeconfig=/etc/kubernetes/kubelet.kubeconfig");
        self.run("kubelet", [&kubelet.to_string_lossy(), config, user, &name, &address])
    }

    /// Kills the kubelet and starts another one in a new cgroup, as a service manager does.
    pub(super) fn restart_kubelet(&self, program: &Path) -> Result<()> {
        cgroup::remove(&self.cgroup.join("system/kubelet"))?;
        self.start_kubelet(program)
    }

    /// Gives the node the images of OCI archives.
    pub fn load(&self, archives: &[PathBuf]) -> Result<()> {
        for archive in archives {
            let file = File::open(archive).with_context(|| format!("open {}", archive.display()))?;
            // By its standard input: the node may not see the file.
            let mut import = self.command("ctr")?;
            import.args(["--namespace=k8s.io", "images", "import", "-"]).stdin(file);
            let output = import.output().context("start ctr")?;
            let stderr = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "import {} on {}: {}", archive.display(), self.name, stderr.trim());
        }
        Ok(())
    }

    /// Starts a component that goes on when we end, in a cgroup of its own name.
    fn run<'a>(&self, name: &str, component: impl IntoIterator<Item = &'a str>) -> Result<()> {
        let mut command = self.enter()?.to_vec();
        command.extend(component.into_iter().map(str::to_owned));
        runner::start(&self.cgroup.join("system").join(name), &self.logs().join(format!("{name}.log")), command)
    }

    fn make_cgroups(&self) -> Result<()> {
        runner::make_cgroup(&self.cgroup)?;
        runner::delegate(&self.cgroup)?;
        for hierarchy in remove::legacy_hierarchies()? {
            let directory = hierarchy.join(NAME).join(&self.name);
            runner::make_cgroup(&directory)?;
            // A new cpuset is empty, and nothing runs in an empty one.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if let Ok(all) = std::fs::read(hierarchy.join(file)) {
                    for directory in [hierarchy.join(NAME), directory.clone()] {
                        std::fs::write(directory.join(file), &all)
                            .with_context(|| format!("write {file} of {}", directory.display()))?;
                    }
                }
            }
        }
        Ok(())
    }

    fn start_init(&self) -> Result<()> {
        let netns = format!("--net={}", self.netns().path().display());
        let enter = ["nsenter", &netns, "--"];
        let unshare = ["unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"];
        let command = [&enter[..], &unshare, &["busybox", "sh", "-c", INIT]].concat();
        runner::start(&self.cgroup.join("system/init"), &self.logs().join("init.log"), command)?;
        wait_until(LIMIT, &format!("{} starts", self.name), || Ok(self.init().ok())).map(drop)
    }

    /// Mounts the node's file systems, and gives it its name.
    fn mount(&self) -> Result<()> {
        let script = node_files::mounts(&self.directory, Path::new(OWN), &self.name);
        let output = self.command("sh")?.args(["-ec", &script]).output().context("start sh")?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "mount the file systems of {}: {}", self.name, stderr.trim());
        Ok(())
    }

    fn wait_containerd(&self) -> Result<()> {
        let waited = wait_until(LIMIT, "containerd answers", || {
            let answered =
                self.command("ctr")?.args(["--connect-timeout=1s", "version"]).output().context("start ctr")?;
            Ok(answered.status.success().then_some(()))
        });
        waited.with_context(|| format!("its log is in {}", self.logs().display()))
    }
}
