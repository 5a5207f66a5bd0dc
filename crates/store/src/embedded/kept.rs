//! Entries of the tree that are read again and again, kept decoded: the record of a table or a function is read by every
//! call of it, and a look into the tree costs 5 to 10 µs.
//!
//! What is kept is asked *after* the overlay, like the tree, so it need not hear of commits: only when the overlay drops a
//! generation, which the tree then has, do the entries go that it had written. Whole ranges are in `pages`, by the same rules.
//!
//! Invariants
//!   1. What is kept is what the tree says, or older than what the overlay says; never older than both.
//!   2. A reader that may have looked into the tree before a generation was dropped keeps nothing (`Reading`).
//!   3. It has at most `SHARDS * SHARD_BYTES` bytes.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;

use super::pages::{Ends, Pages};
use crate::contract::Entry;

/// So many readers look at the same time without waiting for each other, if their keys are not the same.
const SHARDS: usize = 16;
/// Most bytes of one shard.
const SHARD_BYTES: usize = 256 * 1024;
/// What an entry takes beside its key and value.
const MORE_BYTES: usize = 128;
/// Longer entries are not kept: reading them costs more than finding them.
const ENTRY_BYTES_MAX: usize = 4 * 1024;

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Kept {
    shards: Vec<Mutex<Shard>>,
    hasher: RandomState,
    pages: Pages,
    /// How many generations were dropped.
    drops: AtomicU64,
}

#[derive(Debug, Default)]
struct Shard {
    entries: HashMap<Bytes, Entry>,
    bytes: usize,
}

/// A reader that has not asked the overlay yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reading(u64);

fn weight(entry: &Entry) -> usize {
    entry.key.len() + entry.value.len() + MORE_BYTES
}

impl Default for Kept {
    fn default() -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { shards, hasher: RandomState::new(), pages: Pages::default(), drops: AtomicU64::new(0) }
    }
}

impl Kept {
    fn shard(&self, key: &[u8]) -> &Mutex<Shard> {
        &self.shards[self.hasher.hash_one(key) as usize % SHARDS]
    }

    /// Before the overlay is asked.
    pub(super) fn begin(&self) -> Reading {
        Reading(self.drops.load(Ordering::SeqCst))
    }

    /// The entry of a key that the overlay does not have.
    pub(super) fn get(&self, key: &[u8]) -> Option<Entry> {
        self.shard(key).lock().entries.get(key).cloned()
    }

    /// Keeps what the tree said. Where a shard is full it begins anew: what is read often is back at once.
    pub(super) fn keep(&self, reading: Reading, entry: &Entry) {
        let bytes = weight(entry);
        if bytes > ENTRY_BYTES_MAX {
            return;
        }
        let mut shard = self.shard(&entry.key).lock();
        if self.drops.load(Ordering::SeqCst) != reading.0 {
            return;
        }
        if shard.bytes + bytes > SHARD_BYTES {
            *shard = Shard::default();
        }
        shard.bytes += bytes;
        if let Some(before) = shard.entries.insert(entry.key.clone(), entry.clone()) {
            shard.bytes -= weight(&before);
        }
    }

    /// What was in a range, in the order of keys. The overlay goes with it only if that has dropped nothing since before this
    /// is asked.
    pub(super) fn page(&self, ends: &Ends) -> Option<Arc<[Entry]>> {
        self.pages.get(ends)
    }

    /// Keeps what was read of a whole range.
    pub(super) fn keep_page(&self, reading: Reading, ends: Ends, entries: impl FnOnce() -> Vec<Entry>) {
        self.pages.keep(ends, entries, || self.drops.load(Ordering::SeqCst) == reading.0);
    }

    /// Before a generation is dropped that has written these keys, and in these ranges.
    pub(super) fn forget<'a>(&self, keys: impl Iterator<Item = &'a Bytes>, wrote_in: impl Fn(&Ends) -> bool) {
        self.drops.fetch_add(1, Ordering::SeqCst);
        self.pages.forget(wrote_in);
        for key in keys {
            let mut shard = self.shard(key).lock();
            if let Some(entry) = shard.entries.remove(key) {
                shard.bytes -= weight(&entry);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &str, version: u64, bytes: usize) -> Entry {
        Entry { key: Bytes::copy_from_slice(key.as_bytes()), value: vec![b'x'; bytes].into(), version }
    }

    #[test]
    fn what_a_dropped_generation_wrote_is_forgotten() {
        let kept = Kept::default();
        kept.keep(kept.begin(), &entry("a", 1, 10));
        kept.keep(kept.begin(), &entry("b", 2, 10));
        kept.forget([Bytes::from_static(b"a")].iter(), |_| false);
        assert_eq!(kept.get(b"a"), None);
        assert_eq!(kept.get(b"b"), Some(entry("b", 2, 10)));
    }

    #[test]
    fn who_looked_before_a_drop_keeps_nothing() {
        let kept = Kept::default();
        let reading = kept.begin();
        kept.forget(std::iter::empty(), |_| false);
        kept.keep(reading, &entry("a", 1, 10));
        assert_eq!(kept.get(b"a"), None);
        kept.keep(kept.begin(), &entry("a", 2, 10));
        assert_eq!(kept.get(b"a"), Some(entry("a", 2, 10)));
    }

    #[test]
    fn ranges_go_by_the_same_rules() {
        let kept = Kept::default();
        let ends = (b"a".to_vec(), b"b".to_vec());
        let read = |reading| kept.keep_page(reading, ends.clone(), || vec![entry("a", 1, 10)]);
        read(kept.begin());
        let before = kept.begin();
        kept.forget(std::iter::empty(), |_| false);
        read(before);
        assert_eq!(kept.page(&ends), None, "who looked before a drop keeps nothing");
        read(kept.begin());
        assert_eq!(kept.page(&ends).as_deref(), Some(&[entry("a", 1, 10)][..]));
        kept.forget(std::iter::empty(), |_| false);
        assert!(kept.page(&ends).is_some(), "it was not written in");
        kept.forget(std::iter::empty(), |written| *written == ends);
        assert_eq!(kept.page(&ends), None);
    }

    #[test]
    fn it_is_bounded() {
        let kept = Kept::default();
        kept.keep(kept.begin(), &entry("long", 1, ENTRY_BYTES_MAX));
        assert_eq!(kept.get(b"long"), None);
        for number in 0..10_000 {
            kept.keep(kept.begin(), &entry(&format!("key-{number}"), number, 1_000));
            kept.keep(kept.begin(), &entry("often", number, 1_000));
        }
        let sizes = kept.shards.iter().map(|shard| {
            let shard = shard.lock();
            let bytes: usize = shard.entries.values().map(weight).sum();
            assert_eq!(bytes, shard.bytes);
            bytes
        });
        assert!(sizes.max() <= Some(SHARD_BYTES));
        assert_eq!(kept.get(b"often").map(|entry| entry.version), Some(9_999));
    }
}
