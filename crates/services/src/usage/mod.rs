//! The ledger: what every invocation used, kept exactly once, and what it would have cost.
//!
//! Not here: measuring (compute does), showing (the admin endpoint and the command line do). The free tier and volume
//! discounts are left out of the bill: it says what the calls cost at list price.
//!
//! Invariants
//!   1. `record` returns after the record is in the kernel's page cache, so it survives the death of this process; the
//!      store has it, flushed, at most about a second later. Power loss costs at most that second.
//!   2. A record is counted once: each has (boot id, sequence), the store remembers the last folded sequence of each
//!      boot, and both change in one commit.
//!   3. Nothing that is not folded is ever overwritten; a ledger that cannot be folded grows to its limit, then refuses.
//!   4. Sums are kept for ever, single records for `KEPT_MS`: what grows with every call ends, what bills need stays.
//!
//! Roads: `Usage::record` → `ring` (file) → `fold` → `store` (chunks of records and hourly sums, see `keys`) →
//! `Usage::bill`, `Usage::records`, `Usage::count`. Start reading at `Usage`.

mod error;
mod keys;
mod price;
mod prune;
mod query;
mod ring;
mod worker;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::Clock;
use model::UsageRecord;
use model::ports::{Meter, MeterError};
use store::Store;
use tokio::sync::Notify;

pub use error::Error;
pub use price::{PER_GB_SECOND_USD, PER_REQUEST_USD};
pub use prune::KEPT_MS;
pub use query::Bill;
use ring::Ring;
use worker::Folder;

/// Name of the folder of rings within the data folder.
pub const RING_FOLDER: &str = "usage";

/// The ledger of one server.
pub struct Usage {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    ring: Ring,
    /// One fold at a time; holds what a failed fold left.
    folder: tokio::sync::Mutex<Folder>,
    /// Rings a fold that should not wait for its second.
    hurry: Notify,
}

impl std::fmt::Debug for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Usage").field("ring", &self.ring).finish_non_exhaustive()
    }
}

impl Usage {
    /// Opens the ledger in `data_folder` and folds what earlier boots left there. `boot_id` names this run of the server
    /// and is never used again; letters, digits and hyphens.
    pub async fn open(
        data_folder: &Path,
        boot_id: &str,
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, Error> {
        let rings: PathBuf = data_folder.join(RING_FOLDER);
        std::fs::create_dir_all(&rings).map_err(|source| Error::Io { path: rings.clone(), source })?;
        worker::fold_dead_boots(&rings, boot_id, &*store, &*clock).await?;
        let ring = Ring::create(&rings, boot_id)?;
        let folder = tokio::sync::Mutex::new(Folder::new(boot_id));
        Ok(Arc::new(Self { store, clock, ring, folder, hurry: Notify::new() }))
    }
}

impl Meter for Usage {
    fn record(&self, record: UsageRecord) -> Result<(), MeterError> {
        let crowded = self.ring.append(record).map_err(|error| MeterError(error.to_string()))?;
        if crowded {
            self.hurry.notify_one();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
