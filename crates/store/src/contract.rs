//! The contract that every engine fulfils, and the words it is spoken in.

use std::ops::Bound;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;

use crate::stats::Stats;

/// Number of a commit. Grows by one with each; zero is the empty store.
pub type Version = u64;

/// Most bytes of a key.
pub const KEY_BYTES_MAX: usize = 4_096;
/// Most bytes of a value. Larger things are blobs.
pub const VALUE_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Most bytes of keys and values in one commit: four times those of the largest transaction over tables, whose items may
/// also be in a stream, as they were and as they are, and in a history; and some for its keys and entries of indexes.
pub const TXN_BYTES_MAX: usize = 18 * 1024 * 1024;
/// Most expectations and operations in one commit, together.
pub const TXN_PARTS_MAX: usize = 65_536;
/// Longest life of a snapshot, in milliseconds; after it, its reads answer `Error::TooOld`.
pub const SNAPSHOT_LIFE_MS: u64 = 5_000;
/// Most bytes of the value of an offered entry. Larger things lie at keys of their own.
pub const OFFER_BYTES_MAX: usize = 16 * 1024;
/// Most entries of one claim.
pub const CLAIM_ENTRIES_MAX: usize = 1_000;
/// A claim takes no further entry when it has this many bytes.
pub(crate) const CLAIM_BYTES: usize = 64 * 1024;

/// A store of ordered keys.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The state as it is now. Live at most 5 seconds; read through it, then drop it.
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, Error>;

    /// Writes all of `txn` or nothing, and returns its version when it is as durable as asked.
    /// Dropping the future does not take the commit back: it may still happen.
    async fn commit(&self, txn: Txn) -> Result<Version, Error>;

    /// Takes the first entries under a prefix that are due, for a time: they were put there by `Op::Offer`. No two
    /// claims take an entry at once; one that nobody deletes is due again when its lease ends, by the store's clock.
    async fn claim(&self, claim: Claim) -> Result<Claims, Error>;

    /// A hint channel for everything under `prefix`.
    fn watch(&self, prefix: &[u8]) -> Watch;

    /// The state as it is now, for `life_ms` milliseconds: for a backup, which reads all of one state. What engines keep
    /// for it grows with what is written meanwhile, so there should be one at a time.
    async fn long_snapshot(&self, life_ms: u64) -> Result<Box<dyn Snapshot>, Error> {
        Err(Error::Invalid(format!("this engine has no snapshots of {life_ms} ms")))
    }

    /// How the engine keeps up; zeros where it does not count. Over a database this asks it.
    async fn stats(&self) -> Result<Stats, Error> {
        Ok(Stats::default())
    }

    /// Reads one key of the current state.
    async fn get(&self, key: &[u8]) -> Result<Option<Entry>, Error> {
        self.snapshot().await?.get(key).await
    }

    /// Reads one page of the current state.
    async fn range(&self, range: &Range) -> Result<Page, Error> {
        self.snapshot().await?.range(range).await
    }
}

/// One state of the store.
#[async_trait]
pub trait Snapshot: Send + Sync {
    /// The last commit that this state contains.
    fn version(&self) -> Version;

    /// The entry of a key.
    async fn get(&self, key: &[u8]) -> Result<Option<Entry>, Error>;

    /// Entries of a range in its order, up to its limits.
    async fn range(&self, range: &Range) -> Result<Page, Error>;
}

/// A key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// The commit that wrote it.
    pub version: Version,
}

/// A part of a range.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// The entries, in the range's order.
    pub entries: Vec<Entry>,
    /// Whether the range holds more beyond the last entry.
    pub more: bool,
}

/// Which keys, in which order, how many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// Lower end.
    pub start: Bound<Bytes>,
    /// Upper end.
    pub end: Bound<Bytes>,
    /// From the upper end downwards.
    pub reverse: bool,
    /// Most entries.
    pub rows: usize,
    /// Stop after the entry that reaches this many bytes of keys and values; so there is always at least one.
    pub bytes: usize,
}

