//! A folder of backups. Blobs lie in it once, however many backups have them: a later backup copies only new ones.
//!
//! ```text
//! dunlin-backups           marks the folder; holds the number of its format
//! lock                     held by a backup that is running
//! blobs/NAME~              blobs, as the file engine keeps them
//! NAME/manifest            what the backup is: one line of JSON, one line with its BLAKE3; written last
//! NAME/keys-000001         pages of keys, in order (`page`)
//! NAME/blobs               the backup's blobs, one a line: digest, length, name
//! ```
//!
//! Invariants
//!   1. A folder with a manifest is a whole backup: everything that the manifest counts was flushed before it.
//!   2. Nothing is read whose checksum is wrong, nor a page or blob that the manifest does not count.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::ops::Range as Places;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Amount, BlobPage, KeyPage, PIECE_BYTES, Progress, Source, Sum, sum_of};
use crate::blobs::{self, BlobInfo, Blobs, FileBlobs};
use crate::contract::{Error, Version};

/// The newest format that this code knows.
const FORMAT: u32 = 1;
const MARK: &str = "dunlin-backups";
const MANIFEST: &str = "manifest";
/// Lines of a list of blobs that are given out at once.
const BLOB_ROWS: usize = 1_000;

/// What a backup is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Of the backup.
    pub format: u32,
    /// The folder's name.
    pub name: String,
    /// Milliseconds since the epoch.
    pub created_ms: u64,
    /// The release that made it.
    pub release: String,
    /// The last commit in it.
    pub version: Version,
    /// Files of keys.
    pub pages: u64,
    /// How much is in it.
    pub amount: Amount,
    /// BLAKE3 over all keys and values.
    pub keys_digest: String,
    /// BLAKE3 of the list of blobs.
    pub blobs_digest: String,
}

/// A folder of backups.
pub struct Repository {
    /// Whether a backup reads the blobs that are here already, and copies anew those that have become damaged.
    pub rereads: bool,
    folder: PathBuf,
    blobs: FileBlobs,
    _lock: Option<File>,
}

