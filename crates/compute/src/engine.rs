//! The engine: what it is made of, its start and its end, and the port through which all others meet it.
//!
//! Not here: what happens to a call (`invoke`), and where environments are (`fleet`, `pool`).
//!
//! Invariants
//!   1. After `closing` is cancelled no call is let in; after `cut` none waits and no sandbox stays alive.
//!   2. Dropping the engine ends every sandbox and every background task.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base::{Clock, Random};
use model::ports::{Authorizer, Catalog, EventSource, EventTarget, Invoker, LogSink, Meter};
use model::{
    Answered, CodeDigest, Family, FloorState, FunctionRef, FunctionVersion, Invocation, InvokeError, Outcome,
    ProgramState, Region, Runtime, SnapshotState, ThrottleReason, WebAnswer, WebCall,
};
use sandbox::{Backend, Interpreters};
use store::Store;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::admission::{Admission, Permit};
use crate::async_queue::{self, AsyncQueue, EventsInfo};
use crate::code_cache::CodeCaches;
use crate::config::{EngineConfig, EngineParts, GuestNetwork};
use crate::fleet::{EnvironmentInfo, Fleet};
use crate::invoke;
use crate::package::Packages;
use crate::poller;
use crate::program::Programs;
use crate::ready::Ready;
use crate::report;
use crate::slots::{self, Limit, Slots};
use crate::start;
use crate::trace::Sampler;
use crate::unneeded::{self, Needs};

/// How long sandboxes get to be gone after they were killed.
const GONE_WITHIN: Duration = Duration::from_secs(5);
/// How often it is looked whether there are as many environments as should be: no oftener, and no more seldom.
const TEND_PAUSE_MIN: Duration = Duration::from_millis(5);
const TEND_PAUSE_MAX: Duration = Duration::from_millis(250);
/// How often it is looked whether the host is short of memory.
const RELIEVE_EVERY_US: u64 = 1_000_000;
/// How often it is looked whether functions with idle environments are still there.
const DELETIONS_EVERY: Duration = Duration::from_secs(2);
/// In how many of these rounds it is looked once for packages that nobody needs.
const UNNEEDED_ROUNDS: u32 = 10;
/// How often it is looked at most, and at least, whether idle environments are to be frozen: one may become idle at any
/// time.
const FROST_EVERY_US: u64 = 50_000;
const FROST_ANEW_US: u64 = 250_000;
/// Bytes of a package from which on it is worth to prepare for its first start.
const PREPARED_BYTES: usize = 64 * 1024;
/// The version that an unqualified call means.
pub(crate) const LATEST: &str = "$LATEST";

/// What every part of the engine shares.
pub(crate) struct Core {
    pub(crate) catalog: Arc<dyn Catalog>,
    pub(crate) meter: Arc<dyn Meter>,
    pub(crate) log_sink: Arc<dyn LogSink>,
    pub(crate) authorizer: Arc<dyn Authorizer>,
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) network: Arc<dyn GuestNetwork>,
    /// Who takes events beside the functions.
    targets: Vec<Arc<dyn EventTarget>>,
    /// What event source mappings lead from.
    pub(crate) sources: Vec<Arc<dyn EventSource>>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) interpreters: Interpreters,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) sampler: Sampler,
    pub(crate) config: EngineConfig,
    /// Whether the backend can freeze.
    freezes: bool,
    pub(crate) admission: Arc<Admission>,
    /// This node's shares of limits, where other nodes use the same store.
    slots: Option<Slots>,
    pub(crate) fleet: Fleet,
    pub(crate) packages: Packages,
    pub(crate) code_caches: CodeCaches,
    pub(crate) needs: Needs,
    pub(crate) programs: Programs,
    pub(crate) ready: Ready,
    pub(crate) async_queue: AsyncQueue,
    /// Held by the deployed function that is prepared.
    preparing: tokio::sync::Mutex<()>,
    /// Starts and ends of environments that go on beside the calls.
    pub(crate) tasks: TaskTracker,
    /// One keeper for each sandbox that there still is.
    pub(crate) keepers: TaskTracker,
    /// Calls that were let in.
    calls: TaskTracker,
    /// Cancelled when no further call is let in.
    pub(crate) closing: CancellationToken,
    /// Cancelled when the calls that still run or wait are cut off.
    pub(crate) cut: CancellationToken,
}

impl Core {
    /// Lets a call in, unless the engine is stopping.
    pub(crate) fn enter(&self) -> Result<TaskTrackerToken, InvokeError> {
        if self.closing.is_cancelled() {
            return Err(stopping());
        }
        Ok(self.calls.token())
    }

