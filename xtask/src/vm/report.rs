//! What a guest's run comes to: nothing counts as passed that the guest has not said in so many words.
use std::fmt;

use super::left_out::TESTS;

/// How many lines of a failed program's output are shown.
const SHOWN_LINES: usize = 60;

/// The result of all test programs on one kernel.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    passed: usize,
    failed: usize,
    ignored: usize,
    seconds: u64,
    /// Why the run counts as failed.
    problems: Vec<String>,
}

/// What a test program's own summary says.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Counts {
    passed: usize,
    failed: usize,
    ignored: usize,
}

impl Verdict {
    /// Judges `report`, which the guest wrote, against the `programs` that it was given; `output` reads what one printed.
    pub(super) fn judge(programs: &[&str], report: &str, output: impl Fn(&str) -> String) -> Self {
        let mut verdict = Self::default();
        for program in programs {
            verdict.add(program, end_of(report, program), &output(program));
        }
        verdict.problems.extend(report.lines().filter_map(|line| line.strip_prefix("fail ")).map(str::to_owned));
        if !report.ends_with("done\n") {
            verdict.problem("the guest didn't come to its end".to_owned());
        }
        verdict
    }

    /// Adds a reason to fail that the guest couldn't know.
    pub(super) fn problem(&mut self, problem: String) {
        self.problems.push(problem);
    }

    pub(super) fn passed(&self) -> bool {
        self.problems.is_empty() && self.failed == 0 && self.passed > 0
    }

    /// Sets how long the machine ran.
    pub(super) fn took(&mut self, seconds: u64) {
        self.seconds = seconds;
    }

    fn add(&mut self, program: &str, code: Option<&str>, output: &str) {
        let counts = counts(output);
        if let Some(counts) = counts {
            self.passed += counts.passed;
            self.failed += counts.failed;
            self.ignored += counts.ignored;
        }
        match (code, counts) {
            (Some("0"), Some(_)) => {}
            (Some(code), _) => self.problem(format!("{program} ended with {code}\n{}", tail(output))),
            (None, _) => self.problem(format!("{program} has not ended\n{}", tail(output))),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { passed, failed, ignored, seconds, problems } = self;
        for problem in problems {
            writeln!(f, "{problem}")?;
        }
        let result = if self.passed() { "ok" } else { "FAILED" };
        write!(
            f,
            "{result}. {passed} passed; {failed} failed; {ignored} ignored; {} left out; {seconds} s",
            TESTS.len()
        )?;
        TESTS.iter().try_for_each(|(test, reason)| write!(f, "\n    left out: {test}: {reason}"))
    }
}

/// With which code `program` ended, in the guest's words.
fn end_of<'a>(report: &'a str, program: &str) -> Option<&'a str> {
    report.lines().find_map(|line| {
        let (name, rest) = line.strip_prefix("end ")?.split_once(' ')?;
        (name == program).then(|| rest.split(' ').next())?
    })
}

/// The counts in libtest's last line.
fn counts(output: &str) -> Option<Counts> {
    let summary = output.lines().rev().find_map(|line| line.strip_prefix("test result: "))?;
    let (_, counted) = summary.split_once(". ")?;
    let count = |what: &str| counted.split("; ").find_map(|part| part.strip_suffix(what)?.trim().parse().ok());
    Some(Counts { passed: count(" passed")?, failed: count(" failed")?, ignored: count(" ignored")? })
}

fn tail(output: &str) -> String {
    let lines: Vec<_> = output.lines().collect();
    lines[lines.len().saturating_sub(SHOWN_LINES)..].iter().map(|line| format!("    {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: &str = "running 2 tests\ntest a ... ok\n\ntest result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; \
                      3 filtered out; finished in 0.04s\n";

    fn judge(report: &str, output: &str) -> Verdict {
        Verdict::judge(&["mtls"], report, |_| output.to_owned())
    }

    #[test]
    fn a_run_passes_that_ended_and_said_so() {
        let verdict = judge("begin mtls\nend mtls 0 12\ndone\n", OK);
        assert!(verdict.passed());
        assert!(verdict.to_string().starts_with("ok. 2 passed; 0 failed; 1 ignored; "), "{verdict}");
    }

    #[test]
    fn nothing_else_passes() {
        let failed = OK.replace("ok. 2 passed; 0 failed", "FAILED. 1 passed; 1 failed");
        for (report, output) in [
            ("", OK),
            ("begin mtls\n", OK),
            ("begin mtls\nend mtls 0 12\n", OK),
            ("begin mtls\nend mtls 101 12\ndone\n", &*failed),
            ("begin mtls\nend mtls 0 12\ndone\n", &*failed),
            ("begin mtls\nend mtls 0 12\ndone\n", "test a ... ok\n"),
            ("fail modprobe\n", ""),
            ("begin other\nend other 0 1\ndone\n", OK),
        ] {
            let verdict = judge(report, output);
            assert!(!verdict.passed() && verdict.to_string().contains("FAILED. "), "{report:?}: {verdict}");
        }
    }

    #[test]
    fn what_the_host_saw_counts_too() {
        let mut verdict = judge("begin mtls\nend mtls 0 12\ndone\n", OK);
        verdict.problem("Kernel panic".to_owned());
        assert!(!verdict.passed());
    }
}
