//! The loop that finds due events and runs them, and the end of each.
//!
//! Claims and ends are committed `Relaxed`: lost with a power failure, they only make an event run again, or its record
//! be delivered again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use model::{EventRules, FunctionRef, Invocation, InvokeError, Lineage, RequestId};
use store::{Entry, Range, Txn};
use tokio::time::sleep;

use super::dead_letters::terms;
use super::deliver::{End, deliver, finish, is_loop};
use super::event::{self, Condition, Kept, Next, Pending, Try};
use super::{AsyncQueue, Claim, encode, keys, share};
use crate::engine::Core;
use crate::invoke;
use crate::recursion;

/// Due keys that are looked at in one round.
const ROUND_ROWS: usize = 256;
/// Pages of a round that is not deep: enough for what can have a slot, unless functions at their share stand before it.
const SHALLOW_PAGES: usize = 2;
/// How often a round looks at all that is due: a long backlog is not read again for every slot that comes free.
const DEEP_EVERY_US: u64 = 1_000_000;
/// Leases that are taken over in one commit.
const TAKE_OVER_ROWS: usize = 200;
/// How long to wait after the store failed.
pub(super) const STORE_PAUSE: Duration = Duration::from_millis(200);
/// How often the end of an event is tried to be written.
pub(super) const END_TRIES: u32 = 5;

/// Runs due events until the engine closes.
pub(crate) async fn work(core: Arc<Core>) {
    let queue = &core.async_queue;
    let mut watch = queue.store.watch(&keys::all_due());
    if queue.config.sole_node {
        while let Err(error) = take_over(queue, core.clock.now_ms()).await {
            tracing::warn!(%error, "events of the former process cannot be taken over yet");
            if pause(&core).await {
                return;
            }
        }
    }
    let mut deep_at_us = 0;
    loop {
        // Registered before the look, so that a slot that comes free during it is not missed.
        let freed = queue.slots.freed();
        let now_us = core.clock.monotonic_us();
        let deep = now_us >= deep_at_us;
        if deep {
            deep_at_us = now_us + DEEP_EVERY_US;
        }
        let wait = match round(&core, if deep { usize::MAX } else { SHALLOW_PAGES }).await {
            Ok(Looked::Whole(wait)) => wait,
            Ok(Looked::InPart) => Duration::from_micros(deep_at_us.saturating_sub(now_us)),
            Err(error) => {
                tracing::warn!(%error, "the asynchronous queue cannot be read");
                STORE_PAUSE
            }
        };
        tokio::select! {
            () = core.closing.cancelled() => return,
            () = watch.changed() => {}
            () = freed => {}
            () = sleep(wait) => {}
        }
    }
}

async fn pause(core: &Core) -> bool {
    tokio::select! {
        () = core.closing.cancelled() => true,
        () = sleep(STORE_PAUSE) => false,
    }
}

/// Makes every event due that another process had claimed; that process is dead, since it is not this one.
async fn take_over(queue: &AsyncQueue, now_ms: u64) -> Result<(), store::Error> {
    let of_another = |pending: &Pending| pending.holder.as_ref().is_some_and(|holder| *holder != queue.holder);
    make_due(queue, Range::prefix(keys::all_held()), now_ms, of_another).await?;
    // Earlier releases kept leases among what is due.
    make_due(queue, Range::prefix(keys::all_due()), now_ms, of_another).await
}

/// Makes those events of a range due that are `meant`.
async fn make_due(
    queue: &AsyncQueue,
    range: Range,
    now_ms: u64,
    meant: impl Fn(&Pending) -> bool,
) -> Result<(), store::Error> {
    let mut range = range.rows(TAKE_OVER_ROWS);
    loop {
        let page = queue.store.range(&range).await?;
        let mut txn = Txn::new().relaxed();
        for entry in &page.entries {
            let Some((id, mut pending)) = parse(entry) else { continue };
            if meant(&pending) {
                pending.holder = None;
                txn = txn.expect_version(entry.key.clone(), entry.version).delete(entry.key.clone());
                txn = txn.put(keys::due(now_ms, &id), encode(&pending));
            }
        }
        if !txn.ops.is_empty() {
            queue.store.commit(txn).await?;
        }
        match page.entries.last() {
            Some(last) if page.more => range = range.beyond(last.key.clone()),
            _ => return Ok(()),
        }
    }
}

