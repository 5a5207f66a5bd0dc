//! Blobs as objects of an S3-compatible bucket (cargo feature `bucket`).
//!
//! A blob is one object of its name below a prefix. The object is what a file of the file engine is: the content, then
//! its checksums (`chunks`). The protocol, its signatures and repetitions are `object_store`'s; its connections are ours
//! (`http`), so that no second HTTP client and no second TLS library come into the program.
//!
//! Invariants
//!   1. An object is there whole or not at all: the service makes it so.
//!   2. The first of two that are finished under a name stands, where the service knows conditional writes; longer ones,
//!      which go up in parts, look first. Names that are used once (`references`) do not come to this.
//!   3. No byte is given out whose checksum is wrong.

mod http;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path;
use object_store::{
    GetOptions, GetRange, MultipartUpload, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload,
};

use super::chunks::{self, CHUNK_BYTES, FOOTER_BYTES, Summing, Table};
use super::{BlobInfo, BlobReader, BlobWriter, Blobs, Names, check_blob_name};
use crate::contract::Error;

/// Longest content that goes up in one request, and the length of parts beyond; 10,000 of them are allowed.
const PART_BYTES: usize = 16 * 1024 * 1024;
/// The end of an object is read first: with the checksums of some hundred chunks.
const TAIL_BYTES: u64 = 16 * 1024;
/// About so much is read at once.
const GO_BYTES: u64 = 4 * CHUNK_BYTES as u64;

/// Where a bucket is.
#[derive(Debug, Clone, Default)]
pub struct BucketConfig {
    /// Name of the bucket.
    pub bucket: String,
    /// What names are put behind; without slashes at its ends, or empty.
    pub prefix: String,
    /// `https://s3.example.com`; none for that of AWS in the region.
    pub endpoint: Option<String>,
    /// Region that requests are signed for.
    pub region: String,
    /// Access key; none to ask the environment of the machine.
    pub key: Option<(String, String)>,
    /// Certificates (PEM) that the service's is checked against.
    pub roots_pem: String,
}

/// Blobs in a bucket.
#[derive(Clone)]
pub struct BucketBlobs {
    bucket: Arc<AmazonS3>,
    prefix: Path,
}

impl fmt::Debug for BucketBlobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BucketBlobs({}, {})", self.bucket, self.prefix)
    }
}

impl BucketBlobs {
    /// The blobs of a bucket. Sends nothing.
    ///
    /// # Errors
    /// `Invalid` if the settings are.
    pub fn new(config: &BucketConfig) -> Result<Self, Error> {
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&config.bucket)
            .with_region(&config.region)
            // One by one: not every service knows the removal of many.
            .with_disable_bulk_delete(true)
            .with_http_connector(http::Connector::new(&config.roots_pem)?);
        if let Some(endpoint) = &config.endpoint {
            builder = builder.with_endpoint(endpoint).with_allow_http(endpoint.starts_with("http://"));
        }
        if let Some((access, secret)) = &config.key {
            builder = builder.with_access_key_id(access).with_secret_access_key(secret);
        }
        let bucket = builder.build().map_err(|error| Error::Invalid(format!("the bucket: {error}")))?;
        let prefix = Path::parse(&config.prefix).map_err(|error| Error::Invalid(error.to_string()))?;
        Ok(Self { bucket: Arc::new(bucket), prefix })
    }

    fn path(&self, name: &str) -> Result<Path, Error> {
        check_blob_name(name)?;
        let full = if self.prefix.as_ref().is_empty() { name.to_owned() } else { format!("{}/{name}", self.prefix) };
        Path::parse(full).map_err(|error| Error::Invalid(error.to_string()))
    }

    /// The checksums of an object; nothing if there is none.
    async fn table(&self, name: &str) -> Result<Option<(Path, Table)>, Error> {
        let path = self.path(name)?;
        let options = GetOptions { range: Some(GetRange::Suffix(TAIL_BYTES)), ..GetOptions::default() };
        let found = match self.bucket.get_opts(&path, options).await {
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            found => found.map_err(|error| failed(&error))?,
        };
        let size = found.meta.size;
        let tail = found.bytes().await.map_err(|error| failed(&error))?;
        let footer = tail.len().checked_sub(FOOTER_BYTES).ok_or_else(|| damaged(name))?;
        let bytes = chunks::trailer_bytes(&tail[footer..], size).ok_or_else(|| damaged(name))?;
        let trailer = match (tail.len() as u64).checked_sub(bytes) {
            // It is no longer than what is here, so it fits.
            Some(at) => tail.slice(at as usize..),
            None => self.bucket.get_range(&path, size - bytes..size).await.map_err(|error| failed(&error))?,
        };
        let table = Table::of_trailer(name, &trailer).ok_or_else(|| damaged(name))?;
        Ok(Some((path, table)))
    }
}

#[async_trait]
impl Blobs for BucketBlobs {
    async fn write(&self, name: &str) -> Result<Box<dyn BlobWriter>, Error> {
        let path = self.path(name)?;
        Ok(Box::new(Writer {
            blobs: self.clone(),
            name: name.to_owned(),
            path,
            rest: BytesMut::new(),
            summing: Summing::default(),
            parts: None,
        }))
    }

