//! All environments of this host: room for them, where they are, and which goes first when room is short.
//!
//! Invariants
//!   1. The configured memory of all environments together, and their number, stay within the limits: each holds its
//!      `Room` from before it starts until its sandbox is gone.
//!   2. Room is given in the order it was asked for.
//!   3. While somebody waits for room, no environment is kept idle.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use model::{FunctionRef, FunctionVersion};
use parking_lot::Mutex;
use sandbox::Control;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::EngineConfig;
use crate::pool::Pool;

/// What an environment does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EnvironmentState {
    /// In its init phase.
    Starting,
    /// Waits for a call.
    Idle,
    /// Serves a call.
    Busy,
}

/// One environment, as `dunlin ps` shows it.
#[derive(Debug, Clone)]
pub struct EnvironmentInfo {
    /// 32 hexadecimal digits, as in its log stream's name.
    pub id: String,
    /// The function; `qualifier` empty.
    pub function: FunctionRef,
    /// `$LATEST` or a version number.
    pub version: String,
    /// What it does.
    pub state: EnvironmentState,
    /// Milliseconds since it was started.
    pub age_ms: u64,
    /// Configured memory, MiB.
    pub memory_mb: u32,
    /// Bytes of memory used now.
    pub memory_bytes: u64,
    /// Calls served.
    pub served: u64,
    /// Milliseconds of its init phase; nothing while that goes on.
    pub init_ms: Option<u64>,
}

/// What is known about an environment from outside, while another task owns it.
#[derive(Debug)]
pub(crate) struct Card {
    pub(crate) id: String,
    pub(crate) version: Arc<FunctionVersion>,
    pub(crate) born_us: u64,
    pub(crate) control: Weak<dyn Control>,
    pub(crate) state: AtomicU8,
    pub(crate) served: AtomicU64,
    pub(crate) init_us: AtomicU64,
}

impl Card {
    /// Notes what the environment does now.
    pub(crate) fn set(&self, state: EnvironmentState) {
        self.state.store(state as u8, Ordering::Relaxed);
    }

    fn info(&self, now_us: u64) -> EnvironmentInfo {
        let state = match self.state.load(Ordering::Relaxed) {
            state if state == EnvironmentState::Idle as u8 => EnvironmentState::Idle,
            state if state == EnvironmentState::Busy as u8 => EnvironmentState::Busy,
            _ => EnvironmentState::Starting,
        };
        let init_us = self.init_us.load(Ordering::Relaxed);
        EnvironmentInfo {
            id: self.id.clone(),
            function: self.version.function.clone(),
            version: self.version.version.clone(),
            state,
            age_ms: now_us.saturating_sub(self.born_us) / 1_000,
            memory_mb: self.version.memory_mb,
            memory_bytes: self.control.upgrade().map_or(0, |control| control.usage().memory_bytes),
            served: self.served.load(Ordering::Relaxed),
            init_ms: (state != EnvironmentState::Starting).then_some(init_us / 1_000),
        }
    }
}

/// A place for one environment on this host, until dropped.
#[derive(Debug)]
pub(crate) struct Room {
    _place: OwnedSemaphorePermit,
    _memory: OwnedSemaphorePermit,
}

/// The environments of this host.
pub(crate) struct Fleet {
    places: Arc<Semaphore>,
    memory: Arc<Semaphore>,
    memory_mb_max: u32,
    /// Starts that may go on at once.
    pub(crate) starts: Arc<Semaphore>,
    hungry: AtomicUsize,
    busy_milli: AtomicU64,
    pools: Mutex<HashMap<FunctionRef, Vec<Arc<Pool>>>>,
    cards: Mutex<BTreeMap<String, Arc<Card>>>,
}

