//! The writes of one change of an item: the item, its counters, its entries in indexes and its records in the table's stream
//! and history, in one transaction with whatever else the call does.
//!
//! Invariants
//!   1. `Shared::write_item` is the only place that writes an item.
//!   2. The commit happens only if the table's record and the item are still as they were read.
//!   3. While an index is being filled, an entry of the item as it was is there or not; the commit expects it as it was
//!      found, so that the index's counters are exact.

use store::{Entry, Txn};

use super::super::capacity::Units;
use super::super::error::Result;
use super::super::index::{self, IndexChange, State};
use super::super::stream::{self, Stream};
use super::super::table::ItemKey;
use super::super::value::{Item, item_size};
use super::super::{history, item, keys, ttl};
use super::{Found, Shared};

/// A change of one item that was decided on.
pub(in super::super) struct ItemWrite<'a> {
    found: &'a Found,
    key: &'a ItemKey,
    entry: Option<&'a Entry>,
    before: Option<&'a Item>,
    after: Option<&'a Item>,
    /// What it changes in indexes.
    changes: Vec<IndexChange<'a>>,
    by_expiry: bool,
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
        let changes = index::changes(&found.table, before, after);
        Self { found, key, entry, before, after, changes, by_expiry: false }
    }

    /// What it uses.
    pub(in super::super) fn units(&self) -> Units {
        Units::of_write(self.before, self.after, &self.changes)
    }

    /// The same, not by a caller: the table removes the item, since its time has come. The stream says so.
    pub(in super::super) fn by_expiry(mut self) -> Self {
        self.by_expiry = true;
        self
    }
}

impl Shared {
    /// Appends to `txn` all that the change writes, and what it expects. Where there is neither an item before nor after,
    /// these are only the expectations. One transaction may hold many of them, each of another item.
    pub(in super::super) async fn write_item(&self, txn: Txn, write: ItemWrite<'_>) -> Result<Txn> {
        let ItemWrite { found, key, entry, before, after, changes, by_expiry } = write;
        let mut txn = found.expect(txn).expect_unchanged(key.store.clone(), entry);
        txn = match (before, after) {
            (None, None) => return Ok(txn),
            (_, Some(after)) => txn.put(key.store.clone(), item::encode(after)),
            (Some(_), None) => txn.delete(key.store.clone()),
        };
        let size = |item: Option<&Item>| item.map(item_size);
        let generation = found.table.generation;
        txn = count(txn, keys::count(generation), keys::size(generation), size(before), size(after));
        for change in changes {
            txn = self.write_entry(txn, generation, change).await?;
        }
        if let Some(history) = &found.table.history {
            txn = history::put(txn, history, self.clock.now_ms(), &key.store, entry);
        }
        if let Some(Stream { number, view, .. }) = found.table.stream.as_ref().filter(|stream| stream.enabled)
            && let Some(record) = stream::change(*view, by_expiry, self.clock.now_ms(), &key.attributes, before, after)
        {
            txn = put_record(txn, *number, record);
        }
        Ok(ttl::mark(txn, found.table.ttl.as_ref(), &key.store, before, after))
    }

    /// The writes to one index.
    async fn write_entry(&self, mut txn: Txn, generation: u64, change: IndexChange<'_>) -> Result<Txn> {
        let IndexChange { index, mut before, after } = change;
        if index.state == State::Creating
            && let Some(old) = &before
        {
            let found = self.store.get(&old.key).await?;
            txn = txn.expect_unchanged(old.key.clone(), found.as_ref());
            if found.is_none() {
                before = None;
            }
        }
        let (count_key, size_key) =
            (keys::index_count(generation, index.number), keys::index_size(generation, index.number));
        let size = |entry: &Option<index::IndexEntry>| entry.as_ref().map(|entry| entry.size);
        txn = count(txn, count_key, size_key, size(&before), size(&after));
        if let Some(old) = before.filter(|old| after.as_ref().is_none_or(|new| new.key != old.key)) {
            txn = txn.delete(old.key);
        }
        Ok(match after {
            Some(new) => txn.put(new.key, new.value),
            None => txn,
        })
    }
}

/// Adds a record to a stream. Its place among the writes tells it from others of the same commit, in their order.
pub(super) fn put_record(txn: Txn, stream: u64, record: Vec<u8>) -> Txn {
    let ordinal = u32::try_from(txn.ops.len()).unwrap_or(u32::MAX);
    txn.put_numbered(keys::records(stream), ordinal.to_be_bytes().to_vec(), record)
}

/// Brings a pair of counters up to date, where something of one size was and something of another is.
fn count(
    txn: Txn,
    count_key: bytes::Bytes,
    size_key: bytes::Bytes,
    before: Option<usize>,
    after: Option<usize>,
) -> Txn {
    let bytes = |size: Option<usize>| size.map_or(0, |size| i64::try_from(size).unwrap_or(i64::MAX));
    let count = i64::from(after.is_some()) - i64::from(before.is_some());
    let bytes = bytes(after) - bytes(before);
    let txn = if count == 0 { txn } else { txn.add(count_key, count) };
    if bytes == 0 { txn } else { txn.add(size_key, bytes) }
}
