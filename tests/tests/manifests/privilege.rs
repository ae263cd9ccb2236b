//! What the kernel says of the mesh's running parts, whatever their manifests say.

use anyhow::{Context as _, Result, ensure};
use mesh_tests::agent::CAPABILITIES;
use mesh_tests::cluster::Meshed;

/// The number of each capability that an agent may have: linux/capability.h.
const NUMBERS: [(&str, u32); 5] =
    [("BPF", 39), ("NET_ADMIN", 12), ("NET_BIND_SERVICE", 10), ("SYS_ADMIN", 21), ("SYS_PTRACE", 19)];

/// Every agent and CA: exactly its capabilities, none to be gained, a seccomp filter, and a root that can't be written.
pub(crate) fn the_parts_run_with_least_privilege(meshed: &Meshed) -> Result<()> {
    ensure!(NUMBERS.map(|(name, _)| name) == CAPABILITIES);
    let agents = NUMBERS.iter().fold(0_u64, |all, (_, number)| all | 1 << number);
    let mut seen = (0, 0);
    for node in meshed.cluster.nodes() {
        // The command line ends each word with a NUL.
        let script = "for p in /proc/[0-9]*; do case $(tr '\\0' ' ' 2>/dev/null < $p/cmdline) in \
                      *mesh-agent\\ run*|*mesh-agent\\ ca\\ serve*) echo @; tr '\\0' ' ' < $p/cmdline; echo; cat $p/status; \
                      grep ' / / ' $p/mountinfo | sed 's/^/Root: /';; esac; done";
        let output = node.command("sh")?.args(["-c", script]).output().context("look at the processes")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        for process in text.split("@\n").skip(1) {
            let value = |name: &str| {
                let line = process.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
                line.map(str::trim).with_context(|| format!("no {name}: {process}"))
            };
            let is_agent = process.lines().next().unwrap_or_default().contains("mesh-agent run");
            if is_agent {
                seen.0 += 1
            } else {
                seen.1 += 1
            }
            let expected = if is_agent { agents } else { 0 };
            for set in ["CapBnd", "CapEff", "CapPrm"] {
                ensure!(u64::from_str_radix(value(set)?, 16)? == expected, "{set} is not {expected:x}: {process}");
            }
            ensure!(value("CapInh")? == value("CapAmb")? && value("CapAmb")? == "0000000000000000", "{process}");
            ensure!(value("Seccomp")? == "2" && value("NoNewPrivs")? == "1", "{process}");
            ensure!(is_agent || value("Uid")?.starts_with("65532"), "{process}");
            let options = value("Root")?.split(' ').nth(5).context("no mount options")?;
            ensure!(options.split(',').any(|option| option == "ro"), "the root can be written: {process}");
        }
    }
    ensure!(seen.0 == meshed.cluster.nodes().len() && seen.1 >= 1, "{seen:?} agents and CAs were seen");
    Ok(())
}
