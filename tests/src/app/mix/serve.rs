//! The server of mixed traffic: the first byte of a connection says what the client wants.

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Result as IoResult, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use anyhow::Result;
use socket2::SockRef;

use crate::app::act::pattern_piece;
use crate::app::{ANSWER, Served, report, server};

/// A piece of a long connection.
pub(super) const PIECE_BYTES: usize = 4096;

const CHUNK_BYTES: usize = 64 * 1024;

/// What a client asks for, as its first byte.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(super) enum Ask {
    /// Read to the end, check, and answer with the number of bytes.
    Count = b'C',
    /// Give back every piece.
    Echo = b'E',
    /// A length follows: send as much, and read to the end, both at once.
    Exchange = b'X',
    /// Answer lines.
    Lines = b'L',
    /// Reset the connection.
    Reset = b'R',
}

/// Serves `port` over IPv4 and IPv6 until killed.
pub(in crate::app) fn serve(port: u16) -> Result<()> {
    let listeners = server::listen_separately(port)?;
    report(&Served::Listening)?;
    std::thread::scope(|scope| {
        for listener in &listeners {
            scope.spawn(move || -> Result<()> {
                loop {
                    let (stream, _peer) = listener.accept()?;
                    // A client's failure shows at the client; here it ends the connection as it should.
                    std::thread::spawn(move || drop(answer(&stream)));
                }
            });
        }
    });
    Ok(())
}

fn answer(mut stream: &TcpStream) -> IoResult<()> {
    let mut ask = [0];
    stream.read_exact(&mut ask)?;
    let result = match ask[0] {
        ask if ask == Ask::Count as u8 => count(stream),
        ask if ask == Ask::Echo as u8 => echo(stream),
        ask if ask == Ask::Exchange as u8 => exchange(stream),
        ask if ask == Ask::Lines as u8 => lines(stream),
        ask if ask == Ask::Reset as u8 => Err(ErrorKind::ConnectionReset.into()),
        // Not a client of ours, such as an agent's ClientHello: nothing is said.
        _ => Ok(()),
    };
    if result.is_err() {
        // The client must not take a failure for an end.
        SockRef::from(stream).set_linger(Some(Duration::ZERO))?;
    }
    result
}

fn lines(mut stream: &TcpStream) -> IoResult<()> {
    for line in BufReader::new(stream).lines() {
        stream.write_all(format!("{ANSWER}{}\n", line?).as_bytes())?;
    }
    Ok(())
}

fn echo(mut stream: &TcpStream) -> IoResult<()> {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        stream.read_exact(&mut piece)?;
        stream.write_all(&piece)?;
    }
}

fn count(mut stream: &TcpStream) -> IoResult<()> {
    let count = receive_pattern(stream)?;
    stream.write_all(&count.to_be_bytes())
}

fn exchange(mut stream: &TcpStream) -> IoResult<()> {
    let mut count = [0; 8];
    stream.read_exact(&mut count)?;
    let count = u64::from_be_bytes(count);
    let (received, sent) = both_ways(stream, count)?;
    if received? != count {
        return Err(ErrorKind::InvalidData.into());
    }
    sent
}

/// Sends `count` bytes of the pattern and an end while it receives to the end: how many bytes came, and how sending went.
pub(super) fn both_ways(stream: &TcpStream, count: u64) -> IoResult<(IoResult<u64>, IoResult<()>)> {
    let sender = stream.try_clone()?;
    let sending = std::thread::spawn(move || {
        send_pattern(&sender, count)?;
        sender.shutdown(Shutdown::Write)
    });
    let received = receive_pattern(stream);
    Ok((received, sending.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))))
}

/// Sends the first `count` bytes of the pattern.
pub(super) fn send_pattern(mut stream: &TcpStream, count: u64) -> IoResult<()> {
    let mut position = 0;
    while position < count {
        let length = CHUNK_BYTES.min(usize::try_from(count - position).unwrap_or(CHUNK_BYTES));
        stream.write_all(&pattern_piece(position, length))?;
        position += length as u64;
    }
    Ok(())
}

/// Reads to the end, and says how many bytes of the pattern came.
pub(super) fn receive_pattern(mut stream: &TcpStream) -> IoResult<u64> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut position = 0;
    loop {
        let read = stream.read(&mut chunk)?;
        if read == 0 {
            return Ok(position);
        }
        check_pattern(&chunk[..read], position)?;
        position += read as u64;
    }
}

/// Whether `bytes` are the pattern's from `position` on.
pub(super) fn check_pattern(bytes: &[u8], position: u64) -> IoResult<()> {
    if bytes == pattern_piece(position, bytes.len()) { Ok(()) } else { Err(ErrorKind::InvalidData.into()) }
}