/// What a round has seen.
enum Looked {
    /// All that is due; for this long nothing else will be.
    Whole(Duration),
    /// A part of it.
    InPart,
}

/// Claims and starts what is due and has a slot, of at most `pages` pages.
async fn round(core: &Arc<Core>, mut pages: usize) -> Result<Looked, store::Error> {
    let queue = &core.async_queue;
    let now_ms = core.clock.now_ms();
    make_due(queue, keys::held_until(now_ms), now_ms, |_| true).await?;
    queue.slots.begin();
    let mut range = keys::due_until(now_ms).rows(ROUND_ROWS);
    let mut shares: HashMap<FunctionRef, usize> = HashMap::new();
    loop {
        let page = queue.store.range(&range).await?;
        let mut txn = Txn::new().relaxed();
        let mut claims = Vec::new();
        for entry in &page.entries {
            let Some((id, mut pending)) = parse(entry) else { continue };
            let share = match shares.get(&pending.function) {
                Some(share) => *share,
                None => {
                    let version = core.catalog.version(&pending.function).await.ok();
                    let share = share(version.as_deref());
                    shares.insert(pending.function.clone(), share);
                    share
                }
            };
            let Some(slot) = queue.slots.take_due(&pending.function, share) else { continue };
            pending.holder = Some(queue.holder.clone());
            let lease = keys::held(queue.lease_until(now_ms), &id);
            txn = txn.expect_version(entry.key.clone(), entry.version).delete(entry.key.clone());
            txn = txn.put(lease.clone(), encode(&pending));
            claims.push((id, pending, lease, slot));
        }
        if !claims.is_empty() {
            queue.store.commit(txn).await?;
        }
        for (id, pending, lease, slot) in claims {
            let kept = match queue.store.get(&keys::event(&id)).await? {
                Some(entry) => event::decode(entry.value).ok_or("it cannot be read"),
                None => Err("its content is missing"),
            };
            match kept {
                Ok(kept) => {
                    tokio::spawn(run(core.clone(), Claim { id, kept, pending, lease, slot }));
                }
                Err(reason) => {
                    queue.metrics.dropped(&pending.function, now_ms, reason);
                    give_up(queue, &id, &lease, reason).await;
                }
            }
        }
        match page.entries.last() {
            Some(last) if page.more => {
                if !queue.slots.fall_behind() {
                    break;
                }
                // Functions at their share of slots are passed over; others may stand behind them.
                range = range.beyond(last.key.clone());
            }
            _ => break,
        }
        pages -= 1;
        if pages == 0 {
            return Ok(Looked::InPart);
        }
    }
    next_due(queue, now_ms).await.map(Looked::Whole)
}

/// How long until something beyond `now_ms` is due, or a lease ends. What is due already waits for a slot, not for time.
/// Nobody tells of a lease that begins meanwhile, so no longer than one lasts.
async fn next_due(queue: &AsyncQueue, now_ms: u64) -> Result<Duration, store::Error> {
    let due = Range::prefix(keys::all_due()).beyond(keys::due(now_ms.saturating_add(1), ""));
    let mut wait = queue.config.lease;
    for range in [due, Range::prefix(keys::all_held())] {
        let page = queue.store.range(&range.rows(1)).await?;
        if let Some((at_ms, _)) = page.entries.first().and_then(|entry| keys::parse(&entry.key)) {
            wait = wait.min(Duration::from_millis(at_ms.saturating_sub(now_ms).max(1)));
        }
    }
    Ok(wait)
}

pub(super) fn parse(entry: &Entry) -> Option<(String, Pending)> {
    let (_, id) = keys::parse(&entry.key)?;
    Some((id, serde_json::from_slice(&entry.value).ok()?))
}

/// Runs one claimed event, or delivers one record, and writes down what follows.
pub(super) async fn run(core: Arc<Core>, claim: Claim) {
    let Claim { id, kept, pending, lease, slot } = claim;
    match kept {
        Kept::Event { invocation, lineage } => handle(&core, invocation, &lineage, &pending, &lease).await,
        Kept::Record(delivery) => deliver(&core, &RequestId(id), &pending, &lease, delivery).await,
    }
    drop(slot);
}

