//! The habits of functions that have no environment now: bounded, and in the order in which they want one again.
//!
//! Invariants
//!   1. At most so many are kept as was said; beyond that the one that was put in longest ago is forgotten.
//!   2. A function that was never called, nor expected, has no entry.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;

use super::Habits;

/// Habits by function, whatever names one.
#[derive(Debug)]
pub(crate) struct Book<K> {
    most: usize,
    entries: HashMap<K, Entry>,
    by_age: BTreeMap<u64, K>,
    /// When to look at an entry, and its age.
    looks: BTreeSet<(u64, u64)>,
    next: u64,
}

#[derive(Debug)]
struct Entry {
    habits: Habits,
    age: u64,
    look_at_us: Option<u64>,
}

impl<K: Clone + Eq + Hash> Book<K> {
    /// A book with room for so many.
    pub(crate) fn new(most: usize) -> Self {
        Self { most, entries: HashMap::new(), by_age: BTreeMap::new(), looks: BTreeSet::new(), next: 0 }
    }

    /// What is known of a function, for the time that it has environments.
    pub(crate) fn take(&mut self, key: &K) -> Option<Habits> {
        let entry = self.entries.remove(key)?;
        self.by_age.remove(&entry.age);
        self.unlook(&entry);
        Some(entry.habits)
    }

    /// Puts back what is known of a function that has no environment any more.
    pub(crate) fn put(&mut self, key: K, mut habits: Habits, now_us: u64) {
        drop(self.take(&key));
        let age = self.next;
        self.next += 1;
        let look_at_us = habits.wanted(now_us, 0).look_at_us;
        self.looks.extend(look_at_us.map(|look_us| (look_us, age)));
        self.by_age.insert(age, key.clone());
        self.entries.insert(key, Entry { habits, age, look_at_us });
        while self.entries.len() > self.most {
            let Some((_, oldest)) = self.by_age.pop_first() else { break };
            if let Some(entry) = self.entries.remove(&oldest) {
                self.unlook(&entry);
            }
        }
    }

    /// A call of a function that is known is known to come at this time.
    pub(crate) fn expect(&mut self, key: &K, at_us: u64, now_us: u64) {
        if let Some(mut habits) = self.take(key) {
            habits.expect(at_us);
            self.put(key.clone(), habits, now_us);
        }
    }

    /// The functions that want an environment now.
    pub(crate) fn due(&mut self, now_us: u64) -> Vec<K> {
        let mut due = Vec::new();
        while let Some((look_us, age)) = self.looks.first().copied().filter(|(look_us, _)| *look_us <= now_us) {
            self.looks.remove(&(look_us, age));
            let Some(key) = self.by_age.get(&age) else { continue };
            let Some(entry) = self.entries.get_mut(key) else { continue };
            let wanted = entry.habits.wanted(now_us, 0);
            entry.look_at_us = wanted.look_at_us.map(|look_us| look_us.max(now_us + 1));
            self.looks.extend(entry.look_at_us.map(|look_us| (look_us, age)));
            if wanted.environments > 0 {
                due.push(key.clone());
            }
        }
        due
    }

    /// When `due` has something to say next.
    pub(crate) fn look_at_us(&self) -> Option<u64> {
        self.looks.first().map(|(look_us, _)| *look_us)
    }

    fn unlook(&mut self, entry: &Entry) {
        if let Some(look_us) = entry.look_at_us {
            self.looks.remove(&(look_us, entry.age));
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    #[test]
    fn what_is_expected_is_due_shortly_before() {
        let mut book = Book::new(10);
        let mut habits = Habits::new(128);
        habits.expect(100 * SECOND);
        book.put("timer", habits, 0);
        book.put("other", Habits::new(128), 0);
        let look_us = book.look_at_us().unwrap();
        assert!((99 * SECOND..100 * SECOND).contains(&look_us), "{look_us}");
        assert!(book.due(look_us - 1).is_empty());
        assert_eq!(book.due(look_us), ["timer"]);
        assert!(book.take(&"timer").is_some() && book.take(&"timer").is_none());
        assert_eq!(book.look_at_us(), None);
    }

    #[test]
    fn the_oldest_goes_first() {
        let mut book = Book::new(3);
        for (at, key) in ["a", "b", "c", "a", "d"].into_iter().enumerate() {
            let mut habits = Habits::new(128);
            habits.expect((100 + at as u64) * SECOND);
            book.put(key, habits, 0);
        }
        assert_eq!((book.len(), book.looks.len(), book.by_age.len()), (3, 3, 3));
        assert!(book.take(&"b").is_none(), "the longest not used");
        assert!(book.take(&"a").is_some());
    }
}
