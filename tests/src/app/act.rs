//! A connection that follows a script, on either side, and reports after each step what it saw.
//!
//! What a step sends is a pattern that follows from the position in the stream alone: any lost, doubled or changed byte
//! shows in the receiver's checksum.

use std::io::{ErrorKind, Read, Result as IoResult, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use socket2::{Domain, SockRef, Socket, Type};

use super::{Acted, Served, report};
use crate::scale;

/// Longer than any deadline of the mesh: a hang shall show as one.
const PATIENCE: Duration = Duration::from_secs(60);

/// After this long without progress a sender is stalled.
const STALL: Duration = Duration::from_millis(300);

const CHUNK_BYTES: usize = 64 * 1024;

/// One step of a script.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// `chat:N`: N times, 50 ms apart, says a line and reads one.
    Chat(u64),
    /// `close`.
    Close,
    /// `drain`: reads until the end, whatever it is.
    Drain,
    /// `exchange:N`: sends N bytes and an end of data, and reads until the end, both at once.
    Exchange(u64),
    /// `fill`: sends until nothing more is taken for a while.
    Fill,
    /// `finish`: an end of data.
    Finish,
    /// `hold`: does nothing, for ever.
    Hold,
    /// `receive:N`: reads N bytes.
    Receive(u64),
    /// `reset`: closes with a reset.
    Reset,
    /// `send:N`: sends N bytes.
    Send(u64),
    /// `sleep:N`: does nothing for N milliseconds.
    Sleep(u64),
}

impl FromStr for Step {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, number) = text.split_once(':').unwrap_or((text, "0"));
        let number = number.parse().with_context(|| format!("the number in `{text}`"))?;
        Ok(match name {
            "chat" => Self::Chat(number),
            "close" => Self::Close,
            "drain" => Self::Drain,
            "exchange" => Self::Exchange(number),
            "fill" => Self::Fill,
            "finish" => Self::Finish,
            "hold" => Self::Hold,
            "receive" => Self::Receive(number),
            "reset" => Self::Reset,
            "send" => Self::Send(number),
            "sleep" => Self::Sleep(number),
            _ => bail!("`{text}` is no step"),
        })
    }
}

/// Plays the script on a connection to `to`, from `from` if given.
pub(super) fn connect(to: SocketAddr, from: Option<SocketAddr>, script: &[Step]) -> Result<()> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    if let Some(from) = from {
        socket.set_reuse_address(true)?;
        socket.bind(&from.into()).with_context(|| format!("bind {from}"))?;
    }
    let began = Instant::now();
    match socket.connect(&to.into()) {
        Ok(()) => play(socket.into(), script),
        Err(error) => report(&Acted { end: Some(describe(error.kind())), ..acted("connect", began) }),
    }
}

/// Plays the script on every connection to `port`.
pub(super) fn listen(port: u16, script: &[Step]) -> Result<()> {
    let listeners = [TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?, {
        let socket = Socket::new(Domain::IPV6, Type::STREAM, None)?;
        socket.set_only_v6(true)?;
        socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
        socket.listen(1024)?;
        socket.into()
    }];
    report(&Served::Listening)?;
    std::thread::scope(|scope| {
        for listener in &listeners {
            scope.spawn(|| -> Result<()> {
                loop {
                    let (stream, _peer) = listener.accept()?;
                    scope.spawn(|| play(stream, script));
                }
            });
        }
    });
    Ok(())
}

fn play(stream: TcpStream, script: &[Step]) -> Result<()> {
    stream.set_read_timeout(Some(scale::longer(PATIENCE)))?;
    let mut actor = Actor { stream, sent: 0, received: 0, sum: 0 };
    for step in script {
        let began = Instant::now();
        let (sent, received) = (actor.sent, actor.received);
        let result = actor.act(*step);
        let name = format!("{step:?}").to_lowercase();
        let name = name.split('(').next().unwrap_or_default();
        report(&Acted {
            sent: actor.sent - sent,
            received: actor.received - received,
            sum: actor.sum,
            local: actor.stream.local_addr().ok(),
            end: result.as_ref().err().map(|error| describe(error.kind())),
            ..acted(name, began)
        })?;
        if result.is_err() || matches!(step, Step::Close | Step::Reset) {
            break;
        }
    }
    Ok(())
}

fn acted(step: &str, began: Instant) -> Acted {
    let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    Acted { step: step.to_owned(), ms, ..Acted::default() }
}

fn describe(kind: ErrorKind) -> String {
    format!("{kind:?}")
}

