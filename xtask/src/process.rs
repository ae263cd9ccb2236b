//! Runs commands and ends those that take too long, with everything they started.
use std::{
    collections::HashMap,
    fmt, fs,
    process::{Child, Command},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use ebpf_build::describe;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open},
};

/// Tells the developer what happens. On standard error, so that a command's own output stays usable.
#[expect(clippy::print_stderr, reason = "the one place where xtask reports its progress")]
pub(crate) fn say(text: impl fmt::Display) {
    eprintln!("{text}");
}

/// Runs `command` and fails if it does.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let shown = describe(command);
    say(format_args!("$ {shown}"));
    let status = command.status().with_context(|| format!("start `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` failed: {status}");
    }
    Ok(())
}

/// Runs `command` like [`run`], but kills it and its descendants at `deadline`.
pub(crate) fn run_until(command: &mut Command, deadline: Instant) -> Result<()> {
    let shown = describe(command);
    say(format_args!("$ {shown}"));
    let mut child = command.spawn().with_context(|| format!("start `{shown}`"))?;
    if !ended_before(&child, deadline)? {
        kill_tree(&child);
        child.wait()?;
        bail!("`{shown}` took too long and was killed");
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("`{shown}` failed: {status}");
    }
    Ok(())
}

fn pid_of(child: &Child) -> Option<Pid> {
    Pid::from_raw(i32::try_from(child.id()).ok()?)
}

/// Waits by descriptor: no thread, no polling interval, and the process id stays ours until `wait`.
pub(crate) fn ended_before(child: &Child, deadline: Instant) -> Result<bool> {
    let pid = pid_of(child).context("the child has no process id")?;
    let descriptor = pidfd_open(pid, PidfdFlags::empty()).context("open the child's pidfd")?;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut polled = [PollFd::new(&descriptor, PollFlags::IN)];
        match poll(&mut polled, Some(&timespec(left))) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("wait for the child"),
        }
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}

/// Kills by ancestry. A process group of its own would take Ctrl-C away from what runs in the foreground.
fn kill_tree(child: &Child) {
    let Some(root) = pid_of(child) else { return };
    for pid in descendants(root.as_raw_nonzero().get(), &parents()).into_iter().filter_map(Pid::from_raw) {
        if let Err(error) = kill_process(pid, Signal::KILL) {
            say(format_args!("kill process {}: {error}", pid.as_raw_nonzero()));
        }
    }
}

/// Every process and its parent.
fn parents() -> HashMap<i32, i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return HashMap::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid| Some((pid, parent_in(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?))).collect()
}

/// The parent's id in a line of `/proc/<pid>/stat`; the command's name before it may hold anything.
fn parent_in(stat: &str) -> Option<i32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// `root` and all below it, ancestors first, so that nothing is left to start anew.
fn descendants(root: i32, parents: &HashMap<i32, i32>) -> Vec<i32> {
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(parents.iter().filter(|(_, of)| **of == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_past_its_deadline_dies_with_its_children() {
        // The shell waits for a child that holds the pipe: reading ends only when both are gone.
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 1000; :"]).stdout(writer);
        let error = run_until(&mut command, Instant::now() + Duration::from_millis(200)).unwrap_err();
        assert!(error.to_string().contains("took too long"), "{error}");
        drop(command);
        std::io::copy(&mut reader, &mut std::io::sink()).unwrap();
    }

    #[test]
    fn a_command_within_its_deadline_gives_its_own_result() {
        let deadline = Instant::now() + Duration::from_secs(60);
        assert!(run_until(&mut Command::new("true"), deadline).is_ok());
        assert!(run_until(&mut Command::new("false"), deadline).unwrap_err().to_string().contains("failed"));
    }

    #[test]
    fn a_process_name_cannot_fake_its_parent() {
        assert_eq!(parent_in("12 (a) R 1) S 7 12 12"), Some(7));
    }
}
