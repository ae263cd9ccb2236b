//! Reads a kernel's console: which line says that the kernel itself is in trouble.

/// What a kernel prints when it has panicked, hangs, or has found itself broken.
const FAULTS: [&str; 10] = [
    "Kernel panic",
    "Oops:",
    "BUG:",
    "kernel BUG at",
    "general protection fault",
    "hard LOCKUP",
    "soft lockup",
    "detected stalls on",
    "self-detected stall on",
    "blocked for more than",
];

/// Whether `line` reports a fault of the kernel.
pub(super) fn is_fault(line: &str) -> bool {
    FAULTS.iter().any(|fault| line.contains(fault))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_lock_ups_and_stalls_are_faults() {
        for line in [
            "[   12.1] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100",
            "[   99.0] watchdog: BUG: soft lockup - CPU#1 stuck for 52s! [mesh-agent:310]",
            "[   99.0] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
            "[   99.0] rcu: INFO: rcu_sched self-detected stall on CPU",
            "[  242.0] INFO: task mesh-agent:310 blocked for more than 120 seconds.",
            "[    3.2] BUG: kernel NULL pointer dereference, address: 0000000000000008",
            "[    3.2] Oops: 0002 [#1] PREEMPT SMP NOPTI",
        ] {
            assert!(is_fault(line), "{line}");
        }
    }

    #[test]
    fn a_healthy_console_has_no_faults() {
        for line in [
            "[    1.3] mtrr: your CPUs had inconsistent fixed MTRR settings",
            "[    0.0] Spectre V2 : Mitigation: Retpolines",
            "hauberk: mtls ended with 0 after 31 s",
            "[   12.6] reboot: Power down",
        ] {
            assert!(!is_fault(line), "{line}");
        }
    }
}
