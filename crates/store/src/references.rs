//! Which blobs are wanted, and the removal of those that are not.
//!
//! Owners say in the store which blobs they need, in the transaction that makes them need it. The collector removes
//! what nobody needs, also what a crash left half-made; whatever it races with, it never takes a blob that an owner has.
//!
//! | key (under one registered prefix) | value                                                  |
//! |-----------------------------------|--------------------------------------------------------|
//! | `m`, blob name                    | `Mark`: since when nobody needs it, or that it is going |
//! | `r`, blob name, owner             | nothing; the owner needs the blob                      |
//! | `h`, name of the hold             | until when nothing may be removed (8 bytes)            |
//!
//! ```text
//! owner:      begin (mark: idle) ─► write the blob ─► adopt (expects the mark, puts the reference) ─► … ─► release (mark: idle)
//! collector:  mark idle for the grace, no reference ─► condemn (expects the mark and that no reference came) ─► remove ─► forget the mark
//! ```
//!
//! Invariants
//!   1. A name is used for one upload and never again. So a removal that comes late hits nothing new.
//!   2. A reference is only put where the mark is not condemned, in one transaction with an expectation on the mark;
//!      a mark is only condemned where there is no reference, with an expectation on the references. Of an adoption and
//!      a condemnation that race, one is a conflict: the commit order decides, no clock does.
//!      A release expects its reference, so it never touches a condemned mark.
//!   3. The grace is a courtesy to uploads and readers under way. A clock that jumps costs an upload, never a blob that
//!      an owner has.
//!   4. While a hold lasts, nothing is condemned: what a snapshot taken under it refers to stays.

use std::sync::Arc;

use base::{Clock, Random};
use bytes::Bytes;

use crate::blobs::Blobs;
use crate::contract::{Entry, Error, Expect, Range, Snapshot, Store, Txn};
use crate::keys::{Key, Parts};

/// Marks and names that one step of a collection looks at.
const ROUND: usize = 256;

/// What is noted of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// No owner needed it since this time (milliseconds since the epoch). Owners may have come since.
    Idle(u64),
    /// It is being removed: nobody may take it any more.
    Condemned,
}

impl Mark {
    fn encode(self) -> Bytes {
        let (tag, since) = match self {
            Self::Idle(since) => (0, since),
            Self::Condemned => (1, 0),
        };
        [&[tag][..], &since.to_be_bytes()].concat().into()
    }

    fn decode(value: &[u8]) -> Result<Self, Error> {
        match value.split_first_chunk() {
            Some(([0], since)) if since.len() == 8 => {
                Ok(Self::Idle(since.iter().fold(0, |since, byte| since << 8 | u64::from(*byte))))
            }
            Some(([1], _)) => Ok(Self::Condemned),
            _ => Err(Error::Corrupt("the mark of a blob cannot be read".into())),
        }
    }
}

/// What the collector does about a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Keep,
    /// Say that it goes; the next round removes it.
    Condemn,
    /// Remove it, then its mark.
    Remove,
}

/// Decides about one blob from what one snapshot says of it.
pub fn decide(mark: Mark, has_owner: bool, held: bool, now_ms: u64, grace_ms: u64) -> Step {
    match mark {
        // Nobody can have come since: whoever wants it is refused.
        Mark::Condemned => Step::Remove,
        Mark::Idle(since) if has_owner || held || now_ms.saturating_sub(since) < grace_ms => Step::Keep,
        Mark::Idle(_) => Step::Condemn,
    }
}

/// Holds: nothing is removed while one lasts.
#[derive(Debug, Clone, Copy)]
pub struct Holds {
    prefix: u8,
}

impl Holds {
    /// Holds under this prefix.
    pub fn new(prefix: u8) -> Self {
        Self { prefix }
    }

    fn under(self) -> Range {
        Range::prefix(Key::new(self.prefix).tag(b'h').done())
    }

    fn key(self, name: &str) -> Bytes {
        Key::new(self.prefix).tag(b'h').text(name).done()
    }

    /// Holds everything until `until_ms`. On disk when this returns.
    pub async fn take(self, store: &dyn Store, name: &str, until_ms: u64) -> Result<(), Error> {
        store.commit(Txn::new().put(self.key(name), until_ms.to_be_bytes().to_vec())).await.map(drop)
    }

    /// Ends a hold.
    pub async fn end(self, store: &dyn Store, name: &str) -> Result<(), Error> {
        store.commit(Txn::new().delete(self.key(name)).relaxed()).await.map(drop)
    }

