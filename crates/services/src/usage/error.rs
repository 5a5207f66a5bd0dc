//! What can go wrong with the ledger.
//!
//! None of it reaches a caller of a function: compute logs it and decides.

use std::io;
use std::path::PathBuf;

/// Why the ledger did not do something.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A ring's file cannot be made, read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// Records come faster than the store takes them, for longer than the ring can hold.
    #[error("the ledger holds {0} bytes that the store has not taken")]
    Full(u64),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A stored record cannot be read.
    #[error("the ledger is damaged: {0}")]
    Damaged(String),
}
