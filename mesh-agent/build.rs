//! Puts the eBPF object at `$OUT_DIR/mesh-ebpf`, where the agent embeds it.
//!
//! `cargo check` and `cargo test` pass on a machine without a BPF toolchain: they get a stub that the agent
//! recognises and refuses to run. A release build fails instead, and so does any build whose eBPF code is wrong.
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail};
use ebpf_build::{Error, Missing};

fn main() -> ExitCode {
    let Err(error) = run() else { return ExitCode::SUCCESS };
    // Cargo shows these lines as they are; a returned error comes with a backtrace that buries the fixes.
    for line in format!("{error:#}").lines() {
        emit("error", line);
    }
    ExitCode::FAILURE
}

fn run() -> Result<()> {
    let out_dir = directory("OUT_DIR")?;
    let workspace = directory("CARGO_MANIFEST_DIR")?.join("..");
    for variable in [ebpf_build::OBJECT_ENV, ebpf_build::RUSTC_ENV] {
        emit("rerun-if-env-changed", variable);
    }
    for source in ["Cargo.toml", "Cargo.lock", "mesh-common", "mesh-ebpf"] {
        emit("rerun-if-changed", &workspace.join(source).display().to_string());
    }
    if let Some(object) = env::var_os(ebpf_build::OBJECT_ENV) {
        emit("rerun-if-changed", &workspace.join(object).display().to_string());
    }

    let arch = env::var("CARGO_CFG_TARGET_ARCH")?;
    let endian = env::var("CARGO_CFG_TARGET_ENDIAN")?;
    let embedded = out_dir.join("mesh-ebpf");
    match ebpf_build::build(&workspace, &out_dir.join("ebpf-target"), &arch, &endian) {
        Ok(object) => {
            fs::copy(&object, &embedded).with_context(|| format!("copy {} to OUT_DIR", object.display()))?;
            Ok(())
        }
        Err(Error::MissingToolchain(missing)) => write_stub(&embedded, &missing),
        Err(error) => Err(error).context("build the eBPF object"),
    }
}

fn write_stub(embedded: &Path, missing: &Missing) -> Result<()> {
    if env::var("PROFILE")? == "release" {
        bail!("a release build needs a real eBPF object: {missing}");
    }
    for line in missing.to_string().lines() {
        emit("warning", line);
    }
    emit("warning", "this build of mesh-agent has a stub for the eBPF object and refuses to run");
    watch_for_toolchain();
    fs::write(embedded, ebpf_build::STUB).context("write the stub")
}

/// Tries again as soon as a compiler or the linker is installed.
fn watch_for_toolchain() {
    let linker = env::var_os("CARGO_HOME").map(|home| Path::new(&home).join("bin"));
    // A path that does not exist would make cargo rebuild the agent every time.
    for directory in linker.into_iter().chain(["/usr/bin".into()]).filter(|directory| directory.is_dir()) {
        emit("rerun-if-changed", &directory.display().to_string());
    }
}

fn directory(variable: &str) -> Result<PathBuf> {
    Ok(env::var_os(variable).with_context(|| format!("{variable} is not set"))?.into())
}

fn emit(key: &str, value: &str) {
    println!("cargo::{key}={value}");
}
