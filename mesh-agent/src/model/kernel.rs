//! Known defects of the kernel's TLS, by version: a warning, never a decision. What works is tried ([`crate::tls`]).
//!
//! Stands alone: `cargo xtask doctor` reads this very file. The ranges are those of the CVE records.

/// A stable release: 6.12.117 is `(6, 12, 117)`.
pub type KernelVersion = (u32, u32, u32);

/// A defect of kernels between two releases.
#[derive(Debug, Eq, PartialEq)]
pub struct KernelDefect {
    /// Its name.
    pub cve: &'static str,
    /// What it means.
    pub summary: &'static str,
    since: KernelVersion,
    /// The first release of each line that is mended; the last is mainline's, and everything after it is.
    fixed: &'static [KernelVersion],
}

const DEFECTS: [KernelDefect; 4] = [
    KernelDefect {
        cve: "CVE-2025-38616",
        summary: "a reader that was there before TLS can make the kernel read freed memory",
        since: (6, 0, 0),
        fixed: &[(6, 6, 103), (6, 12, 43), (6, 15, 11), (6, 16, 2), (6, 17, 0)],
    },
    KernelDefect {
        cve: "CVE-2026-23240",
        summary: "closing a socket can race with the kernel's sender and use freed memory",
        since: (5, 3, 0),
        fixed: &[(6, 12, 75), (6, 18, 16), (6, 19, 6), (7, 0, 0)],
    },
    KernelDefect {
        cve: "CVE-2026-23414",
        summary: "asynchronous decryption under memory pressure leaks buffers",
        since: (6, 18, 0),
        fixed: &[(6, 18, 21), (6, 19, 11), (7, 0, 0)],
    },
    KernelDefect {
        cve: "CVE-2026-93824",
        summary: "sockmap and TLS on one socket send plaintext (the agent uses no sockmap; others on this node may)",
        since: (4, 13, 0),
        fixed: &[(6, 12, 111), (6, 18, 53), (7, 2, 0)],
    },
];

/// What is known against this kernel.
pub fn defects_of(version: KernelVersion) -> impl Iterator<Item = &'static KernelDefect> {
    DEFECTS.iter().filter(move |defect| defect.is_in(version))
}

impl KernelDefect {
    fn is_in(&self, version: KernelVersion) -> bool {
        let line = |version: KernelVersion| (version.0, version.1);
        let mended = |fix: &&KernelVersion| line(**fix) == line(version) && **fix <= version;
        let mainline = self.fixed.last().is_some_and(|fix| *fix <= version);
        version >= self.since && !mainline && !self.fixed.iter().any(|fix| mended(&fix))
    }
}

/// The stable release behind `uname -r` and `uname -v`. Debian's releases count builds, and name the stable one in the
/// second; `None` if neither names it.
pub fn parse_version(release: &str, version: &str) -> Option<KernelVersion> {
    let named = version.split_once("Debian ").map(|(_, rest)| rest);
    let (major, minor, patch) = numbers(named.unwrap_or(release))?;
    // `6.8.0-60-generic` and `6.1.0-56-amd64` are builds of an unknown patch level.
    let is_build = named.is_none() && patch == 0 && release.contains('-') && !release.contains("-rc");
    (!is_build).then_some((major, minor, patch))
}

fn numbers(text: &str) -> Option<KernelVersion> {
    let mut numbers = text.split(|character: char| !character.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next().and_then(Result::ok).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(version: KernelVersion, expected: &[&str]) {
        let found: Vec<_> = defects_of(version).map(|defect| defect.cve).collect();
        assert_eq!(found, expected, "{version:?}");
    }

    #[test]
    fn a_defect_is_in_the_kernels_that_the_record_names() {
        check((6, 1, 192), &["CVE-2025-38616", "CVE-2026-23240", "CVE-2026-93824"]);
        check((6, 12, 95), &["CVE-2026-93824"]);
        check((6, 12, 117), &[]);
        check((6, 12, 42), &["CVE-2025-38616", "CVE-2026-23240", "CVE-2026-93824"]);
        check((6, 18, 20), &["CVE-2026-23414", "CVE-2026-93824"]);
        check((7, 1, 9), &["CVE-2026-93824"]);
        check((7, 3, 4), &[]);
        check((4, 9, 0), &[]);
    }

    #[test]
    fn debian_names_the_stable_release_beside_its_own() {
        let debian = "#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-1 (2026-11-01)";
        assert_eq!(parse_version("6.1.0-56-amd64", debian), Some((6, 1, 192)));
        assert_eq!(parse_version("6.12.117+deb12-amd64", "#1 SMP Debian 6.12.117-1~bpo12+1"), Some((6, 12, 117)));
        assert_eq!(parse_version("6.18.44-custom", "#1 SMP"), Some((6, 18, 44)));
        assert_eq!(parse_version("7.0.0", "#1"), Some((7, 0, 0)));
        assert_eq!(parse_version("6.8.0-60-generic", "#63-Ubuntu SMP"), None);
        assert_eq!(parse_version("unknown", ""), None);
    }
}
