//! Removes what has a time when it is over: clients' tokens.
//!
//! Marks in the order of their times say what is due (`keys`); each was written in the commit of what it marks. So a
//! round reads what is due and nothing else, and where nothing has a time, nothing is ever read.
//!
//! Invariants
//!   1. What is marked is removed only if it is still due when its removal commits.
//!   2. A mark goes in the commit that removes what it marks, or finds it gone.

use std::time::Duration;

use store::{Error as StoreError, Txn};

use super::error::{Error, Result};
use super::keys::{self, Due};
use super::ops::Shared;
use super::token::Used;

/// Pause after a failure.
const PAUSE: Duration = Duration::from_secs(5);
/// Shortest time between two rounds, if there is not more to do than one round does.
const ROUND: Duration = Duration::from_secs(1);
/// Longest time without looking where something waits for its time, since clocks can be set.
const LOOK_MS: u64 = 60_000;

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

/// Removes a bounded number of due things; returns how many marks are done.
pub(super) async fn sweep(shared: &Shared) -> Result<usize> {
    // What is due within this second is due when it is over.
    let range = keys::due_before(shared.clock.now_ms() / 1_000).rows(shared.config.removal_rows);
    let marks = shared.store.range(&range).await?.entries;
    let mut txn = Txn::new();
    for mark in &marks {
        let (second, due) = keys::due_parts(&mark.key).ok_or(Error::Corrupt("mark of something due"))?;
        txn = match due {
            Due::Token(key) => {
                let entry = shared.store.get(&key).await?;
                let over = Used::decode(entry.as_ref()).is_none_or(|used| used.due_s() <= second);
                let txn = if over { txn.expect_unchanged(key.clone(), entry.as_ref()).delete(key) } else { txn };
                txn.delete(mark.key.clone())
            }
        };
    }
    if !marks.is_empty() {
        // Losing these on a crash only means doing them again.
        match shared.store.commit(txn.relaxed()).await {
            Ok(_) | Err(StoreError::Conflict | StoreError::TooOld) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(marks.len())
}
