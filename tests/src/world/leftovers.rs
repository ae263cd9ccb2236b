//! Looks for what a world left on the machine, without trusting what the world believes to have made.

use std::path::Path;

use anyhow::{Context as _, Result};

use crate::cgroup;

/// Everything that carries the name of the world: namespaces, files, cgroups, mounts (and so pins), processes.
pub fn leftovers(name: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let temp = std::env::temp_dir();
    for directory in [Path::new("/run/netns"), &temp, &cgroup::mount_point()?] {
        for entry in std::fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))? {
            let path = entry?.path().display().to_string();
            found.extend(path.contains(name).then_some(path));
        }
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").context("read mountinfo")?;
    found.extend(mounts.lines().filter(|line| line.contains(name)).map(str::to_owned));
    for entry in std::fs::read_dir("/proc").context("list processes")? {
        // A process that ended meanwhile is none.
        let cgroup = std::fs::read_to_string(entry?.path().join("cgroup")).unwrap_or_default();
        found.extend(cgroup.lines().filter(|line| line.contains(name)).map(str::to_owned));
    }
    Ok(found)
}
