//! Decides when an SVID is rotated and when a failed rotation is tried again. Pure: time and jitter are arguments.

use std::time::{Duration, SystemTime};

/// The first retry comes after this; each further one after twice the time.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_mins(5);
/// Over how long SVIDs are replaced when their signer is.
const LONGEST_SPREAD: Duration = Duration::from_mins(1);
/// No two attempts for one SVID are closer than this, whatever the certificate says.
const MIN_WAIT: Duration = Duration::from_secs(1);

/// When to rotate an SVID that was issued at `issued`: at half of its life, plus up to a tenth of it by `jitter`, so that
/// workloads that started together don't stay together.
pub(super) fn rotate_at(issued: SystemTime, not_after: SystemTime, jitter: u16) -> SystemTime {
    let life = not_after.duration_since(issued).unwrap_or_default();
    issued + (life / 2 + fraction(life / 10, jitter)).max(MIN_WAIT)
}

/// How long to wait after the `failures`th failure in a row: between half and all of a doubling time.
pub(super) fn retry_after(failures: u32, jitter: u16) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let most = FIRST_RETRY.saturating_mul(1 << doublings).min(LONGEST_RETRY);
    (most / 2 + fraction(most / 2, jitter)).max(MIN_WAIT)
}

/// When to replace an SVID whose signer signs no more: soon, but not all at once.
pub(super) fn reissue_at(now: SystemTime, not_after: SystemTime, jitter: u16) -> SystemTime {
    let left = not_after.duration_since(now).unwrap_or_default();
    now + fraction((left / 10).min(LONGEST_SPREAD), jitter)
}

/// `jitter`/65536 of `span`.
fn fraction(span: Duration, jitter: u16) -> Duration {
    span / (1 << 16) * u32::from(jitter)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    #[test]
    fn rotation_is_between_half_and_six_tenths_of_a_life() {
        let issued = SystemTime::UNIX_EPOCH + HOUR;
        assert_eq!(rotate_at(issued, issued + 24 * HOUR, 0), issued + 12 * HOUR);
        let latest = rotate_at(issued, issued + 24 * HOUR, u16::MAX);
        assert!(latest > issued + 14 * HOUR && latest < issued + 15 * HOUR);
    }

    #[test]
    fn an_expired_svid_is_due_but_not_in_a_busy_loop() {
        let issued = SystemTime::UNIX_EPOCH + HOUR;
        assert_eq!(rotate_at(issued, issued - HOUR, u16::MAX), issued + Duration::from_secs(1));
    }

    #[test]
    fn a_new_signer_is_asked_within_a_minute_and_a_tenth_of_what_is_left() {
        let now = SystemTime::UNIX_EPOCH + HOUR;
        assert_eq!(reissue_at(now, now + HOUR, 0), now);
        assert!(reissue_at(now, now + 24 * HOUR, u16::MAX) <= now + LONGEST_SPREAD);
        assert!(reissue_at(now, now + Duration::from_secs(50), u16::MAX) <= now + Duration::from_secs(5));
        assert_eq!(reissue_at(now, now - HOUR, u16::MAX), now);
    }

    #[test]
    fn retries_slow_down_to_minutes() {
        let waits: Vec<_> =
            [1, 2, 3, 4, 9, 10, 1000].map(|failures| retry_after(failures, u16::MAX).as_secs_f32().round()).to_vec();
        assert_eq!(waits, [1.0, 2.0, 4.0, 8.0, 256.0, 300.0, 300.0]);
        assert_eq!(retry_after(1000, 0), Duration::from_secs(150));
    }
}
