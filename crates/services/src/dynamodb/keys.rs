//! The key layout of tables; nothing else builds a key of this service.
//!
//! | tag | then                                                        | value                                       |
//! |-----|-------------------------------------------------------------|---------------------------------------------|
//! | `t` | account, region, table name                                 | the table's record, JSON                    |
//! | `i` | generation, hash, length of partition key, partition key, sort key | an item                              |
//! | `n` | generation                                                  | count of items, little-endian `i64`         |
//! | `n` | generation, index                                           | count of an index's entries, the same       |
//! | `b` | generation                                                  | bytes of items, little-endian `i64`         |
//! | `b` | generation, index                                           | bytes of an index's entries, the same       |
//! | `g` | generation                                                  | the attribute of its expiry: its items wait for the worker to remove them |
//! | `g` | number, `x` or `v`                                          | empty: a generation's entries of indexes, or a history, wait for the same |
//! | `x` | generation, index, hash, partition key, sort key (empty if there is none), the item's partition key, its sort key | an entry of a secondary index |
//! | `w` | due, generation and index                                   | work on an index, offered to workers        |
//! | `k` | account, region, client's token                             | what the token stands for, see `token`      |
//! | `e` | second when due, kind, the rest of an item's or a token's key | empty: what `expiry` is to remove         |
//! | `l` | generation                                                  | the key of the table's record, while it has an expiry |
//! | `p` | generation                                                  | how far a pass over its items is: the last item's key |
//! | `d` | account, region, table name, label                          | the description of a stream, JSON           |
//! | `s` | stream, commit number, ordinal                              | a record of a stream, see `stream`          |
//! | `a` | account, region, table name, id                             | a backup, JSON                              |
//! | `v` | history, commit number, ordinal                             | an item as it was before a change, see `history` |
//! | `o` | history                                                     | the key of the table's record, while it has this history |
//! | `j` | job                                                         | how far a backup or a restore is, JSON, see `jobs` |
//! | `q` | node                                                        | when it last said that it serves limited tables, milliseconds |
//! | `h` | stream                                                      | commit number and ordinal of the last record that was removed |
//!
//! Invariants
//!   1. A generation is a random number that a table gets when it is created; a table of the same name created later
//!      has another one, so it never sees what the earlier one held.
//!   2. Hash and length of the partition key stand before it: partitions spread evenly over the hash range (parallel
//!      scans share it out), and no partition's keys begin with another's.
//!   3. Within a partition, keys sort as the sort keys do: strings and binaries by their bytes, numbers by value.
//!   4. An index's number is random too, so that an index made anew under the name of an old one sees none of its entries.
//!   5. Partition keys within keys of indexes are cut after 192 bytes and followed by a digest of the whole, so that a key of
//!      four parts of full length still fits the store. Entries of one sort key sort by the keys of their items.

use bytes::Bytes;
use sha2::{Digest, Sha256};
use store::Range;
use store::keys::Key;

use super::stream::Place;
use super::value::AttributeValue;

const TABLE: u8 = b't';
const ITEM: u8 = b'i';
const COUNT: u8 = b'n';
const SIZE: u8 = b'b';
const GARBAGE: u8 = b'g';
const ENTRY: u8 = b'x';
const WORK: u8 = b'w';
const STREAM: u8 = b'd';
const RECORD: u8 = b's';
const TRIMMED: u8 = b'h';
const BACKUP: u8 = b'a';
const HISTORY: u8 = b'v';
const HISTORY_OWNER: u8 = b'o';
const JOB: u8 = b'j';
const NODE: u8 = b'q';

/// Bytes of the place of a record at the end of its key.
const PLACE_BYTES: usize = 12;
/// Bytes of a partition key that stand in the key of an index's entry.
const PART_BYTES_MAX: usize = 192;
const TOKEN: u8 = b'k';
const DUE: u8 = b'e';
const OWNER: u8 = b'l';
const PASS: u8 = b'p';

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

