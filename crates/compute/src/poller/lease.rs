//! Who polls a shard: one process at a time, and what it may still write when another has taken over.
//!
//! A holder is believed to be alive as long as its sign of life changes; no clocks are compared. It gives one before it
//! takes its first shard, so who looks after it saw a holder knows of it. Every checkpoint is written on condition of the
//! commit before, so that one that lost its shard writes nothing any more.
//!
//! Invariants
//!   1. Of two processes only the one that took a shard last moves its checkpoint.
//!   2. A process that is alone over its store writes no signs of life: whoever else is named is dead.
//!   3. Elsewhere only he is taken for dead whose sign was looked for after he was seen to hold something.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use base::Clock;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use store::{Range, Store, Txn, Version};
use tokio::sync::{Mutex, OnceCell, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::keys;
use super::lane::Window;
use super::shard::Checkpoint;

/// How often a sign of life is given, and how long one may stand still.
const BEAT_EVERY: Duration = Duration::from_secs(2);
const DEAD_AFTER_US: u64 = 10_000_000;
/// After what time a sign of life that stands still is removed.
const REMOVED_AFTER_US: u64 = 600_000_000;
/// How long to wait after the store failed.
const STORE_PAUSE: Duration = Duration::from_millis(500);
/// How often a checkpoint is tried to be written.
const TRIES: u32 = 4;

/// What is kept of a shard.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Kept {
    /// The process that polls it.
    pub(super) holder: Option<String>,
    /// How often it was taken.
    pub(super) fence: u64,
    pub(super) checkpoint: Checkpoint,
}

/// The processes over this store, as far as they poll.
pub(super) struct Nodes {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    own: String,
    alone: bool,
    /// The others whose signs of life have not stood still for long.
    living: watch::Sender<BTreeSet<String>>,
    signs: Mutex<Signs>,
    beating: OnceCell<()>,
}

/// Signs of life: how many were given, and since when those of others stand still.
#[derive(Default)]
struct Signs {
    given: u64,
    seen: BTreeMap<String, (Bytes, u64)>,
}

/// A shard that this process polls.
pub(super) struct Lease {
    nodes: Arc<Nodes>,
    key: Bytes,
    version: Version,
    kept: Kept,
    windows: BTreeSet<usize>,
}

