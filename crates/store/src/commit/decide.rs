//! Which transactions of a batch win and what claims take: without a clock, a disk or a wait.
//!
//! A batch is decided job by job, in the order of arrival. Each is checked against what the batch wrote so far (`Batch`),
//! then against the last commits (`Recent`), then against the tree; the first that knows a key answers. So the result is
//! that of committing one after another, although one flush carries all. That is also why claims need no locks: of two
//! in one batch the second one sees what the first one has moved.
//!
//! Invariants
//!   1. A transaction that loses leaves no trace in the batch.
//!   2. Winners get consecutive versions in their order.
//!   3. A point never is too old: the tree keeps the version of each entry. A range is when `Recent` has forgotten it.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use bytes::Bytes;

use super::heads::Heads;
use super::job::{Done, Work};
use super::recent::{Recent, Unchanged};
use crate::contract::{CLAIM_BYTES, Claim, Claimed, Claims, Entry, Error, Expect, Page, Range, Txn, Version};
use crate::due::Due;
use crate::writes;

/// The committed state beneath a batch.
pub(crate) trait Tree {
    /// Why it cannot be read.
    type Fault;
    /// The version of an entry.
    fn version(&self, key: &[u8]) -> Result<Option<Version>, Self::Fault>;
    /// The value of an entry.
    fn value(&self, key: &[u8]) -> Result<Option<Bytes>, Self::Fault>;
    /// The entries of a range, upwards, within its limits.
    fn range(&self, range: &Range) -> Result<Page, Self::Fault>;
}

/// Why a transaction is not part of the batch.
#[derive(Debug)]
pub(crate) enum Refusal<F> {
    /// An expectation does not hold against what is committed.
    Conflict,
    /// An expectation does not hold against an earlier transaction of this batch, which nobody can read yet.
    ConflictInBatch,
    /// The transaction itself is at fault, or too old.
    Refused(Error),
    /// The tree cannot be read: the batch ends.
    Fault(F),
}

impl<F> From<Error> for Refusal<F> {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

/// The last write of a key within the batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) version: Version,
    /// None where the key is deleted.
    pub(crate) value: Option<Bytes>,
}

/// What the winners so far have written.
#[derive(Debug)]
pub(crate) struct Batch {
    /// The last commit before the batch.
    before: Version,
    /// The version of the last winner, or of the last commit before the batch.
    last: Version,
    /// The store's time.
    now_ms: u64,
    /// The net effect, sorted, as it goes into the tree.
    slots: BTreeMap<Bytes, Slot>,
    /// Every write in the order of versions: what `Recent` learns when the batch is committed.
    writes: Vec<(Version, Bytes, bool)>,
    /// Where the queues that were claimed from begin now.
    heads: Heads,
}

impl Batch {
    /// An empty batch after commit `last`, at `now_ms` by the store's clock.
    pub(crate) fn after(last: Version, now_ms: u64) -> Self {
        Self { before: last, last, now_ms, slots: BTreeMap::new(), writes: Vec::new(), heads: Heads::default() }
    }

