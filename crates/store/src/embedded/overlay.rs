//! The overlay: committed writes that the tree does not have yet, in memory, readable at every version that is in use.
//!
//! It is a list of generations. Commits go into the last one; the applier freezes it, writes it into the tree, and drops
//! it. A reader takes what it needs of the overlay (`Pinned`) *after* its transaction over the tree has begun:
//!
//!   - what the tree shows it was published before, so the tree never is ahead of the reader's version;
//!   - what is dropped since is missing in its list, which begins with a version beyond the tree's: then it begins anew;
//!   - a generation that is half written into the tree is whole in the list, and the list is asked first.
//!
//! The entries of the tree that are read often lie beside it (`kept`).
//!
//! Invariants
//!   1. A generation holds the last write of each key that was written in it, and every earlier one that a snapshot
//!      may still ask for; nothing is removed from one.
//!   2. `published` and the writes up to it appear at once.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Place;
use std::iter::Peekable;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::RwLock;

use super::kept::Kept;
use super::limits::Limits;
use super::record::Write;
use crate::commit::decide::Slot;
use crate::contract::{Range, Version};
use crate::stats::Lag;

/// So many bytes of log are worth writing into the tree: nearly a segment, of which the log has three, so that commits go on
/// into the others meanwhile. Few committers fill the log with the padding of their records; the more of those share a
/// page of the tree, the less often it is written beside them.
pub(super) const DUE_LOG_BYTES: usize = 18 * 1024 * 1024;
/// So many deletions are: a scan has to step over each.
pub(super) const DUE_DELETES: usize = 2_048;
/// Above this, commits wait for the tree.
pub(super) const WEIGHT_MAX: usize = 24 * 1024 * 1024;
/// What an entry takes beside its key and value, in a tree whose nodes are two thirds full.
const ENTRY_BYTES: usize = 3 * (size_of::<Bytes>() + size_of::<Versions>()) / 2;
/// What the log has before each key and value, which lies in memory as well.
const WRITE_BYTES: usize = 10;

/// Some commits that follow each other.
#[derive(Debug)]
pub(super) struct Generation {
    /// The version before its first.
    base: Version,
    inner: RwLock<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: BTreeMap<Bytes, Versions>,
    /// The version of its last commit.
    last: Version,
    sizes: Sizes,
}

impl Inner {
    /// Whether there is a write from a key on (included) and before another.
    fn has_within(&self, start: &[u8], end: &[u8]) -> bool {
        use std::ops::Bound::{Excluded, Included};
        start < end && self.entries.range::<[u8], _>((Included(start), Excluded(end))).next().is_some()
    }
}

/// What a generation weighs.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sizes {
    log_bytes: usize,
    memory: usize,
    deletes: usize,
    /// Most bytes by which the tree grows.
    growth: u64,
}

/// The writes of a key.
#[derive(Debug)]
struct Versions {
    newest: Slot,
    /// Oldest first.
    older: Vec<Slot>,
}

impl Versions {
    fn at(&self, version: Version) -> Option<&Slot> {
        if self.newest.version <= version {
            return Some(&self.newest);
        }
        self.older.iter().rev().find(|slot| slot.version <= version)
    }

    /// `seen`: the newest version that any snapshot has.
    fn push(&mut self, slot: Slot, seen: Version) {
        // Later snapshots begin at this write or beyond it; only an earlier one can want the write before.
        let before = std::mem::replace(&mut self.newest, slot);
        if before.version <= seen {
            self.older.push(before);
        }
    }
}

impl Generation {
    fn after(base: Version) -> Self {
        Self { base, inner: RwLock::new(Inner { last: base, ..Inner::default() }) }
    }

    fn get(&self, key: &[u8], version: Version) -> Option<Slot> {
        self.inner.read().entries.get(key)?.at(version).cloned()
    }

    fn insert(&self, writes: Vec<Write>, last: Version, seen: Version, log_bytes: usize) {
        let mut inner = self.inner.write();
        inner.last = last;
        inner.sizes.log_bytes += log_bytes;
        let mut new = 0;
        for (key, slot) in writes {
            // Of what is replaced, key and value stay: they are parts of a batch.
            inner.sizes.memory += WRITE_BYTES + key.len() + slot.value.as_ref().map_or(0, Bytes::len);
            inner.sizes.growth += slot.value.as_ref().map_or(0, |value| growth(key.len(), value.len()));
            inner.sizes.deletes += usize::from(slot.value.is_none());
            match inner.entries.entry(key) {
                Place::Vacant(place) => {
                    place.insert(Versions { newest: slot, older: Vec::new() });
                    new += 1;
                }
                Place::Occupied(mut place) => place.get_mut().push(slot, seen),
            }
        }
        inner.sizes.memory += new * ENTRY_BYTES;
    }

