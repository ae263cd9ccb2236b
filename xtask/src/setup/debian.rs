//! Installs Debian packages without starting the services that come with some of them.
use std::{fs, path::Path, process::Command};

use anyhow::Result;

use crate::process::{self, say};

/// Packages that bring a service, which Debian starts on installation; the name is the unit's too.
const SERVICES: [(&str, &str); 6] = [
    ("containerd", "containerd.service"),
    ("haproxy", "haproxy.service"),
    ("nftables", "nftables.service"),
    ("nginx-light", "nginx.service"),
    ("prometheus", "prometheus.service"),
    ("redis-server", "redis-server.service"),
];

/// One run's dealings with apt.
#[derive(Default)]
pub(crate) struct Apt {
    lists_are_fresh: bool,
}

impl Apt {
    /// Installs `packages`, after one update of the package lists.
    pub(crate) fn install(&mut self, packages: &[String]) -> Result<()> {
        if packages.is_empty() {
            return Ok(());
        }
        if !self.lists_are_fresh {
            process::run(Command::new("apt-get").arg("update"))?;
            self.lists_are_fresh = true;
        }
        let units = units_of(packages);
        hold_back(&units, "mask");
        let installed = process::run(&mut install_command(packages));
        hold_back(&units, "unmask");
        if installed.is_ok() {
            // Nobody asked for these services: they should not come up at the next boot either.
            systemctl(&["disable"], &units);
        }
        installed
    }
}

/// Whether this system installs its packages with apt.
pub(crate) fn is_debian_like() -> bool {
    fs::read_to_string("/etc/os-release").is_ok_and(|release| names_debian(&release))
        && ebpf_build::find_program("apt-get").is_some()
}

/// Whether this is Debian 12, whose own QEMU is too old for us.
pub(crate) fn is_bookworm() -> bool {
    fs::read_to_string("/etc/os-release").is_ok_and(|release| names_bookworm(&release))
}

/// The command that installs `packages`.
pub(crate) fn install_command(packages: &[String]) -> Command {
    let mut command = Command::new("apt-get");
    command
        .args(["install", "--yes", "--no-install-recommends"])
        .args(packages)
        .env("DEBIAN_FRONTEND", "noninteractive")
        // invoke-rc.d starts nothing in single-user mode: that is for machines without systemd.
        .env("RUNLEVEL", "1");
    command
}

fn names_debian(os_release: &str) -> bool {
    os_release
        .lines()
        .filter_map(|line| line.strip_prefix("ID=").or_else(|| line.strip_prefix("ID_LIKE=")))
        .flat_map(|value| value.trim_matches('"').split(' '))
        .any(|id| id == "debian")
}

fn names_bookworm(os_release: &str) -> bool {
    os_release.lines().any(|line| line == "VERSION_CODENAME=bookworm")
}

fn units_of(packages: &[String]) -> Vec<&'static str> {
    SERVICES.iter().filter(|(package, _)| packages.iter().any(|p| p == package)).map(|(_, unit)| *unit).collect()
}

/// A run-time mask is gone after a reboot, even if we die before we take it away.
fn hold_back(units: &[&str], verb: &str) {
    systemctl(&["--runtime", verb], units);
}

fn systemctl(arguments: &[&str], units: &[&str]) {
    if units.is_empty() || !Path::new("/run/systemd/system").is_dir() {
        return;
    }
    // The packages are worth having even if systemd does not obey.
    if let Err(error) = process::run(Command::new("systemctl").args(arguments).args(units)) {
        say(format_args!("warning: {error}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derivatives_count_as_debian() {
        assert!(names_debian("NAME=\"Debian\"\nID=debian\n"));
        assert!(names_debian("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n"));
        assert!(!names_debian("ID=fedora\nHOME_URL=\"debian\"\n"));
    }

    #[test]
    fn only_debian_12_takes_its_emulator_from_the_backports() {
        assert!(names_bookworm("ID=debian\nVERSION_CODENAME=bookworm\n"));
        assert!(!names_bookworm("ID=debian\nVERSION_CODENAME=trixie\n"));
    }

    #[test]
    fn only_packages_with_a_service_are_masked() {
        assert_eq!(units_of(&["curl".into(), "redis-server".into()]), ["redis-server.service"]);
    }
}