impl Nodes {
    pub(super) fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>, own: String, alone: bool) -> Arc<Self> {
        let (living, signs, beating) = (watch::Sender::default(), Mutex::default(), OnceCell::new());
        Arc::new(Self { store, clock, own, alone, living, signs, beating })
    }

    /// Takes a shard, as soon as no other process that lives has it. `first` is how far it is if nothing is kept of it.
    pub(super) async fn take(
        self: &Arc<Self>,
        mapping: &str,
        shard: &str,
        first: &Checkpoint,
        stop: &CancellationToken,
    ) -> Option<Lease> {
        stop.run_until_cancelled(self.taken(mapping, shard, first)).await
    }

    async fn taken(self: &Arc<Self>, mapping: &str, shard: &str, first: &Checkpoint) -> Lease {
        if !self.alone {
            // Nobody is taken for dead before it is known who there is.
            self.beating.get_or_init(|| self.start_beating()).await;
        }
        let key = keys::shard(mapping, shard);
        let mut watch = self.store.watch(&key);
        let mut living = self.living.subscribe();
        let mut looked_for = None;
        loop {
            let entry = match self.store.get(&key).await {
                Ok(entry) => entry,
                Err(problem) => {
                    tracing::warn!(%problem, "a shard cannot be taken");
                    sleep(STORE_PAUSE).await;
                    continue;
                }
            };
            let kept = entry.as_ref().and_then(|entry| serde_json::from_slice::<Kept>(&entry.value).ok());
            let kept = kept.unwrap_or(Kept { holder: None, fence: 0, checkpoint: first.clone() });
            if self.is_with_another(&kept, &mut living) {
                tokio::select! {
                    () = watch.changed() => {}
                    _ = living.changed() => {}
                }
                continue;
            }
            if !self.alone
                && kept.holder != looked_for
                && kept.holder.as_ref().is_some_and(|holder| *holder != self.own)
            {
                // It may have come since the last look.
                match self.beat().await {
                    true => looked_for = kept.holder,
                    false => sleep(STORE_PAUSE).await,
                }
                continue;
            }
            let kept = Kept { holder: Some(self.own.clone()), fence: kept.fence + 1, ..kept };
            let txn =
                Txn::new().relaxed().expect_unchanged(key.clone(), entry.as_ref()).put(key.clone(), encode(&kept));
            match self.store.commit(txn).await {
                Ok(version) => {
                    return Lease { nodes: self.clone(), key, version, kept, windows: BTreeSet::new() };
                }
                Err(store::Error::Conflict | store::Error::TooOld) => {}
                Err(problem) => {
                    tracing::warn!(%problem, "a shard cannot be taken");
                    sleep(STORE_PAUSE).await;
                }
            }
        }
    }

    fn is_with_another(&self, kept: &Kept, living: &mut watch::Receiver<BTreeSet<String>>) -> bool {
        let living = living.borrow_and_update();
        kept.holder.as_ref().is_some_and(|holder| !self.alone && living.contains(holder))
    }

    /// Gives signs of life as long as there are pollers, and watches those of others.
    async fn start_beating(self: &Arc<Self>) {
        while !self.beat().await {
            sleep(STORE_PAUSE).await;
        }
        let nodes = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                sleep(BEAT_EVERY).await;
                let Some(nodes) = nodes.upgrade() else { return };
                nodes.beat().await;
            }
        });
    }

    /// Gives a sign of life and looks for those of others. False: one or the other failed.
    async fn beat(&self) -> bool {
        let mut signs = self.signs.lock().await;
        let Signs { given, seen } = &mut *signs;
        *given += 1;
        let mut txn = Txn::new().relaxed().put(keys::node(&self.own), given.to_string());
        let now_us = self.clock.monotonic_us();
        let mut living = BTreeSet::new();
        match self.store.range(&Range::prefix(keys::nodes())).await {
            Ok(page) => {
                for entry in page.entries {
                    let Some(node) = keys::node_of(&entry.key).filter(|node| *node != self.own) else { continue };
                    let (last, since_us) = seen.entry(node.clone()).or_insert_with(|| (entry.value.clone(), now_us));
                    if *last != entry.value {
                        (*last, *since_us) = (entry.value, now_us);
                    }
                    let still_us = now_us.saturating_sub(*since_us);
                    if still_us < DEAD_AFTER_US {
                        living.insert(node);
                    } else if still_us >= REMOVED_AFTER_US {
                        txn = txn.delete(entry.key);
                    }
                }
                self.living.send_if_modified(|known| {
                    let changed = *known != living;
                    *known = living;
                    changed
                });
            }
            Err(problem) => {
                tracing::warn!(%problem, "signs of life could not be read");
                return false;
            }
        }
        let written = self.store.commit(txn).await;
        written.inspect_err(|problem| tracing::warn!(%problem, "a sign of life could not be written")).is_ok()
    }
}

impl Lease {
    /// How far the shard was when it was taken.
    pub(super) fn checkpoint(&self) -> &Checkpoint {
        &self.kept.checkpoint
    }

    /// The windows that were open, by lane.
    pub(super) async fn windows(&mut self, mapping: &str, shard: &str, lanes: usize) -> Vec<Option<Window>> {
        let mut windows = Vec::with_capacity(lanes);
        for lane in 0..lanes {
            let entry = self.nodes.store.get(&keys::window(mapping, shard, lane)).await.ok().flatten();
            let window = entry.and_then(|entry| serde_json::from_slice(&entry.value).ok());
            if window.is_some() {
                self.windows.insert(lane);
            }
            windows.push(window);
        }
        windows
    }

    /// Writes how far the shard is, with the open windows at these keys by lane. False: another process has it.
    pub(super) async fn save(&mut self, checkpoint: Checkpoint, windows: &[(Bytes, Option<Bytes>)]) -> bool {
        let kept = Kept { checkpoint, ..self.kept.clone() };
        self.write(kept, windows).await
    }

    /// Lets other processes take the shard.
    pub(super) async fn release(mut self) {
        let kept = Kept { holder: None, ..self.kept.clone() };
        self.write(kept, &[]).await;
    }

