//! What runs beside the API: following changes, own and of other nodes, and removing packages that nobody uses.
//!
//! Not here: what may be removed; `packages` decides that. One task per process is enough; several do no harm.

use std::sync::Arc;
use std::time::Duration;

use super::uses::EVERY;
use super::{Functions, keys};

/// How often removals are looked for.
const ROUND: Duration = Duration::from_secs(60);

impl Functions {
    /// Follows the store until it closes. Drop the future to stop sooner.
    pub async fn run(self: Arc<Self>) {
        let mut watch = self.store.watch(&keys::watched());
        let mut rounds = tokio::time::interval(ROUND);
        // Before the first round, which would take bytes whose owners have not said so yet for nobody's.
        while let Err(problem) = self.find_strays().await {
            if matches!(problem, store::Error::Closed) {
                return;
            }
            tracing::warn!(%problem, "the owners of code packages could not be told; trying again");
            tokio::time::sleep(ROUND).await;
        }
        rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut listings = tokio::time::interval(EVERY);
        listings.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut listed = false;
        loop {
            tokio::select! {
                () = watch.changed() => {
                    self.forget();
                    listed = false;
                    continue;
                }
                _ = rounds.tick() => self.round().await,
                _ = listings.tick(), if !listed => {
                    listed = self.listed().await;
                    if !listed {
                        listings.reset_after(ROUND);
                    }
                }
            }
            if matches!(self.store.snapshot().await, Err(store::Error::Closed)) {
                return;
            }
        }
    }

    /// True when what functions run on is known.
    async fn listed(&self) -> bool {
        let listed = self.list_uses().await;
        if let Err(problem) = &listed {
            tracing::warn!(%problem, "what functions run on could not be listed; trying again");
        }
        listed.is_ok()
    }

    async fn round(&self) {
        match self.collect_garbage().await {
            Ok(0) => {}
            Ok(removed) => tracing::debug!(removed, "code packages without users are removed"),
            Err(problem) => tracing::warn!(%problem, "code packages without users could not be removed; trying later"),
        }
    }
}