/// How many entries an index has.
pub(super) fn index_count(generation: u64, index: u64) -> Bytes {
    key(COUNT).number(generation).number(index).done()
}

/// How many bytes an index's entries have.
pub(super) fn index_size(generation: u64, index: u64) -> Bytes {
    key(SIZE).number(generation).number(index).done()
}

/// What a mark of garbage speaks of.
pub(super) fn garbage_ranges(mark: &[u8]) -> Option<Vec<Range>> {
    let (number, kind) = mark.get(2..)?.split_first_chunk()?;
    let tags: &[u8] = match kind {
        [] => &[ENTRY, ITEM, COUNT, SIZE],
        [ENTRY] => &[ENTRY],
        [HISTORY] => &[HISTORY],
        _ => return None,
    };
    let number = u64::from_be_bytes(*number);
    Some(tags.iter().map(|tag| Range::prefix(key(*tag).number(number).done())).collect())
}

/// Marks the entries of a generation's indexes, whose items stay.
pub(super) fn garbage_entries(generation: u64) -> Bytes {
    key(GARBAGE).number(generation).tag(ENTRY).done()
}

/// Marks a history that nobody needs any more.
pub(super) fn garbage_history(history: u64) -> Bytes {
    key(GARBAGE).number(history).tag(HISTORY).done()
}

/// A backup.
pub(super) fn backup(account: &str, region: &str, table: &str, id: &str) -> Bytes {
    key(BACKUP).text(account).text(region).text(table).text(id).done()
}

/// The backups of an account in a region, of all tables or of one: by table, then by time.
pub(super) fn backups(account: &str, region: &str, table: Option<&str>) -> Range {
    let all = key(BACKUP).text(account).text(region);
    Range::prefix(table.map_or(all.clone(), |table| all.text(table)).done())
}

/// All backups.
pub(super) fn all_backups() -> Range {
    Range::prefix(key(BACKUP).done())
}

/// What all records of a history begin with; the commit's number and an ordinal follow.
pub(super) fn history(number: u64) -> Bytes {
    key(HISTORY).number(number).done()
}

/// Whose table has a history.
pub(super) fn history_owner(number: u64) -> Bytes {
    key(HISTORY_OWNER).number(number).done()
}

/// All of these.
pub(super) fn history_owners() -> Range {
    Range::prefix(key(HISTORY_OWNER).done())
}

/// The history that such a key names.
pub(super) fn owned_history(owner: &[u8]) -> Option<u64> {
    garbage_generation(owner)
}

/// A node that serves tables whose throughput is limited.
pub(super) fn node(number: u64) -> Bytes {
    key(NODE).number(number).done()
}

/// All of these.
pub(super) fn nodes() -> Range {
    Range::prefix(key(NODE).done())
}

/// How far a job is.
pub(super) fn job(number: u64) -> Bytes {
    key(JOB).number(number).done()
}

/// The number of a job.
pub(super) fn owned_job(job: &[u8]) -> Option<u64> {
    garbage_generation(job)
}

/// What all of these begin with.
pub(super) fn job_prefix() -> Bytes {
    key(JOB).done()
}

/// All of these.
pub(super) fn jobs() -> Range {
    Range::prefix(job_prefix())
}

/// What of an item's key tells it from others of its generation.
pub(super) fn item_rest(item: &[u8]) -> &[u8] {
    item.get(2 + size_of::<u64>()..).unwrap_or_default()
}

