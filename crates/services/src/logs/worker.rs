//! What happens without a call: events past their retention go, and so does what deleted groups and streams left.
//!
//! Every step is an idempotent commit, so any node may do it, twice too; except the count of stored bytes, which is
//! changed in the commit that removes a chunk, under the expectation that the chunk is still there.

use std::time::Duration;

use store::{Entry, Range, Txn};

use super::chunk::Chunk;
use super::groups::{Group, decode};
use super::{Error, Logs, keys};

/// Between two rounds.
pub(super) const EVERY: Duration = Duration::from_secs(600);
const DAY_MS: u64 = 24 * 3_600_000;
const ROWS: usize = 200;
const BYTES: usize = 4 * 1024 * 1024;

impl Logs {
    /// One round: retention of all groups, then what was deleted.
    pub(super) async fn housekeeping(&self) -> Result<(), Error> {
        let now_ms = self.clock.now_ms();
        let mut range = Range::prefix(keys::all_groups()).rows(ROWS);
        loop {
            let page = self.store.range(&range).await?;
            for entry in &page.entries {
                let group: Group = decode(entry)?;
                if let Some(days) = group.retention_days {
                    let border_ms = now_ms.saturating_sub(u64::from(days) * DAY_MS);
                    let old = Range::between(keys::chunks(group.id), keys::chunks_at(group.id, border_ms));
                    self.remove_chunks(group.id, old).await?;
                }
            }
            match page.entries.last() {
                Some(last) if page.more => range = range.beyond(last.key.clone()),
                _ => break,
            }
        }
        for dead in [keys::dead_groups(), keys::dead_streams()] {
            for entry in self.store.range(&Range::prefix(dead).rows(ROWS)).await?.entries {
                match keys::dead_ids(&entry.key).ok_or_else(|| Error::Damaged("a deleted group's key".into()))? {
                    (group, None) => self.remove_group(group).await?,
                    (group, Some(stream)) => self.remove_stream(group, stream).await?,
                }
            }
        }
        Ok(())
    }

    async fn remove_group(&self, group: u64) -> Result<(), Error> {
        for prefix in [keys::chunks(group), keys::group_index(group), keys::streams(group).done()] {
            loop {
                let page = self.store.range(&Range::prefix(prefix.clone()).rows(ROWS).bytes(BYTES)).await?;
                if page.entries.is_empty() {
                    break;
                }
                let txn = page.entries.into_iter().fold(Txn::new().relaxed(), |txn, entry| txn.delete(entry.key));
                self.store.commit(txn).await?;
            }
        }
        let txn = Txn::new().relaxed().delete(keys::stored_bytes(group)).delete(keys::dead_group(group));
        self.store.commit(txn).await?;
        Ok(())
    }

    /// Removes a deleted stream's chunks and the note that it was deleted.
    pub(super) async fn remove_stream(&self, group: u64, stream: u64) -> Result<(), Error> {
        loop {
            let page = self.store.range(&Range::prefix(keys::index(group, stream)).rows(ROWS)).await?;
            if page.entries.is_empty() {
                break;
            }
            for entry in page.entries {
                let place = keys::place_of_index(&entry.key).ok_or_else(|| Error::Damaged("a chunk's key".into()))?;
                match self.store.get(&keys::chunk(group, place)).await? {
                    Some(chunk) => self.remove_chunk(group, chunk).await?,
                    None => {
                        self.store.commit(Txn::new().relaxed().delete(entry.key)).await?;
                    }
                }
            }
        }
        self.store.commit(Txn::new().delete(keys::dead_stream(group, stream))).await?;
        Ok(())
    }

    async fn remove_chunks(&self, group: u64, range: Range) -> Result<(), Error> {
        let mut range = range.rows(ROWS).bytes(BYTES);
        loop {
            let page = self.store.range(&range).await?;
            let last = page.entries.last().map(|entry| entry.key.clone());
            for entry in page.entries {
                self.remove_chunk(group, entry).await?;
            }
            match last {
                Some(last) if page.more => range = range.beyond(last),
                _ => return Ok(()),
            }
        }
    }

    async fn remove_chunk(&self, group: u64, entry: Entry) -> Result<(), Error> {
        let place = keys::place_of_chunk(&entry.key).ok_or_else(|| Error::Damaged("a chunk's key".into()))?;
        let chunk: Chunk = decode(&entry)?;
        let bytes = i64::try_from(chunk.bytes()).unwrap_or(i64::MAX);
        let txn = Txn::new()
            .expect_version(entry.key.clone(), entry.version)
            .delete(entry.key)
            .delete(keys::index_entry(group, chunk.stream_id, place))
            .add(keys::stored_bytes(group), -bytes)
            .relaxed();
        match self.store.commit(txn).await {
            // Somebody else removed it.
            Ok(_) | Err(store::Error::Conflict) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
