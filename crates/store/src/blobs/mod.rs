//! Bytes beside the keys: written once under a name, never changed, streamed in pieces both ways.
//!
//! | engine        | is for                                                                      |
//! |---------------|-----------------------------------------------------------------------------|
//! | `FileBlobs`   | a folder of this machine                                                    |
//! | `BucketBlobs` | an S3-compatible bucket (cargo feature `bucket`)                            |
//! | `PostgresBlobs` | the database of a `postgres` store                                                |
//! | `MemoryBlobs` | tests                                                                       |
//!
//! Every engine keeps a checksum for each chunk of 256 KiB, so that a part of a blob is verified without reading the
//! rest, and one digest over name, length and those checksums (`chunks`). Memory for one stream is about a megabyte and
//! 32 bytes a chunk, whatever the blob's length.
//!
//! Invariants of every engine
//!   1. A blob is there whole or not at all; the first that is finished under a name stands.
//!   2. `finish` returns when the blob is on disk. A writer that is dropped before leaves nothing.
//!   3. No byte is given out whose checksum is wrong.
//!
//! Which blobs are still wanted is not known here: see `references`.

#[cfg(feature = "bucket")]
mod bucket;
mod chunks;
mod files;
mod memory;
mod postgres;

use std::ops::Range;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};

#[cfg(feature = "bucket")]
pub use self::bucket::{BucketBlobs, BucketConfig};
pub use self::chunks::CHUNK_BYTES;
pub use self::files::FileBlobs;
pub use self::memory::MemoryBlobs;
pub use self::postgres::PostgresBlobs;
use crate::contract::Error;

/// Most bytes of a blob's name.
pub const BLOB_NAME_BYTES_MAX: usize = 1_024;
/// All of a blob, as a range.
pub const WHOLE: Range<u64> = 0..u64::MAX;
/// So many names are asked for at once where all of them are wanted.
const LIST_ROWS: usize = 1_000;

/// What is known of a blob without its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobInfo {
    /// Length of the content.
    pub bytes: u64,
    /// Names content and name together: equal only for blobs that are equal in both.
    pub digest: [u8; 32],
}

/// A part of a list of names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// In order.
    pub names: Vec<String>,
    /// Whether there are more beyond the last.
    pub more: bool,
}

/// A place for blobs. Names are those that `check_blob_name` accepts; every call with another one is `Error::Invalid`.
#[async_trait]
pub trait Blobs: Send + Sync + 'static {
    /// Begins a blob.
    async fn write(&self, name: &str) -> Result<Box<dyn BlobWriter>, Error>;

    /// The content from `range.start` up to `range.end`, as far as the blob goes; nothing if there is no such blob.
    async fn read(&self, name: &str, range: Range<u64>) -> Result<Option<Box<dyn BlobReader>>, Error>;

    /// Length and digest of a blob; nothing if there is none.
    async fn info(&self, name: &str) -> Result<Option<BlobInfo>, Error>;

    /// Removes a blob, if it exists. Readers that have begun may go on or fail.
    async fn delete(&self, name: &str) -> Result<(), Error>;

    /// At most `rows` names under `prefix`, sorted, beyond `after`.
    async fn names(&self, prefix: &str, after: Option<&str>, rows: usize) -> Result<Names, Error>;

    /// Keeps `content` under `name`; on disk when this returns. A blob of that name is left as it is.
    async fn put(&self, name: &str, content: Bytes) -> Result<(), Error> {
        let mut writer = self.write(name).await?;
        writer.push(content).await?;
        writer.finish().await
    }

    /// The whole content in memory: for what is known to be small.
    async fn get(&self, name: &str) -> Result<Option<Bytes>, Error> {
        match self.read(name, WHOLE).await? {
            Some(mut reader) => Ok(Some(collect(&mut *reader).await?)),
            None => Ok(None),
        }
    }

    /// All names under a prefix, sorted.
    async fn list(&self, prefix: &str) -> Result<Vec<String>, Error> {
        let mut all: Vec<String> = Vec::new();
        loop {
            let page = self.names(prefix, all.last().map(String::as_str), LIST_ROWS).await?;
            all.extend(page.names);
            if !page.more {
                return Ok(all);
            }
        }
    }
}

/// A blob that is being written. Dropped before `finish`, it leaves nothing.
#[async_trait]
pub trait BlobWriter: Send {
    /// Adds a piece, of any length. After an error nothing more may be added.
    async fn push(&mut self, piece: Bytes) -> Result<(), Error>;

    /// Makes the blob known, unless one of its name is; on disk when this returns.
    async fn finish(self: Box<Self>) -> Result<(), Error>;
}

/// Content that is being read.
#[async_trait]
pub trait BlobReader: Send {
    /// The next piece, its checksum verified, at most a few chunks long; nothing at the end. After an error nothing
    /// more can be read.
    async fn next(&mut self) -> Result<Option<Bytes>, Error>;
}

/// Reads to the end, into memory.
pub async fn collect(reader: &mut dyn BlobReader) -> Result<Bytes, Error> {
    let Some(first) = reader.next().await? else { return Ok(Bytes::new()) };
    let Some(second) = reader.next().await? else { return Ok(first) };
    let mut all = BytesMut::from(&first[..]);
    all.extend_from_slice(&second);
    while let Some(piece) = reader.next().await? {
        all.extend_from_slice(&piece);
    }
    Ok(all.freeze())
}

/// Refuses what is not a blob's name: `[a-z0-9/._-]`, at most 1,024 bytes, in segments of 1 to 250 bytes that do not
/// begin with a dot.
pub fn check_blob_name(name: &str) -> Result<(), Error> {
    let letters = name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'/' | b'.' | b'_' | b'-'));
    let segments = name.split('/').all(|segment| (1..=250).contains(&segment.len()) && !segment.starts_with('.'));
    if letters && segments && name.len() <= BLOB_NAME_BYTES_MAX {
        return Ok(());
    }
    Err(Error::Invalid(format!("{name:?} is not a name of a blob")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_blobs_cannot_climb() {
        for name in ["a", "code/ab/cd.zip", "a-b_c.9"] {
            assert!(check_blob_name(name).is_ok(), "{name}");
        }
        for name in ["", "/", "a/", "/a", "a//b", "..", "a/../b", ".tmp/x", "A", "a b", "a~", &"a".repeat(251)] {
            assert!(check_blob_name(name).is_err(), "{name}");
        }
    }
}
