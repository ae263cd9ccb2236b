//! Mixed traffic of a soak: which pods talk to which, and what came of it so far.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::app::{Outcome, Tally};
use crate::process::Process;
use crate::wait::wait_until;
use crate::world::{Family, Pod, World};

/// A set of jobs of one pod: each kind to one server, over both IP versions.
#[derive(Clone, Copy, Debug)]
pub struct Jobs {
    /// What outcomes are counted under.
    pub label: &'static str,
    /// The pod that connects.
    pub from: &'static str,
    /// The pod that is connected to.
    pub to: &'static str,
    /// The port.
    pub port: u16,
    /// The kinds; `.kind.family` is appended to the label for each.
    pub kinds: &'static [&'static str],
}

/// Running clients; their connections end with it.
#[derive(Debug)]
pub struct Traffic {
    processes: Vec<Process>,
    labels: Vec<String>,
}

impl Traffic {
    /// Starts a process for each set of jobs.
    pub fn start(world: &World, jobs: &[Jobs]) -> Result<Self> {
        let mut traffic = Self { processes: Vec::new(), labels: Vec::new() };
        for jobs in jobs {
            let from = world.pod(jobs.from);
            let mut command = from.app("mix")?;
            for kind in jobs.kinds {
                for family in Family::BOTH {
                    let to = world.address(jobs.to, family, jobs.port);
                    let label = format!("{}.{kind}.{family}", jobs.label);
                    command.args(["--job", &format!("{label}={kind}@{to}")]);
                    traffic.labels.push(label);
                }
            }
            traffic.processes.push(from.spawn(&mut command)?);
        }
        Ok(traffic)
    }

    /// The totals so far.
    pub fn totals(&mut self) -> Result<Totals> {
        let mut all = Tally::new();
        for process in &mut self.processes {
            ensure!(process.exited()?.is_none(), "a client ended: {}", process.stderr()?);
            if let Some(line) = process.last_line()? {
                all.extend(serde_json::from_str::<Tally>(&line).context("read a client's totals")?);
            }
        }
        Ok(Totals(all))
    }

    /// Waits until each label that `wanted` accepts has `count` more outcomes than in `since`, and gives the totals.
    pub fn wait_outcomes(
        &mut self,
        limit: Duration,
        since: &Totals,
        count: u64,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Totals> {
        let labels: Vec<String> = self.labels.iter().filter(|label| wanted(label)).cloned().collect();
        wait_until(limit, &format!("{count} more outcomes of each kind"), || {
            let totals = self.totals()?;
            let met = labels.iter().all(|label| totals.all(label) >= since.all(label) + count);
            Ok(met.then_some(totals))
        })
    }
}

/// Totals of all clients, by label and outcome.
#[derive(Clone, Debug, Default)]
pub struct Totals(Tally);

impl Totals {
    /// How often labels that begin with `prefix` came to `outcome`.
    pub fn of(&self, prefix: &str, outcome: Outcome) -> u64 {
        let matching = self.0.iter().filter(|(label, _)| label.starts_with(prefix));
        matching.filter_map(|(_, outcomes)| outcomes.get(outcome.name())).sum()
    }

    fn all(&self, label: &str) -> u64 {
        self.0.get(label).map_or(0, |outcomes| outcomes.values().sum())
    }

    /// What came since `before`, without the zeros.
    pub fn since(&self, before: &Self) -> Self {
        let tally = self.0.iter().map(|(label, outcomes)| {
            let then =
                |name: &String| before.0.get(label).and_then(|outcomes| outcomes.get(name)).copied().unwrap_or(0);
            let more = outcomes.iter().map(|(name, count)| (name.clone(), count - then(name)));
            (label.clone(), more.filter(|(_, count)| *count > 0).collect())
        });
        Self(tally.collect())
    }

    /// Fails if any label that `which` accepts came to anything that is not `allowed`.
    pub fn only(&self, which: impl Fn(&str) -> bool, allowed: &[Outcome]) -> Result<()> {
        for (label, outcomes) in self.0.iter().filter(|(label, _)| which(label)) {
            let odd: BTreeMap<_, _> =
                outcomes.iter().filter(|(name, _)| !allowed.iter().any(|outcome| outcome.name() == *name)).collect();
            ensure!(odd.is_empty(), "{label}: {odd:?} among {outcomes:?}");
        }
        Ok(())
    }

    /// How often all labels together came to each outcome.
    pub fn summed(&self) -> BTreeMap<String, u64> {
        let mut sums = BTreeMap::new();
        for (name, count) in self.0.values().flatten() {
            *sums.entry(name.clone()).or_default() += count;
        }
        sums
    }
}

impl Pod {
    /// Serves mixed traffic on `port`.
    pub fn serve_mix(&self, port: u16) -> Result<Process> {
        let mut command = self.app("mix-serve")?;
        let mut process = self.spawn(command.args(["--port", &port.to_string()]))?;
        process.wait_line("the server listens", |line| line.contains("listening"))?;
        Ok(process)
    }
}
