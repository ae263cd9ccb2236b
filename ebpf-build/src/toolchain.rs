//! Finds a compiler for BPF. Two kinds exist: a stable one that ships a compiled `core` (Debian's `rustc-web`), and
//! a rustup nightly that compiles `core` from its sources. Both link with `bpf-linker`.
use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{
    Error, RUSTC_ENV,
    fixes::{DEFAULT_LLVM, Missing},
};

const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// What turns the sources into BPF code.
#[derive(Debug)]
pub enum Compiler {
    /// rustup's nightly, which brings the sources of `core`.
    Nightly,
    /// A `rustc` that brings `core` compiled.
    Shipped(PathBuf),
}

/// A compiler and the linker that goes with it.
#[derive(Debug)]
pub struct Toolchain {
    /// The compiler.
    pub compiler: Compiler,
    /// The path of `bpf-linker`.
    pub linker: PathBuf,
}

impl Toolchain {
    /// Finds the toolchain for `target`; an error of the kind `MissingToolchain` says what is not there.
    pub fn find(target: &'static str) -> Result<Self, Error> {
        let compiler = find_compiler(target)?;
        let linker = find_program("bpf-linker");
        match (compiler, linker) {
            (Some(compiler), Some(linker)) => Ok(Self { compiler, linker }),
            (compiler, linker) => {
                let llvm = match &compiler {
                    Some(Compiler::Shipped(rustc)) => llvm_major(rustc),
                    _ => llvm_major(Path::new(DEBIAN_RUSTC)),
                };
                let llvm = llvm.unwrap_or(DEFAULT_LLVM);
                Err(Missing { compiler: compiler.is_none(), linker: linker.is_none(), llvm }.into())
            }
        }
    }

    /// Finds the toolchain for objects that run on this machine.
    pub fn find_native() -> Result<Self, Error> {
        Self::find(bpf_target(if cfg!(target_endian = "big") { "big" } else { "little" }))
    }

    /// The cargo that drives the compiler.
    pub(crate) fn cargo(&self) -> Command {
        match &self.compiler {
            Compiler::Nightly => {
                let mut command = Command::new(find_program("rustup").unwrap_or_else(|| "rustup".into()));
                command.args(["run", "nightly", "cargo"]);
                command
            }
            Compiler::Shipped(_) => Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into())),
        }
    }

    pub(crate) fn set_environment(&self, command: &mut Command) {
        if let Compiler::Shipped(rustc) = &self.compiler {
            // A stable compiler: only this crate may use unstable features, not ours.
            command.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "aya_ebpf");
        }
        // rustc looks the linker up by name, and cargo's directory need not be on the PATH.
        let directories = self.linker.parent().map(Path::to_path_buf).into_iter().chain(path_directories());
        if let Ok(path) = env::join_paths(directories) {
            command.env("PATH", path);
        }
    }
}

/// Finds a program on the PATH, in cargo's directory, or where system programs are that a user's PATH leaves out.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    path_directories()
        .into_iter()
        .chain(cargo_home().map(|home| home.join("bin")))
        .chain(system)
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
}

/// Major version of the LLVM inside `rustc`: `bpf-linker` must not be built with an older one.
pub fn llvm_major(rustc: &Path) -> Option<u32> {
    parse_llvm_major(&output(Command::new(rustc).arg("-vV"))?)
}

pub(crate) fn bpf_target(endian: &str) -> &'static str {
    if endian == "big" { "bpfeb-unknown-none" } else { "bpfel-unknown-none" }
}

fn find_compiler(target: &'static str) -> Result<Option<Compiler>, Error> {
    if let Some(rustc) = env::var_os(RUSTC_ENV).map(PathBuf::from) {
        // An explicit choice that does not work is a mistake to report, not to work around.
        return if ships_core(&rustc, target) {
            Ok(Some(Compiler::Shipped(rustc)))
        } else {
            Err(Error::Rustc { rustc, target })
        };
    }
    let debian = PathBuf::from(DEBIAN_RUSTC);
    if ships_core(&debian, target) {
        return Ok(Some(Compiler::Shipped(debian)));
    }
    Ok(nightly_has_sources().then_some(Compiler::Nightly))
}

/// Whether `rustc` has a compiled `core` for `target`.
fn ships_core(rustc: &Path, target: &str) -> bool {
    let mut command = Command::new(rustc);
    command.args(["--print", "target-libdir", "--target", target]).env_remove("RUSTUP_TOOLCHAIN");
    let Some(directory) = output(&mut command) else { return false };
    let Ok(entries) = fs::read_dir(directory.trim()) else { return false };
    entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
}

fn nightly_has_sources() -> bool {
    let Some(rustup) = find_program("rustup") else { return false };
    let mut command = Command::new(rustup);
    command.args(["run", "nightly", "rustc", "--print", "sysroot"]);
    output(&mut command)
        .is_some_and(|sysroot| Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/Cargo.lock").exists())
}

/// Standard output of a command that succeeded.
fn output(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn parse_llvm_major(verbose_version: &str) -> Option<u32> {
    let version = verbose_version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    version.split('.').next()?.parse().ok()
}

fn path_directories() -> Vec<PathBuf> {
    let path: OsString = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).collect()
}

fn cargo_home() -> Option<PathBuf> {
    let home = || env::home_dir().map(|home| home.join(".cargo"));
    env::var_os("CARGO_HOME").map(PathBuf::from).or_else(home)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_linker_needs_the_compilers_llvm() {
        assert_eq!(parse_llvm_major("release: 1.96.0\nLLVM version: 22.1.8\n"), Some(22));
        assert_eq!(parse_llvm_major("release: 1.96.0\n"), None);
    }

    #[test]
    fn a_compiler_without_core_for_the_target_is_not_taken() {
        assert!(!ships_core(Path::new("/nonexistent/rustc"), "bpfel-unknown-none"));
    }
}
