//! All environments of this host: room for them, where they are, and which goes first when room is short.
//!
//! Invariants
//!   1. The configured memory of all environments together, and their number, stay within the limits: each holds its
//!      `Room` from before it starts until its sandbox is gone.
//!   2. Where room is short, accounts take turns, and in each account its functions (`gate`), one environment at a time.
//!   3. While a pool waits for room, no other keeps an environment idle, and busy ones end one after another.
//!   4. Of two idle environments the one ends first that saves less time for the memory that it holds and the time
//!      since it was used (greedy dual: `price` is what room cost when it was last short).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use base::Clock;
use model::{CodeDigest, Floor, FloorState, FunctionRef, FunctionVersion};
use parking_lot::Mutex;
use sandbox::Control;
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

use crate::autoscaler::Average;
use crate::config::EngineConfig;
use crate::engine::Core;
use crate::extensions::ENDING_MAX;
use crate::gate::{Gate, Grant};
use crate::keepalive::{Book, Habits};
use crate::pool::Pool;
use crate::processors::Processors;
use crate::unneeded;
use crate::web;

/// How long idle environments of a former revision stay.
const RETIRED_STAY: Duration = Duration::from_millis(50);
/// How long a start waits for memory before it looks again.
const SHORT_PAUSE: Duration = Duration::from_millis(50);
/// While somebody waits for room, one busy environment ends in this time.
const YIELD_EVERY_US: u64 = 250_000;

/// Functions without environments whose habits are kept.
const HABITS_MOST: usize = 4_096;

/// A function and its version. What is kept by it is not kept of tenants.
type Key = (FunctionRef, String);

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
    /// The tenant that it serves, of functions that isolate them.
    pub tenant: Option<String>,
    /// What it does.
    pub state: EnvironmentState,
    /// Whether it is stopped until its next call.
    pub frozen: bool,
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
    pub(crate) frozen: AtomicBool,
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
            tenant: self.version.tenant.clone(),
            state,
            frozen: self.frozen.load(Ordering::Relaxed),
            age_ms: now_us.saturating_sub(self.born_us) / 1_000,
            memory_mb: self.version.memory_mb,
            memory_bytes: self.control.upgrade().map_or(0, |control| control.held().memory_bytes),
            served: self.served.load(Ordering::Relaxed),
            init_ms: (state != EnvironmentState::Starting).then_some(init_us / 1_000),
        }
    }
}

/// A place for one environment on this host, until dropped.
#[derive(Debug)]
pub(crate) struct Room {
    _grant: Grant,
}

/// The environments of this host.
pub(crate) struct Fleet {
    room: Arc<Gate>,
    memory_mb_max: u32,
    memory_low_mb: u64,
    memory_available_mb: fn(u64) -> Option<u64>,
    /// Starts that may go on at once.
    pub(crate) starts: Arc<Gate>,
    starts_max: usize,
    /// What a start takes on this host, whatever is started.
    start_us: Mutex<Average>,
    hungry: AtomicUsize,
    /// When room was last given, asked for by the first, or made by a call's end: monotonic microseconds.
    fed_us: AtomicU64,
    busy_milli: AtomicU64,
    pub(crate) processors: Processors,
    price: AtomicU64,
    pools: Mutex<HashMap<FunctionRef, Vec<Arc<Pool>>>>,
    /// Versions that are to have environments always. Locked after `pools`, where both are.
    floors: Mutex<HashMap<Key, Floor>>,
    /// What is known of functions that have no pool.
    book: Mutex<Book<Key>>,
    cards: Mutex<BTreeMap<String, Arc<Card>>>,
    /// Environments whose extensions have time to end.
    pub(crate) endings: TaskTracker,
}

