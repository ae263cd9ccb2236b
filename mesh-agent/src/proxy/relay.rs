//! Copies bytes both ways between two streams until both directions have ended, or one end breaks.
//!
//! An end of data is passed on as one (half-close); anything else ends the relay, and its owner resets both sockets, so
//! that no application takes a cut-off stream for a whole one. Between two polls a relay is at a byte-exact point:
//! [`Relay::pause`] says what it holds, and [`Relay::resumed`] goes on from there, perhaps elsewhere.

mod pipe;

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite};

pub(super) use pipe::HeldFlow;
use pipe::{End, Fault, Pipe};

use super::live::Moved;

/// What a paused relay holds. Bytes that the two streams hold themselves (a TLS session, a kernel) are theirs to tell.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Held {
    /// From downstream to upstream.
    pub(super) forward: HeldFlow,
    /// From upstream to downstream.
    pub(super) backward: HeldFlow,
}

/// A relay between `down`, which we accepted, and `up`, which we opened. Owns neither socket.
#[derive(Debug)]
pub(super) struct Relay<D, U> {
    down: D,
    up: U,
    forward: Pipe,
    backward: Pipe,
    shown: Moved,
}

impl<D, U> Relay<D, U>
where
    D: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    pub(super) fn new(down: D, up: U) -> Self {
        Self { down, up, forward: Pipe::default(), backward: Pipe::default(), shown: Moved::default() }
    }

    /// Where others see how much it has moved.
    pub(super) fn shown(&self) -> Moved {
        self.shown.clone()
    }

    /// Goes on where another relay was paused.
    #[cfg_attr(not(test), expect(dead_code, reason = "direct mode and hand-over will use it (DESIGN §2.6)"))]
    pub(super) fn resumed(down: D, up: U, held: Held) -> Self {
        let (forward, backward) = (Pipe::from(held.forward), Pipe::from(held.backward));
        Self { down, up, forward, backward, shown: Moved::default() }
    }

    /// Stops; nothing has moved since the last poll of [`Relay::run`].
    #[cfg_attr(not(test), expect(dead_code, reason = "direct mode and hand-over will use it (DESIGN §2.6)"))]
    pub(super) fn pause(self) -> Held {
        Held { forward: self.forward.into(), backward: self.backward.into() }
    }

    /// Bytes read so far: from downstream, from upstream.
    pub(super) fn moved(&self) -> (u64, u64) {
        (self.forward.read(), self.backward.read())
    }

    /// Relays until both directions have ended; dropping the future pauses it. `down_failed` and `up_failed` resolve
    /// when their socket has failed: that counts while nobody reads from it, otherwise reading will tell, in order.
    /// The error says which end broke, and how.
    pub(super) async fn run(
        &mut self,
        down_failed: impl Future<Output = ()>,
        up_failed: impl Future<Output = ()>,
    ) -> Result<(), &'static str> {
        let (down_failed, up_failed) = (pin!(down_failed), pin!(up_failed));
        let (mut down_failed, mut up_failed) = (Watch::new(down_failed), Watch::new(up_failed));
        poll_fn(|cx| {
            let both = self.poll(cx);
            self.shown.show(self.moved());
            if both.is_pending() {
                // Both are polled, or neither would be woken.
                let (down, up) = (down_failed.poll(cx), up_failed.poll(cx));
                if down && self.forward.is_unread() {
                    return Poll::Ready(Err("downstream_reset"));
                }
                if up && self.backward.is_unread() {
                    return Poll::Ready(Err("upstream_reset"));
                }
            }
            both
        })
        .await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), &'static str>> {
        let forward = self.forward.poll(cx, &mut self.down, &mut self.up);
        if let Poll::Ready(Err(fault)) = &forward {
            // What the failing reader had said before still goes to the other side.
            if fault.end == End::To {
                self.backward.rescue(cx, &mut self.up, &mut self.down);
            }
            return Poll::Ready(Err(reason(fault, ["downstream_reset", "upstream_reset"])));
        }
        let backward = self.backward.poll(cx, &mut self.up, &mut self.down);
        if let Poll::Ready(Err(fault)) = &backward {
            if fault.end == End::To {
                self.forward.rescue(cx, &mut self.down, &mut self.up);
            }
            return Poll::Ready(Err(reason(fault, ["upstream_reset", "downstream_reset"])));
        }
        if forward.is_ready() && backward.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}

/// A stable label; `resets` are those of the end that is read from and of the end that is written to.
fn reason(fault: &Fault, resets: [&'static str; 2]) -> &'static str {
    if let Some(reason) = fault.reason {
        return reason;
    }
    match (fault.kind, fault.end) {
        (io::ErrorKind::TimedOut, _) => "peer_dead",
        (_, End::From) => resets[0],
        (_, End::To) => resets[1],
    }
}

/// A future that is not polled again once it has resolved.
struct Watch<'a, F> {
    future: Pin<&'a mut F>,
    resolved: bool,
}

impl<'a, F: Future<Output = ()>> Watch<'a, F> {
    const fn new(future: Pin<&'a mut F>) -> Self {
        Self { future, resolved: false }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> bool {
        self.resolved = self.resolved || self.future.as_mut().poll(cx).is_ready();
        self.resolved
    }
}

#[cfg(test)]
mod tests;
