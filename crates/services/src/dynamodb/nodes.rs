//! How many nodes share the limited throughput of tables: each of them says now and then that it serves such tables.
//!
//! Invariants
//!   1. Each node lets in its part, so together they let in no more than a table may, whoever is asked more; a node that has
//!      died keeps its part for half a minute.
//!   2. Where no table is limited, nothing is ever written.

use std::time::Duration;

use store::{Error as StoreError, Txn};

use super::error::{Error, Result};
use super::keys;
use super::ops::Shared;

/// Between two signs of life.
const EVERY: Duration = Duration::from_secs(10);
/// Who gave none for so long is gone.
const GONE_MS: u64 = 30_000;
/// When its last one is removed.
const FORGOTTEN_MS: u64 = 2 * GONE_MS;

/// Gives signs of life, and counts those of others, until the store is closed.
pub(super) async fn run(shared: &Shared) {
    loop {
        tokio::time::sleep(EVERY).await;
        match round(shared).await {
            Ok(()) => {}
            Err(Error::Store(StoreError::Closed)) => return,
            Err(error) => tracing::warn!(%error, "the nodes that share limits of tables could not be counted"),
        }
    }
}

/// Gives one, if limited tables were used here, and counts.
pub(super) async fn round(shared: &Shared) -> Result<()> {
    let now_ms = shared.clock.now_ms();
    if !shared.serves_limited_tables() {
        return Ok(());
    }
    let (mut others, mut txn) = (0, Txn::new().put(keys::node(shared.node), now_ms.to_be_bytes().to_vec()));
    for entry in shared.store.range(&keys::nodes().rows(1_000)).await?.entries {
        let seen_ms = <[u8; 8]>::try_from(&entry.value[..]).map_or(0, u64::from_be_bytes);
        if entry.key == keys::node(shared.node) {
            continue;
        }
        if seen_ms + FORGOTTEN_MS < now_ms {
            txn = txn.expect_version(entry.key.clone(), entry.version).delete(entry.key);
        } else if seen_ms + GONE_MS > now_ms {
            others += 1;
        }
    }
    shared.share_limits_with(others);
    match shared.store.commit(txn.relaxed()).await {
        Ok(_) | Err(StoreError::Conflict | StoreError::TooOld) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
