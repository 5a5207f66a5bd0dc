//! A store whose values are encrypted: all of them, or those of some records. What lies under the store's own prefix stays
//! as it is; the ring is not seen.

use std::ops::Bound;
use std::sync::Arc;

use async_trait::async_trait;
use base::Random;
use bytes::Bytes;
use tokio::sync::{Mutex, MutexGuard};

use super::keyring::{KeyRing, RING};
use super::records::Records;
use super::sealing::{self, GROWTH, RANDOM_BYTES};
use crate::contract::{
    Claim, Claims, Entry, Error, Expect, Op, Page, Range, Snapshot, Store, Txn, VALUE_BYTES_MAX, Version, Watch,
};
use crate::keys::OWN;
use crate::stats::Stats;
use crate::writes;

/// Locks for counters, each for a part of them.
const STRIPES: usize = 64;
/// Most times that counters are read anew because others add to them.
const ATTEMPTS: usize = 64;

/// A store over another one.
pub struct EncryptedStore {
    inner: Arc<dyn Store>,
    scheme: Scheme,
    random: Arc<dyn Random>,
    counters: Vec<Mutex<()>>,
}

/// What is encrypted, and with which keys.
#[derive(Clone)]
enum Scheme {
    /// Every value, with the keys of the store's ring.
    Whole(Arc<KeyRing>),
    /// The values of some records.
    Records(Arc<Records>),
}

impl Scheme {
    fn is_whole(&self) -> bool {
        matches!(self, Self::Whole(_))
    }

    /// Whether this key is the ring's, which only the whole store's users must not see.
    fn hides(&self, key: &[u8]) -> bool {
        self.is_whole() && key == RING
    }

    /// `number_at` is where in the key its number will stand.
    fn seal(&self, key: &[u8], number_at: Option<usize>, value: Bytes, random: &dyn Random) -> Result<Bytes, Error> {
        match self {
            _ if key.first() == Some(&OWN) => return Ok(value),
            Self::Records(records) if !records.seals(key, &value) => return Ok(value),
            Self::Records(_) if number_at.is_some() => {
                return Err(Error::Invalid("no sealed record has a number".into()));
            }
            Self::Whole(_) | Self::Records(_) => {}
        }
        let most = VALUE_BYTES_MAX - GROWTH;
        if value.len() > most {
            return Err(Error::TooLarge(format!("a value of {} bytes; at most {most} can be encrypted", value.len())));
        }
        let mut bytes = [0; RANDOM_BYTES];
        random.fill(&mut bytes);
        match self {
            Self::Whole(ring) => ring.active()?.seal(key, number_at, &value, bytes),
            Self::Records(records) => records.seal(key, &value, bytes),
        }
    }

    fn open(&self, key: &[u8], value: Bytes) -> Result<Bytes, Error> {
        match self {
            _ if key.first() == Some(&OWN) => Ok(value),
            Self::Whole(ring) => sealing::open(key, &value, |id| ring.key(id)),
            Self::Records(records) => records.open(key, value),
        }
    }

    fn opened(&self, entry: Entry) -> Result<Entry, Error> {
        let value = self.open(&entry.key, entry.value)?;
        Ok(Entry { value, ..entry })
    }

    /// The range as the store beneath gets it.
    fn seen(&self, range: &Range) -> Range {
        if self.is_whole() { below_ring(range) } else { range.clone() }
    }
}

impl EncryptedStore {
    /// Encrypts what is put into `inner` with the keys of its ring.
    pub fn new(inner: Arc<dyn Store>, ring: Arc<KeyRing>, random: Arc<dyn Random>) -> Self {
        Self::over(inner, Scheme::Whole(ring), random)
    }

    /// Encrypts what is put into `inner` under the keys of these records, and leaves the rest as it is.
    pub fn of_records(inner: Arc<dyn Store>, records: Records, random: Arc<dyn Random>) -> Self {
        Self::over(inner, Scheme::Records(Arc::new(records)), random)
    }

    fn over(inner: Arc<dyn Store>, scheme: Scheme, random: Arc<dyn Random>) -> Self {
        Self { inner, scheme, random, counters: (0..STRIPES).map(|_| Mutex::default()).collect() }
    }

    fn seal(&self, key: &[u8], number_at: Option<usize>, value: Bytes) -> Result<Bytes, Error> {
        self.scheme.seal(key, number_at, value, &*self.random)
    }

