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
//!   4. No function and no account holds so many slots that it stops the others (`slots`); and no function more than its
//!      reserved concurrency, since the rest would only be refused and wait ever longer for another try.
//!
//! An event that is given up and that nobody is told of leaves a line in the server's log. Not here: who may be a
//! destination; whoever takes the rules says that. Start reading at `accept`, then `worker::run`.

mod dead_letters;
mod deliver;
mod event;
mod keys;
mod metrics;
mod record;
mod slots;
mod worker;

use std::sync::Arc;

use bytes::Bytes;
use model::{FunctionVersion, Invocation, InvocationKind, InvokeError, Lineage};
use store::{Store, Txn};

use crate::config::AsyncConfig;
use crate::engine::Core;
use crate::payload;
use crate::tenants;
pub(crate) use deliver::Functions;
use event::{Kept, Pending};
use metrics::Metrics;
pub use metrics::{EventCounts, EventsInfo, FunctionEvents};
use slots::{Slot, Slots};
pub(crate) use worker::work;

/// The asynchronous queue of this node.
pub(crate) struct AsyncQueue {
    store: Arc<dyn Store>,
    config: AsyncConfig,
    /// Names this process in leases.
    holder: String,
    slots: Slots,
    metrics: Metrics,
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
        Self { store, holder, slots: Slots::new(config.slots), config, metrics: Metrics::default() }
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
    // One trace for all tries and for what is told of them.
    invocation.trace_id.get_or_insert_with(|| model::trace::begun(now_ms, &*core.random));
    let slot = queue.slots.take(&invocation.function, share(Some(&version)));
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
    queue.metrics.received(&invocation.function, now_ms);
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

/// How many slots a function may hold at most; nothing is known of one that is gone.
fn share(version: Option<&FunctionVersion>) -> usize {
    let reserved = version.and_then(|version| version.reserved_concurrency);
    // One slot at least: what is refused is also what grows too old.
    reserved.map_or(usize::MAX, |reserved| usize::try_from(reserved).unwrap_or(usize::MAX).max(1))
}

fn encode(pending: &Pending) -> Vec<u8> {
    // Strings and numbers always serialise.
    serde_json::to_vec(pending).unwrap_or_default()
}