impl Range {
    /// Every key that starts with `prefix`.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let prefix = prefix.into();
        let end = match after_prefix(&prefix) {
            Some(end) => Bound::Excluded(end),
            None => Bound::Unbounded,
        };
        Self { start: Bound::Included(prefix), end, reverse: false, rows: usize::MAX, bytes: usize::MAX }
    }

    /// Keys from `start` (included) to `end` (excluded).
    pub fn between(start: impl Into<Bytes>, end: impl Into<Bytes>) -> Self {
        Self {
            start: Bound::Included(start.into()),
            end: Bound::Excluded(end.into()),
            reverse: false,
            rows: usize::MAX,
            bytes: usize::MAX,
        }
    }

    /// The same keys beyond `key` in the range's direction: how a scan goes on after a page.
    #[must_use]
    pub fn beyond(mut self, key: impl Into<Bytes>) -> Self {
        let bound = Bound::Excluded(key.into());
        if self.reverse {
            self.end = bound;
        } else {
            self.start = bound;
        }
        self
    }

    /// The same keys, last first.
    #[must_use]
    pub fn reversed(mut self) -> Self {
        self.reverse = true;
        self
    }

    /// At most `rows` entries.
    #[must_use]
    pub fn rows(mut self, rows: usize) -> Self {
        self.rows = rows;
        self
    }

    /// Stop after about `bytes` bytes.
    #[must_use]
    pub fn bytes(mut self, bytes: usize) -> Self {
        self.bytes = bytes;
        self
    }

    /// Whether the ends exclude every key. `BTreeMap` forbids to ask for such a range.
    pub fn is_empty(&self) -> bool {
        match (&self.start, &self.end) {
            (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
            (Bound::Included(start), Bound::Included(end)) => start > end,
            (Bound::Included(start) | Bound::Excluded(start), Bound::Included(end) | Bound::Excluded(end)) => {
                start >= end
            }
        }
    }

    /// The ends as "from" and "below". The next key after any is that key and a zero byte.
    pub(crate) fn half_open(&self) -> (Vec<u8>, Vec<u8>) {
        let next = |key: &Bytes| [&key[..], &[0]].concat();
        let start = match &self.start {
            Bound::Included(key) => key.to_vec(),
            Bound::Excluded(key) => next(key),
            Bound::Unbounded => Vec::new(),
        };
        let end = match &self.end {
            Bound::Included(key) => next(key),
            Bound::Excluded(key) => key.to_vec(),
            // Greater than any key, as none is that long.
            Bound::Unbounded => vec![0xff; KEY_BYTES_MAX + 1],
        };
        (start, end)
    }

    /// Whether `key` lies between the ends.
    pub fn contains(&self, key: &[u8]) -> bool {
        let above = match &self.start {
            Bound::Included(start) => key >= &start[..],
            Bound::Excluded(start) => key > &start[..],
            Bound::Unbounded => true,
        };
        let below = match &self.end {
            Bound::Included(end) => key <= &end[..],
            Bound::Excluded(end) => key < &end[..],
            Bound::Unbounded => true,
        };
        above && below
    }
}

/// The first key after all that start with `prefix`, if there is one.
pub fn after_prefix(prefix: &[u8]) -> Option<Bytes> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end.into())
}

/// How safe a commit is when `commit` returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// On disk: survives power loss.
    #[default]
    Flushed,
    /// Survives the death of the process; on disk within a second. For logs and sums.
    Relaxed,
}

/// What must hold for a commit to happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// The key was last written by this commit.
    Version(Bytes, Version),
    /// The key does not exist.
    Absent(Bytes),
    /// The key exists.
    Present(Bytes),
    /// No key of the range was written or deleted after this version. Limits of the range do not count:
    /// who read only a part expects only that part, by its ends.
    RangeUnchanged(Range, Version),
}

