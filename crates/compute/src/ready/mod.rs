//! Guests that are booted before anybody calls: what a cold start takes instead of starting a process, and sandboxes that
//! were made before: what programs of functions are executed in.
//!
//! A booted guest is an interpreter in a sandbox of its own that has no function yet. Node.js guests are processes that were
//! started ahead; Python guests are forked from a zygote, which is nearly free, so that a call that finds none ready has
//! one forked at once. Python functions whose init takes long get another zygote, which has imported what their modules
//! import of others; those that bring the same packages share it, and so does each new revision of their code. Versions with
//! SnapStart have one each, which has run their init: the snapshot.
//!
//! | file       | is                                                              |
//! |------------|-----------------------------------------------------------------|
//! | `kind`     | which guests can serve which function                           |
//! | `demand`   | how many to have ready                                          |
//! | `boot`     | boots a guest, makes a zygote, gives a guest its function       |
//! | `snapshot` | runs a version's init for all its environments                  |
//! | `shelf`    | what is ready of one kind, and what is missing                  |
//! | `versions` | which versions have snapshots, how far they are, when they go   |
//! | `mod`      | the shelves, and when something is made for them                |
//!
//! Invariants
//!   1. Nothing is booted for a kind before a function of it exists or is called.
//!   2. A booted guest serves one function, once; it is never put back.
//!   3. Guests are booted one after another, and a while after a call took one: the processors are the call's first.
//!   4. While memory is short none is booted and all of them end; they are made again when there is enough.
//!   5. What fails is tried again after a while, not at once.
//!
//! Start reading at `Ready::take`.

mod boot;
mod demand;
mod kind;
mod shelf;
mod snapshot;
mod versions;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use model::{CodeDigest, FunctionVersion, Runtime, RuntimeUse};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use crate::engine::Core;
use crate::{unneeded, variables};
use boot::Zygote;
use kind::Sight;
use shelf::{Missing, Shelf};
use snapshot::Untaken;
use versions::Versions;

pub(crate) use boot::{Booted, Parts};
pub(crate) use kind::Kind;

/// Functions that have a zygote of their own at once: each holds its dependencies in memory.
const OWN_MAX: usize = 16;
/// How long a kind stays ready that no function of this host's has any more.
const UNUSED_FOR: Duration = Duration::from_secs(600);
/// Inits of snapshots at once, of those that are not longer than `INIT_HELD`.
const INITS_MAX: usize = 2;
/// How long an init keeps others from beginning; a slow one beyond that mostly waits.
const INIT_HELD: Duration = Duration::from_secs(2);
/// How often it is looked whether a start is under way.
const BUSY_POLL: Duration = Duration::from_millis(5);
/// For how long after a call took a guest the processors are left to it.
const CALM_AFTER: Duration = Duration::from_millis(100);
/// How long a boot stands back behind calls at most.
const STANDS_BACK: Duration = Duration::from_secs(2);

/// All booted guests of this host.
pub(crate) struct Ready {
    max: usize,
    began: Instant,
    shelves: Mutex<HashMap<Kind, Shelf>>,
    /// What the functions that exist run on.
    uses: Mutex<BTreeSet<RuntimeUse>>,
    /// Held by the one boot that goes on.
    boots: tokio::sync::Mutex<()>,
    /// Held by inits of snapshots while they are likely to need processors.
    inits: tokio::sync::Semaphore,
    /// Versions that begin from snapshots.
    versions: Versions,
    /// When a call last asked for a guest.
    asked: Mutex<Option<Instant>>,
}

/// What the imports of a version's zygote can look at; nothing if its package is not unpacked.
fn sight(core: &Core, version: &FunctionVersion) -> Option<Sight> {
    let dependencies = core.packages.dependencies(&version.code)?;
    let variables = variables::own_variables(version, &core.config.guest_variables).into_iter().collect();
    Some(Sight { code: version.code.clone(), variables, dependencies })
}

impl Ready {
    /// Shelves with at most `max` guests of each kind; none at all if that is zero.
    pub(crate) fn new(max: usize) -> Self {
        Self {
            max,
            began: Instant::now(),
            shelves: Mutex::default(),
            uses: Mutex::default(),
            boots: tokio::sync::Mutex::default(),
            inits: tokio::sync::Semaphore::new(INITS_MAX),
            versions: Versions::default(),
            asked: Mutex::default(),
        }
    }

