//! Runs one program on a machine that counts instructions: `cargo xtask bench vm`.
use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::{Place, Series, boot, kernel, kernel::Kernel, qemu::Accelerator, wanted};
use crate::process::say;

/// The name of the program's output.
const NAME: &str = "counted";
/// Counting makes emulation several times slower still.
const LIMIT: Duration = Duration::from_secs(60 * 60);

/// Runs `program` on each of `kernels` (on all if none is named) and returns what it printed there. One machine at a time:
/// emulation takes a whole processor.
pub(crate) fn count(kernels: &[Series], program: &Path, arguments: &[String]) -> Result<Vec<String>> {
    let place = Place::find()?;
    let kernels = kernel::fetch(&place.kernels(), &wanted(kernels))?;
    kernels.iter().map(|kernel| count_on(kernel, &place, program, arguments)).collect()
}

fn count_on(kernel: &Kernel, place: &Place, program: &Path, arguments: &[String]) -> Result<String> {
    say(format_args!("counting on {}", kernel.release));
    let began = Instant::now();
    let directory = place.fresh(&format!("{NAME}-{}", kernel.series))?;
    let accelerator = Accelerator::TcgCounting;
    let programs = boot::line(NAME, program, Path::new("/"), &arguments.join(" "));
    let results = boot::share(&directory, accelerator, Vec::new(), &programs)?;
    let life = boot::run(kernel, &directory, &results, accelerator, "", began + LIMIT)?;
    let text = |name: &str| fs::read_to_string(results.join(name)).with_context(|| format!("read the guest's {name}"));
    let printed = text(&format!("{NAME}.out"))?;
    if !life.ended || !life.faults.is_empty() || !text("report")?.contains(&format!("end {NAME} 0 ")) {
        bail!("{}: {:?}; {printed}; the console is in {}", kernel.release, life.faults, directory.display());
    }
    say(format_args!("{} took {} s", kernel.release, began.elapsed().as_secs()));
    Ok(printed)
}