impl Repository {
    /// Opens a folder for a new backup; an empty one, or none, becomes a folder of backups.
    ///
    /// # Errors
    /// `Invalid` if something else lies in it, or another backup is running.
    pub fn for_backup(folder: &Path) -> Result<Self, Error> {
        base::folders::make(folder, 0o700).map_err(|error| failed(folder, &error))?;
        let mark = folder.join(MARK);
        let empty = fs::read_dir(folder).map_err(|error| failed(folder, &error))?.next().is_none();
        if empty {
            write_flushed(&mark, format!("{FORMAT}\n").as_bytes()).map_err(|error| failed(&mark, &error))?;
        }
        check_mark(folder)?;
        let path = folder.join("lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let lock = lock.map_err(|error| failed(&path, &error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::Invalid(format!("another backup to {} is running", folder.display())));
            }
            Err(TryLockError::Error(error)) => return Err(failed(&path, &error)),
        }
        let blobs = FileBlobs::open(folder.join("blobs"))?;
        Ok(Self { rereads: false, folder: folder.to_owned(), blobs, _lock: Some(lock) })
    }

    /// Opens a folder to read from it; nothing in it is touched.
    ///
    /// # Errors
    /// `Invalid` if it is no folder of backups, or of a newer release.
    pub fn for_restore(folder: &Path) -> Result<Self, Error> {
        check_mark(folder)?;
        Ok(Self {
            rereads: false,
            folder: folder.to_owned(),
            blobs: FileBlobs::reading(folder.join("blobs")),
            _lock: None,
        })
    }

    /// Names of the whole backups, sorted; with names that are times, the newest is last.
    pub fn names(&self) -> Result<Vec<String>, Error> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(|error| failed(&self.folder, &error))? {
            let entry = entry.map_err(|error| failed(&self.folder, &error))?;
            if let Some(name) = entry.file_name().to_str().filter(|_| entry.path().join(MANIFEST).is_file()) {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Copies all that `source` holds into a new backup called `name` (letters, digits and `-`). Blobs that the
    /// folder has already are not copied again.
    pub async fn back_up(
        &self,
        source: &mut dyn Source,
        name: &str,
        created_ms: u64,
        release: &str,
        progress: Progress<'_>,
    ) -> Result<Manifest, Error> {
        check_name(name)?;
        let folder = self.folder.join(name);
        DirBuilder::new().mode(0o700).create(&folder).map_err(|error| failed(&folder, &error))?;
        let mut amount = Amount::default();
        let (sum, pages) = write_keys(&folder, source, &mut amount, progress).await?;
        let list = self.copy_blobs(source, &mut amount, progress).await?;
        write(&folder, "blobs", list.as_bytes())?;
        let manifest = Manifest {
            format: FORMAT,
            name: name.to_owned(),
            created_ms,
            release: release.to_owned(),
            version: source.version(),
            pages,
            amount,
            keys_digest: sum.digest(),
            blobs_digest: blake3::hash(list.as_bytes()).to_hex().to_string(),
        };
        let json = serde_json::to_string(&manifest).map_err(|error| Error::Io(error.to_string()))?;
        flush_folder(&folder)?;
        write(&folder, "manifest.new", format!("{json}\n{}\n", blake3::hash(json.as_bytes()).to_hex()).as_bytes())?;
        let (new, whole) = (folder.join("manifest.new"), folder.join(MANIFEST));
        fs::rename(&new, &whole).map_err(|error| failed(&whole, &error))?;
        flush_folder(&folder)?;
        flush_folder(&self.folder)?;
        Ok(manifest)
    }

    /// Copies what is not here yet; returns the list.
    async fn copy_blobs(
        &self,
        source: &mut dyn Source,
        amount: &mut Amount,
        progress: Progress<'_>,
    ) -> Result<String, Error> {
        let (mut list, mut after) = (String::new(), None::<String>);
        loop {
            let page = source.blobs(after.as_deref()).await?;
            for (name, info) in &page.blobs {
                let known = match self.known(name).await {
                    Ok(known) => known,
                    // It is copied anew.
                    Err(Error::Corrupt(_)) => None,
                    Err(other) => return Err(other),
                };
                if known != Some(*info) && !self.copy_blob(source, name, *info).await? {
                    continue;
                }
                list.push_str(&format!("{} {} {name}\n", hex::encode(info.digest), info.bytes));
                amount.blobs += 1;
                amount.blob_bytes += info.bytes;
                progress(*amount);
            }
            match page.blobs.into_iter().next_back() {
                Some((last, _)) if page.more => after = Some(last),
                _ => return Ok(list),
            }
        }
    }

    /// What is here of a blob.
    async fn known(&self, name: &str) -> Result<Option<BlobInfo>, Error> {
        if self.rereads
            && let Some(mut reader) = self.blobs.read(name, blobs::WHOLE).await?
        {
            while reader.next().await?.is_some() {}
        }
        self.blobs.info(name).await
    }

    /// False: the blob has gone from the source meanwhile.
    async fn copy_blob(&self, source: &mut dyn Source, name: &str, info: BlobInfo) -> Result<bool, Error> {
        self.blobs.delete(name).await?;
        let mut writer = self.blobs.write(name).await?;
        let mut at = 0;
        while at < info.bytes {
            let Some(piece) = source.blob(name, at..info.bytes.min(at + PIECE_BYTES)).await? else { return Ok(false) };
            if piece.is_empty() {
                break;
            }
            at += piece.len() as u64;
            writer.push(piece).await?;
        }
        writer.finish().await?;
        if self.blobs.info(name).await? != Some(info) {
            return Err(Error::Corrupt(format!("the blob {name} arrived otherwise than it was announced")));
        }
        Ok(true)
    }

    /// What a backup is.
    ///
    /// # Errors
    /// `Invalid` if there is no whole backup of that name, or it is of a newer release; `Corrupt` if it is damaged.
    pub fn manifest(&self, name: &str) -> Result<Manifest, Error> {
        check_name(name)?;
        let path = self.folder.join(name).join(MANIFEST);
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(Error::Invalid(format!("there is no whole backup {name} in {}", self.folder.display())));
            }
            text => text.map_err(|error| failed(&path, &error))?,
        };
        let damaged = || Error::Corrupt(format!("{} is damaged", path.display()));
        let (json, digest) = text.split_once('\n').ok_or_else(damaged)?;
        if digest.trim_end() != blake3::hash(json.as_bytes()).to_hex().as_str() {
            return Err(damaged());
        }
        let manifest: Manifest = serde_json::from_str(json).map_err(|_| damaged())?;
        check_format(manifest.format)?;
        Ok(manifest)
    }

    /// A backup to be read. Its list of blobs is verified now, its keys are when they are read.
    pub fn open(&self, name: &str) -> Result<BackupReader, Error> {
        let manifest = self.manifest(name)?;
        let folder = self.folder.join(name);
        let path = folder.join("blobs");
        let list = fs::read_to_string(&path).map_err(|error| failed(&path, &error))?;
        let damaged = || Error::Corrupt(format!("{} is damaged", path.display()));
        if blake3::hash(list.as_bytes()).to_hex().as_str() != manifest.blobs_digest {
            return Err(damaged());
        }
        let list = list.lines().map(blob_of_line).collect::<Option<Vec<_>>>().ok_or_else(damaged)?;
        Ok(BackupReader { manifest, folder, list, blobs: self.blobs.clone(), reached: (0, None) })
    }
}

async fn write_keys(
    folder: &Path,
    source: &mut dyn Source,
    amount: &mut Amount,
    progress: Progress<'_>,
) -> Result<(Sum, u64), Error> {
    let (mut sum, mut pages, mut after) = (Sum::default(), 0, None);
    loop {
        let page = source.keys(after.as_ref()).await?;
        pages += 1;
        sum.add(&page);
        write(folder, &page_name(pages), &page.encode()?)?;
        (amount.entries, amount.key_bytes) = (sum.entries, sum.bytes);
        progress(*amount);
        let Some(last) = page.next() else { return Ok((sum, pages)) };
        after = Some(last);
    }
}

