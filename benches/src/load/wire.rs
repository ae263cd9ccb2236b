//! What client and server of the load generator say to each other, and the sockets they say it with.
//!
//! The first byte of a stream names what follows; a request begins with it too, so that a connection that asks once costs
//! one write and one read.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::MESSAGE_BYTES;

/// Requests of [`MESSAGE_BYTES`], each answered by itself.
pub(super) const ECHO: u8 = b'E';
/// The client sends until it closes its side; then the server says how much it got (u64, big endian).
pub(super) const SINK: u8 = b'S';
/// The server sends for as many milliseconds as the client says (u32, big endian), once it says go.
pub(super) const SOURCE: u8 = b'F';
/// The server's word that the connection works from end to end.
pub(super) const WORKS: u8 = b'w';
/// The client's word to begin.
pub(super) const GO: u8 = b'g';

/// What bulk data is read and written in.
pub(super) const CHUNK_BYTES: usize = 128 * 1024;

/// Silence after which an end gives up: no run hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// Enough for what these threads do; a thousand of them must not need much.
const STACK_BYTES: usize = 128 * 1024;

/// Connects.
pub(super) fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    prepare(&stream)?;
    Ok(stream)
}

/// Sets what both ends set.
pub(super) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))
}

/// One request and its answer.
pub(super) fn ask(mut stream: &TcpStream) -> io::Result<()> {
    stream.write_all(&[ECHO; MESSAGE_BYTES])?;
    stream.read_exact(&mut [0; MESSAGE_BYTES])
}

/// A thread with a small stack.
pub(super) fn spawn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<JoinHandle<T>> {
    Builder::new().stack_size(STACK_BYTES).spawn(work).context("start a thread")
}

/// The thread's result; its panic becomes ours.
pub(super) fn join<T>(thread: JoinHandle<T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