/// One write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Sets a key.
    Put(Bytes, Bytes),
    /// Removes a key, if it exists.
    Delete(Bytes),
    /// Adds to a little-endian `i64`; a key that does not exist counts as zero. Wraps.
    /// Over a value that is not eight bytes long the commit is `Error::Invalid`.
    Add(Bytes, i64),
    /// Sets the key `prefix ++ commit version (8 bytes, big-endian) ++ suffix`: unique, and in commit order.
    PutNumbered {
        /// Before the number.
        prefix: Bytes,
        /// After the number; tells several of one commit apart.
        suffix: Bytes,
        /// The value.
        value: Bytes,
    },
    /// Sets the key `prefix ++ due ++ id` (see `due`), for `Store::claim` to take when it is due.
    Offer {
        /// The queue: everything under it is offered.
        prefix: Bytes,
        /// Names it within the queue.
        id: Bytes,
        /// It is due so many milliseconds after the commit, by the store's clock.
        delay_ms: u64,
        /// How often it was taken before: zero, or what `Claimed` said when it is offered anew.
        attempts: u16,
        /// The value, at most 16 KB.
        value: Bytes,
    },
}

/// What is to be taken, for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The queue.
    pub prefix: Bytes,
    /// Most entries; fewer are taken when they are large (64 KB in sum).
    pub entries: usize,
    /// So many milliseconds after the commit they are due again.
    pub lease_ms: u64,
    /// How safe it must be that they are taken. A relaxed claim that a loss of power undoes leaves them due, as if it had
    /// never been.
    pub durability: Durability,
}

/// What a claim has taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claims {
    /// The entries, those that were due first first.
    pub entries: Vec<Claimed>,
    /// In so many milliseconds the next entry of the queue is due, if nothing happens before. None if there is no other.
    pub next_in_ms: Option<u64>,
}

/// An entry under a lease. Who is done with it deletes `key`, on condition of `version`; both together are the token
/// that nobody else has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// Where it lies now.
    pub key: Bytes,
    /// Its name within the queue.
    pub id: Bytes,
    /// Its value.
    pub value: Bytes,
    /// How often it was taken, this time included. Stays at its greatest.
    pub attempts: u16,
    /// When the lease ends, in milliseconds since the epoch, by the store's clock.
    pub lease_ends_ms: u64,
    /// The commit that took it.
    pub version: Version,
}

/// Writes that happen together or not at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Txn {
    /// All must hold.
    pub expects: Vec<Expect>,
    /// Applied in order.
    pub ops: Vec<Op>,
    /// How safe it must be.
    pub durability: Durability,
}

impl Txn {
    /// An empty transaction.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only if the key was last written by `version`.
    #[must_use]
    pub fn expect_version(mut self, key: impl Into<Bytes>, version: Version) -> Self {
        self.expects.push(Expect::Version(key.into(), version));
        self
    }

    /// Only if the key is as `entry` says: its version, or absent.
    #[must_use]
    pub fn expect_unchanged(self, key: impl Into<Bytes>, entry: Option<&Entry>) -> Self {
        match entry {
            Some(entry) => self.expect_version(key, entry.version),
            None => self.expect_absent(key),
        }
    }

    /// Only if the key does not exist.
    #[must_use]
    pub fn expect_absent(mut self, key: impl Into<Bytes>) -> Self {
        self.expects.push(Expect::Absent(key.into()));
        self
    }

    /// Only if the key exists.
    #[must_use]
    pub fn expect_present(mut self, key: impl Into<Bytes>) -> Self {
        self.expects.push(Expect::Present(key.into()));
        self
    }

    /// Only if nothing in the range changed after `version`.
    #[must_use]
    pub fn expect_range(mut self, range: Range, version: Version) -> Self {
        self.expects.push(Expect::RangeUnchanged(range, version));
        self
    }

    /// Sets a key.
    #[must_use]
    pub fn put(mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        self.ops.push(Op::Put(key.into(), value.into()));
        self
    }

    /// Removes a key.
    #[must_use]
    pub fn delete(mut self, key: impl Into<Bytes>) -> Self {
        self.ops.push(Op::Delete(key.into()));
        self
    }

