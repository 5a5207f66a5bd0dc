//! Delivery: the record of an event that has ended goes to its destination, its dead letter to the queue or topic of its
//! function, and functions take such events.
//!
//! Both take the place of their event in the transaction that ends it, each with keys of its own, and each leaves when its
//! target says that it has it. A process that dies between leaves leases, as with events.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use model::ports::{EventTarget, target_of};
use model::{
    Attributes, Delivery, DeliveryError, FunctionRef, Invocation, InvocationKind, InvokeError, Lineage, Outcome,
    RequestId, Trigger,
};

use super::event::{self, Condition, Next, Pending, Terms, Try};
use super::record::{self, Ended};
use super::worker::{end, give_up};
use super::{accept_of, dead_letters, encode, keys};
use crate::engine::Core;
use crate::payload;
use crate::recursion::CALLS_IN_CHAIN_MAX;

/// What the id of a dead letter has beside that of its event, whose own place the record has.
const LETTER: &str = ".dead-letter";
const NO_SERVICE: &str = "there is no service that takes it";

/// An event that has ended, and what its record is made from.
pub(super) struct End<'a> {
    pub(super) invocation: &'a Invocation,
    pub(super) lineage: &'a Lineage,
    pub(super) pending: &'a Pending,
    pub(super) lease: &'a Bytes,
    pub(super) condition: Condition,
    /// How the last try ended; nothing if there was none.
    pub(super) tried: Option<(Try, &'a Result<Outcome, InvokeError>)>,
}

/// Ends an event: it leaves, or its record and its dead letter take its place and are delivered.
pub(super) async fn finish(core: &Arc<Core>, terms: &Terms, ending: End<'_>) {
    let End { invocation, pending, lease, condition, .. } = ending;
    let queue = &core.async_queue;
    let id = &invocation.request_id;
    let now_ms = core.clock.now_ms();
    let record = condition.target(terms).and_then(|arn| record(core, &ending, arn, now_ms));
    let letter = condition.dead_letters(terms).and_then(|arn| letter(core, &ending, arn));
    if condition != Condition::Success {
        queue.metrics.dropped(&pending.function, now_ms, condition.as_str());
    }
    if record.is_none() && letter.is_none() {
        if condition != Condition::Success {
            let reason = match ending.tried {
                Some((_, Err(error))) => format!("{}: {error}", condition.as_str()),
                _ => condition.as_str().to_owned(),
            };
            give_up(queue, &id.0, lease, &reason).await;
        } else {
            end(queue, lease, |txn| txn.delete(keys::event(&id.0))).await;
        }
        return;
    }
    let pending = Pending { accepted_ms: now_ms, failures: 0, refusals: 0, ..pending.clone() };
    let of_letter = RequestId(format!("{id}{LETTER}"));
    // The first has the event's own place, so that nothing is left there.
    let of_letter = if record.is_some() { &of_letter } else { id };
    let until_ms = queue.lease_until(now_ms);
    let ended = end(queue, lease, |mut txn| {
        for (id, delivery) in record.iter().map(|it| (id, it)).chain(letter.iter().map(|it| (of_letter, it))) {
            txn =
                txn.put(keys::event(&id.0), event::encode_record(&pending.function, &invocation.request_id, delivery));
            txn = txn.put(keys::held(until_ms, &id.0), encode(&pending));
        }
        txn
    });
    if !ended.await {
        return;
    }
    let deliver = async |id: &RequestId, delivery: Option<Delivery>| {
        if let Some(delivery) = delivery {
            deliver(core, id, &pending, &keys::held(until_ms, &id.0), delivery).await;
        }
    };
    // Beside each other: neither waits for the other's target.
    tokio::join!(deliver(id, record), deliver(of_letter, letter));
}

/// The record of an event for its destination, if there is one that takes it.
fn record(core: &Arc<Core>, ending: &End<'_>, arn: &str, now_ms: u64) -> Option<Delivery> {
    let End { invocation, lineage, pending, condition, tried, .. } = *ending;
    let Some(target) = target_of(&core.targets(), arn).cloned() else {
        lost(core, &pending.function, &invocation.request_id, arn, "record", NO_SERVICE);
        return None;
    };
    let record = record::of(
        &Ended {
            now_ms,
            request_id: &invocation.request_id,
            function: &pending.function,
            condition,
            invocations: pending.failures + u32::from(tried.is_some_and(|(tried, _)| tried.ran())),
            payload: &invocation.payload,
            outcome: tried.and_then(|(_, result)| result.as_ref().ok()),
        },
        target.event_bytes_max(),
    );
    Some(Delivery {
        target: arn.to_owned(),
        event: record,
        attributes: Attributes::new(),
        trace_id: invocation.trace_id.clone(),
        lineage: lineage.clone(),
    })
}

