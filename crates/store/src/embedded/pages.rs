//! Whole ranges that are read again and again, kept decoded: what a query of a partition reads takes the tree half a microsecond
//! a row, however often it is asked.
//!
//! A range is kept as a reader saw it. It stands in the tree's place: the overlay is merged over it, and has all that was
//! written since, until it drops a generation; then go the ranges in which that one has written. A range is kept when it is
//! read for the second time within a while, so that what is read once costs no memory and throws nothing out.
//!
//! Invariants
//!   1. What is kept of a range are all its entries at a time since when no generation was dropped that wrote in it.
//!   2. It has at most `SHARDS * SHARD_BYTES` bytes.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::contract::Entry;

/// So many readers look at the same time without waiting for each other, if their ranges are not the same.
const SHARDS: usize = 8;
/// Most bytes of one shard.
const SHARD_BYTES: usize = 512 * 1024;
/// What an entry takes beside its key and value, and what a range does.
const MORE_BYTES: usize = 96;
/// Ranges that were read once are remembered by so many places a shard.
const ONCE: usize = 64;

/// From a key (included) to another (excluded).
pub(super) type Ends = (Vec<u8>, Vec<u8>);

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Pages {
    shards: Vec<Mutex<Shard>>,
    hasher: RandomState,
}

#[derive(Debug)]
struct Shard {
    pages: HashMap<Ends, Kept>,
    bytes: usize,
    /// Hashes of ranges that were read and are not kept.
    once: [u64; ONCE],
}

#[derive(Debug)]
struct Kept {
    entries: Arc<[Entry]>,
    bytes: usize,
}

impl Default for Shard {
    fn default() -> Self {
        Self { pages: HashMap::new(), bytes: 0, once: [0; ONCE] }
    }
}

impl Default for Pages {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), hasher: RandomState::new() }
    }
}

fn weight((start, end): &Ends, entries: &[Entry]) -> usize {
    let entries: usize = entries.iter().map(|entry| entry.key.len() + entry.value.len() + MORE_BYTES).sum();
    2 * (start.len() + end.len()) + MORE_BYTES + entries
}

impl Pages {
    fn shard(&self, ends: &Ends) -> (u64, &Mutex<Shard>) {
        let hash = self.hasher.hash_one(ends);
        (hash, &self.shards[hash as usize % SHARDS])
    }

    /// What was in a range, in the order of keys, if it is kept.
    pub(super) fn get(&self, ends: &Ends) -> Option<Arc<[Entry]>> {
        Some(Arc::clone(&self.shard(ends).1.lock().pages.get(ends)?.entries))
    }

    /// Keeps what was read of a range, if that was read before, and if it `holds` still, which is asked when nobody can
    /// forget it. Where a shard is full it begins anew: what is read often is back soon.
    pub(super) fn keep(&self, ends: Ends, entries: impl FnOnce() -> Vec<Entry>, holds: impl FnOnce() -> bool) {
        let (hash, shard) = self.shard(&ends);
        let mut shard = shard.lock();
        let place = (hash / SHARDS as u64) as usize % ONCE;
        if std::mem::replace(&mut shard.once[place], hash) != hash || !holds() {
            return;
        }
        let entries: Arc<[Entry]> = entries().into();
        let bytes = weight(&ends, &entries);
        if bytes > SHARD_BYTES {
            return;
        }
        if shard.bytes + bytes > SHARD_BYTES {
            shard.pages.clear();
            shard.bytes = 0;
        }
        shard.bytes += bytes;
        if let Some(before) = shard.pages.insert(ends, Kept { entries, bytes }) {
            shard.bytes -= before.bytes;
        }
    }

    /// Forgets the ranges that were written in.
    pub(super) fn forget(&self, was_written: impl Fn(&Ends) -> bool) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            let Shard { pages, bytes, .. } = &mut *shard;
            pages.retain(|ends, kept| {
                let stays = !was_written(ends);
                *bytes -= if stays { 0 } else { kept.bytes };
                stays
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(start: &str, end: &str) -> Ends {
        (start.into(), end.into())
    }

    fn entries(count: usize) -> Vec<Entry> {
        let entry = |number| Entry { key: format!("key-{number}").into(), value: vec![b'x'; 200].into(), version: 1 };
        (0..count).map(entry).collect()
    }

    fn read_twice(pages: &Pages, ends: &Ends, count: usize) {
        pages.keep(ends.clone(), || panic!("it was read once only"), || true);
        pages.keep(ends.clone(), || entries(count), || true);
    }

    #[test]
    fn what_is_read_twice_is_kept_until_it_is_written_in() {
        let pages = Pages::default();
        let (one, other) = (ends("a", "b"), ends("b", "c"));
        read_twice(&pages, &one, 3);
        read_twice(&pages, &other, 0);
        assert_eq!(pages.get(&one).as_deref(), Some(&entries(3)[..]));
        assert_eq!(pages.get(&other).as_deref(), Some(&[][..]));
        pages.forget(|ends| *ends == one);
        assert_eq!(pages.get(&one), None);
        assert!(pages.get(&other).is_some());
    }

    #[test]
    fn what_no_longer_holds_is_not_kept() {
        let pages = Pages::default();
        pages.keep(ends("a", "b"), || entries(1), || true);
        pages.keep(ends("a", "b"), || entries(1), || false);
        assert_eq!(pages.get(&ends("a", "b")), None);
    }

    #[test]
    fn it_is_bounded() {
        let pages = Pages::default();
        for number in 0..500 {
            let ends = ends(&format!("{number:03}"), &format!("{number:03}x"));
            for _ in 0..2 {
                pages.keep(ends.clone(), || entries(120), || true);
            }
            assert!(pages.get(&ends).is_some());
        }
        read_twice(&pages, &ends("y", "z"), 10_000);
        assert_eq!(pages.get(&ends("y", "z")), None, "it is too long");
        for shard in &pages.shards {
            let shard = shard.lock();
            assert!(shard.bytes <= SHARD_BYTES && !shard.pages.is_empty());
            assert_eq!(shard.bytes, shard.pages.values().map(|kept| kept.bytes).sum::<usize>());
        }
    }
}