    /// Calls that were let in and have not ended.
    pub(crate) fn calls(&self) -> usize {
        self.calls.len()
    }

    /// A place for one call of a version, or the limit that is reached.
    pub(crate) async fn admit(&self, version: &FunctionVersion) -> Result<Permit, ThrottleReason> {
        let left = self.admission.left();
        match self.admit_now(version).await {
            Err(refused) if refused.is_of_concurrency() => {
                Box::pin(self.admit_after_others(version, refused, left)).await
            }
            end => end,
        }
    }

    /// A place that a call has which has answered: its caller may be the one that calls now.
    async fn admit_after_others(
        &self,
        version: &FunctionVersion,
        mut refused: ThrottleReason,
        mut left: u64,
    ) -> Result<Permit, ThrottleReason> {
        let limit = Limit::of(version);
        let deadline = Instant::now() + self.config.capacity_wait;
        while timeout_at(deadline, self.admission.place_left(&limit, left)).await == Ok(true) {
            left = self.admission.left();
            match self.admit_now(version).await {
                Err(reason) if reason.is_of_concurrency() => refused = reason,
                end => return end,
            }
        }
        Err(refused)
    }

    async fn admit_now(&self, version: &FunctionVersion) -> Result<Permit, ThrottleReason> {
        if let Some(permit) = self.admission.admit_aside(version) {
            return Ok(permit);
        }
        match &self.slots {
            Some(slots) => Box::pin(slots.admit(&self.admission, version)).await,
            None => self.admission.admit(version, self.clock.monotonic_us(), self.admission.limit(version)),
        }
    }

    /// How long an environment is idle before it may be frozen; nothing: never.
    pub(crate) fn frost_after(&self) -> Option<Duration> {
        self.config.freeze_after.filter(|_| self.freezes)
    }

    /// Everybody who takes events.
    pub(crate) fn targets(self: &Arc<Self>) -> Vec<Arc<dyn EventTarget>> {
        let functions: Arc<dyn EventTarget> = Arc::new(async_queue::Functions(self.clone()));
        self.targets.iter().cloned().chain([functions]).collect()
    }

    /// A version will be called after this time, as far as is known: an environment is ready then.
    pub(crate) fn expect(&self, function: &FunctionRef, version: &str, after: Duration) {
        let now_us = self.clock.monotonic_us();
        let at_us = now_us.saturating_add(u64::try_from(after.as_micros()).unwrap_or(u64::MAX));
        self.fleet.expect(&function.unqualified(), version, at_us, now_us);
    }
}

/// What is said to calls that a stop turns away.
pub(crate) fn stopping() -> InvokeError {
    InvokeError::NoCapacity("the server is stopping".to_owned())
}

/// The function engine.
pub struct Engine {
    core: Arc<Core>,
}

impl Engine {
    /// An engine that runs until it is drained or dropped. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The folder of unpacked packages cannot be made or cleaned.
    pub fn new(parts: EngineParts) -> io::Result<Arc<Self>> {
        let EngineParts { store, catalog, meter, log_sink, authorizer, backend, interpreters, network, .. } = parts;
        let EngineParts { targets, sources, clock, random, config, .. } = parts;
        let core = Arc::new(Core {
            admission: Admission::new(config.account_concurrency, config.account_rate),
            fleet: Fleet::new(&config),
            ready: Ready::new(config.ready_max),
            packages: Packages::open(config.code_root.clone(), catalog.clone(), random.clone())?,
            needs: Needs::default(),
            programs: Programs::default(),
            code_caches: CodeCaches::new(config.code_root.clone(), random.clone()),
            slots: (!config.async_queue.sole_node).then(|| Slots::new(store.clone(), clock.clone(), random.hex(8))),
            async_queue: AsyncQueue::new(store.clone(), config.async_queue.clone(), random.hex(8)),
            catalog,
            meter,
            log_sink,
            authorizer,
            freezes: backend.freezes(),
            backend,
            network,
            targets,
            sources,
            store,
            interpreters,
            clock,
            random,
            sampler: Sampler::default(),
            config,
            preparing: tokio::sync::Mutex::default(),
            tasks: TaskTracker::new(),
            keepers: TaskTracker::new(),
            calls: TaskTracker::new(),
            closing: CancellationToken::new(),
            cut: CancellationToken::new(),
        });
        tokio::spawn(tend(core.clone()));
        tokio::spawn(follow_uses(core.clone()));
        tokio::spawn(follow_floors(core.clone()));
        tokio::spawn(follow_deletions(core.clone()));
        if core.slots.is_some() {
            tokio::spawn(renew_slots(core.clone()));
        }
        tokio::spawn(async_queue::work(core.clone()));
        tokio::spawn(poller::follow(core.clone()));
        Ok(Arc::new(Self { core }))
    }

