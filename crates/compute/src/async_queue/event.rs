//! One accepted event: how it is kept, and what follows after a try. Pure.
//!
//! A function's error is retried after the configured waits; a refusal (throttled, no capacity, a fault of the
//! platform) is not the function's fault and is retried until the event is too old. How often and how long is also for
//! the rules of the qualifier that the event was sent to. What becomes of the record of its end is in `record`.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use model::{
    Attributes, Delivery, EventRules, FunctionRef, Invocation, InvocationKind, InvokeError, Lineage, Outcome,
    RequestId, Trigger,
};
use serde::{Deserialize, Serialize};

use crate::config::AsyncConfig;

/// What the due key holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pending {
    /// What to run.
    pub(super) function: FunctionRef,
    /// When it was accepted, milliseconds since the epoch.
    pub(super) accepted_ms: u64,
    /// Tries that the function failed.
    pub(super) failures: u32,
    /// Tries that the platform refused, since the last failure.
    pub(super) refusals: u32,
    /// The process that runs it now.
    pub(super) holder: Option<String>,
}

/// How an event ended, as its record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Condition {
    /// The function has handled it.
    Success,
    /// The function failed as often as it may.
    RetriesExhausted,
    /// It is too old to be tried again.
    EventAgeExceeded,
    /// The function has no concurrency at all.
    ZeroReservedConcurrency,
    /// A chain of calls has come back to the function too often.
    RecursiveLoop,
    /// The function does not take such calls: it is another than it was when the event was accepted.
    InvalidRequest,
}

/// What holds for an event when a try has ended.
#[derive(Debug, Clone, Default)]
pub(super) struct Terms {
    /// The rules of what it was sent to.
    pub(super) rules: Arc<EventRules>,
    /// Where it goes itself if it is given up.
    pub(super) dead_letters: Option<String>,
}

impl Terms {
    /// Whether anybody is told of an event that is given up.
    fn tell_of_failure(&self) -> bool {
        self.rules.on_failure.is_some() || self.dead_letters.is_some()
    }
}

impl Condition {
    /// The word of the record.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Success => "Success",
            Self::RetriesExhausted => "RetriesExhausted",
            Self::EventAgeExceeded => "EventAgeExceeded",
            Self::ZeroReservedConcurrency => "ZeroReservedConcurrency",
            Self::RecursiveLoop => "RecursiveLoop",
            Self::InvalidRequest => "InvalidRequest",
        }
    }

    /// Where the record goes, if anybody wants it.
    pub(super) fn target(self, terms: &Terms) -> Option<&str> {
        let target = if self == Self::Success { &terms.rules.on_success } else { &terms.rules.on_failure };
        target.as_deref()
    }

    /// Where the event goes itself, if anywhere.
    pub(super) fn dead_letters(self, terms: &Terms) -> Option<&str> {
        terms.dead_letters.as_deref().filter(|_| self != Self::Success)
    }
}

/// What follows after a try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Next {
    /// It is over.
    End(Condition),
    /// It is tried again after a wait.
    Retry {
        /// The wait.
        wait: Duration,
        /// Failures so far.
        failures: u32,
        /// Refusals so far.
        refusals: u32,
    },
    /// It is over and nobody is told, since there is no function any more.
    Drop(&'static str),
}

/// How a try ended, as far as the queue cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Try {
    Succeeded,
    Failed,
    Refused,
    /// Refused for good: a chain of calls has come back to the function too often.
    Looped,
    /// Refused, and so will every other be: the function's reserved concurrency is zero.
    Closed,
    /// Refused, and so will every other be: it is no call for the function as it is now.
    Unfit,
    /// There is no such function any more.
    Gone,
}

