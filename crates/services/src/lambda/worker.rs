//! What runs beside the API: following other nodes' changes, and removing packages that nobody uses.
//!
//! Not here: what may be removed; `packages` decides that. One task per process is enough; several do no harm.

use std::sync::Arc;
use std::time::Duration;

use super::{Functions, keys};

/// How often removals are looked for.
const ROUND: Duration = Duration::from_secs(60);

impl Functions {
    /// Follows the store until it closes. Drop the future to stop sooner.
    pub async fn run(self: Arc<Self>) {
        let mut watch = self.store.watch(&keys::watched());
        let mut rounds = tokio::time::interval(ROUND);
        match self.find_strays().await {
            Ok(0) => {}
            Ok(found) => tracing::info!(found, "uploads that nothing names will be removed"),
            Err(problem) => tracing::warn!(%problem, "uploads that nothing names were not looked for"),
        }
        rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = watch.changed() => self.forget(),
                _ = rounds.tick() => self.round().await,
            }
            if matches!(self.store.snapshot().await, Err(store::Error::Closed)) {
                return;
            }
        }
    }

    async fn round(&self) {
        match self.collect_garbage().await {
            Ok(0) => {}
            Ok(removed) => tracing::debug!(removed, "code packages without users are removed"),
            Err(problem) => tracing::warn!(%problem, "code packages without users could not be removed; trying later"),
        }
    }
}
