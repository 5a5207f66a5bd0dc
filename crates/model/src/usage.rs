//! What one invocation used.

use serde::{Deserialize, Serialize};

use crate::{FunctionRef, RequestId, Trigger};

/// How a metered invocation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Ending {
    /// The function answered.
    Success,
    /// The function reported an error.
    FunctionError,
    /// The function's time was over.
    Timeout,
    /// The function's memory was over.
    OutOfMemory,
    /// The runtime ended or could not start.
    Crash,
}

/// The metered facts of one invocation. Exactly one exists for every invocation that reached an environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageRecord {
    /// The function; `qualifier` empty.
    pub function: FunctionRef,
    /// `$LATEST` or a number.
    pub version: String,
    /// The call.
    pub request_id: RequestId,
    /// What caused it.
    pub trigger: Trigger,
    /// Milliseconds since the epoch when the environment got the event.
    pub started_at_ms: u64,
    /// Microseconds from event to answer.
    pub duration_us: u64,
    /// Microseconds of the init phase, on a cold start, or of the restore in its place.
    pub init_us: Option<u64>,
    /// Milliseconds that are charged: duration plus init, rounded up; of a restore what the function used for it.
    pub billed_ms: u64,
    /// Configured memory, MiB.
    pub memory_mb: u32,
    /// Highest memory seen in the environment, bytes; zero where the host cannot tell.
    pub memory_peak_bytes: u64,
    /// Microseconds of processor time of the environment during this call, init included on a cold start.
    pub cpu_us: u64,
    /// How it ended.
    pub ending: Ending,
}

impl UsageRecord {
    /// Charged memory-time in MiB-milliseconds; divide by 1,024,000 for GB-seconds.
    pub fn mb_ms(&self) -> u64 {
        self.billed_ms * u64::from(self.memory_mb)
    }
}
