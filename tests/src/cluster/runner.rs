//! Starts programs that go on when we end, each in a cgroup of its own: by that it is found again and killed.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::NAME;
use crate::cgroup;
use crate::wait::{LIMIT, wait_until};

/// The shell moves itself before it forks: once it has ended, the program is in the cgroup. In a session of its own no terminal's end and no
/// Ctrl-C reaches it.
const JOIN: &str = r#"echo $$ > "$1/cgroup.procs" || exit 126; shift; exec setsid --fork "$@""#;

/// The cluster's part of cgroup2.
pub(super) fn cgroup_root() -> Result<PathBuf> {
    Ok(cgroup::mount_point()?.join(NAME))
}

/// Makes the cgroup at `path`, with the controllers that its parent has: a pod's limits need them all the way down.
pub(super) fn make_cgroup(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).with_context(|| format!("make cgroup {}", path.display()))
}

/// Lets the children of the cgroup at `path` have every controller that it has.
pub(super) fn delegate(path: &Path) -> Result<()> {
    let file = path.join("cgroup.controllers");
    let controllers = std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    let enable: Vec<_> = controllers.split_whitespace().map(|name| format!("+{name}")).collect();
    let file = path.join("cgroup.subtree_control");
    std::fs::write(&file, enable.join(" ")).with_context(|| format!("write {}", file.display()))
}

/// Starts a program that goes on when we end; what it prints is appended to `log`.
pub(super) fn start<A: AsRef<OsStr>>(cgroup: &Path, log: &Path, command: impl IntoIterator<Item = A>) -> Result<()> {
    make_cgroup(cgroup)?;
    let output = File::options().create(true).append(true).open(log);
    let output = output.with_context(|| format!("open {}", log.display()))?;
    let mut starter = Command::new("sh");
    starter.args(["-c", JOIN, "sh"]).arg(cgroup).args(command);
    starter.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    let status = starter.status().with_context(|| format!("start {starter:?}"))?;
    ensure!(status.success(), "{starter:?}: {status}");
    Ok(())
}

/// Kills what runs in the cgroup at `path` and waits until it is gone.
pub(super) fn kill(path: &Path) -> Result<()> {
    std::fs::write(path.join("cgroup.kill"), "1").with_context(|| format!("kill {}", path.display()))?;
    wait_until(LIMIT, &format!("end of {}", path.display()), || Ok((!is_populated(path)).then_some(())))
}

/// Whether anything runs in the cgroup at `path` or below.
pub(super) fn is_populated(path: &Path) -> bool {
    let events = std::fs::read_to_string(path.join("cgroup.events")).unwrap_or_default();
    events.lines().any(|line| line == "populated 1")
}

/// The processes of the cgroup at `path`.
pub(super) fn processes(path: &Path) -> Vec<u32> {
    let text = std::fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// The processes of the cgroup at `path` and of those below, as this machine sees them.
pub(super) fn processes_below(path: &Path) -> Result<Vec<u32>> {
    let mut all = processes(path);
    for entry in std::fs::read_dir(path).with_context(|| format!("list {}", path.display()))?.flatten() {
        if entry.path().is_dir() {
            all.extend(processes_below(&entry.path())?);
        }
    }
    Ok(all)
}
