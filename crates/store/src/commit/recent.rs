//! The writes of the last commits, in memory: what a range is checked against, and most points too.
//!
//! Invariants
//!   1. Every write of every commit after `floor` is in `writes`, in the order of the commits.
//!   2. `latest`, if there is one, holds exactly the keys of `writes`, each with its last write.
//!   3. `heads` are true for the last commit.
//!   4. Its size is bounded: the oldest writes go first, and `floor` rises to the commit that they belong to.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

use super::heads::Heads;
use crate::contract::{Range, Version};

/// Most writes that are remembered.
pub(crate) const WRITES_MAX: usize = 32_768;
/// Most bytes of keys that are remembered.
const KEY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The last write of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Latest {
    /// The commit that wrote or deleted it.
    pub(crate) version: Version,
    /// Whether the key exists since then.
    pub(crate) present: bool,
}

/// Whether a range stayed as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unchanged {
    /// Nothing in it was written since.
    Yes,
    /// Something was.
    No,
    /// That long ago is not remembered.
    Unknown,
}

#[derive(Debug)]
pub(crate) struct Recent {
    floor: Version,
    writes: VecDeque<(Version, Bytes)>,
    latest: Option<HashMap<Bytes, Latest>>,
    key_bytes: usize,
    writes_max: usize,
    /// Where queues begin.
    heads: Heads,
}

impl Recent {
    /// Knows nothing of commits up to `floor`.
    pub(crate) fn after(floor: Version) -> Self {
        Self { latest: Some(HashMap::new()), ..Self::for_ranges_after(floor) }
    }

    /// The same for a tree that is quick to tell a key's version: answers for ranges only, at half the cost of a write.
    pub(crate) fn for_ranges_after(floor: Version) -> Self {
        Self {
            floor,
            writes: VecDeque::new(),
            latest: None,
            key_bytes: 0,
            writes_max: WRITES_MAX,
            heads: Heads::default(),
        }
    }

    /// Remembers at most so many writes.
    #[must_use]
    pub(crate) fn at_most(mut self, writes: usize) -> Self {
        self.writes_max = writes;
        self
    }

    /// The last write of a key, if it is remembered.
    pub(crate) fn latest(&self, key: &[u8]) -> Option<Latest> {
        self.latest.as_ref()?.get(key).copied()
    }

    /// Whether nothing of `range` was written after `version`. Costs as many steps as there were writes since then.
    pub(crate) fn unchanged(&self, range: &Range, version: Version) -> Unchanged {
        if version < self.floor {
            return Unchanged::Unknown;
        }
        let from = self.writes.partition_point(|(written, _)| *written <= version);
        let changed = self.writes.range(from..).any(|(_, key)| range.contains(key));
        if changed { Unchanged::No } else { Unchanged::Yes }
    }

    /// Where queues begin, as of the last commit.
    pub(crate) fn heads(&self) -> &Heads {
        &self.heads
    }

    /// Learns where queues begin, after all writes of the commits that it is known from.
    pub(crate) fn learn_heads(&mut self, heads: Heads) {
        self.heads.extend(heads);
    }

    /// Remembers a write. Versions never go back.
    pub(crate) fn push(&mut self, version: Version, key: &[u8], present: bool) {
        debug_assert!(self.writes.back().is_none_or(|(last, _)| *last <= version));
        // A copy, as the caller's bytes may be a small part of something large.
        let key = Bytes::copy_from_slice(key);
        if present {
            self.heads.wrote(&key);
        }
        self.key_bytes += key.len();
        if let Some(latest) = &mut self.latest {
            latest.insert(key.clone(), Latest { version, present });
        }
        self.writes.push_back((version, key));
        while self.writes.len() > self.writes_max || self.key_bytes > KEY_BYTES_MAX {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some((version, key)) = self.writes.pop_front() else { return };
        self.key_bytes -= key.len();
        self.floor = version;
        // A key that was written again since stays, with its later write.
        if let Some(latest) = &mut self.latest
            && latest.get(&key).is_some_and(|latest| latest.version == version)
        {
            latest.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_unchanged_until_one_of_its_keys_is_written() {
        let mut recent = Recent::after(10);
        recent.push(11, b"b", true);
        recent.push(12, b"c", false);
        let range = Range::between("a", "c");
        assert_eq!(recent.unchanged(&range, 10), Unchanged::No);
        assert_eq!(recent.unchanged(&range, 11), Unchanged::Yes);
        assert_eq!(recent.unchanged(&Range::prefix("c"), 11), Unchanged::No);
        assert_eq!(recent.unchanged(&range, 9), Unchanged::Unknown);
    }

    #[test]
    fn what_is_forgotten_is_unknown_and_never_wrong() {
        let mut recent = Recent { writes_max: 3, ..Recent::after(0) };
        for version in 1..=4 {
            recent.push(version, if version % 2 == 0 { &b"even"[..] } else { &b"odd"[..] }, true);
        }
        assert_eq!(recent.unchanged(&Range::prefix(""), 0), Unchanged::Unknown);
        assert_eq!(recent.unchanged(&Range::prefix("odd"), 1), Unchanged::No);
        assert_eq!(recent.unchanged(&Range::prefix("odd"), 3), Unchanged::Yes);
        // The first "odd" is forgotten, the later one still counts.
        assert_eq!(recent.latest(b"odd"), Some(Latest { version: 3, present: true }));
        recent.push(5, b"x", true);
        recent.push(6, b"x", true);
        recent.push(7, b"x", false);
        assert_eq!(recent.latest(b"odd"), None);
        assert_eq!(recent.latest(b"x"), Some(Latest { version: 7, present: false }));
        assert_eq!(recent.writes.len(), 3);
    }
}