    /// The transaction as the store beneath gets it, without counters.
    fn sealed(&self, txn: Txn) -> Result<Txn, Error> {
        if txn.expects.iter().any(|expect| matches!(expect, Expect::Version(key, _) | Expect::Absent(key) | Expect::Present(key) if self.scheme.hides(key)))
        {
            return Err(hidden());
        }
        let mut sealed =
            Txn { expects: txn.expects, ops: Vec::with_capacity(txn.ops.len()), durability: txn.durability };
        for op in txn.ops {
            sealed.ops.push(match op {
                Op::Put(key, _) | Op::Delete(key) | Op::Add(key, _) if self.scheme.hides(&key) => return Err(hidden()),
                Op::Put(key, value) => {
                    let value = self.seal(&key, None, value)?;
                    Op::Put(key, value)
                }
                Op::PutNumbered { prefix, suffix, value } => {
                    let value = self.seal(&[&prefix[..], &suffix].concat(), Some(prefix.len()), value)?;
                    Op::PutNumbered { prefix, suffix, value }
                }
                // Bound to its key without the eight bytes that a claim changes.
                Op::Offer { prefix, id, delay_ms, attempts, value } => {
                    let value = self.seal(&[&prefix[..], &id].concat(), Some(prefix.len()), value)?;
                    Op::Offer { prefix, id, delay_ms, attempts, value }
                }
                Op::Delete(_) | Op::Add(..) => op,
            });
        }
        Ok(sealed)
    }

    /// Adds by reading: the store beneath cannot add to what it cannot read.
    async fn commit_counters(&self, txn: Txn) -> Result<Version, Error> {
        let counted: Vec<Bytes> = added(&txn).cloned().collect();
        let _alone = self.lock(&counted).await;
        for _ in 0..ATTEMPTS {
            let mut before: Vec<(Bytes, Option<Entry>)> = Vec::with_capacity(counted.len());
            for key in &counted {
                before.push((key.clone(), self.get(key).await?));
            }
            match self.inner.commit(self.with_sums(txn.clone(), &before)?).await {
                Err(Error::Conflict) => {}
                done => return done,
            }
            // The caller's conflict, unless a counter is not what it was.
            let mut moved = false;
            for (key, entry) in &before {
                let now = self.inner.get(key).await?.map(|entry| entry.version);
                moved |= now != entry.as_ref().map(|entry| entry.version);
            }
            if !moved {
                return Err(Error::Conflict);
            }
        }
        Err(Error::Busy)
    }

    /// The transaction with its counters as plain writes that expect what was read.
    fn with_sums(&self, txn: Txn, before: &[(Bytes, Option<Entry>)]) -> Result<Txn, Error> {
        let value = |key: &Bytes| {
            let found = before.iter().find(|(counted, _)| counted == key).and_then(|(_, entry)| entry.as_ref());
            Ok::<_, Error>(found.map(|entry| entry.value.clone()))
        };
        let (numbered, plain): (Vec<Op>, Vec<Op>) =
            txn.ops.into_iter().partition(|op| matches!(op, Op::PutNumbered { .. } | Op::Offer { .. }));
        // Neither number nor time is needed: the keys that carry one are set apart.
        let sums = writes::of_ops(plain, 0, 0, value)?;
        let ops = sums.into_iter().map(|(key, value)| match value {
            Some(value) => Op::Put(key, value),
            None => Op::Delete(key),
        });
        let mut plain = Txn { expects: txn.expects, ops: ops.chain(numbered).collect(), durability: txn.durability };
        for (key, entry) in before {
            plain = plain.expect_unchanged(key.clone(), entry.as_ref());
        }
        self.sealed(plain)
    }

    /// Takes the locks of these counters, always in the same order.
    async fn lock(&self, keys: &[Bytes]) -> Vec<MutexGuard<'_, ()>> {
        let stripe = |key: &Bytes| crc32fast::hash(key) as usize % STRIPES;
        let mut stripes: Vec<usize> = keys.iter().map(stripe).collect();
        stripes.sort_unstable();
        stripes.dedup();
        let mut held = Vec::with_capacity(stripes.len());
        for stripe in stripes {
            held.push(self.counters[stripe].lock().await);
        }
        held
    }

    fn wrapped(&self, inner: Box<dyn Snapshot>) -> Box<dyn Snapshot> {
        Box::new(EncryptedSnapshot { inner, scheme: self.scheme.clone() })
    }
}

