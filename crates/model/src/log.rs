//! Log lines on their way from an environment to whoever keeps them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{AccountId, Region};

/// One log event: a line, or several that belong together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEvent {
    /// Milliseconds since the epoch.
    pub timestamp_ms: u64,
    /// Text without its final newline.
    pub message: String,
}

/// Events of one log stream, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogBatch {
    /// Owner of the group.
    pub account: AccountId,
    /// Region of the group.
    pub region: Region,
    /// `/aws/lambda/NAME`
    pub group: Arc<str>,
    /// `YYYY/MM/DD/[VERSION]hex`
    pub stream: Arc<str>,
    /// At least one event.
    pub events: Vec<LogEvent>,
}
