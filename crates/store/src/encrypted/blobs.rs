//! Blobs whose content is encrypted, chunk by chunk.
//!
//! | bytes       | are                                                                    |
//! |-------------|------------------------------------------------------------------------|
//! | 8           | `dunsecr1`                                                             |
//! | 4           | which data key (little-endian)                                         |
//! | 32          | random; makes the key of this blob                                     |
//! | 65,552 each | 65,536 bytes encrypted, with their tag; the last chunk may be shorter  |
//!
//! There is always a last chunk, if need be an empty one, and it says that it is the last: so nothing can be cut off.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use base::Random;
use bytes::{Bytes, BytesMut};
use ring::aead::{Aad, LessSafeKey, Nonce};

use super::keyring::KeyRing;
use super::sealing::{TAG_BYTES, broken};
use crate::blobs::{self, BlobInfo, BlobReader, BlobWriter, Blobs, Names, check_blob_name};
use crate::contract::Error;

const MAGIC: &[u8; 8] = b"dunsecr1";
const SALT_BYTES: usize = 32;
const HEADER_BYTES: usize = MAGIC.len() + 4 + SALT_BYTES;
const CHUNK_BYTES: usize = 64 * 1024;
const SEALED_BYTES: usize = CHUNK_BYTES + TAG_BYTES;

/// Blobs over others.
pub struct EncryptedBlobs {
    inner: Arc<dyn Blobs>,
    ring: Arc<KeyRing>,
    random: Arc<dyn Random>,
}

impl EncryptedBlobs {
    /// Encrypts what is put into `inner` with the keys of a store's ring.
    pub fn new(inner: Arc<dyn Blobs>, ring: Arc<KeyRing>, random: Arc<dyn Random>) -> Self {
        Self { inner, ring, random }
    }
}

/// Places of chunks within a sealed blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layout {
    chunks: u64,
    /// Length of the content.
    bytes: u64,
}

impl Layout {
    /// Of a sealed blob of this length; nothing if none has it.
    fn of_sealed(sealed: u64) -> Option<Self> {
        let body = sealed.checked_sub(HEADER_BYTES as u64)?;
        let chunks = body.div_ceil(SEALED_BYTES as u64);
        let bytes = body.checked_sub(chunks * TAG_BYTES as u64)?;
        let whole = chunks == bytes.div_ceil(CHUNK_BYTES as u64).max(1);
        whole.then_some(Self { chunks, bytes })
    }
}

