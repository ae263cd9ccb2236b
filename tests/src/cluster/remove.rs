//! Takes the cluster off the machine, whoever made it and however far it came.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::mount::{UnmountFlags, unmount};

use super::{MOST_NODES, NAME, STATE, network, runner};
use crate::cgroup;
use crate::netns::Netns;
use crate::wait::{LIMIT, wait_until};

/// Whether anything of a cluster is on the machine.
pub fn exists() -> Result<bool> {
    Ok(!remains()?.is_empty())
}

/// What of a cluster is on the machine: directories, namespaces, cgroups.
pub fn remains() -> Result<Vec<PathBuf>> {
    let fixed = [PathBuf::from(STATE), runner::cgroup_root()?];
    let all = fixed.into_iter().chain(namespaces()).chain(legacy_cgroups()?);
    Ok(all.filter(|path| path.exists()).collect())
}

/// Removes all of it. Nothing there is fine.
pub fn remove() -> Result<()> {
    // Everything runs below this one cgroup. With the nodes' first processes their mounts and namespaces go.
    cgroup::remove(&runner::cgroup_root()?)?;
    for path in legacy_cgroups()? {
        wait_until(LIMIT, &format!("removing cgroup {}", path.display()), || Ok(cgroup::remove_tree(&path).ok()))?;
    }
    for path in namespaces().filter(|path| path.exists()) {
        unmount(&path, UnmountFlags::DETACH).with_context(|| format!("unmount {}", path.display()))?;
        std::fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
    }
    match std::fs::remove_dir_all(STATE) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).context(format!("remove {STATE}")),
        _ => Ok(()),
    }
}

fn namespaces() -> impl Iterator<Item = PathBuf> {
    (1..=MOST_NODES).map(network::name_of).chain([NAME.to_owned()]).map(|name| Netns::existing(&name).path().to_owned())
}

/// Our directories in the hierarchies of cgroup v1 that this machine has beside cgroup2.
fn legacy_cgroups() -> Result<Vec<PathBuf>> {
    let directories = legacy_hierarchies()?.into_iter().map(|hierarchy| hierarchy.join(NAME));
    Ok(directories.filter(|path| path.exists()).collect())
}

/// Where the hierarchies of cgroup v1 are mounted.
pub(super) fn legacy_hierarchies() -> Result<Vec<PathBuf>> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").context("read mountinfo")?;
    let of_line = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        right.starts_with("cgroup ").then(|| left.split(' ').nth(4).map(|path| Path::new(path).to_owned()))?
    };
    Ok(mounts.lines().filter_map(of_line).collect())
}