    /// The version of its last commit.
    pub(super) fn last(&self) -> Version {
        self.inner.read().last
    }

    /// The next writes beyond `after`, as many as fit into one transaction over the tree: the newest of each key.
    pub(super) fn portion(&self, after: Option<&Bytes>, writes_max: usize, bytes_max: usize) -> Vec<Write> {
        use std::ops::Bound::{Excluded, Unbounded};
        let inner = self.inner.read();
        let mut bytes = 0;
        let rest = inner.entries.range::<Bytes, _>((after.map_or(Unbounded, Excluded), Unbounded));
        let mut portion = Vec::with_capacity(writes_max.min(inner.entries.len()));
        for (key, versions) in rest.take(writes_max) {
            if bytes >= bytes_max {
                break;
            }
            bytes += key.len() + versions.newest.value.as_ref().map_or(0, Bytes::len);
            portion.push((key.clone(), versions.newest.clone()));
        }
        portion
    }
}

/// Most bytes by which the tree grows when an entry is written: its overflow pages, and twice what lies in a leaf, as
/// leaves that split are half empty.
pub(super) fn growth(key: usize, value: usize) -> u64 {
    /// Above the first size, all but the second goes to overflow pages with so many bytes each.
    const LOCAL_MAX: usize = 1_002;
    const LOCAL_MIN: usize = 489;
    const OVERFLOW: usize = 4_092;
    let bytes = key + value + 32;
    let overflow = if bytes > LOCAL_MAX { (bytes - LOCAL_MIN).div_ceil(OVERFLOW) } else { 0 };
    (overflow * 4_096 + 2 * bytes.min(LOCAL_MAX)) as u64
}

/// The state of the overlay at one version.
#[derive(Debug, Clone)]
pub(super) struct Pinned {
    pub(super) version: Version,
    /// Oldest first.
    generations: Vec<Arc<Generation>>,
}

impl Pinned {
    /// The version from which the tree has to go on.
    pub(super) fn base(&self) -> Version {
        self.generations.first().map_or(self.version, |generation| generation.base)
    }

    /// The last write of a key, if the overlay has it.
    pub(super) fn get(&self, key: &[u8]) -> Option<Slot> {
        self.generations.iter().rev().find_map(|generation| generation.get(key, self.version))
    }

    /// The first writes within a range, in its direction: what is visible of the first `most` keys.
    pub(super) fn slice(&self, range: &Range, most: usize) -> Slice {
        if range.is_empty() {
            return Slice::default();
        }
        // The newest first.
        let inners: Vec<_> = self.generations.iter().rev().map(|generation| generation.inner.read()).collect();
        let parts = inners.iter().map(|inner| inner.entries.range((range.start.clone(), range.end.clone())));
        match range.reverse {
            false => self.merged(parts.map(Iterator::peekable).collect(), |one, other| one < other, most),
            true => self.merged(parts.map(|part| part.rev().peekable()).collect(), |one, other| one > other, most),
        }
    }

    /// Merges parts of generations, the newest first, in the order that `is_before` tells.
    fn merged<'a, I: Iterator<Item = (&'a Bytes, &'a Versions)>>(
        &self,
        mut parts: Vec<Peekable<I>>,
        is_before: impl Fn(&Bytes, &Bytes) -> bool,
        most: usize,
    ) -> Slice {
        let (mut slice, mut last) = (Slice::default(), None::<&Bytes>);
        for number in 0.. {
            let heads = parts.iter_mut().filter_map(|part| part.peek().map(|(key, _)| *key));
            let Some(nearest) = heads.reduce(|one, other| if is_before(other, one) { other } else { one }) else {
                break;
            };
            if number == most {
                slice.up_to = last.cloned();
                break;
            }
            let mut visible = None;
            for part in &mut parts {
                // A newer generation's write of the key hides an older one's.
                if let Some((_, versions)) = part.next_if(|(key, _)| *key == nearest) {
                    visible = visible.or_else(|| versions.at(self.version));
                }
            }
            if let Some(slot) = visible {
                slice.writes.push((nearest.clone(), slot.clone()));
            }
            last = Some(nearest);
        }
        slice
    }
}

/// A part of the overlay.
#[derive(Debug, Default)]
pub(super) struct Slice {
    /// In the range's direction, deletions among them.
    pub(super) writes: Vec<Write>,
    /// Nothing is said of keys beyond this one; none if the slice is the whole.
    pub(super) up_to: Option<Bytes>,
}

/// The overlay of a store.
#[derive(Debug)]
pub(super) struct Overlay {
    list: RwLock<List>,
    /// The newest version that any snapshot has.
    seen: AtomicU64,
    kept: Kept,
    limits: Limits,
}