    fn now_s(&self) -> u64 {
        self.began.elapsed().as_secs()
    }

    /// A booted guest for a version: one that is ready, or a fork that is made now. None: start one.
    pub(crate) async fn take(&self, core: &Arc<Core>, version: &Arc<FunctionVersion>) -> Option<Booted> {
        if self.max == 0 {
            return None;
        }
        *self.asked.lock() = Some(Instant::now());
        if let Some(kind) = self.shelf_of_snapshot(version)
            && let Some(booted) = self.take_from(core, &kind, None).await
        {
            return Some(booted);
        }
        if self.shelves.lock().keys().any(|kind| kind.own.is_some())
            && let Some(sight) = sight(core, version)
            && let Some(own) = Kind::own(version, &sight.dependencies)
        {
            for kind in [own.alone(&sight), own] {
                if let Some(booted) = self.take_from(core, &kind, Some(&sight)).await {
                    return Some(booted);
                }
            }
        }
        let kind = Kind::for_version(version)?;
        self.shelves.lock().entry(kind.clone()).or_insert_with(|| Shelf::new(None));
        self.take_from(core, &kind, None).await
    }

    async fn take_from(&self, core: &Arc<Core>, kind: &Kind, sight: Option<&Sight>) -> Option<Booted> {
        let (found, zygote) = {
            let mut shelves = self.shelves.lock();
            let shelf = shelves.get_mut(kind)?;
            let found = shelf.booted.iter().rposition(|booted| booted.serves(sight));
            let zygote = shelf.zygote.clone().filter(|zygote| zygote.serves(sight));
            if found.is_none() && zygote.is_none() && shelf.zygote.is_some() {
                // Its imports would have gone another way for this function.
                return None;
            }
            shelf.used = Instant::now();
            shelf.demand.take(self.now_s());
            (found.map(|at| shelf.booted.remove(at)), zygote)
        };
        self.fill(core, kind);
        if found.is_some() {
            return found;
        }
        let zygote = zygote?;
        match zygote.fork(core).await {
            Ok(booted) => Some(booted),
            Err(error) => {
                self.retire(kind, &zygote, &error);
                None
            }
        }
    }

    /// Learns how long an init took: where that is long, the next finds the function's dependencies loaded.
    pub(crate) fn learn(&self, core: &Arc<Core>, version: &Arc<FunctionVersion>, init: Duration) {
        // Where more start than there are processors, an init has waited for its turns as well.
        let sharing = (core.fleet.starting() / core.config.cores.max(1)).max(1) as u32;
        if init < kind::INIT_WORTH * sharing || self.max == 0 {
            return;
        }
        let Some(sight) = sight(core, version) else { return };
        let Some(mut kind) = Kind::own(version, &sight.dependencies) else { return };
        let ended = {
            let mut shelves = self.shelves.lock();
            let zygote = shelves.get(&kind).and_then(|shelf| shelf.zygote.as_ref());
            if zygote.is_some_and(|zygote| !zygote.serves(Some(&sight))) {
                kind = kind.alone(&sight);
            }
            let shelf = shelves.entry(kind.clone()).or_insert_with(|| Shelf::new(Some(version.clone())));
            shelf.look_for_change(version);
            let own = shelves.iter().filter(|(other, _)| other.own.is_some() && **other != kind);
            let count = own.clone().count();
            let oldest = own.min_by_key(|(_, shelf)| shelf.used).map(|(other, _)| other.clone());
            oldest.filter(|_| count >= OWN_MAX).and_then(|oldest| shelves.remove(&oldest))
        };
        drop(ended);
        self.fill(core, &kind);
    }

    /// Takes a zygote out of use. Its forks live on.
    fn retire(&self, kind: &Kind, zygote: &Arc<Zygote>, error: &str) {
        tracing::debug!(?kind, %error, "a zygote forks no more");
        let mut shelves = self.shelves.lock();
        let taken = shelves.get_mut(kind).and_then(|shelf| shelf.zygote.take_if(|of| Arc::ptr_eq(of, zygote)));
        drop(shelves);
        drop(taken);
    }

