//! What one process has used.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// Of one process.
pub(super) struct Usage {
    at: Instant,
    /// Between two moments.
    pub(super) elapsed: Duration,
    /// Processor time of all its threads.
    pub(super) cpu: Duration,
    /// Resident now, in bytes.
    pub(super) resident: u64,
    /// The most that was ever resident, in bytes.
    pub(super) peak: u64,
}

impl Usage {
    /// Until now.
    pub(super) fn of(pid: u32) -> Result<Self> {
        let read = |file: &str| {
            let path = format!("/proc/{pid}/{file}");
            std::fs::read_to_string(&path).with_context(|| format!("read {path}"))
        };
        let (stat, status) = (read("stat")?, read("status")?);
        let cpu = cpu(&stat, rustix::param::clock_ticks_per_second()).context("no times in a process's stat")?;
        let bytes = |name| Some(field(&status, name)? * 1024);
        Ok(Self {
            at: Instant::now(),
            elapsed: Duration::ZERO,
            cpu,
            resident: bytes("VmRSS:").context("no VmRSS")?,
            peak: bytes("VmHWM:").context("no VmHWM")?,
        })
    }

    /// Between an earlier moment and this one.
    pub(super) fn since(self, before: &Self) -> Self {
        Self { elapsed: self.at - before.at, cpu: self.cpu.saturating_sub(before.cpu), ..self }
    }
}

/// User and system time (proc_pid_stat(5), fields 14 and 15). The name before them may hold anything.
fn cpu(stat: &str, ticks_per_second: u64) -> Option<Duration> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 1000 / ticks_per_second))
}

fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}