#[derive(Debug)]
struct List {
    published: Version,
    /// Oldest first, at least one.
    generations: Vec<Arc<Generation>>,
}

impl Overlay {
    /// Nothing beyond the tree.
    pub(super) fn after(version: Version, limits: Limits) -> Self {
        let generations = vec![Arc::new(Generation::after(version))];
        let list = RwLock::new(List { published: version, generations });
        Self { list, seen: AtomicU64::new(0), kept: Kept::default(), limits }
    }

    /// Entries of the tree, for keys that the overlay does not have.
    pub(super) fn kept(&self) -> &Kept {
        &self.kept
    }

    /// Counts from `version` on; the tree does so already, and has everything.
    pub(super) fn jump(&self, version: Version) {
        let mut list = self.list.write();
        *list = List { published: version, generations: vec![Arc::new(Generation::after(version))] };
    }

    /// The last write of a key, if the tree does not have it yet. Who finds nothing reads the tree *after* this.
    pub(super) fn get(&self, key: &[u8]) -> Option<Slot> {
        let list = self.list.read();
        list.generations.iter().rev().find_map(|generation| generation.get(key, Version::MAX))
    }

    /// Up to this commit the tree has everything: who begins to read it now finds all of them.
    pub(super) fn base(&self) -> Version {
        let list = self.list.read();
        list.generations.first().map_or(list.published, |generation| generation.base)
    }

    /// The state now, for a snapshot.
    pub(super) fn pin(&self) -> Pinned {
        let list = self.list.read();
        self.seen.fetch_max(list.published, Ordering::SeqCst);
        Pinned { version: list.published, generations: list.generations.clone() }
    }

    /// The state now, for who has begun to read the tree after `base` was `before`. None if the tree may have taken
    /// something over since, which then is neither in what it shows nor here.
    pub(super) fn pin_beside(&self, before: Version) -> Option<Pinned> {
        Some(self.pin()).filter(|pinned| pinned.base() <= before)
    }

    /// The state now, for the committer, which is done with it before it publishes.
    pub(super) fn peek(&self) -> Pinned {
        let list = self.list.read();
        Pinned { version: list.published, generations: list.generations.clone() }
    }

    /// Makes the writes of commits up to `last` readable.
    pub(super) fn publish(&self, writes: Vec<Write>, last: Version, log_bytes: usize) {
        let mut list = self.list.write();
        if let Some(active) = list.generations.last() {
            active.insert(writes, last, self.seen.load(Ordering::SeqCst), log_bytes);
        }
        list.published = last;
    }

    /// Begins a new generation, if the last one holds anything.
    pub(super) fn freeze(&self) {
        let mut list = self.list.write();
        let published = list.published;
        if list.generations.last().is_some_and(|active| active.base < published) {
            list.generations.push(Arc::new(Generation::after(published)));
        }
    }

    /// The oldest frozen generation.
    pub(super) fn oldest(&self) -> Option<Arc<Generation>> {
        let list = self.list.read();
        (list.generations.len() > 1).then(|| Arc::clone(&list.generations[0]))
    }

    /// Drops the oldest generation: the tree has it.
    pub(super) fn drop_oldest(&self) {
        if let Some(oldest) = self.oldest() {
            let inner = oldest.inner.read();
            self.kept.forget(inner.entries.keys(), |(start, end)| inner.has_within(start, end));
        }
        let oldest = self.list.write().generations.remove(0);
        // Freed outside of the lock, as it can be large.
        drop(oldest);
    }

    /// Whether the last generation is worth writing into the tree, and whether commits should wait for that.
    pub(super) fn pressure(&self) -> Pressure {
        let list = self.list.read();
        let mut sum = Sizes::default();
        let mut due = false;
        for generation in &list.generations {
            let sizes = generation.inner.read().sizes;
            // At the end of the loop, that of the last one.
            due = sizes.log_bytes >= self.limits.due_log_bytes
                || sizes.deletes >= self.limits.due_deletes
                // So that two of them and some more fit: one is filled while the other one is written into the tree.
                || sizes.memory >= self.limits.overlay_bytes * 2 / 5;
            sum.memory += sizes.memory;
            sum.growth += sizes.growth;
        }
        Pressure { due, wait: sum.memory > self.limits.overlay_bytes, growth: sum.growth }
    }

    /// What the tree does not have yet.
    pub(super) fn lag(&self) -> Lag {
        let base = self.base();
        let list = self.list.read();
        let log_bytes = |generation: &Arc<Generation>| generation.inner.read().sizes.log_bytes as u64;
        Lag::Tree { versions: list.published - base, log_bytes: list.generations.iter().map(log_bytes).sum() }
    }

