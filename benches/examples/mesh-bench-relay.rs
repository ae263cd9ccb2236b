//! A relay between plaintext and kernel TLS that either reads and writes or splices: which of the two costs less is asked
//! on every kernel that `cargo xtask bench vm` boots.
//!
//! Nothing but that: the keys are fixed and no secret, there is no handshake, and no end of data is authenticated.

use std::io::{self, Write as _};
use std::mem::MaybeUninit;
use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};
use mesh_agent::sys::ktls::{self, Way};
use mesh_agent::sys::stream;
use rustix::net::{Shutdown, shutdown};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::{Interest, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

/// What tells that clients may come.
const READY: &str = "ready";
/// What is read at once; as in the agent's relay.
const CHUNK_BYTES: usize = 64 * 1024;
/// What a pipe holds. More than a chunk, in favour of splicing: a pipe has a slot for each piece, however small.
const PIPE_BYTES: usize = 256 * 1024;
/// TLS 1.3 and AES-256-GCM (linux/tls.h), then IV, key, salt and record number, all of them nothing.
const KEYS: [u8; 56] = {
    let mut info = [0; 56];
    [info[0], info[1]] = 0x0304_u16.to_ne_bytes();
    [info[2], info[3]] = 52_u16.to_ne_bytes();
    info
};

#[derive(Clone, Copy, Debug, Parser)]
struct Arguments {
    /// Where clients come
    #[arg(long)]
    listen: SocketAddr,
    /// Where they are brought
    #[arg(long)]
    to: SocketAddr,
    /// Which side is TLS
    #[arg(long)]
    tls: Side,
    /// What moves plaintext into TLS
    #[arg(long)]
    encrypt: How,
    /// What moves plaintext out of TLS
    #[arg(long)]
    decrypt: How,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Side {
    Down,
    Up,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum How {
    Copy,
    Splice,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let listener = TcpListener::bind(arguments.listen).await.context("listen")?;
    writeln!(io::stdout(), "{READY}")?;
    loop {
        let (down, _) = listener.accept().await.context("accept")?;
        // A connection that fails is the client's to report.
        tokio::spawn(async move { drop(serve(down, arguments).await) });
    }
}

async fn serve(down: TcpStream, arguments: Arguments) -> io::Result<()> {
    let up = TcpStream::connect(arguments.to).await?;
    down.set_nodelay(true)?;
    up.set_nodelay(true)?;
    let (plain, tls) = if arguments.tls == Side::Down { (up, down) } else { (down, up) };
    ktls::attach(&tls)?;
    ktls::set_keys(&tls, Way::Transmit, &KEYS)?;
    ktls::set_keys(&tls, Way::Receive, &KEYS)?;
    drop(ktls::expect_no_padding(&tls));
    tokio::try_join!(
        relay(&plain, &tls, stream::try_read, arguments.encrypt),
        relay(&tls, &plain, |from, chunk| ktls::try_recv(from, chunk).map(drop), arguments.decrypt)
    )?;
    Ok(())
}

type Read = fn(&TcpStream, &mut ReadBuf<'_>) -> io::Result<()>;

async fn relay(from: &TcpStream, to: &TcpStream, read: Read, how: How) -> io::Result<()> {
    match how {
        How::Copy => copy(from, to, read).await?,
        How::Splice => move_pages(from, to).await?,
    }
    Ok(shutdown(to, Shutdown::Write)?)
}

async fn copy(from: &TcpStream, to: &TcpStream, read: Read) -> io::Result<()> {
    loop {
        from.readable().await?;
        let mut chunk = [const { MaybeUninit::uninit() }; CHUNK_BYTES];
        let mut chunk = ReadBuf::uninit(&mut chunk);
        match read(from, &mut chunk) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            result => result?,
        }
        let mut rest = chunk.filled();
        if rest.is_empty() {
            return Ok(());
        }
        while !rest.is_empty() {
            to.writable().await?;
            match stream::try_write(to, rest) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => rest = &rest[written?..],
            }
        }
    }
}

/// Through a pipe, so that no byte is copied into user space.
async fn move_pages(from: &TcpStream, to: &TcpStream) -> io::Result<()> {
    let (leave, enter) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    fcntl_setpipe_size(&enter, PIPE_BYTES)?;
    let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
    loop {
        from.readable().await?;
        let entered = from.try_io(Interest::READABLE, || Ok(splice(from, None, &enter, None, PIPE_BYTES, flags)?));
        let mut held = match entered {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            entered => entered?,
        };
        if held == 0 {
            return Ok(());
        }
        while held > 0 {
            to.writable().await?;
            match to.try_io(Interest::WRITABLE, || Ok(splice(&leave, None, to, None, held, flags)?)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                left => held -= left?,
            }
        }
    }
}
