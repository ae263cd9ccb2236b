//! Fuzzes what strangers, peers and typing errors can bring: the targets of `fuzz/`, with libFuzzer.
//!
//! The pinned stable compiler can do it: coverage is a pass of LLVM, and without a sanitizer nothing needs nightly. Safe
//! code has little for a sanitizer to find; what is looked for are broken promises, panics, hangs and growth.
use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use ebpf_build::describe;
use serde_json::Value;

use crate::{
    build::host,
    process::say,
    setup::{self, Purpose},
    workspace,
};

/// What `cargo fuzz` passes too, without what only a sanitizer needs.
const COVERAGE: [&str; 5] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// One input may take so long and so much; both are far beyond what any needs.
const LIMITS: [&str; 2] = ["-timeout=10", "-rss_limit_mb=1024"];

/// Look for inputs that break a promise of the parsers
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The target; all, one after the other, if none is named
    target: Option<String>,
    /// For how many seconds each is fuzzed
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Afterwards, take into the corpus what reaches more than the corpus does
    #[arg(long)]
    keep: bool,
}

impl Options {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        setup::ensure(Purpose::Build)?;
        let fuzzers = build()?;
        for (name, fuzzer) in &fuzzers {
            if self.target.as_ref().is_none_or(|target| target == name) {
                fuzzer.run(self.seconds)?;
                if self.keep {
                    fuzzer.keep()?;
                }
            }
        }
        match &self.target {
            Some(target) if !fuzzers.contains_key(target) => {
                let known: Vec<_> = fuzzers.into_keys().collect();
                bail!("no target `{target}`: there are {}", known.join(", "))
            }
            _ => Ok(ExitCode::SUCCESS),
        }
    }
}

/// Fuzzes every target for so many seconds.
pub(crate) fn run_all(seconds: u64) -> Result<()> {
    build()?.values().try_for_each(|fuzzer| fuzzer.run(seconds))
}

/// The build as a command, for callers that put a limit on its time.
pub(crate) fn build_command() -> Result<Command> {
    let mut command = workspace::cargo();
    command.args(["build", "--locked", "--package", "mesh-fuzz", "--features", "libfuzzer", "--profile", "fuzz"]);
    // With a target named, build scripts and macros go without the flags: they link no libFuzzer.
    command.args(["--target", &host()?]).env("CARGO_ENCODED_RUSTFLAGS", COVERAGE.join("\u{1f}"));
    Ok(command)
}

/// A target that is ready to run.
struct Fuzzer {
    name: String,
    executable: PathBuf,
    /// Kept in the repository.
    corpus: PathBuf,
    /// What earlier runs have found on this machine.
    found: PathBuf,
    /// Inputs that break a promise.
    broken: PathBuf,
}

/// Builds all targets, by name.
fn build() -> Result<BTreeMap<String, Fuzzer>> {
    let mut command = build_command()?;
    command.args(["--message-format", "json-render-diagnostics"]).stderr(Stdio::inherit());
    let shown = describe(&command);
    say(format_args!("$ {shown}"));
    let output = command.output().with_context(|| format!("start `{shown}`"))?;
    ensure!(output.status.success(), "`{shown}` failed: {}", output.status);
    executables(&String::from_utf8(output.stdout)?)
        .into_iter()
        .map(|found| Ok((found.0.clone(), fuzzer(found)?)))
        .collect()
}

fn fuzzer((name, executable): (String, PathBuf)) -> Result<Fuzzer> {
    // Beside the executable: cargo's own directory, which nobody keeps.
    let work = executable.with_file_name("fuzzing").join(&name);
    let [found, broken] = ["found", "broken"].map(|directory| work.join(directory));
    for directory in [&found, &broken] {
        fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    }
    let corpus = workspace::root().join("fuzz/corpus").join(&name);
    ensure!(corpus.is_dir(), "the target {name} has no corpus: {}", corpus.display());
    Ok(Fuzzer { name, executable, corpus, found, broken })
}

fn executables(messages: &str) -> BTreeMap<String, PathBuf> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let bins = messages.filter(|message| message["target"]["kind"][0] == "bin");
    bins.filter_map(|message| {
        Some((message["target"]["name"].as_str()?.to_owned(), message["executable"].as_str()?.into()))
    })
    .collect()
}

impl Fuzzer {
    fn command(&self) -> Command {
        let mut command = Command::new(&self.executable);
        // A program that is run by itself finds nothing of ours in its environment.
        command.current_dir(&self.broken).args(LIMITS);
        command
    }

    /// Fuzzes, and says in one line how far it came.
    fn run(&self, seconds: u64) -> Result<()> {
        let mut command = self.command();
        command.arg(format!("-artifact_prefix={}/", self.broken.display())).arg("-print_final_stats=1");
        command.arg(format!("-max_total_time={seconds}")).args([&self.found, &self.corpus]);
        let output =
            command.stdin(Stdio::null()).output().with_context(|| format!("start the fuzzer {}", self.name))?;
        let log = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            say(&log);
            bail!("{}: an input breaks a promise (above, and in {})", self.name, self.broken.display());
        }
        say(format_args!("fuzz {}: {seconds} s, {}", self.name, summary(&log).context("the fuzzer gave no summary")?));
        Ok(())
    }

    /// Merges what was found into the corpus: only inputs that reach more.
    fn keep(&self) -> Result<()> {
        let mut command = self.command();
        // By branches alone: how often each is taken would keep a thousand inputs.
        let merge = ["-merge=1", "-use_counters=0"];
        let output = command.args(merge).args([&self.corpus, &self.found]).output().context("start the merge")?;
        ensure!(output.status.success(), "merge: {}", String::from_utf8_lossy(&output.stderr));
        say(format_args!("fuzz {}: the corpus has {} inputs", self.name, fs::read_dir(&self.corpus)?.count()));
        Ok(())
    }
}

/// Inputs tried, and branches reached.
fn summary(log: &str) -> Option<String> {
    let tried = log.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"))?.trim();
    let mut words = log.lines().rfind(|line| line.contains(" cov: "))?.split(' ').skip_while(|word| *word != "cov:");
    Some(format!("{tried} inputs, {} branches reached", words.nth(1)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_says_where_the_fuzzers_are() {
        let messages = "{\"target\":{\"name\":\"mesh_fuzz\",\"kind\":[\"lib\"]},\"executable\":null}\n\
                        {\"target\":{\"name\":\"hello\",\"kind\":[\"bin\"]},\"executable\":\"/t/fuzz/hello\"}\n";
        assert_eq!(executables(messages), BTreeMap::from([("hello".to_owned(), "/t/fuzz/hello".into())]));
    }

    #[test]
    fn a_run_is_told_in_one_line() {
        let log = "INFO: Seed: 1\n#2\tINITED cov: 17 ft: 18 corp: 1/1b\n#9\tDONE   cov: 44 ft: 90 corp: 3/9b\n\
                   stat::number_of_executed_units: 9\n";
        assert_eq!(summary(log).as_deref(), Some("9 inputs, 44 branches reached"));
        assert_eq!(summary("nothing of the kind"), None);
    }
}