/// The counters of a transaction, each once.
fn added(txn: &Txn) -> impl Iterator<Item = &Bytes> {
    let mut keys: Vec<&Bytes> =
        txn.ops.iter().filter_map(|op| if let Op::Add(key, _) = op { Some(key) } else { None }).collect();
    keys.sort_unstable();
    keys.dedup();
    keys.into_iter()
}

fn hidden() -> Error {
    Error::Invalid("the ring of keys is not written through the encrypted store".into())
}

#[async_trait]
impl Store for EncryptedStore {
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, Error> {
        Ok(self.wrapped(self.inner.snapshot().await?))
    }

    async fn long_snapshot(&self, life_ms: u64) -> Result<Box<dyn Snapshot>, Error> {
        Ok(self.wrapped(self.inner.long_snapshot(life_ms).await?))
    }

    async fn commit(&self, txn: Txn) -> Result<Version, Error> {
        txn.bytes_within_limits()?;
        if self.scheme.is_whole() && added(&txn).next().is_some() {
            return self.commit_counters(txn).await;
        }
        self.inner.commit(self.sealed(txn)?).await
    }

    async fn claim(&self, claim: Claim) -> Result<Claims, Error> {
        let mut claims = self.inner.claim(claim).await?;
        for claimed in &mut claims.entries {
            claimed.value = self.scheme.open(&claimed.key, std::mem::take(&mut claimed.value))?;
        }
        Ok(claims)
    }

    fn watch(&self, prefix: &[u8]) -> Watch {
        self.inner.watch(prefix)
    }

    async fn stats(&self) -> Result<Stats, Error> {
        self.inner.stats().await
    }

    async fn get(&self, key: &[u8]) -> Result<Option<Entry>, Error> {
        if self.scheme.hides(key) {
            return Ok(None);
        }
        self.inner.get(key).await?.map(|entry| self.scheme.opened(entry)).transpose()
    }

    async fn range(&self, range: &Range) -> Result<Page, Error> {
        let page = self.inner.range(&self.scheme.seen(range)).await?;
        let entries: Result<Vec<_>, _> = page.entries.into_iter().map(|entry| self.scheme.opened(entry)).collect();
        let page = Page { entries: entries?, more: page.more };
        let bytes: usize = page.entries.iter().map(|entry| entry.key.len() + entry.value.len()).sum();
        // Encrypted values are longer, so the store beneath may have come to the limit of bytes too early.
        if page.more && page.entries.len() < range.rows && bytes < range.bytes {
            return self.snapshot().await?.range(range).await;
        }
        Ok(page)
    }
}

struct EncryptedSnapshot {
    inner: Box<dyn Snapshot>,
    scheme: Scheme,
}

#[async_trait]
impl Snapshot for EncryptedSnapshot {
    fn version(&self) -> Version {
        self.inner.version()
    }

    async fn get(&self, key: &[u8]) -> Result<Option<Entry>, Error> {
        if self.scheme.hides(key) {
            return Ok(None);
        }
        self.inner.get(key).await?.map(|entry| self.scheme.opened(entry)).transpose()
    }

    async fn range(&self, range: &Range) -> Result<Page, Error> {
        let mut rest = self.scheme.seen(range);
        let mut all = Page::default();
        let mut bytes = 0;
        loop {
            let page = self.inner.range(&rest).await?;
            for entry in page.entries {
                let entry = self.scheme.opened(entry)?;
                bytes += entry.key.len() + entry.value.len();
                all.entries.push(entry);
            }
            all.more = page.more;
            // Encrypted values are longer, so the store beneath comes to the limit of bytes before this does.
            let Some(last) = all.entries.last().filter(|_| page.more) else { return Ok(all) };
            if all.entries.len() >= range.rows || bytes >= range.bytes {
                return Ok(all);
            }
            let key = last.key.clone();
            rest = rest.beyond(key).rows(range.rows - all.entries.len()).bytes(range.bytes - bytes);
        }
    }
}

/// The range without the ring, which is the last key.
fn below_ring(range: &Range) -> Range {
    let beyond = match &range.end {
        Bound::Unbounded => true,
        Bound::Included(end) => end >= RING,
        Bound::Excluded(end) => end > RING,
    };
    let mut range = range.clone();
    if beyond {
        range.end = Bound::Excluded(Bytes::from_static(RING));
    }
    range
}
