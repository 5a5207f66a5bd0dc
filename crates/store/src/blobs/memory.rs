//! Blobs in memory: the model that the other engines are compared with, and what tests stand on.

use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

use super::chunks::{CHUNK_BYTES, Summing};
use super::{BlobInfo, BlobReader, BlobWriter, Blobs, Names, check_blob_name};
use crate::contract::Error;

type Map = BTreeMap<String, (Bytes, BlobInfo)>;

/// Blobs in memory.
#[derive(Debug, Default)]
pub struct MemoryBlobs {
    blobs: Arc<Mutex<Map>>,
}

impl MemoryBlobs {
    /// No blobs yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// No blobs yet, shared.
    pub fn shared() -> Arc<dyn Blobs> {
        Arc::new(Self::new())
    }
}

#[async_trait]
impl Blobs for MemoryBlobs {
    async fn write(&self, name: &str) -> Result<Box<dyn BlobWriter>, Error> {
        check_blob_name(name)?;
        Ok(Box::new(Writer { blobs: Arc::clone(&self.blobs), name: name.to_owned(), content: BytesMut::new() }))
    }

    async fn read(&self, name: &str, range: Range<u64>) -> Result<Option<Box<dyn BlobReader>>, Error> {
        check_blob_name(name)?;
        let Some((content, info)) = self.blobs.lock().get(name).cloned() else { return Ok(None) };
        // No longer than the content, which has a length that fits.
        let at = |place: u64| place.min(info.bytes) as usize;
        let rest = content.slice(at(range.start)..at(range.end).max(at(range.start)));
        Ok(Some(Box::new(Reader { rest })))
    }

    async fn info(&self, name: &str) -> Result<Option<BlobInfo>, Error> {
        check_blob_name(name)?;
        Ok(self.blobs.lock().get(name).map(|(_, info)| *info))
    }

    async fn delete(&self, name: &str) -> Result<(), Error> {
        check_blob_name(name)?;
        self.blobs.lock().remove(name);
        Ok(())
    }

    async fn names(&self, prefix: &str, after: Option<&str>, rows: usize) -> Result<Names, Error> {
        let blobs = self.blobs.lock();
        let start = match after.filter(|after| *after >= prefix) {
            Some(after) => Bound::Excluded(after.to_owned()),
            None => Bound::Included(prefix.to_owned()),
        };
        let found = blobs.range((start, Bound::Unbounded)).map(|(name, _)| name);
        let mut found = found.take_while(|name| name.starts_with(prefix));
        let names = found.by_ref().take(rows).cloned().collect();
        Ok(Names { names, more: found.next().is_some() })
    }
}

struct Writer {
    blobs: Arc<Mutex<Map>>,
    name: String,
    content: BytesMut,
}

#[async_trait]
impl BlobWriter for Writer {
    async fn push(&mut self, piece: Bytes) -> Result<(), Error> {
        self.content.extend_from_slice(&piece);
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<(), Error> {
        let mut summing = Summing::default();
        summing.push(&self.content);
        let info = summing.done().info(&self.name);
        self.blobs.lock().entry(self.name).or_insert((self.content.freeze(), info));
        Ok(())
    }
}

struct Reader {
    rest: Bytes,
}

#[async_trait]
impl BlobReader for Reader {
    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let piece = self.rest.split_to(self.rest.len().min(CHUNK_BYTES));
        Ok((!piece.is_empty()).then_some(piece))
    }
}
