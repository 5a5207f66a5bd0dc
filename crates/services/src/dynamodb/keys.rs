//! The key layout of tables; nothing else builds a key of this service.
//!
//! | tag | then                                                        | value                                       |
//! |-----|-------------------------------------------------------------|---------------------------------------------|
//! | `t` | account, region, table name                                 | the table's record, JSON                    |
//! | `i` | generation, hash, length of partition key, partition key, sort key | an item                              |
//! | `n` | generation                                                  | count of items, little-endian `i64`         |
//! | `b` | generation                                                  | bytes of items, little-endian `i64`         |
//! | `g` | generation                                                  | empty: the items wait for the worker to remove them |
//! | `x` | reserved: generation, index, entries of secondary indexes   |                                             |
//! | `s` | reserved: stream, commit number, records of streams         |                                             |
//!
//! Invariants
//!   1. A generation is a random number that a table gets when it is created; a table of the same name created later
//!      has another one, so it never sees what the earlier one held.
//!   2. Hash and length of the partition key stand before it: partitions spread evenly over the hash range (parallel
//!      scans share it out), and no partition's keys begin with another's.
//!   3. Within a partition, keys sort as the sort keys do: strings and binaries by their bytes, numbers by value.

use bytes::Bytes;
use sha2::{Digest, Sha256};
use store::Range;
use store::keys::Key;

use super::value::AttributeValue;

const TABLE: u8 = b't';
const ITEM: u8 = b'i';
const COUNT: u8 = b'n';
const SIZE: u8 = b'b';
const GARBAGE: u8 = b'g';

fn key(tag: u8) -> Key {
    Key::new(model::prefixes::DYNAMODB.byte).tag(tag)
}

/// A table's record.
pub(super) fn table(account: &str, region: &str, name: &str) -> Bytes {
    key(TABLE).text(account).text(region).text(name).done()
}

/// All table records of an account in a region, by name.
pub(super) fn tables(account: &str, region: &str) -> Range {
    Range::prefix(key(TABLE).text(account).text(region).done())
}

/// How many items a generation has.
pub(super) fn count(generation: u64) -> Bytes {
    key(COUNT).number(generation).done()
}

/// How many bytes a generation's items have.
pub(super) fn size(generation: u64) -> Bytes {
    key(SIZE).number(generation).done()
}

/// Marks a generation whose items are to be removed.
pub(super) fn garbage(generation: u64) -> Bytes {
    key(GARBAGE).number(generation).done()
}

/// What all such marks begin with.
pub(super) fn garbage_prefix() -> Bytes {
    key(GARBAGE).done()
}

/// All such marks.
pub(super) fn all_garbage() -> Range {
    Range::prefix(garbage_prefix())
}

/// The generation that a mark names.
pub(super) fn garbage_generation(mark: &[u8]) -> Option<u64> {
    let mut parts = store::keys::Parts::of(mark);
    parts.byte()?;
    parts.byte()?;
    parts.number()
}

/// Bytes of a key attribute's value; nothing for types that cannot be keys.
pub(super) fn key_bytes(value: &AttributeValue) -> Option<Vec<u8>> {
    match value {
        AttributeValue::S(text) => Some(text.as_bytes().to_vec()),
        AttributeValue::B(bytes) => Some(bytes.clone()),
        AttributeValue::N(number) => {
            let mut out = Vec::with_capacity(24);
            number.encode(&mut out);
            Some(out)
        }
        _ => None,
    }
}

/// What all items of a partition begin with.
pub(super) fn partition(generation: u64, partition_key: &[u8]) -> Vec<u8> {
    let digest = Sha256::digest(partition_key);
    let hash = digest.iter().take(8).fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
    // Partition keys have at most 2,048 bytes.
    let length = u16::try_from(partition_key.len()).unwrap_or(u16::MAX);
    let [high, low] = length.to_be_bytes();
    key(ITEM).number(generation).number(hash).tag(high).tag(low).raw(partition_key).done().to_vec()
}

/// An item of a partition.
pub(super) fn item(partition: &[u8], sort_key: Option<&[u8]>) -> Bytes {
    let mut key = partition.to_vec();
    key.extend_from_slice(sort_key.unwrap_or_default());
    key.into()
}

/// All items of a generation.
pub(super) fn items(generation: u64) -> Range {
    Range::prefix(key(ITEM).number(generation).done())
}

/// The items of one of `segments` equal parts of the hash range.
pub(super) fn segment(generation: u64, segment: u64, segments: u64) -> Range {
    let bound = |number: u64| -> Option<Bytes> {
        let hash = (u128::from(number) << 64) / u128::from(segments.max(1));
        Some(key(ITEM).number(generation).number(u64::try_from(hash).ok()?).done())
    };
    let whole = items(generation);
    Range {
        start: bound(segment).map_or(whole.start, std::ops::Bound::Included),
        end: bound(segment + 1).map_or(whole.end, std::ops::Bound::Excluded),
        ..Range::prefix(Bytes::new())
    }
}
