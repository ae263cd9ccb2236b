//! The program with all of Kubernetes' components: built by Go from `tests/cluster`, once for each state of its sources.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

/// Where Go may be besides PATH: its own installation's place.
const GO_HOME: &str = "/usr/local/go/bin/go";
/// Its name while the cluster runs.
const KEPT: &str = "kube";
/// What decides what is built.
const SOURCES: [&str; 3] = ["go.mod", "go.sum", "main.go"];

/// A Go toolchain.
#[derive(Clone, Debug)]
pub struct Go(PathBuf);

impl Go {
    /// Go, if it is installed and new enough to fetch the release that go.mod asks for.
    pub fn find() -> Option<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut places = std::env::split_paths(&path).map(|directory| directory.join("go")).chain([GO_HOME.into()]);
        places.find(|place| is_new_enough(place)).map(Self)
    }
}

fn is_new_enough(go: &Path) -> bool {
    let Ok(output) = Command::new(go).args(["env", "GOVERSION"]).output() else { return false };
    let version = String::from_utf8_lossy(&output.stdout);
    let mut numbers = version.trim().trim_start_matches("go").split('.').map(|part| part.parse::<u32>().ok());
    matches!((numbers.next(), numbers.next()), (Some(Some(1)), Some(Some(21..))))
}

/// The program for the module in `sources`, kept below `cache`; `None` if it has to be built first.
pub fn program(sources: &Path, cache: &Path) -> Result<(PathBuf, Option<Command>)> {
    let program = cache.join(key(sources)?).join("kube");
    if program.is_file() {
        return Ok((program, None));
    }
    let Some(Go(go)) = Go::find() else {
        bail!("Go builds Kubernetes' components and is not installed: any release from 1.21 on will do");
    };
    let mut build = Command::new(go);
    let go_mod = std::fs::read_to_string(sources.join("go.mod")).context("read go.mod")?;
    let version = version(&go_mod)?;
    let (major, minor) = version.trim_start_matches('v').split_once('.').context("a version has a dot")?;
    let minor = minor.split('.').next().unwrap_or_default();
    // Upstream's own build sets these; a client that asks the server's version reads them.
    let stamp = "k8s.io/component-base/version";
    let flags =
        format!("-s -w -X {stamp}.gitVersion={version} -X {stamp}.gitMajor={major} -X {stamp}.gitMinor={minor}");
    build.current_dir(sources).args(["build", "-trimpath", "-buildvcs=false", "-ldflags", &flags, "-o"]);
    build.arg(&program).arg(".");
    Ok((program, Some(build)))
}

/// The version of Kubernetes that `go_mod` names.
fn version(go_mod: &str) -> Result<&str> {
    let line = go_mod.lines().find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes "));
    line.context("go.mod names no version of k8s.io/kubernetes")
}

fn key(sources: &Path) -> Result<String> {
    let mut hasher = DefaultHasher::new();
    for name in SOURCES {
        let path = sources.join(name);
        std::fs::read(&path).with_context(|| format!("read {}", path.display()))?.hash(&mut hasher);
    }
    Ok(format!("{:016x}", hasher.finish()))
}

/// Keeps the program with the running cluster, whose build may be cleaned away meanwhile.
pub(super) fn keep(program: &Path, state: &Path) -> Result<PathBuf> {
    let kept = kept(state);
    if std::fs::hard_link(program, &kept).is_err() {
        // Another file system.
        std::fs::copy(program, &kept).with_context(|| format!("copy {}", program.display()))?;
    }
    ensure!(kept.is_file(), "{} is no file", kept.display());
    Ok(kept)
}

/// Where [`keep`] puts it.
pub(super) fn kept(state: &Path) -> PathBuf {
    state.join(KEPT)
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn the_version_stands_in_go_mod_alone() {
        let text = include_str!("../../cluster/go.mod");
        assert!(version(text).unwrap().starts_with("v1."));
        assert!(version("module m\n").is_err());
    }
}
