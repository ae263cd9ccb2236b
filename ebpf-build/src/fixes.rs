//! The exact commands that give a machine a BPF toolchain: the text of one error, and what `cargo xtask setup` runs.
use std::fmt;

/// Debian's compiler with a compiled `core` for BPF.
pub const COMPILER_PACKAGES: [&str; 2] = ["rustc-web", "libstd-rust-web-dev-bpf"];
/// The linker's release that was tested with these compilers.
pub const BPF_LINKER_VERSION: &str = "0.13.0";
/// LLVM of Debian's `rustc-web` today; a `rustc` that is there is asked instead.
pub const DEFAULT_LLVM: u32 = 22;

/// What the machine lacks to build for BPF. Its text names both ways out.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub struct Missing {
    /// No compiler for the BPF target.
    pub compiler: bool,
    /// No `bpf-linker`.
    pub linker: bool,
    /// Major version of the LLVM that `bpf-linker` must be built with.
    pub llvm: u32,
}

/// Where Debian keeps LLVM: the value of `LLVM_PREFIX` that `bpf-linker`'s build reads.
pub fn llvm_prefix(llvm: u32) -> String {
    format!("/usr/lib/llvm-{llvm}")
}

/// Arguments of the `cargo` call that installs `bpf-linker`.
pub fn linker_arguments(llvm: u32) -> Vec<String> {
    let feature = format!("llvm-{llvm}");
    ["install", "bpf-linker", "--version", BPF_LINKER_VERSION, "--locked", "--no-default-features", "--features"]
        .into_iter()
        .map(str::to_owned)
        .chain([feature])
        .collect()
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match (self.compiler, self.linker) {
            (true, false) => "no compiler for the BPF target",
            (false, true) => "no bpf-linker",
            _ => "no compiler for the BPF target and no bpf-linker",
        };
        let linker = linker_arguments(self.llvm).join(" ");
        writeln!(f, "{what}. Either of these builds the eBPF object (`cargo xtask setup` runs the first):")?;
        writeln!(f, "  on Debian, as root:")?;
        writeln!(f, "    apt-get install {} llvm-{}-dev", COMPILER_PACKAGES.join(" "), self.llvm)?;
        writeln!(f, "    LLVM_PREFIX={} cargo {linker}", llvm_prefix(self.llvm))?;
        writeln!(f, "  with rustup, where N is the LLVM major version that `rustc +nightly -vV` prints:")?;
        writeln!(f, "    rustup toolchain install nightly --component rust-src")?;
        write!(
            f,
            "    LLVM_PREFIX=/path/to/llvm-N cargo install bpf-linker --version {BPF_LINKER_VERSION} --locked \
             --no-default-features --features llvm-N"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_names_both_fixes() {
        let text = Missing { compiler: true, linker: true, llvm: 22 }.to_string();
        for part in [
            "apt-get install rustc-web libstd-rust-web-dev-bpf llvm-22-dev",
            "LLVM_PREFIX=/usr/lib/llvm-22 cargo install bpf-linker --version 0.13.0 --locked",
            "rustup toolchain install nightly --component rust-src",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }

    #[test]
    fn only_what_is_missing_is_blamed() {
        let text = Missing { compiler: false, linker: true, llvm: 22 }.to_string();
        assert!(text.starts_with("no bpf-linker."), "{text}");
    }
}
