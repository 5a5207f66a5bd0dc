//! Dunlin's embedded engine, called through its contract.

use std::ops::Bound;
use std::path::Path;

use base::SystemClock;
use bytes::Bytes;
use store::{Embedded, EmbeddedConfig, Error, Range, Store, Txn, embedded};

use crate::subject::{Commit, Failure, Found, Row, Subject};

pub struct Dunlin {
    store: Embedded,
}

impl Dunlin {
    pub fn open(folder: &Path) -> Result<Self, Failure> {
        Ok(Self { store: embedded::open(EmbeddedConfig::new(folder, SystemClock::shared()))? })
    }
}

impl Subject for Dunlin {
    async fn commit(&self, commit: Commit) -> Result<bool, Failure> {
        let txn = match commit.expect {
            Some((key, Some(version))) => Txn::new().expect_version(key, version),
            Some((key, None)) => Txn::new().expect_absent(key),
            None => Txn::new(),
        };
        let txn = commit.puts.into_iter().fold(txn, |txn, (key, value)| txn.put(key, value));
        let txn = commit.deletes.into_iter().fold(txn, Txn::delete);
        match self.store.commit(txn).await {
            Ok(_) => Ok(true),
            Err(Error::Conflict) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    async fn get(&self, key: &[u8]) -> Result<Found, Failure> {
        Ok(self.store.get(key).await?.map(|entry| (entry.version, entry.value)))
    }

    async fn range(&self, start: Bytes, end: Bytes, rows: usize) -> Result<Vec<Row>, Failure> {
        let range = Range { start: Bound::Included(start), ..Range::between(Bytes::new(), end) }.rows(rows);
        let page = self.store.range(&range).await?;
        Ok(page.entries.into_iter().map(|entry| (entry.key, entry.value)).collect())
    }

    async fn close(&self) -> Result<(), Failure> {
        Ok(self.store.close().await?)
    }
}
