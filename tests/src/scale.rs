//! The one knob for machines that are much slower than a developer's: `MESH_TEST_SCALE=N` in an emulated one.
//!
//! Work is divided by it and time limits are multiplied by it. It never changes what a test claims.

use std::sync::LazyLock;
use std::time::Duration;

static SCALE: LazyLock<u32> = LazyLock::new(|| {
    std::env::var("MESH_TEST_SCALE")
        .map_or(1, |text| parse(&text).unwrap_or_else(|| panic!("MESH_TEST_SCALE={text} is no number from 1 on")))
});

fn parse(text: &str) -> Option<u32> {
    text.parse().ok().filter(|scale| *scale > 0)
}

/// A time limit on this machine that is `limit` on a developer's.
pub fn longer(limit: Duration) -> Duration {
    limit * *SCALE
}

/// `longer` in milliseconds, for what programs report.
pub fn at_most_ms(limit: u32) -> u64 {
    u64::from(limit) * u64::from(*SCALE)
}

/// As much work as this machine does in the time of a developer's `work`; at least 1.
pub fn less(work: u32) -> u32 {
    (work / *SCALE).max(1)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn a_scale_is_a_positive_number() {
        assert_eq!(parse("8"), Some(8));
        for wrong in ["0", "", "-1", "1.5"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
