//! What the functions run on, for whoever prepares for them: the distinct accounts, runtimes and memory sizes.
//!
//! Not here: what is prepared. The list is made anew from all records after each change, at most once in `EVERY`; it is
//! short however many functions there are.

use std::collections::BTreeSet;
use std::time::Duration;

use model::RuntimeUse;
use store::Range;
use tokio::sync::watch;

use super::record::FunctionRecord;
use super::{Functions, decoded, error, keys};

/// How often the records are gone through at most: a deployment changes many of them.
pub(super) const EVERY: Duration = Duration::from_millis(500);
/// Records of one page.
const PAGE_ROWS: usize = 500;

/// The present list, and those who wait for another.
pub(super) struct Uses {
    present: watch::Sender<BTreeSet<RuntimeUse>>,
}

impl Uses {
    pub(super) fn new() -> Self {
        Self { present: watch::Sender::new(BTreeSet::new()) }
    }

    /// Waits until the list is another than `known`.
    pub(super) async fn other_than(&self, known: &BTreeSet<RuntimeUse>) -> BTreeSet<RuntimeUse> {
        let mut receiver = self.present.subscribe();
        // The sender lives as long as `self`.
        let found = receiver.wait_for(|present| present != known).await.map(|present| present.clone());
        found.unwrap_or_else(|_| known.clone())
    }
}

impl Functions {
    /// Makes the list anew.
    pub(super) async fn list_uses(&self) -> Result<(), aws::Error> {
        let mut range = Range::prefix(keys::watched()).rows(PAGE_ROWS);
        let mut found = BTreeSet::new();
        loop {
            let page = self.store.range(&range).await.map_err(error::store)?;
            for entry in &page.entries {
                let record: FunctionRecord = decoded(&entry.value)?;
                let settings = &record.latest.settings;
                if let Some(account) = keys::account_of(&entry.key) {
                    let (runtime, memory_mb) = (settings.runtime.clone(), settings.memory_mb);
                    found.insert(RuntimeUse { account, runtime, memory_mb });
                }
            }
            match page.entries.last() {
                Some(last) if page.more => range = range.beyond(last.key.clone()),
                _ => break,
            }
        }
        self.uses.present.send_if_modified(|present| {
            let changed = *present != found;
            *present = found;
            changed
        });
        Ok(())
    }
}
