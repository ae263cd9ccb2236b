//! The record layer of a session: in user space, or in the kernel. Both take and give records; what these mean is the
//! session's business, so that both ways behave alike.

mod kernel;
mod userspace;

use std::io;
use std::task::{Context, Poll};

use rustls::SupportedCipherSuite;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::error::SessionError;
use super::keys::TrafficKeys;
use super::record::MAX_PLAINTEXT;
use crate::sys::ktls::Way;
pub(super) use kernel::Kernel;
pub(super) use userspace::Userspace;

/// What a session runs on.
pub trait Transport: AsyncRead + AsyncWrite + Unpin {
    /// The socket beneath; `None` in tests over memory.
    fn socket(&self) -> Option<&TcpStream>;

    /// Nothing of what the socket has received waits above it.
    fn is_drained(&self) -> bool {
        true
    }
}

impl Transport for TcpStream {
    fn socket(&self) -> Option<&TcpStream> {
        Some(self)
    }
}

#[cfg(test)]
impl Transport for tokio::io::DuplexStream {
    fn socket(&self) -> Option<&TcpStream> {
        None
    }
}

/// What was received.
#[derive(Debug)]
pub(super) enum Incoming {
    /// Application data, now in the reader's buffer; perhaps none.
    Data,
    /// Another record.
    Control { content_type: u8, bytes: Vec<u8> },
    /// The peer's FIN.
    Eof,
}

/// Where records are protected.
#[derive(Debug)]
pub(super) enum Layer {
    Kernel(Kernel),
    Userspace(Box<Userspace>),
}

impl Layer {
    /// Receives into `buf`, which has room for a record's plaintext.
    pub(super) fn poll_receive(
        &mut self,
        stream: &mut impl Transport,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<Result<Incoming, SessionError>> {
        debug_assert!(buf.remaining() >= MAX_PLAINTEXT, "a record must fit");
        match self {
            Self::Kernel(_) => Kernel::poll_receive(stream, cx, buf),
            Self::Userspace(layer) => layer.poll_receive(stream, cx, buf),
        }
    }

    /// Sends `bytes` in records of a type, or a part of them.
    pub(super) fn poll_send(
        &mut self,
        stream: &mut impl Transport,
        cx: &mut Context<'_>,
        content_type: u8,
        bytes: &[u8],
    ) -> Poll<Result<usize, SessionError>> {
        match self {
            Self::Kernel(_) => Kernel::poll_send(stream, cx, content_type, bytes),
            Self::Userspace(layer) => layer.poll_send(stream, cx, content_type, bytes),
        }
    }

    /// Hands to the kernel what was taken and not yet sent.
    pub(super) fn poll_flush(
        &mut self,
        stream: &mut impl Transport,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), SessionError>> {
        match self {
            Self::Kernel(_) => Poll::Ready(Ok(())),
            Self::Userspace(layer) => layer.poll_flush(stream, cx),
        }
    }

    /// From the next record on, `keys` protect what goes this way.
    pub(super) fn set_keys(
        &mut self,
        stream: &impl Transport,
        suite: SupportedCipherSuite,
        way: Way,
        keys: TrafficKeys,
    ) -> Result<(), SessionError> {
        match self {
            Self::Kernel(_) => Kernel::set_keys(stream, way, &keys),
            Self::Userspace(layer) => layer.set_keys(suite, way, keys),
        }
    }

    /// Keys can be replaced: by this end, or because the peer has replaced its own.
    pub(super) fn can_rekey(&self) -> bool {
        match self {
            Self::Kernel(layer) => layer.can_rekey,
            Self::Userspace(_) => true,
        }
    }
}

/// Nothing of a write can be taken any more: as with a socket whose peer is gone.
fn gone() -> SessionError {
    SessionError::Io(io::ErrorKind::WriteZero.into())
}
