//! Finds a pod of Kubernetes on this machine: its cgroup by its uid, its network namespace by its processes.
//!
//! The kubelet names a pod's cgroup after its uid: `pod<uid>` with the cgroupfs driver, `…-pod<uid>.slice` with `_` for `-`
//! with systemd's; whichever runtime then makes the containers' cgroups below it. Not every process there is the pod's own:
//! CRI-O may keep its monitor (conmon), which is on the node's network, in the pod's cgroup.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::netns::Netns;

mod running;

pub use running::{running, runs};

/// The node's own network namespace: the agent is in it.
const NODE: &str = "/proc/self/ns/net";
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
                // Below pods there are only containers, and what these call themselves.
                if running::uid(&name).is_none() && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
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

/// The network namespace of the processes of a pod's `cgroup`: that with the cookie `expected`, or of a pod that nobody has
/// handed over that of its oldest process. Never the node's own.
pub fn netns(cgroup: &Path, expected: Option<u64>) -> io::Result<Netns> {
    let node = Netns::open(Path::new(NODE))?.cookie();
    choose(namespaces(cgroup)?.map(|netns| netns.map(|netns| (netns.cookie(), netns))), expected, node)
}

/// Whether any process of a pod's `cgroup` is in the network namespace with this cookie; `None`: in any but the node's.
pub fn runs_in(cgroup: &Path, cookie: Option<u64>) -> io::Result<bool> {
    let node = Netns::open(Path::new(NODE))?.cookie();
    for netns in namespaces(cgroup)? {
        let found = netns?.cookie();
        if cookie.map_or(found != node, |cookie| cookie == found) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether processes of a pod's `cgroup` are in another network namespace than that with the cookie `left`, and none is in
/// that one.
pub fn has_moved(cgroup: &Path, left: Option<u64>) -> io::Result<bool> {
    let is_left_behind = match left {
        Some(left) => !runs_in(cgroup, Some(left))?,
        None => true,
    };
    Ok(is_left_behind && runs_in(cgroup, None)?)
}

/// The first that is the pod's, of namespaces by their cookies. Younger processes may have made themselves another one, so
/// that what is expected counts; if it isn't there, none is as good.
fn choose<T>(found: impl Iterator<Item = io::Result<(u64, T)>>, expected: Option<u64>, node: u64) -> io::Result<T> {
    let (mut denied, mut strange) = (None, "no process of the pod runs yet");
    for found in found {
        match found {
            Ok((cookie, netns)) if cookie != node && expected.is_none_or(|expected| expected == cookie) => {
                return Ok(netns);
            }
            Ok((cookie, _)) if cookie == node => {}
            Ok(_) => strange = "none of the pod's processes is in the network namespace that it was handed over with",
            Err(error) => denied = denied.or(Some(error)),
        }
    }
    Err(denied.unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, strange)))
}

/// The network namespaces of the processes of `cgroup`, the oldest process first. Those that have ended meanwhile are left
/// out.
fn namespaces(cgroup: &Path) -> io::Result<impl Iterator<Item = io::Result<Netns>>> {
    let mut processes = Vec::new();
    collect(cgroup, &mut processes)?;
    processes.sort();
    Ok(processes.into_iter().filter_map(|(_, pid, listed_in)| {
        let netns = match Netns::open(Path::new(&format!("/proc/{pid}/ns/net"))) {
            Ok(netns) => netns,
            Err(error) => return (error.kind() == io::ErrorKind::PermissionDenied).then_some(Err(error)),
        };
        // It may have ended meanwhile, and its number gone to somebody else's process.
        let is_still = members(&listed_in).map(|members| members.contains(&pid));
        is_still.map(|is_still| is_still.then_some(netns)).transpose()
    }))
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

    #[test]
    fn a_container_that_calls_itself_a_pod_is_none() {
        let other = "1f7bfab5-2d5c-4e2f-9b54-204b6d3e0c21";
        let slice = |uid: &str| format!("kubepods-pod{}.slice", uid.replace('-', "_"));
        for (pod, own) in [
            (format!("kubepods/pod{other}"), format!("pod{UID}")),
            (format!("kubepods/pod{other}/crio-c0ffee"), format!("pod{UID}")),
            (format!("kubepods/burstable/pod{}", "0123456789abcdef0123456789abcdef"), format!("pod{UID}")),
            (format!("kubepods.slice/{}", slice(other)), slice(UID)),
            (format!("kubepods.slice/{}/cri-containerd-c0ffee.scope", slice(other)), slice(UID)),
            (format!("kubepods.slice/{}/crio-conmon-c0ffee.scope", slice(other)), slice(UID)),
        ] {
            let root = tempfile::tempdir().unwrap();
            fs::create_dir_all(root.path().join(&pod).join(&own)).unwrap();
            assert_eq!(cgroup(root.path(), UID).unwrap(), None, "{pod}/{own} was made by the other pod");
            let real = root.path().join("kubepods.slice/kubepods-burstable.slice").join(slice(UID));
            fs::create_dir_all(real.join("crio-c0ffee.scope")).unwrap();
            assert_eq!(cgroup(root.path(), UID).unwrap(), Some(real), "{pod}/{own}");
        }
        for around in ["pods", "podruntime.slice", "kubelet-kubepods.slice", "kubepods"] {
            assert!(running::uid(around).is_none(), "{around}");
        }
    }

    #[test]
    fn the_namespace_that_was_handed_over_counts_and_the_nodes_never() {
        const NODE: u64 = 1;
        let chosen = |cookies: &[u64], expected| {
            let found = cookies.iter().map(|cookie| Ok((*cookie, *cookie)));
            choose(found, expected, NODE).map_err(|error| error.to_string())
        };
        let (none, elsewhere) = ("no process of the pod runs yet", "none of the pod's processes is in the network");
        // CRI-O: the monitor is older than the sandbox's own process.
        assert_eq!(chosen(&[NODE, 7, 8], None), Ok(7));
        assert_eq!(chosen(&[NODE, NODE], None).unwrap_err(), none);
        assert_eq!(chosen(&[], None).unwrap_err(), none);
        // The oldest that is left has made itself another.
        assert_eq!(chosen(&[8, 7], Some(7)), Ok(7));
        assert!(chosen(&[8, NODE], Some(7)).unwrap_err().starts_with(elsewhere));
        assert_eq!(chosen(&[NODE], Some(NODE)).unwrap_err(), none);
        let denied = [Err(io::ErrorKind::PermissionDenied.into()), Ok((NODE, ()))];
        let error = choose(denied.into_iter(), None, NODE).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn processes_on_the_nodes_network_are_not_a_pods() {
        // As far as anybody may look, and there are real processes: this one's cgroup.
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("cgroup.procs"), format!("0\n{}\n", std::process::id())).unwrap();
        let found = netns(directory.path(), None).map(drop);
        assert!(matches!(found.unwrap_err().kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied));
        assert!(!has_moved(directory.path(), None).unwrap_or_default());
    }
}
