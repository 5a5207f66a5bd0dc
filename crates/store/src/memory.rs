//! The contract in memory: for tests of everything above the store, and as the model that the engines are tested against.
//!
//! It is written to be obviously right, not to be quick: one lock, one sorted map, deletions remembered for ever.
//! It has every property of the contract except the one that its name denies, durability; and its snapshots never age.
//!
//! Invariants
//!   1. A snapshot shares the map with the store; a commit while a snapshot lives copies the map.
//!   2. `changed` holds the last commit that wrote or deleted each key that ever was, so ranges never are too old.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use base::{Clock, SystemClock};
use bytes::Bytes;
use parking_lot::Mutex;

use crate::contract::{
    CLAIM_BYTES, Claim, Claimed, Claims, Entry, Error, Expect, Page, Range, Snapshot, Store, Txn, Version, Watch,
};
use crate::due::Due;
use crate::watchers::Watchers;
use crate::writes;

type Map = BTreeMap<Bytes, (Bytes, Version)>;

/// A store in memory.
pub struct MemoryStore {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    watchers: Watchers,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::with_clock(SystemClock::shared())
    }
}

#[derive(Debug, Default)]
struct State {
    version: Version,
    map: Arc<Map>,
    changed: BTreeMap<Bytes, Version>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty store whose leases end by `clock`.
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        Self { clock, state: Mutex::default(), watchers: Watchers::default() }
    }

    /// An empty store whose next commit comes after `version`.
    pub fn after(version: Version) -> Self {
        let store = Self::new();
        store.state.lock().version = version;
        store
    }

    /// An empty store, shared.
    pub fn shared() -> Arc<dyn Store> {
        Arc::new(Self::new())
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, Error> {
        let state = self.state.lock();
        Ok(Box::new(MemorySnapshot { version: state.version, map: Arc::clone(&state.map) }))
    }

    async fn long_snapshot(&self, _life_ms: u64) -> Result<Box<dyn Snapshot>, Error> {
        self.snapshot().await
    }

    async fn commit(&self, txn: Txn) -> Result<Version, Error> {
        txn.bytes_within_limits()?;
        let mut state = self.state.lock();
        if !txn.expects.iter().all(|expect| state.holds(expect)) {
            return Err(Error::Conflict);
        }
        let version = state.version + 1;
        // Gathered apart first: a write that is refused must leave nothing of the earlier ones.
        let before = |key: &Bytes| Ok::<_, Error>(state.map.get(key).map(|(value, _)| value.clone()));
        let writes = writes::of_ops(txn.ops, version, self.clock.now_ms(), before)?;
        state.write(version, &writes);
        self.watchers.touched(writes.keys().map(|key| &key[..]), version);
        Ok(version)
    }

    async fn claim(&self, claim: Claim) -> Result<Claims, Error> {
        claim.bytes_within_limits()?;
        let mut state = self.state.lock();
        let (now_ms, version) = (self.clock.now_ms(), state.version + 1);
        let lease_ends_ms = now_ms.saturating_add(claim.lease_ms);
        let mut claims = Claims::default();
        let mut writes = writes::Writes::new();
        let (mut bytes, mut next_ms) = (0, None);
        for (key, (value, _)) in slice(&state.map, &Range::prefix(claim.prefix.clone())).into_iter().flatten() {
            let (due, id) = Due::of(claim.prefix.len(), key)?;
            if due.at_ms > now_ms || claims.entries.len() == claim.entries || bytes >= CLAIM_BYTES {
                next_ms = Some(due.at_ms);
                break;
            }
            let attempts = due.attempts.saturating_add(1);
            let moved = Due { at_ms: lease_ends_ms, attempts }.key(&claim.prefix, &id);
            bytes += key.len() + moved.len() + value.len();
            writes.insert(key.clone(), None);
            writes.insert(moved.clone(), Some(value.clone()));
            claims.entries.push(Claimed { key: moved, id, value: value.clone(), attempts, lease_ends_ms, version });
        }
        if !claims.entries.is_empty() {
            state.write(version, &writes);
            self.watchers.touched(writes.keys().map(|key| &key[..]), version);
            next_ms = next_ms.into_iter().chain([lease_ends_ms]).min();
        }
        claims.next_in_ms = next_ms.map(|next| next.saturating_sub(now_ms));
        Ok(claims)
    }

    fn watch(&self, prefix: &[u8]) -> Watch {
        self.watchers.watch(prefix)
    }
}

