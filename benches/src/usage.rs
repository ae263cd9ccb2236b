//! What was used between two moments: processor time of the machine and of one cgroup, and memory of a process.
//!
//! Two sources on purpose. `/proc/stat` counts the whole machine, kernel threads and softirqs too, but also strangers'
//! work; a cgroup counts a world's own processes exactly. Their difference tells how much was not ours.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// Processor time that passed, in microseconds.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Usage {
    /// On the clock.
    pub(crate) elapsed_us: u64,
    /// Of the whole machine, without idling and stealing.
    pub(crate) machine_us: u64,
    /// Of the cgroup.
    pub(crate) cgroup_us: u64,
    /// That the hypervisor gave to somebody else.
    pub(crate) stolen_us: u64,
    /// In which the processors ran something, kernel threads and interrupts included, in nanoseconds.
    pub(crate) busy_ns: Option<u64>,
}

/// A moment from which usage is counted.
#[derive(Debug)]
pub(crate) struct Meter<'a> {
    cgroup: &'a Path,
    started: Instant,
    before: Usage,
}

impl<'a> Meter<'a> {
    /// Counts from now.
    pub(crate) fn start(cgroup: &'a Path) -> Result<Self> {
        // What reading costs is not counted.
        let before = read_counters(cgroup)?;
        Ok(Self { cgroup, started: Instant::now(), before })
    }

    /// What was used until now.
    pub(crate) fn stop(&self) -> Result<Usage> {
        let elapsed = self.started.elapsed();
        let now = read_counters(self.cgroup)?;
        Ok(Usage {
            elapsed_us: u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX),
            machine_us: now.machine_us.saturating_sub(self.before.machine_us),
            cgroup_us: now.cgroup_us.saturating_sub(self.before.cgroup_us),
            stolen_us: now.stolen_us.saturating_sub(self.before.stolen_us),
            busy_ns: now.busy_ns.zip(self.before.busy_ns).map(|(now, before)| now.saturating_sub(before)),
        })
    }
}

fn read_counters(cgroup: &Path) -> Result<Usage> {
    let busy_ns = std::fs::read_to_string("/proc/schedstat").ok().and_then(|text| busy_ns(&text));
    let stat = std::fs::read_to_string("/proc/stat").context("read /proc/stat")?;
    let ticks = rustix::param::clock_ticks_per_second();
    let (machine_us, stolen_us) = machine(&stat, ticks).context("no processors in /proc/stat")?;
    let path = cgroup.join("cpu.stat");
    let stat = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let cgroup_us = field(&stat, "usage_usec").context("no usage_usec in a cgroup's cpu.stat")?;
    Ok(Usage { elapsed_us: 0, machine_us, cgroup_us, stolen_us, busy_ns })
}

/// The time that all processors have run tasks (Documentation/scheduler/sched-stats.rst). `/proc/stat` has it in ticks.
fn busy_ns(schedstat: &str) -> Option<u64> {
    let processors = schedstat.lines().filter(|line| line.starts_with("cpu"));
    processors.map(|line| line.split(' ').nth(7)?.parse::<u64>().ok()).sum()
}

/// Busy and stolen microseconds of all processors (proc_stat(5)). Time of guests is within user time.
fn machine(stat: &str, ticks_per_second: u64) -> Option<(u64, u64)> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = line.split_whitespace().map_while(|text| text.parse().ok()).collect();
    let &[user, nice, system, _idle, _iowait, irq, softirq, steal, ..] = ticks.as_slice() else { return None };
    let us_per_tick = 1_000_000 / ticks_per_second;
    Some(((user + nice + system + irq + softirq) * us_per_tick, steal * us_per_tick))
}

/// Resident memory of a process in bytes.
pub(crate) fn resident_bytes(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    Ok(field(&status, "VmRSS:").with_context(|| format!("no VmRSS in {path}"))? * 1024)
}

/// The number after `name` at the start of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next());
    value?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idling_and_stolen_time_is_not_used_time() {
        let stat = "cpu  10 1 20 1000 500 3 4 7 2 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(machine(stat, 100), Some((380_000, 70_000)));
    }

    #[test]
    fn the_busy_time_of_all_processors_is_added() {
        let schedstat = "version 15\ntimestamp 4295\ncpu0 0 0 9 8 7 6 70 5 4\ndomain0 3 1 2\ncpu1 0 0 9 8 7 6 30 5 4\n";
        assert_eq!(busy_ns(schedstat), Some(100));
        assert_eq!(busy_ns("version 15\ncpu0 0 0\n"), None);
    }

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let status = "VmRSS:\t    2048 kB\n";
        assert_eq!(field(status, "VmRSS:"), Some(2048));
        assert_eq!(field("user_usec 5\nusage_usec 9\n", "usage_usec"), Some(9));
    }
}
