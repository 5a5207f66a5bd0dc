//! One call of a function, whatever caused it, and how it ended.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::FunctionRef;

/// A UUID that names one invocation; the same across retries of one event.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId(pub String);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether somebody waits for the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum InvocationKind {
    /// The caller waits.
    RequestResponse,
    /// The event was accepted before; nobody waits.
    Event,
}

/// What caused an invocation; for metering and logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Trigger {
    /// The Invoke operation.
    Direct,
    /// A function URL.
    FunctionUrl,
    /// A REST or HTTP API.
    Api,
    /// The asynchronous queue.
    AsyncQueue,
    /// An event source mapping.
    EventSource,
    /// A schedule.
    Schedule,
}

/// One call of a function.
#[derive(Debug, Clone)]
pub struct Invocation {
    /// What to run.
    pub function: FunctionRef,
    /// Names the call in logs, records and answers.
    pub request_id: RequestId,
    /// The event. JSON, except where a trigger says otherwise.
    pub payload: Bytes,
    /// Whether somebody waits.
    pub kind: InvocationKind,
    /// What caused it.
    pub trigger: Trigger,
    /// Decoded JSON of `X-Amz-Client-Context`.
    pub client_context: Option<String>,
    /// The tenant that it is for, of functions that isolate them.
    pub tenant: Option<String>,
    /// `Root=1-…;Parent=…;Sampled=…`
    pub trace_id: Option<String>,
    /// Whether the last 4 KB of the log are wanted with the answer.
    pub log_tail: bool,
}

/// The function ran and failed, or could not be brought to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionError {
    /// What `X-Amz-Function-Error` says: `Unhandled`, or `Handled` from old runtimes.
    pub kind: &'static str,
    /// `errorType` of the payload, for metrics and records (`Sandbox.Timedout`, `Runtime.ExitError`, `TypeError`).
    pub error_type: String,
}

/// How an invocation ended. `payload` is the function's answer, or the error document if `error` is set.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The answer or the error document.
    pub payload: Bytes,
    /// Set when the function failed.
    pub error: Option<FunctionError>,
    /// Content type that the runtime gave with the answer.
    pub content_type: Option<String>,
    /// `$LATEST` or the version number that ran.
    pub executed_version: String,
    /// The last 4 KB of the log, if asked for.
    pub log_tail: Option<Bytes>,
}

/// Which configured limit throttled a call; the names are Lambda's `Reason` values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ThrottleReason {
    /// The account's concurrency.
    ConcurrentInvocationLimitExceeded,
    /// The function's reserved concurrency.
    ReservedFunctionConcurrentInvocationLimitExceeded,
    /// Calls per second of the account's functions.
    FunctionInvocationRateLimitExceeded,
    /// Calls per second of a function with reserved concurrency.
    ReservedFunctionInvocationRateLimitExceeded,
    /// Calls per second of the caller.
    CallerRateLimitExceeded,
}

impl ThrottleReason {
    /// Whether too many calls run at once, rather than begin.
    pub fn is_of_concurrency(self) -> bool {
        matches!(
            self,
            Self::ConcurrentInvocationLimitExceeded | Self::ReservedFunctionConcurrentInvocationLimitExceeded
        )
    }

    /// The value on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ConcurrentInvocationLimitExceeded => "ConcurrentInvocationLimitExceeded",
            Self::ReservedFunctionConcurrentInvocationLimitExceeded => {
                "ReservedFunctionConcurrentInvocationLimitExceeded"
            }
            Self::FunctionInvocationRateLimitExceeded => "FunctionInvocationRateLimitExceeded",
            Self::ReservedFunctionInvocationRateLimitExceeded => "ReservedFunctionInvocationRateLimitExceeded",
            Self::CallerRateLimitExceeded => "CallerRateLimitExceeded",
        }
    }
}

/// Why the platform did not run a call at all.
#[derive(Debug, Clone, thiserror::Error)]
pub enum InvokeError {
    /// No such function or version. Holds the ARN that was asked for.
    #[error("Function not found: {0}")]
    NotFound(String),
    /// A configured limit is reached.
    #[error("Rate Exceeded.")]
    Throttled(ThrottleReason),
    /// The payload is larger than its kind allows.
    #[error("{size} byte payload is too large for the {kind} invocation type (limit {limit} bytes)")]
    PayloadTooLarge {
        /// Bytes that came.
        size: usize,
        /// `RequestResponse` or `Event`.
        kind: &'static str,
        /// Bytes allowed.
        limit: usize,
    },
    /// The payload is not JSON.
    #[error("Could not parse request body into json: {0}")]
    PayloadNotJson(String),
    /// The call lacks what the function needs of one, or brings what it does not take.
    #[error("{0}")]
    Unfit(&'static str),
    /// The chain of calls that this one stems from has called the function too often.
    #[error("{0}")]
    Recursive(String),
    /// The function cannot run in its present state (being created, failed, no interpreter on this machine).
    #[error("{0}")]
    NotReady(String),
    /// The host has no room and the deadline for waiting has passed, or the server is stopping.
    #[error("the platform has no capacity for this call: {0}")]
    NoCapacity(String),
    /// A fault of the platform.
    #[error("internal fault: {0}")]
    Internal(String),
}