struct Actor {
    stream: TcpStream,
    sent: u64,
    received: u64,
    sum: u64,
}

impl Actor {
    fn act(&mut self, step: Step) -> IoResult<()> {
        match step {
            Step::Chat(count) => self.chat(count),
            Step::Close => Ok(()),
            Step::Drain => self.drain(),
            Step::Exchange(count) => self.exchange(count),
            Step::Fill => self.fill(),
            Step::Finish => self.stream.shutdown(Shutdown::Write),
            Step::Hold => loop {
                std::thread::park();
            },
            Step::Receive(count) => self.receive(count).and_then(|all| all.then_some(()).ok_or_else(eof)),
            Step::Reset => SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)),
            Step::Send(count) => self.send(count),
            Step::Sleep(ms) => {
                pause(Duration::from_millis(ms));
                Ok(())
            }
        }
    }

    fn chat(&mut self, count: u64) -> IoResult<()> {
        for _ in 0..count {
            self.stream.write_all(b"hello\n")?;
            self.sent += 6;
            let mut byte = [0];
            while byte != *b"\n" {
                self.stream.read_exact(&mut byte)?;
                self.received += 1;
            }
            pause(Duration::from_millis(50));
        }
        Ok(())
    }

    fn send(&mut self, count: u64) -> IoResult<()> {
        let mut chunk = [0; CHUNK_BYTES];
        let end = self.sent + count;
        while self.sent < end {
            let length = CHUNK_BYTES.min(usize::try_from(end - self.sent).unwrap_or(CHUNK_BYTES));
            fill_pattern(&mut chunk[..length], self.sent);
            let written = self.stream.write(&chunk[..length])?;
            self.sent += written as u64;
        }
        Ok(())
    }

    fn fill(&mut self) -> IoResult<()> {
        self.stream.set_write_timeout(Some(STALL))?;
        match self.send(u64::MAX / 2) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.stream.set_write_timeout(None),
            result => result,
        }
    }

    /// Whether all bytes came; an end of data is none.
    fn receive(&mut self, count: u64) -> IoResult<bool> {
        let mut chunk = [0; CHUNK_BYTES];
        let end = self.received + count;
        while self.received < end {
            let length = CHUNK_BYTES.min(usize::try_from(end - self.received).unwrap_or(CHUNK_BYTES));
            let read = self.stream.read(&mut chunk[..length])?;
            if read == 0 {
                return Ok(false);
            }
            self.sum = add_to_sum(self.sum, &chunk[..read]);
            self.received += read as u64;
        }
        Ok(true)
    }

    /// An orderly end is no error, a reset is one.
    fn drain(&mut self) -> IoResult<()> {
        self.receive(u64::MAX / 2)?;
        Ok(())
    }

    fn exchange(&mut self, count: u64) -> IoResult<()> {
        let mut sender = Self { stream: self.stream.try_clone()?, sent: self.sent, received: 0, sum: 0 };
        let sending = std::thread::spawn(move || -> IoResult<u64> {
            sender.send(count)?;
            sender.stream.shutdown(Shutdown::Write)?;
            Ok(sender.sent)
        });
        let drained = self.drain();
        self.sent = sending.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        drained
    }
}

/// The checksum of the first `count` bytes that any script sends.
pub fn pattern_sum(count: u64) -> u64 {
    let mut chunk = [0; CHUNK_BYTES];
    let (mut sum, mut position) = (0, 0);
    while position < count {
        let length = CHUNK_BYTES.min(usize::try_from(count - position).unwrap_or(CHUNK_BYTES));
        fill_pattern(&mut chunk[..length], position);
        sum = add_to_sum(sum, &chunk[..length]);
        position += length as u64;
    }
    sum
}

/// `count` bytes of what any script sends, from `position` on.
pub(super) fn pattern_piece(position: u64, count: usize) -> Vec<u8> {
    let mut piece = vec![0; count];
    fill_pattern(&mut piece, position);
    piece
}

/// The byte at each position: no period that a buffer's size could hide.
fn fill_pattern(chunk: &mut [u8], position: u64) {
    for (byte, position) in chunk.iter_mut().zip(position..) {
        *byte = (position.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56).to_le_bytes()[0];
    }
}

/// FNV-1a: each byte and its place count.
fn add_to_sum(sum: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(sum, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3).wrapping_add(1))
}

fn eof() -> std::io::Error {
    ErrorKind::UnexpectedEof.into()
}

/// For programs that play an application: waiting is what they do.
pub(super) fn pause(time: Duration) {
    let until = Instant::now() + time;
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        std::thread::park_timeout(left);
    }
}
