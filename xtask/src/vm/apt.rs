//! A private apt: Debian's own mirrors as this machine knows them, with the suites that have the kernels and QEMU.
//!
//! Nothing of the machine's own configuration is changed, and its proxies and keyrings serve. Signatures are apt's business.
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail};
use ebpf_build::describe;

use crate::{process, workspace};

/// What Debian's package debian-archive-keyring brings.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Lists younger than this are new enough: a kernel more or less a day changes nothing.
const LISTS_AGE: Duration = Duration::from_secs(24 * 3600);

/// Where packages come from, by the label in the archive's signed Release file.
const SUITES: [(&str, &[&str]); 2] =
    [("Debian", &["bookworm", "bookworm-backports", "trixie-backports"]), ("Debian-Security", &["bookworm-security"])];

/// Why there can be no archive on this machine.
pub(super) fn obstacle() -> Option<String> {
    let missing = ["apt-get", "dpkg-deb"].into_iter().find(|program| ebpf_build::find_program(program).is_none());
    match missing {
        Some(program) => Some(format!("needs {program}: the kernels are Debian's packages")),
        None if !Path::new(KEYRING).exists() => {
            Some("needs the package debian-archive-keyring: the kernels' signatures are checked".to_owned())
        }
        None => None,
    }
}

/// An apt configuration of our own in one directory.
pub(super) struct Archive {
    directory: PathBuf,
}

impl Archive {
    /// Writes the configuration into `directory`.
    pub(super) fn open(directory: &Path) -> Result<Self> {
        for part in ["lists/partial", "cache/archives/partial", "parts"] {
            let path = directory.join(part);
            fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        }
        let archive = Self { directory: directory.to_owned() };
        let (path, text) = (archive.sources(), sources(&mirrors()?)?);
        if fs::read_to_string(&path).ok().as_ref() != Some(&text) {
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        }
        Ok(archive)
    }

    /// Updates the lists unless they are new.
    pub(super) fn update(&self) -> Result<()> {
        let stamp = self.directory.join("updated");
        let written = |path: &Path| fs::metadata(path).and_then(|data| data.modified());
        if let (Ok(updated), Ok(sources)) = (written(&stamp), written(&self.sources())) {
            let age = SystemTime::now().duration_since(updated).unwrap_or(Duration::MAX);
            if age < LISTS_AGE && updated >= sources {
                return Ok(());
            }
        }
        // Any: otherwise a list that can't be fetched is only a warning.
        process::run(self.command("apt-get").args(["update", "--quiet", "--error-on=any"]))?;
        fs::write(&stamp, "").context("remember the update")
    }

    /// The names of all packages that begin with `prefix`.
    pub(super) fn package_names(&self, prefix: &str) -> Result<Vec<String>> {
        let text = output(self.command("apt-cache").args(["pkgnames", prefix]))?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Downloads `packages` into `directory`; apt verifies them.
    pub(super) fn download(&self, packages: &[String], directory: &Path) -> Result<()> {
        process::run(self.command("apt-get").arg("download").args(packages).current_dir(directory))
    }

    fn sources(&self) -> PathBuf {
        self.directory.join("sources.list")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let mut set = |name: &str, path: PathBuf| {
            command.arg("-o").arg(format!("{name}={}", path.display()));
        };
        set("Dir::Etc::sourcelist", self.sources());
        set("Dir::Etc::sourceparts", self.directory.join("parts"));
        set("Dir::State::lists", self.directory.join("lists"));
        set("Dir::Cache", self.directory.join("cache"));
        // Its user for downloads can't enter a home directory.
        command.args(["-o", "APT::Sandbox::User=root", "-o", "Acquire::Languages=none"]);
        // What app stores show; some configurations fetch it.
        command.args(["-o", "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false"]);
        command
    }
}

/// Installs `packages` from Debian 12's backports: what the release itself has is too old for the tier.
pub(crate) fn install(packages: &[String]) -> Result<()> {
    let archive = Archive::open(&workspace::target()?.join("vm/kernels/apt"))?;
    archive.update()?;
    let mut command = archive.command("apt-get");
    command.args(["install", "--yes", "--no-install-recommends", "--target-release", "bookworm-backports"]);
    process::run(command.args(packages).env("DEBIAN_FRONTEND", "noninteractive"))
}

/// What apt knows of Debian's archives: lines of `label|URI`, however the sources are written.
fn mirrors() -> Result<String> {
    let targets = || {
        output(Command::new("apt-get").args([
            "indextargets",
            "--format",
            "$(LABEL)|$(REPO_URI)",
            "Created-By: Packages",
        ]))
    };
    let found = targets()?;
    if mirror(&found, "Debian").is_some() || !rustix::process::geteuid().is_root() {
        return Ok(found);
    }
    // Labels are known once there are lists.
    process::run(Command::new("apt-get").arg("update"))?;
    targets()
}

fn mirror<'a>(targets: &'a str, label: &str) -> Option<&'a str> {
    targets.lines().filter_map(|line| line.split_once('|')).find(|(of, _)| *of == label).map(|(_, uri)| uri)
}

/// The sources for `targets`; a machine without the security archive does without.
fn sources(targets: &str) -> Result<String> {
    let mut text = String::new();
    for (label, suites) in SUITES {
        let Some(uri) = mirror(targets, label) else { continue };
        for suite in suites {
            text += &format!("deb [signed-by={KEYRING}] {uri} {suite} main\n");
        }
    }
    if mirror(targets, SUITES[0].0).is_none() {
        bail!("none of this machine's package sources is Debian's: `apt-get update` makes them known");
    }
    Ok(text)
}

fn output(command: &mut Command) -> Result<String> {
    let shown = describe(command);
    let output = command.output().with_context(|| format!("start `{shown}`"))?;
    if !output.status.success() {
        bail!("`{shown}` failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_own_mirrors_serve_the_suites_that_we_need() {
        let targets = "Vendor|https://other.example/apt/\nDebian|http://mirror.example/debian/\n\
                       Debian|http://second.example/debian/\nDebian-Security|http://mirror.example/security/\n";
        let text = sources(targets).unwrap();
        assert_eq!(text.lines().count(), 4, "{text}");
        assert!(text.contains("] http://mirror.example/debian/ trixie-backports main\n"), "{text}");
        assert!(text.contains("] http://mirror.example/security/ bookworm-security main\n"), "{text}");
        assert!(!text.contains("other.example") && !text.contains("second.example"), "{text}");
        assert!(text.lines().all(|line| line.contains("signed-by=")), "{text}");
    }

    #[test]
    fn without_a_debian_mirror_there_are_no_kernels_and_without_a_security_mirror_there_are() {
        assert!(sources("Ubuntu|http://mirror.example/ubuntu/\n").is_err());
        assert_eq!(sources("Debian|http://mirror.example/debian/\n").unwrap().lines().count(), 3);
    }
}
