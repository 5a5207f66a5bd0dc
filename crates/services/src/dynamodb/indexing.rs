//! Fills indexes that are made on a live table, and empties those that are taken away: in the background, a bounded number of
//! items in each commit, while the table is read and written.
//!
//! Invariants
//!   1. From the commit on that makes an index, every change of an item reaches it (`ops::write`); so the worker adds the
//!      entries of items that did not change since, each on condition that the item is still as it was read.
//!   2. No writer waits for the worker: it writes nothing that a change of an item expects, but entries of its own.
//!   3. The work on an index is one entry of a queue of the store, under a lease: of several nodes one does it, and another
//!      goes on when it dies. What is done twice is done once: an entry that is there is left alone.
//!   4. The index is ready in the commit that takes the work from the queue.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use store::{Claim, Claimed, Entry, Error as StoreError, Snapshot, Txn};
use tokio::time::Instant;

use super::error::{Error, Result};
use super::index::{Index, State};
use super::ops::{Found, Shared};
use super::table::Table;
use super::{item, keys};

/// How long a node has the work on an index before another may take it.
const LEASE_MS: u64 = 4_000;
/// After how long it is written down how far the work is, well within the lease.
const TURN: Duration = Duration::from_secs(2);
/// Most bytes of items that one commit looks at.
const BATCH_BYTES: usize = 128 * 1024;
/// Pause after a failure.
const PAUSE: Duration = Duration::from_secs(5);

/// The work on one index.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Work {
    account: String,
    region: String,
    table: String,
    generation: u64,
    index: u64,
    /// The last item that was looked at, base64 of its key; none yet if it is empty.
    #[serde(default)]
    after: String,
}

/// Adds to `txn` that the index of that number is to be filled or emptied.
pub(super) fn offered(txn: Txn, table: &Table, index: u64) -> Result<Txn> {
    let work = Work {
        account: table.account.clone(),
        region: table.region.clone(),
        table: table.name.clone(),
        generation: table.generation,
        index,
        after: String::new(),
    };
    Ok(txn.offer(keys::work(), keys::work_id(table.generation, index), 0, encode(&work)?))
}

fn encode(work: &Work) -> Result<Vec<u8>> {
    serde_json::to_vec(work).map_err(|_| Error::Corrupt("work on an index"))
}