    /// For a transaction that makes a blob removable for good: what it has to expect. Nothing while a hold lasts.
    pub async fn none(self, snapshot: &dyn Snapshot, now_ms: u64) -> Result<Option<Expect>, Error> {
        let holds = snapshot.range(&self.under()).await?.entries;
        let lasting = |entry: &Entry| {
            // One that cannot be read holds.
            entry.value.first_chunk().is_none_or(|until| u64::from_be_bytes(*until) > now_ms)
        };
        let expect = Expect::RangeUnchanged(self.under(), snapshot.version());
        Ok((!holds.iter().any(lasting)).then_some(expect))
    }
}

/// What one step of a collection did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collected {
    /// Blobs that were removed.
    pub removed: usize,
    /// Where the next step begins; none when all was seen.
    pub after: Option<String>,
}

/// The blobs whose names begin with one word, their owners, and their collector.
#[derive(Clone)]
pub struct References {
    store: Arc<dyn Store>,
    blobs: Arc<dyn Blobs>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    prefix: u8,
    within: String,
    grace_ms: u64,
}

impl References {
    /// The blobs below `within` (such as `objects/`), their owners under the key prefix `prefix`. What nobody needs
    /// goes after `grace_ms`, which should be longer than an upload takes.
    pub fn new(
        store: Arc<dyn Store>,
        blobs: Arc<dyn Blobs>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
        (prefix, within): (u8, &str),
        grace_ms: u64,
    ) -> Self {
        Self { store, blobs, clock, random, prefix, within: within.to_owned(), grace_ms }
    }

    fn mark_key(&self, name: &str) -> Bytes {
        Key::new(self.prefix).tag(b'm').text(name).done()
    }

    /// All references to a blob.
    fn owners(&self, name: &str) -> Range {
        Range::prefix(Key::new(self.prefix).tag(b'r').text(name).done())
    }

    fn reference(&self, name: &str, owner: &[u8]) -> Bytes {
        Key::new(self.prefix).tag(b'r').text(name).bytes(owner).done()
    }

    /// A name for an upload, which no other ever has, and a mark under which it is found if the upload is abandoned.
    /// Write the blob under it, then `adopt` it.
    pub async fn begin(&self, stem: &str) -> Result<String, Error> {
        let name = format!("{}{stem}-{}", self.within, self.random.hex(16));
        crate::blobs::check_blob_name(&name)?;
        let mark = Mark::Idle(self.clock.now_ms()).encode();
        // A mark that a power loss takes is made anew by the collector, which finds the blob by its name.
        self.store
            .commit(Txn::new().expect_absent(self.mark_key(&name)).put(self.mark_key(&name), mark).relaxed())
            .await?;
        Ok(name)
    }

    /// Adds to `txn` that `owner` needs the blob. Nothing is returned if the blob is going or gone: upload it anew.
    pub async fn adopt(
        &self,
        snapshot: &dyn Snapshot,
        txn: Txn,
        name: &str,
        owner: &[u8],
    ) -> Result<Option<Txn>, Error> {
        let Some(entry) = snapshot.get(&self.mark_key(name)).await? else { return Ok(None) };
        if Mark::decode(&entry.value)? == Mark::Condemned {
            return Ok(None);
        }
        Ok(Some(txn.expect_version(entry.key, entry.version).put(self.reference(name, owner), Bytes::new())))
    }

    /// Adds to `txn` that `owner` needs a blob that may have been written without `begin`. Said again, it changes nothing.
    /// Nothing is returned if the blob is going.
    pub async fn register(
        &self,
        snapshot: &dyn Snapshot,
        txn: Txn,
        name: &str,
        owner: &[u8],
    ) -> Result<Option<Txn>, Error> {
        let key = self.mark_key(name);
        if snapshot.get(&key).await?.is_some() {
            return self.adopt(snapshot, txn, name, owner).await;
        }
        let mark = Mark::Idle(self.clock.now_ms()).encode();
        let reference = self.reference(name, owner);
        Ok(Some(txn.expect_absent(key.clone()).put(key, mark).put(reference, Bytes::new())))
    }

    /// Whether `owner` needs the blob.
    pub async fn is_owner(&self, snapshot: &dyn Snapshot, name: &str, owner: &[u8]) -> Result<bool, Error> {
        Ok(snapshot.get(&self.reference(name, owner)).await?.is_some())
    }

    /// Removes a blob now, without the grace, if no owner needs it: for who began an upload and has no use for it.
    pub async fn abandon(&self, name: &str) -> Result<bool, Error> {
        self.look(name, 0).await
    }

    /// Adds to `txn` that `owner`, which has the blob, needs it no more. Said twice, the second is a conflict: it must
    /// not give a blob back its life that is condemned since the first.
    #[must_use]
    pub fn release(&self, txn: Txn, name: &str, owner: &[u8]) -> Txn {
        let mark = Mark::Idle(self.clock.now_ms()).encode();
        let reference = self.reference(name, owner);
        txn.expect_present(reference.clone()).delete(reference).put(self.mark_key(name), mark)
    }

