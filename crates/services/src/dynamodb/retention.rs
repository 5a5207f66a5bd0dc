//! Removes records of streams when they are a day old, and streams a day after they were switched off.
//!
//! Invariants
//!   1. The mark of a stream, after the last record that was removed, changes in the commit that removes records: a reader
//!      that is behind it is told so.
//!   2. Every step may be done by several nodes, and again.

use store::{Error as StoreError, Txn};

use super::error::Result;
use super::keys;
use super::ops::Shared;
use super::records;
use super::stream::{self, Description, Place, RETENTION_MS};
use super::worker::now_and_then;

/// Streams that one read brings.
const ROWS: usize = 100;
/// Most bytes of records that one commit looks at.
const BYTES: usize = 4 * 1024 * 1024;

/// Does a round now and then, until the store is closed.
pub(super) async fn run(shared: &Shared) {
    now_and_then("removing old records of streams", || round(shared)).await;
}

/// Removes what is old by now; returns how many records and streams.
pub(super) async fn round(shared: &Shared) -> Result<usize> {
    let border_ms = shared.clock.now_ms().saturating_sub(RETENTION_MS);
    let mut range = keys::all_streams().rows(ROWS);
    let mut removed = 0;
    loop {
        let page = shared.store.range(&range).await?;
        for entry in &page.entries {
            let description = records::description(entry)?;
            removed += trim(shared, &description, border_ms).await?;
            if description.closed_at_ms.is_some_and(|closed_ms| closed_ms <= border_ms) {
                removed += forget(shared, &description, entry.version).await?;
            }
        }
        match page.entries.last() {
            Some(last) if page.more => range = range.beyond(last.key.clone()),
            _ => return Ok(removed),
        }
    }
}

/// Removes records that were written at `border_ms` or before.
async fn trim(shared: &Shared, of: &Description, border_ms: u64) -> Result<usize> {
    let number = of.stream.number;
    let mut removed = 0;
    loop {
        let range = keys::records_after(number, Place::START).rows(shared.config.removal_rows).bytes(BYTES);
        let page = shared.store.range(&range).await?;
        let is_old = |value: &[u8]| stream::time_of(value).is_none_or(|at_ms| at_ms <= border_ms);
        let old: Vec<_> = page.entries.into_iter().take_while(|entry| is_old(&entry.value)).collect();
        let Some(last) = old.last() else { return Ok(removed) };
        removed += old.len();
        let mark = Txn::new().put(keys::trimmed(number), keys::place_bytes(&last.key));
        let txn = old.into_iter().fold(mark, |txn, entry| txn.delete(entry.key));
        // Losing these on a crash only means doing them again.
        shared.store.commit(txn.relaxed()).await?;
    }
}

/// Removes a stream that nobody writes any more and whose records have gone.
async fn forget(shared: &Shared, of: &Description, version: u64) -> Result<usize> {
    let range = keys::records_after(of.stream.number, Place::START).rows(1);
    if !shared.store.range(&range).await?.entries.is_empty() {
        return Ok(0);
    }
    let key = keys::stream(&of.account, &of.region, &of.table, &of.stream.label);
    let txn = Txn::new().expect_version(key.clone(), version).delete(key).delete(keys::trimmed(of.stream.number));
    match shared.store.commit(txn.relaxed()).await {
        Ok(_) => Ok(1),
        Err(StoreError::Conflict | StoreError::TooOld) => Ok(0),
        Err(error) => Err(error.into()),
    }
}
