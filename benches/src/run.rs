//! A run of the bench: builds the worlds, lets the modes take turns, and tells what came of it.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::bed::{Bed, Mode, Programs};
use crate::load::Outcome;
use crate::noise::{self, Disturbance};
use crate::plan::{IDLE_CONNECTIONS, Number, TASKS, Task};
use crate::report::Report;
use crate::table;
use crate::usage::resident_bytes;

/// How often a measurement is repeated because others disturbed it; the quietest counts.
const REPETITIONS: usize = 2;

/// Of so many measurements one may be repeated: on a machine that is always busy it helps nothing.
const MEASUREMENTS_PER_REPETITION: usize = 2;

/// What a run shall do.
#[derive(Debug)]
pub struct BenchOptions {
    /// How often every mode is measured.
    pub rounds: usize,
    /// For how long each time.
    pub seconds: f64,
    /// Leaves out the tasks whose name does not begin so, and memory; nothing is left out if it is empty.
    pub only: String,
    /// Where the lines of JSON go; to standard output if nowhere.
    pub json: Option<PathBuf>,
}

/// Measures `agent` with the load generator `load`.
pub fn run(agent: &Path, load: &Path, options: &BenchOptions) -> Result<ExitCode> {
    allow_descriptors()?;
    tell("building a world for each mode")?;
    let mut beds: Vec<Bed> = Vec::new();
    for mode in Mode::ALL {
        let issuer = beds.iter().find(|bed| bed.mode == Mode::Mesh);
        beds.push(
            Bed::start(mode, Programs { agent, load, relay: None }, issuer).with_context(|| format!("mode {mode}"))?,
        );
    }
    let mut report = Report::default();
    let mut memory = Report::default();
    // Resumed or not, a session weighs the same.
    for bed in beds.iter().filter(|bed| options.only.is_empty() && bed.mode.takes(Task::Request(1))) {
        tell(&format!("memory of {}", bed.mode))?;
        weigh(bed, &mut memory).with_context(|| format!("memory of {}", bed.mode))?;
    }
    for round in 0..options.rounds {
        for task in TASKS.into_iter().filter(|task| task.name().starts_with(&options.only)) {
            tell(&format!("round {} of {}: {}", round + 1, options.rounds, task.name()))?;
            // Another mode begins each time: none is always the one after the most busy.
            for index in 0..beds.len() {
                let bed = &beds[(index + round) % beds.len()];
                if !bed.mode.takes(task) {
                    continue;
                }
                measure(bed, task, options.seconds, &mut report)?;
            }
        }
    }
    report.series.extend(memory.series);
    report.series.sort_by_key(|series| order(&series.metric));
    publish(&report, options)?;
    Ok(ExitCode::SUCCESS)
}

/// Measures once, or more often if others disturb.
fn measure(bed: &Bed, task: Task, seconds: f64, report: &mut Report) -> Result<()> {
    let processors = std::thread::available_parallelism()?.get();
    let mut best: Option<(Outcome, Disturbance)> = None;
    for attempt in 0..=REPETITIONS {
        if attempt > 0 {
            if report.repeated * MEASUREMENTS_PER_REPETITION > report.disturbances.len() {
                break;
            }
            report.repeated += 1;
        }
        let outcome = bed.measure(task, seconds)?;
        let disturbance = Disturbance::of(outcome.usage, processors);
        if best.as_ref().is_none_or(|(_, least)| disturbance.weight() < least.weight()) {
            best = Some((outcome, disturbance));
        }
        if !disturbance.is_too_much() {
            break;
        }
    }
    let (outcome, disturbance) = best.context("nothing was measured")?;
    report.disturbances.push(disturbance);
    if outcome.errors > 0 {
        let why = outcome.error.as_deref().unwrap_or("unknown");
        report.failures.push(format!("{}: {}: {} failed ({why})", bed.mode, task.name(), outcome.errors));
    }
    for number in task.numbers(&outcome) {
        report.add(bed.mode, number);
    }
    Ok(())
}

/// Resident memory of both proxies: idle, and what each idle connection adds.
fn weigh(bed: &Bed, report: &mut Report) -> Result<()> {
    let Some(proxies) = bed.proxies()? else { return Ok(()) };
    // What every proxy allocates once, with its first connection, is no connection's: `Bed::start` made one.
    let idle = weights(proxies)?;
    let holder = bed.hold()?;
    let full = weights(proxies)?;
    drop(holder);
    for (index, side) in ["client", "server"].into_iter().enumerate() {
        let each = (full[index] - idle[index]) / IDLE_CONNECTIONS as f64;
        report.add(bed.mode, Number::new(format!("memory.{side}.idle"), "MiB", idle[index] / f64::from(1 << 20)));
        report.add(bed.mode, Number::new(format!("memory.{side}.per_connection"), "KiB", each / 1024.0));
    }
    Ok(())
}

fn weights(proxies: [u32; 2]) -> Result<[f64; 2]> {
    let [client, server] = proxies.map(resident_bytes);
    Ok([client? as f64, server? as f64])
}

/// The order of the tasks; memory comes last.
fn order(metric: &str) -> usize {
    let task = TASKS.iter().position(|task| metric.starts_with(&format!("{}.", task.name())));
    task.unwrap_or(TASKS.len())
}

fn publish(report: &Report, options: &BenchOptions) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{}", table::render(report))?;
    match &options.json {
        Some(path) => fs::write(path, report.json_lines()?).with_context(|| format!("write {}", path.display()))?,
        None => writeln!(stdout, "{}", report.json_lines()?)?,
    }
    for failure in &report.failures {
        writeln!(stdout, "FAILED {failure}")?;
    }
    writeln!(stdout, "{}", noise::verdict(report)).context("print the report")
}

/// A thousand connections are two thousand descriptors of an agent, which inherits our limit.
fn allow_descriptors() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).context("raise the limit of descriptors")
}

/// Progress; the report has standard output for itself.
fn tell(text: &str) -> Result<()> {
    writeln!(std::io::stderr(), "{text}").context("tell the progress")
}
