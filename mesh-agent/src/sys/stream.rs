//! recv and send on a borrowed tokio socket, which tokio itself offers only to the socket's owner.
//!
//! A short read or write means that the kernel has no more now: the socket's readiness is cleared with it, which saves
//! the call that would only say EAGAIN.

use std::io;
use std::os::fd::AsFd;

use rustix::net::{RecvFlags, SendFlags, recv, send};
use tokio::io::{Interest, ReadBuf};
use tokio::net::TcpStream;

/// Reads what there is; `WouldBlock` if nothing.
pub fn try_read(stream: &TcpStream, buf: &mut ReadBuf<'_>) -> io::Result<()> {
    let wanted = buf.remaining();
    // SAFETY: the slice is only handed to recv, which writes initialised bytes and none of the uninitialised kind.
    let unfilled = unsafe { buf.unfilled_mut() };
    let count = at_most(stream, Interest::READABLE, wanted, || {
        let (filled, _rest) = recv(stream.as_fd(), &mut *unfilled, RecvFlags::empty())?.0;
        Ok(filled.len())
    })?;
    // SAFETY: recv has initialised this many bytes.
    unsafe { buf.assume_init(count) };
    buf.advance(count);
    Ok(())
}

/// Writes what fits; `WouldBlock` if nothing does.
pub fn try_write(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    at_most(stream, Interest::WRITABLE, bytes.len(), || Ok(send(stream.as_fd(), bytes, SendFlags::NOSIGNAL)?))
}

fn at_most(
    stream: &TcpStream,
    interest: Interest,
    wanted: usize,
    call: impl FnOnce() -> io::Result<usize>,
) -> io::Result<usize> {
    let mut short = None;
    let result = stream.try_io(interest, || match call()? {
        count if 0 < count && count < wanted => {
            short = Some(count);
            Err(io::ErrorKind::WouldBlock.into())
        }
        count => Ok(count),
    });
    short.map_or(result, Ok)
}
