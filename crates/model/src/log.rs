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

/// The level of a function's own lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ApplicationLevel {
    /// The least.
    Trace,
    /// For who looks for a fault.
    Debug,
    /// The usual.
    Info,
    /// Something is odd.
    Warn,
    /// Something went wrong.
    Error,
    /// Nothing goes on.
    Fatal,
}

impl ApplicationLevel {
    /// The level of its name, whatever its case. Python's names are known too.
    pub fn parse(name: &str) -> Option<Self> {
        let name = match name {
            _ if name.eq_ignore_ascii_case("WARNING") => "WARN",
            _ if name.eq_ignore_ascii_case("CRITICAL") => "FATAL",
            other => other,
        };
        let all = [Self::Trace, Self::Debug, Self::Info, Self::Warn, Self::Error, Self::Fatal];
        all.into_iter().find(|level| level.as_str().eq_ignore_ascii_case(name))
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trace => "TRACE",
            Self::Debug => "DEBUG",
            Self::Info => "INFO",
            Self::Warn => "WARN",
            Self::Error => "ERROR",
            Self::Fatal => "FATAL",
        }
    }
}

/// The level of the platform's lines in a function's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum SystemLevel {
    /// All.
    Debug,
    /// What begins, and what each call came to.
    Info,
    /// What went wrong.
    Warn,
}

impl SystemLevel {
    /// The level of its name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Debug, Self::Info, Self::Warn].into_iter().find(|level| level.as_str() == name)
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "DEBUG",
            Self::Info => "INFO",
            Self::Warn => "WARN",
        }
    }
}

/// How a function's log is written, if not as text: JSON objects, of these levels and above.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct JsonLog {
    /// Of the function's own lines.
    pub application: ApplicationLevel,
    /// Of the platform's.
    pub system: SystemLevel,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_have_names_and_an_order() {
        for name in ["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"] {
            assert_eq!(ApplicationLevel::parse(&name.to_lowercase()).map(ApplicationLevel::as_str), Some(name));
        }
        assert_eq!(ApplicationLevel::parse("Warning"), Some(ApplicationLevel::Warn));
        assert_eq!(ApplicationLevel::parse("CRITICAL"), Some(ApplicationLevel::Fatal));
        assert_eq!(ApplicationLevel::parse("loud"), None);
        assert!(ApplicationLevel::Warn < ApplicationLevel::Error && SystemLevel::Debug < SystemLevel::Warn);
        assert_eq!(SystemLevel::parse("INFO").map(SystemLevel::as_str), Some("INFO"));
        assert_eq!(SystemLevel::parse("ERROR"), None);
    }
}
