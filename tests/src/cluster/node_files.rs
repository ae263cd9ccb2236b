//! What a node's components read, and the file systems that a node is made of.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::network;

/// Where Debian puts the reference plugins.
const CNI_PLUGINS: &str = "/usr/lib/cni";

/// The kernel settings of the whole machine that a kubelet wants: it gets files of its own to write instead.
const MACHINE_SETTINGS: [(&str, &str); 6] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// Writes the files below `directory`, which [`mounts`] puts into their places.
pub(super) fn write(directory: &Path, number: u8, cgroup: &str) -> Result<()> {
    for name in ["log", "settings", "work-etc", "work-opt", "var-lib", "var-log/pods", "etc/cni/net.d", "opt/cni/bin"] {
        let path = directory.join(name);
        fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
    }
    for (name, value) in MACHINE_SETTINGS {
        put(&directory.join("settings").join(name.replace('/', ".")), &format!("{value}\n"))?;
    }
    for plugin in fs::read_dir(CNI_PLUGINS).with_context(|| format!("list {CNI_PLUGINS}"))? {
        let plugin = plugin?;
        let link = directory.join("opt/cni/bin").join(plugin.file_name());
        symlink(plugin.path(), &link).with_context(|| format!("link {}", link.display()))?;
    }
    put(&directory.join("etc/cni/net.d/10-bridge.conflist"), &network_list(number))?;
    put(&directory.join("etc/containerd/config.toml"), CONTAINERD)?;
    put(&directory.join("etc/kubernetes/kubelet.yaml"), &kubelet(cgroup))?;
    put(&directory.join("etc/kubernetes/kube-proxy.yaml"), &kube_proxy())
}

fn put(path: &Path, text: &str) -> Result<()> {
    let parent = path.parent().context("a file has a directory")?;
    fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))?;
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

/// Mounts the file systems of the node whose files are in `directory`; inside, that is seen as `own`. For a shell in the node's namespaces.
pub(super) fn mounts(directory: &Path, own: &Path, name: &str) -> String {
    let (directory, own) = (directory.display(), own.display());
    // `/var/lib` comes last, for it hides `directory`.
    let mut script = format!(
        "hostname {name}
        mount --make-rshared /
        mount -t tmpfs -o mode=755 run /run
        mkdir -p {own}
        mount --bind {directory} {own}
        mount -t overlay -o lowerdir=/etc,upperdir={own}/etc,workdir={own}/work-etc etc /etc
        mount -t overlay -o lowerdir=/opt,upperdir={own}/opt,workdir={own}/work-opt opt /opt
        mount -t bpf bpf /sys/fs/bpf
        mount --bind {own}/var-log /var/log\n"
    );
    for (setting, _) in MACHINE_SETTINGS {
        let file = setting.replace('/', ".");
        script += &format!("mount --bind {own}/settings/{file} /proc/sys/{setting}\n");
    }
    script += &format!("mkdir -p {own}/var-lib/hauberk-k8s\n");
    script += &format!("touch {own}/var-lib/hauberk-k8s/kube\n");
    script += &format!("mount --bind {directory}/../kube {own}/var-lib/hauberk-k8s/kube\n");
    // Whoever looks for the kubelet looks for a program of that name.
    script += &format!("ln -s kube {own}/var-lib/hauberk-k8s/kubelet\n");
    script += &format!("mount --rbind {own}/var-lib /var/lib\n");
    script
}

fn network_list(number: u8) -> String {
    let range = network::pods_of(number);
    format!(
        r#"{{
  "cniVersion": "1.0.0",
  "name": "pods",
  "plugins": [{{
    "type": "bridge",
    "bridge": "cni0",
    "isGateway": true,
    "hairpinMode": true,
    "ipam": {{"type": "host-local", "ranges": [[{{"subnet": "{range}"}}]], "routes": [{{"dst": "0.0.0.0/0"}}]}}
  }}]
}}
"#
    )
}

/// The image is the one that `oci::pause` makes; the last two are for machines where root lacks `CAP_SYS_RESOURCE`, and to leave nothing in
/// the machine's own `/run/netns`.
const CONTAINERD: &str = r#"version = 2
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
]
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
"#;

/// Without swap, disk and CPU rules: the machine is not the cluster's alone.
fn kubelet(cgroup: &str) -> String {
    format!(
        "apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {{enabled: false}}
  webhook: {{enabled: true}}
  x509: {{clientCAFile: /etc/kubernetes/ca.crt}}
authorization: {{mode: Webhook}}
cgroupDriver: cgroupfs
cgroupRoot: {cgroup}
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
evictionHard: {{memory.available: 100Mi, nodefs.available: 1%, nodefs.inodesFree: 1%, imagefs.available: 1%}}
failCgroupV1: false
failSwapOn: false
maxPods: 250
oomScoreAdj: 0
resolvConf: \"\"
volumePluginDir: /var/lib/kubelet/plugins-exec
"
    )
}

/// Its limits on connection tracking are the machine's: left as they are.
fn kube_proxy() -> String {
    format!(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {{kubeconfig: /etc/kubernetes/kube-proxy.kubeconfig}}
clusterCIDR: {}
conntrack: {{maxPerCore: 0, min: 0, tcpCloseWaitTimeout: 0s, tcpEstablishedTimeout: 0s}}
mode: nftables
",
        network::PODS
    )
}
