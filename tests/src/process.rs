//! Programs that run in a place (a namespace and a cgroup) and never outlive their guard.
//!
//! A shell moves itself into the cgroup and becomes `nsenter`, which becomes the program: one process id throughout,
//! and the kernel attributes the program's very first system call to the right place.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::netns::Netns;
use crate::wait::{LIMIT, wait_until};

const ENTER: &str = r#"echo $$ > "$1/cgroup.procs" || exit 126
netns=$2; shift 2; exec nsenter --net="$netns" -- "$@""#;

/// Where programs run.
#[derive(Clone, Debug)]
pub struct Place {
    /// The network namespace.
    pub netns: Netns,
    /// The cgroup's directory.
    pub cgroup: PathBuf,
    /// Where the output of programs goes.
    pub logs: PathBuf,
}

impl Place {
    /// A command that will run `program` here; arguments may be added.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.command_in(&self.cgroup, program)
    }

    /// Like `command`, with another cgroup than the place's own.
    pub fn command_in(&self, cgroup: &Path, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", ENTER, "sh"]).arg(cgroup).arg(self.netns.path()).arg(program);
        command.process_group(0).stdin(Stdio::null());
        command
    }

    /// Starts `command`; what it prints goes to files.
    pub fn spawn(&self, command: &mut Command) -> Result<Process> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("{}-{}", self.netns.name(), NEXT.fetch_add(1, Ordering::Relaxed));
        let stdout = self.logs.join(format!("{name}.out"));
        let stderr = self.logs.join(format!("{name}.err"));
        Process::start(command, stdout, stderr)
    }

    /// Runs `command` to its end.
    pub fn run(&self, command: &mut Command) -> Result<Finished> {
        let mut process = self.spawn(command)?;
        let status = process.wait_exit(LIMIT)?;
        Ok(Finished { status, stdout: process.stdout()?, stderr: process.stderr()? })
    }
}

/// What a program left that has ended.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

impl Finished {
    /// What it printed; an error if it failed.
    pub fn success(self) -> Result<String> {
        if self.status.success() {
            return Ok(self.stdout);
        }
        bail!("{}: {}{}", self.status, self.stdout, self.stderr)
    }
}

/// A running program; killed and reaped when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Process {
    /// Starts `command` with its output appended to files.
    pub fn start(command: &mut Command, stdout: PathBuf, stderr: PathBuf) -> Result<Self> {
        let append = |path: &Path| {
            File::options().create(true).append(true).open(path).with_context(|| format!("open {}", path.display()))
        };
        command.stdout(append(&stdout)?).stderr(append(&stderr)?);
        let child = command.spawn().with_context(|| format!("start {command:?}"))?;
        Ok(Self { child, stdout, stderr })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// All that it has printed so far.
    pub fn stdout(&self) -> Result<String> {
        read(&self.stdout)
    }

    /// The last whole line of what it has printed, without reading all before it.
    pub fn last_line(&self) -> Result<Option<String>> {
        const TAIL_BYTES: u64 = 64 * 1024;
        let mut file = File::open(&self.stdout).with_context(|| format!("open {}", self.stdout.display()))?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut tail = Vec::new();
        file.read_to_end(&mut tail).with_context(|| format!("read {}", self.stdout.display()))?;
        Ok(whole_lines(&String::from_utf8_lossy(&tail)).last().map(str::to_owned))
    }

    /// All that it has complained about so far.
    pub fn stderr(&self) -> Result<String> {
        read(&self.stderr)
    }

    /// Sends `signal`.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(Pid::from_child(&self.child), signal).context("send a signal")
    }

    /// SIGKILL to it and to what it started; returns once the process is gone.
    pub fn kill9(&mut self) -> Result<()> {
        // Its group has its id (`command_in`); once reaped, the id may be somebody else's.
        if self.exited()?.is_none() {
            kill_process_group(Pid::from_child(&self.child), Signal::KILL).context("kill")?;
            self.child.wait().context("reap")?;
        }
        Ok(())
    }

    /// How it ended, if it has.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().context("wait for a child")
    }

    /// Waits for its end.
    pub fn wait_exit(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("end of process {}", self.child.id());
        let ended = wait_until(limit, &what, || self.exited());
        self.quoting(ended)
    }

    /// Waits for a line on standard output that `wanted` accepts. Fails early if the process ends without one.
    pub fn wait_line(&mut self, what: &str, wanted: impl Fn(&str) -> bool) -> Result<String> {
        let found = wait_until(LIMIT, what, || {
            let ended = self.exited()?;
            let stdout = self.stdout()?;
            let line = whole_lines(&stdout).find(|line| wanted(line)).map(str::to_owned);
            match (line, ended) {
                (None, Some(status)) => bail!("{what}: the program ended ({status})"),
                (line, _) => Ok(line),
            }
        });
        self.quoting(found)
    }

    /// Adds what it printed to an error.
    fn quoting<T>(&self, result: Result<T>) -> Result<T> {
        let text = |output: Result<String>| output.unwrap_or_else(|error| format!("{error:#}"));
        result.map_err(|error| anyhow!("{error:#}\n{}{}", text(self.stdout()), text(self.stderr())))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only if it is already gone; then the world's cgroup has the rest.
        drop(self.kill9());
    }
}

/// The lines of `text` that are complete: a writer may be in the middle of the last one.
pub fn whole_lines(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'))
}

fn read(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
