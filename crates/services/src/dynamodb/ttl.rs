//! When an item's time is over: its table's expiry attribute, and the marks that `expiry` reads.
//!
//! Pure: items in, seconds and writes out.
//!
//! Invariants
//!   1. While a table's expiry is on, every item with a time has one mark, and no mark is without its item: a change of
//!      an item writes and deletes marks in its own commit, and a pass over all items does so when expiry is turned
//!      on or off.
//!   2. What is due is decided by the item, never by the mark alone.

use serde::{Deserialize, Serialize};
use store::{Entry, Txn};

use super::value::{AttributeValue, Item};
use super::{item, keys};

/// Items whose time is longer over than this are kept: five years, in seconds.
const OLDEST_S: u64 = 5 * 365 * 24 * 60 * 60;
/// Times before this second (the year 2001) were more than five years over before any table was: no mark is written for
/// them, since zero is what many write to mean "never".
const FIRST_S: u64 = 1_000_000_000;

/// How far the expiry of a table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Phase {
    /// A pass gives the items their marks.
    Enabling,
    /// Items are removed when their time is over.
    Enabled,
    /// A pass takes the marks away.
    Disabling,
}

impl Phase {
    /// `TimeToLiveStatus`
    pub(super) fn status(self) -> &'static str {
        match self {
            Self::Enabling => "ENABLING",
            Self::Enabled => "ENABLED",
            Self::Disabling => "DISABLING",
        }
    }
}

/// The expiry of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ttl {
    /// The attribute that says when an item's time is over, in seconds since the epoch.
    pub(super) attribute: String,
    pub(super) phase: Phase,
}

impl Ttl {
    /// The second at which the item's time is over, if it has one.
    pub(super) fn due_s(&self, item: &Item) -> Option<u64> {
        due_s(item, &self.attribute)
    }

    /// Whether an item marked for `second` is to be removed at `now_s`.
    pub(super) fn is_over(&self, item: &Item, second: u64, now_s: u64) -> bool {
        let recent = second.saturating_add(OLDEST_S) >= now_s;
        self.phase != Phase::Disabling && recent && second < now_s && self.due_s(item) == Some(second)
    }
}

/// The second at which the time of an item with that attribute is over.
pub(super) fn due_s(item: &Item, attribute: &str) -> Option<u64> {
    match item.get(attribute) {
        Some(AttributeValue::N(number)) => number.ceil().filter(|second| *second >= FIRST_S),
        _ => None,
    }
}

/// Appends what a change of the item at `key` does to its mark.
pub(super) fn mark(txn: Txn, ttl: Option<&Ttl>, key: &[u8], before: Option<&Item>, after: Option<&Item>) -> Txn {
    let Some(ttl) = ttl else { return txn };
    let old = before.and_then(|item| ttl.due_s(item));
    let new = after.filter(|_| ttl.phase != Phase::Disabling).and_then(|item| ttl.due_s(item));
    if old == new {
        return txn;
    }
    let txn = old.map_or(txn.clone(), |second| txn.delete(keys::due(second, key)));
    match new {
        Some(second) => txn.put(keys::due(second, key), Vec::new()),
        None => txn,
    }
}

/// Appends the removal of the mark of a stored item whose table is gone; `attribute` is that table's, or empty.
pub(super) fn unmark(txn: Txn, attribute: &[u8], entry: &Entry) -> Txn {
    let due = || due_s(&item::decode(&entry.value)?, std::str::from_utf8(attribute).ok()?);
    match due().filter(|_| !attribute.is_empty()) {
        Some(second) => txn.delete(keys::due(second, &entry.key)),
        None => txn,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dynamodb::number::Number;

    fn item(at: &str) -> Item {
        Item::from([("at".into(), AttributeValue::N(Number::parse(at).unwrap()))])
    }

    fn ttl(phase: Phase) -> Ttl {
        Ttl { attribute: "at".into(), phase }
    }

    #[test]
    fn times_are_numbers_of_seconds_and_fractions_count_whole() {
        let due = |at: &str| due_s(&item(at), "at");
        assert_eq!(due("1700000000"), Some(1_700_000_000));
        assert_eq!(due("1700000000.0000001"), Some(1_700_000_001));
        assert_eq!(due("1.7E9"), Some(1_700_000_000));
        assert_eq!(due("17E8"), Some(1_700_000_000));
        assert_eq!(due("18446744073709551615"), Some(u64::MAX));
        for never in ["0", "-1", "999999999", "18446744073709551616", "1E100", "1E-100", "-1E125"] {
            assert_eq!(due(never), None, "{never}");
        }
        let text = Item::from([("at".into(), AttributeValue::S("1700000000".into()))]);
        assert_eq!((due_s(&text, "at"), due_s(&item("1700000000"), "other")), (None, None));
    }

    #[test]
    fn an_item_is_over_after_its_second_and_for_five_years() {
        let (at, enabled) = (1_700_000_000, ttl(Phase::Enabled));
        let over = |now_s: u64| enabled.is_over(&item("1700000000"), at, now_s);
        assert!(!over(at) && over(at + 1) && over(at + OLDEST_S) && !over(at + OLDEST_S + 1));
        assert!(!enabled.is_over(&item("1700000009"), at, at + 20));
        assert!(!ttl(Phase::Disabling).is_over(&item("1700000000"), at, at + 20));
    }

    #[test]
    fn a_change_moves_the_mark_only_if_the_time_changed() {
        let (old, new) = (item("1700000000"), item("1800000000"));
        let ops = |phase, before, after| mark(Txn::new(), Some(&ttl(phase)), b"ik", before, after).ops.len();
        assert_eq!(ops(Phase::Enabled, None, Some(&new)), 1);
        assert_eq!(ops(Phase::Enabled, Some(&old), Some(&new)), 2);
        assert_eq!(ops(Phase::Enabled, Some(&old), Some(&old)), 0);
        assert_eq!(ops(Phase::Enabled, Some(&old), None), 1);
        assert_eq!(ops(Phase::Disabling, Some(&old), Some(&new)), 1);
        assert_eq!(mark(Txn::new(), None, b"ik", Some(&old), None).ops.len(), 0);
    }
}
