//! A session after its handshake: plaintext in and out, and everything that TLS says beside it.
//!
//! One machine for both record layers: goodbyes and half-closes, alerts, tickets, new keys, and the bound of a key.

use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use rustls::{AlertDescription, SupportedCipherSuite};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::control::{Control, ControlError, ControlReader, alert_message, key_update};
use super::error::SessionError;
use super::keys::KeySchedule;
use super::layer::{Incoming, Layer, Transport};
use super::record::{MAX_PLAINTEXT, content};
use super::usage::{KeyLimit, Usage};
use crate::model::connection::DataPath;
use crate::sys::ktls::Way;

/// Something to say beside the data.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Outgoing {
    Alert(AlertDescription),
    /// After it our keys change.
    KeyUpdate {
        request: bool,
    },
}

/// A stream of plaintext over TLS records.
#[derive(Debug)]
pub struct TlsStream<S> {
    stream: S,
    layer: Layer,
    suite: SupportedCipherSuite,
    schedule: KeySchedule,
    limit: KeyLimit,
    usage: Usage,
    control: ControlReader,
    outgoing: VecDeque<Outgoing>,
    /// Read and not given out: the reader's buffer was small.
    unread: Bytes,
    /// The peer has said goodbye.
    ended: bool,
    /// We have.
    closing: bool,
}

/// What a session is made of.
pub(super) struct Parts<S> {
    pub(super) stream: S,
    pub(super) layer: Layer,
    pub(super) suite: SupportedCipherSuite,
    pub(super) schedule: KeySchedule,
    pub(super) limit: KeyLimit,
}

impl<S: Transport> TlsStream<S> {
    pub(super) fn new(parts: Parts<S>) -> Self {
        let Parts { stream, layer, suite, schedule, limit } = parts;
        Self {
            stream,
            layer,
            suite,
            schedule,
            limit,
            usage: Usage::default(),
            control: ControlReader::default(),
            outgoing: VecDeque::new(),
            unread: Bytes::new(),
            ended: false,
            closing: false,
        }
    }

    /// What it runs on.
    pub fn get_ref(&self) -> &S {
        &self.stream
    }

