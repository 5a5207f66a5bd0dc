//! The writes of one change of an item: the item and its counters, in one transaction with whatever else the call
//! does.
//!
//! Invariants
//!   1. `Shared::write_item` is the only place that writes an item.
//!   2. The commit happens only if the table's record and the item are still as they were read.

use store::{Entry, Txn};

use super::super::error::Result;
use super::super::table::ItemKey;
use super::super::value::{Item, item_size};
use super::super::{item, keys};
use super::{Found, Shared};

/// A change of one item that was decided on.
pub(in super::super) struct ItemWrite<'a> {
    found: &'a Found,
    key: &'a ItemKey,
    entry: Option<&'a Entry>,
    before: Option<&'a Item>,
    after: Option<&'a Item>,
}

impl<'a> ItemWrite<'a> {
    /// Makes of the item at `key`, which was read as `entry` and decoded to `before`, what `after` says; nothing removes
    /// it.
    pub(in super::super) fn new(
        found: &'a Found,
        key: &'a ItemKey,
        entry: Option<&'a Entry>,
        before: Option<&'a Item>,
        after: Option<&'a Item>,
    ) -> Self {
        Self { found, key, entry, before, after }
    }
}

impl Shared {
    /// Appends to `txn` all that the change writes, and what it expects. Where there is neither an item before nor after,
    /// these are only the expectations. One transaction may hold many of them, each of another item.
    pub(in super::super) async fn write_item(&self, txn: Txn, write: &ItemWrite<'_>) -> Result<Txn> {
        let ItemWrite { found, key, entry, before, after } = *write;
        let txn = found.expect(txn).expect_unchanged(key.store.clone(), entry);
        let txn = match (before, after) {
            (None, None) => return Ok(txn),
            (_, Some(after)) => txn.put(key.store.clone(), item::encode(after)),
            (Some(_), None) => txn.delete(key.store.clone()),
        };
        Ok(count(txn, found.table.generation, before, after))
    }
}

/// Brings the counters up to date.
fn count(txn: Txn, generation: u64, before: Option<&Item>, after: Option<&Item>) -> Txn {
    let size = |item: Option<&Item>| item.map_or(0, |item| i64::try_from(item_size(item)).unwrap_or(i64::MAX));
    let count = i64::from(after.is_some()) - i64::from(before.is_some());
    let bytes = size(after) - size(before);
    let txn = if count == 0 { txn } else { txn.add(keys::count(generation), count) };
    if bytes == 0 { txn } else { txn.add(keys::size(generation), bytes) }
}