    async fn read(&self, name: &str, range: Range<u64>) -> Result<Option<Box<dyn BlobReader>>, Error> {
        let Some((path, table)) = self.table(name).await? else { return Ok(None) };
        let end = range.end.min(table.bytes);
        let (bucket, name) = (Arc::clone(&self.bucket), name.to_owned());
        Ok(Some(Box::new(Reader { bucket, name, path, table, at: range.start, end })))
    }

    async fn info(&self, name: &str) -> Result<Option<BlobInfo>, Error> {
        Ok(self.table(name).await?.map(|(_, table)| table.info(name)))
    }

    async fn delete(&self, name: &str) -> Result<(), Error> {
        match self.bucket.delete(&self.path(name)?).await {
            Err(object_store::Error::NotFound { .. }) => Ok(()),
            done => done.map_err(|error| failed(&error)),
        }
    }

    async fn names(&self, prefix: &str, after: Option<&str>, rows: usize) -> Result<Names, Error> {
        // The service lists by whole segments here; what else the prefix asks is looked at below.
        let folder = prefix.rsplit_once('/').map_or("", |(folder, _)| folder);
        let within = [self.prefix.as_ref(), folder].iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>();
        let within = Path::from(within.join("/"));
        let mut listed = match after.filter(|after| check_blob_name(after).is_ok()) {
            Some(after) => self.bucket.list_with_offset(Some(&within), &self.path(after)?),
            None => self.bucket.list(Some(&within)),
        };
        let skipped = if self.prefix.as_ref().is_empty() { 0 } else { self.prefix.as_ref().len() + 1 };
        let mut found = Names::default();
        while let Some(object) = listed.next().await {
            let object = object.map_err(|error| failed(&error))?;
            let Some(name) = object.location.as_ref().get(skipped..) else { continue };
            if check_blob_name(name).is_err() || !name.starts_with(prefix) || after.is_some_and(|after| name <= after) {
                continue;
            }
            if found.names.len() == rows {
                found.more = true;
                break;
            }
            found.names.push(name.to_owned());
        }
        Ok(found)
    }
}

struct Writer {
    blobs: BucketBlobs,
    name: String,
    path: Path,
    rest: BytesMut,
    summing: Summing,
    /// Once it is too long for one request.
    parts: Option<Box<dyn MultipartUpload>>,
}

impl Writer {
    async fn put_part(&mut self, part: Bytes) -> Result<(), Error> {
        let parts = match &mut self.parts {
            Some(parts) => parts,
            None => {
                let begun = self.blobs.bucket.put_multipart(&self.path).await;
                self.parts.insert(begun.map_err(|error| failed(&error))?)
            }
        };
        parts.put_part(part.into()).await.map_err(|error| failed(&error))
    }
}

#[async_trait]
impl BlobWriter for Writer {
    async fn push(&mut self, piece: Bytes) -> Result<(), Error> {
        self.summing.push(&piece);
        self.rest.extend_from_slice(&piece);
        while self.rest.len() > PART_BYTES {
            let part = self.rest.split_to(PART_BYTES).freeze();
            self.put_part(part).await?;
        }
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<(), Error> {
        let table = std::mem::take(&mut self.summing).done();
        self.rest.extend_from_slice(&table.trailer(&self.name));
        let rest = std::mem::take(&mut self.rest).freeze();
        if self.parts.is_none() {
            let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            return match self.blobs.bucket.put_opts(&self.path, PutPayload::from(rest), options).await {
                Err(object_store::Error::AlreadyExists { .. }) => Ok(()),
                done => done.map(drop).map_err(|error| failed(&error)),
            };
        }
        if self.blobs.info(&self.name).await?.is_some() {
            // Dropping gives the parts up.
            return Ok(());
        }
        self.put_part(rest).await?;
        if let Some(mut parts) = self.parts.take() {
            parts.complete().await.map_err(|error| failed(&error))?;
        }
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let Some(mut parts) = self.parts.take() else { return };
        // Parts that nobody completes are paid for: they are given up, if there is still somebody to do it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Err(error) = parts.abort().await {
                    tracing::warn!(%error, "parts of a blob are left in the bucket");
                }
            });
        }
    }
}

struct Reader {
    bucket: Arc<AmazonS3>,
    name: String,
    path: Path,
    table: Table,
    at: u64,
    end: u64,
}

#[async_trait]
impl BlobReader for Reader {
    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        if self.at >= self.end {
            return Ok(None);
        }
        let chunk = CHUNK_BYTES as u64;
        let first = self.at / chunk;
        let until = self.end.min(first * chunk + GO_BYTES);
        let places = first * chunk..self.table.bytes.min(until.div_ceil(chunk) * chunk);
        let read = self.bucket.get_range(&self.path, places.clone()).await.map_err(|error| failed(&error))?;
        if read.len() as u64 != places.end - places.start {
            return Err(damaged(&self.name));
        }
        for (number, content) in read.chunks(CHUNK_BYTES).enumerate() {
            if !self.table.holds(first + number as u64, content) {
                return Err(damaged(&self.name));
            }
        }
        // Both lie within what was read, so they fit.
        let cut = (self.at - places.start) as usize..(until - places.start) as usize;
        self.at = until;
        Ok(Some(read.slice(cut)))
    }
}

fn damaged(name: &str) -> Error {
    Error::Corrupt(format!("the checksum of the blob {name} is wrong"))
}

fn failed(error: &object_store::Error) -> Error {
    Error::Io(format!("the bucket: {error}"))
}
