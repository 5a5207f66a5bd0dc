//! The first byte of every key in the store, so that no two owners ever meet.
//!
//! A prefix is one byte, given out once and never again. The rest of a key belongs to its owner's `keys.rs`.

/// One owner's part of the key space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    /// The byte that every key of the owner starts with.
    pub byte: u8,
    /// What lies under it, in a word for people.
    pub name: &'static str,
    /// Who builds keys under it.
    pub owner: &'static str,
}

/// Functions, their code and configuration, and function URLs.
pub const LAMBDA: Prefix = Prefix { byte: b'f', name: "functions", owner: "services/lambda" };
/// REST and HTTP APIs.
pub const APIGATEWAY: Prefix = Prefix { byte: b'g', name: "apis", owner: "services/apigateway" };
/// Tables and their items.
pub const DYNAMODB: Prefix = Prefix { byte: b't', name: "tables", owner: "services/dynamodb" };
/// Log groups, streams and chunks.
pub const LOGS: Prefix = Prefix { byte: b'l', name: "logs", owner: "services/logs" };
/// Usage records and sums.
pub const USAGE: Prefix = Prefix { byte: b'u', name: "usage", owner: "services/usage" };
/// Accepted asynchronous events.
pub const ASYNC_QUEUE: Prefix = Prefix { byte: b'a', name: "events", owner: "compute/async_queue" };
/// Which node may use how much of a limit.
pub const SLOTS: Prefix = Prefix { byte: b'n', name: "slots", owner: "compute/slots" };
/// How far the pollers of event source mappings are.
pub const POLLERS: Prefix = Prefix { byte: b'e', name: "positions", owner: "compute/poller" };

/// Roles and policies.
pub const IAM: Prefix = Prefix { byte: b'i', name: "identities", owner: "services/iam" };

/// Which blobs are needed, and holds that keep them.
pub const BLOBS: Prefix = Prefix { byte: b'b', name: "blobs", owner: "store/references" };
/// What the store keeps for itself: unfinished imports, wrapped keys. Above every other prefix.
pub const STORE: Prefix = Prefix { byte: 0xff, name: "store", owner: "store" };

/// Every prefix that is given out.
pub const ALL: &[Prefix] = &[LAMBDA, APIGATEWAY, DYNAMODB, LOGS, USAGE, ASYNC_QUEUE, SLOTS, POLLERS, IAM, BLOBS, STORE];

/// Whose keys start with this byte.
pub fn of(byte: u8) -> Option<&'static Prefix> {
    ALL.iter().find(|prefix| prefix.byte == byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_disjoint() {
        let mut names: Vec<&str> = ALL.iter().map(|prefix| prefix.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
        assert!(ALL.iter().all(|prefix| of(prefix.byte) == Some(prefix)));
        let mut bytes: Vec<u8> = ALL.iter().map(|prefix| prefix.byte).collect();
        bytes.sort_unstable();
        bytes.dedup();
        assert_eq!(bytes.len(), ALL.len());
    }
}
