//! Reading the records of streams: from a place, in pages.
//!
//! Invariant: a reader that asks on from where a page ended misses nothing, or is told that what came next is gone.

use store::{Entry, Snapshot, Txn, Version};

use super::error::{Error, Result};
use super::keys;
use super::ops::Shared;
use super::stream::{self, Description, Event, Place, Record};

/// A part of a stream.
pub(super) struct Records {
    pub(super) records: Vec<(Place, Record)>,
    /// Where it goes on.
    pub(super) next: Place,
    /// Whether nothing comes after them, now or ever.
    pub(super) ended: bool,
}

/// The stream of an ARN, if there is one.
pub(super) async fn find(shared: &Shared, arn: &str) -> Result<Option<Description>> {
    let Some(key) = key_of(arn) else { return Ok(None) };
    shared.store.get(&key).await?.as_ref().map(description).transpose()
}

/// The same with the commit that wrote its description.
pub(super) async fn find_versioned(shared: &Shared, arn: &str) -> Result<Option<(Description, Version)>> {
    let Some(key) = key_of(arn) else { return Ok(None) };
    let entry = shared.store.get(&key).await?;
    entry.as_ref().map(|entry| Ok((description(entry)?, entry.version))).transpose()
}

/// Appends a description anew, if it is still the one that `version` wrote.
pub(super) fn put_description(txn: Txn, of: &Description, version: Version) -> Result<Txn> {
    let record = serde_json::to_vec(of).map_err(|_| Error::Corrupt("description of a stream"))?;
    let key = keys::stream(&of.account, &of.region, &of.table, &of.stream.label);
    Ok(txn.expect_version(key.clone(), version).put(key, record))
}

/// Where the description of an ARN's stream lies.
fn key_of(arn: &str) -> Option<bytes::Bytes> {
    let mut parts = arn.strip_prefix("arn:aws:dynamodb:")?.splitn(3, ':');
    let (region, account, resource) = (parts.next()?, parts.next()?, parts.next()?);
    let (table, label) = resource.strip_prefix("table/")?.split_once("/stream/")?;
    Some(keys::stream(account, region, table, label))
}

/// A stored description.
pub(super) fn description(entry: &Entry) -> Result<Description> {
    serde_json::from_slice(&entry.value).map_err(|_| Error::Corrupt("description of a stream"))
}

fn decoded(entry: &Entry) -> Result<(Place, Record)> {
    let record = stream::decode(&entry.value).ok_or(Error::Corrupt("record of a stream"))?;
    Ok((keys::place_of(&entry.key).ok_or(Error::Corrupt("key of a record"))?, record))
}

/// Up to `rows` records, and about `bytes` bytes of them, after a place.
pub(super) async fn read(
    shared: &Shared,
    of: &Description,
    after: Place,
    rows: usize,
    bytes: usize,
) -> Result<Records> {
    shared.on_snapshot(|snapshot| read_from(snapshot, of, after, rows, bytes)).await
}

async fn read_from(
    snapshot: Box<dyn Snapshot>,
    of: &Description,
    after: Place,
    rows: usize,
    bytes: usize,
) -> Result<Records> {
    let number = of.stream.number;
    if after > Place::START && after < trimmed(&*snapshot, number).await? {
        return Err(Error::Trimmed("The operation attempted to read past the oldest stream record in a shard.".into()));
    }
    let page = snapshot.range(&keys::records_after(number, after).rows(rows).bytes(bytes)).await?;
    let mut found = Records { records: Vec::with_capacity(page.entries.len()), next: after, ended: false };
    for entry in &page.entries {
        let (place, record) = decoded(entry)?;
        if record.event == Event::End {
            found.ended = true;
            break;
        }
        found.next = place;
        found.records.push((place, record));
    }
    // The end that follows a full page is found by the next read; one whose mark has gone with all records is known too.
    if page.entries.is_empty() && of.closed_at_ms.is_some() {
        found.ended = true;
    }
    Ok(found)
}

/// After the last record that was removed.
pub(super) async fn trimmed(snapshot: &dyn Snapshot, number: u64) -> Result<Place> {
    let Some(mark) = snapshot.get(&keys::trimmed(number)).await? else {
        return Ok(Place::START);
    };
    keys::place_of(&mark.value).ok_or(Error::Corrupt("mark of a stream"))
}

/// After all records that there are.
pub(super) async fn latest(shared: &Shared) -> Result<Place> {
    Ok(Place::after_commit(shared.store.snapshot().await?.version()))
}

/// Before the first record that was written then or later. Times go up with commits, but for what clocks of several nodes
/// differ.
pub(super) async fn at_time(shared: &Shared, of: &Description, ms: u64) -> Result<Place> {
    shared.on_snapshot(|snapshot| at_time_from(snapshot, of, ms)).await
}

async fn at_time_from(snapshot: Box<dyn Snapshot>, of: &Description, ms: u64) -> Result<Place> {
    let number = of.stream.number;
    let (mut low, mut high) = (of.stream.opened, snapshot.version());
    while low < high {
        let middle = low + (high - low) / 2;
        let range = keys::records_after(number, Place::after_commit(middle)).rows(1);
        let first = snapshot.range(&range).await?.entries.into_iter().next();
        match first {
            Some(entry) if stream::time_of(&entry.value).is_some_and(|at_ms| at_ms < ms) => {
                let place = keys::place_of(&entry.key).ok_or(Error::Corrupt("key of a record"))?;
                low = place.commit.max(middle + 1);
            }
            _ => high = middle,
        }
    }
    Ok(Place::after_commit(low))
}

/// The sequence number that ends a stream, if it has ended and that is still known.
pub(super) async fn last(shared: &Shared, of: &Description) -> Result<Option<Place>> {
    if of.closed_at_ms.is_none() {
        return Ok(None);
    }
    let range = keys::records_after(of.stream.number, Place::START).reversed().rows(1);
    match shared.store.range(&range).await?.entries.first() {
        Some(entry) => Ok(keys::place_of(&entry.key)),
        None => Ok(Some(trimmed(&*shared.store.snapshot().await?, of.stream.number).await?)),
    }
}
