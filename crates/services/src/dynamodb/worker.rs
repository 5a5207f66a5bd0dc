//! Removes the items of deleted tables and backups, and histories that nobody needs, a bounded number in each commit, so that nobody waits behind it.
//!
//! Invariants
//!   1. It touches only what a garbage mark names; no table and no backup has it any more.
//!   2. A mark goes in a commit of its own after a round that found nothing: a crash at any point is taken up again.

use std::time::Duration;

use store::{Entry, Error as StoreError, Txn};

use super::error::{Error, Result};
use super::ops::Shared;
use super::{keys, ttl};

/// Most bytes that are read at once of what is to be removed.
const PAGE_BYTES_MAX: usize = 1024 * 1024;
/// Pause after a failure, and longest time without looking.
const PAUSE: Duration = Duration::from_secs(5);
/// Between two rounds of what is done now and then.
const EVERY: Duration = Duration::from_secs(60);

/// Sweeps whenever a table was deleted, until the store is closed.
pub(super) async fn run(shared: &Shared) {
    let what = "removing the items of a deleted table";
    sweep_whenever(shared, &keys::garbage_prefix(), what, || sweep(shared)).await;
}

/// Sweeps as long as there is something to do, and again whenever something changes below a prefix, until the store is
/// closed. A failure is told as one of `what`.
pub(super) async fn sweep_whenever<F>(shared: &Shared, prefix: &[u8], what: &str, sweep: impl Fn() -> F)
where
    F: Future<Output = Result<usize>>,
{
    let mut watch = shared.store.watch(prefix);
    loop {
        match sweep().await {
            Ok(0) => watch.changed().await,
            Ok(_) => {}
            Err(Error::Store(StoreError::Closed)) => return,
            Err(error) => {
                tracing::warn!(%error, "{what} failed; trying again");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Does a round every minute, until the store is closed. A failure is told as one of `what`.
pub(super) async fn now_and_then<F>(what: &str, round: impl Fn() -> F)
where
    F: Future<Output = Result<usize>>,
{
    loop {
        match round().await {
            Ok(_) => {}
            Err(Error::Store(StoreError::Closed)) => return,
            Err(error) => tracing::warn!(%error, "{what} failed; trying again"),
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Removes one batch of each deleted generation; returns how many items and entries of indexes, counters included.
pub(super) async fn sweep(shared: &Shared) -> Result<usize> {
    let mut removed = 0;
    for mark in shared.store.range(&keys::all_garbage().rows(100)).await?.entries {
        let mut txn = Txn::new();
        for range in keys::garbage_ranges(&mark.key).ok_or(Error::Corrupt("garbage mark"))? {
            let rows = shared.config.removal_rows.saturating_sub(txn.ops.len());
            if rows > 0 {
                let range = range.rows(rows).bytes(PAGE_BYTES_MAX);
                let page = shared.store.range(&range).await?;
                let unmarked = |txn, entry: Entry| ttl::unmark(txn, &mark.value, &entry).delete(entry.key);
                txn = page.entries.into_iter().fold(txn, unmarked);
            }
        }
        removed += txn.ops.len();
        if txn.ops.is_empty() {
            txn = txn.delete(mark.key.clone());
        }
        // Losing these on a crash only means doing them again.
        shared.store.commit(txn.relaxed()).await?;
    }
    Ok(removed)
}
