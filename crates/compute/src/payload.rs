//! What a payload must be before anything else happens to it. Pure.
//!
//! The bytes are only looked at, never built into a tree or written again: what the caller sent is what the function
//! gets. Events that the platform itself made (HTTP, queues, schedules) are JSON by construction and are not read.

use bytes::Bytes;
use model::{Invocation, InvocationKind, InvokeError, Trigger};
use serde::de::IgnoredAny;

/// Most bytes of a synchronous payload.
pub(crate) const SYNC_BYTES_MAX: usize = 6 * 1024 * 1024;
/// Most bytes of an event.
pub(crate) const EVENT_BYTES_MAX: usize = 1024 * 1024;

/// The payload as the function gets it, or why it is refused. An empty one is `{}`.
pub(crate) fn checked(invocation: &Invocation) -> Result<Bytes, InvokeError> {
    let payload = &invocation.payload;
    let (kind, limit) = match invocation.kind {
        InvocationKind::RequestResponse => ("RequestResponse", SYNC_BYTES_MAX),
        InvocationKind::Event => ("Event", EVENT_BYTES_MAX),
    };
    if payload.len() > limit {
        return Err(InvokeError::PayloadTooLarge { size: payload.len(), kind, limit });
    }
    if payload.is_empty() {
        return Ok(Bytes::from_static(b"{}"));
    }
    if invocation.trigger == Trigger::Direct {
        // serde_json checks UTF-8 only inside the strings that it builds, so it is checked first.
        let text = std::str::from_utf8(payload).map_err(|error| not_json(&error.to_string()))?;
        serde_json::from_str::<IgnoredAny>(text).map_err(|error| not_json(&error.to_string()))?;
    }
    Ok(payload.clone())
}

fn not_json(detail: &str) -> InvokeError {
    InvokeError::PayloadNotJson(format!("Could not parse payload into json: {detail}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{AccountId, FunctionName, FunctionRef, Region, RequestId};

    fn check(payload: impl Into<Bytes>, kind: InvocationKind, trigger: Trigger) -> Result<Bytes, InvokeError> {
        let function = FunctionRef {
            account: AccountId::default(),
            region: Region::default(),
            name: FunctionName::parse("f").unwrap(),
            qualifier: None,
        };
        checked(&Invocation {
            function,
            request_id: RequestId("r".into()),
            payload: payload.into(),
            kind,
            trigger,
            client_context: None,
            tenant: None,
            trace_id: None,
            log_tail: false,
        })
    }

    #[test]
    fn nothing_is_an_empty_object_and_json_passes_unchanged() {
        let sync = InvocationKind::RequestResponse;
        assert_eq!(check("", sync, Trigger::Direct).unwrap(), "{}");
        for text in ["{ \"a\" : 1.0e5 }", " [1,2] ", "\"x\"", "null"] {
            assert_eq!(check(text, sync, Trigger::Direct).unwrap(), text);
        }
        for wrong in [&b"{"[..], b"{} {}", b"nul", b"\"\xff\"", b"{\"a\":\xff}"] {
            assert!(matches!(check(wrong, sync, Trigger::Direct), Err(InvokeError::PayloadNotJson(_))));
        }
        assert_eq!(check("raw", sync, Trigger::EventSource).unwrap(), "raw");
    }

    #[test]
    fn limits_are_exact() {
        for (kind, limit) in
            [(InvocationKind::RequestResponse, SYNC_BYTES_MAX), (InvocationKind::Event, EVENT_BYTES_MAX)]
        {
            assert!(check(vec![b' '; limit], kind, Trigger::Api).is_ok());
            assert!(matches!(
                check(vec![b' '; limit + 1], kind, Trigger::Api),
                Err(InvokeError::PayloadTooLarge { size, .. }) if size == limit + 1
            ));
        }
    }
}
