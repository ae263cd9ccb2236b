//! Keeps what an outer cargo tells its build scripts away from the nested one, which builds for another target.
use std::{env, process::Command};

/// What a user configures for every cargo call: where crates are and how they are fetched, and how cargo prints.
const KEPT_PREFIXES: [&str; 6] =
    ["CARGO_HOME", "CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTRIES_", "CARGO_REGISTRY_", "CARGO_TERM_"];

/// Set by cargo, rustup, clippy or coverage tools, and meant for the outer build alone.
const DROPPED: [&str; 15] = [
    "DEBUG",
    "HOST",
    "NUM_JOBS",
    "OPT_LEVEL",
    "OUT_DIR",
    "PROFILE",
    "RUSTC",
    "RUSTC_LINKER",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
    "RUSTDOC",
    "RUSTDOCFLAGS",
    "RUSTFLAGS",
    "RUSTUP_TOOLCHAIN",
    "TARGET",
];

/// Removes the outer build's variables from `command`'s environment.
pub(crate) fn clean(command: &mut Command) {
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(is_outer) {
            command.env_remove(name);
        }
    }
}

fn is_outer(name: &str) -> bool {
    let kept = KEPT_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    DROPPED.contains(&name) || (name.starts_with("CARGO_") && !kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_finds_and_fetches_crates_stays() {
        for name in ["CARGO_HOME", "CARGO_NET_OFFLINE", "CARGO_REGISTRIES_MIRROR_TOKEN", "PATH", "HOME"] {
            assert!(!is_outer(name), "{name}");
        }
    }

    #[test]
    fn what_shapes_the_outer_build_goes() {
        for name in ["CARGO_TARGET_DIR", "CARGO_ENCODED_RUSTFLAGS", "CARGO_MAKEFLAGS", "RUSTC_WRAPPER", "TARGET"] {
            assert!(is_outer(name), "{name}");
        }
    }
}
