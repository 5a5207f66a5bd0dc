//! Which versions have snapshots, how far they are with them, and when these go.
//!
//! A version gets a shelf when it is published or first called; its snapshot is taken in the background, and until it is
//! there environments run the init themselves. It goes with the version, after a while without use, when others need its
//! place, and while memory is short.
//!
//! Invariant: an init that leaves what cannot be forked is run once for that, not again and again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use model::{FunctionRef, FunctionVersion, InvokeError, SnapshotState};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::Ready;
use super::kind::{Kind, Snapshot};
use super::shelf::Shelf;
use crate::engine::Core;

/// How long a snapshot stays that no environment is made from.
pub(super) const UNUSED_FOR: Duration = Duration::from_secs(6 * 3_600);
/// Snapshots at once: each holds what its init made in memory.
const SNAPSHOTS_MAX: usize = 32;
/// How often it is looked whether versions are gone.
const LOOK_EVERY: Duration = Duration::from_secs(15);

/// What is known of versions beside their shelves.
#[derive(Default)]
pub(super) struct Versions {
    /// Why there is no snapshot, and never will be.
    unfit: Mutex<HashMap<Kind, String>>,
    /// Published, and without a shelf yet.
    announced: Mutex<HashSet<(FunctionRef, String)>>,
    /// Put away, and not taken anew yet.
    put_away: Mutex<HashSet<Kind>>,
    looked: Mutex<Option<Instant>>,
}

impl Ready {
    /// The kind of a version that begins from a snapshot; from here on it has a shelf.
    pub(super) fn shelf_of_snapshot(&self, version: &Arc<FunctionVersion>) -> Option<Kind> {
        let kind = Kind::snapshot(version)?;
        if self.versions.unfit.lock().contains_key(&kind) {
            return None;
        }
        self.versions.put_away.lock().remove(&kind);
        let ended = {
            let mut shelves = self.shelves.lock();
            shelves.entry(kind.clone()).or_insert_with(|| Shelf::new(Some(version.clone())));
            let surplus = surplus(shelves.iter().map(|(kind, shelf)| (kind, shelf.used)), &kind);
            surplus.and_then(|surplus| shelves.remove(&surplus))
        };
        drop(ended);
        Some(kind)
    }

    /// A version was published: until `prepare` its snapshot counts as being taken.
    pub(crate) fn announce(&self, function: &FunctionRef) {
        if let Some(announced) = announced(function).filter(|_| self.max > 0) {
            self.versions.announced.lock().insert(announced);
        }
    }

    /// Has the snapshot of a version taken that was published, if it is to have one.
    pub(crate) fn prepare(&self, core: &Arc<Core>, function: &FunctionRef, version: Option<&Arc<FunctionVersion>>) {
        if let Some(kind) = version.filter(|_| self.max > 0).and_then(|version| self.shelf_of_snapshot(version)) {
            self.fill(core, &kind);
        }
        if let Some(announced) = announced(function) {
            self.versions.announced.lock().remove(&announced);
        }
    }

    /// How far a version is.
    pub(crate) fn snapshot(&self, function: &FunctionRef, version: &str) -> SnapshotState {
        let is_its =
            |kind: &Kind| kind.snapshot.as_ref().is_some_and(|of| of.version == version && of.function == *function);
        if let Some((_, reason)) = self.versions.unfit.lock().iter().find(|(kind, _)| is_its(kind)) {
            return SnapshotState::Impossible(reason.clone());
        }
        if self.versions.announced.lock().contains(&(function.clone(), version.to_owned())) {
            return SnapshotState::Pending;
        }
        if self.versions.put_away.lock().iter().any(is_its) {
            return SnapshotState::PutAway;
        }
        let shelves = self.shelves.lock();
        match shelves.iter().find(|(kind, _)| is_its(kind)) {
            Some((_, shelf)) if shelf.zygote.is_some() => SnapshotState::Taken,
            Some((_, shelf)) if shelf.filling && !shelf.has_failed() => SnapshotState::Pending,
            _ => SnapshotState::Open,
        }
    }

    /// Nothing was made from a snapshot for so long that it goes.
    pub(super) fn put_away(&self, kind: &Kind) {
        if kind.snapshot.is_some() {
            self.versions.put_away.lock().insert(kind.clone());
        }
    }

