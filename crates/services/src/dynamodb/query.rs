//! Which keys a query reads, and how a page of a query or scan ends.
//!
//! Pure: key conditions and a table in, a range of the store's keys out.
//!
//! Invariant: within a partition, keys sort as the sort keys do (`keys`), so every key condition is one range.

use std::ops::Bound;

use bytes::Bytes;
use store::Range;
use store::contract::after_prefix;

use super::error::{Error, Result, invalid};
use super::expression::condition::Comparator;
use super::expression::key_condition::KeyTest;
use super::keys;
use super::table::{KeyAttribute, Table};
use super::value::{AttributeValue, Item};

/// Most bytes of items that one page reads.
pub(super) const PAGE_BYTES_MAX: usize = 1024 * 1024;

/// A query against a table: its partition and its sort keys.
#[derive(Debug)]
pub(super) struct Plan {
    /// Every key that fulfils the key condition, ascending.
    pub(super) range: Range,
    /// Whether the sort key was asked to equal something.
    pub(super) single: bool,
}

/// Checks the key conditions against the table and turns them into a range.
pub(super) fn plan(table: &Table, tests: &[(String, KeyTest)]) -> Result<Plan> {
    if tests.is_empty() || tests.len() > 2 {
        return invalid("Conditions can be of length 1 or 2 only");
    }
    let find = |key: &KeyAttribute| tests.iter().find(|(name, _)| *name == key.name).map(|(_, test)| test);
    if tests.len() == 2 && table.range.is_none() {
        return invalid("Query key condition not supported");
    }
    let missed =
        |key: &KeyAttribute| Error::validation(format!("Query condition missed key schema element: {}", key.name));
    let hash = find(&table.hash).ok_or_else(|| missed(&table.hash))?;
    check_test(&table.hash, hash)?;
    let KeyTest::Compare(Comparator::Equal, partition) = hash else {
        return invalid("Query key condition not supported");
    };
    let partition = keys::partition(table.generation, &bytes_of(partition)?);
    let Some(range) = table.range.as_ref().filter(|_| tests.len() == 2) else {
        return Ok(Plan { range: Range::prefix(partition), single: false });
    };
    let test = find(range).ok_or_else(|| missed(range))?;
    check_test(range, test)?;
    Ok(Plan { range: sort_range(&partition, test)?, single: matches!(test, KeyTest::Compare(Comparator::Equal, _)) })
}

fn check_test(key: &KeyAttribute, test: &KeyTest) -> Result<()> {
    for value in test.values() {
        if value.type_name() != key.kind {
            return invalid(
                "One or more parameter values were invalid: Condition parameter type does not match schema type",
            );
        }
        let empty = match value {
            AttributeValue::S(text) if text.is_empty() => "string",
            AttributeValue::B(bytes) if bytes.is_empty() => "binary",
            _ => continue,
        };
        return invalid(format!(
            "One or more parameter values are not valid. The AttributeValue for a key attribute cannot contain an \
             empty {empty} value. Key: {}",
            key.name
        ));
    }
    Ok(())
}

fn bytes_of(value: &AttributeValue) -> Result<Vec<u8>> {
    keys::key_bytes(value).ok_or_else(|| Error::validation("The provided key element does not match the schema"))
}

fn sort_range(partition: &[u8], test: &KeyTest) -> Result<Range> {
    let key = |value: &AttributeValue| Ok::<Bytes, Error>(keys::item(partition, Some(&bytes_of(value)?)));
    let whole = Range::prefix(partition.to_vec());
    let (start, end) = match test {
        KeyTest::Compare(Comparator::Less, value) => (whole.start, Bound::Excluded(key(value)?)),
        KeyTest::Compare(Comparator::LessOrEqual, value) => (whole.start, Bound::Included(key(value)?)),
        KeyTest::Compare(Comparator::Greater, value) => (Bound::Excluded(key(value)?), whole.end),
        KeyTest::Compare(Comparator::GreaterOrEqual, value) => (Bound::Included(key(value)?), whole.end),
        KeyTest::Compare(_, value) => (Bound::Included(key(value)?), Bound::Included(key(value)?)),
        KeyTest::Between(low, high) => (Bound::Included(key(low)?), Bound::Included(key(high)?)),
        KeyTest::BeginsWith(start) => {
            let start = key(start)?;
            let end = after_prefix(&start).map_or(whole.end, Bound::Excluded);
            (Bound::Included(start), end)
        }
    };
    Ok(Range { start, end, ..Range::prefix(Bytes::new()) })
}

/// The key attributes of an item: what `LastEvaluatedKey` says.
pub(super) fn key_of(table: &Table, item: &Item) -> Item {
    let pairs = table.key_attributes().filter_map(|key| item.get(&key.name).map(|v| (key.name.clone(), v.clone())));
    pairs.collect()
}

/// Where an `ExclusiveStartKey` lies.
pub(super) fn start_key(table: &Table, key: &Item) -> Result<Bytes> {
    if key.len() != table.key_attributes().count() {
        return invalid("The provided starting key is invalid");
    }
    match table.key_of_request(key) {
        Ok(key) => Ok(key.store),
        Err(error) => invalid(format!("The provided starting key is invalid: {error}")),
    }
}

/// Checks that a query can go on beyond `start`.
pub(super) fn check_start(table: &Table, plan: &Plan, tests: &[(String, KeyTest)], start: &[u8]) -> Result<()> {
    if plan.range.contains(start) {
        return Ok(());
    }
    let has_sort_test = tests.iter().any(|(name, _)| table.range.as_ref().is_some_and(|range| range.name == *name));
    if !has_sort_test {
        return invalid("The provided starting key is outside query boundaries based on provided conditions");
    }
    if plan.single {
        return invalid("The query can return at most one row and cannot be restarted");
    }
    invalid("The provided starting key does not match the range key predicate")
}
