//! Decides whether a peer is dead from what the kernel knows of its answers, while data for it is outstanding.
//!
//! A peer that does not read is alive as long as it answers, for however long; an idle connection is keepalive's.

use std::time::Duration;

use tokio::time::Instant;

use crate::sys::sockopt::PeerState;

/// Unanswered window probes in a row that nobody loses by chance.
const LOST_PROBES: u8 = 3;

/// How often to look: a dead peer is noticed a quarter late at most.
pub(super) fn interval(limit: Duration) -> Duration {
    limit / 4
}

/// What was seen of one peer so far.
#[derive(Debug, Default)]
pub(super) struct Silence {
    /// When data in flight was first seen, or last answered.
    since: Option<Instant>,
}

impl Silence {
    /// Takes a look at `now` and says whether the peer has been silent for `limit`.
    pub(super) fn is_dead(&mut self, now: Instant, state: &PeerState, limit: Duration) -> bool {
        if state.in_flight == 0 {
            self.since = None;
            // The window is shut: the kernel probes, less and less often, and the peer must answer each time.
            return state.unanswered_probes >= LOST_PROBES && state.last_answer >= limit;
        }
        // The last answer may be from long before this data was sent.
        let answered = now.checked_sub(state.last_answer);
        let since = self.since.max(answered.filter(|_| self.since.is_some())).unwrap_or(now);
        self.since = Some(since);
        now.duration_since(since) >= limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    /// Looks at (second, packets in flight, seconds since the last answer, unanswered probes); says when it was dead.
    fn check(looks: &[(u64, u32, u64, u8)]) -> Option<u64> {
        let (mut silence, start) = (Silence::default(), Instant::now() + seconds(1000));
        let mut dead = looks.iter().filter(|(second, in_flight, last_answer, unanswered_probes)| {
            let (in_flight, unanswered_probes) = (*in_flight, *unanswered_probes);
            let state = PeerState { in_flight, unanswered_probes, last_answer: seconds(*last_answer) };
            silence.is_dead(start + seconds(*second), &state, LIMIT)
        });
        dead.next().map(|(second, ..)| *second)
    }

    #[test]
    fn data_that_nobody_answers_ends_the_connection_at_the_limit() {
        assert_eq!(check(&[(0, 3, 1, 0), (15, 3, 16, 0), (59, 3, 60, 0), (60, 3, 61, 0)]), Some(60));
    }

    #[test]
    fn data_after_a_long_silence_gets_the_whole_limit() {
        assert_eq!(check(&[(0, 0, 600, 0), (15, 1, 615, 0), (30, 1, 630, 0), (74, 1, 674, 0)]), None);
    }

    #[test]
    fn an_answer_starts_the_limit_anew() {
        assert_eq!(check(&[(0, 3, 0, 0), (45, 3, 1, 0), (90, 3, 46, 0), (105, 3, 61, 0)]), Some(105));
        assert_eq!(check(&[(0, 3, 0, 0), (45, 0, 1, 0), (60, 3, 15, 0), (105, 3, 60, 0)]), None);
    }

    #[test]
    fn a_reader_that_stopped_reading_lives_while_it_answers_probes() {
        assert_eq!(check(&[(0, 0, 0, 0), (60, 0, 60, 1), (120, 0, 118, 0), (3600, 0, 100, 2)]), None);
        assert_eq!(check(&[(0, 0, 50, 3), (15, 0, 65, 3)]), Some(15));
    }
}
