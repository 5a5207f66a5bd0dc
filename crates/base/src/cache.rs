//! Answers that are remembered until what they were read from may have changed.
//!
//! Invariants
//!   1. An answer that was read before a `clear` is never returned after it: a reader takes a `Ticket` first, and what it
//!      brings with an old ticket is not kept.
//!   2. At most `most` answers are kept; one more drops all, which costs a read each and needs no bookkeeping per look-up.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

use parking_lot::RwLock;

/// Remembers answers. Look-ups take a shared lock and clone the value, which should be an `Arc`.
#[derive(Debug)]
pub struct Cache<K, V> {
    state: RwLock<State<K, V>>,
    most: usize,
}

#[derive(Debug)]
struct State<K, V> {
    answers: HashMap<K, V>,
    clears: u64,
}

/// Proof of when a reader began to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket(u64);

impl<K: Eq + Hash, V: Clone> Cache<K, V> {
    /// An empty cache for at most `most` answers.
    pub fn new(most: usize) -> Self {
        Self { state: RwLock::new(State { answers: HashMap::new(), clears: 0 }), most }
    }

    /// The remembered answer.
    pub fn get<Q>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.state.read().answers.get(key).cloned()
    }

    /// To be taken before reading what will be kept.
    pub fn ticket(&self) -> Ticket {
        Ticket(self.state.read().clears)
    }

    /// Keeps an answer that was read after `ticket` was taken, unless a `clear` came between.
    pub fn keep(&self, ticket: Ticket, key: K, value: V) {
        let mut state = self.state.write();
        if state.clears != ticket.0 {
            return;
        }
        if state.answers.len() >= self.most {
            state.answers.clear();
        }
        state.answers.insert(key, value);
    }

    /// Forgets everything; what is being read right now will not be kept.
    pub fn clear(&self) {
        let mut state = self.state.write();
        state.clears += 1;
        state.answers.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_before_a_clear_is_not_kept() {
        let cache = Cache::new(10);
        let old = cache.ticket();
        cache.clear();
        cache.keep(old, "a", 1);
        assert_eq!(cache.get("a"), None);
        cache.keep(cache.ticket(), "a", 2);
        assert_eq!(cache.get("a"), Some(2));
        cache.clear();
        assert_eq!(cache.get("a"), None);
    }

    #[test]
    fn it_is_bounded() {
        let cache = Cache::new(3);
        for key in 0..100 {
            cache.keep(cache.ticket(), key, key);
            assert_eq!(cache.get(&key), Some(key));
        }
        assert!(cache.state.read().answers.len() <= 3);
    }
}
