//! The agent's release build: one static program for every kernel and distribution, the same bytes in whichever directory it is built.
//!
//! Tests, benches, demo and image all take this one.
use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::workspace;

/// The machine's own target, named: then flags for the agent don't reach what runs during the build.
pub(crate) fn host() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("-vV").output().context("start rustc")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let host = text.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc names no host")?;
    Ok(host.to_owned())
}

/// The build, in whose result nothing says where or when it was made.
pub(crate) fn release_command(target_directory: &Path) -> Result<Command> {
    let target = host()?;
    if !target.ends_with("-linux-gnu") {
        bail!("a release is made with glibc's static library, and this is {target}");
    }
    let places = [
        (workspace::root().display().to_string(), "/hauberk"),
        (target_directory.display().to_string(), "/target"),
        (cargo_home()?.display().to_string(), "/cargo"),
    ];
    let mut flags = vec!["-Ctarget-feature=+crt-static".to_owned()];
    // The last that fits wins in rustc, and the target directory is usually inside the workspace.
    flags.extend(places.iter().map(|(from, to)| format!("--remap-path-prefix={from}={to}")));
    let c_flags: Vec<_> = places.iter().map(|(from, to)| format!("-ffile-prefix-map={from}={to}")).collect();
    let mut command = super::debug_command();
    command.arg("--release");
    command
        .args(["--target", &target, "--target-dir"])
        .arg(target_directory)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    command.env(format!("CFLAGS_{}", target.replace('-', "_")), c_flags.join(" "));
    command.env("SOURCE_DATE_EPOCH", "0");
    Ok(command)
}

fn cargo_home() -> Result<PathBuf> {
    let default = || std::env::home_dir().map(|home| home.join(".cargo"));
    std::env::var_os("CARGO_HOME").map(PathBuf::from).or_else(default).context("cargo has no home")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_build_hides_where_it_was_made_from_both_compilers() {
        let shown = ebpf_build::describe(&release_command(Path::new("/t")).unwrap());
        let root = workspace::root();
        for expected in [
            format!("--remap-path-prefix={}=/hauberk", root.display()),
            format!("-ffile-prefix-map={}=/hauberk", root.display()),
            "+crt-static".to_owned(),
            "--locked".to_owned(),
        ] {
            assert!(shown.contains(&expected), "{expected} in {shown}");
        }
    }
}
