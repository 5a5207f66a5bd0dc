//! What is to be prepared for the functions: what they run on, the distinct accounts, runtimes and memory sizes; and which
//! versions have environments always.
//!
//! Not here: who prepares it. Both lists are made anew from all records after each change, at most once in `EVERY`; they
//! are short however many functions there are.

use std::collections::BTreeSet;
use std::time::Duration;

use model::{Floor, FunctionRef, RuntimeUse};
use store::Range;
use tokio::sync::watch;

use super::record::{FunctionRecord, VersionId};
use super::{Functions, decoded, error, keys, provisioned};

/// How often the records are gone through at most: a deployment changes many of them.
pub(super) const EVERY: Duration = Duration::from_millis(500);
/// Records of one page.
const PAGE_ROWS: usize = 500;

/// The present lists, and those who wait for others.
pub(super) struct Uses {
    present: watch::Sender<BTreeSet<RuntimeUse>>,
    floors: watch::Sender<BTreeSet<Floor>>,
}

impl Uses {
    pub(super) fn new() -> Self {
        Self { present: watch::Sender::new(BTreeSet::new()), floors: watch::Sender::new(BTreeSet::new()) }
    }

    /// Waits until what functions run on is another list than `known`.
    pub(super) async fn other_than(&self, known: &BTreeSet<RuntimeUse>) -> BTreeSet<RuntimeUse> {
        changed(&self.present, known).await
    }

    /// Waits until the versions with environments always are another list than `known`.
    pub(super) async fn floors_other_than(&self, known: &BTreeSet<Floor>) -> BTreeSet<Floor> {
        changed(&self.floors, known).await
    }
}

async fn changed<T: Clone + PartialEq>(list: &watch::Sender<T>, known: &T) -> T {
    let mut receiver = list.subscribe();
    // The sender lives as long as its owner.
    let found = receiver.wait_for(|present| present != known).await.map(|present| present.clone());
    found.unwrap_or_else(|_| known.clone())
}

fn set<T: PartialEq>(list: &watch::Sender<T>, found: T) {
    list.send_if_modified(|present| {
        let changed = *present != found;
        *present = found;
        changed
    });
}

impl Functions {
    /// Makes the lists anew.
    pub(super) async fn list_uses(&self) -> Result<(), aws::Error> {
        let mut range = Range::prefix(keys::watched()).rows(PAGE_ROWS);
        let (mut uses, mut floors) = (BTreeSet::new(), BTreeSet::new());
        loop {
            let page = self.store.range(&range).await.map_err(error::store)?;
            for entry in &page.entries {
                let record: FunctionRecord = decoded(&entry.value)?;
                if let Some(function) = keys::function_of(&entry.key) {
                    let latest = record.runnable(&function, VersionId::Latest, &record.latest);
                    uses.extend(latest.runtime_use());
                    self.list_floors(&function, &record, &mut floors).await?;
                }
            }
            match page.entries.last() {
                Some(last) if page.more => range = range.beyond(last.key.clone()),
                _ => break,
            }
        }
        set(&self.uses.present, uses);
        set(&self.uses.floors, floors);
        Ok(())
    }

    async fn list_floors(
        &self,
        function: &FunctionRef,
        record: &FunctionRecord,
        floors: &mut BTreeSet<Floor>,
    ) -> Result<(), aws::Error> {
        let wanted = provisioned::wanted(record);
        if wanted.is_empty() {
            return Ok(());
        }
        let snapshot = self.store.snapshot().await.map_err(error::store)?;
        for (id, wanted) in wanted {
            let version = self.content(&*snapshot, function, record, id).await?;
            // A version that was deleted since its function's record was read is not listed the next time.
            let Some(version) = version else { continue };
            floors.insert(Floor {
                function: function.clone(),
                version: id.to_string(),
                revision: record.revision(&version),
                environments: wanted.environments,
                set_aside: wanted.set_aside,
            });
        }
        Ok(())
    }
}