impl Fleet {
    /// An empty host.
    pub(crate) fn new(config: &EngineConfig) -> Self {
        let starts_max = config.starts_max.max(1);
        Self {
            room: Gate::new(config.environments_max as usize, u64::from(config.memory_mb_max)),
            memory_mb_max: config.memory_mb_max,
            memory_low_mb: config.memory_low_mb,
            memory_available_mb: config.memory_available_mb,
            starts: Gate::new(starts_max, 0),
            starts_max,
            start_us: Mutex::default(),
            hungry: AtomicUsize::new(0),
            fed_us: AtomicU64::new(0),
            busy_milli: AtomicU64::new(0),
            processors: Processors::new(config),
            price: AtomicU64::new(0),
            pools: Mutex::default(),
            floors: Mutex::default(),
            book: Mutex::new(Book::new(HABITS_MOST)),
            cards: Mutex::default(),
            endings: TaskTracker::new(),
        }
    }

    /// The pool of a version, or of a tenant's use of it. A revision that was not seen before retires the pool of the former one.
    pub(crate) fn pool(&self, version: &Arc<FunctionVersion>) -> Arc<Pool> {
        let mut pools = self.pools.lock();
        let known = pools.get_mut(&version.function);
        let same =
            |pool: &&mut Arc<Pool>| pool.version.version == version.version && pool.version.tenant == version.tenant;
        let slot = known.and_then(|of_function| of_function.iter_mut().find(same));
        if let Some(pool) = &slot
            && pool.version.revision == version.revision
        {
            return Arc::clone(pool);
        }
        let known = match &slot {
            Some(former) => Some(former.take_habits()),
            None if version.tenant.is_none() => self.book.lock().take(&key_of(version)),
            None => None,
        };
        let mut habits = known.unwrap_or_else(|| Habits::new(version.memory_mb));
        habits.resize(version.memory_mb);
        let pool = Arc::new(Pool::new(version.clone(), habits));
        if version.tenant.is_none() {
            pool.set_floor(self.floors.lock().get(&key_of(version)).map_or(0, count));
        }
        let retired = slot.map(|slot| std::mem::replace(slot, pool.clone()));
        if retired.is_none() {
            pools.entry(version.function.clone()).or_default().push(pool.clone());
        }
        drop(pools);
        if let Some(idle) = retired.map(|retired| retired.retire()).filter(|idle| !idle.is_empty()) {
            // Their end takes as much of a processor as the start that a call now waits for.
            tokio::spawn(async move {
                sleep(RETIRED_STAY).await;
                drop(idle);
            });
        }
        pool
    }

    /// Waits for room for one environment of a pool; nothing if this host can never have it.
    pub(crate) async fn room(&self, pool: &Pool, clock: &dyn Clock) -> Option<Room> {
        let memory_mb = pool.version.memory_mb;
        if memory_mb > self.memory_mb_max {
            return None;
        }
        if !self.is_short()
            && let Some(room) = self.room_now(memory_mb)
        {
            return Some(room);
        }
        // One of a pool waits in the line of all, so that a burst of one function does not fill that line.
        let _turn = pool.hunger.lock().await;
        if self.hungry.fetch_add(1, Ordering::SeqCst) == 0 {
            self.fed_us.store(clock.monotonic_us(), Ordering::SeqCst);
        }
        let hunger = Hunger(self);
        self.evict_for(memory_mb, clock.monotonic_us());
        let grant = self.room.take(&pool.version.function, memory_mb, u64::from(memory_mb)).await?;
        while self.is_short() {
            self.evict_one(clock.monotonic_us());
            sleep(SHORT_PAUSE).await;
        }
        drop(hunger);
        self.fed_us.store(clock.monotonic_us(), Ordering::SeqCst);
        Some(Room { _grant: grant })
    }

    /// Room for an environment that no call waits for: only what nobody else wants.
    pub(crate) fn room_aside(&self, memory_mb: u32) -> Option<Room> {
        let free = self.hungry.load(Ordering::SeqCst) == 0 && !self.is_short();
        if free { self.room_now(memory_mb) } else { None }
    }