async fn handle(core: &Arc<Core>, invocation: Invocation, lineage: &Lineage, pending: &Pending, lease: &Bytes) {
    let queue = &core.async_queue;
    let ends = |condition, tried| End { invocation: &invocation, lineage, pending, lease, condition, tried };
    let Some(rules) = rules(core, &pending.function).await else { return };
    if event::left(pending, core.clock.now_ms(), &rules, &queue.config).is_none() {
        let Some(terms) = terms(core, &pending.function, None).await else { return };
        return finish(core, &terms, ends(Condition::EventAgeExceeded, None)).await;
    }
    queue.metrics.begun(&pending.function, core.clock.now_ms(), pending.accepted_ms);
    let result = if is_loop(core, &pending.function, lineage).await {
        Err(recursion::looped(&pending.function))
    } else {
        invoke::invoke(core, invocation.clone()).await
    };
    if core.closing.is_cancelled() && !matches!(result, Ok(ref outcome) if outcome.error.is_none()) {
        // Cut off by the stop, not by the function: the lease stays, and the next process takes it over.
        return;
    }
    let reserved = match result {
        Err(InvokeError::Throttled(_)) => reserved(core, &pending.function).await,
        _ => None,
    };
    // What holds now, as the call may have taken long.
    let Some(terms) = terms(core, &pending.function, Some(&result)).await else { return };
    let tried = Try::of(&result, reserved);
    let now_ms = core.clock.now_ms();
    let id = &invocation.request_id.0;
    match event::after(pending, tried, now_ms, &terms, &queue.config) {
        Next::End(condition) => finish(core, &terms, ends(condition, Some((tried, &result)))).await,
        Next::Drop(reason) => {
            queue.metrics.dropped(&pending.function, now_ms, reason);
            give_up(queue, id, lease, reason).await;
        }
        Next::Retry { wait, failures, refusals } => {
            let due_ms = now_ms.saturating_add(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
            if let Ok(outcome) = &result {
                core.expect(&pending.function, &outcome.executed_version, wait);
            }
            let pending = Pending { failures, refusals, holder: None, ..pending.clone() };
            end(queue, lease, |txn| txn.put(keys::due(due_ms, id), encode(&pending))).await;
        }
    }
}

/// The rules that hold now. Nothing: they cannot be read, and the event runs again when its lease ends.
pub(super) async fn rules(core: &Core, function: &FunctionRef) -> Option<Arc<EventRules>> {
    for attempt in 1..=END_TRIES {
        match core.catalog.event_rules(function).await {
            Ok(rules) => return Some(rules),
            Err(error) if attempt == END_TRIES => {
                tracing::error!(%error, "the rules for an event cannot be read; it will run again");
            }
            Err(_) => sleep(STORE_PAUSE * attempt).await,
        }
    }
    None
}

async fn reserved(core: &Core, function: &FunctionRef) -> Option<u32> {
    core.catalog.version(function).await.ok()?.reserved_concurrency
}

pub(super) async fn give_up(queue: &AsyncQueue, id: &str, lease: &Bytes, reason: &str) {
    tracing::warn!(request_id = id, reason, "an asynchronous event is given up");
    end(queue, lease, |txn| txn.delete(keys::event(id))).await;
}

/// Ends a lease, with whatever else belongs to that. False: nothing was written, or nobody knows.
pub(super) async fn end(queue: &AsyncQueue, lease: &Bytes, more: impl Fn(Txn) -> Txn) -> bool {
    for attempt in 0..END_TRIES {
        let txn = more(Txn::new().relaxed().expect_present(lease.clone()).delete(lease.clone()));
        match queue.store.commit(txn).await {
            Ok(_) => return true,
            // Another holder has it since: the event is in its hands.
            Err(store::Error::Conflict) => return false,
            Err(error) if attempt + 1 == END_TRIES => {
                tracing::error!(%error, "the end of an event could not be written; it will run again");
            }
            Err(_) => sleep(STORE_PAUSE * (attempt + 1)).await,
        }
    }
    false
}
