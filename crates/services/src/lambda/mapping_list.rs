//! Event source mappings in the store: looked up, changed, told to the engine, and settled when it says so.
//!
//! Invariants
//!   1. A function and a source have one mapping at most: it has a key of both.
//!   2. What the engine is told and what answers show is the same record.

use std::sync::Arc;
use std::time::Duration;

use aws::Error;
use bytes::Bytes;
use model::{MappingNews, Mappings};
use store::{Entry, Range, Txn};

use super::mapping::{MappingRecord, MappingRef};
use super::{ATTEMPTS, Functions, decoded, encoded, error, keys};

/// Records of one page.
const PAGE_ROWS: usize = 500;
/// How long to wait after the store failed.
const STORE_PAUSE: Duration = Duration::from_millis(500);

impl Functions {
    /// The record of a mapping that must be there.
    pub(super) async fn mapping(&self, mapping: &MappingRef) -> Result<MappingRecord, Error> {
        self.mapping_entry(mapping).await?.map(|(_, record)| record).ok_or_else(error::no_such_resource)
    }

    async fn mapping_entry(&self, mapping: &MappingRef) -> Result<Option<(Entry, MappingRecord)>, Error> {
        let entry = self.store.get(&keys::mapping(mapping)).await.map_err(error::store)?;
        let read = |entry: Entry| decoded(&entry.value).map(|record| (entry, record));
        entry.map(read).transpose()
    }

    /// Changes a mapping that must be there. `decide` changes the record and may add to the transaction; it runs again
    /// when another change came first.
    pub(super) async fn change_mapping(
        &self,
        mapping: &MappingRef,
        mut decide: impl FnMut(&mut MappingRecord, &mut Txn) -> Result<(), Error> + Send,
    ) -> Result<MappingRecord, Error> {
        let key = keys::mapping(mapping);
        for _ in 0..ATTEMPTS {
            let (entry, before) = self.mapping_entry(mapping).await?.ok_or_else(error::no_such_resource)?;
            let mut after = before.clone();
            let mut txn = Txn::new().expect_version(key.clone(), entry.version);
            decide(&mut after, &mut txn)?;
            if after != before {
                txn = txn.put(key.clone(), encoded(&after)?);
            }
            if txn.ops.is_empty() || self.committed_mapping(txn).await? {
                return Ok(after);
            }
        }
        Err(error::store(store::Error::Conflict))
    }

    /// Commits. False: another commit came first. What is remembered of functions is as true as before.
    pub(super) async fn committed_mapping(&self, txn: Txn) -> Result<bool, Error> {
        match self.store.commit(txn).await {
            Ok(_) => Ok(true),
            Err(store::Error::Conflict | store::Error::TooOld) => Ok(false),
            Err(other) => Err(error::store(other)),
        }
    }

    /// How the last batch of a mapping has ended, if one has.
    pub(super) async fn mapping_result(&self, mapping: &MappingRef) -> Result<Option<String>, Error> {
        let entry = self.store.get(&keys::mapping_result(mapping)).await.map_err(error::store)?;
        Ok(entry.map(|entry| String::from_utf8_lossy(&entry.value).into_owned()))
    }

    /// The mappings of all accounts, as soon as they are other than `known`.
    pub(super) async fn mappings_other_than(&self, known: &Mappings) -> Mappings {
        let mut watch = self.store.watch(&keys::mappings());
        loop {
            match self.all_mappings().await {
                Ok(found) if found != *known => return found,
                Ok(_) => watch.changed().await,
                Err(problem) => {
                    tracing::warn!(%problem, "event source mappings cannot be listed; trying again");
                    tokio::time::sleep(STORE_PAUSE).await;
                }
            }
        }
    }

    /// The mappings of all accounts.
    pub(super) async fn all_mappings(&self) -> Result<Mappings, Error> {
        let mut range = Range::prefix(keys::mappings()).rows(PAGE_ROWS);
        let mut found = Mappings::new();
        loop {
            let page = self.store.range(&range).await.map_err(error::store)?;
            for entry in &page.entries {
                let Some(mapping) = keys::mapping_of(&entry.key) else { continue };
                let record: MappingRecord = decoded(&entry.value)?;
                found.insert(mapping.arn(), Arc::new(record.for_poller(&mapping)));
            }
            match page.entries.last() {
                Some(last) if page.more => range = range.beyond(last.key.clone()),
                _ => return Ok(found),
            }
        }
    }

    /// Takes note of what a poller tells.
    pub(super) async fn heard(&self, news: MappingNews) -> Result<(), Error> {
        match news {
            MappingNews::Settled { arn, revision } => match MappingRef::parse_arn(&arn) {
                Some(mapping) => self.settle(&mapping, revision).await,
                None => Ok(()),
            },
            MappingNews::Result { arn, words } => {
                let Some(mapping) = MappingRef::parse_arn(&arn) else { return Ok(()) };
                let key = keys::mapping_result(&mapping);
                let txn = Txn::new().relaxed().expect_present(keys::mapping(&mapping)).put(key, Bytes::from(words));
                // A mapping that is gone has no results.
                self.committed_mapping(txn).await.map(drop)
            }
        }
    }

    async fn settle(&self, mapping: &MappingRef, revision: u64) -> Result<(), Error> {
        let key = keys::mapping(mapping);
        for _ in 0..ATTEMPTS {
            let Some((entry, before)) = self.mapping_entry(mapping).await? else { return Ok(()) };
            let txn = Txn::new().expect_version(key.clone(), entry.version);
            let txn = match before.settled(revision) {
                Some(after) if after == before => return Ok(()),
                Some(after) => txn.put(key.clone(), encoded(&after)?),
                None => {
                    let pair = keys::mapping_pair(mapping, &before.source, &before.function);
                    txn.delete(key.clone()).delete(pair).delete(keys::mapping_result(mapping))
                }
            };
            if self.committed_mapping(txn).await? {
                return Ok(());
            }
        }
        Err(error::store(store::Error::Conflict))
    }
}