    /// Where its records are protected.
    pub fn data_path(&self) -> DataPath {
        match self.layer {
            Layer::Kernel(_) => DataPath::Kernel,
            Layer::Userspace(_) => DataPath::Userspace,
        }
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<(), SessionError>> {
        let before = buf.filled().len();
        while !self.ended {
            // An answer to the peer waits for room, not for us to read.
            if let Poll::Ready(Err(error)) = self.poll_say(cx) {
                return Poll::Ready(Err(error));
            }
            match ready!(self.layer.poll_receive(&mut self.stream, cx, buf))? {
                Incoming::Data if self.control.is_within_message() => {
                    return Poll::Ready(Err(SessionError::Unexpected));
                }
                Incoming::Data if buf.filled().len() > before => break,
                // An empty record says nothing (RFC 8446 §5.1).
                Incoming::Data => {}
                Incoming::Control { content_type, bytes } => self.hear(content_type, &bytes)?,
                Incoming::Eof => return Poll::Ready(Err(SessionError::Truncated)),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn hear(&mut self, content_type: u8, bytes: &[u8]) -> Result<(), SessionError> {
        let heard = self.control.read(content_type, bytes).map_err(|error| match error {
            ControlError::Unexpected => SessionError::Unexpected,
            ControlError::Malformed | ControlError::TooLong => SessionError::Malformed,
        })?;
        for control in heard {
            match control {
                Control::CloseNotify => self.ended = true,
                Control::Alert(description) => return Err(SessionError::Alert(description)),
                Control::Ticket(body) => self.schedule.ticket(&body).map_err(|_refused| SessionError::Unexpected)?,
                Control::KeyUpdate { requested } => self.follow(requested)?,
            }
        }
        Ok(())
    }

    /// The peer has changed its keys.
    fn follow(&mut self, requested: bool) -> Result<(), SessionError> {
        if !self.layer.can_rekey() {
            return Err(SessionError::KeyUpdateUnsupported);
        }
        self.renew_keys(Way::Receive)?;
        // Many requests that come before our answer are answered once (RFC 8446 §4.6.3).
        let pending = self.outgoing.iter().any(|outgoing| matches!(outgoing, Outgoing::KeyUpdate { .. }));
        if requested && !pending && !self.closing {
            self.outgoing.push_back(Outgoing::KeyUpdate { request: false });
        }
        Ok(())
    }

    fn renew_keys(&mut self, way: Way) -> Result<(), SessionError> {
        let keys = self.schedule.next(way).map_err(SessionError::Tls)?;
        self.layer.set_keys(&self.stream, self.suite, way, keys)
    }

    /// Says what has to be said, in order. Data must wait for it.
    fn poll_say(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SessionError>> {
        while let Some(outgoing) = self.outgoing.front().copied() {
            let Self { layer, stream, .. } = self;
            let sent = match outgoing {
                Outgoing::Alert(alert) => layer.poll_send(stream, cx, content::ALERT, &alert_message(alert)),
                Outgoing::KeyUpdate { request } => {
                    layer.poll_send(stream, cx, content::HANDSHAKE, &key_update(request))
                }
            };
            // So short a record goes whole or not at all.
            ready!(sent)?;
            self.outgoing.pop_front();
            if let Outgoing::KeyUpdate { .. } = outgoing {
                self.renew_keys(Way::Transmit)?;
                self.usage = Usage::default();
            }
        }
        self.outgoing = VecDeque::new();
        Poll::Ready(Ok(()))
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize, SessionError>> {
        if self.usage.is_spent(self.limit) && self.outgoing.is_empty() {
            if !self.layer.can_rekey() {
                return Poll::Ready(Err(SessionError::KeyLimit));
            }
            self.outgoing.push_back(Outgoing::KeyUpdate { request: false });
        }
        ready!(self.poll_say(cx))?;
        let count = ready!(self.layer.poll_send(&mut self.stream, cx, content::DATA, bytes))?;
        self.usage.add(count);
        Poll::Ready(Ok(count))
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SessionError>> {
        if !self.closing {
            self.closing = true;
            self.outgoing.push_back(Outgoing::Alert(AlertDescription::CloseNotify));
        }
        ready!(self.poll_say(cx))?;
        ready!(self.layer.poll_flush(&mut self.stream, cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx).map_err(SessionError::Io)
    }

    /// Tells the peer why, if that goes at once: the connection ends now.
    fn fail(&mut self, cx: &mut Context<'_>, error: SessionError) -> io::Error {
        if let Some(alert) = error.alert()
            && self.outgoing.is_empty()
        {
            self.outgoing.push_back(Outgoing::Alert(alert));
            drop(self.poll_say(cx));
            drop(self.layer.poll_flush(&mut self.stream, cx));
            self.outgoing.clear();
        }
        error.into()
    }
}

impl<S: Transport> AsyncRead for TlsStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.unread.is_empty() && buf.remaining() >= MAX_PLAINTEXT {
            return this.poll_receive(cx, buf).map_err(|error| this.fail(cx, error));
        }
        if this.unread.is_empty() {
            let mut space = [const { MaybeUninit::uninit() }; MAX_PLAINTEXT];
            let mut space = ReadBuf::uninit(&mut space);
            ready!(this.poll_receive(cx, &mut space)).map_err(|error| this.fail(cx, error))?;
            this.unread = Bytes::copy_from_slice(space.filled());
        }
        let count = this.unread.len().min(buf.remaining());
        buf.put_slice(&this.unread[..count]);
        this.unread.advance(count);
        if this.unread.is_empty() {
            this.unread = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: Transport> AsyncWrite for TlsStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        this.poll_send(cx, bytes).map_err(|error| this.fail(cx, error))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.layer.poll_flush(&mut this.stream, cx).map_err(io::Error::from)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.poll_close(cx).map_err(io::Error::from)
    }
}
