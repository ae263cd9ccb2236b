//! What every source file must have and must not have.
use proc_macro2::{TokenStream, TokenTree};

use super::{Violation, paths::SourcePath};

/// A file beyond this is split.
const MAX_LINES: usize = 400;

/// The kernel keeps this much of a name.
const MAX_NAME_BYTES: usize = 15;

/// The file that names maps and programs.
const NAMES: &str = "mesh-common/src/names.rs";

/// Where `unsafe` may stand: the shared layouts, the kernel side's entry points, contexts and maps, and system calls.
const UNSAFE_FILES: [&str; 6] = [
    "mesh-agent/src/sys.rs",
    "mesh-common/src/pod.rs",
    "mesh-ebpf/src/programs.rs",
    "mesh-ebpf/src/programs/ctx.rs",
    "mesh-ebpf/src/programs/maps.rs",
    "xtask/src/sys.rs",
];
const UNSAFE_DIRECTORIES: [&str; 1] = ["mesh-agent/src/sys/"];

/// A file opens with why it exists, and is not too long to read.
pub(super) fn check_text(name: &str, text: &str) -> Vec<Violation> {
    let mut violations = Vec::new();
    if !text.starts_with("//! ") {
        violations.push(Violation::new(name, 1, "does not open with `//!` and why it exists"));
    }
    let lines = text.lines().count();
    if lines > MAX_LINES {
        violations.push(Violation::new(name, MAX_LINES + 1, format!("has {lines} lines: split it at {MAX_LINES}")));
    }
    violations
}

/// `unsafe` has an address.
pub(super) fn check_unsafe(name: &str, paths: &[SourcePath]) -> Vec<Violation> {
    if UNSAFE_FILES.contains(&name) || UNSAFE_DIRECTORIES.iter().any(|directory| name.starts_with(directory)) {
        return Vec::new();
    }
    let words = paths.iter().filter(|path| path.segments.iter().any(|segment| segment == "unsafe"));
    words.map(|path| Violation::new(name, path.line, "`unsafe` has no place in this file")).collect()
}

/// Names of maps and programs survive the kernel's cut.
pub(super) fn check_names(name: &str, tokens: &TokenStream) -> Vec<Violation> {
    if name != NAMES {
        return Vec::new();
    }
    // Constants are items of the file itself: strings deeper down are documentation or messages.
    let strings = tokens.clone().into_iter().filter_map(|token| match token {
        TokenTree::Literal(literal) => Some((literal.to_string(), literal.span().start().line)),
        _ => None,
    });
    strings
        .filter_map(|(literal, line)| Some((literal.strip_prefix('"')?.strip_suffix('"')?.to_owned(), line)))
        .filter(|(text, _)| text.len() > MAX_NAME_BYTES)
        .map(|(text, line)| Violation::new(name, line, format!("`{text}` is longer than {MAX_NAME_BYTES} bytes")))
        .collect()
}

#[cfg(test)]
mod tests {
    use crate::tidy::check_source;

    #[track_caller]
    fn check(name: &str, text: &str, expected: &[(usize, &str)]) {
        let found = check_source(name, text);
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (found, (line, part)) in found.iter().zip(expected) {
            assert!(found.line == *line && found.what.contains(part), "{found} without {part}");
        }
    }

    #[test]
    fn a_file_says_why_it_exists() {
        check("tests/src/world.rs", "use std::fmt;\n", &[(1, "`//!`")]);
        check("tests/src/world.rs", "//! Why.\nuse std::fmt;\n", &[]);
    }

    #[test]
    fn a_long_file_is_split() {
        let text = format!("//! Why.\n{}", "\n".repeat(400));
        check("tests/src/world.rs", &text, &[(401, "has 401 lines")]);
    }

    #[test]
    fn unsafe_stands_only_where_it_may() {
        let text = "//! Why.\n// unsafe in words\nfn f() {\n    unsafe { g() }\n}\n";
        check("mesh-agent/src/tls.rs", text, &[(4, "`unsafe`")]);
        check("mesh-agent/src/sys/netns.rs", text, &[]);
        check("mesh-common/src/pod.rs", text, &[]);
        check("xtask/src/tls.rs", "//! Why.\n#![forbid(unsafe_code)]\n", &[]);
    }

    #[test]
    fn names_fit_into_the_kernels_limit() {
        let text =
            "//! Why.\n/// A sentence that is longer than the limit.\npub const A: &str = \"mesh_destinations\";\n";
        check("mesh-common/src/names.rs", text, &[(3, "mesh_destinations")]);
        check("mesh-common/src/event.rs", text, &[]);
    }
}
