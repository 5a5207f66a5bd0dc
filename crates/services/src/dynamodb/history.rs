//! What a table's items were before they changed: kept while the table can be restored to points in time, and while it is
//! backed up.
//!
//! Pure. Which changes are recorded is decided in `ops::write`; what is made of records, in `jobs`; when they go, in
//! `archive`.
//!
//! | record  | bytes                                                                        |
//! |---------|------------------------------------------------------------------------------|
//! | version | `01`                                                                         |
//! | flags   | 1: with the item before; without it, there was none                          |
//! | time    | milliseconds since the epoch, 8 bytes, big-endian                            |
//! | key     | length, 2 bytes, big-endian, then the item's key without its generation      |
//! | item    | as `item` has it                                                             |
//!
//! Invariants
//!   1. While a table has a history, every change of an item has its record in its own commit.
//!   2. So what a table held at an earlier commit is what it holds now, with the records since then undone, last first:
//!      whoever copies its items page by page, and then undoes what came meanwhile, has one state of it.
//!   3. A point in time is a border between two commits: what one commit did is undone whole or not at all.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use store::{Entry, Txn};

use super::keys;
use super::table::{Table, seconds};

/// How long a table can be restored to points in time, in days, at most and where nothing else is said.
pub(super) const DAYS_MAX: u64 = 35;
pub(super) const DAY_MS: u64 = 24 * 3_600_000;
/// Records stay this much longer than their table can be restored, since nodes have clocks of their own.
const SLACK_MS: u64 = 10 * 60_000;

const VERSION: u8 = 1;
const WITH_ITEM: u8 = 1;

/// The history of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct History {
    /// Tells its records from those of all others.
    pub(super) number: u64,
}

/// Recovery to points in time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Recovery {
    /// From when on every change is recorded.
    pub(super) since_ms: u64,
    pub(super) days: u64,
}

/// Somebody who copies the table and needs its history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hold {
    /// The number of the job.
    pub(super) job: u64,
    /// The oldest record that it needs is younger than this.
    pub(super) from_ms: u64,
    /// Whether it makes a backup; else another table.
    pub(super) backs_up: bool,
}

/// Up to where records are undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Cut {
    /// Those of later commits.
    AfterCommit(u64),
    /// Those of commits after this time.
    AfterMs(u64),
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Before {
    pub(super) at_ms: u64,
    /// The item's key without its generation.
    pub(super) key: Bytes,
    /// The stored item; nothing if there was none.
    pub(super) item: Option<Bytes>,
}

impl Recovery {
    /// The earliest time that the table can be restored to.
    pub(super) fn earliest_ms(&self, now_ms: u64) -> u64 {
        self.since_ms.max(now_ms.saturating_sub(self.days * DAY_MS))
    }

    /// The latest one.
    pub(super) fn latest_ms(&self, now_ms: u64) -> u64 {
        self.since_ms.max(now_ms)
    }

    /// The time that one in a request means, if the table can be restored to it. Clients send whole seconds, so the second
    /// in which the earliest time lies means that time.
    pub(super) fn restorable_ms(&self, at_ms: u64, now_ms: u64) -> Option<u64> {
        let earliest_ms = self.earliest_ms(now_ms);
        let range = whole_second(earliest_ms)..=self.latest_ms(now_ms);
        range.contains(&at_ms).then_some(at_ms.max(earliest_ms))
    }
}

fn whole_second(ms: u64) -> u64 {
    ms / 1_000 * 1_000
}

/// Up to which time the records of a table have become useless, if they do by time.
pub(super) fn useless_before_ms(table: &Table, now_ms: u64) -> Option<u64> {
    let recovery = table.recovery.as_ref()?;
    let border_ms = recovery.earliest_ms(now_ms).saturating_sub(SLACK_MS);
    Some(table.holds.iter().map(|hold| hold.from_ms).fold(border_ms, u64::min))
}

/// Whether a table needs a history.
pub(super) fn is_needed(table: &Table) -> bool {
    table.recovery.is_some() || !table.holds.is_empty()
}

/// `ContinuousBackupsDescription` of a table.
pub(super) fn describe(table: &Table, now_ms: u64) -> Json {
    let recovery = match &table.recovery {
        None => json!({ "PointInTimeRecoveryStatus": "DISABLED" }),
        Some(recovery) => json!({
            "PointInTimeRecoveryStatus": "ENABLED",
            "RecoveryPeriodInDays": recovery.days,
            "EarliestRestorableDateTime": seconds(whole_second(recovery.earliest_ms(now_ms))),
            "LatestRestorableDateTime": seconds(recovery.latest_ms(now_ms)),
        }),
    };
    json!({ "ContinuousBackupsStatus": "ENABLED", "PointInTimeRecoveryDescription": recovery })
}

/// Appends the record of a change of the item at `key`, which is stored as `before`.
pub(super) fn put(txn: Txn, history: &History, at_ms: u64, key: &[u8], before: Option<&Entry>) -> Txn {
    let ordinal = u32::try_from(txn.ops.len()).unwrap_or(u32::MAX);
    let record = encode(at_ms, keys::item_rest(key), before.map(|entry| &entry.value[..]));
    txn.put_numbered(keys::history(history.number), ordinal.to_be_bytes().to_vec(), record)
}

