//! Finds the node's kubelet by its process: whoever is in its cgroup probes pods.
//!
//! Anybody can call a process by its name. So a name alone finds nobody: it must be root's, in our own PID and user namespaces, and in no
//! pod's cgroup. What root does outside of pods is the node's own doing.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{cgroup, pod};

/// What distributions call the process that the kubelet is in: on its own (also with k0s and RKE2), in MicroK8s, in K3s.
const NAMES: [&str; 5] = ["kubelet", "kubelite", "k3s-server", "k3s-agent", "k3s"];

/// A process that is a kubelet, as far as it can be told.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Kubelet {
    process: PathBuf,
    /// Its entry in procfs about cgroups, as it was.
    listed: String,
    /// The directory of its cgroup.
    pub cgroup: PathBuf,
}

impl Kubelet {
    /// Whether the process is still there, and where it was.
    pub fn stands(&self) -> bool {
        is_named(&self.process) && listed(&self.process).is_some_and(|listed| listed == self.listed)
    }
}

/// Every kubelet in a cgroup of its own below `root`.
pub fn find(mount: &Path, root: &Path) -> io::Result<Vec<Kubelet>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let process = entry.path();
        let Some(listed) = is_named(&process).then(|| listed(&process)).flatten() else { continue };
        let status = fs::read_to_string(process.join("status")).unwrap_or_default();
        let Ok(cgroup) = cgroup::of_process(mount, pid) else { continue };
        let is_in_pod = pod::root_above(&cgroup).is_some();
        if is_roots(&status) && is_of_our_users(&process) && !is_in_pod && cgroup != root && cgroup.starts_with(root) {
            found.push(Kubelet { process, listed, cgroup });
        }
    }
    Ok(found)
}

fn is_named(process: &Path) -> bool {
    fs::read_to_string(process.join("comm")).is_ok_and(|name| NAMES.contains(&name.trim_end()))
}

fn listed(process: &Path) -> Option<String> {
    fs::read_to_string(process.join("cgroup")).ok()
}

/// Whether all its user ids are 0, and it has but one process id: another namespace's process has one there too. Both as we see them
/// (proc_pid_status(5)).
fn is_roots(status: &str) -> bool {
    let words = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default().split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    words("Uid:") == ["0"; 4] && words("NSpid:").len() == 1
}

/// Whether its user namespace is ours. Without CAP_SYS_PTRACE that can't be seen; its ids count then.
fn is_of_our_users(process: &Path) -> bool {
    let namespace = |process: &Path| fs::read_link(process.join("ns/user"));
    match (namespace(process), namespace(Path::new("/proc/self"))) {
        (Ok(its), Ok(ours)) => its == ours,
        (Err(error), _) => error.kind() == io::ErrorKind::PermissionDenied,
        (Ok(_), Err(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubelet_is_roots_in_our_own_pid_namespace() {
        let status = |uid: &str, pids: &str| {
            is_roots(&format!("Name:\tkubelet\nPid:\t77\nUid:\t{uid}\nGid:\t0\t0\t0\t0\nNSpid:\t{pids}\n"))
        };
        assert!(status("0\t0\t0\t0", "77"));
        assert!(!status("1000\t1000\t1000\t1000", "77"));
        // A set-user-ID program that somebody else began.
        assert!(!status("1000\t0\t0\t0", "77"));
        assert!(!status("0\t0\t0\t0", "77\t1"), "a container's");
        assert!(!is_roots(""));
    }

    #[test]
    fn our_own_process_is_of_our_users() {
        assert!(is_of_our_users(Path::new("/proc/self")));
        assert!(!is_of_our_users(Path::new("/proc/0")));
    }
}