fn page_name(number: u64) -> String {
    format!("keys-{number:06}")
}

fn blob_of_line(line: &str) -> Option<(String, BlobInfo)> {
    let mut parts = line.split(' ');
    let (digest, bytes, name) = (parts.next()?, parts.next()?, parts.next()?);
    let digest = hex::decode(digest).ok()?.try_into().ok()?;
    Some((name.to_owned(), BlobInfo { bytes: bytes.parse().ok()?, digest }))
}

/// One backup as a source.
pub struct BackupReader {
    manifest: Manifest,
    folder: PathBuf,
    list: Vec<(String, BlobInfo)>,
    blobs: FileBlobs,
    /// The page that was read last, and its last key.
    reached: (u64, Option<Bytes>),
}

impl BackupReader {
    /// What it is.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Reads everything once and compares it with the manifest.
    ///
    /// # Errors
    /// `Corrupt` names what is damaged or missing.
    pub async fn verify(&mut self) -> Result<(), Error> {
        let sum = sum_of(self).await?;
        let amount = self.manifest.amount;
        if sum.digest() != self.manifest.keys_digest || sum.entries != amount.entries {
            return Err(Error::Corrupt(format!("the keys of the backup {} are damaged", self.manifest.name)));
        }
        for (name, info) in &self.list {
            let damaged = || Error::Corrupt(format!("the blob {name} of the backup is missing or damaged"));
            if self.blobs.info(name).await? != Some(*info) {
                return Err(damaged());
            }
            let mut reader = self.blobs.read(name, blobs::WHOLE).await?.ok_or_else(damaged)?;
            while reader.next().await?.is_some() {}
        }
        Ok(())
    }

    fn page(&self, number: u64) -> Result<KeyPage, Error> {
        let path = self.folder.join(page_name(number));
        let page = KeyPage::decode(fs::read(&path).map_err(|error| failed(&path, &error))?.into());
        let page = page.map_err(|_| Error::Corrupt(format!("{} is damaged", path.display())))?;
        if page.more != (number < self.manifest.pages) {
            return Err(Error::Corrupt(format!("{} does not stand where it belongs", path.display())));
        }
        Ok(page)
    }
}

#[async_trait]
impl Source for BackupReader {
    fn version(&self) -> Version {
        self.manifest.version
    }

    async fn keys(&mut self, after: Option<&Bytes>) -> Result<KeyPage, Error> {
        let mut number = if after.is_some() && after == self.reached.1.as_ref() { self.reached.0 + 1 } else { 1 };
        loop {
            let mut page = self.page(number)?;
            if let Some(after) = after {
                page.entries.retain(|(key, _)| key > after);
            }
            if !page.entries.is_empty() || !page.more {
                self.reached = (number, page.entries.last().map(|(key, _)| key.clone()));
                return Ok(page);
            }
            number += 1;
        }
    }

    async fn blobs(&mut self, after: Option<&str>) -> Result<BlobPage, Error> {
        let from = after.map_or(0, |after| self.list.partition_point(|(name, _)| name.as_str() <= after));
        let rest = &self.list[from..];
        Ok(BlobPage { blobs: rest.iter().take(BLOB_ROWS).cloned().collect(), more: rest.len() > BLOB_ROWS })
    }

    async fn blob(&mut self, name: &str, places: Places<u64>) -> Result<Option<Bytes>, Error> {
        let reader = self.blobs.read(name, places).await?;
        let missing = || Error::Corrupt(format!("the blob {name} of the backup is missing"));
        Ok(Some(blobs::collect(&mut *reader.ok_or_else(missing)?).await?))
    }
}

fn check_mark(folder: &Path) -> Result<(), Error> {
    let foreign = || {
        Error::Invalid(format!(
            "{} is no folder of backups: name an empty folder, or one made by `dunlin backup`",
            folder.display()
        ))
    };
    let text = fs::read_to_string(folder.join(MARK)).map_err(|_| foreign())?;
    check_format(text.trim().parse().map_err(|_| foreign())?)
}

fn check_format(found: u32) -> Result<(), Error> {
    if (1..=FORMAT).contains(&found) {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "the backup has format {found}, but this release knows formats up to {FORMAT}: use a newer release"
    )))
}

fn check_name(name: &str) -> Result<(), Error> {
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if plain && (1..=64).contains(&name.len()) && !["blobs", "lock"].contains(&name) {
        return Ok(());
    }
    Err(Error::Invalid(format!("{name:?} is no name of a backup: letters, digits and - are allowed")))
}

fn write(folder: &Path, name: &str, content: &[u8]) -> Result<(), Error> {
    let path = folder.join(name);
    write_flushed(&path, content).map_err(|error| failed(&path, &error))
}

fn write_flushed(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn flush_folder(folder: &Path) -> Result<(), Error> {
    File::open(folder).and_then(|file| file.sync_all()).map_err(|error| failed(folder, &error))
}

fn failed(path: &Path, error: &io::Error) -> Error {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Error::DiskFull,
        _ => Error::Io(format!("{}: {error}", path.display())),
    }
}