fn nonce(chunk: u64, last: bool) -> Nonce {
    let mut nonce = [0; 12];
    nonce[0] = u8::from(last);
    nonce[4..].copy_from_slice(&chunk.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

#[async_trait]
impl Blobs for EncryptedBlobs {
    async fn write(&self, name: &str) -> Result<Box<dyn BlobWriter>, Error> {
        check_blob_name(name)?;
        let mut salt = [0; SALT_BYTES];
        self.random.fill(&mut salt);
        let key = self.ring.active()?;
        let cipher = key.cipher("blob", &salt)?;
        let mut inner = self.inner.write(name).await?;
        inner.push([&MAGIC[..], &key.id.to_le_bytes(), &salt].concat().into()).await?;
        Ok(Box::new(Writer { inner, cipher, name: name.to_owned(), chunk: 0, rest: BytesMut::new() }))
    }

    async fn read(&self, name: &str, range: Range<u64>) -> Result<Option<Box<dyn BlobReader>>, Error> {
        let Some(info) = self.inner.info(name).await? else { return Ok(None) };
        let layout = Layout::of_sealed(info.bytes).ok_or_else(|| damaged(name))?;
        let Some(mut header) = self.inner.read(name, 0..HEADER_BYTES as u64).await? else { return Ok(None) };
        let header = blobs::collect(&mut *header).await?;
        let rest = header.strip_prefix(MAGIC).ok_or_else(|| damaged(name))?;
        let (id, salt) = rest.split_first_chunk().ok_or_else(|| damaged(name))?;
        let key = self.ring.key(u32::from_le_bytes(*id)).ok_or_else(|| damaged(name))?;
        let cipher = key.cipher("blob", salt)?;
        let end = range.end.min(layout.bytes);
        // An empty range reads the first chunk it would begin with, and throws it away: it still must be right.
        let first = (range.start.min(end) / CHUNK_BYTES as u64).min(layout.chunks - 1);
        let last = end.saturating_sub(1).max(first * CHUNK_BYTES as u64) / CHUNK_BYTES as u64;
        let place = |chunk: u64| HEADER_BYTES as u64 + chunk * SEALED_BYTES as u64;
        let Some(inner) = self.inner.read(name, place(first)..place(last + 1)).await? else { return Ok(None) };
        Ok(Some(Box::new(Reader {
            inner,
            cipher,
            name: name.to_owned(),
            layout,
            chunk: first,
            last,
            wanted: range.start.min(end)..end,
            rest: BytesMut::new(),
        })))
    }

    /// The digest is that of the encrypted content: two blobs of one content differ.
    async fn info(&self, name: &str) -> Result<Option<BlobInfo>, Error> {
        let Some(info) = self.inner.info(name).await? else { return Ok(None) };
        let layout = Layout::of_sealed(info.bytes).ok_or_else(|| damaged(name))?;
        Ok(Some(BlobInfo { bytes: layout.bytes, ..info }))
    }

    async fn delete(&self, name: &str) -> Result<(), Error> {
        self.inner.delete(name).await
    }

    async fn names(&self, prefix: &str, after: Option<&str>, rows: usize) -> Result<Names, Error> {
        self.inner.names(prefix, after, rows).await
    }
}

struct Writer {
    inner: Box<dyn BlobWriter>,
    cipher: LessSafeKey,
    name: String,
    chunk: u64,
    rest: BytesMut,
}

impl Writer {
    async fn seal(&mut self, chunk: BytesMut, last: bool) -> Result<(), Error> {
        let mut sealed = chunk;
        let aad = Aad::from(self.name.as_bytes());
        let tag = self.cipher.seal_in_place_separate_tag(nonce(self.chunk, last), aad, &mut sealed);
        sealed.extend_from_slice(tag.map_err(|_| broken())?.as_ref());
        self.chunk += 1;
        self.inner.push(sealed.freeze()).await
    }
}

#[async_trait]
impl BlobWriter for Writer {
    async fn push(&mut self, piece: Bytes) -> Result<(), Error> {
        self.rest.extend_from_slice(&piece);
        // What may be the last chunk is kept until it is known.
        while self.rest.len() > CHUNK_BYTES {
            let chunk = self.rest.split_to(CHUNK_BYTES);
            self.seal(chunk, false).await?;
        }
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<(), Error> {
        let chunk = std::mem::take(&mut self.rest);
        self.seal(chunk, true).await?;
        self.inner.finish().await
    }
}

struct Reader {
    inner: Box<dyn BlobReader>,
    cipher: LessSafeKey,
    name: String,
    layout: Layout,
    /// The next one.
    chunk: u64,
    /// The last one that is wanted.
    last: u64,
    /// Places in the content.
    wanted: Range<u64>,
    /// Sealed bytes that are not opened yet.
    rest: BytesMut,
}

#[async_trait]
impl BlobReader for Reader {
    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        while self.chunk <= self.last {
            while self.rest.len() < SEALED_BYTES {
                let Some(piece) = self.inner.next().await? else { break };
                self.rest.extend_from_slice(&piece);
            }
            let mut chunk = self.rest.split_to(self.rest.len().min(SEALED_BYTES));
            let (number, last) = (self.chunk, self.chunk + 1 == self.layout.chunks);
            let aad = Aad::from(self.name.as_bytes());
            let opened = self.cipher.open_in_place(nonce(number, last), aad, &mut chunk);
            let length = opened.map_err(|_| damaged(&self.name))?.len();
            self.chunk += 1;
            let begin = number * CHUNK_BYTES as u64;
            // Within the chunk, so it fits.
            let cut = |place: u64| place.saturating_sub(begin).min(length as u64) as usize;
            let (from, to) = (cut(self.wanted.start), cut(self.wanted.end));
            if from < to {
                return Ok(Some(chunk.freeze().slice(from..to)));
            }
        }
        Ok(None)
    }
}

fn damaged(name: &str) -> Error {
    Error::Corrupt(format!("the blob {name} cannot be decrypted"))
}