/// The dead letter of an event, if its target takes it.
fn letter(core: &Arc<Core>, ending: &End<'_>, arn: &str) -> Option<Delivery> {
    let invocation = ending.invocation;
    let lost = |reason| lost(core, &ending.pending.function, &invocation.request_id, arn, "dead letter", reason);
    match target_of(&core.targets(), arn) {
        None => lost(NO_SERVICE),
        Some(target) if invocation.payload.len() > target.event_bytes_max() => lost("the event is too large for it"),
        Some(_) => return Some(dead_letters::letter(ending, arn)),
    }
    None
}

/// Delivers a record or a dead letter that this process has the lease of.
pub(super) async fn deliver(core: &Arc<Core>, id: &RequestId, pending: &Pending, lease: &Bytes, delivery: Delivery) {
    let queue = &core.async_queue;
    let arn = delivery.target.clone();
    let what = if delivery.attributes.is_empty() { "record" } else { "dead letter" };
    let delivered = match target_of(&core.targets(), &arn) {
        Some(target) => target.deliver(delivery).await,
        None => Err(DeliveryError::Refused(NO_SERVICE.into())),
    };
    match delivered {
        Ok(()) => {
            end(queue, lease, |txn| txn.delete(keys::event(&id.0))).await;
        }
        Err(DeliveryError::Refused(reason)) => {
            lost(core, &pending.function, id, &arn, what, &reason);
            end(queue, lease, |txn| txn.delete(keys::event(&id.0))).await;
        }
        // Cut off by the stop: the lease stays, and the next process takes it over.
        Err(DeliveryError::Later(_)) if core.closing.is_cancelled() => {}
        Err(DeliveryError::Later(reason)) => {
            let now_ms = core.clock.now_ms();
            let Next::Retry { wait, failures, refusals } = event::after_delivery(pending, now_ms, &queue.config) else {
                lost(core, &pending.function, id, &arn, what, &reason);
                end(queue, lease, |txn| txn.delete(keys::event(&id.0))).await;
                return;
            };
            let due_ms = now_ms.saturating_add(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
            let pending = Pending { failures, refusals, holder: None, ..pending.clone() };
            end(queue, lease, |txn| txn.put(keys::due(due_ms, &id.0), encode(&pending))).await;
        }
    }
}

/// A record or a dead letter is gone; the counts and the log of the server are all that tells of it.
fn lost(core: &Core, function: &FunctionRef, id: &RequestId, arn: &str, what: &str, reason: &str) {
    core.async_queue.metrics.undelivered(function, core.clock.now_ms());
    tracing::warn!(request_id = %id, target_arn = arn, reason, "the {what} of an asynchronous event is not delivered");
}

/// Whether a chain of deliveries has brought an event to its function too often.
pub(super) async fn is_loop(core: &Core, function: &FunctionRef, lineage: &Lineage) -> bool {
    lineage.get(&unqualified(function)).is_some_and(|calls| *calls > CALLS_IN_CHAIN_MAX)
        && core.catalog.version(function).await.is_ok_and(|version| !version.allows_recursion)
}

fn unqualified(function: &FunctionRef) -> String {
    function.unqualified().arn()
}

/// Functions, as takers of events.
pub(crate) struct Functions(pub(crate) Arc<Core>);

#[async_trait]
impl EventTarget for Functions {
    fn service(&self) -> &'static str {
        "lambda"
    }

    fn event_bytes_max(&self) -> usize {
        payload::EVENT_BYTES_MAX
    }

    async fn has(&self, arn: &str) -> bool {
        match FunctionRef::parse_arn(arn) {
            Some(function) => self.0.catalog.version(&function).await.is_ok(),
            None => false,
        }
    }

    /// The function gets an event of its own: its id is another each time.
    async fn deliver(&self, delivery: Delivery) -> Result<(), DeliveryError> {
        // A function is told nothing beside its event.
        let Delivery { target, event, attributes: _, trace_id, mut lineage } = delivery;
        let Some(function) = FunctionRef::parse_arn(&target) else {
            return Err(DeliveryError::Refused("it is no ARN of a function".into()));
        };
        let calls = lineage.entry(unqualified(&function)).or_default();
        let allowed = self.0.catalog.version(&function).await.is_ok_and(|version| version.allows_recursion);
        // One more than may run: that one is stopped, and whoever is to be told of that hears it. Those come back too.
        if *calls > CALLS_IN_CHAIN_MAX && !allowed {
            return Err(DeliveryError::Refused(format!("a recursive loop has called it {calls} times")));
        }
        *calls = calls.saturating_add(1);
        let invocation = Invocation {
            function,
            request_id: RequestId(self.0.random.uuid()),
            payload: event,
            kind: InvocationKind::Event,
            trigger: Trigger::AsyncQueue,
            client_context: None,
            tenant: None,
            trace_id,
            log_tail: false,
        };
        accept_of(&self.0, invocation, &lineage).await.map_err(|error| match error {
            InvokeError::NotFound(_)
            | InvokeError::PayloadTooLarge { .. }
            | InvokeError::PayloadNotJson(_)
            | InvokeError::Unfit(_) => DeliveryError::Refused(error.to_string()),
            other => DeliveryError::Later(other.to_string()),
        })
    }
}
