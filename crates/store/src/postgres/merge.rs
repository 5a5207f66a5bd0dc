//! The quick way of a batch: decided before the lock is had, and checked under it by the server.
//!
//! Most batches win as they are: what their transactions expect holds. So the node supposes that it does (`Supposed`),
//! lets the common code decide by that, and sends what comes of it in one statement, with what it was decided by. The
//! function `merge` of the database takes the lock, compares, and writes only if all of it holds; versions, which nobody
//! knows before, are counted on from the last commit there. Else nothing is written, and the batch goes the long way,
//! which reads under the lock.
//!
//! Invariants
//!   1. Whatever a decision rests on is among what is compared: the version of each key that is expected or added to, and
//!      that nothing was written in each range since it was read. Refusals are never told from here, but for those by
//!      an earlier transaction of the same batch.
//!   2. What depends on more than that (claims) does not come here.
//!   3. No number that a commit is supposed to get is that of a commit there is: else what a batch writes itself could be
//!      taken for what a transaction has read.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;

use bytes::Bytes;

use crate::commit::decide::{Batch, Refusal, Tree};
use crate::commit::job::{Done, Job, Work};
use crate::commit::recent::Recent;
use crate::contract::{Expect, Op, Page, Range, Version};

/// What `merge` takes for "there is no such entry" and "there is one".
const ABSENT: i64 = 0;
const PRESENT: i64 = -1;
/// The commit that a batch is supposed to follow: beyond all that a store will ever have.
const BASE: Version = 1 << 62;

/// A counter as it was last seen: nothing where there is none.
pub(super) type Counter = Option<(Version, Bytes)>;

/// What a batch supposes of the store.
#[derive(Debug, Default)]
pub(super) struct Supposed {
    /// By key: a version, `ABSENT` or `PRESENT`.
    points: HashMap<Bytes, i64>,
    ranges: Vec<(Range, Version)>,
    /// Keys that are added to.
    added: HashMap<Bytes, Counter>,
    /// Where the number of the commit begins in the key that it makes, by prefix and suffix.
    numbered: bool,
}

impl Supposed {
    /// What the jobs expect; nothing if they contradict each other, or there are claims among them.
    pub(super) fn of(jobs: &[Job]) -> Option<Self> {
        let mut supposed = Self::default();
        for job in jobs {
            let Work::Commit(txn) = &job.work else { return None };
            for expect in &txn.expects {
                match expect {
                    Expect::Version(key, version) => supposed.point(key, i64::try_from(*version).ok()?)?,
                    Expect::Absent(key) => supposed.point(key, ABSENT)?,
                    Expect::Present(key) => supposed.point(key, PRESENT)?,
                    Expect::RangeUnchanged(range, version) => supposed.ranges.push((range.clone(), *version)),
                }
            }
            for op in &txn.ops {
                match op {
                    Op::Add(key, _) => {
                        supposed.added.insert(key.clone(), None);
                    }
                    Op::PutNumbered { .. } => supposed.numbered = true,
                    _ => {}
                }
            }
        }
        Some(supposed)
    }

    fn point(&mut self, key: &Bytes, version: i64) -> Option<()> {
        match self.points.entry(key.clone()) {
            Slot::Vacant(vacant) => {
                vacant.insert(version);
            }
            Slot::Occupied(mut there) => match (*there.get(), version) {
                (same, other) if same == other => {}
                (PRESENT, version) if version != ABSENT => {
                    there.insert(version);
                }
                (known, PRESENT) if known != ABSENT => {}
                _ => return None,
            },
        }
        Some(())
    }

    /// The counters, whose values are to be told.
    pub(super) fn counters(&self) -> impl Iterator<Item = &Bytes> {
        self.added.keys()
    }

    /// Tells what a counter was; nothing comes back if that contradicts what is expected.
    pub(super) fn counter(&mut self, key: &Bytes, counter: Counter) -> Option<()> {
        let version = match &counter {
            Some((version, _)) => i64::try_from(*version).ok()?,
            None => ABSENT,
        };
        self.added.insert(key.clone(), counter);
        self.point(key, version)
    }
}

impl Tree for &Supposed {
    type Fault = ();

    fn version(&self, key: &[u8]) -> Result<Option<Version>, ()> {
        match self.points.get(key) {
            // Any version is as good as another one to whoever asks only whether there is one.
            Some(&PRESENT) => Ok(Some(0)),
            Some(&ABSENT) => Ok(None),
            Some(version) => Ok(Some(version.cast_unsigned())),
            None => Err(()),
        }
    }

