//! Named network namespaces: making them, running iproute2 in them, entering them for one closure.
//!
//! A closure runs on a thread of its own that never leaves the namespace: no other thread can see it move.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::guard::{Cleanup, Undo};

/// A named network namespace.
#[derive(Clone, Debug)]
pub struct Netns {
    name: String,
    path: PathBuf,
}

impl Netns {
    /// Makes the namespace; `cleanup` deletes it.
    pub fn create(cleanup: &Cleanup, name: &str) -> Result<Self> {
        let path = Path::new("/run/netns").join(name);
        cleanup.make(Undo::Netns(path.clone()), || run_ip(&["netns", "add", name], ""))?;
        Ok(Self { name: name.to_owned(), path })
    }

    /// Makes the namespace, for good.
    pub fn make_lasting(name: &str) -> Result<Self> {
        run_ip(&["netns", "add", name], "")?;
        Ok(Self::existing(name))
    }

    /// A namespace that somebody else has made.
    pub fn existing(name: &str) -> Self {
        Self { name: name.to_owned(), path: Path::new("/run/netns").join(name) }
    }

    /// The name that `ip netns` shows.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that names the namespace.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs iproute2 commands in the namespace, one a line.
    pub fn ip(&self, commands: &str) -> Result<()> {
        run_ip(&["-n", &self.name, "-batch", "-"], commands).with_context(|| format!("configure {}", self.name))
    }

    /// Runs `action` inside the namespace.
    pub fn enter<T: Send>(&self, action: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let file = File::open(&self.path).with_context(|| format!("open {}", self.path.display()))?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                    .with_context(|| format!("enter {}", self.name))?;
                action()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Writes `/proc/sys/net` settings of the namespace, given as (path, value).
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.enter(|| {
            for (name, value) in settings {
                let path = Path::new("/proc/sys/net").join(name);
                std::fs::write(&path, value).with_context(|| format!("write {}", path.display()))?;
            }
            Ok(())
        })
    }
}

fn run_ip(arguments: &[&str], stdin: &str) -> Result<()> {
    let mut child = Command::new("ip")
        .args(arguments)
        // Ctrl-C must not stop it half-way.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("run `ip` (Debian package iproute2)")?;
    if let Some(mut pipe) = child.stdin.take() {
        pipe.write_all(stdin.as_bytes()).context("write to `ip`")?;
    }
    let output = child.wait_with_output().context("wait for `ip`")?;
    ensure!(
        output.status.success(),
        "`ip {}`: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
