//! A store of this process as a source.

use std::ops::Range as Places;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::{BlobPage, KeyPage, PAGE_BYTES, PAGE_ROWS, Source, UNFINISHED, check_finished};
use crate::blobs::{self, Blobs};
use crate::contract::{Error, Range, Snapshot, Store, Version};

/// Blobs listed at once: each of them is opened.
const BLOB_ROWS: usize = 200;

/// One state of a store, with its blobs.
pub struct Local<'a> {
    store: &'a dyn Store,
    blobs: &'a dyn Blobs,
    /// None: the store stands still, and each page is read from a snapshot of its own.
    snapshot: Option<Arc<dyn Snapshot>>,
    version: Version,
}

impl<'a> Local<'a> {
    /// The state as it is now, of a store that others go on writing, for `life_ms` milliseconds.
    pub async fn of_now(store: &'a dyn Store, blobs: &'a dyn Blobs, life_ms: u64) -> Result<Self, Error> {
        check_finished(store).await?;
        Ok(Self::of_snapshot(store, blobs, store.long_snapshot(life_ms).await?.into()))
    }

    /// The state of a snapshot that the caller made.
    pub fn of_snapshot(store: &'a dyn Store, blobs: &'a dyn Blobs, snapshot: Arc<dyn Snapshot>) -> Self {
        Self { store, blobs, version: snapshot.version(), snapshot: Some(snapshot) }
    }

    /// A store that nobody writes: a commit meanwhile ends the reading.
    pub async fn at_rest(store: &'a dyn Store, blobs: &'a dyn Blobs) -> Result<Self, Error> {
        check_finished(store).await?;
        Self::filled(store, blobs).await
    }

    /// The same, also of a store that is not finished.
    pub(super) async fn filled(store: &'a dyn Store, blobs: &'a dyn Blobs) -> Result<Self, Error> {
        let version = store.snapshot().await?.version();
        Ok(Self { store, blobs, snapshot: None, version })
    }

    async fn range(&self, range: &Range) -> Result<crate::contract::Page, Error> {
        if let Some(snapshot) = &self.snapshot {
            return snapshot.range(range).await;
        }
        let snapshot = self.store.snapshot().await?;
        if snapshot.version() != self.version {
            return Err(Error::Invalid("the store was written while it was read".into()));
        }
        snapshot.range(range).await
    }
}

#[async_trait]
impl Source for Local<'_> {
    fn version(&self) -> Version {
        self.version
    }

    async fn keys(&mut self, after: Option<&Bytes>) -> Result<KeyPage, Error> {
        let range = Range::prefix("").rows(PAGE_ROWS).bytes(PAGE_BYTES);
        let range = match after {
            Some(after) => range.beyond(after.clone()),
            None => range,
        };
        let mut page = self.range(&range).await?;
        // Not part of what the store holds. It may be all that a page has: then nothing lies beyond it either, or the
        // page after it is asked for here.
        while page.more && page.entries.iter().all(|entry| entry.key == UNFINISHED) {
            page = self.range(&range.clone().beyond(UNFINISHED)).await?;
        }
        let more = page.more;
        let entries = page.entries.into_iter().filter(|entry| entry.key != UNFINISHED);
        Ok(KeyPage { entries: entries.map(|entry| (entry.key, entry.value)).collect(), more })
    }

    async fn blobs(&mut self, after: Option<&str>) -> Result<BlobPage, Error> {
        let names = self.blobs.names("", after, BLOB_ROWS).await?;
        let mut page = BlobPage { blobs: Vec::new(), more: names.more };
        for name in names.names {
            // One that went meanwhile is not missed: what the state refers to stays.
            if let Some(info) = self.blobs.info(&name).await? {
                page.blobs.push((name, info));
            }
        }
        Ok(page)
    }

    async fn blob(&mut self, name: &str, places: Places<u64>) -> Result<Option<Bytes>, Error> {
        match self.blobs.read(name, places).await? {
            Some(mut reader) => Ok(Some(blobs::collect(&mut *reader).await?)),
            None => Ok(None),
        }
    }
}