    fn room_now(&self, memory_mb: u32) -> Option<Room> {
        self.room.try_take(memory_mb).map(|grant| Room { _grant: grant })
    }

    /// Ends idle environments, those worth least first, until what they held is enough.
    fn evict_for(&self, memory_mb: u32, now_us: u64) {
        let (mut places, mut free_mb) = self.room.free();
        while free_mb < u64::from(memory_mb) || places == 0 {
            let Some(freed_mb) = self.evict_one(now_us) else { break };
            free_mb += u64::from(freed_mb);
            places += 1;
        }
    }

    /// Ends the idle environment that is worth least; what it held, MiB, if there was one.
    fn evict_one(&self, now_us: u64) -> Option<u32> {
        let pools: Vec<Arc<Pool>> = self.pools.lock().values().flatten().cloned().collect();
        let least = pools.iter().filter_map(|pool| Some((pool.worth(now_us)?, pool))).min_by_key(|(worth, _)| *worth);
        let ((worth, _), pool) = least?;
        self.price.fetch_max(worth, Ordering::Relaxed);
        // Another call may have taken it meanwhile; the caller then looks again.
        Some(if pool.evict_oldest() { pool.version.memory_mb } else { 0 })
    }

    /// Whether an environment is being started.
    pub(crate) fn is_starting(&self) -> bool {
        self.starting() > 0
    }

    /// How many environments are being started.
    pub(crate) fn starting(&self) -> usize {
        self.starts_max.saturating_sub(self.starts.free().0)
    }

    /// Whether an environment is in its init phase.
    pub(crate) fn is_initialising(&self) -> bool {
        let starting = EnvironmentState::Starting as u8;
        self.cards.lock().values().any(|card| card.state.load(Ordering::Relaxed) == starting)
    }

    /// What the last environment was worth that ended for another.
    pub(crate) fn price(&self) -> u64 {
        self.price.load(Ordering::Relaxed)
    }

    /// Whether the host's memory is short. One environment is always tried: others than functions may use the memory.
    pub(crate) fn is_short(&self) -> bool {
        self.memory_low_mb > 0
            && !self.cards.lock().is_empty()
            && (self.memory_available_mb)(self.memory_low_mb).is_some_and(|left_mb| left_mb < self.memory_low_mb)
    }

    /// Ends one idle environment if the host's memory is short.
    pub(crate) fn relieve(&self, now_us: u64) {
        if self.is_short() {
            self.evict_one(now_us);
        }
    }

    /// Whether another pool waits for room.
    pub(crate) fn others_hunger(&self, pool: &Pool) -> bool {
        let hungry = self.hungry.load(Ordering::SeqCst);
        hungry > 0 && hungry > usize::from(pool.hunger.try_lock().is_err())
    }

