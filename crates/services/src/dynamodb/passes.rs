//! Passes over all items of a table whose expiry was turned on or off: they write or delete the items' marks.
//!
//! Invariants
//!   1. A pass goes on where it was: how far it is lies in the commit of each of its pages, so a crash loses nothing.
//!   2. It meets every item once. What is written meanwhile marks itself, by the table's phase.
//!   3. It never keeps writers waiting: pages are small, and one that meets a writer is made smaller.

use store::{Entry, Error as StoreError, Txn};

use super::error::{Error, Result};
use super::ops::{Found, Shared};
use super::ttl::{Phase, Ttl};
use super::worker::sweep_whenever;
use super::{item, keys};

/// Most bytes of items that one page reads.
const PAGE_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Goes on with passes whenever there are some, until the store is closed.
pub(super) async fn run(shared: &Shared) {
    sweep_whenever(shared, &keys::pass_prefix(), "a pass over the items of a table", || sweep(shared)).await;
}

/// Does the next page of every pass; returns how many passes there were.
pub(super) async fn sweep(shared: &Shared) -> Result<usize> {
    let passes = shared.store.range(&keys::all_passes().rows(100)).await?.entries;
    let count = passes.len();
    for pass in passes {
        let mut rows = shared.config.removal_rows;
        let mut next = Some(pass);
        while let Some(pass) = next {
            if page(shared, &pass, rows).await? {
                break;
            }
            rows = (rows / 4).max(1);
            next = shared.store.get(&pass.key).await?;
        }
    }
    Ok(count)
}

/// The table of a generation, if it is still there.
pub(super) async fn owner(shared: &Shared, generation: u64) -> Result<Option<Found>> {
    let Some(entry) = shared.store.get(&keys::owner(generation)).await? else {
        return Ok(None);
    };
    let found = shared.found(&entry.value).await?;
    Ok(found.filter(|found| found.table.generation == generation))
}

/// Does one page of at most `rows` items; returns whether nobody came between.
async fn page(shared: &Shared, pass: &Entry, rows: usize) -> Result<bool> {
    let generation = keys::pass_generation(&pass.key).ok_or(Error::Corrupt("pass"))?;
    let txn = Txn::new().expect_version(pass.key.clone(), pass.version);
    let found = owner(shared, generation).await?;
    let Some((found, ttl)) = found.as_ref().and_then(|found| Some((found, found.table.ttl.as_ref()?))) else {
        return commit(shared, txn.delete(pass.key.clone())).await;
    };
    let mut range = keys::items(generation).rows(rows).bytes(PAGE_BYTES_MAX);
    if !pass.value.is_empty() {
        range = range.beyond(pass.value.clone());
    }
    let entries = shared.store.range(&range).await?.entries;
    let Some(last) = entries.last() else {
        return commit(shared, end(txn, found, ttl, pass)?).await;
    };
    let txn = entries.iter().try_fold(found.expect(txn), |txn, entry| mark(txn, ttl, entry))?;
    commit(shared, txn.put(pass.key.clone(), last.key.clone()).relaxed()).await
}

/// Appends the mark of one item, if it has a time.
fn mark(txn: Txn, ttl: &Ttl, entry: &Entry) -> Result<Txn> {
    let item = item::decode(&entry.value).ok_or(Error::Corrupt("item"))?;
    let Some(second) = ttl.due_s(&item) else {
        return Ok(txn);
    };
    let mark = keys::due(second, &entry.key);
    let txn = txn.expect_version(entry.key.clone(), entry.version);
    Ok(if ttl.phase == Phase::Disabling { txn.delete(mark) } else { txn.put(mark, Vec::new()) })
}

/// Appends what the end of a pass writes: the table's next phase.
fn end(txn: Txn, found: &Found, ttl: &Ttl, pass: &Entry) -> Result<Txn> {
    let mut table = (*found.table).clone();
    let mut txn = txn.delete(pass.key.clone());
    if ttl.phase == Phase::Disabling {
        table.ttl = None;
        txn = txn.delete(keys::owner(table.generation));
    } else {
        table.ttl = Some(Ttl { phase: Phase::Enabled, ..ttl.clone() });
    }
    found.put_record(txn, &table)
}

async fn commit(shared: &Shared, txn: Txn) -> Result<bool> {
    match shared.store.commit(txn).await {
        Ok(_) => Ok(true),
        Err(StoreError::Conflict | StoreError::TooOld) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
