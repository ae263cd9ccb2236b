//! Writes the CustomResourceDefinitions that the agent makes of its types into `deploy/crds`, one file a kind.
//!
//! They are checked in, so that a cluster is installed from a clone without a build; a test of the agent fails when they
//! are not what its types say.
use std::{
    collections::BTreeMap,
    fs, io,
    path::Path,
    process::{ExitCode, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{process::say, workspace};

/// Where they are, from the root of the workspace.
const DIRECTORY: &str = "deploy/crds";

/// Write the CustomResourceDefinitions into deploy/crds
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Write nothing; fail if they are not what the types say
    #[arg(long)]
    check: bool,
}

impl Options {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let (directory, wanted) = (workspace::root().join(DIRECTORY), files(&definitions()?)?);
        let stale = stale(&directory, &wanted)?;
        if self.check && !stale.is_empty() {
            bail!("{DIRECTORY} is not what the types say ({}): run `cargo xtask crds`", stale.join(", "));
        }
        for name in &stale {
            let path = directory.join(name);
            match wanted.get(name) {
                Some(text) => fs::create_dir_all(&directory).and_then(|()| fs::write(&path, text)),
                None => fs::remove_file(&path),
            }
            .with_context(|| format!("change {}", path.display()))?;
            say(format_args!("changed {}", path.display()));
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn definitions() -> Result<String> {
    let mut command = workspace::cargo();
    command.args(["run", "--locked", "--quiet", "--package", "mesh-agent", "--", "schema", "--crds"]);
    let output = command.stderr(Stdio::inherit()).output().context("start cargo run")?;
    if !output.status.success() {
        bail!("`mesh-agent schema --crds` failed: {}", output.status);
    }
    String::from_utf8(output.stdout).context("read the definitions")
}

/// The files by name: the definitions, each called after its plural, and the list that kustomize reads.
fn files(definitions: &str) -> Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    for definition in definitions.split_inclusive("\n---\n").map(|text| text.trim_end_matches("---\n")) {
        let name =
            definition.lines().find_map(|line| line.strip_prefix("  name: ")).context("a definition has no name")?;
        let plural = name.split('.').next().unwrap_or(name);
        files.insert(format!("{plural}.yaml"), definition.to_owned());
    }
    let names: String = files.keys().map(|name| format!("- {name}\n")).collect();
    let list = format!(
        "# Made by `cargo xtask crds`.\napiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n{names}"
    );
    files.insert("kustomization.yaml".to_owned(), list);
    Ok(files)
}

/// The names of files that are missing, different or too many.
fn stale(directory: &Path, wanted: &BTreeMap<String, String>) -> Result<Vec<String>> {
    let mut there = BTreeMap::new();
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        entries => Some(entries.with_context(|| format!("read {}", directory.display()))?),
    };
    for entry in entries.into_iter().flatten() {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        there.insert(name, fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?);
    }
    let differs = |name: &&String| there.get(*name) != wanted.get(*name);
    let names: std::collections::BTreeSet<_> = there.keys().chain(wanted.keys()).collect();
    Ok(names.into_iter().filter(differs).cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = "# made\nmetadata:\n  name: meshes.mesh.hauberk.dev\n---\n# made\nmetadata:\n  name: workloads.mesh.hauberk.dev\n";

    #[test]
    fn every_definition_has_its_file() {
        let files = files(TWO).unwrap();
        assert_eq!(files.keys().collect::<Vec<_>>(), ["kustomization.yaml", "meshes.yaml", "workloads.yaml"]);
        assert_eq!(files["meshes.yaml"], "# made\nmetadata:\n  name: meshes.mesh.hauberk.dev\n");
        assert!(files["kustomization.yaml"].ends_with("resources:\n- meshes.yaml\n- workloads.yaml\n"));
    }

    #[test]
    fn what_differs_is_found() {
        let files = files(TWO).unwrap();
        let directory = tempfile();
        assert_eq!(stale(&directory, &files).unwrap().len(), 3, "nothing is there");
        fs::create_dir(&directory).unwrap();
        files.iter().for_each(|(name, text)| fs::write(directory.join(name), text).unwrap());
        assert!(stale(&directory, &files).unwrap().is_empty());
        fs::write(directory.join("meshes.yaml"), "other").unwrap();
        fs::write(directory.join("pods.yaml"), "nobody's").unwrap();
        assert_eq!(stale(&directory, &files).unwrap(), ["meshes.yaml", "pods.yaml"]);
        fs::remove_dir_all(&directory).unwrap();
    }

    fn tempfile() -> std::path::PathBuf {
        std::env::temp_dir().join(format!("hauberk-crds-{}", std::process::id()))
    }
}
