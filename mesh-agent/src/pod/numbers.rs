//! Gives pods their numbers: small, unique on the node, and the same again after a restart of the agent.
//!
//! Pure. The number is a pod's index of listeners, and stands in the facts of its live sockets.

use std::collections::{BTreeMap, BTreeSet};

/// The numbers in use, by netns cookie.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    taken: BTreeMap<u64, u32>,
}

impl Numbers {
    /// Takes over the numbers that an earlier agent gave.
    pub(super) fn restored(pods: impl IntoIterator<Item = (u64, u32)>) -> Self {
        Self { taken: pods.into_iter().collect() }
    }

    /// Whether the pod has a number, from this agent or an earlier one.
    pub(super) fn has(&self, cookie: u64) -> bool {
        self.taken.contains_key(&cookie)
    }

    /// The pod's number: its old one, or the lowest that is free.
    pub(super) fn assign(&mut self, cookie: u64) -> u32 {
        if let Some(number) = self.taken.get(&cookie) {
            return *number;
        }
        let used: BTreeSet<u32> = self.taken.values().copied().collect();
        let free = (0..).find(|number| !used.contains(number)).unwrap_or(u32::MAX);
        self.taken.insert(cookie, free);
        free
    }

    /// Frees the pod's number.
    pub(super) fn release(&mut self, cookie: u64) {
        self.taken.remove(&cookie);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_keeps_its_number_and_a_free_one_is_given_again() {
        let mut numbers = Numbers::restored([(100, 0), (200, 2)]);
        assert!(numbers.has(200) && !numbers.has(300));
        assert_eq!(numbers.assign(200), 2);
        assert_eq!(numbers.assign(300), 1);
        assert_eq!(numbers.assign(400), 3);
        numbers.release(100);
        assert_eq!(numbers.assign(500), 0);
        assert_eq!(numbers.assign(300), 1);
    }
}
