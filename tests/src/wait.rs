//! The one place where a test waits: for a condition, never for a time.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::scale;

/// How long a condition may take before the test fails. Generous: it costs nothing when all is well.
pub const LIMIT: Duration = Duration::from_secs(30);

const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Asks `ready` until it has a value; fails naming `what` once `limit` has passed (longer on a slow machine).
pub fn wait_until<T>(limit: Duration, what: &str, mut ready: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let limit = scale::longer(limit);
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = ready()? {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            bail!("{what}: not within {} s", limit.as_secs());
        }
        std::thread::park_timeout(POLL_INTERVAL);
    }
}
