//! What a query or a scan goes along: a table, or one of its indexes.
//!
//! Pure: names of attributes and values in, keys and ranges of the store out.
//!
//! Invariant: within a partition, keys sort as the sort keys do, so every condition on a sort key is one range. In a table
//! a sort key is one key of the store; in an index it is all keys that begin with it, as several items may have it.

use std::ops::Bound;

use bytes::Bytes;
use store::Range;
use store::contract::after_prefix;

use super::error::{Error, Result, invalid};
use super::expression::condition::Comparator;
use super::expression::key_condition::KeyTest;
use super::index::{Index, State};
use super::keys;
use super::table::{KeyAttribute, Table};
use super::value::{AttributeValue, Item};

/// A way through the items of a table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Access<'a> {
    pub(super) table: &'a Table,
    /// None: the table itself.
    pub(super) index: Option<&'a Index>,
}

impl<'a> Access<'a> {
    /// Along the index of that name, or the table itself.
    pub(super) fn new(table: &'a Table, index: Option<&str>, consistent: bool) -> Result<Self> {
        let Some(name) = index else {
            return Ok(Self { table, index: None });
        };
        let Some(index) = table.index(name) else {
            return invalid(format!("The table does not have the specified index: {name}"));
        };
        if !index.local && consistent {
            return invalid("Consistent reads are not supported on global secondary indexes");
        }
        if index.state == State::Creating {
            return invalid(format!("Cannot read from backfilling global secondary index: {name}"));
        }
        Ok(Self { table, index: Some(index) })
    }

    /// The attribute that names a partition.
    pub(super) fn hash(&self) -> &'a KeyAttribute {
        self.index.map_or(&self.table.hash, |index| &index.hash)
    }

    /// The attribute that a partition is sorted by.
    pub(super) fn range(&self) -> Option<&'a KeyAttribute> {
        self.index.map_or(self.table.range.as_ref(), |index| index.range.as_ref())
    }

    /// Whether `name` is one of these two.
    pub(super) fn is_key(&self, name: &str) -> bool {
        self.hash().name == name || self.range().is_some_and(|range| range.name == name)
    }

    /// The attributes that say where a page ended: its own keys, then those of the table.
    fn position_attributes(&self) -> Vec<&'a KeyAttribute> {
        let mut all: Vec<&KeyAttribute> = std::iter::once(self.hash()).chain(self.range()).collect();
        for key in self.table.key_attributes() {
            if !all.iter().any(|one| one.name == key.name) {
                all.push(key);
            }
        }
        all
    }

    /// `LastEvaluatedKey` after an item.
    pub(super) fn position(&self, item: &Item) -> Item {
        let keys = self.position_attributes().into_iter();
        keys.filter_map(|key| Some((key.name.clone(), item.get(&key.name)?.clone()))).collect()
    }

    /// Where the `ExclusiveStartKey` of a scan lies: of a table, it is told what is wrong with a key of too few parts.
    pub(super) fn start_of_scan(&self, key: &Item) -> Result<Bytes> {
        if self.index.is_none() && key.len() != self.position_attributes().len() {
            return invalid("The provided starting key is invalid: The provided key element does not match the schema");
        }
        self.start(key)
    }

    /// Where an `ExclusiveStartKey` lies.
    pub(super) fn start(&self, key: &Item) -> Result<Bytes> {
        if key.len() != self.position_attributes().len() {
            return invalid("The provided starting key is invalid");
        }
        let table_key = self.table.key_of(key);
        let checked = self.table.key_of_request(&table_key);
        let checked = match checked {
            Ok(found) => found,
            Err(error) => return invalid(format!("The provided starting key is invalid: {error}")),
        };
        let Some(index) = self.index else {
            return Ok(checked.store);
        };
        match index.entry(self.table, key) {
            Some(entry) => Ok(entry.key),
            None => invalid("The provided starting key is invalid: The provided key element does not match the schema"),
        }
    }

    /// All that a scan reads, or one of equal parts of it: which, and of how many.
    pub(super) fn whole(&self, segment: Option<(u64, u64)>) -> Range {
        let generation = self.table.generation;
        match (self.index, segment) {
            (None, None) => keys::items(generation),
            (None, Some((segment, of))) => keys::segment(generation, segment, of),
            (Some(index), None) => keys::entries(generation, index.number),
            (Some(index), Some((segment, of))) => keys::entries_segment(generation, index.number, segment, of),
        }
    }

    /// What all keys of a partition begin with.
    fn partition(&self, value: &AttributeValue) -> Result<Vec<u8>> {
        let bytes = bytes_of(value)?;
        Ok(match self.index {
            None => keys::partition(self.table.generation, &bytes),
            Some(index) => keys::entry_partition(self.table.generation, index.number, &bytes),
        })
    }

    /// The keys of one sort key in a partition.
    fn at(&self, partition: &[u8], sort: &AttributeValue) -> Result<Range> {
        let bytes = bytes_of(sort)?;
        if self.index.is_some() {
            return Ok(Range::prefix(keys::entry_sort(partition, Some(&bytes))));
        }
        let key = keys::item(partition, Some(&bytes));
        let (start, end) = (Bound::Included(key.clone()), Bound::Included(key));
        Ok(Range { start, end, ..Range::prefix(Bytes::new()) })
    }

    /// The keys of a partition, of all its sort keys or of those that pass a test.
    pub(super) fn keys(&self, hash: &AttributeValue, test: Option<&KeyTest>) -> Result<Range> {
        let partition = self.partition(hash)?;
        let whole = Range::prefix(partition.clone());
        let at = |value: &AttributeValue| self.at(&partition, value);
        let (start, end) = match test {
            None => return Ok(whole),
            Some(KeyTest::NotIndexable) => return invalid("Query key condition not supported"),
            Some(KeyTest::Compare(Comparator::Less, value)) => (whole.start, before(at(value)?.start)),
            Some(KeyTest::Compare(Comparator::LessOrEqual, value)) => (whole.start, at(value)?.end),
            Some(KeyTest::Compare(Comparator::Greater, value)) => (after(at(value)?.end), whole.end),
            Some(KeyTest::Compare(Comparator::GreaterOrEqual, value)) => (at(value)?.start, whole.end),
            Some(KeyTest::Compare(_, value)) => return at(value),
            Some(KeyTest::Between(low, high)) => (at(low)?.start, at(high)?.end),
            Some(KeyTest::BeginsWith(start)) => {
                let bytes = bytes_of(start)?;
                let start = match self.index {
                    None => keys::item(&partition, Some(&bytes)),
                    Some(_) => keys::entry_sort_start(&partition, &bytes),
                };
                let end = after_prefix(&start).map_or(whole.end, Bound::Excluded);
                (Bound::Included(start), end)
            }
        };
        Ok(Range { start, end, ..Range::prefix(Bytes::new()) })
    }
}

/// Up to where the keys go that lie before a range that starts so.
fn before(start: Bound<Bytes>) -> Bound<Bytes> {
    match start {
        Bound::Included(key) => Bound::Excluded(key),
        other => other,
    }
}

/// From where the keys go that lie after a range that ends so.
fn after(end: Bound<Bytes>) -> Bound<Bytes> {
    match end {
        Bound::Included(key) => Bound::Excluded(key),
        Bound::Excluded(key) => Bound::Included(key),
        Bound::Unbounded => Bound::Unbounded,
    }
}

fn bytes_of(value: &AttributeValue) -> Result<Vec<u8>> {
    keys::key_bytes(value).ok_or_else(|| Error::validation("The provided key element does not match the schema"))
}
