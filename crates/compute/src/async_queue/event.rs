//! One accepted event: how it is kept, and what follows after a try. Pure.
//!
//! A function's error is retried after the configured waits; a refusal (throttled, no capacity, a fault of the
//! platform) is not the function's fault and is retried until the event is too old.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use model::{FunctionRef, Invocation, InvocationKind, InvokeError, Outcome, RequestId, Trigger};
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

/// What follows after a try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Next {
    /// The event is done with.
    Done,
    /// It is tried again after a wait.
    Retry {
        /// The wait.
        wait: Duration,
        /// Failures so far.
        failures: u32,
        /// Refusals so far.
        refusals: u32,
    },
    /// It is given up.
    Drop(&'static str),
}

/// How a try ended, as far as the queue cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Try {
    Succeeded,
    Failed,
    Refused,
    Gone,
}

impl Try {
    /// Of an invocation's result.
    pub(super) fn of(result: &Result<Outcome, InvokeError>) -> Self {
        match result {
            Ok(outcome) if outcome.error.is_none() => Self::Succeeded,
            Ok(_) => Self::Failed,
            Err(InvokeError::NotFound(_) | InvokeError::PayloadTooLarge { .. } | InvokeError::PayloadNotJson(_)) => {
                Self::Gone
            }
            Err(
                InvokeError::Throttled(_)
                | InvokeError::NotReady(_)
                | InvokeError::NoCapacity(_)
                | InvokeError::Internal(_),
            ) => Self::Refused,
        }
    }
}

/// What follows after a try that ended at `now_ms`.
pub(super) fn after(pending: &Pending, tried: Try, now_ms: u64, config: &AsyncConfig) -> Next {
    let (wait, failures, refusals) = match tried {
        Try::Succeeded => return Next::Done,
        Try::Gone => return Next::Drop("the function does not exist"),
        Try::Failed => match config.retry_waits.get(pending.failures as usize) {
            Some(wait) => (*wait, pending.failures + 1, 0),
            None => return Next::Drop("all retries failed"),
        },
        Try::Refused => {
            let doubled = config.refusal_wait_min.saturating_mul(1 << pending.refusals.min(20));
            (doubled.min(config.refusal_wait_max), pending.failures, pending.refusals.saturating_add(1))
        }
    };
    let age = Duration::from_millis(now_ms.saturating_sub(pending.accepted_ms)) + wait;
    if age > config.age_max {
        return Next::Drop("the event is too old");
    }
    Next::Retry { wait, failures, refusals }
}

#[derive(Serialize, Deserialize)]
struct Header {
    function: FunctionRef,
    request_id: RequestId,
    trace_id: Option<String>,
}

/// An event as it is kept.
pub(super) fn encode(invocation: &Invocation, payload: &[u8]) -> Bytes {
    let header = Header {
        function: invocation.function.clone(),
        request_id: invocation.request_id.clone(),
        trace_id: invocation.trace_id.clone(),
    };
    // Strings always serialise.
    let header = serde_json::to_vec(&header).unwrap_or_default();
    let mut value = BytesMut::with_capacity(4 + header.len() + payload.len());
    value.put_u32(u32::try_from(header.len()).unwrap_or(u32::MAX));
    value.put_slice(&header);
    value.put_slice(payload);
    value.freeze()
}

/// The invocation that an event stands for; nothing if the value is damaged.
pub(super) fn decode(mut value: Bytes) -> Option<Invocation> {
    let length = value.len().checked_sub(4).map(|rest| (value.get_u32() as usize, rest))?;
    if length.0 > length.1 {
        return None;
    }
    let header: Header = serde_json::from_slice(&value.split_to(length.0)).ok()?;
    Some(Invocation {
        function: header.function,
        request_id: header.request_id,
        payload: value,
        kind: InvocationKind::Event,
        trigger: Trigger::AsyncQueue,
        client_context: None,
        trace_id: header.trace_id,
        log_tail: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::fixtures::{invocation, reference};
    use proptest::prelude::*;

    fn pending(failures: u32, refusals: u32) -> Pending {
        Pending { function: reference("f"), accepted_ms: 1_000, failures, refusals, holder: None }
    }

    #[test]
    fn failures_are_retried_twice() {
        let config = AsyncConfig::default();
        let retry = |seconds, failures| Next::Retry { wait: Duration::from_secs(seconds), failures, refusals: 0 };
        assert_eq!(after(&pending(0, 3), Try::Failed, 1_000, &config), retry(60, 1));
        assert_eq!(after(&pending(1, 0), Try::Failed, 1_000, &config), retry(120, 2));
        assert!(matches!(after(&pending(2, 0), Try::Failed, 1_000, &config), Next::Drop(_)));
        assert_eq!(after(&pending(2, 0), Try::Succeeded, 1_000, &config), Next::Done);
    }

    #[test]
    fn refusals_back_off_until_the_event_is_too_old() {
        let config = AsyncConfig::default();
        for (refusals, seconds) in [(0, 1), (1, 2), (5, 32), (9, 300), (4_000_000, 300)] {
            let next = after(&pending(1, refusals), Try::Refused, 1_000, &config);
            assert!(matches!(next, Next::Retry { wait, failures: 1, .. } if wait.as_secs() == seconds), "{next:?}");
        }
        let old = 1_000 + 6 * 3_600_000;
        assert!(matches!(after(&pending(0, 0), Try::Refused, old, &config), Next::Drop(_)));
        assert!(matches!(after(&pending(0, 0), Try::Refused, old - 1_000, &config), Next::Retry { .. }));
    }

    #[test]
    fn events_read_back() {
        let mut kept = invocation("f", "id-1", "{\"a\":1}");
        kept.trace_id = Some("Root=1".into());
        let back = decode(encode(&kept, &kept.payload)).unwrap();
        assert_eq!((back.request_id, back.payload, back.trace_id), (kept.request_id, kept.payload, kept.trace_id));
        assert_eq!(back.trigger, Trigger::AsyncQueue);
    }

    proptest! {
        #[test]
        fn noise_never_panics(noise: Vec<u8>) {
            let _ = decode(noise.into());
        }
    }
}
