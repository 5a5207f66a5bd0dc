//! Accepted events: kept before they are acknowledged, run at least once, retried as Lambda does.
//!
//! An event that finds a free slot is kept as claimed by this process and runs at once, so that one flush is all that
//! lies before it. Every other one is kept as due and is found by the worker, which sleeps until the store tells of a
//! change, a slot comes free, or something is due.
//!
//! Invariants
//!   1. `accept` returns after the event is on disk.
//!   2. Whoever runs an event holds its lease, a key of its own; ending or moving it succeeds only for the holder.
//!   3. An event leaves the store only when it has succeeded or is given up; where somebody is told of its end, the
//!      record and the dead letter take its place in the same transaction, and each leaves when its target has it. A process
//!      that dies leaves its leases; the next one takes them over (`sole_node`), or others do when they end.
//!   4. One function holds at most half of the slots, so that a slow one does not stop the others; and no more than its
//!      reserved concurrency, since the rest would only be refused and wait ever longer for another try.
//!
//! An event that is given up and that nobody is told of leaves a line in the server's log. Not here: who may be a
//! destination; whoever takes the rules says that. Start reading at `accept`, then `worker::run`.

mod dead_letters;
mod deliver;
mod event;
mod keys;
mod record;
mod worker;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use model::{FunctionRef, FunctionVersion, Invocation, InvocationKind, InvokeError, Lineage};
use parking_lot::Mutex;
use store::{Store, Txn};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::config::AsyncConfig;
use crate::engine::Core;
use crate::payload;
use crate::tenants;
pub(crate) use deliver::Functions;
use event::{Kept, Pending};
pub(crate) use worker::work;

/// The asynchronous queue of this node.
pub(crate) struct AsyncQueue {
    store: Arc<dyn Store>,
    config: AsyncConfig,
    /// Names this process in leases.
    holder: String,
    slots: Arc<Semaphore>,
    running: Arc<Mutex<HashMap<FunctionRef, usize>>>,
    slot_freed: Arc<Notify>,
    /// Whether something that is due was left for want of a slot.
    behind: Arc<AtomicBool>,
}

/// A place to run one event.
struct Slot {
    _permit: OwnedSemaphorePermit,
    function: FunctionRef,
    running: Arc<Mutex<HashMap<FunctionRef, usize>>>,
    freed: Arc<Notify>,
    wanted: Arc<AtomicBool>,
}

/// A claimed event or record: what is to be run or delivered, under which lease.
struct Claim {
    id: String,
    kept: Kept,
    pending: Pending,
    lease: Bytes,
    slot: Slot,
}

impl AsyncQueue {
    /// The queue over a store.
    pub(crate) fn new(store: Arc<dyn Store>, config: AsyncConfig, holder: String) -> Self {
        Self {
            store,
            holder,
            slots: Arc::new(Semaphore::new(config.slots.max(1))),
            config,
            running: Arc::default(),
            slot_freed: Arc::default(),
            behind: Arc::default(),
        }
    }

    /// A place for an event of a function that may hold at most `share` of them.
    fn slot(&self, function: &FunctionRef, share: usize) -> Option<Slot> {
        // A function has one share, whichever of its versions and aliases are meant.
        let function = FunctionRef { qualifier: None, ..function.clone() };
        let mut running = self.running.lock();
        let own = running.get(&function).copied().unwrap_or(0);
        if own >= share {
            return None;
        }
        let permit = self.slots.clone().try_acquire_owned().ok()?;
        running.insert(function.clone(), own + 1);
        let (running, freed, wanted) = (self.running.clone(), self.slot_freed.clone(), self.behind.clone());
        Some(Slot { _permit: permit, function, running, freed, wanted })
    }

    /// How many slots a function may hold; nothing is known of one that is gone.
    fn share(&self, version: Option<&FunctionVersion>) -> usize {
        let reserved = version.and_then(|version| version.reserved_concurrency);
        // One slot at least: what is refused is also what grows too old.
        let own = reserved.map_or(usize::MAX, |reserved| usize::try_from(reserved).unwrap_or(usize::MAX).max(1));
        own.min(self.config.slots.div_ceil(2))
    }

    fn lease_until(&self, now_ms: u64) -> u64 {
        now_ms.saturating_add(u64::try_from(self.config.lease.as_millis()).unwrap_or(u64::MAX))
    }
}

/// Accepts an event: when this returns, it is on disk.
pub(crate) async fn accept(core: &Arc<Core>, invocation: Invocation) -> Result<(), InvokeError> {
    accept_of(core, invocation, &Lineage::new()).await
}

/// Accepts an event that stems from a chain of deliveries.
async fn accept_of(core: &Arc<Core>, mut invocation: Invocation, lineage: &Lineage) -> Result<(), InvokeError> {
    let running = core.enter()?;
    invocation.kind = InvocationKind::Event;
    let version = core.catalog.version(&invocation.function).await?;
    tenants::check(&version, invocation.tenant.as_deref())?;
    let payload = payload::checked(&invocation)?;
    let queue = &core.async_queue;
    let now_ms = core.clock.now_ms();
    let slot = queue.slot(&invocation.function, queue.share(Some(&version)));
    let pending = Pending {
        function: invocation.function.clone(),
        accepted_ms: now_ms,
        failures: 0,
        refusals: 0,
        holder: slot.as_ref().map(|_| queue.holder.clone()),
    };
    let id = &invocation.request_id.0;
    let key = if slot.is_some() { keys::held(queue.lease_until(now_ms), id) } else { keys::due(now_ms, id) };
    let value = event::encode(&invocation, &payload, lineage);
    let txn = Txn::new().put(keys::event(id), value.clone()).put(key.clone(), encode(&pending));
    queue.store.commit(txn).await.map_err(|error| match error {
        store::Error::Busy | store::Error::DiskFull => InvokeError::NoCapacity(error.to_string()),
        other => InvokeError::Internal(other.to_string()),
    })?;
    drop(running);
    if let Some(slot) = slot {
        let (core, id, lease) = (core.clone(), invocation.request_id.0, key);
        tokio::spawn(async move {
            // As it is kept, and not before its sender has the answer.
            let Some(kept) = event::decode(value) else { return };
            worker::run(core, Claim { id, kept, pending, lease, slot }).await;
        });
    }
    Ok(())
}

fn encode(pending: &Pending) -> Vec<u8> {
    // Strings and numbers always serialise.
    serde_json::to_vec(pending).unwrap_or_default()
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut running = self.running.lock();
        match running.get_mut(&self.function) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                running.remove(&self.function);
            }
        }
        drop(running);
        if self.wanted.load(Ordering::SeqCst) {
            self.freed.notify_one();
        }
    }
}