    /// The last commit that is readable.
    pub(super) fn published(&self) -> Version {
        self.list.read().published
    }
}

/// How much waits for the tree.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pressure {
    /// There is enough to be written.
    pub(super) due: bool,
    /// There is too much: commits wait.
    pub(super) wait: bool,
    /// Most bytes by which the tree will grow.
    pub(super) growth: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn write(key: &str, version: Version, value: Option<&str>) -> Write {
        (key.to_owned().into(), Slot { version, value: value.map(|value| value.to_owned().into()) })
    }

    fn value(slot: Option<Slot>) -> Option<Option<Bytes>> {
        slot.map(|slot| slot.value)
    }

    #[test]
    fn a_snapshot_keeps_what_it_saw_while_later_commits_replace_it() {
        let overlay = Overlay::after(0, Limits::default());
        overlay.publish(vec![write("a", 1, Some("1"))], 1, 0);
        let first = overlay.pin();
        overlay.publish(vec![write("a", 2, Some("2"))], 2, 0);
        overlay.publish(vec![write("a", 3, None), write("b", 3, Some("3"))], 3, 0);
        overlay.freeze();
        overlay.publish(vec![write("a", 4, Some("4"))], 4, 0);
        overlay.drop_oldest();
        assert_eq!(value(first.get(b"a")), Some(Some("1".into())));
        assert_eq!(value(first.get(b"b")), None);
        assert_eq!(value(overlay.get(b"a")), Some(Some("4".into())));
        assert_eq!(overlay.pin().base(), 3, "a reader whose tree is older must begin anew");
    }

    #[test]
    fn what_the_tree_took_over_since_it_was_looked_at_is_found_out() {
        let overlay = Overlay::after(0, Limits::default());
        let before = overlay.base();
        overlay.publish(vec![write("a", 1, Some("1"))], 1, 0);
        overlay.freeze();
        overlay.publish(vec![write("a", 2, Some("2"))], 2, 0);
        assert_eq!(
            value(overlay.pin_beside(before).unwrap().get(b"a")),
            Some(Some("2".into())),
            "half written at most"
        );
        overlay.drop_oldest();
        assert!(overlay.pin_beside(before).is_none());
        assert!(overlay.pin_beside(overlay.base()).is_some());
    }

    #[test]
    fn writes_that_no_snapshot_can_ask_for_are_not_kept() {
        let overlay = Overlay::after(0, Limits::default());
        for version in 1..=100 {
            overlay.publish(vec![write("a", version, Some("x"))], version, 0);
        }
        overlay.pin();
        overlay.publish(vec![write("a", 101, Some("x"))], 101, 0);
        overlay.publish(vec![write("a", 102, Some("x"))], 102, 0);
        overlay.freeze();
        let oldest = overlay.oldest().unwrap();
        assert_eq!(oldest.inner.read().entries[&b"a"[..]].older.len(), 1);
        assert_eq!(oldest.portion(None, 10, 10), [write("a", 102, Some("x"))]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

        /// A slice is the first part of all writes that are visible, and says rightly whether it is the whole.
        #[test]
        fn a_slice_is_a_prefix_of_what_is_visible(
            commits in prop::collection::vec((0u8..20, any::<bool>(), 0u8..8), 0..60),
            pinned_at in 0usize..60, most in 1usize..8, reverse: bool, ends in (0u8..20, 0u8..20),
        ) {
            let overlay = Overlay::after(0, Limits::default());
            let (mut model, mut pinned) = (BTreeMap::new(), None);
            for (number, (key, present, action)) in commits.iter().enumerate() {
                if number == pinned_at {
                    pinned = Some((overlay.pin(), model.clone()));
                }
                let (name, version) = (format!("{key:02}"), number as Version + 1);
                let written = write(&name, version, present.then_some("v"));
                model.insert(written.0.clone(), written.1.clone());
                overlay.publish(vec![written], version, 0);
                if *action == 0 {
                    overlay.freeze();
                }
            }
            let (pinned, model) = pinned.unwrap_or_else(|| (overlay.pin(), model));
            let range = Range::between(format!("{:02}", ends.0), format!("{:02}", ends.1));
            let range = if reverse { range.reversed() } else { range };
            let Slice { writes, up_to } = pinned.slice(&range, most);
            let mut expected: Vec<Write> = model.into_iter().filter(|(key, _)| range.contains(key)).collect();
            if reverse {
                expected.reverse();
            }
            if let Some(last) = up_to {
                expected.retain(|(key, _)| if reverse { *key >= last } else { *key <= last });
            }
            prop_assert_eq!(writes, expected);
        }
    }
}
