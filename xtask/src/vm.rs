//! The VM tier: stock Debian kernels under QEMU, with the native tier's tests inside.
//!
//! The same machines, counting instructions, say what the mesh costs on other kernels (`count`).
//!
//! What other kernels do with our programs is found out by booting them. The guest's root is this machine's own, read-only
//! over 9p with a layer of memory on top: every program that the native tests run is there, and nothing has to be copied.
use std::{
    fmt, fs,
    path::PathBuf,
    sync::Mutex,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    build,
    process::{self, say},
    test::Tier,
    workspace,
};

mod apt;
mod boot;
mod console;
mod count;
mod initramfs;
mod kernel;
mod left_out;
mod qemu;
mod report;
mod suite;

pub(crate) use apt::install;
pub(crate) use count::count;
pub(crate) use kernel::Series;

/// How many machines run at once. They wait more than they compute; measured on two cores.
const AT_ONCE: usize = 2;
/// A kernel that takes longer than this hangs, even on a machine that does much else.
const KERNEL_LIMIT: Duration = Duration::from_secs(30 * 60);
/// As many times what a day's run takes do 512 MiB take, each way, for every cipher and pairing of ends.
pub(crate) const LONGER: u32 = 3;

/// What of the tier is wanted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selection {
    /// Kernels; all if empty.
    pub(crate) kernels: Vec<Series>,
    /// Test files; all if empty.
    pub(crate) tests: Vec<String>,
    /// 512 MiB where 32 are enough for every day.
    pub(crate) long: bool,
}

/// Why this machine cannot run the tier at all.
pub(crate) fn obstacle() -> Option<String> {
    if std::env::consts::ARCH != "x86_64" {
        return Some("the recipe is for x86-64 kernels".to_owned());
    }
    apt::obstacle()
}

/// Boots every wanted kernel and runs the tests in it, until `deadline`.
pub(crate) fn run(selection: &Selection, deadline: Instant) -> Result<()> {
    process::run_until(&mut build::agent_command(true)?, deadline)?;
    let agent = build::build(true)?.agent;
    let suite = suite::build(agent, selection)?;
    if selection.is_everyday() {
        left_out::FILES.iter().for_each(|(file, reason)| say(format_args!("left out: {file}: {reason}")));
    }
    let place = Place::find()?;
    let kernels = kernel::fetch(&place.kernels(), &selection.wanted())?;
    let accelerator = boot::accelerator(&kernels[0], &place)?;
    say(format_args!("accelerator: {accelerator}; {AT_ONCE} machines at once; {} test programs", suite.programs.len()));
    let queue = Mutex::new(kernels.iter());
    let verdicts = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(kernel) = next(&queue) {
                    let limit = KERNEL_LIMIT * if selection.long { LONGER } else { 1 };
                    let until = deadline.min(Instant::now() + limit);
                    let verdict = boot::run_suite(kernel, &suite, accelerator, &place, selection.long, until);
                    say(Summary { kernel, verdict: &verdict });
                    if let Ok(mut verdicts) = verdicts.lock() {
                        verdicts.push(verdict.is_ok_and(|verdict| verdict.passed()));
                    }
                }
            });
        }
    });
    let passed = verdicts.into_inner().map_err(|_poisoned| anyhow::anyhow!("a worker panicked"))?;
    if passed.len() != kernels.len() || passed.contains(&false) {
        bail!("not every kernel passed; the consoles and the tests' output are below {}", place.directory.display());
    }
    Ok(())
}

fn next<'a>(queue: &Mutex<std::slice::Iter<'a, kernel::Kernel>>) -> Option<&'a kernel::Kernel> {
    queue.lock().ok()?.next()
}

impl Selection {
    /// Nobody wants more, or something special.
    fn is_everyday(&self) -> bool {
        self.tests.is_empty() && !self.long
    }

    fn wanted(&self) -> Vec<Series> {
        wanted(&self.kernels)
    }
}

/// All kernels if none is named.
fn wanted(kernels: &[Series]) -> Vec<Series> {
    if kernels.is_empty() { Series::ALL.to_vec() } else { kernels.to_vec() }
}

/// Where the tier keeps kernels and logs: below cargo's target directory.
struct Place {
    directory: PathBuf,
}

impl Place {
    fn find() -> Result<Self> {
        Ok(Self { directory: workspace::target()?.join("vm") })
    }

    fn kernels(&self) -> PathBuf {
        self.directory.join("kernels")
    }

    /// An empty directory for one run of `name`.
    fn fresh(&self, name: &str) -> Result<PathBuf> {
        let directory = self.directory.join("logs").join(name);
        if directory.exists() {
            fs::remove_dir_all(&directory).with_context(|| format!("remove {}", directory.display()))?;
        }
        fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
        Ok(directory)
    }
}

/// What one kernel's run comes to, in one line and, if it failed, the evidence.
struct Summary<'a> {
    kernel: &'a kernel::Kernel,
    verdict: &'a Result<report::Verdict>,
}

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kernel, verdict } = self;
        match verdict {
            Ok(verdict) => write!(f, "{} {} ({}): {verdict}", Tier::Vm, kernel.series, kernel.release),
            Err(error) => write!(f, "{} {} ({}): FAILED: {error:#}", Tier::Vm, kernel.series, kernel.release),
        }
    }
}
