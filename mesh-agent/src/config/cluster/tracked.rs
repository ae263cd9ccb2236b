//! Objects by name, which remember whose have changed: what is made of the others needs not be made anew.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;

/// All objects of one kind.
#[derive(Debug)]
pub struct Tracked<K, T> {
    all: BTreeMap<K, T>,
    changed: BTreeSet<K>,
}

impl<K, T> Default for Tracked<K, T> {
    fn default() -> Self {
        Self { all: BTreeMap::new(), changed: BTreeSet::new() }
    }
}

impl<K: Clone + Ord, T: PartialEq> Tracked<K, T> {
    /// Adds or replaces one. An equal one is no change: most of what an API server tells is about fields that we don't keep.
    pub fn insert(&mut self, name: K, object: T) {
        if self.all.get(&name) != Some(&object) {
            self.changed.insert(name.clone());
            self.all.insert(name, object);
        }
    }

    /// Forgets one.
    pub fn remove(&mut self, name: &K) {
        if self.all.remove(name).is_some() {
            self.changed.insert(name.clone());
        }
    }

    /// Replaces all.
    pub fn replace(&mut self, all: impl IntoIterator<Item = (K, T)>) {
        let mut gone = mem::take(&mut self.all);
        for (name, object) in all {
            if gone.remove(&name).as_ref() != Some(&object) {
                self.changed.insert(name.clone());
            }
            self.all.insert(name, object);
        }
        self.changed.extend(gone.into_keys());
    }

    /// One of them.
    pub fn get(&self, name: &K) -> Option<&T> {
        self.all.get(name)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &T)> {
        self.all.iter()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether any has changed since [`take_changed`](Self::take_changed).
    pub(super) fn has_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// Whose have changed, and are no news any more.
    pub(super) fn take_changed(&mut self) -> BTreeSet<K> {
        mem::take(&mut self.changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(tracked: &mut Tracked<&'static str, u8>) -> Vec<&'static str> {
        tracked.take_changed().into_iter().collect()
    }

    #[test]
    fn only_what_differs_has_changed() {
        let mut tracked = Tracked::default();
        tracked.replace([("a", 1), ("b", 2), ("c", 3)]);
        assert_eq!(changed(&mut tracked), ["a", "b", "c"]);
        tracked.insert("a", 1);
        tracked.remove(&"nobody");
        assert_eq!((tracked.has_changed(), changed(&mut tracked)), (false, vec![]));
        tracked.insert("a", 9);
        tracked.remove(&"b");
        assert_eq!((tracked.has_changed(), changed(&mut tracked)), (true, vec!["a", "b"]));
        tracked.replace([("a", 9), ("c", 4), ("d", 5)]);
        assert_eq!(changed(&mut tracked), ["c", "d"]);
        tracked.replace([("d", 5)]);
        assert_eq!(changed(&mut tracked), ["a", "c"]);
        assert_eq!(tracked.iter().collect::<Vec<_>>(), [(&"d", &5)]);
    }
}
