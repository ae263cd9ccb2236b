//! One virtual machine: started, watched through its console, and never left running.
use std::{
    fmt, fs,
    io::{BufRead as _, BufReader, Read, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result};

use super::console;
use crate::process;

/// Enough for two meshes, their applications and the files they write.
const MEMORY_MIB: u32 = 2048;

/// A kernel that hangs shall panic, and one that panics shall end. Emulation is slow: limits are generous.
const COMMAND_LINE: &str = "console=ttyS0 loglevel=5 mitigations=off panic=-1 oops=panic softlockup_panic=1 hung_task_panic=1 \
                            sysctl.kernel.panic_on_rcu_stall=1 watchdog_thresh=60 rcupdate.rcu_cpu_stall_timeout=120";

/// What executes the guest's instructions.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Accelerator {
    /// The processor itself.
    Kvm,
    /// QEMU, in software.
    Tcg,
    /// QEMU, one processor whose clock advances by a nanosecond an instruction, and jumps to the next event when it idles.
    TcgCounting,
}

impl Accelerator {
    /// How many times slower than a developer's machine the tests may be.
    pub(super) fn scale(self) -> u32 {
        match self {
            Self::Kvm => 2,
            Self::Tcg => 8,
            // Waiting for a disk takes any time by such a clock.
            Self::TcgCounting => 1000,
        }
    }

    /// With as many processors as the machines that CI has, unless instructions are counted.
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Kvm => &["-accel", "kvm", "-cpu", "host", "-smp", "2"],
            Self::Tcg => &["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2"],
            // `rep movsb` counts as one instruction however much it moves: without it, copying has its price.
            Self::TcgCounting => {
                &["-accel", "tcg", "-cpu", "max,-erms,-fsrm", "-smp", "1", "-icount", "shift=0,sleep=off"]
            }
        }
    }
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Kvm => "KVM",
            Self::Tcg => "TCG (software emulation)",
            Self::TcgCounting => "TCG, counting instructions",
        })
    }
}

/// What a machine boots and sees.
pub(super) struct Machine<'a> {
    pub(super) image: &'a Path,
    pub(super) initramfs: &'a Path,
    /// Writable for the guest; everything else is read-only.
    pub(super) results: &'a Path,
    pub(super) accelerator: Accelerator,
    /// Added to the kernel's command line.
    pub(super) parameters: &'a str,
}

/// What was seen of a machine's life.
#[derive(Debug, Default)]
pub(super) struct Life {
    /// Lines that report a fault of the kernel.
    pub(super) faults: Vec<String>,
    /// Whether it ended by itself in time.
    pub(super) ended: bool,
    /// Whether the guest got as far as our first program.
    pub(super) booted: bool,
}

impl Machine<'_> {
    /// Runs the machine to its end or until `deadline`; its console goes to `log`.
    pub(super) fn run(&self, log: &Path, deadline: Instant) -> Result<Life> {
        let log = fs::File::create(log).with_context(|| format!("create {}", log.display()))?;
        let mut qemu = Guard(self.command(log.try_clone()?).spawn().context("start setpriv and qemu-system-x86_64")?);
        let console = qemu.0.stdout.take().context("the machine has no console")?;
        // Ends with the machine, which is the only one to write.
        let reader = std::thread::spawn(move || watch(console, log));
        let ended = process::ended_before(&qemu.0, deadline)?;
        drop(qemu);
        let mut life = reader.join().map_err(|_panic| anyhow::anyhow!("reading the console panicked"))??;
        life.ended = ended;
        Ok(life)
    }

    fn command(&self, log: fs::File) -> Command {
        // The kernel ends QEMU with the thread that started it, however that ends: Ctrl-C, a kill, a panic.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "qemu-system-x86_64", "-M", "q35"]).args(self.accelerator.arguments());
        command.args(["-m", &MEMORY_MIB.to_string(), "-no-reboot"]);
        command.args(["-nic", "none", "-display", "none", "-monitor", "none", "-serial", "stdio"]);
        command.arg("-kernel").arg(self.image).arg("-initrd").arg(self.initramfs);
        command.args(["-append", &format!("{COMMAND_LINE} {}", self.parameters)]);
        command.args(["-virtfs", &share("host", Path::new("/"), ",readonly=on,multidevs=remap")]);
        command.args(["-virtfs", &share("results", self.results, "")]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        command
    }
}

fn share(tag: &str, path: &Path, options: &str) -> String {
    // A comma would begin the next option.
    let path = path.display().to_string().replace(',', ",,");
    format!("local,path={path},mount_tag={tag},security_model=none{options}")
}

/// Copies the console into the log and notes what it says, until it ends.
fn watch(console: impl Read, mut log: fs::File) -> Result<Life> {
    let mut life = Life::default();
    let mut console = BufReader::new(console);
    let mut line = Vec::new();
    while console.read_until(b'\n', &mut line).context("read the console")? > 0 {
        log.write_all(&line).context("write the console's log")?;
        let text = String::from_utf8_lossy(&line);
        life.booted |= text.contains("hauberk: ");
        if console::is_fault(&text) {
            life.faults.push(text.trim().to_owned());
        }
        line.clear();
    }
    Ok(life)
}

/// Kills and reaps the machine when dropped.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        // Fails only if it has ended.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comma_in_a_path_is_no_option() {
        assert_eq!(share("t", Path::new("/a,b"), ""), "local,path=/a,,b,mount_tag=t,security_model=none");
    }

    #[test]
    fn the_console_is_kept_and_its_faults_are_noted() {
        let path = std::env::temp_dir().join(format!("hauberk-console-{}", std::process::id()));
        let text: &[u8] = b"hauberk: programs begin\n[ 1.0] Kernel panic - not syncing\xff\nlast";
        let life = watch(text, fs::File::create(&path).unwrap()).unwrap();
        let kept = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(life.booted && life.faults.len() == 1, "{life:?}");
        assert_eq!(kept, text);
    }
}
