//! Which kernels are booted, and how they come here: chosen by name from Debian's lists, downloaded by apt, unpacked.
use std::{
    collections::BTreeSet,
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
    str::FromStr,
};

use anyhow::{Context as _, Result, bail};

use super::apt::Archive;
use crate::process::{self, say};

/// A line of kernels; its newest release is the one that is booted.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Series {
    /// Debian 12's own.
    V6_1,
    /// Debian 12's backport.
    V6_12,
    /// The newest that Debian builds for its stable release.
    Latest,
}

impl Series {
    /// Oldest first: what breaks, breaks there.
    pub(crate) const ALL: [Self; 3] = [Self::V6_1, Self::V6_12, Self::Latest];

    fn prefix(self) -> &'static [u32] {
        match self {
            Self::V6_1 => &[6, 1],
            Self::V6_12 => &[6, 12],
            Self::Latest => &[],
        }
    }
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
            Self::Latest => "latest",
        })
    }
}

impl FromStr for Series {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|series| series.to_string() == text).ok_or(())
    }
}

/// A kernel on this machine, ready to boot.
#[derive(Clone, Debug)]
pub(super) struct Kernel {
    pub(super) series: Series,
    /// As `uname -r` says it.
    pub(super) release: String,
    /// Holds `lib/modules/<release>`.
    pub(super) root: PathBuf,
    /// The image.
    pub(super) image: PathBuf,
}

impl Kernel {
    /// The directory with the modules and their index.
    pub(super) fn modules(&self) -> PathBuf {
        self.root.join("lib/modules").join(&self.release)
    }
}

/// Brings the newest kernel of each series; without a network, the newest that is here.
pub(super) fn fetch(directory: &Path, wanted: &[Series]) -> Result<Vec<Kernel>> {
    fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    let archive = Archive::open(&directory.join("apt"))?;
    let listed = match archive.update() {
        Ok(()) => archive.package_names("linux-")?,
        Err(error) => {
            say(format_args!("warning: {error:#}; the kernels that are here already are used"));
            Vec::new()
        }
    };
    wanted.iter().map(|series| fetch_one(directory, &archive, &listed, *series)).collect()
}

fn fetch_one(directory: &Path, archive: &Archive, listed: &[String], series: Series) -> Result<Kernel> {
    let here: Vec<String> = releases_here(directory)?;
    let release = newest(series, releases(listed)).or_else(|| newest(series, here.iter().map(String::as_str)));
    let release = release.with_context(|| format!("no kernel of series {series} is listed or here"))?.to_owned();
    if !here.contains(&release) {
        download(directory, archive, &packages(listed, &release), &release)?;
    }
    let root = directory.join(&release);
    let candidates =
        [root.join(format!("boot/vmlinuz-{release}")), root.join("lib/modules").join(&release).join("vmlinuz")];
    let image = candidates.into_iter().find(|path| path.is_file());
    let image = image.with_context(|| format!("the packages of {release} have no kernel image"))?;
    Ok(Kernel { series, release, root, image })
}

fn releases_here(directory: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))?;
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    Ok(names.filter(|name| name != "apt" && !name.ends_with(PARTIAL)).collect())
}

const PARTIAL: &str = ".partial";

/// Under another name until all is done: what is there under its own name is whole.
fn download(directory: &Path, archive: &Archive, packages: &[String], release: &str) -> Result<()> {
    let partial = directory.join(format!("{release}{PARTIAL}"));
    if partial.exists() {
        fs::remove_dir_all(&partial).with_context(|| format!("remove {}", partial.display()))?;
    }
    fs::create_dir_all(&partial).with_context(|| format!("make {}", partial.display()))?;
    archive.download(packages, &partial)?;
    for entry in fs::read_dir(&partial).with_context(|| format!("list {}", partial.display()))? {
        let package = entry?.path();
        if package.extension().is_some_and(|extension| extension == "deb") {
            process::run(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&partial))?;
            fs::remove_file(&package).with_context(|| format!("remove {}", package.display()))?;
        }
    }
    // Newer packages have everything below /usr; depmod and modprobe look in /lib.
    if !partial.join("lib").exists() {
        std::os::unix::fs::symlink("usr/lib", partial.join("lib")).context("link lib")?;
    }
    process::run(Command::new("depmod").arg("-b").arg(&partial).arg(release))?;
    fs::rename(&partial, directory.join(release)).context("name the unpacked kernel")
}