impl State {
    fn write(&mut self, version: Version, writes: &writes::Writes) {
        self.version = version;
        let map = Arc::make_mut(&mut self.map);
        for (key, value) in writes {
            match value {
                Some(value) => map.insert(key.clone(), (value.clone(), version)),
                None => map.remove(key),
            };
        }
        self.changed.extend(writes.keys().map(|key| (key.clone(), version)));
    }

    fn holds(&self, expect: &Expect) -> bool {
        match expect {
            Expect::Version(key, version) => self.map.get(key).is_some_and(|(_, written)| written == version),
            Expect::Absent(key) => !self.map.contains_key(key),
            Expect::Present(key) => self.map.contains_key(key),
            Expect::RangeUnchanged(range, version) => {
                slice(&self.changed, range).is_none_or(|mut keys| keys.all(|(_, changed)| changed <= version))
            }
        }
    }
}

/// The part of a sorted map that a range covers; nothing if its ends exclude everything, which `BTreeMap` forbids to ask.
fn slice<'a, V>(
    map: &'a BTreeMap<Bytes, V>,
    range: &Range,
) -> Option<impl DoubleEndedIterator<Item = (&'a Bytes, &'a V)>> {
    (!range.is_empty()).then(|| map.range((range.start.clone(), range.end.clone())))
}

struct MemorySnapshot {
    version: Version,
    map: Arc<Map>,
}

#[async_trait]
impl Snapshot for MemorySnapshot {
    fn version(&self) -> Version {
        self.version
    }

    async fn get(&self, key: &[u8]) -> Result<Option<Entry>, Error> {
        Ok(self.map.get_key_value(key).map(entry))
    }

    async fn range(&self, range: &Range) -> Result<Page, Error> {
        let Some(found) = slice(&self.map, range) else { return Ok(Page::default()) };
        let found: Box<dyn Iterator<Item = _> + Send> =
            if range.reverse { Box::new(found.rev()) } else { Box::new(found) };
        let mut page = Page::default();
        let mut bytes = 0;
        for (key, value) in found {
            if page.entries.len() == range.rows || (bytes >= range.bytes && !page.entries.is_empty()) {
                page.more = true;
                break;
            }
            bytes += key.len() + value.0.len();
            page.entries.push(entry((key, value)));
        }
        Ok(page)
    }
}

fn entry((key, (value, version)): (&Bytes, &(Bytes, Version))) -> Entry {
    Entry { key: key.clone(), value: value.clone(), version: *version }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_snapshot_does_not_see_later_commits() {
        let store = MemoryStore::new();
        store.commit(Txn::new().put("a", "1")).await.unwrap();
        let before = store.snapshot().await.unwrap();
        store.commit(Txn::new().put("a", "2").delete("b")).await.unwrap();
        assert_eq!(before.get(b"a").await.unwrap().unwrap().value, "1");
        assert_eq!(store.get(b"a").await.unwrap().unwrap().value, "2");
    }

    #[tokio::test]
    async fn a_commit_whose_last_write_is_refused_writes_nothing() {
        let store = MemoryStore::new();
        store.commit(Txn::new().put("text", "no counter")).await.unwrap();
        let refused = store.commit(Txn::new().put("other", "x").add("text", 1)).await;
        assert!(matches!(refused, Err(Error::Invalid(_))));
        assert_eq!(store.get(b"other").await.unwrap(), None);
        assert_eq!(store.snapshot().await.unwrap().version(), 1);
    }
}
