//! The load generator: one small program with blocking threads, the same for every mode, so that what differs is the way
//! between its two ends.
//!
//! A client meters itself between the moment when all its connections work and the moment when all is answered: neither
//! its start nor its connecting is in the numbers of bulk and requests.

mod bulk;
mod hold;
mod request;
mod serve;
mod wire;

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Args, Parser, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::usage::Usage;

/// Bytes of a request and of its answer.
pub(crate) const MESSAGE_BYTES: usize = 100;

/// What a server prints when clients may come, and a holder when all its connections stand.
pub(crate) const READY: &str = "ready";

/// What a client did.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(crate) struct Outcome {
    /// Bytes that arrived, or exchanges that ended well.
    pub(crate) count: u64,
    /// Exchanges that failed.
    pub(crate) errors: u64,
    /// One of the failures.
    pub(crate) error: Option<String>,
    /// Times of the exchanges.
    pub(crate) latency: Option<Latency>,
    /// What it cost.
    pub(crate) usage: Usage,
}

/// Percentiles of times in nanoseconds.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Latency {
    /// The median.
    pub(crate) p50_ns: u64,
    /// One in ten takes longer.
    pub(crate) p90_ns: u64,
    /// One in a hundred takes longer.
    pub(crate) p99_ns: u64,
}

/// Where bulk data flows to.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Direction {
    /// From the server.
    Down,
    /// To the server.
    Up,
}

/// What every metered client is told.
#[derive(Args, Debug)]
pub(crate) struct Target {
    /// The server.
    #[arg(long)]
    to: SocketAddr,
    /// For how long.
    #[arg(long)]
    seconds: f64,
    /// The cgroup whose processor time counts as the bench's own.
    #[arg(long)]
    cgroup: PathBuf,
}

impl Target {
    fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}

#[derive(Debug, Parser)]
enum Arguments {
    /// Moves as many bytes as it can.
    Bulk {
        #[command(flatten)]
        target: Target,
        #[arg(long)]
        direction: Direction,
        #[arg(long)]
        streams: usize,
    },
    /// Connects, asks once, closes; again and again.
    Connect {
        #[command(flatten)]
        target: Target,
        #[arg(long)]
        slots: usize,
    },
    /// Opens connections, asks once on each, and keeps them until it is killed.
    Hold {
        #[arg(long)]
        to: SocketAddr,
        #[arg(long)]
        connections: usize,
    },
    /// Asks again and again on the same connections.
    Request {
        #[command(flatten)]
        target: Target,
        #[arg(long)]
        connections: usize,
    },
    /// Serves all of these.
    Serve {
        #[arg(long)]
        port: u16,
        /// Connections that it can serve at once.
        #[arg(long)]
        workers: usize,
    },
}

/// Runs the program.
pub fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            drop(writeln!(std::io::stderr(), "{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    match arguments {
        Arguments::Bulk { target, direction, streams } => report(&bulk::run(&target, direction, streams)?),
        Arguments::Connect { target, slots } => report(&request::connect(&target, slots)?),
        Arguments::Hold { to, connections } => hold::run(to, connections),
        Arguments::Request { target, connections } => report(&request::request(&target, connections)?),
        Arguments::Serve { port, workers } => serve::run(port, workers),
    }
}

fn report(outcome: &Outcome) -> Result<()> {
    say(&serde_json::to_string(outcome).context("write the outcome")?)
}

/// Prints one line at once: somebody may be waiting for it.
fn say(line: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush().context("print")
}
