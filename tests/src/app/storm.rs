//! Connects without pause, so that something is always in the middle of connecting when an agent dies.

use std::io::{BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Result, bail};

use super::{ANSWER, Attempt, client, report};

pub(super) fn run(to: SocketAddr, say: &str, threads: usize) -> Result<()> {
    let threads: Vec<_> = (0..threads)
        .map(|_| {
            let say = say.to_owned();
            std::thread::spawn(move || -> Result<()> {
                loop {
                    let answered = attempt(to, &say).is_ok();
                    report(&Attempt { answered })?;
                    if !answered {
                        // Refusals come at once: leave the processor to the agent that is to come back.
                        std::thread::park_timeout(Duration::from_millis(5));
                    }
                }
            })
        })
        .collect();
    threads.into_iter().try_for_each(|thread| thread.join().unwrap_or(Ok(())))
}

fn attempt(to: SocketAddr, say: &str) -> Result<()> {
    let stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    (&stream).write_all(format!("{say}\n").as_bytes())?;
    let answer = client::read_line(&mut BufReader::new(&stream))?;
    if answer != format!("{ANSWER}{say}") {
        bail!("a wrong answer: {answer}");
    }
    Ok(())
}
