//! What the mesh costs in instructions: `cargo xtask bench vm`.
//!
//! Runs inside a machine that QEMU emulates with one processor whose clock advances by a nanosecond an instruction, so
//! that all processor time there is instructions: of the applications, the agents and the kernel
//! alike, and nothing that else happens on the host can disturb them. Instructions are not cycles.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Parser;
use serde::{Deserialize, Serialize};

use crate::bed::{Bed, Mode, Programs};
use crate::plan::{COUNTED_TASKS, Task};
use crate::table::{layout, short};

/// How long a mode's world is left alone before it is measured: what its start has left to do is done by then.
const REST: Duration = Duration::from_secs(10);

/// What one task costs in one mode on one kernel; its fields are in the order of the output.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Count {
    /// Which kernel, as `uname -r` says it.
    kernel: String,
    mode: String,
    task: String,
    /// What one is.
    unit: String,
    /// How many were moved.
    amount: f64,
    /// Instructions for each, of the whole machine.
    instructions: f64,
    /// Processor time for each that the kernel charges to the world's processes, in nanoseconds: by such a clock another
    /// word for instructions, from another counter.
    cpu_ns: f64,
    /// Which part of the time the processor had nothing to do; not among the instructions.
    idle: f64,
}

#[derive(Debug, Parser)]
struct Arguments {
    /// The agent
    #[arg(long)]
    agent: PathBuf,
    /// The load generator
    #[arg(long)]
    load: PathBuf,
    /// The relay that splices
    #[arg(long)]
    relay: PathBuf,
    /// How long each task is done, in seconds of a processor with 10^9 instructions a second
    #[arg(long)]
    seconds: f64,
    /// Only the modes whose name begins so, and no mesh
    #[arg(long, default_value = "")]
    only: String,
}

/// Runs the program.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let is_wanted = |mode: &Mode| *mode == Mode::Direct || mode.name().starts_with(&arguments.only);
    match Mode::COUNTED.into_iter().filter(is_wanted).try_for_each(|mode| count_mode(mode, &arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            drop(writeln!(std::io::stderr(), "{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn count_mode(mode: Mode, arguments: &Arguments) -> Result<()> {
    let Arguments { agent, load, relay, seconds, .. } = arguments;
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    let bed =
        Bed::start(mode, Programs { agent, load, relay: Some(relay) }, None).with_context(|| format!("mode {mode}"))?;
    for task in COUNTED_TASKS {
        // The first time a path is walked costs more: code is paged in, caches are filled.
        bed.measure(task, seconds / 10.0)?;
        rest();
        let count = count_task(&bed, task, *seconds, &kernel)?;
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "{}", serde_json::to_string(&count)?).context("print a count")?;
    }
    Ok(())
}

fn count_task(bed: &Bed, task: Task, seconds: f64, kernel: &str) -> Result<Count> {
    let outcome = bed.measure(task, seconds)?;
    let (unit, amount) = task.unit(&outcome);
    let usage = outcome.usage;
    let elapsed_ns = usage.elapsed_us as f64 * 1e3;
    let busy_ns = usage.busy_ns.context("this kernel does not say how long it was busy")? as f64;
    Ok(Count {
        kernel: kernel.to_owned(),
        mode: bed.mode.name().to_owned(),
        task: task.name(),
        unit: unit.to_owned(),
        amount,
        instructions: busy_ns / amount,
        cpu_ns: usage.cgroup_us as f64 * 1e3 / amount,
        idle: 1.0 - busy_ns / elapsed_ns,
    })
}

/// Waits for a time and nothing else: what a machine does by itself can't be waited for.
fn rest() {
    let end = Instant::now() + REST;
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        std::thread::park_timeout(left);
    }
}

/// Reads what the program has printed.
pub fn read(lines: &str) -> Result<Vec<Count>> {
    lines.lines().map(|line| serde_json::from_str(line).with_context(|| format!("read a count: {line}"))).collect()
}

/// A table for people: a row for each task on each kernel, with each mode's instructions and their ratio to no mesh.
pub fn table(counts: &[Count]) -> String {
    let names = Mode::COUNTED.map(Mode::name);
    let mut rows = vec![["kernel", "instructions for a"].into_iter().chain(names).map(str::to_owned).collect()];
    for direct in counts.iter().filter(|count| count.mode == Mode::Direct.name()) {
        let cell = |mode: &str| cell(counts, direct, mode);
        let mut row = vec![direct.kernel.clone(), format!("{} ({})", direct.unit, direct.task)];
        row.extend(names.map(|name| cell(name).unwrap_or_default()));
        rows.push(row);
    }
    layout(&rows)
}

fn cell(counts: &[Count], direct: &Count, mode: &str) -> Option<String> {
    let same = |count: &&Count| count.mode == mode && count.task == direct.task && count.kernel == direct.kernel;
    let count = counts.iter().find(same)?;
    let (scale, letter) = if count.unit == "MiB" { (1e6, "M") } else { (1e3, "k") };
    let value = format!("{} {letter}", short(count.instructions / scale));
    let ratio = count.instructions / direct.instructions;
    Some(if count.mode == direct.mode { value } else { format!("{value} (×{ratio:.2})") })
}

/// The arguments of the program.
pub fn arguments(agent: &Path, load: &Path, relay: &Path, seconds: f64, only: &str) -> Vec<String> {
    let path = |path: &Path| path.display().to_string();
    let named = [("--agent", path(agent)), ("--load", path(load)), ("--relay", path(relay))];
    let named = named.into_iter().chain([("--seconds", seconds.to_string())]);
    let mut arguments: Vec<String> = named.flat_map(|(name, value)| [name.to_owned(), value]).collect();
    arguments.push(format!("--only={only}"));
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(mode: &str, instructions: f64) -> Count {
        let text = |text: &str| text.to_owned();
        let (kernel, task, unit) = (text("6.1"), text("bulk.up.1"), text("MiB"));
        let (amount, cpu_ns, idle) = (9.0, instructions, 0.0);
        Count { kernel, mode: text(mode), task, unit, amount, instructions, cpu_ns, idle }
    }

    #[test]
    fn the_table_compares_with_no_mesh_on_the_same_kernel() {
        let lines: Vec<_> = [count("direct", 1.5e6), count("kernel-aes", 9e6)]
            .iter()
            .map(|count| serde_json::to_string(count).unwrap())
            .collect();
        let text = table(&read(&lines.join("\n")).unwrap());
        let cells: Vec<_> = text.lines().nth(2).unwrap().split('|').map(str::trim).collect();
        assert_eq!(cells, ["", "6.1", "MiB (bulk.up.1)", "1.50 M", "", "9.00 M (×6.00)", "", "", "", "", "", ""]);
    }
}
