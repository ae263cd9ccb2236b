//! The server's end: threads that wait in accept(), so that a new connection costs no new thread.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::wire::{CHUNK_BYTES, ECHO, SINK, SOURCE, WORKS, join, prepare, spawn};
use super::{MESSAGE_BYTES, READY, say};

/// Serves until it is killed.
pub(super) fn run(port: u16, workers: usize) -> Result<()> {
    let listener = Arc::new(TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).context("listen")?);
    let threads: Vec<_> = (0..workers)
        .map(|_| {
            let listener = Arc::clone(&listener);
            spawn(move || work(&listener))
        })
        .collect::<Result<_>>()?;
    say(READY)?;
    threads.into_iter().for_each(join);
    Ok(())
}

fn work(listener: &TcpListener) {
    loop {
        // A connection that fails is the client's to report; accept() fails only for connections that are gone.
        if let Ok((stream, _)) = listener.accept() {
            drop(serve(stream));
        }
    }
}

fn serve(mut stream: TcpStream) -> io::Result<()> {
    prepare(&stream)?;
    let mut message = [0; MESSAGE_BYTES];
    let read = stream.read(&mut message)?;
    match (read, message[0]) {
        (0, _) => Ok(()),
        (_, ECHO) => echo(&mut stream, &mut message, read),
        (_, SINK) => sink(&mut stream),
        (_, SOURCE) => source(&mut stream, &message[..read]),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// `read` bytes of the first request are there. Idle connections are kept as long as the client keeps them.
fn echo(stream: &mut TcpStream, message: &mut [u8; MESSAGE_BYTES], mut read: usize) -> io::Result<()> {
    stream.set_read_timeout(None)?;
    loop {
        if read < message.len() {
            stream.read_exact(&mut message[read..])?;
        }
        stream.write_all(message)?;
        read = stream.read(message)?;
        if read == 0 {
            return Ok(());
        }
    }
}

fn sink(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(&[WORKS])?;
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut total = 0_u64;
    loop {
        let read = stream.read(&mut chunk)?;
        if read == 0 {
            return stream.write_all(&total.to_be_bytes());
        }
        total += read as u64;
    }
}

/// `opening`: the mode's byte and the milliseconds, which the client sends in one piece.
fn source(stream: &mut TcpStream, opening: &[u8]) -> io::Result<()> {
    let milliseconds: [u8; 4] =
        opening.get(1..).and_then(|rest| rest.try_into().ok()).ok_or(io::ErrorKind::InvalidData)?;
    stream.write_all(&[WORKS])?;
    stream.read_exact(&mut [0])?;
    let deadline = Instant::now() + Duration::from_millis(u32::from_be_bytes(milliseconds).into());
    let chunk = vec![0x5a; CHUNK_BYTES];
    while Instant::now() < deadline {
        stream.write_all(&chunk)?;
    }
    stream.shutdown(Shutdown::Write)
}