impl Fleet {
    /// An empty host.
    pub(crate) fn new(config: &EngineConfig) -> Self {
        let memory_mb_max = config.memory_mb_max.min(u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX));
        Self {
            places: Arc::new(Semaphore::new(config.environments_max as usize)),
            memory: Arc::new(Semaphore::new(memory_mb_max as usize)),
            memory_mb_max,
            starts: Arc::new(Semaphore::new(config.starts_max.max(1))),
            hungry: AtomicUsize::new(0),
            busy_milli: AtomicU64::new(0),
            pools: Mutex::default(),
            cards: Mutex::default(),
        }
    }

    /// The pool of a version. A revision that was not seen before retires the pool of the former one.
    pub(crate) fn pool(&self, version: &Arc<FunctionVersion>) -> Arc<Pool> {
        let mut retired = None;
        let pool = {
            let mut pools = self.pools.lock();
            if !pools.contains_key(&version.function) {
                pools.insert(version.function.clone(), Vec::new());
            }
            let Some(of_function) = pools.get_mut(&version.function) else { unreachable!("it was just inserted") };
            match of_function.iter_mut().find(|pool| pool.version.version == version.version) {
                Some(pool) if pool.version.revision == version.revision => return pool.clone(),
                Some(slot) => {
                    let fresh = Arc::new(Pool::new(version.clone()));
                    retired = Some(std::mem::replace(slot, fresh.clone()));
                    fresh
                }
                None => {
                    let fresh = Arc::new(Pool::new(version.clone()));
                    of_function.push(fresh.clone());
                    fresh
                }
            }
        };
        if let Some(retired) = retired {
            drop(retired.retire());
        }
        pool
    }

    /// Waits for room for one environment; nothing if this host can never have it.
    pub(crate) async fn room(&self, memory_mb: u32) -> Option<Room> {
        if memory_mb > self.memory_mb_max {
            return None;
        }
        if let Some(room) = self.room_now(memory_mb) {
            return Some(room);
        }
        self.hungry.fetch_add(1, Ordering::SeqCst);
        let hunger = Hunger(self);
        self.evict_for(memory_mb);
        // The semaphores are never closed.
        let place = self.places.clone().acquire_owned().await.ok()?;
        let memory = self.memory.clone().acquire_many_owned(memory_mb).await.ok()?;
        drop(hunger);
        Some(Room { _place: place, _memory: memory })
    }

    fn room_now(&self, memory_mb: u32) -> Option<Room> {
        let place = self.places.clone().try_acquire_owned().ok()?;
        let memory = self.memory.clone().try_acquire_many_owned(memory_mb).ok()?;
        Some(Room { _place: place, _memory: memory })
    }

    /// Ends idle environments, the longest idle first, until what they held is enough.
    fn evict_for(&self, memory_mb: u32) {
        let mut free_mb = self.memory.available_permits() as u64;
        let mut places = self.places.available_permits();
        while free_mb < u64::from(memory_mb) || places == 0 {
            let pools: Vec<Arc<Pool>> = self.pools.lock().values().flatten().cloned().collect();
            let oldest = pools.iter().filter_map(|pool| Some((pool.idle_since_us()?, pool))).min_by_key(|(us, _)| *us);
            let Some((_, pool)) = oldest else { break };
            if pool.evict_oldest() {
                free_mb += u64::from(pool.version.memory_mb);
                places += 1;
            }
        }
    }

    /// Whether somebody waits for room.
    pub(crate) fn is_hungry(&self) -> bool {
        self.hungry.load(Ordering::SeqCst) > 0
    }

    /// Ends environments that were idle since before `before_us`, and forgets pools that have nothing left.
    pub(crate) fn expire(&self, before_us: u64) {
        let mut ended = Vec::new();
        self.pools.lock().retain(|_, of_function| {
            of_function.retain(|pool| {
                ended.extend(pool.expire(before_us));
                // Whoever else holds the pool is about to use it.
                Arc::strong_count(pool) > 1 || !pool.is_empty()
            });
            !of_function.is_empty()
        });
        drop(ended);
    }

    /// Takes every pool out of use: idle environments end now, the others after their call.
    pub(crate) fn retire_all(&self) {
        let pools: Vec<Arc<Pool>> = self.pools.lock().drain().flat_map(|(_, of_function)| of_function).collect();
        for pool in pools {
            drop(pool.retire());
        }
    }

    /// Predicted processor use of all running calls, in thousandths.
    pub(crate) fn busy_milli(&self) -> u64 {
        self.busy_milli.load(Ordering::Relaxed)
    }

    /// Counts a call's predicted use in.
    pub(crate) fn add_busy(&self, milli: u64) {
        self.busy_milli.fetch_add(milli, Ordering::Relaxed);
    }

    /// Counts a call's predicted use out.
    pub(crate) fn sub_busy(&self, milli: u64) {
        self.busy_milli.fetch_sub(milli, Ordering::Relaxed);
    }

    /// Shows an environment.
    pub(crate) fn enter(&self, card: Arc<Card>) {
        self.cards.lock().insert(card.id.clone(), card);
    }

    /// Kills every sandbox, whoever holds its environment.
    pub(crate) fn kill_all(&self) {
        let cards: Vec<Arc<Card>> = self.cards.lock().values().cloned().collect();
        for control in cards.iter().filter_map(|card| card.control.upgrade()) {
            control.kill();
        }
    }

    /// An environment is gone.
    pub(crate) fn leave(&self, id: &str) {
        self.cards.lock().remove(id);
    }

    /// All environments of this host.
    pub(crate) fn environments(&self, now_us: u64) -> Vec<EnvironmentInfo> {
        let cards: Vec<Arc<Card>> = self.cards.lock().values().cloned().collect();
        cards.iter().map(|card| card.info(now_us)).collect()
    }

    #[cfg(test)]
    pub(crate) fn pools_len(&self) -> usize {
        self.pools.lock().len()
    }
}

/// Counts one that waits for room, also when it stops waiting.
struct Hunger<'a>(&'a Fleet);

impl Drop for Hunger<'_> {
    fn drop(&mut self) {
        self.0.hungry.fetch_sub(1, Ordering::SeqCst);
    }
}
