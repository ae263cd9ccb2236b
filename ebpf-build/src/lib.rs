//! Builds the eBPF object with whichever BPF compiler the machine has.
//!
//! A crate of its own because `mesh-agent/build.rs` and `cargo xtask` must agree on what a usable toolchain is.
//! It never installs anything: that is `cargo xtask setup`.
#![forbid(unsafe_code)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
};

mod describe;
mod environment;
mod fixes;
mod toolchain;

pub use describe::describe;
pub use fixes::{BPF_LINKER_VERSION, COMPILER_PACKAGES, DEFAULT_LLVM, Missing, linker_arguments, llvm_prefix};
pub use toolchain::{Compiler, Toolchain, find_program, llvm_major};

/// Path of a ready-made object: nothing is compiled then.
pub const OBJECT_ENV: &str = "MESH_EBPF_OBJECT";
/// A `rustc` that brings `core` for the BPF target: tried before `/usr/bin/rustc`.
pub const RUSTC_ENV: &str = "MESH_EBPF_RUSTC";
/// Whole content of the file that stands for the object where no toolchain is. The agent refuses to run with it.
pub const STUB: &[u8] = b"hauberk-ebpf-stub";

/// Separates flags in `CARGO_ENCODED_RUSTFLAGS`.
const FLAG_SEPARATOR: char = '\x1f';

/// Why there is no object.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The sources or the compiler are at fault, not the machine's set-up.
    #[error("`{command}` failed: {status}")]
    Compile {
        /// The nested cargo call.
        command: String,
        /// How it ended.
        status: ExitStatus,
    },
    /// Nothing on this machine compiles for BPF. The only error that a stub may stand in for.
    #[error(transparent)]
    MissingToolchain(#[from] Missing),
    /// `MESH_EBPF_OBJECT` names no readable ELF file.
    #[error("{OBJECT_ENV} = {path}: not an ELF file that can be read")]
    Object {
        /// The path as it was given.
        path: PathBuf,
        /// Absent when the file could be read but is no ELF file.
        #[source]
        source: Option<std::io::Error>,
    },
    /// `MESH_EBPF_RUSTC` names a compiler without `core` for the BPF target.
    #[error("{RUSTC_ENV} = {rustc}: has no libcore for {target}")]
    Rustc {
        /// The path as it was given.
        rustc: PathBuf,
        /// The BPF target.
        target: &'static str,
    },
    /// The compiler could not be started.
    #[error("start `{command}`")]
    Start {
        /// The nested cargo call.
        command: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

/// Builds `mesh-ebpf` of `workspace` for a machine of `arch` and `endian` (both as in `CARGO_CFG_TARGET_*`), with
/// `target_dir` as the nested cargo's own target directory. Returns the object's path.
pub fn build(workspace: &Path, target_dir: &Path, arch: &str, endian: &str) -> Result<PathBuf, Error> {
    if let Some(object) = std::env::var_os(OBJECT_ENV) {
        return given_object(&workspace.join(object));
    }
    let target = toolchain::bpf_target(endian);
    let toolchain = Toolchain::find(target)?;
    let mut command = cargo_build(&toolchain, workspace, target_dir, arch, target);
    let described = describe(&command);
    let status = command.status().map_err(|source| Error::Start { command: described.clone(), source })?;
    if !status.success() {
        return Err(Error::Compile { command: described, status });
    }
    Ok(target_dir.join(target).join("release/mesh-ebpf"))
}

fn given_object(path: &Path) -> Result<PathBuf, Error> {
    let error = |source| Error::Object { path: path.to_path_buf(), source };
    let content = fs::read(path).map_err(|source| error(Some(source)))?;
    if !content.starts_with(b"\x7fELF") {
        return Err(error(None));
    }
    Ok(path.to_path_buf())
}

fn cargo_build(
    toolchain: &Toolchain,
    workspace: &Path,
    target_dir: &Path,
    arch: &str,
    target: &'static str,
) -> Command {
    let mut command = toolchain.cargo();
    environment::clean(&mut command);
    toolchain.set_environment(&mut command);
    command
        .current_dir(workspace)
        .args(["build", "--locked", "--release", "--package", "mesh-ebpf", "--bin", "mesh-ebpf"])
        .args(["--target", target, "--target-dir"])
        .arg(target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", rust_flags(arch, &places(workspace, target_dir)))
        .stdin(Stdio::null());
    if let Compiler::Nightly = toolchain.compiler {
        command.args(["-Z", "build-std=core"]);
    }
    command
}

/// Where sources and results are, and what the object's debug information calls it, so that it doesn't say where
/// it was built. The last that fits counts, and the target directory is usually inside the workspace.
fn places(workspace: &Path, target_dir: &Path) -> Vec<(PathBuf, &'static str)> {
    let home = || std::env::home_dir().map(|home| home.join(".cargo"));
    let cargo = std::env::var_os("CARGO_HOME").map(PathBuf::from).or_else(home);
    // As the compiler sees it, whatever leads there.
    let workspace = workspace.canonicalize().unwrap_or_else(|_unreadable| workspace.to_owned());
    let known = [(workspace, "/hauberk"), (target_dir.to_owned(), "/target")];
    known.into_iter().chain(cargo.map(|cargo| (cargo, "/cargo"))).collect()
}

/// BTF needs full debug information, and `aya-ebpf` picks its register layout by `bpf_target_arch`.
fn rust_flags(arch: &str, places: &[(PathBuf, &str)]) -> String {
    let mut flags: Vec<_> =
        [&format!("--cfg=bpf_target_arch=\"{arch}\""), "-Cdebuginfo=2", "-Clink-arg=--btf"].map(str::to_owned).into();
    flags.extend(places.iter().map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display())));
    flags.join(&FLAG_SEPARATOR.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_that_is_no_elf_file_is_refused() {
        let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        assert!(matches!(given_object(&readme), Err(Error::Object { source: None, .. })));
        assert!(matches!(given_object(Path::new("/nonexistent")), Err(Error::Object { source: Some(_), .. })));
    }

    #[test]
    fn flags_name_the_architecture_and_ask_for_btf() {
        let flags = "--cfg=bpf_target_arch=\"x86_64\"\x1f-Cdebuginfo=2\x1f-Clink-arg=--btf";
        assert_eq!(rust_flags("x86_64", &[]), flags);
        let hidden = format!("{flags}\x1f--remap-path-prefix=/w=/hauberk");
        assert_eq!(rust_flags("x86_64", &[("/w".into(), "/hauberk")]), hidden);
    }
}
