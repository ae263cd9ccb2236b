//! Records protected by the kernel: it has the keys, and nothing of the session is in user space.

use std::io;
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;

use super::{Incoming, Transport};
use crate::sys::ktls::{self, Way};
use crate::sys::stream::try_write;
use crate::tls::error::SessionError;
use crate::tls::keys::TrafficKeys;
use crate::tls::record::content;

/// A socket whose keys the kernel has.
#[derive(Debug)]
pub(in crate::tls) struct Kernel {
    pub(super) can_rekey: bool,
}

impl Kernel {
    /// Hands both keys over. Whatever fails, the connection must end: one direction may be encrypted, the other not.
    pub(in crate::tls) fn install(
        socket: &TcpStream,
        transmit: &TrafficKeys,
        receive: &TrafficKeys,
        can_rekey: bool,
    ) -> Result<Self, SessionError> {
        set(socket, Way::Transmit, transmit)?;
        set(socket, Way::Receive, receive)?;
        // Older kernels lack the option: then records are decrypted into the kernel's memory and copied.
        drop(ktls::expect_no_padding(socket));
        Ok(Self { can_rekey })
    }

    pub(super) fn poll_receive(
        stream: &impl Transport,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<Result<Incoming, SessionError>> {
        let socket = socket(stream)?;
        let before = buf.filled().len();
        loop {
            ready!(socket.poll_read_ready(cx)).map_err(SessionError::Io)?;
            return Poll::Ready(match ktls::try_recv(socket, buf) {
                Ok(Some(content::DATA)) => Ok(Incoming::Data),
                Ok(Some(content_type)) => {
                    let bytes = buf.filled()[before..].to_vec();
                    buf.set_filled(before);
                    Ok(Incoming::Control { content_type, bytes })
                }
                Ok(None) => Ok(Incoming::Eof),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => Err(explain(error)),
            });
        }
    }

    pub(super) fn poll_send(
        stream: &impl Transport,
        cx: &mut Context<'_>,
        content_type: u8,
        bytes: &[u8],
    ) -> Poll<Result<usize, SessionError>> {
        let socket = socket(stream)?;
        loop {
            ready!(socket.poll_write_ready(cx)).map_err(SessionError::Io)?;
            let sent = match content_type {
                content::DATA => try_write(socket, bytes),
                _ => ktls::try_send(socket, content_type, bytes),
            };
            match sent {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => return Poll::Ready(sent.map_err(SessionError::Io)),
            }
        }
    }

    pub(super) fn set_keys(stream: &impl Transport, way: Way, keys: &TrafficKeys) -> Result<(), SessionError> {
        set(socket(stream)?, way, keys)
    }
}

fn set(socket: &TcpStream, way: Way, keys: &TrafficKeys) -> Result<(), SessionError> {
    let info = keys.crypto_info().map_err(SessionError::Tls)?;
    ktls::set_keys(socket, way, &info).map_err(|error| SessionError::Keys { way, error })
}

/// A session in the kernel has a socket, or it would not be there.
fn socket(stream: &impl Transport) -> Result<&TcpStream, SessionError> {
    stream.socket().ok_or_else(super::gone)
}

/// What the kernel says of a record that it refuses (KERNEL.md §2).
fn explain(error: io::Error) -> SessionError {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::BADMSG) => SessionError::BadRecordMac,
        Some(Errno::INVAL | Errno::MSGSIZE) => SessionError::BadRecord,
        _ => SessionError::Io(error),
    }
}
