//! Delivery: the record of an event that has ended goes to its destination, and functions take such events.
//!
//! A record takes the place of its event in the transaction that ends it, under the same keys, and leaves when its target
//! says that it has it. A process that dies between leaves a lease, as with events.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use model::ports::{EventTarget, target_of};
use model::{
    Delivery, DeliveryError, EventRules, FunctionRef, Invocation, InvocationKind, InvokeError, Lineage, Outcome,
    RequestId, Trigger,
};

use super::event::{self, Condition, Next, Pending, Try};
use super::record::{self, Ended};
use super::worker::{end, give_up};
use super::{AsyncQueue, accept_of, encode, keys};
use crate::engine::Core;
use crate::payload;
use crate::recursion::CALLS_IN_CHAIN_MAX;

/// An event that has ended, and what its record is made from.
pub(super) struct End<'a> {
    pub(super) invocation: &'a Invocation,
    pub(super) lineage: &'a Lineage,
    pub(super) pending: &'a Pending,
    pub(super) lease: &'a Bytes,
    pub(super) condition: Condition,
    /// How the last try ended; nothing if there was none.
    pub(super) tried: Option<(Try, Option<&'a Outcome>)>,
}

/// Ends an event: it leaves, or its record takes its place and is delivered.
pub(super) async fn finish(core: &Arc<Core>, rules: &EventRules, ending: End<'_>) {
    let End { invocation, pending, lease, condition, .. } = ending;
    let queue = &core.async_queue;
    let id = &invocation.request_id;
    if condition != Condition::Success {
        queue.metrics.dropped(&pending.function, core.clock.now_ms(), condition.as_str());
    }
    let Some(arn) = condition.target(rules) else {
        if condition != Condition::Success {
            give_up(queue, &id.0, lease, condition.as_str()).await;
        } else {
            end(queue, lease, |txn| txn.delete(keys::event(&id.0))).await;
        }
        return;
    };
    let Some(target) = target_of(&core.targets(), arn).cloned() else {
        give_up(queue, &id.0, lease, "there is no service that takes its record").await;
        return;
    };
    let now_ms = core.clock.now_ms();
    let delivery = delivery(&ending, arn, now_ms, target.event_bytes_max());
    let pending = Pending { accepted_ms: now_ms, failures: 0, refusals: 0, ..pending.clone() };
    let next = keys::held(queue.lease_until(now_ms), &id.0);
    let value = event::encode_record(&pending.function, id, &delivery);
    let ended =
        end(queue, lease, |txn| txn.put(keys::event(&id.0), value.clone()).put(next.clone(), encode(&pending))).await;
    if ended {
        deliver(core, id, &pending, &next, delivery).await;
    }
}

fn delivery(ending: &End<'_>, arn: &str, now_ms: u64, bytes_max: usize) -> Delivery {
    let End { invocation, lineage, pending, condition, tried, .. } = *ending;
    let record = record::of(
        &Ended {
            now_ms,
            request_id: &invocation.request_id,
            function: &pending.function,
            condition,
            invocations: pending.failures + u32::from(tried.is_some_and(|(tried, _)| tried.ran())),
            payload: &invocation.payload,
            outcome: tried.and_then(|(_, outcome)| outcome),
        },
        bytes_max,
    );
    Delivery { target: arn.to_owned(), event: record, trace_id: invocation.trace_id.clone(), lineage: lineage.clone() }
}

/// Delivers a record that this process has the lease of.
pub(super) async fn deliver(core: &Arc<Core>, id: &RequestId, pending: &Pending, lease: &Bytes, delivery: Delivery) {
    let queue = &core.async_queue;
    let arn = delivery.target.clone();
    let delivered = match target_of(&core.targets(), &arn) {
        Some(target) => target.deliver(delivery).await,
        None => Err(DeliveryError::Refused("there is no service that takes it".into())),
    };
    match delivered {
        Ok(()) => {
            end(queue, lease, |txn| txn.delete(keys::event(&id.0))).await;
        }
        Err(DeliveryError::Refused(reason)) => {
            queue.metrics.undelivered(&pending.function, core.clock.now_ms());
            lose(queue, id, lease, &arn, &reason).await;
        }
        // Cut off by the stop: the lease stays, and the next process takes it over.
        Err(DeliveryError::Later(_)) if core.closing.is_cancelled() => {}
        Err(DeliveryError::Later(reason)) => {
            let now_ms = core.clock.now_ms();
            let Next::Retry { wait, failures, refusals } = event::after_delivery(pending, now_ms, &queue.config) else {
                queue.metrics.undelivered(&pending.function, now_ms);
                return lose(queue, id, lease, &arn, &reason).await;
            };
            let due_ms = now_ms.saturating_add(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
            let pending = Pending { failures, refusals, holder: None, ..pending.clone() };
            end(queue, lease, |txn| txn.put(keys::due(due_ms, &id.0), encode(&pending))).await;
        }
    }
}

/// The record is gone; the log of the server is all that tells of it.
async fn lose(queue: &AsyncQueue, id: &RequestId, lease: &Bytes, arn: &str, reason: &str) {
    tracing::warn!(request_id = %id, target_arn = arn, reason, "the record of an asynchronous event is not delivered");
    end(queue, lease, |txn| txn.delete(keys::event(&id.0))).await;
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
        let Delivery { target, event, trace_id, mut lineage } = delivery;
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
