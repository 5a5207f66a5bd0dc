//! What waits for a committer: a transaction or a claim, and who wants to know how it ended.

use tokio::sync::oneshot;

use crate::contract::{Claim, Claims, Durability, Error, Txn, Version};

/// One thing to be decided.
#[derive(Debug, Clone)]
pub(crate) enum Work {
    Commit(Txn),
    Claim(Claim),
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Done {
    Committed(Version),
    Claimed(Claims),
}

pub(crate) type Answer = oneshot::Sender<Result<Done, Error>>;

/// Work, and who waits for it.
pub(crate) struct Job {
    pub(crate) work: Work,
    /// Of its keys and values, at most.
    pub(crate) bytes: usize,
    pub(crate) answer: Answer,
}

impl Job {
    /// Makes a job of work that keeps the limits.
    pub(crate) fn new(work: Work) -> Result<(Self, oneshot::Receiver<Result<Done, Error>>), Error> {
        let bytes = match &work {
            Work::Commit(txn) => txn.bytes_within_limits()?,
            Work::Claim(claim) => claim.bytes_within_limits()?,
        };
        let (answer, outcome) = oneshot::channel();
        Ok((Self { work, bytes, answer }, outcome))
    }
}

impl Work {
    pub(crate) fn durability(&self) -> Durability {
        match self {
            Self::Commit(txn) => txn.durability,
            Self::Claim(claim) => claim.durability,
        }
    }

    /// How many keys it names or writes, at most.
    pub(crate) fn parts(&self) -> usize {
        match self {
            Self::Commit(txn) => txn.expects.len() + txn.ops.len(),
            Self::Claim(claim) => 2 * claim.entries,
        }
    }
}

impl Done {
    /// The version of a transaction that was committed.
    pub(crate) fn version(self) -> Result<Version, Error> {
        match self {
            Self::Committed(version) => Ok(version),
            Self::Claimed(_) => Err(Error::Io("a transaction was answered as a claim".to_owned())),
        }
    }

    /// What a claim has taken.
    pub(crate) fn claims(self) -> Result<Claims, Error> {
        match self {
            Self::Claimed(claims) => Ok(claims),
            Self::Committed(_) => Err(Error::Io("a claim was answered as a transaction".to_owned())),
        }
    }
}

/// Tells how it ended.
pub(crate) fn reply(answer: Answer, outcome: Result<Done, Error>) {
    // Who has stopped waiting does not want to know.
    let _ = answer.send(outcome);
}
