//! Mixed traffic without pause, for the soak: every kind of connection at once, each judged at its own end.
//!
//! A job is a kind and an address. It goes on until the process is killed; what came of its attempts is printed as a
//! running total. Which outcomes are allowed when is the test's business, not this program's.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::act::pause;
use super::report;

mod kinds;
mod serve;

pub use kinds::Kind;
pub(super) use serve::serve;

/// How often the totals are printed.
const REPORT_EVERY: Duration = Duration::from_millis(200);

/// After a failure: refusals come at once, and the processor is wanted elsewhere.
const AFTER_FAILURE: Duration = Duration::from_millis(50);

/// How an attempt ended.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Outcome {
    /// A long connection that had worked was reset.
    Broken,
    /// Bytes that are not the ones that were sent.
    Corrupt,
    /// An orderly end before everything had come: a lost tail that nobody could notice.
    Cut,
    /// What the kind wants.
    Ok,
    /// A piece of a long connection came back.
    Piece,
    /// connect() was refused.
    Refused,
    /// A reset, or a pipe that one had broken.
    Reset,
    /// Nothing happened for too long.
    Silence,
    /// An error that no network should give.
    Strange,
}

impl Outcome {
    /// Its key in a tally.
    pub fn name(self) -> &'static str {
        match self {
            Self::Broken => "broken",
            Self::Corrupt => "corrupt",
            Self::Cut => "cut",
            Self::Ok => "ok",
            Self::Piece => "piece",
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::Silence => "silence",
            Self::Strange => "strange",
        }
    }

    fn of_error(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::ConnectionRefused => Self::Refused,
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset | ErrorKind::NotConnected => Self::Reset,
            ErrorKind::InvalidData => Self::Corrupt,
            ErrorKind::TimedOut | ErrorKind::WouldBlock => Self::Silence,
            ErrorKind::UnexpectedEof => Self::Cut,
            _ => Self::Strange,
        }
    }
}

/// A kind of connection, and where to.
#[derive(Clone, Debug)]
pub struct Job {
    label: String,
    kind: Kind,
    to: SocketAddr,
}

impl FromStr for Job {
    type Err = anyhow::Error;

    /// `LABEL=KIND@ADDRESS`; jobs of one label are counted together.
    fn from_str(text: &str) -> Result<Self> {
        let (label, rest) = text.split_once('=').context("a job is LABEL=KIND@ADDRESS")?;
        let (kind, to) = rest.split_once('@').context("a job is LABEL=KIND@ADDRESS")?;
        let to = to.parse().with_context(|| format!("the address of `{text}`"))?;
        Ok(Self { label: label.to_owned(), kind: kind.parse()?, to })
    }
}

/// Totals by label and outcome.
pub type Tally = BTreeMap<String, BTreeMap<String, u64>>;

/// What the jobs of one process share.
#[derive(Debug, Default)]
struct Board(Mutex<Tally>);

impl Board {
    fn count(&self, label: &str, outcome: Outcome) {
        let mut tally = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *tally.entry(label.to_owned()).or_default().entry(outcome.name().to_owned()).or_default() += 1;
    }
}

/// Runs all jobs until killed.
pub(super) fn run(jobs: &[Job]) -> Result<()> {
    let board = Board::default();
    std::thread::scope(|scope| {
        for (number, job) in (0..).zip(jobs) {
            let board = &board;
            scope.spawn(move || work(number, job, board));
        }
        loop {
            pause(REPORT_EVERY);
            report(&*board.0.lock().unwrap_or_else(PoisonError::into_inner))?;
        }
    })
}

fn work(number: u64, job: &Job, board: &Board) {
    for round in number.. {
        let outcome = job.kind.attempt(job.to, round, &|outcome| board.count(&job.label, outcome));
        board.count(&job.label, outcome);
        pause(if outcome == Outcome::Ok { job.kind.pace() } else { AFTER_FAILURE });
    }
}
