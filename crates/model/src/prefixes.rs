//! The first byte of every key in the store, so that no two owners ever meet.
//!
//! A prefix is one byte, given out once and never again. The rest of a key belongs to its owner's `keys.rs`.

/// One owner's part of the key space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    /// The byte that every key of the owner starts with.
    pub byte: u8,
    /// Who builds keys under it.
    pub owner: &'static str,
}

/// Functions, their code and configuration, and function URLs.
pub const LAMBDA: Prefix = Prefix { byte: b'f', owner: "services/lambda" };
/// REST and HTTP APIs.
pub const APIGATEWAY: Prefix = Prefix { byte: b'g', owner: "services/apigateway" };
/// Tables and their items.
pub const DYNAMODB: Prefix = Prefix { byte: b't', owner: "services/dynamodb" };
/// Log groups, streams and chunks.
pub const LOGS: Prefix = Prefix { byte: b'l', owner: "services/logs" };
/// Usage records and sums.
pub const USAGE: Prefix = Prefix { byte: b'u', owner: "services/usage" };
/// Accepted asynchronous events.
pub const ASYNC_QUEUE: Prefix = Prefix { byte: b'a', owner: "compute/async_queue" };

/// Every prefix that is given out.
pub const ALL: &[Prefix] = &[LAMBDA, APIGATEWAY, DYNAMODB, LOGS, USAGE, ASYNC_QUEUE];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_disjoint() {
        let mut bytes: Vec<u8> = ALL.iter().map(|prefix| prefix.byte).collect();
        bytes.sort_unstable();
        bytes.dedup();
        assert_eq!(bytes.len(), ALL.len());
    }
}
