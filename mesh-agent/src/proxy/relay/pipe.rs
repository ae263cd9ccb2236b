//! One direction of a relay: what was read and not yet written, and how far the end of data has come.
//!
//! Holds no buffer while it waits for data: bytes are read onto the stack, and only what can't be written at once is
//! kept. So an idle connection costs no buffer, and a stalled reader one.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::tls::session_reason;

/// Bytes that are read at once, hence held at most: four TLS records' worth.
const CHUNK_BYTES: usize = 64 * 1024;

/// What one direction of a paused relay holds.
#[derive(Debug, Eq, PartialEq)]
pub(in crate::proxy) struct HeldFlow {
    /// Read and not yet written.
    pub(in crate::proxy) bytes: Bytes,
    /// How many bytes were read, those in `bytes` included.
    pub(in crate::proxy) read: u64,
    /// The end of data was read.
    pub(in crate::proxy) ended: bool,
    /// The end of data was passed on.
    pub(in crate::proxy) passed_on: bool,
}

/// Which end of a pipe.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum End {
    /// The one that is read from.
    From,
    /// The one that is written to.
    To,
}

/// An end that broke.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) end: End,
    pub(super) kind: io::ErrorKind,
    /// What TLS calls it.
    pub(super) reason: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Stage {
    #[default]
    Flowing,
    /// The end of data was read.
    Ended,
    /// It was passed on.
    PassedOn,
}

/// One direction.
#[derive(Debug, Default)]
pub(super) struct Pipe {
    held: Bytes,
    read: u64,
    stage: Stage,
    /// The writer may hold what was written until it is flushed.
    unflushed: bool,
}

impl Pipe {
    pub(super) fn read(&self) -> u64 {
        self.read
    }

    /// Nothing is read for now: the other end has to take something first, or all was read.
    pub(super) fn is_unread(&self) -> bool {
        !self.held.is_empty() || self.stage != Stage::Flowing
    }

    /// Moves what can be moved; ready once the end of data was passed on.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<Result<(), Fault>> {
        loop {
            ready!(self.poll_write_held(cx, to))?;
            match self.stage {
                Stage::Flowing => {}
                Stage::Ended => {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(fault(End::To))?;
                    self.stage = Stage::PassedOn;
                }
                Stage::PassedOn => return Poll::Ready(Ok(())),
            }
            if self.stage == Stage::Flowing && self.poll_chunk(cx, from, to)?.is_pending() {
                ready!(self.poll_flush(cx, to))?;
                return Poll::Pending;
            }
        }
    }

    /// Moves what is there, without passing on an end: the other direction has failed.
    pub(super) fn rescue(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
    ) {
        while self.stage == Stage::Flowing
            && matches!(self.poll_write_held(cx, to), Poll::Ready(Ok(())))
            && matches!(self.poll_chunk(cx, from, to), Poll::Ready(Ok(())))
        {}
        // Whether it works or not: the connection ends now.
        drop(self.poll_flush(cx, to));
    }

    fn poll_write_held(&mut self, cx: &mut Context<'_>, to: &mut (impl AsyncWrite + Unpin)) -> Poll<Result<(), Fault>> {
        while !self.held.is_empty() {
            let count = ready!(Pin::new(&mut *to).poll_write(cx, &self.held)).and_then(some).map_err(fault(End::To))?;
            self.held.advance(count);
            self.unflushed = true;
        }
        self.held = Bytes::new();
        Poll::Ready(Ok(()))
    }

    /// Reads once and writes as much of it as goes at once.
    fn poll_chunk(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<Result<(), Fault>> {
        let mut chunk = [const { MaybeUninit::uninit() }; CHUNK_BYTES];
        let mut chunk = ReadBuf::uninit(&mut chunk);
        ready!(Pin::new(from).poll_read(cx, &mut chunk)).map_err(fault(End::From))?;
        let chunk = chunk.filled();
        if chunk.is_empty() {
            self.stage = Stage::Ended;
            return Poll::Ready(Ok(()));
        }
        self.read += chunk.len() as u64;
        let written = match Pin::new(to).poll_write(cx, chunk) {
            Poll::Ready(result) => result.and_then(some).map_err(fault(End::To))?,
            Poll::Pending => 0,
        };
        self.unflushed |= written > 0;
        self.held = Bytes::copy_from_slice(&chunk[written..]);
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>, to: &mut (impl AsyncWrite + Unpin)) -> Poll<Result<(), Fault>> {
        if self.unflushed {
            ready!(Pin::new(to).poll_flush(cx)).map_err(fault(End::To))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

impl From<Pipe> for HeldFlow {
    fn from(pipe: Pipe) -> Self {
        let (ended, passed_on) = (pipe.stage != Stage::Flowing, pipe.stage == Stage::PassedOn);
        Self { bytes: pipe.held, read: pipe.read, ended, passed_on }
    }
}

impl From<HeldFlow> for Pipe {
    fn from(held: HeldFlow) -> Self {
        let stage = match (held.ended, held.passed_on) {
            (_, true) => Stage::PassedOn,
            (true, false) => Stage::Ended,
            (false, false) => Stage::Flowing,
        };
        // What the writer holds is not known here: flushing once too often does no harm.
        Self { held: held.bytes, read: held.read, stage, unflushed: true }
    }
}

/// A writer that takes nothing will never take anything.
fn some(count: usize) -> io::Result<usize> {
    if count == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(count) }
}

fn fault(end: End) -> impl Fn(io::Error) -> Fault {
    move |error| {
        let reason = session_reason(&error);
        if reason.is_some() {
            tracing::debug!(%error, "a TLS session broke");
        }
        Fault { end, kind: error.kind(), reason }
    }
}
