//! Everything that a store holds, from one place to another: backups, restores, moves between engines.
//!
//! ```text
//! Source:  Local (a Store and its Blobs) ──┐            ┌──► Repository::back_up   (a folder of backups)
//!          a server's admin interface ─────┼──► pages ──┤
//!          BackupReader (one backup) ──────┘            └──► import                (a Store and its Blobs)
//! ```
//!
//! Keys travel as they are, sorted, in checksummed pages (`page`); so nothing of an engine's own format is in a backup,
//! and what one engine held is restored into any other. Values travel as the store keeps them: those of an encrypted
//! store stay encrypted.
//!
//! Versions of entries do not travel. The receiving store goes on counting after the last version of the source, so
//! that keys which carry a commit's number stay in order.
//!
//! Start reading at `import`.

mod local;
mod page;
mod repository;

use std::ops::Range as Places;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use self::local::Local;
pub use self::page::KeyPage;
pub use self::repository::{BackupReader, Manifest, Repository};
use crate::blobs::{BlobInfo, Blobs};
use crate::contract::{Error, Range, Store, Txn, Version};
use crate::keys::OWN;

/// Most bytes of a blob that are asked for at once.
pub const PIECE_BYTES: u64 = 8 * 1024 * 1024;
/// Most entries of a page of keys.
const PAGE_ROWS: usize = 20_000;
/// A page of keys ends after the entry that reaches this.
const PAGE_BYTES: usize = 4 * 1024 * 1024;
/// A transaction of an import ends after the entry that reaches this.
const TXN_BYTES: usize = 2 * 1024 * 1024;

/// The key under which a store says that it is not filled yet.
const UNFINISHED: &[u8] = &[OWN, b'u'];

/// A part of a list of blobs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlobPage {
    /// Names in order, and what is known of each.
    pub blobs: Vec<(String, BlobInfo)>,
    /// Whether there are more beyond the last.
    pub more: bool,
}

/// One state of a store with its blobs, read from the first key to the last.
#[async_trait]
pub trait Source: Send {
    /// The last commit of the state.
    fn version(&self) -> Version;

    /// The entries beyond `after`, as many as fit in a page.
    async fn keys(&mut self, after: Option<&Bytes>) -> Result<KeyPage, Error>;

    /// The blobs beyond `after`, some of them.
    async fn blobs(&mut self, after: Option<&str>) -> Result<BlobPage, Error>;

    /// A part of a blob of at most `PIECE_BYTES`; nothing if there is no such blob any more.
    async fn blob(&mut self, name: &str, places: Places<u64>) -> Result<Option<Bytes>, Error>;
}

/// How much was carried over, or is there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    /// Keys.
    pub entries: u64,
    /// Bytes of keys and values.
    pub key_bytes: u64,
    /// Blobs.
    pub blobs: u64,
    /// Bytes of their contents.
    pub blob_bytes: u64,
}

/// Told how far a transfer is, after each page and each blob.
pub type Progress<'a> = &'a mut (dyn FnMut(Amount) + Send);

/// Count and checksum of entries in their order.
#[derive(Debug, Clone, Default)]
struct Sum {
    hasher: blake3::Hasher,
    entries: u64,
    bytes: u64,
}

impl Sum {
    fn add(&mut self, page: &KeyPage) {
        for (key, value) in &page.entries {
            for part in [key, value] {
                self.hasher.update(&(part.len() as u64).to_le_bytes());
                self.hasher.update(part);
            }
            self.entries += 1;
            self.bytes += (key.len() + value.len()) as u64;
        }
    }

    fn digest(&self) -> String {
        self.hasher.finalize().to_hex().to_string()
    }
}

/// The sum of all entries of a source.
async fn sum_of(source: &mut dyn Source) -> Result<Sum, Error> {
    let (mut sum, mut after) = (Sum::default(), None);
    loop {
        let page = source.keys(after.as_ref()).await?;
        sum.add(&page);
        let Some(last) = page.next() else { return Ok(sum) };
        after = Some(last);
    }
}

/// What an unfinished import leaves in its store.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Unfinished {
    /// The source's last commit.
    version: Version,
    /// Hexadecimal; all keys up to this one are here.
    after: Option<String>,
}

impl Unfinished {
    fn after(version: Version, key: Option<&Bytes>) -> Result<Bytes, Error> {
        let record = Self { version, after: key.map(hex::encode) };
        Ok(serde_json::to_vec(&record).map_err(|error| Error::Io(error.to_string()))?.into())
    }
}

/// Refuses a store that an import has not finished.
pub async fn check_finished(store: &dyn Store) -> Result<(), Error> {
    if store.get(UNFINISHED).await?.is_none() {
        return Ok(());
    }
    Err(Error::Invalid("this store is not filled yet: the command that fills it was interrupted; run it again".into()))
}

