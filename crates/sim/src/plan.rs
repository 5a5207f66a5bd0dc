//! What a seed decides before a run begins, and what a run has met.

use store::embedded::Limits;

use crate::dice::Dice;

/// Something that is broken on purpose, to prove that the checkers find it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Broken {
    /// Nothing.
    #[default]
    Nothing,
    /// The disk says that it has synced, and has not.
    LyingDisk,
    /// A commit that was acknowledged is kept from the model, as if the store had made it up.
    ForgottenCommit,
    /// Transactions reach the store without their expectations about ranges.
    IgnoredRanges,
    /// Transactions reach the store without their expectations about keys.
    IgnoredPoints,
    /// Watches are made after the state was read, so that what is written in between is missed.
    LateWatches,
    /// The store's clock runs ahead of the one that leases are judged by.
    EarlyLeases,
}

/// How often things happened, so that a test can tell that they do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Commits and claims that wrote.
    pub commits: u64,
    /// Reads that were compared with the model.
    pub reads: u64,
    /// Answers `Conflict`.
    pub conflicts: u64,
    /// Answers `TooOld`, of commits and of snapshots.
    pub too_old: u64,
    /// Answers `DiskFull`.
    pub disk_full: u64,
    /// Entries that were claimed.
    pub claimed: u64,
    /// Lives that ended by a cut of the power, and how many of these within an operation of the disk.
    pub cuts: u64,
    /// See `cuts`.
    pub cuts_within: u64,
    /// Lives that ended by a kill.
    pub kills: u64,
    /// Lives that ended by an error of the disk.
    pub disk_errors: u64,
    /// Relaxed commits that a cut has lost.
    pub lost_relaxed: u64,
    /// Commits without an answer that had happened.
    pub resolved: u64,
    /// Generations that the tree has taken over.
    pub generations: u64,
}

impl Stats {
    /// Adds those of another run.
    pub fn add(&mut self, other: &Self) {
        for (sum, part) in [
            (&mut self.commits, other.commits),
            (&mut self.reads, other.reads),
            (&mut self.conflicts, other.conflicts),
            (&mut self.too_old, other.too_old),
            (&mut self.disk_full, other.disk_full),
            (&mut self.claimed, other.claimed),
            (&mut self.cuts, other.cuts),
            (&mut self.cuts_within, other.cuts_within),
            (&mut self.kills, other.kills),
            (&mut self.disk_errors, other.disk_errors),
            (&mut self.lost_relaxed, other.lost_relaxed),
            (&mut self.resolved, other.resolved),
            (&mut self.generations, other.generations),
        ] {
            *sum += part;
        }
    }
}

/// The shape of a run.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) lives: u64,
    /// Turns of a life, at most.
    pub(crate) turns: u64,
    pub(crate) clients: u64,
    pub(crate) watchers: u64,
    pub(crate) limits: Limits,
    /// The tree's most bytes, when it is to be full now and then.
    pub(crate) tree_bytes_max: Option<u64>,
    /// How many turns of a thousand bring the beginning or the end of a full disk.
    pub(crate) full_disks: u64,
    /// How many lives of a hundred an operation of the disk ends: with an error, or with the power.
    pub(crate) disk_errors: u64,
    pub(crate) cuts_within: u64,
    /// How the others end.
    pub(crate) endings: Vec<Ending>,
    /// How often the committer and the applier get a turn, beside a client's ten.
    pub(crate) committer: u64,
    pub(crate) applier: u64,
}

/// How a life ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Cut,
    Kill,
    Close,
    /// First all comes to rest.
    Calm,
}

impl Plan {
    pub(crate) fn new(dice: &Dice) -> Self {
        const BLOCK: usize = 4_096;
        let limits = Limits {
            // A claim reserves some 90 KB.
            segment_bytes: BLOCK * (34 + dice.index(16)),
            batch_bytes: 1 << (12 + dice.index(4)),
            due_log_bytes: BLOCK * (2 + dice.index(16)),
            due_deletes: 4 + dice.index(40),
            overlay_bytes: 16_384 * (1 + dice.index(8)),
            portion_writes: 1 + dice.index(12),
            wal_bytes: 4_096 * (8 + dice.below(56)),
            recent_writes: *dice.pick(&[8, 64, 4_096]),
        };
        let rare = |chance: u64, some: u64| if dice.chance(chance) { some } else { 0 };
        Self {
            lives: 1 + dice.below(5),
            turns: 60 + dice.below(340),
            clients: 1 + dice.below(7),
            watchers: dice.below(3),
            limits,
            tree_bytes_max: dice.chance(20).then(|| 4_096 * (40 + dice.below(60))),
            full_disks: rare(25, 20),
            disk_errors: rare(30, 40),
            cuts_within: rare(50, 50),
            endings: match dice.below(4) {
                0 => vec![Ending::Cut],
                1 => vec![Ending::Kill, Ending::Cut],
                2 => vec![Ending::Cut, Ending::Calm],
                _ => vec![Ending::Cut, Ending::Kill, Ending::Close, Ending::Calm],
            },
            committer: 1 + dice.below(8),
            applier: 1 + dice.below(6),
        }
    }
}
