//! What doesn't run in the VM, each with its reason. Everything else does, new test files too.

/// A test by its full name, and why it is left out.
pub(super) const TESTS: [(&str, &str); 1] =
    [("go_sees_what_a_network_would_show", "compiles Go's standard library: minutes under emulation")];

const TOO_BIG: &str = "too big for emulation; with --long, or named with --test, it runs";
const NO_KERNEL: &str = "nothing in it depends on the kernel; with --long, or named with --test, it runs";

const CLUSTER: &str = "the kubernetes tier runs it";

/// A file of tests, and why it is left out of an everyday run.
pub(super) const FILES: [(&str, &str); 25] = [
    ("apps", TOO_BIG),
    ("audit", NO_KERNEL),
    ("bounds", TOO_BIG),
    ("ca", CLUSTER),
    ("clients", TOO_BIG),
    ("cli", NO_KERNEL),
    ("cluster", CLUSTER),
    ("cni", CLUSTER),
    ("demo", TOO_BIG),
    ("demo_kubernetes", CLUSTER),
    ("federation", NO_KERNEL),
    ("hostile", NO_KERNEL),
    ("identity", NO_KERNEL),
    ("join", NO_KERNEL),
    ("kubernetes", CLUSTER),
    ("manifests", CLUSTER),
    ("modes", NO_KERNEL),
    ("observability", NO_KERNEL),
    ("policy", NO_KERNEL),
    ("ports", TOO_BIG),
    ("rego", NO_KERNEL),
    ("revocation", NO_KERNEL),
    ("service", NO_KERNEL),
    ("services", CLUSTER),
    ("world", NO_KERNEL),
];

/// Whether an everyday run has this file of tests.
pub(super) fn is_everyday(file: &str) -> bool {
    FILES.iter().all(|(name, _)| *name != file)
}

/// The arguments that leave single tests out, given `--exact`.
pub(super) fn arguments() -> String {
    TESTS.map(|(test, _)| format!("--skip {test}")).join(" ")
}