impl Try {
    /// Of an invocation's result; `reserved` is the function's reserved concurrency.
    pub(super) fn of(result: &Result<Outcome, InvokeError>, reserved: Option<u32>) -> Self {
        match result {
            Ok(outcome) if outcome.error.is_none() => Self::Succeeded,
            Ok(_) => Self::Failed,
            Err(InvokeError::NotFound(_)) => Self::Gone,
            Err(InvokeError::PayloadTooLarge { .. } | InvokeError::PayloadNotJson(_) | InvokeError::Unfit(_)) => {
                Self::Unfit
            }
            Err(InvokeError::Recursive(_)) => Self::Looped,
            Err(InvokeError::Throttled(_)) if reserved == Some(0) => Self::Closed,
            Err(
                InvokeError::Throttled(_)
                | InvokeError::NotReady(_)
                | InvokeError::NoCapacity(_)
                | InvokeError::Internal(_),
            ) => Self::Refused,
        }
    }

    /// Whether the function ran.
    pub(super) fn ran(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

/// The age to which events are tried.
fn age_max(rules: &EventRules, config: &AsyncConfig) -> Duration {
    rules.age_max_s.map_or(config.age_max, |seconds| Duration::from_secs(seconds.into()).min(config.age_max))
}

/// How much time is left to an event; nothing if it is too old to be tried.
pub(super) fn left(pending: &Pending, now_ms: u64, rules: &EventRules, config: &AsyncConfig) -> Option<Duration> {
    let age = Duration::from_millis(now_ms.saturating_sub(pending.accepted_ms));
    age_max(rules, config).checked_sub(age)
}

/// What follows after a try that ended at `now_ms`, by what holds then.
pub(super) fn after(pending: &Pending, tried: Try, now_ms: u64, terms: &Terms, config: &AsyncConfig) -> Next {
    let rules = &terms.rules;
    let left = left(pending, now_ms, rules, config).filter(|left| !left.is_zero());
    match tried {
        Try::Succeeded => Next::End(Condition::Success),
        Try::Gone => Next::Drop("the function does not exist"),
        Try::Looped => Next::End(Condition::RecursiveLoop),
        Try::Unfit => Next::End(Condition::InvalidRequest),
        Try::Closed if terms.tell_of_failure() => Next::End(Condition::ZeroReservedConcurrency),
        Try::Failed => {
            let retries = rules.retries_max.map_or(usize::MAX, |retries| retries as usize);
            match config.retry_waits.iter().take(retries).nth(pending.failures as usize) {
                None => Next::End(Condition::RetriesExhausted),
                Some(wait) if left.is_some_and(|left| *wait <= left) => {
                    Next::Retry { wait: *wait, failures: pending.failures + 1, refusals: 0 }
                }
                Some(_) => Next::End(Condition::EventAgeExceeded),
            }
        }
        Try::Refused | Try::Closed => match left {
            // Not later than its age allows, so that none is given up while there is time.
            Some(left) => Next::Retry {
                wait: refusal_wait(pending, config).min(left),
                failures: pending.failures,
                refusals: pending.refusals.saturating_add(1),
            },
            None => Next::End(Condition::EventAgeExceeded),
        },
    }
}

/// What follows after a record could not be delivered for now: it is tried again for as long as an event is.
pub(super) fn after_delivery(pending: &Pending, now_ms: u64, config: &AsyncConfig) -> Next {
    after(pending, Try::Refused, now_ms, &Terms::default(), config)
}

fn refusal_wait(pending: &Pending, config: &AsyncConfig) -> Duration {
    let doubled = config.refusal_wait_min.saturating_mul(1 << pending.refusals.min(20));
    doubled.min(config.refusal_wait_max)
}

/// What is kept under an event's key.
#[derive(Debug, Clone)]
pub(super) enum Kept {
    /// An event that is to be handled.
    Event {
        /// As the function is called.
        invocation: Invocation,
        /// The chain that it stems from.
        lineage: Lineage,
    },
    /// The record of an event that has ended, or its dead letter, to be delivered.
    Record(Delivery),
}

#[derive(Serialize, Deserialize)]
struct Header {
    function: FunctionRef,
    request_id: RequestId,
    trace_id: Option<String>,
    #[serde(default, skip_serializing_if = "Lineage::is_empty")]
    lineage: Lineage,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
    /// Of a record: where it goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    /// Of a dead letter: what is told beside it.
    #[serde(default, skip_serializing_if = "Attributes::is_empty")]
    attributes: Attributes,
}

/// An event as it is kept.
pub(super) fn encode(invocation: &Invocation, payload: &[u8], lineage: &Lineage) -> Bytes {
    let header = Header {
        function: invocation.function.clone(),
        request_id: invocation.request_id.clone(),
        trace_id: invocation.trace_id.clone(),
        lineage: lineage.clone(),
        tenant: invocation.tenant.clone(),
        target: None,
        attributes: Attributes::new(),
    };
    with_header(&header, payload)
}

/// The record of a function's event, or its dead letter, as it is kept in the event's place.
pub(super) fn encode_record(function: &FunctionRef, id: &RequestId, delivery: &Delivery) -> Bytes {
    let header = Header {
        function: function.clone(),
        request_id: id.clone(),
        trace_id: delivery.trace_id.clone(),
        lineage: delivery.lineage.clone(),
        tenant: None,
        target: Some(delivery.target.clone()),
        attributes: delivery.attributes.clone(),
    };
    with_header(&header, &delivery.event)
}

fn with_header(header: &Header, payload: &[u8]) -> Bytes {
    // Strings and numbers always serialise.
    let header = serde_json::to_vec(&header).unwrap_or_default();
    let mut value = BytesMut::with_capacity(4 + header.len() + payload.len());
    value.put_u32(u32::try_from(header.len()).unwrap_or(u32::MAX));
    value.put_slice(&header);
    value.put_slice(payload);
    value.freeze()
}

/// What a value stands for; nothing if it is damaged.
pub(super) fn decode(mut value: Bytes) -> Option<Kept> {
    let length = value.len().checked_sub(4).map(|rest| (value.get_u32() as usize, rest))?;
    if length.0 > length.1 {
        return None;
    }
    let Header { function, request_id, trace_id, lineage, tenant, target, attributes } =
        serde_json::from_slice(&value.split_to(length.0)).ok()?;
    if let Some(target) = target {
        return Some(Kept::Record(Delivery { target, event: value, attributes, trace_id, lineage }));
    }
    let invocation = Invocation {
        function,
        request_id,
        payload: value,
        kind: InvocationKind::Event,
        trigger: Trigger::AsyncQueue,
        client_context: None,
        tenant,
        trace_id,
        log_tail: false,
    };
    Some(Kept::Event { invocation, lineage })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::fixtures::{invocation, reference};
    use model::Attribute;
    use proptest::prelude::*;

    fn pending(failures: u32, refusals: u32) -> Pending {
        Pending { function: reference("f"), accepted_ms: 1_000, failures, refusals, holder: None }
    }

    fn next(pending: &Pending, tried: Try, now_ms: u64, rules: &EventRules) -> Next {
        let terms = Terms { rules: Arc::new(rules.clone()), dead_letters: None };
        after(pending, tried, now_ms, &terms, &AsyncConfig::default())
    }

    fn with_letters(rules: EventRules) -> Terms {
        Terms { rules: Arc::new(rules), dead_letters: Some("q".into()) }
    }

    fn retry(seconds: u64, failures: u32, refusals: u32) -> Next {
        Next::Retry { wait: Duration::from_secs(seconds), failures, refusals }
    }

    fn rules(retries: u32, age_s: u32) -> EventRules {
        EventRules { retries_max: Some(retries), age_max_s: Some(age_s), ..EventRules::default() }
    }

    #[test]
    fn failures_are_retried_twice_or_as_often_as_the_rules_say() {
        let plain = EventRules::default();
        assert_eq!(next(&pending(0, 3), Try::Failed, 1_000, &plain), retry(60, 1, 0));
        assert_eq!(next(&pending(1, 0), Try::Failed, 1_000, &plain), retry(120, 2, 0));
        assert_eq!(next(&pending(2, 0), Try::Failed, 1_000, &plain), Next::End(Condition::RetriesExhausted));
        assert_eq!(next(&pending(2, 0), Try::Succeeded, 1_000, &plain), Next::End(Condition::Success));
        for (retries, failures) in [(0, 0), (1, 1), (2, 2), (0, 2)] {
            let end = next(&pending(failures, 0), Try::Failed, 1_000, &rules(retries, 21_600));
            assert_eq!(end, Next::End(Condition::RetriesExhausted), "{failures} of {retries}");
        }
        assert_eq!(next(&pending(0, 0), Try::Failed, 1_000, &rules(1, 21_600)), retry(60, 1, 0));
    }

    #[test]
    fn a_retry_that_would_come_too_late_is_none() {
        let too_old = Next::End(Condition::EventAgeExceeded);
        assert_eq!(next(&pending(0, 0), Try::Failed, 1_000, &rules(2, 60)), retry(60, 1, 0));
        assert_eq!(next(&pending(0, 0), Try::Failed, 1_001, &rules(2, 60)), too_old);
        // The last failure is the function's own whatever the age.
        assert_eq!(next(&pending(2, 0), Try::Failed, 900_000, &rules(2, 60)), Next::End(Condition::RetriesExhausted));
        assert_eq!(next(&pending(0, 0), Try::Succeeded, 900_000, &rules(2, 60)), Next::End(Condition::Success));
    }

    #[test]
    fn refusals_back_off_until_the_event_is_too_old() {
        let plain = EventRules::default();
        for (refusals, seconds) in [(0, 1), (1, 2), (5, 32), (9, 300), (4_000_000, 300)] {
            assert_eq!(next(&pending(1, refusals), Try::Refused, 1_000, &plain), retry(seconds, 1, refusals + 1));
        }
        let old = 1_000 + 6 * 3_600_000;
        let too_old = Next::End(Condition::EventAgeExceeded);
        assert_eq!(next(&pending(0, 0), Try::Refused, old, &plain), too_old);
        assert_eq!(next(&pending(0, 0), Try::Refused, old - 1_000, &plain), retry(1, 0, 1));
        // Its last try is when it is just not too old.
        assert_eq!(next(&pending(0, 9), Try::Refused, 31_000, &rules(2, 60)), retry(30, 0, 10));
        assert_eq!(next(&pending(0, 9), Try::Refused, 61_000, &rules(2, 60)), too_old);
    }

    #[test]
    fn without_concurrency_an_event_ends_at_once_where_somebody_is_told() {
        let told = EventRules { on_failure: Some("arn".into()), ..EventRules::default() };
        let end = Next::End(Condition::ZeroReservedConcurrency);
        assert_eq!(next(&pending(0, 0), Try::Closed, 1_000, &told), end);
        assert_eq!(next(&pending(0, 0), Try::Closed, 1_000, &EventRules::default()), retry(1, 0, 1));
        let letters = with_letters(EventRules::default());
        assert_eq!(after(&pending(0, 0), Try::Closed, 1_000, &letters, &AsyncConfig::default()), end);
        let throttled =
            Err(InvokeError::Throttled(model::ThrottleReason::ReservedFunctionConcurrentInvocationLimitExceeded));
        assert_eq!((Try::of(&throttled, Some(0)), Try::of(&throttled, Some(1))), (Try::Closed, Try::Refused));
    }

    #[test]
    fn only_a_function_that_is_not_there_is_gone() {
        let of = |error| Try::of(&Err(error), None);
        assert_eq!(of(InvokeError::NotFound("arn".into())), Try::Gone);
        for error in [
            InvokeError::Unfit("no"),
            InvokeError::PayloadNotJson("no".into()),
            InvokeError::PayloadTooLarge { size: 2, kind: "Event", limit: 1 },
        ] {
            assert_eq!(of(error), Try::Unfit);
        }
        let rules = EventRules::default();
        assert_eq!(next(&pending(0, 0), Try::Unfit, 1_000, &rules), Next::End(Condition::InvalidRequest));
        assert!(matches!(next(&pending(0, 0), Try::Gone, 1_000, &rules), Next::Drop(_)));
    }

    #[test]
    fn success_and_failure_have_targets_of_their_own() {
        let rules = EventRules { on_success: Some("s".into()), on_failure: Some("f".into()), ..EventRules::default() };
        let terms = with_letters(rules);
        assert_eq!(Condition::Success.target(&terms), Some("s"));
        assert_eq!(Condition::Success.dead_letters(&terms), None);
        for failure in [
            Condition::RetriesExhausted,
            Condition::EventAgeExceeded,
            Condition::ZeroReservedConcurrency,
            Condition::RecursiveLoop,
            Condition::InvalidRequest,
        ] {
            assert_eq!((failure.target(&terms), failure.dead_letters(&terms)), (Some("f"), Some("q")));
            assert_eq!(failure.dead_letters(&Terms::default()), None);
        }
    }

    #[test]
    fn events_and_records_read_back() {
        let mut kept = invocation("f", "id-1", "{\"a\":1}");
        kept.trace_id = Some("Root=1".into());
        let lineage = Lineage::from([("arn".to_owned(), 3)]);
        let Some(Kept::Event { invocation: back, lineage: from }) = decode(encode(&kept, &kept.payload, &lineage))
        else {
            panic!("no event");
        };
        assert_eq!(
            (&back.request_id, &back.payload, &back.trace_id),
            (&kept.request_id, &kept.payload, &kept.trace_id)
        );
        assert_eq!((back.trigger, &from), (Trigger::AsyncQueue, &lineage));
        let letter = Attributes::from([
            ("ErrorCode".to_owned(), Attribute::Number(200)),
            ("RequestID".to_owned(), Attribute::Text("id-1".into())),
        ]);
        for attributes in [Attributes::new(), letter] {
            let (trace_id, lineage) = (kept.trace_id.clone(), lineage.clone());
            let record = Delivery { target: "arn".into(), event: "{}".into(), attributes, trace_id, lineage };
            let value = encode_record(&kept.function, &kept.request_id, &record);
            assert!(matches!(decode(value), Some(Kept::Record(back)) if back == record));
        }
    }

    proptest! {
        #[test]
        fn noise_never_panics(noise: Vec<u8>) {
            let _ = decode(noise.into());
        }

        #[test]
        fn an_event_ends_within_its_age_and_its_retries(
            age_s in 60u32..=21_600,
            retries in 0u32..=2,
            fails: Vec<bool>,
            took_ms in 0u64..5_000,
        ) {
            let (rules, config) = (rules(retries, age_s), AsyncConfig::default());
            let terms = with_letters(rules.clone());
            let mut pending = pending(0, 0);
            let mut now_ms = pending.accepted_ms;
            let mut tries = fails.into_iter().chain(std::iter::repeat(true));
            let end = loop {
                prop_assert!(left(&pending, now_ms, &rules, &config).is_some(), "it is tried although it is too old");
                now_ms += took_ms;
                let tried = if tries.next() == Some(true) { Try::Failed } else { Try::Refused };
                match after(&pending, tried, now_ms, &terms, &config) {
                    Next::Retry { wait, failures, refusals } => {
                        now_ms += u64::try_from(wait.as_millis()).unwrap();
                        pending = Pending { failures, refusals, ..pending };
                    }
                    end => break end,
                }
                prop_assert!(pending.failures <= retries);
            };
            let exhausted = end == Next::End(Condition::RetriesExhausted);
            prop_assert_eq!(exhausted, exhausted && pending.failures == retries);
            prop_assert!(exhausted || end == Next::End(Condition::EventAgeExceeded), "{:?}", end);
        }
    }
}