    /// Prepares for the functions that exist now, and no longer for those that do not.
    pub(crate) fn set_uses(&self, core: &Arc<Core>, uses: &BTreeSet<RuntimeUse>) {
        if self.max == 0 {
            return;
        }
        self.uses.lock().clone_from(uses);
        self.tend(core);
    }

    /// Ends what nobody needs, makes what is missing, and replaces zygotes that are old; called every now and then.
    pub(crate) fn tend(&self, core: &Arc<Core>) {
        let wanted: HashSet<Kind> = self.uses.lock().iter().map(Kind::of).collect();
        let mut ended = Vec::new();
        let mut shelves = self.shelves.lock();
        for kind in &wanted {
            shelves.entry(kind.clone()).or_insert_with(|| Shelf::new(None));
        }
        shelves.retain(|kind, shelf| {
            let unused_for = if kind.snapshot.is_some() { versions::UNUSED_FOR } else { UNUSED_FOR };
            let keep = shelf.filling || wanted.contains(kind) || shelf.used.elapsed() < unused_for;
            if !keep {
                ended.append(&mut shelf.booted);
                self.put_away(kind);
            }
            let most = shelf.demand.wanted(self.now_s(), self.max);
            // The oldest first: what was booted last is warm in the caches.
            let surplus = shelf.booted.len().saturating_sub(most);
            ended.extend(shelf.booted.drain(..surplus));
            keep
        });
        let kinds: Vec<Kind> = shelves.keys().cloned().collect();
        drop(shelves);
        drop(ended);
        for kind in kinds {
            self.fill(core, &kind);
        }
        self.look_for_gone_versions(core);
    }

    /// Whether a zygote was made with a package.
    pub(crate) fn uses(&self, package: &CodeDigest) -> bool {
        let shelves = self.shelves.lock();
        shelves.values().filter_map(|shelf| shelf.version.as_ref()).any(|version| unneeded::has(version, package))
    }

    /// Ends everything: the host's memory is short, or the engine stops.
    pub(crate) fn clear(&self) {
        let shelves = std::mem::take(&mut *self.shelves.lock());
        drop(shelves);
    }

    /// How many guests are ready, and how many zygotes there are.
    #[cfg(test)]
    pub(crate) fn counts(&self) -> (usize, usize) {
        let shelves = self.shelves.lock();
        (
            shelves.values().map(|shelf| shelf.booted.len()).sum(),
            shelves.values().filter(|shelf| shelf.zygote.is_some()).count(),
        )
    }

    /// Has a shelf filled in the background, if something is missing on it and nobody does it already.
    fn fill(&self, core: &Arc<Core>, kind: &Kind) {
        let mut shelves = self.shelves.lock();
        let Some(shelf) = shelves.get_mut(kind) else { return };
        if shelf.filling || shelf.missing(kind, self.now_s(), self.max).is_none() || core.closing.is_cancelled() {
            return;
        }
        shelf.filling = true;
        core.tasks.spawn(fill(core.clone(), kind.clone()));
    }

    fn runs_out_of_forks(&self, kind: &Kind) -> bool {
        let shelves = self.shelves.lock();
        let is_plain = kind.own.is_none() && kind.snapshot.is_none() && kind.is_forked();
        is_plain && shelves.get(kind).is_some_and(Shelf::runs_out)
    }

    /// What is to be made next for a shelf; nothing: nobody fills it any more.
    fn missing(&self, core: &Core, kind: &Kind) -> Option<Missing> {
        let mut shelves = self.shelves.lock();
        let shelf = shelves.get_mut(kind)?;
        let allowed = !core.closing.is_cancelled() && !core.fleet.is_short();
        let missing = shelf.missing(kind, self.now_s(), self.max).filter(|_| allowed);
        shelf.filling = missing.is_some();
        missing
    }

    /// Forgets a booted guest that has ended.
    fn forget(&self, kind: &Kind, id: u64) {
        let found = {
            let mut shelves = self.shelves.lock();
            let Some(shelf) = shelves.get_mut(kind) else { return };
            let at = shelf.booted.iter().position(|booted| booted.id() == id);
            at.map(|at| shelf.booted.remove(at))
        };
        drop(found);
    }
}