    /// Adds to a counter.
    #[must_use]
    pub fn add(mut self, key: impl Into<Bytes>, by: i64) -> Self {
        self.ops.push(Op::Add(key.into(), by));
        self
    }

    /// Sets a key that carries the commit's own number.
    #[must_use]
    pub fn put_numbered(mut self, prefix: impl Into<Bytes>, suffix: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        self.ops.push(Op::PutNumbered { prefix: prefix.into(), suffix: suffix.into(), value: value.into() });
        self
    }

    /// Offers an entry to claims, due after `delay_ms` milliseconds.
    #[must_use]
    pub fn offer(self, prefix: impl Into<Bytes>, id: impl Into<Bytes>, delay_ms: u64, value: impl Into<Bytes>) -> Self {
        self.offer_again(prefix, id, delay_ms, 0, value)
    }

    /// The same for an entry that was taken `attempts` times before.
    #[must_use]
    pub fn offer_again(
        mut self,
        prefix: impl Into<Bytes>,
        id: impl Into<Bytes>,
        delay_ms: u64,
        attempts: u16,
        value: impl Into<Bytes>,
    ) -> Self {
        let (prefix, id, value) = (prefix.into(), id.into(), value.into());
        self.ops.push(Op::Offer { prefix, id, delay_ms, attempts, value });
        self
    }

    /// Deletes an entry that was claimed, if it still is under that lease: otherwise the commit is `Error::Conflict`.
    #[must_use]
    pub fn settle(self, claimed: &Claimed) -> Self {
        self.expect_version(claimed.key.clone(), claimed.version).delete(claimed.key.clone())
    }

    /// Answer before the flush.
    #[must_use]
    pub fn relaxed(mut self) -> Self {
        self.durability = Durability::Relaxed;
        self
    }
}

impl Claim {
    /// At most `entries` entries under `prefix`, for `lease_ms` milliseconds.
    pub fn new(prefix: impl Into<Bytes>, entries: usize, lease_ms: u64) -> Self {
        Self { prefix: prefix.into(), entries, lease_ms, durability: Durability::default() }
    }

    /// Answer before the flush.
    #[must_use]
    pub fn relaxed(mut self) -> Self {
        self.durability = Durability::Relaxed;
        self
    }

    /// The most bytes of keys and values that it writes, if it keeps the limits; otherwise `Error::TooLarge`.
    pub fn bytes_within_limits(&self) -> Result<usize, Error> {
        key_bytes(self.prefix.len() + size_of::<u64>())?;
        if self.entries > CLAIM_ENTRIES_MAX {
            return Err(Error::TooLarge(format!("a claim takes at most {CLAIM_ENTRIES_MAX} entries")));
        }
        // Each entry is deleted in one place and put in another; the last one may pass the limit.
        Ok(CLAIM_BYTES + 2 * KEY_BYTES_MAX + OFFER_BYTES_MAX)
    }
}

impl Txn {
    /// The bytes of its keys and values, if it keeps the limits; otherwise `Error::TooLarge`.
    pub fn bytes_within_limits(&self) -> Result<usize, Error> {
        if self.expects.len() + self.ops.len() > TXN_PARTS_MAX {
            return Err(Error::TooLarge(format!("a transaction has at most {TXN_PARTS_MAX} parts")));
        }
        let mut bytes = 0;
        for expect in &self.expects {
            bytes += match expect {
                Expect::Version(key, _) | Expect::Absent(key) | Expect::Present(key) => key_bytes(key.len())?,
                Expect::RangeUnchanged(range, _) => end_bytes(&range.start)? + end_bytes(&range.end)?,
            };
        }
        for op in &self.ops {
            bytes += match op {
                Op::Put(key, value) => key_bytes(key.len())? + value_bytes(value.len())?,
                Op::Delete(key) => key_bytes(key.len())?,
                Op::Add(key, _) => key_bytes(key.len())? + size_of::<i64>(),
                Op::PutNumbered { prefix, suffix, value } => {
                    key_bytes(prefix.len() + size_of::<Version>() + suffix.len())? + value_bytes(value.len())?
                }
                Op::Offer { prefix, id, value, .. } => {
                    if value.len() > OFFER_BYTES_MAX {
                        let bytes = value.len();
                        let words = format!("an offered value of {bytes} bytes; at most {OFFER_BYTES_MAX} are allowed");
                        return Err(Error::TooLarge(words));
                    }
                    key_bytes(prefix.len() + size_of::<u64>() + id.len())? + value.len()
                }
            };
        }
        if bytes > TXN_BYTES_MAX {
            return Err(Error::TooLarge(format!(
                "a transaction of {bytes} bytes; at most {TXN_BYTES_MAX} are allowed"
            )));
        }
        Ok(bytes)
    }
}

