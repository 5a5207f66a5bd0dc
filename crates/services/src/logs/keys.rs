//! Keys of the logs; nobody else builds one.
//!
//! | key                                                 | value                                     |
//! |-----------------------------------------------------|-------------------------------------------|
//! | `g` account region group-name                       | postcard of `Group`                       |
//! | `s` group-id stream-name                            | postcard of `Stream`                      |
//! | `c` group-id last-ms commit part                    | postcard of `Chunk`                       |
//! | `x` group-id stream-id last-ms commit part          | nothing: the chunk is under the `c` key   |
//! | `b` group-id                                        | stored bytes of the group (counter)       |
//! | `d` group-id                                        | nothing: what is left of a deleted group  |
//! | `e` group-id stream-id                              | nothing: what is left of a deleted stream |
//!
//! Records and chunks follow a byte that names their format. Ids and times are numbers. `last-ms` is the latest timestamp in the chunk, `commit` the number of the commit that wrote
//! it, `part` its place within that commit.

use bytes::Bytes;
use model::prefixes::LOGS;
use model::{AccountId, Region};
use store::keys::{Key, Parts};

const GROUP: u8 = b'g';
const STREAM: u8 = b's';
const CHUNK: u8 = b'c';
const INDEX: u8 = b'x';
const STORED: u8 = b'b';
const DEAD_GROUP: u8 = b'd';
const DEAD_STREAM: u8 = b'e';

fn key(tag: u8) -> Key {
    Key::new(LOGS.byte).tag(tag)
}

/// Every group of an account in a region.
pub(super) fn groups(account: &AccountId, region: &Region) -> Key {
    key(GROUP).text(account.as_str()).text(region.as_str())
}

pub(super) fn group(account: &AccountId, region: &Region, name: &str) -> Bytes {
    groups(account, region).text(name).done()
}

/// What the keys of all groups begin with whose names begin with `prefix`.
pub(super) fn groups_with(account: &AccountId, region: &Region, prefix: &str) -> Bytes {
    unended(group(account, region, prefix))
}

/// A key without the two bytes that end its last text: what the keys of all longer texts begin with.
fn unended(key: Bytes) -> Bytes {
    key.slice(..key.len() - 2)
}

/// Every group.
pub(super) fn all_groups() -> Bytes {
    key(GROUP).done()
}

/// The name in a group's key.
pub(super) fn group_name(key: &[u8]) -> Option<String> {
    let mut parts = Parts::of(key);
    parts.byte()?;
    parts.byte()?;
    parts.text()?;
    parts.text()?;
    parts.text()
}

pub(super) fn streams(group_id: u64) -> Key {
    key(STREAM).number(group_id)
}

/// What the keys of all streams begin with whose names begin with `prefix`.
pub(super) fn streams_with(group_id: u64, prefix: &str) -> Bytes {
    unended(stream(group_id, prefix))
}

pub(super) fn stream(group_id: u64, name: &str) -> Bytes {
    streams(group_id).text(name).done()
}

/// The name in a stream's key.
pub(super) fn stream_name(key: &[u8]) -> Option<String> {
    let mut parts = Parts::of(key);
    parts.byte()?;
    parts.byte()?;
    parts.number()?;
    parts.text()
}

pub(super) fn chunks(group_id: u64) -> Bytes {
    key(CHUNK).number(group_id).done()
}

/// Before the commit's number in a chunk's key; alone, the first chunk key at or after a time.
pub(super) fn chunks_at(group_id: u64, last_ms: u64) -> Bytes {
    key(CHUNK).number(group_id).number(last_ms).done()
}

/// After the commit's number in a chunk's key and in its index entry.
pub(super) fn part(part: u32) -> Bytes {
    Bytes::copy_from_slice(&part.to_be_bytes())
}

pub(super) fn index(group_id: u64, stream_id: u64) -> Bytes {
    key(INDEX).number(group_id).number(stream_id).done()
}

pub(super) fn group_index(group_id: u64) -> Bytes {
    key(INDEX).number(group_id).done()
}

/// Before the commit's number in an index entry; alone, the first entry at or after a time.
pub(super) fn index_at(group_id: u64, stream_id: u64, last_ms: u64) -> Bytes {
    key(INDEX).number(group_id).number(stream_id).number(last_ms).done()
}

/// Where a chunk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) last_ms: u64,
    pub(super) commit: u64,
    pub(super) part: u32,
}

/// What follows the prefix, the tag and some numbers.
fn after(key: &[u8], numbers: usize) -> Option<Parts<'_>> {
    let mut parts = Parts::of(key);
    parts.byte()?;
    parts.byte()?;
    for _ in 0..numbers {
        parts.number()?;
    }
    Some(parts)
}

fn place(mut parts: Parts<'_>) -> Option<Place> {
    let (last_ms, commit) = (parts.number()?, parts.number()?);
    Some(Place { last_ms, commit, part: u32::from_be_bytes(parts.rest().try_into().ok()?) })
}

/// The place in a chunk's key.
pub(super) fn place_of_chunk(key: &[u8]) -> Option<Place> {
    place(after(key, 1)?)
}

/// The place in an index entry's key.
pub(super) fn place_of_index(key: &[u8]) -> Option<Place> {
    place(after(key, 2)?)
}

pub(super) fn chunk(group_id: u64, place: Place) -> Bytes {
    key(CHUNK).number(group_id).number(place.last_ms).number(place.commit).raw(&place.part.to_be_bytes()).done()
}

pub(super) fn index_entry(group_id: u64, stream_id: u64, place: Place) -> Bytes {
    let key = key(INDEX).number(group_id).number(stream_id).number(place.last_ms);
    key.number(place.commit).raw(&place.part.to_be_bytes()).done()
}

pub(super) fn stored_bytes(group_id: u64) -> Bytes {
    key(STORED).number(group_id).done()
}

pub(super) fn dead_group(group_id: u64) -> Bytes {
    key(DEAD_GROUP).number(group_id).done()
}

pub(super) fn dead_stream(group_id: u64, stream_id: u64) -> Bytes {
    key(DEAD_STREAM).number(group_id).number(stream_id).done()
}

pub(super) fn dead_groups() -> Bytes {
    key(DEAD_GROUP).done()
}

pub(super) fn dead_streams() -> Bytes {
    key(DEAD_STREAM).done()
}

/// The ids in the key of something deleted.
pub(super) fn dead_ids(key: &[u8]) -> Option<(u64, Option<u64>)> {
    let mut parts = after(key, 0)?;
    Some((parts.number()?, parts.number()))
}
