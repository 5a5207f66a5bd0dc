//! Which transactions of a batch win: the whole of conflict detection, without a clock, a disk or a wait.
//!
//! A batch is decided transaction by transaction, in the order of arrival. Each is checked against what the batch wrote
//! so far (`Batch`), then against the last commits (`Recent`), then against the tree; the first that knows a key
//! answers. So the result is that of committing one after another, although one flush carries all.
//!
//! Invariants
//!   1. A transaction that loses leaves no trace in the batch.
//!   2. Winners get consecutive versions in their order.
//!   3. A point never is too old: the tree keeps the version of each entry. A range is when `Recent` has forgotten it.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::recent::{Recent, Unchanged};
use crate::contract::{Error, Expect, Range, Txn, Version};
use crate::writes;

/// The committed state beneath a batch.
pub(crate) trait Tree {
    /// Why it cannot be read.
    type Fault;
    /// The version of an entry.
    fn version(&self, key: &[u8]) -> Result<Option<Version>, Self::Fault>;
    /// The value of an entry.
    fn value(&self, key: &[u8]) -> Result<Option<Bytes>, Self::Fault>;
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
    /// The version of the last winner, or of the last commit before the batch.
    last: Version,
    /// The net effect, sorted, as it goes into the tree.
    slots: BTreeMap<Bytes, Slot>,
    /// Every write in the order of versions: what `Recent` learns when the batch is committed.
    writes: Vec<(Version, Bytes, bool)>,
}

impl Batch {
    /// An empty batch after commit `last`.
    pub(crate) fn after(last: Version) -> Self {
        Self { last, slots: BTreeMap::new(), writes: Vec::new() }
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

    /// All writes in the order of versions, and whether the key exists after each.
    pub(crate) fn into_writes(self) -> Vec<(Version, Bytes, bool)> {
        self.writes
    }

    /// Takes a transaction into the batch and returns its version, or says why not.
    pub(crate) fn decide<T: Tree>(
        &mut self,
        txn: Txn,
        recent: &Recent,
        tree: &T,
    ) -> Result<Version, Refusal<T::Fault>> {
        for expect in &txn.expects {
            self.check(expect, recent, tree)?;
        }
        let version = self.last + 1;
        let before = |key: &Bytes| match self.slots.get(key) {
            Some(slot) => Ok(slot.value.clone()),
            None => tree.value(key).map_err(Refusal::Fault),
        };
        let writes = writes::of_ops(txn.ops, version, before)?;
        self.last = version;
        for (key, value) in writes {
            self.writes.push((version, key.clone(), value.is_some()));
            self.slots.insert(key, Slot { version, value });
        }
        Ok(version)
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
    }

    fn tree() -> Fixed {
        Fixed(BTreeMap::from([("old".into(), (3, "x".into()))]))
    }

    #[test]
    fn the_second_of_two_equal_claims_in_a_batch_loses_without_a_trace() {
        let (tree, recent) = (tree(), Recent::after(5));
        let mut batch = Batch::after(5);
        let claim = Txn::new().expect_version("old", 3).put("old", "mine");
        assert!(matches!(batch.decide(claim.clone(), &recent, &tree), Ok(6)));
        assert!(matches!(batch.decide(claim.put("side", "x"), &recent, &tree), Err(Refusal::ConflictInBatch)));
        assert!(!batch.slots().contains_key(&b"side"[..]));
        assert_eq!(batch.last(), 6);
    }

    #[test]
    fn an_insert_into_a_range_read_earlier_in_the_batch_is_a_conflict() {
        let (tree, recent) = (tree(), Recent::after(5));
        let mut batch = Batch::after(5);
        let insert = |key: &'static str| Txn::new().expect_range(Range::prefix("q/"), 5).put(key, "x");
        assert!(matches!(batch.decide(insert("q/1"), &recent, &tree), Ok(6)));
        assert!(matches!(batch.decide(insert("q/2"), &recent, &tree), Err(Refusal::ConflictInBatch)));
        let outside = Txn::new().expect_range(Range::prefix("r/"), 5).put("r/1", "x");
        assert!(matches!(batch.decide(outside, &recent, &tree), Ok(7)));
    }

    #[test]
    fn a_recent_delete_hides_what_the_tree_says() {
        let tree = tree();
        let mut recent = Recent::after(5);
        recent.push(6, b"old", false);
        let mut batch = Batch::after(6);
        assert!(matches!(batch.decide(Txn::new().expect_version("old", 3), &recent, &tree), Err(Refusal::Conflict)));
        assert!(batch.decide(Txn::new().expect_absent("old"), &recent, &tree).is_ok());
    }

    #[test]
    fn a_range_beyond_memory_is_too_old_and_a_point_is_not() {
        let (tree, recent) = (tree(), Recent::after(5));
        let mut batch = Batch::after(5);
        let range = Txn::new().expect_range(Range::prefix("q/"), 4);
        assert!(matches!(batch.decide(range, &recent, &tree), Err(Refusal::Refused(Error::TooOld))));
        assert!(batch.decide(Txn::new().expect_version("old", 3), &recent, &tree).is_ok());
    }
}