    /// Looks at some marks beyond `after`: removes what is condemned, condemns what is due.
    pub async fn collect(&self, after: Option<&str>) -> Result<Collected, Error> {
        let range = Range::prefix(Key::new(self.prefix).tag(b'm').done()).rows(ROUND);
        let range = match after {
            Some(after) => range.beyond(self.mark_key(after)),
            None => range,
        };
        let page = self.store.range(&range).await?;
        let mut collected = Collected::default();
        for entry in &page.entries {
            let name = self.name_of(&entry.key)?;
            collected.removed += usize::from(self.look(&name, self.grace_ms).await?);
            collected.after = page.more.then_some(name);
        }
        Ok(collected)
    }

    fn name_of(&self, mark_key: &[u8]) -> Result<String, Error> {
        let mut parts = Parts::of(mark_key);
        let name = parts.byte().and(parts.byte()).and_then(|_| parts.text());
        name.ok_or_else(|| Error::Corrupt("the key of a mark cannot be read".into()))
    }

    /// Takes a blob to its end, as far as it may go; says whether it is gone.
    async fn look(&self, name: &str, grace_ms: u64) -> Result<bool, Error> {
        loop {
            let snapshot = self.store.snapshot().await?;
            let Some(entry) = snapshot.get(&self.mark_key(name)).await? else { return Ok(false) };
            let has_owner = !snapshot.range(&self.owners(name).rows(1)).await?.entries.is_empty();
            let now_ms = self.clock.now_ms();
            let unheld = Holds::new(self.prefix).none(&*snapshot, now_ms).await?;
            let step = decide(Mark::decode(&entry.value)?, has_owner, unheld.is_none(), now_ms, grace_ms);
            let version = snapshot.version();
            drop(snapshot);
            let txn = match step {
                Step::Keep => return Ok(false),
                Step::Condemn => self.condemnation(name, &entry, version, unheld),
                Step::Remove => {
                    self.blobs.delete(name).await?;
                    Txn::new().expect_version(entry.key.clone(), entry.version).delete(entry.key).relaxed()
                }
            };
            match self.store.commit(txn).await {
                Ok(_) if step == Step::Remove => return Ok(true),
                // Condemned: once more, to remove it.
                Ok(_) => {}
                // Somebody came between: the next round sees what it was.
                Err(Error::Conflict | Error::TooOld) => return Ok(false),
                Err(other) => return Err(other),
            }
        }
    }

    /// On disk before the blob goes: after a power loss it must not be wanted again.
    fn condemnation(&self, name: &str, mark: &Entry, seen_at: u64, unheld: Option<Expect>) -> Txn {
        let mut txn = Txn::new().expect_version(mark.key.clone(), mark.version);
        txn = txn.expect_range(self.owners(name), seen_at).put(mark.key.clone(), Mark::Condemned.encode());
        txn.expects.extend(unheld);
        txn
    }

    /// Looks at some blobs beyond `after`: one that has no mark gets one, and with it an end.
    pub async fn find_unmarked(&self, after: Option<&str>) -> Result<Collected, Error> {
        let names = self.blobs.names(&self.within, after, ROUND).await?;
        for name in &names.names {
            let key = self.mark_key(name);
            if self.store.get(&key).await?.is_none() {
                let mark = Mark::Idle(self.clock.now_ms()).encode();
                match self.store.commit(Txn::new().expect_absent(key.clone()).put(key, mark).relaxed()).await {
                    Ok(_) | Err(Error::Conflict) => {}
                    Err(other) => return Err(other),
                }
            }
        }
        let after = names.names.into_iter().next_back().filter(|_| names.more);
        Ok(Collected { removed: 0, after })
    }

    /// The blobs that an owner needs, with those of them that are not there: what a check of the store reports.
    /// Looks at some beyond `after`.
    pub async fn missing(&self, after: Option<&Bytes>) -> Result<(Vec<String>, Option<Bytes>), Error> {
        let range = Range::prefix(Key::new(self.prefix).tag(b'r').done()).rows(ROUND);
        let range = match after {
            Some(after) => range.beyond(after.clone()),
            None => range,
        };
        let page = self.store.range(&range).await?;
        let mut missing = Vec::new();
        for entry in &page.entries {
            let name = self.name_of(&entry.key)?;
            if self.blobs.info(&name).await?.is_none() {
                missing.push(name);
            }
        }
        let after = page.entries.into_iter().next_back().filter(|_| page.more);
        Ok((missing, after.map(|entry| entry.key)))
    }
}
