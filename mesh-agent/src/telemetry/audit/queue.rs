//! Keeps events until they are written, and never holds up who brings them.
//!
//! When there is no room an event is lost and counted; the next record says how many. To hold up connections instead
//! would let a full disk stop the node, and so whoever can fill it. Strangers cause some events: these get a part of
//! the room and a rate, so that nobody can push out the others by knocking, nor fill the disk.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Map, Value};

/// Events that fit in.
const CAPACITY: usize = 8192;
/// How many of these strangers may take.
const STRANGERS: usize = CAPACITY * 3 / 4;
/// Records a second that strangers may cause in the long run, and at once.
const RATE: f64 = 100.0;
const BURST: f64 = 2000.0;

/// The events that others can cause as often as they like.
const BY_STRANGERS: [&str; 6] = [
    "allowed without an answer",
    "connect refused",
    "connection denied",
    "connection matches an AUDIT policy",
    "connection without standing",
    "handshake failed",
];

/// Something that happened.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) time: SystemTime,
    pub(super) name: String,
    pub(super) fields: Map<String, Value>,
}

#[derive(Debug)]
struct Inside {
    events: VecDeque<Event>,
    lost: u64,
    closed: bool,
    allowance: f64,
    refilled: Instant,
}

/// Between those who tell and the one who writes.
#[derive(Debug)]
pub(super) struct Queue {
    inside: Mutex<Inside>,
    news: Condvar,
}

/// What there is to write.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) events: Vec<Event>,
    /// Events that were lost before these.
    pub(super) lost: u64,
    /// Nothing will follow.
    pub(super) last: bool,
}

impl Default for Queue {
    fn default() -> Self {
        let (events, refilled) = (VecDeque::new(), Instant::now());
        let inside = Inside { events, lost: 0, closed: false, allowance: BURST, refilled };
        Self { inside: Mutex::new(inside), news: Condvar::new() }
    }
}

impl Queue {
    /// Takes an event, or counts it as lost.
    pub(super) fn push(&self, event: Event) {
        let mut inside = self.lock();
        let by_stranger = BY_STRANGERS.contains(&&*event.name);
        let room = if by_stranger { STRANGERS } else { CAPACITY };
        if inside.events.len() >= room || (by_stranger && !inside.allow(Instant::now())) {
            inside.lost += 1;
        } else {
            inside.events.push_back(event);
        }
        drop(inside);
        self.news.notify_one();
    }

    /// No event comes after this.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.news.notify_one();
    }

    /// Waits for events, for `limit` at most, and takes `most` of them at most.
    pub(super) fn take(&self, most: usize, limit: Duration) -> Batch {
        let idle = |inside: &mut Inside| inside.events.is_empty() && inside.lost == 0 && !inside.closed;
        let waited = self.news.wait_timeout_while(self.lock(), limit, idle);
        let (mut inside, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let count = inside.events.len().min(most);
        let events = inside.events.drain(..count).collect();
        let last = inside.closed && inside.events.is_empty();
        Batch { events, lost: std::mem::take(&mut inside.lost), last }
    }

    /// Waits until the queue is closed, for `limit` at most; returns whether it is.
    pub(super) fn closed_within(&self, limit: Duration) -> bool {
        let waited = self.news.wait_timeout_while(self.lock(), limit, |inside| !inside.closed);
        waited.unwrap_or_else(PoisonError::into_inner).0.closed
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inside {
    /// Whether strangers may cause one more at `now`.
    fn allow(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.refilled).as_secs_f64();
        self.refilled = now;
        self.allowance = (self.allowance + passed * RATE).min(BURST);
        let allowed = self.allowance >= 1.0;
        if allowed {
            self.allowance -= 1.0;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(queue: &Queue, name: &str, count: usize) {
        for _ in 0..count {
            queue.push(Event { time: SystemTime::UNIX_EPOCH, name: name.to_owned(), fields: Map::new() });
        }
    }

    #[test]
    fn strangers_that_knock_neither_fill_the_log_nor_push_others_out() {
        let queue = Queue::default();
        push(&queue, "connection denied", CAPACITY * 4);
        push(&queue, "svid rotated", 1);
        let batch = queue.take(usize::MAX, Duration::ZERO);
        // Some time passes while the test runs, and with it comes a little allowance.
        let denied = batch.events.iter().filter(|event| event.name == "connection denied").count();
        assert!((2000..3000).contains(&denied), "{denied}");
        assert_eq!(batch.events.last().unwrap().name, "svid rotated");
        assert_eq!(batch.lost, (CAPACITY * 4 - denied) as u64);
    }

    #[test]
    fn what_finds_no_room_is_counted() {
        let queue = Queue::default();
        push(&queue, "svid rotated", CAPACITY + 5);
        let batch = queue.take(10, Duration::ZERO);
        assert_eq!((batch.events.len(), batch.lost, batch.last), (10, 5, false));
        queue.close();
        let batch = queue.take(usize::MAX, Duration::ZERO);
        assert_eq!((batch.events.len(), batch.lost, batch.last), (CAPACITY - 10, 0, true));
    }

    #[test]
    fn an_allowance_comes_back_with_time() {
        let queue = Queue::default();
        let mut inside = queue.lock();
        let start = inside.refilled;
        while inside.allow(start) {}
        assert!(!inside.allow(start + Duration::from_millis(5)));
        assert!(inside.allow(start + Duration::from_millis(15)));
    }
}