    /// Every environment of this host, for `dunlin ps`.
    pub fn environments(&self) -> Vec<EnvironmentInfo> {
        self.core.fleet.environments(self.core.clock.monotonic_us())
    }

    /// What became of asynchronous events, and what the queue holds.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn events(&self) -> Result<EventsInfo, store::Error> {
        self.core.async_queue.events(self.core.clock.now_ms()).await
    }

    /// Everybody who takes events: what was given to the engine, and the functions.
    pub fn targets(&self) -> Vec<Arc<dyn EventTarget>> {
        self.core.targets()
    }

    /// Refuses new calls, waits until those that run have ended or `grace` is over, then ends every environment and
    /// waits until they are gone. Accepted events that were cut off run again after the next start.
    pub async fn drain(&self, grace: Duration) {
        self.core.closing.cancel();
        self.core.calls.close();
        if timeout(grace, self.core.calls.wait()).await.is_err() {
            tracing::warn!(calls = self.core.calls.len(), "calls are cut off by the stop");
        }
        self.core.cut.cancel();
        self.core.ready.clear();
        self.core.fleet.retire_all();
        tokio::join!(self.core.fleet.stop_web_servers(), self.core.fleet.extensions_ended());
        self.core.fleet.kill_all();
        // What was cut off is settled and metered too.
        let _ = timeout(GONE_WITHIN, self.core.calls.wait()).await;
        self.core.keepers.close();
        if timeout(GONE_WITHIN, self.core.keepers.wait()).await.is_err() {
            tracing::warn!(sandboxes = self.core.keepers.len(), "sandboxes are left to the spawner");
        }
    }

    #[cfg(test)]
    pub(crate) fn pools(&self) -> usize {
        self.core.fleet.pools_len()
    }

    #[cfg(test)]
    pub(crate) fn ready(&self) -> (usize, usize) {
        self.core.ready.counts()
    }

    #[cfg(test)]
    pub(crate) fn compiled(&self) -> usize {
        self.core.code_caches.present()
    }

    fn end_environments(&self) {
        self.core.cut.cancel();
        self.core.ready.clear();
        self.core.fleet.retire_all();
        self.core.fleet.kill_all();
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.core.closing.cancel();
        self.end_environments();
    }
}

#[async_trait]
impl Invoker for Engine {
    async fn invoke(&self, invocation: Invocation) -> Result<Outcome, InvokeError> {
        invoke::invoke(&self.core, invocation).await
    }

    async fn invoke_streaming(&self, invocation: Invocation) -> Result<Answered, InvokeError> {
        invoke::invoke_streaming(&self.core, invocation).await
    }

    async fn is_web_server(&self, function: &FunctionRef) -> bool {
        self.core.catalog.version(function).await.is_ok_and(|version| version.web.is_some())
    }

    async fn serve(&self, call: WebCall) -> Result<WebAnswer, InvokeError> {
        invoke::serve(&self.core, call).await
    }

    async fn accept(&self, invocation: Invocation) -> Result<(), InvokeError> {
        async_queue::accept(&self.core, invocation).await
    }

    async fn dry_run(&self, function: &FunctionRef) -> Result<(), InvokeError> {
        invoke::dry_run(&self.core, function).await
    }

    fn floor(&self, function: &FunctionRef, version: &str) -> FloorState {
        self.core.fleet.floor(function, version)
    }

    fn snapshot(&self, function: &FunctionRef, version: &str) -> SnapshotState {
        self.core.ready.snapshot(function, version)
    }

    fn runtime_version(&self, runtime: &Runtime, region: &Region) -> Option<Result<String, String>> {
        if runtime.family() == Family::Provided {
            return None;
        }
        Some(start::interpreter_for(&self.core, runtime).map(|index| {
            let interpreter = self.core.interpreters.usable.get(index).map(|found| found.version);
            report::runtime_version(runtime, interpreter, region).1
        }))
    }

    fn compile(&self, code: &CodeDigest) {
        self.core.programs.begin(&self.core, code);
    }

    fn program(&self, code: &CodeDigest) -> ProgramState {
        self.core.programs.state(code)
    }

    fn prepare(&self, function: &FunctionRef) {
        self.core.ready.announce(function);
        self.core.tasks.spawn(prepare(self.core.clone(), function.clone()));
    }
}

/// Has guests ready for the functions that there are.
async fn follow_uses(core: Arc<Core>) {
    let mut known = BTreeSet::new();
    let cancelled = core.closing.clone();
    while let Some(uses) = cancelled.run_until_cancelled(core.catalog.uses(&known)).await {
        core.ready.set_uses(&core, &uses);
        known = uses;
    }
}

