//! Removes what has a time when it is over: items of tables with expiry, and clients' tokens.
//!
//! Marks in the order of their times say what is due (`keys`); each was written in the commit of what it marks. So a
//! round reads what is due and nothing else, and where nothing has a time, nothing is ever read.
//!
//! Invariants
//!   1. What is marked is removed only if it is still due when its removal commits.
//!   2. A mark goes in the commit that removes what it marks, or finds it gone.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use store::{Error as StoreError, Txn};

use super::error::{Error, Result};
use super::keys::{self, Due};
use super::ops::{ATTEMPTS_MAX, ItemWrite, Shared, decode};
use super::passes;
use super::token::Used;

/// Pause after a failure.
const PAUSE: Duration = Duration::from_secs(5);
/// Shortest time between two rounds, if there is not more to do than one round does.
const ROUND: Duration = Duration::from_secs(1);
/// Longest time without looking where something waits for its time, since clocks can be set.
const LOOK_MS: u64 = 60_000;
/// Items that are removed at once: their commits share flushes.
const AT_ONCE: usize = 32;

/// Sweeps whenever something is due, until the store is closed.
pub(super) async fn run(shared: &Shared) {
    let mut watch = shared.store.watch(&keys::due_prefix());
    loop {
        let swept = match sweep(shared).await {
            Ok(0) => next_ms(shared).await,
            Ok(_) => continue,
            Err(error) => Err(error),
        };
        match swept {
            Ok(None) => watch.changed().await,
            Ok(Some(wait_ms)) => {
                // Something new may be due earlier than what is known.
                let _ = tokio::time::timeout(Duration::from_millis(wait_ms), watch.changed()).await;
            }
            Err(Error::Store(StoreError::Closed)) => return,
            Err(error) => {
                tracing::warn!(%error, "removing what is due failed; trying again");
                tokio::time::sleep(PAUSE).await;
            }
        }
        tokio::time::sleep(ROUND).await;
    }
}

/// In how many milliseconds the next thing is due, as far as is known.
async fn next_ms(shared: &Shared) -> Result<Option<u64>> {
    let page = shared.store.range(&keys::all_due().rows(1)).await?;
    let Some(mark) = page.entries.first() else {
        return Ok(None);
    };
    let (second, _) = keys::due_parts(&mark.key).ok_or(Error::Corrupt("mark of something due"))?;
    Ok(Some(second.saturating_mul(1_000).saturating_sub(shared.clock.now_ms()).min(LOOK_MS)))
}

/// An item that its mark says is due.
struct DueItem {
    mark: Bytes,
    second: u64,
    key: Bytes,
}

/// Removes a bounded number of due things; returns how many marks are done.
pub(super) async fn sweep(shared: &Shared) -> Result<usize> {
    // What is due within this second is due when it is over.
    let now_s = shared.clock.now_ms() / 1_000;
    let marks = shared.store.range(&keys::due_before(now_s).rows(shared.config.removal_rows)).await?.entries;
    let count = marks.len();
    let (mut txn, mut items) = (Txn::new(), Vec::new());
    for mark in marks {
        match keys::due_parts(&mark.key).ok_or(Error::Corrupt("mark of something due"))? {
            (second, Due::Token(key)) => txn = forget(shared, txn, second, key).await?.delete(mark.key),
            (second, Due::Item(key)) => items.push(DueItem { mark: mark.key, second, key }),
        }
    }
    if !txn.ops.is_empty() {
        // Losing these on a crash only means doing them again.
        commit(shared, txn.relaxed()).await?;
    }
    stream::iter(items).map(|due| expire(shared, due, now_s)).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    Ok(count)
}

/// Appends the removal of a token whose time is over.
async fn forget(shared: &Shared, txn: Txn, second: u64, key: Bytes) -> Result<Txn> {
    let entry = shared.store.get(&key).await?;
    let over = Used::decode(entry.as_ref()).is_none_or(|used| used.due_s() <= second);
    Ok(if over { txn.expect_unchanged(key.clone(), entry.as_ref()).delete(key) } else { txn })
}

/// Removes one item, or only its mark if the item is not to be removed.
async fn expire(shared: &Shared, due: DueItem, now_s: u64) -> Result<()> {
    for _ in 0..ATTEMPTS_MAX {
        let generation = keys::item_generation(&due.key).ok_or(Error::Corrupt("mark of something due"))?;
        let Some(found) = passes::owner(shared, generation).await? else {
            commit(shared, Txn::new().delete(due.mark.clone()).relaxed()).await?;
            return Ok(());
        };
        let _lane = shared.lane(&due.key).lock().await;
        let entry = shared.store.get(&due.key).await?;
        let item = entry.as_ref().map(decode).transpose()?;
        let over = |item: &&_| found.table.ttl.as_ref().is_some_and(|ttl| ttl.is_over(item, due.second, now_s));
        let txn = match item.as_ref().filter(over) {
            Some(item) => {
                let key = found.table.key_of_item(item)?;
                let write = ItemWrite::new(&found, &key, entry.as_ref(), Some(item), None).by_expiry();
                shared.write_item(Txn::new(), write).await?
            }
            None => {
                let unchanged = found.expect(Txn::new()).expect_unchanged(due.key.clone(), entry.as_ref());
                unchanged.delete(due.mark.clone()).relaxed()
            }
        };
        if commit(shared, txn).await? {
            return Ok(());
        }
    }
    Err(Error::Contended)
}

/// Returns whether nobody came between.
async fn commit(shared: &Shared, txn: Txn) -> Result<bool> {
    match shared.store.commit(txn).await {
        Ok(_) => Ok(true),
        Err(StoreError::Conflict | StoreError::TooOld) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