    async fn write(&mut self, kept: Kept, windows: &[(Bytes, Option<Bytes>)]) -> bool {
        for attempt in 1..=TRIES {
            let mut txn = Txn::new().relaxed().expect_version(self.key.clone(), self.version);
            txn = txn.put(self.key.clone(), encode(&kept));
            for (lane, (key, window)) in windows.iter().enumerate() {
                match window {
                    Some(window) => txn = txn.put(key.clone(), window.clone()),
                    None if self.windows.contains(&lane) => txn = txn.delete(key.clone()),
                    None => {}
                }
            }
            match self.nodes.store.commit(txn).await {
                Ok(version) => {
                    (self.version, self.kept) = (version, kept);
                    let open = windows.iter().enumerate().filter(|(_, (_, window))| window.is_some());
                    self.windows = open.map(|(lane, _)| lane).collect();
                    return true;
                }
                // An answer that was lost may have been a success.
                Err(store::Error::Conflict | store::Error::TooOld) => {
                    let entry = self.nodes.store.get(&self.key).await.ok().flatten();
                    let Some(entry) = entry else { return false };
                    let now = serde_json::from_slice::<Kept>(&entry.value).ok();
                    if now
                        .is_none_or(|now| now.fence != self.kept.fence || now.holder.as_ref() != Some(&self.nodes.own))
                    {
                        return false;
                    }
                    self.version = entry.version;
                }
                Err(store::Error::Closed) => return false,
                Err(problem) => {
                    tracing::warn!(%problem, "how far a shard is could not be written");
                    sleep(STORE_PAUSE * attempt).await;
                }
            }
        }
        // What is handled again does no harm.
        true
    }
}

fn encode(kept: &Kept) -> Vec<u8> {
    // Strings and numbers always serialise.
    serde_json::to_vec(kept).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use base::ManualClock;
    use model::Position;
    use store::MemoryStore;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_came_since_the_last_look_is_not_taken_for_dead() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let clock = ManualClock::at_ms(1_000);
        let node = |name: &str| Nodes::new(store.clone(), clock.clone(), name.to_owned(), false);
        let (earlier, later, stop) = (node("earlier"), node("later"), CancellationToken::new());
        let first = Checkpoint::at(Position::TrimHorizon);
        let _other = earlier.take("mapping", "other", &first, &stop).await.unwrap();
        let mut lease = later.take("mapping", "shard", &first, &stop).await.unwrap();
        let taking = earlier.take("mapping", "shard", &first, &stop);
        assert!(tokio::time::timeout(BEAT_EVERY / 2, taking).await.is_err(), "a shard was taken from one that lives");
        assert!(lease.save(first.clone(), &[]).await);
        lease.release().await;
        assert!(earlier.take("mapping", "shard", &first, &stop).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn who_stands_still_loses_its_shards_and_cannot_write_any_more() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let clock = ManualClock::at_ms(1_000);
        let node = |name: &str| Nodes::new(store.clone(), clock.clone(), name.to_owned(), false);
        let (stop, first) = (CancellationToken::new(), Checkpoint::at(Position::TrimHorizon));
        let still = Txn::new().put(keys::node("still"), "1").put(
            keys::shard("mapping", "shard"),
            encode(&Kept { holder: Some("still".to_owned()), fence: 1, checkpoint: first.clone() }),
        );
        let version = store.commit(still).await.unwrap();
        let key = keys::shard("mapping", "shard");
        let kept = Kept { holder: Some("still".to_owned()), fence: 1, checkpoint: first.clone() };
        let mut lost = Lease { nodes: node("still"), key, version, kept, windows: BTreeSet::new() };
        let taking = async {
            let ticking = async {
                for _ in 0..100 {
                    sleep(BEAT_EVERY).await;
                    clock.advance(BEAT_EVERY);
                }
            };
            let taker = node("taker");
            tokio::select! {
                lease = taker.take("mapping", "shard", &first, &stop) => lease,
                () = ticking => None,
            }
        };
        let lease = tokio::time::timeout(Duration::from_secs(60), taking).await.unwrap().unwrap();
        assert_eq!(lease.kept.fence, 2);
        assert!(!lost.save(first.clone(), &[]).await, "one that lost its shard wrote how far it is");
    }
}