/// Has the environments that versions are to have always; `tend` makes them.
async fn follow_floors(core: Arc<Core>) {
    let mut known = BTreeSet::new();
    let cancelled = core.closing.clone();
    while let Some(floors) = cancelled.run_until_cancelled(core.catalog.floors(&known)).await {
        core.admission.set_aside(&floors);
        core.fleet.set_floors(&floors);
        known = floors;
    }
}

/// Ends the environments of versions that there are no more, whichever node deleted them, and removes their packages.
async fn follow_deletions(core: Arc<Core>) {
    let mut rounds = 0u32;
    while timeout(DELETIONS_EVERY, core.closing.cancelled()).await.is_err() {
        for pool in core.fleet.pools_with_idle() {
            if let Err(InvokeError::NotFound(_)) = core.catalog.version(&unneeded::named(&pool.version)).await {
                core.fleet.remove(&pool);
            }
        }
        rounds += 1;
        if rounds.is_multiple_of(UNNEEDED_ROUNDS) {
            unneeded::remove(&core).await;
        }
    }
}

/// Unpacks a function's packages and has its code compiled, before anybody waits for that.
async fn prepare(core: Arc<Core>, function: FunctionRef) {
    let prepared = async {
        let version = core.catalog.version(&function).await;
        core.ready.prepare(&core, &function, version.as_ref().ok().filter(|version| version.web.is_none()));
        let version = version?;
        if version.program {
            core.needs.note(&version, core.clock.monotonic_us());
        }
        if version.snap_start || version.program {
            return Ok(());
        }
        let _turn = core.preparing.lock().await;
        // What is small is unpacked in no time, and may never be called.
        let worth = version.image.is_some()
            || !version.layers.is_empty()
            || core.catalog.package(&version.code).await?.len() >= PREPARED_BYTES;
        if worth {
            start::prepare(&core, &version).await?;
            if version.web.is_none() {
                core.code_caches.want(&core, &version);
            }
        }
        Ok::<_, InvokeError>(())
    };
    if let Some(Err(error)) = core.closing.run_until_cancelled(prepared).await {
        tracing::debug!(%error, "a function could not be prepared");
    }
}

/// Keeps this node's shares of limits as long as it uses them.
async fn renew_slots(core: Arc<Core>) {
    let Some(slots) = &core.slots else { return };
    while timeout(slots::RENEW_EVERY, core.cut.cancelled()).await.is_err() {
        slots.renew_all(&core.admission).await;
    }
}

/// Keeps as many environments as calls are expected for.
async fn tend(core: Arc<Core>) {
    let (mut relieved_us, mut frost_at_us) = (0, 0);
    loop {
        let now_us = core.clock.monotonic_us();
        let (due, look_at_us) = core.fleet.tend(&core, now_us);
        if core.frost_after().is_some() && now_us >= frost_at_us {
            frost_at_us = core.fleet.frost(now_us).max(now_us + FROST_EVERY_US).min(now_us + FROST_ANEW_US);
        }
        for (mut function, version) in due {
            function.qualifier = (version != LATEST).then_some(version);
            core.tasks.spawn(start_due(core.clone(), function));
        }
        if now_us.saturating_sub(relieved_us) >= RELIEVE_EVERY_US {
            relieved_us = now_us;
            // Guests that nobody has yet go before environments.
            if core.fleet.is_short() {
                core.ready.clear();
            } else {
                core.ready.tend(&core);
            }
            core.fleet.relieve(now_us);
        }
        let pause = Duration::from_micros(look_at_us.min(frost_at_us).saturating_sub(now_us))
            .clamp(TEND_PAUSE_MIN, TEND_PAUSE_MAX);
        if timeout(pause, core.closing.cancelled()).await.is_ok() {
            return;
        }
    }
}

/// Starts the environments of a version that has none and is about to be called, or is to have some always.
async fn start_due(core: Arc<Core>, function: FunctionRef) {
    match core.catalog.version(&function).await {
        // Whose its next environment is, is not known before the call.
        Ok(version) if version.per_tenant => {}
        Ok(version) => {
            let pool = core.fleet.pool(&version);
            let tended = pool.tend(&core, core.clock.monotonic_us());
            pool.start_floor(&core, tended.floor_starts);
            pool.start_ahead(&core, tended.starts);
        }
        Err(InvokeError::NotFound(_)) => {
            let version = function.qualifier.unwrap_or_else(|| LATEST.to_owned());
            core.fleet.forget(&(FunctionRef { qualifier: None, ..function }, version));
        }
        Err(error) => tracing::debug!(%error, "no environment was started ahead of a call"),
    }
}
