//! Which files the rules apply to, and the rule for manifests.
use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::Violation;

/// A file of the workspace.
pub(super) struct WorkspaceFile {
    /// Relative to the workspace, with slashes.
    pub(super) name: String,
    pub(super) text: String,
}

/// Sources and the members' manifests, without what builds leave behind.
pub(super) fn workspace_files(root: &Path) -> Result<Vec<WorkspaceFile>> {
    let mut files = Vec::new();
    let mut directories = vec![root.to_path_buf()];
    while let Some(directory) = directories.pop() {
        for path in entries(&directory)? {
            if path.is_dir() {
                directories.extend(is_ours(&path).then_some(path));
            } else if is_checked(&path, root) {
                let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
                let name = path.strip_prefix(root)?.to_string_lossy().into_owned();
                files.push(WorkspaceFile { name, text });
            }
        }
    }
    Ok(files)
}

/// Every member inherits the workspace's lints: without these lines they are inert.
pub(super) fn check_manifest(name: &str, text: &str) -> Option<Violation> {
    let mut lines = text.lines().map(str::trim);
    let inherits =
        lines.any(|line| line == "[lints]") && lines.find(|line| !line.is_empty()) == Some("workspace = true");
    (!inherits).then(|| Violation::new(name, 1, "lacks `[lints]` with `workspace = true`"))
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

/// Build directories carry cargo's tag; hidden ones are tools'.
fn is_ours(directory: &Path) -> bool {
    let hidden = directory.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    !hidden && !directory.is_symlink() && !directory.join("CACHEDIR.TAG").exists()
}

fn is_checked(path: &Path, root: &Path) -> bool {
    let member_manifest = path.ends_with("Cargo.toml") && path.parent() != Some(root);
    member_manifest || path.extension().is_some_and(|extension| extension == "rs")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_without_the_workspaces_lints_is_found() {
        assert!(check_manifest("x/Cargo.toml", "[package]\nname = \"x\"\n\n[lints]\nworkspace = true\n").is_none());
        for inert in ["[package]\nname = \"x\"\n", "[lints]\n[lints.rust]\n", "[dependencies]\nworkspace = true\n"] {
            assert!(check_manifest("x/Cargo.toml", inert).is_some(), "{inert}");
        }
    }

    #[test]
    fn all_members_are_seen_and_no_build_output() {
        let names: Vec<_> =
            workspace_files(&crate::workspace::root()).unwrap().into_iter().map(|file| file.name).collect();
        for expected in ["mesh-ebpf/src/main.rs", "mesh-agent/Cargo.toml", "xtask/src/tidy/files.rs"] {
            assert!(names.iter().any(|name| name == expected), "{expected}");
        }
        assert!(!names.iter().any(|name| name.starts_with("target")));
    }
}