    fn value(&self, key: &[u8]) -> Result<Option<Bytes>, ()> {
        Ok(self.added.get(key).ok_or(())?.as_ref().map(|(_, value)| value.clone()))
    }

    fn range(&self, _range: &Range) -> Result<Page, ()> {
        Err(())
    }
}

/// A batch that is decided if what is supposed holds.
pub(super) struct Plan {
    /// As if the commits came after `BASE`.
    pub(super) batch: Batch,
    /// The last commit that the node knew of.
    seen: Version,
    /// What comes of each job; nothing for those that lose against an earlier one.
    pub(super) outcomes: Vec<Option<Done>>,
    /// Where a number of a commit begins in a key (from 1, as the server counts).
    pub(super) places: HashMap<Bytes, i32>,
    supposed: Supposed,
}

impl Plan {
    /// Decides; nothing if something does not hold by what is known already: the long way tells why.
    pub(super) fn of(jobs: &[Job], supposed: Supposed, recent: &Recent, seen: Version, now_ms: u64) -> Option<Self> {
        let mut batch = Batch::after(BASE, now_ms);
        let (mut outcomes, mut places) = (Vec::with_capacity(jobs.len()), HashMap::new());
        for job in jobs {
            match batch.decide(job.work.clone(), recent, &&supposed) {
                Ok(done) => {
                    if supposed.numbered {
                        note_places(&job.work, &done, &mut places);
                    }
                    outcomes.push(Some(done));
                }
                Err(Refusal::ConflictInBatch) => outcomes.push(None),
                Err(_) => return None,
            }
        }
        (!batch.is_empty()).then_some(Self { batch, seen, outcomes, places, supposed })
    }

    /// Keys and what is to be found of them.
    pub(super) fn points(&self) -> (Vec<&[u8]>, Vec<i64>) {
        self.supposed.points.iter().map(|(key, version)| (&key[..], *version)).unzip()
    }

    /// Ranges, and since when nothing is to be written in each.
    pub(super) fn ranges(&self) -> (Vec<Vec<u8>>, Vec<Vec<u8>>, Vec<i64>) {
        let (mut starts, mut ends, mut since) = (Vec::new(), Vec::new(), Vec::new());
        for (range, version) in &self.supposed.ranges {
            let (start, end) = range.half_open();
            starts.push(start);
            ends.push(end);
            since.push((*version).max(self.seen).cast_signed());
        }
        (starts, ends, since)
    }

    /// Where the number is in a key; zero if there is none.
    pub(super) fn place(&self, key: &Bytes) -> i32 {
        self.places.get(key).copied().unwrap_or(0)
    }

    /// Which of the batch's commits has this number, counted from 1.
    pub(super) fn ahead(version: Version) -> i64 {
        (version - BASE).cast_signed()
    }

    /// The counters as the batch leaves them, if it was committed after `base`.
    pub(super) fn counters_after(&self, base: Version) -> Vec<(Bytes, Counter)> {
        let left = self.supposed.counters().filter_map(|key| {
            let slot = self.batch.slots().get(key)?;
            let version = slot.version - BASE + base;
            Some((key.clone(), slot.value.clone().map(|value| (version, value))))
        });
        left.collect()
    }

    /// The batch and its outcomes as they are if it was committed after `base`.
    pub(super) fn after(self, base: Version) -> (Batch, Vec<Option<Done>>) {
        let Self { batch, outcomes, places, .. } = self;
        let moved = |done: Done| match done {
            Done::Committed(version) => Done::Committed(version - BASE + base),
            other => other,
        };
        (batch.moved(base, &places), outcomes.into_iter().map(|done| done.map(moved)).collect())
    }
}

fn note_places(work: &Work, done: &Done, places: &mut HashMap<Bytes, i32>) {
    let (Work::Commit(txn), Done::Committed(version)) = (work, done) else { return };
    for op in &txn.ops {
        if let Op::PutNumbered { prefix, suffix, .. } = op {
            let key = [&prefix[..], &version.to_be_bytes(), &suffix[..]].concat();
            // Keys are short.
            places.insert(key.into(), i32::try_from(prefix.len() + 1).unwrap_or(i32::MAX));
        }
    }
}