fn encode(at_ms: u64, key: &[u8], item: Option<&[u8]>) -> Vec<u8> {
    let mut out = vec![VERSION, if item.is_some() { WITH_ITEM } else { 0 }];
    out.extend_from_slice(&at_ms.to_be_bytes());
    // Keys of the store have at most 4,096 bytes.
    out.extend_from_slice(&u16::try_from(key.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend_from_slice(key);
    out.extend_from_slice(item.unwrap_or_default());
    out
}

/// Reads a record; nothing if the bytes are not one.
pub(super) fn decode(bytes: &Bytes) -> Option<Before> {
    let (&[version, flags], rest) = bytes.split_first_chunk()?;
    let (at_ms, rest) = rest.split_first_chunk()?;
    let (length, rest) = rest.split_first_chunk()?;
    let length = usize::from(u16::from_be_bytes(*length));
    if version != VERSION || flags & !WITH_ITEM != 0 || rest.len() < length {
        return None;
    }
    let start = bytes.len() - rest.len();
    let item = bytes.slice(start + length..);
    if flags == 0 && !item.is_empty() {
        return None;
    }
    Some(Before {
        at_ms: u64::from_be_bytes(*at_ms),
        key: bytes.slice(start..start + length),
        item: (flags == WITH_ITEM).then_some(item),
    })
}

/// When a record was written.
pub(super) fn time_of(bytes: &[u8]) -> Option<u64> {
    bytes.get(2..10).and_then(|time| time.try_into().ok()).map(u64::from_be_bytes)
}

impl Cut {
    /// Whether the record of `commit` is undone, where the one that was undone last was of commit `last`.
    pub(super) fn undoes(self, commit: u64, at_ms: u64, last: Option<u64>) -> bool {
        match self {
            Self::AfterCommit(border) => commit > border,
            Self::AfterMs(border_ms) => at_ms > border_ms || last == Some(commit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::KeyAttribute;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_record_is_read_back(at_ms: u64, key: Vec<u8>, item: Option<Vec<u8>>) {
            let bytes = Bytes::from(encode(at_ms, &key, item.as_deref()));
            let before = Before { at_ms, key: key.into(), item: item.map(Bytes::from) };
            prop_assert_eq!(decode(&bytes), Some(before));
            prop_assert_eq!(time_of(&bytes), Some(at_ms));
        }

        #[test]
        fn any_bytes_are_a_record_or_nothing(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = decode(&Bytes::from(bytes));
        }
    }

    fn table(recovery: Option<Recovery>) -> Table {
        Table { recovery, ..Table::bare(KeyAttribute { name: "id".into(), kind: "S".into() }) }
    }

    #[test]
    fn records_stay_as_long_as_somebody_may_need_them() {
        let now_ms = 100 * DAY_MS;
        assert_eq!(useless_before_ms(&table(None), now_ms), None);
        let mut table = table(Some(Recovery { since_ms: 7, days: 35 }));
        assert_eq!(useless_before_ms(&table, now_ms), Some(65 * DAY_MS - SLACK_MS));
        assert_eq!(table.recovery.as_ref().unwrap().earliest_ms(now_ms), 65 * DAY_MS);
        assert_eq!(table.recovery.as_ref().unwrap().earliest_ms(DAY_MS), 7);
        table.holds.push(Hold { job: 1, from_ms: 9 * DAY_MS, backs_up: false });
        assert_eq!(useless_before_ms(&table, now_ms), Some(9 * DAY_MS));
        assert!(is_needed(&table));
    }

    #[test]
    fn the_earliest_time_that_is_told_can_be_restored_to() {
        let recovery = Recovery { since_ms: 5_481, days: 35 };
        let earliest = |recovery: &Recovery, now_ms| {
            let described = describe(&table(Some(recovery.clone())), now_ms);
            described["PointInTimeRecoveryDescription"]["EarliestRestorableDateTime"].as_f64().unwrap()
        };
        assert!((earliest(&recovery, 5_481) - 5.0).abs() < f64::EPSILON);
        assert_eq!(recovery.restorable_ms(5_000, 5_481), Some(5_481));
        assert_eq!(recovery.restorable_ms(6_000, 7_000), Some(6_000));
        assert_eq!((recovery.restorable_ms(4_999, 9_000), recovery.restorable_ms(9_001, 9_000)), (None, None));
    }

    #[test]
    fn a_commit_is_undone_whole() {
        let cut = Cut::AfterMs(50);
        assert!(cut.undoes(9, 51, None) && !cut.undoes(9, 50, None) && !cut.undoes(8, 50, Some(9)));
        assert!(cut.undoes(9, 50, Some(9)), "the other part of the same commit was undone");
        assert!(Cut::AfterCommit(8).undoes(9, 0, None) && !Cut::AfterCommit(8).undoes(8, 99, Some(8)));
    }
}
