//! Finds the cgroup2 mount and keeps a world's subtree of it.
//!
//! The mount is looked up because it isn't `/sys/fs/cgroup` on machines that also have cgroup v1 controllers.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::wait::{LIMIT, wait_until};

/// Where cgroup2 is mounted.
pub fn mount_point() -> Result<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").context("read mountinfo")?;
    find_cgroup2(&mounts).map(PathBuf::from).context("no cgroup2 file system is mounted")
}

/// A line is `id parent major:minor root mount-point options … - type source options`.
fn find_cgroup2(mountinfo: &str) -> Option<&str> {
    mountinfo.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        right.starts_with("cgroup2 ").then(|| left.split(' ').nth(4))?
    })
}

/// Kills every process at and below `path` and removes the subtree.
pub fn remove(path: &Path) -> Result<()> {
    wait_until(LIMIT, &format!("removing cgroup {}", path.display()), || {
        if !path.exists() {
            return Ok(Some(()));
        }
        // Again each time: a process may have entered after the last kill.
        std::fs::write(path.join("cgroup.kill"), "1").context("kill the cgroup's processes")?;
        Ok(remove_tree(path).ok())
    })
}

/// Removes the directories at and below `path`, which must be empty of processes.
pub fn remove_tree(path: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    std::fs::remove_dir(path)
}

#[cfg(test)]
mod tests {
    use super::find_cgroup2;

    #[test]
    fn cgroup2_is_found_beside_version_1() {
        let mounts = "40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(find_cgroup2(mounts), Some("/sys/fs/cgroup/unified"));
        assert_eq!(find_cgroup2("22 27 0:21 / /proc rw - proc proc rw\n"), None);
    }
}