    /// A version's init leaves what cannot be forked.
    pub(super) fn set_unfit(&self, kind: &Kind, reason: String) {
        self.versions.unfit.lock().insert(kind.clone(), reason);
        let ended = self.shelves.lock().remove(kind);
        drop(ended);
    }

    /// Once in a while, drops what is kept for versions that there are no more.
    pub(super) fn look_for_gone_versions(&self, core: &Arc<Core>) {
        let mut looked = self.versions.looked.lock();
        if looked.is_some_and(|looked| looked.elapsed() < LOOK_EVERY) {
            return;
        }
        *looked = Some(Instant::now());
        let mut kinds: Vec<Kind> = self.versions.unfit.lock().keys().cloned().collect();
        kinds.extend(self.versions.put_away.lock().iter().cloned());
        kinds.extend(self.shelves.lock().keys().filter(|kind| kind.snapshot.is_some()).cloned());
        if !kinds.is_empty() {
            core.tasks.spawn(drop_gone(core.clone(), kinds));
        }
    }
}

/// A function and the version that its qualifier names.
fn announced(function: &FunctionRef) -> Option<(FunctionRef, String)> {
    let version = function.qualifier.clone()?;
    Some((function.unqualified(), version))
}

/// The snapshot that goes because there are too many: of the account that has most, the one that was used longest ago. Never
/// the `newest`, which is what there is one too many for.
fn surplus<'a>(all: impl Iterator<Item = (&'a Kind, Instant)>, newest: &Kind) -> Option<Kind> {
    let all: Vec<_> = all.filter(|(kind, _)| kind.snapshot.is_some()).collect();
    if all.len() <= SNAPSHOTS_MAX {
        return None;
    }
    let of_account = |kind: &Kind| all.iter().filter(|(other, _)| other.account() == kind.account()).count();
    let others = all.iter().filter(|(kind, _)| *kind != newest);
    let least = others.max_by_key(|(kind, used)| (of_account(kind), used.elapsed()));
    least.map(|(kind, _)| (*kind).clone())
}

async fn drop_gone(core: Arc<Core>, kinds: Vec<Kind>) {
    for kind in kinds {
        let Some(Snapshot { function, version, revision }) = kind.snapshot.clone() else { continue };
        let reference = FunctionRef { qualifier: Some(version), ..function };
        let stays = match core.catalog.version(&reference).await {
            Ok(now) => now.snap_start && now.revision == revision,
            Err(error) => !matches!(error, InvokeError::NotFound(_)),
        };
        if !stays {
            core.ready.versions.unfit.lock().remove(&kind);
            core.ready.versions.put_away.lock().remove(&kind);
            let ended = core.ready.shelves.lock().remove(&kind);
            drop(ended);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::fixtures::version;
    use model::{AccountId, Runtime};

    #[tokio::test(start_paused = true)]
    async fn the_account_with_most_gives_way() {
        let of = |account: &str, number: usize| {
            let mut version = version("f");
            version.function.account = AccountId::parse(account).unwrap();
            (version.version, version.snap_start) = (number.to_string(), true);
            version.runtime = Runtime::parse("python3.12").unwrap();
            Kind::snapshot(&version).unwrap()
        };
        let quiet = of("111111111111", 0);
        let mut all = vec![(quiet.clone(), Instant::now())];
        for number in 1..SNAPSHOTS_MAX {
            tokio::time::advance(Duration::from_secs(1)).await;
            all.push((of("222222222222", number), Instant::now()));
        }
        let newest = of("111111111111", 1);
        let surplus_of = |all: &[(Kind, Instant)]| surplus(all.iter().map(|(kind, used)| (kind, *used)), &newest);
        assert_eq!(surplus_of(&all), None);
        all.push((newest.clone(), Instant::now()));
        assert_eq!(surplus_of(&all), Some(of("222222222222", 1)), "not the one that is used least");
        let own: Vec<_> = (0..=SNAPSHOTS_MAX).map(|number| (of("111111111111", number), Instant::now())).collect();
        assert_ne!(surplus_of(&own), Some(newest.clone()));
    }
}