const KINDS: [&str; 4] = ["linux-image-", "linux-binary-", "linux-modules-", "linux-base-"];
const FLAVOUR: &str = "-amd64";

/// The packages that make up `release`: one before 6.19, up to four since.
fn packages(listed: &[String], release: &str) -> Vec<String> {
    KINDS.iter().map(|kind| format!("{kind}{release}")).filter(|name| listed.contains(name)).collect()
}

/// The releases of which there is a kernel image; of the plain flavour, which has every file system and protocol.
fn releases(listed: &[String]) -> impl Iterator<Item = &str> {
    let named = listed.iter().filter_map(|name| KINDS[..2].iter().find_map(|kind| name.strip_prefix(kind)));
    named.filter(|release| numbers(release).is_some()).collect::<BTreeSet<_>>().into_iter()
}

fn newest<'a>(series: Series, releases: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let of_series = releases.filter_map(|release| Some((numbers(release)?, release)));
    let of_series = of_series.filter(|(numbers, _)| numbers.starts_with(series.prefix()));
    of_series.max().map(|(_, release)| release)
}

/// The numbers of a release such as `6.12.90+deb12.1-amd64`, in the order that decides which is newer. `None` for other
/// flavours and for packages of debug symbols or without signature.
fn numbers(release: &str) -> Option<Vec<u32>> {
    let version = release.strip_suffix(FLAVOUR)?.replace("+deb", ".");
    version.split(['.', '-']).map(|part| part.parse().ok()).collect()
}

impl Kernel {
    /// The files of `modules` and of all that they need, in the order to insert them.
    pub(super) fn insertion_order(&self, modules: &[&str]) -> Result<Vec<PathBuf>> {
        let mut command = Command::new("modprobe");
        command.arg("-d").arg(&self.root).args(["-S", &self.release, "--show-depends", "--all"]).args(modules);
        let output = command.output().context("start modprobe")?;
        if !output.status.success() {
            bail!("modprobe: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(inserted(&String::from_utf8_lossy(&output.stdout)))
    }
}

/// The files that `modprobe --show-depends` would insert, each once.
fn inserted(shown: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for file in shown.lines().filter_map(|line| line.trim().strip_prefix("insmod ")) {
        let file = PathBuf::from(file.trim());
        if !files.contains(&file) {
            files.push(file);
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed() -> Vec<String> {
        [
            "linux-image-6.1.0-9-amd64",
            "linux-image-6.1.0-56-amd64",
            "linux-image-6.1.0-57-amd64-unsigned",
            "linux-image-6.1.0-58-cloud-amd64",
            "linux-image-6.12.90+deb12-amd64",
            "linux-image-6.12.90+deb12.1-amd64",
            "linux-image-6.12.99+deb12-amd64-dbg",
            "linux-image-amd64",
            "linux-image-7.3.4+deb13-amd64",
            "linux-binary-7.3.4+deb13-amd64",
            "linux-modules-7.3.4+deb13-amd64",
            "linux-base-7.3.4+deb13-amd64",
            "linux-modules-7.9.9+deb13-amd64",
            "linux-image-7.2.12+deb13-amd64",
        ]
        .map(str::to_owned)
        .to_vec()
    }

    #[test]
    fn the_newest_of_a_series_is_chosen_by_numbers_and_only_if_it_boots() {
        let listed = listed();
        let newest = |series| newest(series, releases(&listed));
        assert_eq!(newest(Series::V6_1), Some("6.1.0-56-amd64"));
        assert_eq!(newest(Series::V6_12), Some("6.12.90+deb12.1-amd64"));
        assert_eq!(newest(Series::Latest), Some("7.3.4+deb13-amd64"));
    }

    #[test]
    fn a_split_kernel_is_all_of_its_packages() {
        assert_eq!(packages(&listed(), "7.3.4+deb13-amd64").len(), 4);
        assert_eq!(packages(&listed(), "6.1.0-56-amd64"), ["linux-image-6.1.0-56-amd64"]);
    }

    #[test]
    fn modules_are_inserted_once_each_and_built_in_ones_not_at_all() {
        let shown = "builtin virtio\ninsmod /m/a.ko.xz \ninsmod /m/b.ko\ninsmod /m/a.ko.xz\n";
        assert_eq!(inserted(shown), [PathBuf::from("/m/a.ko.xz"), PathBuf::from("/m/b.ko")]);
    }
}