/// Fills a shelf until nothing is missing on it.
async fn fill(core: Arc<Core>, kind: Kind) {
    let ready = &core.ready;
    loop {
        let one = ready.boots.lock().await;
        stand_back(&core, &kind).await;
        let Some(missing) = ready.missing(&core, &kind) else { return };
        match missing {
            Missing::Zygote(Some(version)) if kind.snapshot.is_some() => {
                // An init of a function's own may take minutes, and mostly waits.
                drop(one);
                take_snapshot(&core, &kind, &version).await;
            }
            Missing::Zygote(version) => match boot::zygote(&core, &kind, version.as_deref()).await {
                Ok(zygote) => put_zygote(&core, &kind, zygote),
                Err(error) => failed(&core, &kind, &error),
            },
            Missing::Guest(zygote) => put_guest(&core, &kind, zygote).await,
        }
    }
}

async fn take_snapshot(core: &Core, kind: &Kind, version: &FunctionVersion) {
    let taking = async {
        let turn = core.ready.inits.acquire().await;
        let taking = snapshot::take(core, kind, version);
        tokio::pin!(taking);
        tokio::select! {
            biased;
            end = &mut taking => return end,
            () = sleep(INIT_HELD) => drop(turn),
        }
        taking.await
    };
    match core.closing.run_until_cancelled(taking).await {
        Some(Ok(zygote)) => put_zygote(core, kind, zygote),
        Some(Err(Untaken::Unfit(reason))) => core.ready.set_unfit(kind, reason),
        Some(Err(Untaken::Failed(error))) => failed(core, kind, &error),
        None => {}
    }
}

fn put_zygote(core: &Core, kind: &Kind, zygote: Zygote) {
    put(core, kind, |shelf| {
        shelf.zygote = Some(Arc::new(zygote));
        shelf.changed = false;
    });
}

async fn put_guest(core: &Arc<Core>, kind: &Kind, zygote: Option<Arc<Zygote>>) {
    let booted = match &zygote {
        Some(zygote) => zygote.fork(core).await,
        None => boot::guest(core, kind).await,
    };
    match (booted, zygote) {
        (Ok(mut booted), _) => {
            watch(core, kind, &mut booted);
            put(core, kind, |shelf| shelf.booted.push(booted));
        }
        (Err(error), Some(zygote)) => {
            core.ready.retire(kind, &zygote, &error);
            // Another would forever be made where none can fork.
            if zygote.is_new() {
                failed(core, kind, &error);
            }
        }
        (Err(error), None) => failed(core, kind, &error),
    }
}

/// A shelf that was cleared meanwhile takes nothing: what was made for it ends.
fn put(core: &Core, kind: &Kind, act: impl FnOnce(&mut Shelf)) {
    if let Some(shelf) = core.ready.shelves.lock().get_mut(kind) {
        act(shelf);
    }
}

fn failed(core: &Core, kind: &Kind, error: &str) {
    if kind.own.is_some() || kind.snapshot.is_some() {
        tracing::debug!(?kind, %error, "no guests are ready that have loaded a function's dependencies or run its init");
    } else {
        let runtime = kind.runtime().map_or("a function's own", Runtime::as_str);
        tracing::warn!(runtime, %error, "no guest could be booted ahead; functions start from nothing");
    }
    put(core, kind, |shelf| shelf.failed(kind));
}

/// Waits while calls start environments, within reason. Where forks run out, nothing is waited with: a burst is using up the
/// last.
async fn stand_back(core: &Core, kind: &Kind) {
    let ready = &core.ready;
    let until = Instant::now() + STANDS_BACK;
    let is_calm = || ready.asked.lock().is_none_or(|asked| asked.elapsed() >= CALM_AFTER) && !core.fleet.is_starting();
    while !is_calm() && !ready.runs_out_of_forks(kind) && Instant::now() < until {
        sleep(BUSY_POLL).await;
    }
}

/// Takes a guest off its shelf when it ends.
fn watch(core: &Arc<Core>, kind: &Kind, booted: &mut Booted) {
    let (core, kind, control) = (Arc::downgrade(core), kind.clone(), booted.control());
    let id = booted.id();
    let watcher = tokio::spawn(async move {
        control.wait().await;
        if let Some(core) = core.upgrade() {
            core.ready.forget(&kind, id);
        }
    });
    booted.watched_by(watcher.abort_handle());
}
