//! The kinds of connections, from the client's end.

use std::io::{Error, ErrorKind, Read as _, Result as IoResult, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Result, bail};
use socket2::SockRef;

use super::Outcome;
use super::serve::{Ask, PIECE_BYTES, both_ways, check_pattern, send_pattern};
use crate::app::ANSWER;
use crate::app::act::{pattern_piece, pause};
use crate::stage::MARKER;

/// Longer than any deadline of the mesh: a hang shall show as one.
const PATIENCE: Duration = Duration::from_secs(20);

/// Longer than everything but a drain.
const IDLE: Duration = Duration::from_secs(2);

/// How long a long connection waits between two pieces.
const LONG_PACE: Duration = Duration::from_millis(50);

/// The most that one exchange sends each way.
const MAX_EXCHANGED: u64 = 512 * 1024;

/// What a connection does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Says half a ClientHello and goes away, or stays, or ends its direction: wants to be reset.
    CutTls,
    /// Both sides send at once and end.
    Exchange,
    /// Says no TLS at all: wants to be reset.
    Garbage,
    /// Sends, ends its direction, and reads the answer after that.
    HalfClose,
    /// A line, a long silence, a line.
    Idle,
    /// Pieces back and forth for ever.
    Long,
    /// To a port where nobody listens: wants to be reset.
    Nobody,
    /// Many lines.
    Requests,
    /// One side resets: wants the other side's to be seen.
    Reset,
    /// One line.
    Short,
}

impl FromStr for Kind {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        Ok(match name {
            "cut-tls" => Self::CutTls,
            "exchange" => Self::Exchange,
            "garbage" => Self::Garbage,
            "half-close" => Self::HalfClose,
            "idle" => Self::Idle,
            "long" => Self::Long,
            "nobody" => Self::Nobody,
            "requests" => Self::Requests,
            "reset" => Self::Reset,
            "short" => Self::Short,
            _ => bail!("`{name}` is no kind of connection"),
        })
    }
}

impl Kind {
    /// How long a job of this kind waits after an attempt: the soak shall last, not load.
    pub(super) fn pace(self) -> Duration {
        Duration::from_millis(match self {
            Self::Short => 20,
            Self::CutTls | Self::Garbage | Self::Nobody | Self::Reset => 100,
            Self::Exchange | Self::HalfClose | Self::Idle | Self::Long | Self::Requests => 500,
        })
    }

    /// One connection. `round` varies what it does; `progress` hears of what doesn't end it.
    pub(super) fn attempt(self, to: SocketAddr, round: u64, progress: &dyn Fn(Outcome)) -> Outcome {
        let stream = match TcpStream::connect(to) {
            Ok(stream) => stream,
            Err(error) if error.kind() == ErrorKind::ConnectionRefused && self.wants_reset() => return Outcome::Ok,
            Err(error) => return Outcome::of_error(error.kind()),
        };
        let mut pieces = 0;
        let result = stream.set_read_timeout(Some(PATIENCE)).and_then(|()| match self {
            Self::CutTls => cut_tls(&stream, round),
            Self::Exchange => exchange(&stream, round),
            Self::Garbage => garbage(&stream),
            Self::HalfClose => half_close(&stream, round),
            Self::Idle => idle(&stream, round),
            Self::Long => long(&stream, &mut pieces, progress),
            Self::Nobody => reset_comes(&stream),
            Self::Requests => lines(&stream, round, 50),
            Self::Reset => reset(&stream, round),
            Self::Short => lines(&stream, round, 1),
        });
        match result.map_err(|error| Outcome::of_error(error.kind())) {
            Ok(()) => Outcome::Ok,
            Err(Outcome::Reset) if self.wants_reset() => Outcome::Ok,
            Err(Outcome::Reset) if pieces > 0 => Outcome::Broken,
            Err(outcome) => outcome,
        }
    }

    fn wants_reset(self) -> bool {
        matches!(self, Self::CutTls | Self::Garbage | Self::Nobody)
    }
}

/// A number that varies with the round, below `limit`.
fn vary(round: u64, limit: u64) -> u64 {
    round.wrapping_mul(0x9E37_79B9_7F4A_7C15) % limit
}

fn lines(mut stream: &TcpStream, round: u64, count: u64) -> IoResult<()> {
    stream.write_all(&[Ask::Lines as u8])?;
    for number in 0..count {
        line(stream, &format!("{MARKER} {round} {number}"))?;
    }
    Ok(())
}