    /// Whether nothing was committed: all have lost, or claimed nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.last == self.before
    }

    /// The version of the last winner.
    pub(crate) fn last(&self) -> Version {
        self.last
    }

    /// What goes into the tree, by key.
    pub(crate) fn slots(&self) -> &BTreeMap<Bytes, Slot> {
        &self.slots
    }

    /// The same writes, while the batch goes on.
    pub(crate) fn writes(&self) -> &[(Version, Bytes, bool)] {
        &self.writes
    }

    /// The same batch after another commit: for who decides before it is known which that will be. `numbered` tells where
    /// in a key, counted from 1, the number of the commit is. Only of a batch without claims.
    pub(crate) fn moved(mut self, before: Version, numbered: &HashMap<Bytes, i32>) -> Self {
        let from = self.before;
        let version_of = |version: Version| version - from + before;
        let key_of = |key: Bytes, version: Version| match numbered.get(&key) {
            Some(place) => {
                let place = usize::try_from(place - 1).unwrap_or_default();
                let rest = place + size_of::<Version>();
                [&key[..place], &version_of(version).to_be_bytes(), &key[rest..]].concat().into()
            }
            None => key,
        };
        self.slots = std::mem::take(&mut self.slots)
            .into_iter()
            .map(|(key, slot)| (key_of(key, slot.version), Slot { version: version_of(slot.version), ..slot }))
            .collect();
        for (version, key, _) in &mut self.writes {
            *key = key_of(std::mem::take(key), *version);
            *version = version_of(*version);
        }
        (self.before, self.last) = (before, version_of(self.last));
        self
    }

    /// Teaches `recent` what the batch has written, once it is committed.
    pub(crate) fn teach(self, recent: &mut Recent) {
        for (version, key, present) in self.writes {
            recent.push(version, &key, present);
        }
        recent.learn_heads(self.heads);
    }

    /// Takes a job into the batch and returns what comes of it, or says why not.
    pub(crate) fn decide<T: Tree>(&mut self, work: Work, recent: &Recent, tree: &T) -> Result<Done, Refusal<T::Fault>> {
        match work {
            Work::Commit(txn) => self.commit(txn, recent, tree).map(Done::Committed),
            Work::Claim(claim) => self.claim(&claim, recent, tree).map(Done::Claimed),
        }
    }

    fn commit<T: Tree>(&mut self, txn: Txn, recent: &Recent, tree: &T) -> Result<Version, Refusal<T::Fault>> {
        for expect in &txn.expects {
            self.check(expect, recent, tree)?;
        }
        let version = self.last + 1;
        let before = |key: &Bytes| match self.slots.get(key) {
            Some(slot) => Ok(slot.value.clone()),
            None => tree.value(key).map_err(Refusal::Fault),
        };
        let writes = writes::of_ops(txn.ops, version, self.now_ms, before)?;
        self.last = version;
        writes.into_iter().for_each(|(key, value)| self.write(version, key, value));
        Ok(version)
    }

    fn write(&mut self, version: Version, key: Bytes, value: Option<Bytes>) {
        if value.is_some() {
            self.heads.wrote(&key);
        }
        self.writes.push((version, key.clone(), value.is_some()));
        self.slots.insert(key, Slot { version, value });
    }

    /// Moves the first entries that are due to the end of their lease. One that takes nothing is no commit.
    fn claim<T: Tree>(&mut self, claim: &Claim, recent: &Recent, tree: &T) -> Result<Claims, Refusal<T::Fault>> {
        let queue = self.queue(&claim.prefix, recent);
        let version = self.last + 1;
        let lease_ends_ms = self.now_ms.saturating_add(claim.lease_ms);
        let mut claims = Claims::default();
        let mut next = None;
        let mut bytes = 0;
        for Entry { key, value, .. } in self.first(queue, claim.entries + 1, tree)? {
            let (due, id) = Due::of(claim.prefix.len(), &key)?;
            if due.at_ms > self.now_ms || claims.entries.len() == claim.entries || bytes >= CLAIM_BYTES {
                next = Some((due.at_ms, key));
                break;
            }
            let attempts = due.attempts.saturating_add(1);
            let moved = Due { at_ms: lease_ends_ms, attempts }.key(&claim.prefix, &id);
            bytes += key.len() + moved.len() + value.len();
            self.write(version, key, None);
            self.write(version, moved.clone(), Some(value.clone()));
            claims.entries.push(Claimed { key: moved, id, value, attempts, lease_ends_ms, version });
        }
        let mut next_ms = next.as_ref().map(|(at_ms, _)| *at_ms);
        // The first that is left: what was not taken, or what was, in its new place, where the order may be another.
        let left = claims.entries.iter().map(|claimed| &claimed.key).chain(next.as_ref().map(|(_, key)| key));
        if let Some(head) = left.min().filter(|_| !claims.entries.is_empty()) {
            self.last = version;
            self.heads.set(&claim.prefix, head);
            next_ms = next_ms.into_iter().chain([lease_ends_ms]).min();
        }
        claims.next_in_ms = next_ms.map(|next| next.saturating_sub(self.now_ms));
        Ok(claims)
    }

    /// The part of a queue in which there can be entries.
    fn queue(&self, prefix: &Bytes, recent: &Recent) -> Range {
        let mut queue = Range::prefix(prefix.clone());
        let known = self.heads.get(prefix).or_else(|| {
            let known = recent.heads().get(prefix)?;
            // What the batch has put below it is told to nobody else yet.
            let below = self.slots.range::<Bytes, _>((Bound::Included(prefix), Bound::Excluded(known)));
            Some(below.filter(|(_, slot)| slot.value.is_some()).map(|(key, _)| key).next().unwrap_or(known))
        });
        if let Some(head) = known {
            queue.start = Bound::Included(head.clone());
        }
        queue
    }

    /// The first entries of a range, as the batch leaves them: at least `rows`, or so many bytes that a claim takes not
    /// all, if there are so many.
    fn first<T: Tree>(&self, range: Range, rows: usize, tree: &T) -> Result<Vec<Entry>, Refusal<T::Fault>> {
        let mut found: Vec<Entry> = Vec::new();
        let mut bytes = 0;
        let mut rest = range.rows(rows).bytes(2 * CLAIM_BYTES);
        loop {
            let page = tree.range(&rest).map_err(Refusal::Fault)?;
            let covered = match page.entries.last() {
                Some(last) if page.more => Range { end: Bound::Included(last.key.clone()), ..rest.clone() },
                _ => rest.clone(),
            };
            let mut part: BTreeMap<Bytes, Entry> =
                page.entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
            for (key, slot) in self.slots.range((covered.start, covered.end.clone())) {
                match &slot.value {
                    Some(value) => {
                        let (value, version) = (value.clone(), slot.version);
                        part.insert(key.clone(), Entry { key: key.clone(), value, version })
                    }
                    None => part.remove(key),
                };
            }
            bytes += part.values().map(|entry| entry.key.len() + entry.value.len()).sum::<usize>();
            found.extend(part.into_values());
            if found.len() >= rows || bytes >= 2 * CLAIM_BYTES || !page.more {
                return Ok(found);
            }
            rest.start = match covered.end {
                Bound::Included(last) => Bound::Excluded(last),
                end => end,
            };
        }
    }

    fn check<T: Tree>(&self, expect: &Expect, recent: &Recent, tree: &T) -> Result<(), Refusal<T::Fault>> {
        match expect {
            Expect::Version(key, version) => self.check_point(key, recent, tree, |found| found == Some(*version)),
            Expect::Absent(key) => self.check_point(key, recent, tree, |found| found.is_none()),
            Expect::Present(key) => self.check_point(key, recent, tree, |found| found.is_some()),
            Expect::RangeUnchanged(range, version) => {
                if self.wrote_in(range) {
                    return Err(Refusal::ConflictInBatch);
                }
                match recent.unchanged(range, *version) {
                    Unchanged::Yes => Ok(()),
                    Unchanged::No => Err(Refusal::Conflict),
                    Unchanged::Unknown => Err(Refusal::Refused(Error::TooOld)),
                }
            }
        }
    }

    /// Whether the batch wrote or deleted a key of `range`. All of it is newer than what anybody can have read.
    fn wrote_in(&self, range: &Range) -> bool {
        !range.is_empty() && self.slots.range((range.start.clone(), range.end.clone())).next().is_some()
    }

    fn check_point<T: Tree>(
        &self,
        key: &[u8],
        recent: &Recent,
        tree: &T,
        holds: impl FnOnce(Option<Version>) -> bool,
    ) -> Result<(), Refusal<T::Fault>> {
        let (found, refusal) = if let Some(slot) = self.slots.get(key) {
            (slot.value.is_some().then_some(slot.version), Refusal::ConflictInBatch)
        } else if let Some(latest) = recent.latest(key) {
            (latest.present.then_some(latest.version), Refusal::Conflict)
        } else {
            (tree.version(key).map_err(Refusal::Fault)?, Refusal::Conflict)
        };
        if holds(found) { Ok(()) } else { Err(refusal) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(BTreeMap<Bytes, (Version, Bytes)>);

    impl Tree for Fixed {
        type Fault = ();
        fn version(&self, key: &[u8]) -> Result<Option<Version>, ()> {
            Ok(self.0.get(key).map(|(version, _)| *version))
        }
        fn value(&self, key: &[u8]) -> Result<Option<Bytes>, ()> {
            Ok(self.0.get(key).map(|(_, value)| value.clone()))
        }
        fn range(&self, range: &Range) -> Result<Page, ()> {
            let all = self.0.range((range.start.clone(), range.end.clone()));
            let entry = |(key, (version, value)): (&Bytes, &(Version, Bytes))| Entry {
                key: key.clone(),
                value: value.clone(),
                version: *version,
            };
            let mut entries: Vec<Entry> = all.map(entry).take(range.rows.saturating_add(1)).collect();
            let more = entries.len() > range.rows;
            entries.truncate(range.rows);
            Ok(Page { entries, more })
        }
    }

    fn tree() -> Fixed {
        Fixed(BTreeMap::from([("old".into(), (3, "x".into()))]))
    }

    #[test]
    fn the_second_of_two_equal_claims_in_a_batch_loses_without_a_trace() {
        let (tree, recent) = (tree(), Recent::after(5));
        let mut batch = Batch::after(5, 1_000);
        let claim = Txn::new().expect_version("old", 3).put("old", "mine");
        assert!(matches!(batch.commit(claim.clone(), &recent, &tree), Ok(6)));
        assert!(matches!(batch.commit(claim.put("side", "x"), &recent, &tree), Err(Refusal::ConflictInBatch)));
        assert!(!batch.slots().contains_key(&b"side"[..]));
        assert_eq!(batch.last(), 6);
    }

    #[test]
    fn an_insert_into_a_range_read_earlier_in_the_batch_is_a_conflict() {
        let (tree, recent) = (tree(), Recent::after(5));
        let mut batch = Batch::after(5, 1_000);
        let insert = |key: &'static str| Txn::new().expect_range(Range::prefix("q/"), 5).put(key, "x");
        assert!(matches!(batch.commit(insert("q/1"), &recent, &tree), Ok(6)));
        assert!(matches!(batch.commit(insert("q/2"), &recent, &tree), Err(Refusal::ConflictInBatch)));
        let outside = Txn::new().expect_range(Range::prefix("r/"), 5).put("r/1", "x");
        assert!(matches!(batch.commit(outside, &recent, &tree), Ok(7)));
    }

    #[test]
    fn a_recent_delete_hides_what_the_tree_says() {
        let tree = tree();
        let mut recent = Recent::after(5);
        recent.push(6, b"old", false);
        let mut batch = Batch::after(6, 1_000);
        assert!(matches!(batch.commit(Txn::new().expect_version("old", 3), &recent, &tree), Err(Refusal::Conflict)));
        assert!(batch.commit(Txn::new().expect_absent("old"), &recent, &tree).is_ok());
    }

    #[test]
    fn a_range_beyond_memory_is_too_old_and_a_point_is_not() {
        let (tree, recent) = (tree(), Recent::after(5));
        let mut batch = Batch::after(5, 1_000);
        let range = Txn::new().expect_range(Range::prefix("q/"), 4);
        assert!(matches!(batch.commit(range, &recent, &tree), Err(Refusal::Refused(Error::TooOld))));
        assert!(batch.commit(Txn::new().expect_version("old", 3), &recent, &tree).is_ok());
    }

    fn queue(entries: &[(u64, u16, &str)]) -> Fixed {
        let key = |at_ms, attempts, id: &str| Due { at_ms, attempts }.key(b"q/", id.as_bytes());
        let neighbours = [(Bytes::from("q"), (1, Bytes::new())), ("q0".into(), (1, Bytes::new()))];
        let entries =
            entries.iter().map(|(at_ms, attempts, id)| (key(*at_ms, *attempts, id), (3, id.to_string().into())));
        Fixed(entries.chain(neighbours).collect())
    }

    fn ids(claims: &Claims) -> Vec<(&str, u16)> {
        let id = |claimed: &Claimed| std::str::from_utf8(&claimed.value).unwrap().to_owned();
        claims.entries.iter().for_each(|claimed| assert_eq!(claimed.id, id(claimed)));
        claims.entries.iter().map(|claimed| (std::str::from_utf8(&claimed.id).unwrap(), claimed.attempts)).collect()
    }

    #[test]
    fn claims_of_one_batch_share_out_what_is_due() {
        let tree = queue(&[(900, 0, "a"), (950, 3, "b"), (950, u16::MAX, "c"), (1_000, 0, "d"), (1_001, 0, "late")]);
        let (mut batch, recent) = (Batch::after(5, 1_000), Recent::after(5));
        let offered = Txn::new().offer("q/", "new", 0, "new").offer("q/", "later", 7, "later");
        assert_eq!(batch.commit(offered, &recent, &tree).unwrap(), 6);
        let first = batch.claim(&Claim::new("q/", 2, 500), &recent, &tree).unwrap();
        assert_eq!(ids(&first), [("a", 1), ("b", 4)]);
        assert_eq!((first.entries[1].version, first.entries[1].lease_ends_ms), (7, 1_500));
        assert_eq!(first.next_in_ms, Some(0), "more is due");
        let second = batch.claim(&Claim::new("q/", 10, 3), &recent, &tree).unwrap();
        assert_eq!(ids(&second), [("c", u16::MAX), ("d", 1), ("new", 1)]);
        assert_eq!(second.next_in_ms, Some(1), "the one that was late");
        let third = batch.claim(&Claim::new("q/", 10, 3), &recent, &tree).unwrap();
        assert_eq!((third.entries.len(), third.next_in_ms, batch.last()), (0, Some(1), 8));
        let settled = second.entries.iter().fold(Txn::new(), Txn::settle);
        assert_eq!(batch.commit(settled.clone(), &recent, &tree).unwrap(), 9);
        assert!(matches!(batch.commit(settled, &recent, &tree), Err(Refusal::ConflictInBatch)));
    }

    #[test]
    fn an_empty_queue_says_that_nothing_comes_and_a_foreign_key_is_told() {
        let mut batch = Batch::after(5, 1_000);
        let none = batch.claim(&Claim::new("q/", 10, 3), &Recent::after(5), &queue(&[])).unwrap();
        assert_eq!(none, Claims::default());
        assert!(batch.is_empty());
        let foreign = Fixed(BTreeMap::from([("q/short".into(), (1, Bytes::new()))]));
        let refused = batch.claim(&Claim::new("q/", 10, 3), &Recent::after(5), &foreign);
        assert!(matches!(refused, Err(Refusal::Refused(Error::Invalid(_)))));
    }

    #[test]
    fn what_the_batch_has_taken_away_does_not_make_a_claim_short() {
        let entries: Vec<(u64, u16, String)> = (0..50).map(|n| (100 + n, 0, format!("{n:02}"))).collect();
        let entries: Vec<_> = entries.iter().map(|(at, attempts, id)| (*at, *attempts, &id[..])).collect();
        let tree = queue(&entries);
        let (mut batch, recent) = (Batch::after(5, 1_000), Recent::after(5));
        let gone = tree
            .0
            .keys()
            .filter(|key| key.starts_with(b"q/"))
            .take(40)
            .fold(Txn::new(), |txn, key| txn.delete(key.clone()));
        batch.commit(gone, &recent, &tree).unwrap();
        let claims = batch.claim(&Claim::new("q/", 3, 500), &recent, &tree).unwrap();
        assert_eq!(ids(&claims), [("40", 1), ("41", 1), ("42", 1)]);
    }

    #[test]
    fn a_remembered_head_hides_nothing_of_what_was_taken_in_another_order() {
        let tree = queue(&[(500, 0, "b"), (600, 0, "a")]);
        let mut recent = Recent::after(5);
        let mut batch = Batch::after(5, 1_000);
        let claims = batch.claim(&Claim::new("q/", 9, 500), &recent, &tree).unwrap();
        assert_eq!(ids(&claims), [("b", 1), ("a", 1)]);
        batch.teach(&mut recent);
        // Under one lease they lie in the order of their ids.
        assert_eq!(recent.heads().get(b"q/"), Some(&Due { at_ms: 1_500, attempts: 1 }.key(b"q/", b"a")));
    }

    #[test]
    fn a_remembered_head_hides_nothing_that_is_put_below_it() {
        let tree = queue(&[(500, 0, "a"), (600, 0, "b")]);
        let mut recent = Recent::after(5);
        let (mut batch, take) = (Batch::after(5, 1_000), Claim::new("q/", 1, 500));
        assert_eq!(ids(&batch.claim(&take, &recent, &tree).unwrap()), [("a", 1)]);
        batch.teach(&mut recent);
        let head = Due { at_ms: 600, attempts: 0 }.key(b"q/", b"b");
        assert_eq!(recent.heads().get(b"q/"), Some(&head));
        // In the next batch, before and after its first claim.
        let early = |id: &'static str, at_ms| Txn::new().put(Due { at_ms, attempts: 0 }.key(b"q/", id.as_bytes()), id);
        let mut batch = Batch::after(6, 1_000);
        batch.commit(early("x", 550), &recent, &tree).unwrap();
        assert_eq!(ids(&batch.claim(&take, &recent, &tree).unwrap()), [("x", 1)]);
        batch.commit(early("y", 540), &recent, &tree).unwrap();
        assert_eq!(ids(&batch.claim(&take, &recent, &tree).unwrap()), [("y", 1)]);
        batch.commit(early("z", 530), &recent, &tree).unwrap();
        batch.teach(&mut recent);
        assert_eq!(recent.heads().get(b"q/"), Some(&Due { at_ms: 530, attempts: 0 }.key(b"q/", b"z")));
        recent.push(20, b"q/", true);
        assert_eq!(recent.heads().get(b"q/"), Some(&Bytes::from("q/")));
    }
}
