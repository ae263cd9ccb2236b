//! Small exchanges: on kept connections, and each on a connection of its own.

use std::io;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::wire::{ask, connect as open, join, spawn};
use super::{Latency, Outcome, Target};
use crate::usage::Meter;

/// After so many failures in one thread nothing is measured any more.
const MAX_ERRORS: u64 = 100;

/// Asks on `connections` connections at once, one question at a time on each.
pub(super) fn request(target: &Target, connections: usize) -> Result<Outcome> {
    let streams: Vec<TcpStream> = (0..connections)
        .map(|_| {
            let stream = open(target.to)?;
            ask(&stream)?;
            Ok(stream)
        })
        .collect::<io::Result<_>>()
        .with_context(|| format!("connect to {}", target.to))?;
    meter(target, streams.into_iter().map(|stream| move || ask(&stream)))
}

/// Connects, asks once and closes, from `slots` threads.
pub(super) fn connect(target: &Target, slots: usize) -> Result<Outcome> {
    let to = target.to;
    meter(target, (0..slots).map(|_| move || ask(&open(to)?)))
}

/// What one thread did.
#[derive(Default)]
struct Done {
    times_ns: Vec<u64>,
    errors: u64,
    error: Option<String>,
}

/// Runs each exchange in a thread of its own, again and again until the time is over.
fn meter<E>(target: &Target, exchanges: impl Iterator<Item = E>) -> Result<Outcome>
where
    E: FnMut() -> io::Result<()> + Send + 'static,
{
    let duration = target.duration();
    let meter = Meter::start(&target.cgroup)?;
    let threads: Vec<_> = exchanges.map(|exchange| spawn(move || repeat(exchange, duration))).collect::<Result<_>>()?;
    let done: Vec<Done> = threads.into_iter().map(join).collect();
    let usage = meter.stop()?;
    let mut outcome = Outcome { usage, ..Outcome::default() };
    let mut times_ns = Vec::new();
    for thread in done {
        outcome.errors += thread.errors;
        outcome.error = outcome.error.or(thread.error);
        times_ns.extend(thread.times_ns);
    }
    outcome.count = times_ns.len() as u64;
    outcome.latency = percentiles(times_ns);
    Ok(outcome)
}

fn repeat(mut exchange: impl FnMut() -> io::Result<()>, duration: Duration) -> Done {
    let mut done = Done::default();
    let deadline = Instant::now() + duration;
    let mut began = Instant::now();
    while began < deadline && done.errors < MAX_ERRORS {
        let result = exchange();
        let ended = Instant::now();
        match result {
            Ok(()) => done.times_ns.push(u64::try_from((ended - began).as_nanos()).unwrap_or(u64::MAX)),
            Err(error) => {
                done.errors += 1;
                done.error = Some(error.to_string());
            }
        }
        began = ended;
    }
    done
}

fn percentiles(mut times_ns: Vec<u64>) -> Option<Latency> {
    times_ns.sort_unstable();
    let last = times_ns.len().checked_sub(1)?;
    let at = |percent: usize| times_ns[last * percent / 100];
    Some(Latency { p50_ns: at(50), p90_ns: at(90), p99_ns: at(99) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_times_that_were_measured() {
        let times_ns: Vec<u64> = (1..=101).rev().collect();
        assert_eq!(percentiles(times_ns), Some(Latency { p50_ns: 51, p90_ns: 91, p99_ns: 100 }));
        assert_eq!(percentiles(Vec::new()), None);
    }
}