/// Fills an empty store with all that `source` holds, and verifies it by reading both sides again.
///
/// An import that was interrupted goes on where it was when it is called again with a source in the same state. Until
/// it is done the store says so (`check_finished`).
///
/// # Errors
/// `Invalid` if the store is not empty, counts commits that the source has already, or was begun from another state;
/// `Corrupt` if the two sides differ at the end.
pub async fn import(
    source: &mut dyn Source,
    store: &dyn Store,
    blobs: &dyn Blobs,
    progress: Progress<'_>,
) -> Result<Amount, Error> {
    let after = begin(source.version(), store, blobs).await?;
    let mut amount = Amount::default();
    copy_blobs(source, blobs, &mut amount, progress).await?;
    copy_keys(source, store, after, &mut amount, progress).await?;
    let (from, to) = (sum_of(source).await?, sum_of(&mut Local::filled(store, blobs).await?).await?);
    if (from.entries, from.digest()) != (to.entries, to.digest()) {
        return Err(Error::Corrupt(format!(
            "{} entries were read and {} are there, or they differ",
            from.entries, to.entries
        )));
    }
    store.commit(Txn::new().delete(UNFINISHED)).await?;
    Ok(Amount { entries: to.entries, key_bytes: to.bytes, ..amount })
}

/// Says where to go on, after what key.
async fn begin(version: Version, store: &dyn Store, blobs: &dyn Blobs) -> Result<Option<Bytes>, Error> {
    if let Some(entry) = store.get(UNFINISHED).await? {
        let record: Unfinished =
            serde_json::from_slice(&entry.value).map_err(|error| Error::Corrupt(error.to_string()))?;
        if record.version != version {
            return Err(Error::Invalid(format!(
                "the store was begun from commit {} and here is another one at {version}: begin with an empty store",
                record.version
            )));
        }
        let after = record.after.map(hex::decode).transpose().map_err(|error| Error::Corrupt(error.to_string()))?;
        return Ok(after.map(Bytes::from));
    }
    let snapshot = store.snapshot().await?;
    if !snapshot.range(&Range::prefix("").rows(1)).await?.entries.is_empty()
        || !blobs.names("", None, 1).await?.names.is_empty()
    {
        return Err(Error::Invalid("the store to be filled is not empty".into()));
    }
    if snapshot.version() < version {
        return Err(Error::Invalid(format!("the store to be filled must count from commit {version} on")));
    }
    store.commit(Txn::new().expect_absent(UNFINISHED).put(UNFINISHED, Unfinished::after(version, None)?)).await?;
    Ok(None)
}

async fn copy_keys(
    source: &mut dyn Source,
    store: &dyn Store,
    mut after: Option<Bytes>,
    amount: &mut Amount,
    progress: Progress<'_>,
) -> Result<(), Error> {
    let version = source.version();
    loop {
        let page = source.keys(after.as_ref()).await?;
        let next = page.next();
        let (mut txn, mut bytes) = (Txn::new().relaxed(), 0);
        let mut entries = page.entries.into_iter().peekable();
        while let Some((key, value)) = entries.next() {
            bytes += key.len() + value.len();
            amount.entries += 1;
            amount.key_bytes += (key.len() + value.len()) as u64;
            txn = txn.put(key.clone(), value);
            if bytes >= TXN_BYTES || entries.peek().is_none() {
                let reached = Unfinished::after(version, Some(&key))?;
                store.commit(std::mem::take(&mut txn).relaxed().put(UNFINISHED, reached)).await?;
                bytes = 0;
            }
        }
        progress(*amount);
        if next.is_none() {
            return Ok(());
        }
        after = next;
    }
}

async fn copy_blobs(
    source: &mut dyn Source,
    blobs: &dyn Blobs,
    amount: &mut Amount,
    progress: Progress<'_>,
) -> Result<(), Error> {
    let mut after: Option<String> = None;
    loop {
        let page = source.blobs(after.as_deref()).await?;
        for (name, info) in &page.blobs {
            if let Some(bytes) = copy_blob(source, name, *info, blobs).await? {
                amount.blobs += 1;
                amount.blob_bytes += bytes;
                progress(*amount);
            }
        }
        match page.blobs.into_iter().next_back() {
            Some((last, _)) if page.more => after = Some(last),
            _ => return Ok(()),
        }
    }
}

/// Copies a blob, unless it is there, and compares the two. Nothing is done for one that has gone from the source.
async fn copy_blob(
    source: &mut dyn Source,
    name: &str,
    info: BlobInfo,
    blobs: &dyn Blobs,
) -> Result<Option<u64>, Error> {
    let mut writer = match blobs.info(name).await? {
        Some(_) => None,
        None => Some(blobs.write(name).await?),
    };
    let (mut hasher, mut at) = (blake3::Hasher::new(), 0);
    while at < info.bytes {
        let Some(piece) = source.blob(name, at..info.bytes.min(at + PIECE_BYTES)).await? else { return Ok(None) };
        if piece.is_empty() {
            return Err(Error::Corrupt(format!("the blob {name} is shorter than it says")));
        }
        hasher.update(&piece);
        at += piece.len() as u64;
        if let Some(writer) = &mut writer {
            writer.push(piece).await?;
        }
    }
    if let Some(writer) = writer {
        writer.finish().await?;
    }
    let mut there = blake3::Hasher::new();
    let reader = blobs.read(name, crate::blobs::WHOLE).await?;
    let mut reader = reader.ok_or_else(|| Error::Corrupt(format!("the blob {name} was not kept")))?;
    while let Some(piece) = reader.next().await? {
        there.update(&piece);
    }
    if there.finalize() != hasher.finalize() {
        return Err(Error::Corrupt(format!("the blob {name} is not the same on both sides")));
    }
    Ok(Some(at))
}
