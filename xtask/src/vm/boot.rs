//! Boots a kernel with the tests inside and judges what came of it.
use std::{
    env, fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{
    Place, initramfs,
    kernel::Kernel,
    left_out,
    qemu::{Accelerator, Life, Machine},
    report::Verdict,
    suite::Suite,
};
use crate::process::say;

const TESTS: &str = include_str!("guest/tests.sh");
const SYSTEM_PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
/// A machine that KVM runs has booted long before.
const PROBE_LIMIT: Duration = Duration::from_secs(10);

/// The fastest accelerator that gets `kernel` to its first program. KVM can be there and not work: nested, or emulated.
pub(super) fn accelerator(kernel: &Kernel, place: &Place) -> Result<Accelerator> {
    if fs::File::options().read(true).write(true).open("/dev/kvm").is_err() {
        return Ok(Accelerator::Tcg);
    }
    let directory = place.fresh("probe")?;
    let until = Instant::now() + PROBE_LIMIT;
    let life = run(kernel, &directory, &directory, Accelerator::Kvm, "hauberk_probe=1", until)?;
    if life.booted && life.ended {
        return Ok(Accelerator::Kvm);
    }
    say("KVM is here but does not boot a kernel");
    Ok(Accelerator::Tcg)
}

/// Boots `kernel` and sees it to its end; the console and what else belongs to this run are in `directory`.
pub(super) fn run(
    kernel: &Kernel,
    directory: &Path,
    results: &Path,
    accelerator: Accelerator,
    parameters: &str,
    deadline: Instant,
) -> Result<Life> {
    let initramfs = initramfs::make(kernel, directory)?;
    let machine = Machine { image: &kernel.image, initramfs: &initramfs, results, accelerator, parameters };
    machine.run(&directory.join("console.log"), deadline)
}

/// Runs `suite` on `kernel` until `deadline`.
pub(super) fn run_suite(
    kernel: &Kernel,
    suite: &Suite,
    accelerator: Accelerator,
    place: &Place,
    long: bool,
    deadline: Instant,
) -> Result<Verdict> {
    let began = Instant::now();
    let directory = place.fresh(&kernel.series.to_string())?;
    let results = results(&directory, suite, accelerator, long)?;
    let life = run(kernel, &directory, &results, accelerator, "", deadline)?;
    let text = |name: &str| {
        fs::read(results.join(name)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    };
    let names: Vec<_> = suite.programs.iter().map(|program| program.name.as_str()).collect();
    let mut verdict = Verdict::judge(&names, &text("report"), |program| text(&format!("{program}.out")));
    if !life.ended {
        verdict.problem("the machine took too long and was killed".to_owned());
    }
    for fault in life.faults {
        verdict.problem(format!("the kernel says: {fault}"));
    }
    verdict.took(began.elapsed().as_secs());
    Ok(verdict)
}

/// What the guest needs to know to run `suite`.
fn results(directory: &Path, suite: &Suite, accelerator: Accelerator, long: bool) -> Result<PathBuf> {
    let mut environment = vec![("MESH_AGENT_BIN", suite.agent.display().to_string())];
    if long {
        environment.push(("MESH_TEST_BULK_MIB", "512".to_owned()));
    }
    if env::var_os("MESH_TEST_LOGS").is_some() {
        environment.push(("MESH_TEST_LOGS", "/results/logs".to_owned()));
    }
    let programs: String = suite
        .programs
        .iter()
        .map(|program| {
            let ignored = if program.with_ignored { "--include-ignored" } else { "" };
            let arguments = format!("--test-threads=1 --exact {} {ignored}", left_out::arguments());
            line(&program.name, &program.executable, &program.directory, &arguments)
        })
        .collect();
    share(directory, accelerator, environment, &programs)
}

/// A line of the guest's list of programs. The arguments are words without spaces.
pub(super) fn line(name: &str, executable: &Path, directory: &Path, arguments: &str) -> String {
    format!("{name}\t{}\t{}\t{arguments}\n", executable.display(), directory.display())
}

/// Makes the directory that the guest shares with us, with what it runs and in which environment.
pub(super) fn share(
    directory: &Path,
    accelerator: Accelerator,
    mut environment: Vec<(&str, String)>,
    programs: &str,
) -> Result<PathBuf> {
    let results = directory.join("results");
    fs::create_dir_all(&results).with_context(|| format!("make {}", results.display()))?;
    environment.extend([
        // The system's first: a version manager's wrapper scripts take seconds under emulation.
        ("PATH", format!("{SYSTEM_PATH}:{}", env::var("PATH").context("PATH is not set")?)),
        ("MESH_TEST_SCALE", accelerator.scale().to_string()),
        ("TMPDIR", "/run/tests".to_owned()),
    ]);
    let environment: String = environment.iter().map(|(name, value)| export(name, value)).collect();
    for (name, text) in [("tests.sh", TESTS), ("environment", &environment), ("programs", programs)] {
        let path = results.join(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(results)
}

/// A line for a shell that sets and exports a variable.
fn export(name: &str, value: &str) -> String {
    format!("export {name}='{}'\n", value.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::export;

    #[test]
    fn a_quote_in_a_value_stays_one() {
        assert_eq!(export("A", "it's"), "export A='it'\\''s'\n");
    }
}
