//! Finds a pod of Kubernetes on this machine: its cgroup by its uid, its network namespace by its oldest process.
//!
//! The kubelet names a pod's cgroup after its uid: `pod<uid>` with the cgroupfs driver, `…-pod<uid>.slice` with `_` for `-`
//! with systemd's; whichever runtime then makes the containers' cgroups below it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::netns::Netns;

mod running;

pub use running::{running, runs};

/// From the cgroup root to a pod's cgroup: kubelet's own root, `kubepods`, class of service, pod; and two more.
const MAX_DEPTH: usize = 6;

/// The cgroup of the pod `uid` somewhere below `root`; `None`: it has none yet, or no longer.
pub fn cgroup(root: &Path, uid: &str) -> io::Result<Option<PathBuf>> {
    let names = [format!("pod{uid}"), format!("pod{}.slice", uid.replace('-', "_"))];
    let is_it = |name: &str| name == names[0] || name == names[1] || name.ends_with(&format!("-{}", names[1]));
    let mut level = vec![root.to_owned()];
    for _ in 0..MAX_DEPTH {
        let mut next = Vec::new();
        for directory in level {
            for entry in entries(&directory)? {
                let name = entry.file_name().into_string().unwrap_or_default();
                if is_it(&name) {
                    return Ok(Some(entry.path()));
                }
                // Containers are below pods only.
                if !is_pod(&name) && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    next.push(entry.path());
                }
            }
        }
        level = next;
    }
    Ok(None)
}

/// The cgroup that the pods of the node are below, seen from one of its own pods: that above `kubepods`. `None`: `own` is
/// no pod's.
pub fn root_above(own: &Path) -> Option<&Path> {
    let is_kubepods = |path: &&Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let name = name.strip_suffix(".slice").unwrap_or(&name);
        name == "kubepods" || name.ends_with("-kubepods")
    };
    own.ancestors().find(is_kubepods)?.parent()
}

/// The network namespace of the processes of a pod's `cgroup`.
pub fn netns(cgroup: &Path) -> io::Result<Netns> {
    let mut processes = Vec::new();
    collect(cgroup, &mut processes)?;
    // The sandbox's own process is the oldest. Younger ones may have made themselves another namespace.
    processes.sort();
    let mut denied = None;
    for (_, pid, listed_in) in processes {
        let netns = match Netns::open(Path::new(&format!("/proc/{pid}/ns/net"))) {
            Ok(netns) => netns,
            Err(error) => {
                denied = denied.or(Some(error).filter(|error| error.kind() == io::ErrorKind::PermissionDenied));
                continue;
            }
        };
        // It may have ended meanwhile, and its number gone to somebody else's process.
        if members(&listed_in)?.contains(&pid) {
            return Ok(netns);
        }
    }
    Err(denied.unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no process of the pod runs yet")))
}

fn is_pod(name: &str) -> bool {
    let name = name.rsplit('-').next().unwrap_or(name);
    name.strip_prefix("pod").is_some_and(|uid| !uid.is_empty() && uid != "s")
}

/// Age, number and cgroup of every process.
fn collect(cgroup: &Path, processes: &mut Vec<(u64, u32, PathBuf)>) -> io::Result<()> {
    for pid in members(cgroup)? {
        if let Some(started) = started(pid) {
            processes.push((started, pid, cgroup.to_owned()));
        }
    }
    for entry in entries(cgroup)? {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), processes)?;
        }
    }
    Ok(())
}

/// The processes of one cgroup; those of other pid namespaces count as 0 and are left out.
fn members(cgroup: &Path) -> io::Result<Vec<u32>> {
    match fs::read_to_string(cgroup.join("cgroup.procs")) {
        Ok(text) => Ok(text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid != 0).collect()),
        Err(error) if is_gone(&error) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// When a process began, in clock ticks since the boot: field 22 of proc_pid_stat(5).
fn started(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before may hold anything, brackets too.
    text.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

fn entries(directory: &Path) -> io::Result<Vec<fs::DirEntry>> {
    match fs::read_dir(directory) {
        Ok(entries) => entries.filter(|entry| !entry.as_ref().is_err_and(is_gone)).collect(),
        Err(error) if is_gone(&error) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Removed while we looked: ENOENT, or for a file that was open ENODEV.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0e6ae9a4-1c4b-4d1e-8a43-1f3a5c2d9b10";

    #[test]
    fn the_root_is_above_kubepods() {
        let root = |own: &str| root_above(Path::new(own)).map(|path| path.display().to_string());
        assert_eq!(root("/sys/fs/cgroup/kubepods/burstable/pod1/c"), Some("/sys/fs/cgroup".to_owned()));
        assert_eq!(root("/c/node-1/kubepods/pod1"), Some("/c/node-1".to_owned()));
        assert_eq!(root("/c/kubepods.slice/kubepods-pod1.slice/x.scope"), Some("/c".to_owned()));
        assert_eq!(root("/c/kubelet.slice/kubelet-kubepods.slice/y"), Some("/c/kubelet.slice".to_owned()));
        assert_eq!(root("/c/system.slice/kubelet.service"), None);
    }

    #[test]
    fn both_cgroup_drivers_and_every_class_of_service_are_found() {
        let root = tempfile::tempdir().unwrap();
        for below in [
            format!("kubepods/pod{UID}"),
            format!("kubepods/burstable/pod{UID}"),
            format!("node-1/kubepods/besteffort/pod{UID}"),
            format!("kubepods.slice/kubepods-pod{}.slice", UID.replace('-', "_")),
            format!("kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{}.slice", UID.replace('-', "_")),
            format!("kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{}.slice", UID.replace('-', "_")),
        ] {
            let expected = root.path().join(&below);
            fs::create_dir_all(expected.join("container/pod-like")).unwrap();
            fs::create_dir_all(root.path().join("kubepods/podother")).unwrap();
            assert_eq!(cgroup(root.path(), UID).unwrap(), Some(expected.clone()), "{below}");
            fs::remove_dir_all(root.path().join(below.split('/').next().unwrap())).unwrap();
        }
        assert_eq!(cgroup(root.path(), UID).unwrap(), None);
        fs::create_dir_all(root.path().join(format!("kubepods/podx{UID}"))).unwrap();
        assert_eq!(cgroup(root.path(), UID).unwrap(), None);
    }
}
