//! What every store is asked for, so that all are measured by the same code.

use bytes::Bytes;

pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A transaction: it happens if the key of `expect` still has that version (none: is absent).
#[derive(Debug, Clone, Default)]
pub struct Commit {
    pub expect: Option<(Bytes, Option<u64>)>,
    pub puts: Vec<(Bytes, Bytes)>,
    pub deletes: Vec<Bytes>,
}

/// A value and the commit that wrote it; both copied out of the store.
pub type Found = Option<(u64, Bytes)>;

/// A store of ordered keys whose commits are on disk when they return.
pub trait Subject: Send + Sync + 'static {
    /// Whether it happened, or lost.
    fn commit(&self, commit: Commit) -> impl Future<Output = Result<bool, Failure>> + Send;
    /// Reads one key of the current state.
    fn get(&self, key: &[u8]) -> impl Future<Output = Result<Found, Failure>> + Send;
    /// The first `rows` entries from `start` on, below `end`, of one state.
    fn range(&self, start: Bytes, end: Bytes, rows: usize) -> impl Future<Output = Result<Vec<Row>, Failure>> + Send;
    /// Lets go of the files.
    fn close(&self) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// Key and value.
pub type Row = (Bytes, Bytes);
