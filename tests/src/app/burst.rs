//! Many short connections, closed by the client, so many at a time; and many that never say anything.

use std::collections::BTreeMap;
use std::io::{BufReader, ErrorKind, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{ANSWER, Burst, client, report};
use crate::scale;

const PATIENCE: Duration = Duration::from_secs(30);

/// Makes `count` connections to each of `to` in turn, `parallel` at a time; each says a line and reads one.
pub(super) fn run(to: &[SocketAddr], count: usize, parallel: usize) -> Result<()> {
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..parallel {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        break;
                    }
                    if let Err(error) = attempt(to[index % to.len()], index) {
                        let mut failures = failures.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                        *failures.entry(format!("{error:#}")).or_insert(0) += 1;
                    }
                }
            });
        }
    });
    let failures: BTreeMap<String, usize> = failures.into_inner().unwrap_or_default();
    let answered = count - failures.values().sum::<usize>();
    report(&Burst { answered, failures, seconds: began.elapsed().as_secs_f64() })
}

fn attempt(to: SocketAddr, index: usize) -> Result<()> {
    let stream = TcpStream::connect(to).context("connect")?;
    stream.set_read_timeout(Some(scale::longer(PATIENCE)))?;
    (&stream).write_all(format!("{index}\n").as_bytes()).context("write")?;
    let answer = client::read_line(&mut BufReader::new(&stream)).context("read")?;
    anyhow::ensure!(answer == format!("{ANSWER}{index}"), "a wrong answer");
    Ok(())
}

/// Opens `count` connections that say nothing, reports, and keeps them for ever.
pub(super) fn half_open(to: SocketAddr, count: usize) -> Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).context("raise the limit of open files")?;
    let (began, mut failures) = (Instant::now(), BTreeMap::new());
    let (mut open, mut reset) = (Vec::new(), 0);
    for _ in 0..count {
        match TcpStream::connect(to) {
            Ok(stream) => open.push(stream),
            // It was open: the other end has ended it before we came to look.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => reset += 1,
            Err(error) => *failures.entry(error.to_string()).or_insert(0) += 1,
        }
    }
    report(&Burst { answered: open.len() + reset, failures, seconds: began.elapsed().as_secs_f64() })?;
    loop {
        std::thread::park();
    }
}