/// The key of an item of another generation.
pub(super) fn item_of_rest(generation: u64, rest: &[u8]) -> Bytes {
    key(ITEM).number(generation).raw(rest).done()
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

/// What is kept of a client's token.
pub(super) fn token(account: &str, region: &str, token: &str) -> Bytes {
    key(TOKEN).text(account).text(region).text(token).done()
}

/// Whose table a generation with an expiry is.
pub(super) fn owner(generation: u64) -> Bytes {
    key(OWNER).number(generation).done()
}

/// Marks a generation whose items are to be marked, or not to be any more.
pub(super) fn pass(generation: u64) -> Bytes {
    key(PASS).number(generation).done()
}

/// What all such marks begin with.
pub(super) fn pass_prefix() -> Bytes {
    key(PASS).done()
}

/// All such marks.
pub(super) fn all_passes() -> Range {
    Range::prefix(pass_prefix())
}

/// The generation that such a mark names.
pub(super) fn pass_generation(mark: &[u8]) -> Option<u64> {
    garbage_generation(mark)
}

/// The generation of an item.
pub(super) fn item_generation(item: &[u8]) -> Option<u64> {
    garbage_generation(item)
}

/// Marks the second from which on an item or a token, by its key, is to be removed.
pub(super) fn due(second: u64, marked: &[u8]) -> Bytes {
    // What is marked begins with the service's prefix and its tag; the tag says what it is.
    key(DUE).number(second).raw(marked.get(1..).unwrap_or_default()).done()
}

/// What all marks of due things begin with.
pub(super) fn due_prefix() -> Bytes {
    key(DUE).done()
}

/// All marks of due things, by their time.
pub(super) fn all_due() -> Range {
    Range::prefix(due_prefix())
}

/// The marks of what is due before `second`.
pub(super) fn due_before(second: u64) -> Range {
    Range::between(due_prefix(), key(DUE).number(second).done())
}

/// What a mark of something due says: when, and the key of what.
pub(super) fn due_parts(mark: &[u8]) -> Option<(u64, Due)> {
    let (second, marked) = mark.get(2..)?.split_first_chunk()?;
    let marked_key = Key::new(model::prefixes::DYNAMODB.byte).raw(marked).done();
    let due = match *marked.first()? {
        ITEM => Due::Item(marked_key),
        TOKEN => Due::Token(marked_key),
        _ => return None,
    };
    Some((u64::from_be_bytes(*second), due))
}

/// Something that is removed when its time has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Due {
    /// An item, by its key.
    Item(Bytes),
    /// A client's token, by its key.
    Token(Bytes),
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

/// Spreads partition keys evenly.
fn hash(partition_key: &[u8]) -> u64 {
    Sha256::digest(partition_key).iter().take(8).fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

/// What all items of a partition begin with.
pub(super) fn partition(generation: u64, partition_key: &[u8]) -> Vec<u8> {
    let hash = hash(partition_key);
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
    part(items(generation), |hash| key(ITEM).number(generation).number(hash).done(), segment, segments)
}

/// One of `segments` equal parts of `whole`; `at` says where a hash begins.
fn part(whole: Range, at: impl Fn(u64) -> Bytes, segment: u64, segments: u64) -> Range {
    let bound = |number: u64| {
        let hash = (u128::from(number) << 64) / u128::from(segments.max(1));
        u64::try_from(hash).ok().map(&at)
    };
    Range {
        start: bound(segment).map_or(whole.start, std::ops::Bound::Included),
        end: bound(segment + 1).map_or(whole.end, std::ops::Bound::Excluded),
        ..Range::prefix(Bytes::new())
    }
}

/// All entries of an index.
pub(super) fn entries(generation: u64, index: u64) -> Range {
    Range::prefix(key(ENTRY).number(generation).number(index).done())
}

/// The entries of one of `segments` equal parts of the hash range.
pub(super) fn entries_segment(generation: u64, index: u64, segment: u64, segments: u64) -> Range {
    let at = |hash| key(ENTRY).number(generation).number(index).number(hash).done();
    part(entries(generation, index), at, segment, segments)
}

/// What all entries of an index's partition begin with.
pub(super) fn entry_partition(generation: u64, index: u64, partition_key: &[u8]) -> Vec<u8> {
    let mut out = key(ENTRY).number(generation).number(index).number(hash(partition_key)).done().to_vec();
    put_bounded(partition_key, &mut out);
    out
}

/// What all entries begin with whose sort keys begin with `start`.
pub(super) fn entry_sort_start(partition: &[u8], start: &[u8]) -> Bytes {
    let mut out = partition.to_vec();
    put_escaped(start, &mut out);
    out.into()
}

/// What all entries of one sort key begin with.
pub(super) fn entry_sort(partition: &[u8], sort_key: Option<&[u8]>) -> Bytes {
    let mut out = partition.to_vec();
    put_escaped(sort_key.unwrap_or_default(), &mut out);
    out.extend_from_slice(END);
    out.into()
}

/// The entry of an item, by the item's own keys.
pub(super) fn entry(sort: &[u8], item_partition: &[u8], item_sort: Option<&[u8]>) -> Bytes {
    let mut out = sort.to_vec();
    put_bounded(item_partition, &mut out);
    out.extend_from_slice(item_sort.unwrap_or_default());
    out.into()
}

/// Ends an escaped part; below everything that can follow within one.
const END: &[u8] = &[0, 1];

/// A part of any bytes, ordered, without its end.
fn put_escaped(part: &[u8], out: &mut Vec<u8>) {
    for byte in part {
        out.push(*byte);
        if *byte == 0 {
            out.push(0xff);
        }
    }
}

/// A part of few bytes that is ordered by its beginning and told apart from all others.
fn put_bounded(part: &[u8], out: &mut Vec<u8>) {
    let whole = part.len() <= PART_BYTES_MAX;
    put_escaped(if whole { part } else { &part[..PART_BYTES_MAX] }, out);
    out.extend_from_slice(END);
    out.push(u8::from(!whole));
    if !whole {
        out.extend_from_slice(&Sha256::digest(part));
    }
}

/// The queue of work on indexes.
pub(super) fn work() -> Bytes {
    key(WORK).done()
}

/// The name of an index's work within the queue.
pub(super) fn work_id(generation: u64, index: u64) -> Bytes {
    [generation.to_be_bytes(), index.to_be_bytes()].concat().into()
}

/// The description of a stream.
pub(super) fn stream(account: &str, region: &str, table: &str, label: &str) -> Bytes {
    key(STREAM).text(account).text(region).text(table).text(label).done()
}

/// The descriptions of the streams of an account in a region, of all tables or of one.
pub(super) fn streams(account: &str, region: &str, table: Option<&str>) -> Range {
    let all = key(STREAM).text(account).text(region);
    Range::prefix(table.map_or(all.clone(), |table| all.text(table)).done())
}

/// The descriptions of all streams.
pub(super) fn all_streams() -> Range {
    Range::prefix(key(STREAM).done())
}

/// What all records of a stream begin with; the commit's number and an ordinal follow.
pub(super) fn records(stream: u64) -> Bytes {
    key(RECORD).number(stream).done()
}

/// The records of a stream after a place.
pub(super) fn records_after(stream: u64, after: Place) -> Range {
    let whole = Range::prefix(records(stream));
    if after == Place::START {
        return whole;
    }
    whole.beyond(key(RECORD).number(stream).number(after.commit).raw(&after.ordinal.to_be_bytes()).done())
}

/// The place that a record's key or a mark ends with.
pub(super) fn place_of(bytes: &[u8]) -> Option<Place> {
    let (_, place) = bytes.split_last_chunk::<PLACE_BYTES>()?;
    let (commit, ordinal) = place.split_first_chunk()?;
    Some(Place { commit: u64::from_be_bytes(*commit), ordinal: u32::from_be_bytes(ordinal.try_into().ok()?) })
}

/// The place of a record, as a mark holds it.
pub(super) fn place_bytes(record: &[u8]) -> Vec<u8> {
    record.split_last_chunk::<PLACE_BYTES>().map_or(Vec::new(), |(_, place)| place.to_vec())
}

/// Says up to where a stream's records were removed.
pub(super) fn trimmed(stream: u64) -> Bytes {
    key(TRIMMED).number(stream).done()
}
