//! What the ledger forgets: single records after `KEPT_MS`. Sums stay for ever.
//!
//! Sums lie in the order of hours, so they tell which functions have records of an old hour. Work is done in steps, since
//! folding must not wait for it: a step removes a bounded number of chunks and says whether more are left.
//!
//! Invariants
//!   1. Records of an hour go only when the whole hour is past, and only after `kept_from` says so on disk: from then on
//!      a bill counts such an hour by its sums.
//!   2. No hour from `clean_below` on is passed over; a crash repeats work and does no harm.

use serde::{Deserialize, Serialize};
use store::{Entry, Range, Txn};

use super::keys::{self, Field, HOUR_MS};
use super::ring::FORMAT;
use super::{Error, Usage};

/// How long single records are kept: 90 days.
pub const KEPT_MS: u64 = 90 * 24 * HOUR_MS;
/// Most chunks of one step.
const STEP_CHUNKS: usize = 2_000;
const PAGE_ROWS: usize = 500;
const PAGE_BYTES: usize = 4 * 1024 * 1024;

/// How far forgetting has come, in hours since the epoch.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    /// Earlier hours may lack records.
    kept_from: u64,
    /// Earlier hours have none.
    clean_below: u64,
}

impl Usage {
    /// Does a step of forgetting; true if there is more to do now.
    pub async fn prune(&self) -> Result<bool, Error> {
        let border = self.clock.now_ms().saturating_sub(KEPT_MS) / HOUR_MS;
        let mut mark = self.mark().await?;
        if mark.kept_from < border {
            mark.kept_from = border;
            self.put_mark(mark, Txn::new()).await?;
        }
        if mark.clean_below >= border {
            return Ok(false);
        }
        let mut room = STEP_CHUNKS;
        let mut range = Range::between(keys::hour_sums(mark.clean_below), keys::hour_sums(border))
            .rows(PAGE_ROWS)
            .bytes(PAGE_BYTES);
        loop {
            let page = self.store.range(&range).await?;
            for entry in &page.entries {
                let damaged = || Error::Damaged("a sum".into());
                let (hour, function, field) = keys::parse_sum(&entry.key).ok_or_else(damaged)?;
                mark.clean_below = hour;
                if field == Field::Requests
                    && !self.remove_records(keys::hour_records(&function, hour), &mut room).await?
                {
                    self.put_mark(mark, Txn::new().relaxed()).await?;
                    return Ok(true);
                }
            }
            match page.entries.last() {
                Some(last) if page.more => range = range.beyond(last.key.clone()),
                _ => break,
            }
        }
        mark.clean_below = border;
        self.put_mark(mark, Txn::new().relaxed()).await?;
        Ok(false)
    }

    /// Removes the chunks under a prefix; false if `room` ended before them.
    async fn remove_records(&self, prefix: bytes::Bytes, room: &mut usize) -> Result<bool, Error> {
        loop {
            let range = Range::prefix(prefix.clone()).rows(PAGE_ROWS.min(*room)).bytes(PAGE_BYTES);
            let page = self.store.range(&range).await?;
            *room -= page.entries.len();
            if !page.entries.is_empty() {
                let txn = page.entries.into_iter().fold(Txn::new().relaxed(), |txn, entry| txn.delete(entry.key));
                self.store.commit(txn).await?;
            }
            if !page.more {
                return Ok(true);
            }
            if *room == 0 {
                return Ok(false);
            }
        }
    }

    /// The first hour that surely has all of its records.
    pub(super) async fn kept_from(&self) -> Result<u64, Error> {
        Ok(self.mark().await?.kept_from)
    }

    async fn mark(&self) -> Result<Mark, Error> {
        let read = |entry: Entry| -> Option<Mark> { postcard::from_bytes(entry.value.strip_prefix(&[FORMAT])?).ok() };
        match self.store.get(&keys::pruned()).await? {
            None => Ok(Mark::default()),
            Some(entry) => read(entry).ok_or_else(|| Error::Damaged("the mark of forgotten hours".into())),
        }
    }

    async fn put_mark(&self, mark: Mark, txn: Txn) -> Result<(), Error> {
        let value = postcard::to_extend(&mark, vec![FORMAT]).map_err(|error| Error::Damaged(error.to_string()))?;
        self.store.commit(txn.put(keys::pruned(), value)).await?;
        Ok(())
    }
}
