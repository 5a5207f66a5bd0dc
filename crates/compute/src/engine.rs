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
use model::ports::{Authorizer, Catalog, Invoker, LogSink, Meter};
use model::{Answered, FunctionRef, Invocation, InvokeError, Outcome};
use sandbox::{Backend, Interpreters};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::admission::Admission;
use crate::async_queue::{self, AsyncQueue};
use crate::config::{EngineConfig, EngineParts, GuestNetwork};
use crate::fleet::{EnvironmentInfo, Fleet};
use crate::invoke;
use crate::package::Packages;
use crate::ready::Ready;

/// How long sandboxes get to be gone after they were killed.
const GONE_WITHIN: Duration = Duration::from_secs(5);

/// What every part of the engine shares.
pub(crate) struct Core {
    pub(crate) catalog: Arc<dyn Catalog>,
    pub(crate) meter: Arc<dyn Meter>,
    pub(crate) log_sink: Arc<dyn LogSink>,
    pub(crate) authorizer: Arc<dyn Authorizer>,
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) network: Arc<dyn GuestNetwork>,
    pub(crate) interpreters: Interpreters,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) config: EngineConfig,
    pub(crate) admission: Arc<Admission>,
    pub(crate) fleet: Fleet,
    pub(crate) packages: Packages,
    pub(crate) ready: Ready,
    pub(crate) async_queue: AsyncQueue,
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
        let EngineParts { clock, random, config, .. } = parts;
        let core = Arc::new(Core {
            admission: Admission::new(config.account_concurrency),
            fleet: Fleet::new(&config),
            ready: Ready::new(config.ready_max),
            packages: Packages::open(config.code_root.clone(), catalog.clone(), random.clone())?,
            async_queue: AsyncQueue::new(store, config.async_queue.clone(), random.hex(8)),
            catalog,
            meter,
            log_sink,
            authorizer,
            backend,
            network,
            interpreters,
            clock,
            random,
            config,
            tasks: TaskTracker::new(),
            keepers: TaskTracker::new(),
            calls: TaskTracker::new(),
            closing: CancellationToken::new(),
            cut: CancellationToken::new(),
        });
        tokio::spawn(expire_idle(core.clone()));
        tokio::spawn(follow_uses(core.clone()));
        tokio::spawn(async_queue::work(core.clone()));
        Ok(Arc::new(Self { core }))
    }

    /// Every environment of this host, for `dunlin ps`.
    pub fn environments(&self) -> Vec<EnvironmentInfo> {
        self.core.fleet.environments(self.core.clock.monotonic_us())
    }

    /// Refuses new calls, waits until those that run have ended or `grace` is over, then ends every environment and
    /// waits until they are gone. Accepted events that were cut off run again after the next start.
    pub async fn drain(&self, grace: Duration) {
        self.core.closing.cancel();
        self.core.calls.close();
        if timeout(grace, self.core.calls.wait()).await.is_err() {
            tracing::warn!(calls = self.core.calls.len(), "calls are cut off by the stop");
        }
        self.end_environments();
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

    async fn accept(&self, invocation: Invocation) -> Result<(), InvokeError> {
        async_queue::accept(&self.core, invocation).await
    }

    async fn dry_run(&self, function: &FunctionRef) -> Result<(), InvokeError> {
        invoke::dry_run(&self.core, function).await
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

/// Ends environments that nobody has called for the time of keep-alive.
async fn expire_idle(core: Arc<Core>) {
    let keep_alive = core.config.keep_alive;
    let every = (keep_alive / 10).clamp(Duration::from_millis(100), Duration::from_secs(1));
    let keep_alive_us = u64::try_from(keep_alive.as_micros()).unwrap_or(u64::MAX);
    while timeout(every, core.closing.cancelled()).await.is_err() {
        if let Some(before_us) = core.clock.monotonic_us().checked_sub(keep_alive_us) {
            core.fleet.expire(before_us);
        }
        if core.fleet.is_short() {
            core.ready.clear();
        } else {
            core.ready.tend(&core);
        }
        core.fleet.relieve();
    }
}