fn line(mut stream: &TcpStream, text: &str) -> IoResult<()> {
    stream.write_all(format!("{text}\n").as_bytes())?;
    let wanted = format!("{ANSWER}{text}\n");
    let mut answer = vec![0; wanted.len()];
    stream.read_exact(&mut answer)?;
    if answer == wanted.as_bytes() { Ok(()) } else { Err(ErrorKind::InvalidData.into()) }
}

fn idle(mut stream: &TcpStream, round: u64) -> IoResult<()> {
    stream.write_all(&[Ask::Lines as u8])?;
    line(stream, &format!("{MARKER} {round}"))?;
    // Reads while it waits: a reset is noticed when it comes.
    stream.set_read_timeout(Some(IDLE))?;
    match stream.read(&mut [0]) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
        Err(error) => return Err(error),
        Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
        Ok(_) => return Err(ErrorKind::InvalidData.into()),
    }
    stream.set_read_timeout(Some(PATIENCE))?;
    line(stream, &format!("{MARKER} {round}, still"))
}

fn exchange(mut stream: &TcpStream, round: u64) -> IoResult<()> {
    let count = vary(round, MAX_EXCHANGED);
    stream.write_all(&[Ask::Exchange as u8])?;
    stream.write_all(&count.to_be_bytes())?;
    let (received, sent) = both_ways(stream, count)?;
    // The kernel tells of a reset once, whoever asks first: to the other thread it looks like an end.
    let received = received?;
    sent?;
    if received == count { Ok(()) } else { Err(ErrorKind::UnexpectedEof.into()) }
}

fn half_close(mut stream: &TcpStream, round: u64) -> IoResult<()> {
    let count = vary(round, MAX_EXCHANGED);
    stream.write_all(&[Ask::Count as u8])?;
    send_pattern(stream, count)?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = [0; 8];
    stream.read_exact(&mut answer)?;
    match stream.read(&mut [0])? {
        0 if u64::from_be_bytes(answer) == count => Ok(()),
        _ => Err(ErrorKind::InvalidData.into()),
    }
}

/// Ours in even rounds, the server's in odd ones.
fn reset(mut stream: &TcpStream, round: u64) -> IoResult<()> {
    if round.is_multiple_of(2) {
        stream.write_all(&[Ask::Lines as u8])?;
        line(stream, &format!("{MARKER} {round}"))?;
        return SockRef::from(stream).set_linger(Some(Duration::ZERO));
    }
    stream.write_all(&[Ask::Reset as u8])?;
    match reset_comes(stream) {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
        other => other,
    }
}

/// Reads until the end; anything but an alert record is not for us.
fn reset_comes(mut stream: &TcpStream) -> IoResult<()> {
    const ALERT: u8 = 21;
    let mut bytes = [0; 64];
    loop {
        match stream.read(&mut bytes)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            _ if bytes[0] == ALERT => {}
            _ => return Err(ErrorKind::InvalidData.into()),
        }
    }
}

fn garbage(mut stream: &TcpStream) -> IoResult<()> {
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    reset_comes(stream)
}

fn cut_tls(mut stream: &TcpStream, round: u64) -> IoResult<()> {
    // A handshake record with the head of a ClientHello of 508 bytes.
    let mut hello = [0; 512];
    hello[..11].copy_from_slice(&[22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]);
    let cut = usize::try_from(vary(round, 512)).map_err(Error::other)?;
    stream.write_all(&hello[..cut])?;
    match round % 16 {
        0..8 => stream.shutdown(Shutdown::Write)?,
        8..15 => {
            SockRef::from(stream).set_linger(Some(Duration::ZERO))?;
            return Ok(());
        }
        // It stays; seldom, for that takes as long as a handshake may.
        _ => {}
    }
    reset_comes(stream)
}

fn long(mut stream: &TcpStream, pieces: &mut u64, progress: &dyn Fn(Outcome)) -> IoResult<()> {
    stream.write_all(&[Ask::Echo as u8])?;
    let mut position = 0;
    loop {
        let piece = pattern_piece(position, PIECE_BYTES);
        stream.write_all(&piece)?;
        let mut echo = vec![0; PIECE_BYTES];
        stream.read_exact(&mut echo)?;
        check_pattern(&echo, position)?;
        position += PIECE_BYTES as u64;
        *pieces += 1;
        progress(Outcome::Piece);
        pause(LONG_PACE);
    }
}