    /// Whether the environment that asks must end to make room: another pool waits, and none was made for a while.
    pub(crate) fn must_yield(&self, pool: &Pool, now_us: u64) -> bool {
        if !self.others_hunger(pool) {
            return false;
        }
        let fed_us = self.fed_us.load(Ordering::SeqCst);
        now_us.saturating_sub(fed_us) > YIELD_EVERY_US
            && self.fed_us.compare_exchange(fed_us, now_us, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// Ends and starts environments as the habits of their functions want it, and forgets pools that have nothing left.
    /// Says which functions without a pool want an environment, and when to look again: monotonic microseconds.
    pub(crate) fn tend(&self, core: &Arc<Core>, now_us: u64) -> (Vec<Key>, u64) {
        let (mut ended, mut starts, mut look_at_us) = (Vec::new(), Vec::new(), u64::MAX);
        self.pools.lock().retain(|_, of_function| {
            of_function.retain(|pool| {
                let tended = pool.tend(core, now_us);
                ended.extend(tended.ended);
                look_at_us = look_at_us.min(tended.look_at_us);
                if tended.starts + tended.floor_starts > 0 {
                    starts.push((pool.clone(), tended.starts, tended.floor_starts));
                }
                // Whoever else holds the pool is about to use it.
                let stays = Arc::strong_count(pool) > 1 || !pool.is_empty();
                if !stays && core.config.keep_alive.is_none() && pool.version.tenant.is_none() {
                    self.book.lock().put(key_of(&pool.version), pool.take_habits(), now_us);
                }
                stays
            });
            !of_function.is_empty()
        });
        drop(ended);
        for (pool, ahead, of_floor) in starts {
            pool.start_floor(core, of_floor);
            pool.start_ahead(core, ahead);
        }
        let mut due = self.floors_without_pool();
        let mut book = self.book.lock();
        due.extend(book.due(now_us));
        (due, look_at_us.min(book.look_at_us().unwrap_or(u64::MAX)))
    }

    /// Freezes idle environments that could run although nobody calls them. Answers when to look again: monotonic
    /// microseconds.
    pub(crate) fn frost(&self, now_us: u64) -> u64 {
        let (mut freezings, mut look_at_us) = (Vec::new(), u64::MAX);
        for pool in self.pools.lock().values().flatten() {
            let (of_pool, next_us) = pool.frost(now_us);
            freezings.extend(of_pool);
            look_at_us = look_at_us.min(next_us);
        }
        freezings.into_iter().for_each(|freeze| freeze());
        look_at_us
    }

    /// Versions that are to have environments always, and whose content has no pool yet.
    fn floors_without_pool(&self) -> Vec<Key> {
        let pools = self.pools.lock();
        let floors = self.floors.lock();
        let has_pool = |key: &Key, floor: &Floor| {
            let of_function = pools.get(&key.0).into_iter().flatten();
            of_function.into_iter().any(|pool| pool.version.version == key.1 && pool.version.revision == floor.revision)
        };
        let missing = floors.iter().filter(|(key, floor)| !has_pool(key, floor));
        missing.map(|(key, _)| key.clone()).collect()
    }

    /// These versions, and no others, are to have environments always.
    pub(crate) fn set_floors(&self, wanted: &BTreeSet<Floor>) {
        let pools = self.pools.lock();
        let mut floors = self.floors.lock();
        floors.clear();
        floors.extend(wanted.iter().map(|floor| ((floor.function.clone(), floor.version.clone()), floor.clone())));
        for pool in pools.values().flatten().filter(|pool| pool.version.tenant.is_none()) {
            pool.set_floor(floors.get(&key_of(&pool.version)).map_or(0, count));
        }
    }

    /// What there is of the environments that a version is to have always.
    pub(crate) fn floor(&self, function: &FunctionRef, version: &str) -> FloorState {
        let pools = self.pools.lock();
        let mut of_function = pools.get(function).into_iter().flatten();
        let is_it = |pool: &&Arc<Pool>| pool.version.version == version && pool.version.tenant.is_none();
        let Some(pool) = of_function.find(is_it) else {
            return FloorState::default();
        };
        let (environments, failure) = pool.floor();
        FloorState {
            environments: u32::try_from(environments).unwrap_or(u32::MAX),
            failure: failure.map(str::to_owned),
        }
    }

    /// A call of a version that ran here before is known to come at this time.
    pub(crate) fn expect(&self, function: &FunctionRef, version: &str, at_us: u64, now_us: u64) {
        let pools = self.pools.lock();
        let of_function = pools.get(function).into_iter().flatten();
        let is_it = |pool: &&Arc<Pool>| pool.version.version == version && pool.version.tenant.is_none();
        match of_function.into_iter().find(is_it) {
            Some(pool) => pool.expect(at_us),
            None => self.book.lock().expect(&(function.clone(), version.to_owned()), at_us, now_us),
        }
    }

    /// Forgets what is known of a function that is gone.
    pub(crate) fn forget(&self, key: &Key) {
        self.floors.lock().remove(key);
        drop(self.book.lock().take(key));
    }

    /// Pools that keep an environment idle.
    pub(crate) fn pools_with_idle(&self) -> Vec<Arc<Pool>> {
        self.pools.lock().values().flatten().filter(|pool| pool.has_idle()).cloned().collect()
    }

    /// Takes the pool of a version that is gone out of use: idle environments end now, the others after their call.
    pub(crate) fn remove(&self, pool: &Arc<Pool>) {
        let mut pools = self.pools.lock();
        if let Some(of_function) = pools.get_mut(&pool.version.function) {
            of_function.retain(|other| !Arc::ptr_eq(other, pool));
            if of_function.is_empty() {
                pools.remove(&pool.version.function);
            }
        }
        drop(pools);
        drop(pool.retire());
        self.forget(&key_of(&pool.version));
    }

    /// Takes every pool out of use: idle environments end now, the others after their call.
    pub(crate) fn retire_all(&self) {
        let pools: Vec<Arc<Pool>> = self.pools.lock().drain().flat_map(|(_, of_function)| of_function).collect();
        for pool in pools {
            drop(pool.retire());
        }
    }

    /// Learns how long a start took on this host.
    pub(crate) fn learn_start(&self, took_us: u64) {
        self.start_us.lock().add(took_us);
    }

    /// How long a start takes as far as this host knows, and how long it first waits for its slot.
    pub(crate) fn predicted_start(&self) -> (Option<u64>, u64) {
        let start_us = self.start_us.lock().get();
        let before = self.starts.waiting() as u64;
        (start_us, start_us.unwrap_or(0).saturating_mul(before) / self.starts_max as u64)
    }

    /// Predicted processor use of all running calls, in thousandths.
    pub(crate) fn busy_milli(&self) -> u64 {
        self.busy_milli.load(Ordering::Relaxed)
    }

    /// Counts a call with its predicted use in.
    pub(crate) fn call_begins(&self, milli: u64) {
        self.busy_milli.fetch_add(milli, Ordering::Relaxed);
    }

    /// Counts a call out.
    pub(crate) fn call_ends(&self, milli: u64) {
        self.busy_milli.fetch_sub(milli, Ordering::Relaxed);
    }

    /// Shows an environment.
    pub(crate) fn enter(&self, card: Arc<Card>) {
        self.cards.lock().insert(card.id.clone(), card);
    }

    /// Whether an environment was started with a package.
    pub(crate) fn uses(&self, package: &CodeDigest) -> bool {
        self.cards.lock().values().any(|card| unneeded::has(&card.version, package))
    }

    /// Asks every web server to end, and waits until they have or have had their time.
    pub(crate) async fn stop_web_servers(&self) {
        let cards: Vec<Arc<Card>> = self.cards.lock().values().cloned().collect();
        let servers = cards.iter().filter(|card| card.version.web.is_some()).filter_map(|card| card.control.upgrade());
        let servers: Vec<Arc<dyn Control>> = servers.collect();
        for server in &servers {
            server.thaw();
            server.terminate();
        }
        let ended = async {
            for server in &servers {
                server.wait().await;
            }
        };
        // Those that have not are killed with all others.
        let _ = timeout(web::STOP_GRACE, ended).await;
    }

    /// Waits until the extensions of environments that are ending have, or have had their time.
    pub(crate) async fn extensions_ended(&self) {
        self.endings.close();
        // Those that have not are killed with all others.
        let _ = timeout(ENDING_MAX, self.endings.wait()).await;
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

fn count(floor: &Floor) -> usize {
    floor.environments as usize
}

fn key_of(version: &FunctionVersion) -> Key {
    (version.function.clone(), version.version.clone())
}

/// Counts one that waits for room, also when it stops waiting.
struct Hunger<'a>(&'a Fleet);

impl Drop for Hunger<'_> {
    fn drop(&mut self) {
        self.0.hungry.fetch_sub(1, Ordering::SeqCst);
    }
}