fn key_bytes(bytes: usize) -> Result<usize, Error> {
    if bytes > KEY_BYTES_MAX {
        return Err(Error::TooLarge(format!("a key of {bytes} bytes; at most {KEY_BYTES_MAX} are allowed")));
    }
    Ok(bytes)
}

fn end_bytes(end: &Bound<Bytes>) -> Result<usize, Error> {
    match end {
        Bound::Included(key) | Bound::Excluded(key) => key_bytes(key.len()),
        Bound::Unbounded => Ok(0),
    }
}

fn value_bytes(bytes: usize) -> Result<usize, Error> {
    if bytes > VALUE_BYTES_MAX {
        return Err(Error::TooLarge(format!("a value of {bytes} bytes; at most {VALUE_BYTES_MAX} are allowed")));
    }
    Ok(bytes)
}

/// Why the store did not do something.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// An expectation does not hold: read again and decide anew.
    #[error("another commit came first")]
    Conflict,
    /// The snapshot or an expected version is too old to be checked: read again.
    #[error("the snapshot is too old")]
    TooOld,
    /// A key, value or transaction beyond the limits: a mistake of the caller.
    #[error("{0}")]
    TooLarge(String),
    /// Something that the contract forbids, such as a name with other letters: a mistake of the caller.
    #[error("{0}")]
    Invalid(String),
    /// More commits wait than the store will hold: try later.
    #[error("the store has more work than it can hold")]
    Busy,
    /// The disk is full: reads go on, writes are refused until there is room.
    #[error("the disk of the data folder is full")]
    DiskFull,
    /// What was read is not what was written.
    #[error("the store is damaged: {0}")]
    Corrupt(String),
    /// The engine failed.
    #[error("the store failed: {0}")]
    Io(String),
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
}

/// Wakes when something under a prefix may have changed.
#[derive(Debug, Clone)]
pub struct Watch {
    receiver: watch::Receiver<Version>,
}

impl Watch {
    /// For engines: a watch that wakes when `receiver` changes.
    pub fn new(receiver: watch::Receiver<Version>) -> Self {
        Self { receiver }
    }

    /// Waits for a change since the last call, or since the watch was made. Ends at once when the store is closed.
    pub async fn changed(&mut self) {
        // A closed channel means a closed store; the next read says so.
        let _ = self.receiver.changed().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_the_first_key_after_it() {
        assert_eq!(after_prefix(b"ab"), Some(Bytes::from_static(b"ac")));
        assert_eq!(after_prefix(b"a\xff"), Some(Bytes::from_static(b"b")));
        assert_eq!(after_prefix(b"\xff\xff"), None);
        assert_eq!(after_prefix(b""), None);
    }

    #[test]
    fn a_scan_goes_on_beyond_a_key_in_its_direction() {
        let range = Range::prefix("a").beyond("ab");
        assert!(!range.contains(b"ab") && range.contains(b"ac") && !range.contains(b"b"));
        let range = Range::prefix("a").reversed().beyond("ab");
        assert!(!range.contains(b"ab") && range.contains(b"aa") && !range.contains(b"ac"));
    }
}
