//! Bulk data: as many bytes as go through, counted where they arrive.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::wire::{CHUNK_BYTES, GO, SINK, SOURCE, WORKS, connect, join, spawn};
use super::{Direction, Outcome, Target};
use crate::usage::Meter;

/// Moves data over `streams` connections at once.
pub(super) fn run(target: &Target, direction: Direction, streams: usize) -> Result<Outcome> {
    let duration = target.duration();
    let connections: Vec<TcpStream> = (0..streams)
        .map(|_| open(target, direction).with_context(|| format!("connect to {}", target.to)))
        .collect::<Result<_>>()?;
    let meter = Meter::start(&target.cgroup)?;
    let threads: Vec<_> = connections
        .into_iter()
        .map(|stream| {
            spawn(move || match direction {
                Direction::Down => receive(stream),
                Direction::Up => send(stream, duration),
            })
        })
        .collect::<Result<_>>()?;
    let mut outcome = Outcome::default();
    for thread in threads {
        match join(thread) {
            Ok(bytes) => outcome.count += bytes,
            Err(error) => {
                outcome.errors += 1;
                outcome.error = Some(error.to_string());
            }
        }
    }
    outcome.usage = meter.stop()?;
    Ok(outcome)
}

/// A connection of which both ends know that it works.
fn open(target: &Target, direction: Direction) -> io::Result<TcpStream> {
    let mut stream = connect(target.to)?;
    match direction {
        Direction::Down => {
            let milliseconds = u32::try_from(target.duration().as_millis()).unwrap_or(u32::MAX);
            let mut opening = vec![SOURCE];
            opening.extend(milliseconds.to_be_bytes());
            stream.write_all(&opening)?;
        }
        Direction::Up => stream.write_all(&[SINK])?,
    }
    let mut word = [0];
    stream.read_exact(&mut word)?;
    if word == [WORKS] { Ok(stream) } else { Err(io::ErrorKind::InvalidData.into()) }
}

fn send(mut stream: TcpStream, duration: Duration) -> io::Result<u64> {
    let deadline = Instant::now() + duration;
    let chunk = vec![0x5a; CHUNK_BYTES];
    while Instant::now() < deadline {
        stream.write_all(&chunk)?;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut total = [0; 8];
    stream.read_exact(&mut total)?;
    Ok(u64::from_be_bytes(total))
}

fn receive(mut stream: TcpStream) -> io::Result<u64> {
    stream.write_all(&[GO])?;
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut total = 0;
    loop {
        let read = stream.read(&mut chunk)?;
        if read == 0 {
            return Ok(total);
        }
        total += read as u64;
    }
}