/// Does what there is to do, until the store is closed.
pub(super) async fn run(shared: &Shared) {
    let mut watch = shared.store.watch(&keys::work());
    loop {
        match step(shared).await {
            Ok(Step::Worked(_)) => {}
            Ok(Step::Idle(None)) => watch.changed().await,
            Ok(Step::Idle(Some(wait_ms))) => {
                // Someone else has it, or had: it comes back if that one dies.
                let _ = tokio::time::timeout(Duration::from_millis(wait_ms), watch.changed()).await;
            }
            Err(Error::Store(StoreError::Closed)) => return,
            Err(error) => {
                tracing::warn!(%error, "work on an index failed; trying again");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// What a step did.
pub(super) enum Step {
    /// So many entries were written or removed.
    Worked(usize),
    /// Nothing is due; in so many milliseconds something may be.
    Idle(Option<u64>),
}

/// Takes the work on one index and does a part of it.
pub(super) async fn step(shared: &Shared) -> Result<Step> {
    let claims = shared.store.claim(Claim::new(keys::work(), 1, LEASE_MS).relaxed()).await?;
    let Some(claimed) = claims.entries.into_iter().next() else {
        return Ok(Step::Idle(claims.next_in_ms));
    };
    let work: Work = serde_json::from_slice(&claimed.value).map_err(|_| Error::Corrupt("work on an index"))?;
    let mut task = Task { shared, claimed, work, rows: shared.config.removal_rows, done: 0 };
    let began = Instant::now();
    while began.elapsed() < TURN {
        if !task.batch().await? {
            return Ok(Step::Worked(task.done));
        }
    }
    task.put_back().await?;
    Ok(Step::Worked(task.done))
}

struct Task<'a> {
    shared: &'a Shared,
    claimed: Claimed,
    work: Work,
    /// Items of the next batch: fewer where others come first.
    rows: usize,
    done: usize,
}

impl Task<'_> {
    /// Does one batch; returns whether there is more to do.
    async fn batch(&mut self) -> Result<bool> {
        let Some(found) = self.table().await? else {
            return self.finish(Txn::new()).await;
        };
        let index = found.table.indexes.iter().find(|index| index.number == self.work.index);
        match index.map(|index| index.state) {
            Some(State::Creating) => self.fill(&found).await,
            Some(State::Deleting) => self.empty(&found).await,
            Some(State::Active) | None => self.finish(Txn::new()).await,
        }
    }

    /// The table, unless it was deleted.
    async fn table(&self) -> Result<Option<Found>> {
        let work = &self.work;
        let found = self.shared.found(&keys::table(&work.account, &work.region, &work.table)).await?;
        Ok(found.filter(|found| found.table.generation == work.generation))
    }

    /// Takes the work from the queue together with `txn`, unless someone else has it by now.
    async fn finish(&self, txn: Txn) -> Result<bool> {
        match self.shared.store.commit(txn.settle(&self.claimed)).await {
            Ok(_) | Err(StoreError::Conflict | StoreError::TooOld) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives the rest of the work back.
    async fn put_back(&self) -> Result<()> {
        let id = keys::work_id(self.work.generation, self.work.index);
        let txn = Txn::new().settle(&self.claimed).offer(keys::work(), id, 0, encode(&self.work)?);
        match self.shared.store.commit(txn.relaxed()).await {
            Ok(_) | Err(StoreError::Conflict | StoreError::TooOld) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Adds the entries of the next items.
    async fn fill(&mut self, found: &Found) -> Result<bool> {
        let Some(index) = found.table.indexes.iter().find(|index| index.number == self.work.index) else {
            return Ok(false);
        };
        let mut range = keys::items(self.work.generation).rows(self.rows).bytes(BATCH_BYTES);
        if !self.work.after.is_empty() {
            let after = BASE64.decode(&self.work.after).map_err(|_| Error::Corrupt("work on an index"))?;
            range = range.beyond(after);
        }
        let first =
            if self.rows == 1 { self.shared.store.range(&range).await?.entries.into_iter().next() } else { None };
        // An item that changes all the time: in this process its writers wait for once.
        let _lane = match &first {
            Some(entry) => Some(self.shared.lane(&entry.key).lock().await),
            None => None,
        };
        let snapshot = self.shared.store.snapshot().await?;
        let page = snapshot.range(&range).await?;
        let Some(last) = page.entries.last() else {
            return self.finish_filling(found).await;
        };
        let (txn, added) = entries_of(&*snapshot, found, index, &page.entries).await?;
        if added > 0 {
            // Losing these on a crash only means doing them again.
            match self.shared.store.commit(txn.relaxed()).await {
                Ok(_) => {}
                Err(StoreError::Conflict | StoreError::TooOld) => {
                    self.rows = (self.rows / 4).max(1);
                    return Ok(true);
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.done += added;
        self.work.after = BASE64.encode(&last.key);
        self.rows = (self.rows * 2).min(self.shared.config.removal_rows);
        Ok(true)
    }

    /// Every item has its entry.
    async fn finish_filling(&self, found: &Found) -> Result<bool> {
        let mut table = (*found.table).clone();
        if let Some(index) = table.indexes.iter_mut().find(|index| index.number == self.work.index) {
            index.state = State::Active;
        }
        self.finish_with(found, &table).await
    }

    /// Writes the table's record in the commit that ends the work. Where another change of the record came first, the
    /// caller looks at it and comes again.
    async fn finish_with(&self, found: &Found, table: &Table) -> Result<bool> {
        let txn = found.put_record(Txn::new(), table)?.settle(&self.claimed);
        match self.shared.store.commit(txn).await {
            Ok(_) => Ok(false),
            Err(StoreError::Conflict | StoreError::TooOld) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes the next entries; at the end the index itself.
    async fn empty(&mut self, found: &Found) -> Result<bool> {
        let (generation, number) = (self.work.generation, self.work.index);
        let range = keys::entries(generation, number).rows(self.shared.config.removal_rows).bytes(BATCH_BYTES);
        let page = self.shared.store.range(&range).await?;
        if page.entries.is_empty() {
            let mut table = (*found.table).clone();
            table.indexes.retain(|index| index.number != number);
            let txn =
                Txn::new().delete(keys::index_count(generation, number)).delete(keys::index_size(generation, number));
            self.shared.store.commit(txn.relaxed()).await?;
            return self.finish_with(found, &table).await;
        }
        self.done += page.entries.len();
        let txn = page.entries.into_iter().fold(Txn::new(), |txn, entry| txn.delete(entry.key));
        self.shared.store.commit(txn.relaxed()).await?;
        Ok(true)
    }
}

/// Writes that add the entries of these items to an index where they are missing, and how many these are.
async fn entries_of(snapshot: &dyn Snapshot, found: &Found, index: &Index, items: &[Entry]) -> Result<(Txn, usize)> {
    let table = &found.table;
    let mut txn = found.expect(Txn::new());
    let (mut count, mut bytes) = (0usize, 0usize);
    for stored in items {
        let item = item::decode(&stored.value).ok_or(Error::Corrupt("item"))?;
        let Some(entry) = index.entry(table, &item) else { continue };
        if snapshot.get(&entry.key).await?.is_some() {
            continue;
        }
        count += 1;
        bytes += entry.size;
        txn = txn.expect_version(stored.key.clone(), stored.version).expect_absent(entry.key.clone());
        txn = txn.put(entry.key, entry.value);
    }
    let number = |size: usize| i64::try_from(size).unwrap_or(i64::MAX);
    let (generation, index) = (table.generation, index.number);
    txn = txn.add(keys::index_count(generation, index), number(count));
    txn = txn.add(keys::index_size(generation, index), number(bytes));
    Ok((txn, count))
}
