//! Times as everything that this agent writes shows them: ISO 8601, UTC, to the microsecond.

use std::time::SystemTime;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// `2026-01-02T03:04:05.678901Z`; without a fraction if there is none.
pub fn moment(time: SystemTime) -> String {
    let time = OffsetDateTime::from(time);
    let time = time.replace_microsecond(time.microsecond()).unwrap_or(time);
    // The years that Rfc3339 can't write are not those of a clock.
    time.format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn moments_are_utc_and_no_finer_than_microseconds() {
        assert_eq!(moment(UNIX_EPOCH), "1970-01-01T00:00:00Z");
        assert_eq!(moment(UNIX_EPOCH + Duration::from_nanos(1_234_567_890)), "1970-01-01T00:00:01.234567Z");
    }
}
