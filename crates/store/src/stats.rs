//! How an engine keeps up: what it has committed since it was opened, how slowly, and what it still has to do.

use std::sync::atomic::{AtomicU64, Ordering};

/// A commit that takes longer is slow, in microseconds.
pub const SLOW_US: u64 = 100_000;

/// How an engine keeps up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Commits and claims that were answered since the engine was opened, with success or not.
    pub commits: u64,
    /// Those that took more than 100 ms, the wait in the queue included.
    pub slow_commits: u64,
    /// The longest, in microseconds.
    pub longest_us: u64,
    /// What is behind what; none for an engine in which nothing can be.
    pub lag: Option<Lag>,
}

/// What is behind the commits that were answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lag {
    /// Commits that are in the log but not in the tree yet. They are durable and readable; the next open has to read them.
    Tree {
        /// How many.
        versions: u64,
        /// Their bytes in the log.
        log_bytes: u64,
    },
    /// Over a database: what this node and the database's replicas have yet to learn.
    Database {
        /// Commits of any node that this node's watches were not told of. More than a moment's worth means that its
        /// connection for news is down.
        untold: u64,
        /// The replicas that are connected, by name.
        replicas: Vec<Replica>,
    },
}

/// A replica of the database, as its primary sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    /// The name that it gives itself.
    pub name: String,
    /// Bytes of the primary's log that it has not on its disk; none where it has not said yet, or the database does not
    /// tell this user (who is no member of `pg_monitor`).
    pub behind_bytes: Option<u64>,
    /// Whether commits wait for it, so that it can take over without losing one.
    pub synchronous: bool,
}

/// Counts commits.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    commits: AtomicU64,
    slow: AtomicU64,
    longest_us: AtomicU64,
}

impl Pace {
    /// Counts a commit that took so long.
    pub(crate) fn took(&self, time_us: u64) {
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.slow.fetch_add(u64::from(time_us > SLOW_US), Ordering::Relaxed);
        self.longest_us.fetch_max(time_us, Ordering::Relaxed);
    }

    pub(crate) fn stats(&self, lag: Option<Lag>) -> Stats {
        Stats {
            commits: self.commits.load(Ordering::Relaxed),
            slow_commits: self.slow.load(Ordering::Relaxed),
            longest_us: self.longest_us.load(Ordering::Relaxed),
            lag,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_commits_and_the_longest_are_told_apart() {
        let pace = Pace::default();
        [10, SLOW_US, SLOW_US + 1, 300].into_iter().for_each(|time_us| pace.took(time_us));
        let expected = Stats { commits: 4, slow_commits: 1, longest_us: SLOW_US + 1, lag: None };
        assert_eq!(pace.stats(None), expected);
    }
}
