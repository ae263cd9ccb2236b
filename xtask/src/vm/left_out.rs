//! The tests that don't run in the VM, each with its reason. Everything else does, new test files too.

/// A test by its full name, and why it is left out.
pub(super) const LEFT_OUT: [(&str, &str); 1] =
    [("go_sees_what_a_network_would_show", "compiles Go's standard library: minutes under emulation")];

/// The arguments that leave them out, given `--exact`.
pub(super) fn arguments() -> String {
    LEFT_OUT.map(|(test, _)| format!("--skip {test}")).join(" ")
}
