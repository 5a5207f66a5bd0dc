//! Blobs as files of a folder.
//!
//! A blob `a/b` is the file `a/b~`: no name contains `~`, so no blob is in the way of another one's folder. The content
//! stands first and unchanged, so that it can be mapped or sent as it is; the checksums stand behind it (`chunks`).
//! Files of the first format, which have one BLAKE3 over all and `dunblob1` at the end, are read as well: their content
//! is read once to verify it, and summed up by chunks on the way.
//!
//! Invariants
//!   1. A file under a blob's name is whole: it is written and flushed under `.tmp/`, then linked to its name.
//!      A link, unlike a rename, refuses to replace: the first of two stands.
//!   2. `finish` returns after the flush of the file and of every folder that got an entry.
//!   3. No content is given out whose checksum is wrong.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;

use super::chunks::{self, CHUNK_BYTES, FOOTER_BYTES, Summing, Table};
use super::{BlobInfo, BlobReader, BlobWriter, Blobs, Names, check_blob_name};
use crate::contract::Error;

/// The end of a file of the first format.
const FIRST_MAGIC: &[u8; 8] = b"dunblob1";
const FIRST_TRAILER_BYTES: usize = blake3::OUT_LEN + FIRST_MAGIC.len();
const TEMPORARY: &str = ".tmp";
/// About so much is read or written in one go on a blocking thread.
const GO_BYTES: usize = 4 * CHUNK_BYTES;

/// Blobs in a folder of this machine.
#[derive(Debug, Clone)]
pub struct FileBlobs {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    /// Tells unfinished files apart.
    next: AtomicU64,
}

impl FileBlobs {
    /// The blobs of a folder, which is made if there is none. What unfinished writers left there is removed, so only
    /// one process may have it open: the store's lock sees to that.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self, Error> {
        let folder = folder.into();
        let temporary = folder.join(TEMPORARY);
        match fs::remove_dir_all(&temporary) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(&error)),
            _ => {}
        }
        // What is in it is only as safe as its own name.
        base::folders::make(&folder, 0o700).map_err(|error| failed(&error))?;
        DirBuilder::new().mode(0o700).create(&temporary).map_err(|error| failed(&error))?;
        Ok(Self { inner: Arc::new(Inner { folder, next: AtomicU64::new(0) }) })
    }

    /// The blobs of a folder that is only read from: nothing in it is made or removed.
    pub fn reading(folder: impl Into<PathBuf>) -> Self {
        Self { inner: Arc::new(Inner { folder: folder.into(), next: AtomicU64::new(0) }) }
    }

    /// Works on a name where it may block.
    async fn off<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce(&Inner, &str) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (inner, name) = (Arc::clone(&self.inner), name.to_owned());
        off(move || work(&inner, &name)).await
    }
}

/// Does file work where it may block.
async fn off<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Error::Io(format!("work on a blob did not end: {error}"))))
}

#[async_trait]
impl Blobs for FileBlobs {
    async fn write(&self, name: &str) -> Result<Box<dyn BlobWriter>, Error> {
        check_blob_name(name)?;
        let unfinished = Unfinished {
            inner: Arc::clone(&self.inner),
            name: name.to_owned(),
            file: None,
            summing: Summing::default(),
        };
        Ok(Box::new(Writer { unfinished: Some(unfinished), pieces: Vec::new(), bytes: 0 }))
    }

    async fn read(&self, name: &str, range: Range<u64>) -> Result<Option<Box<dyn BlobReader>>, Error> {
        check_blob_name(name)?;
        let opened = self.off(name, |inner, name| Opened::of(&inner.path(name), name)).await?;
        Ok(opened.map(|opened| {
            let end = range.end.min(opened.table.bytes);
            Box::new(Reader { opened: Arc::new(opened), at: range.start, end }) as Box<dyn BlobReader>
        }))
    }

    async fn info(&self, name: &str) -> Result<Option<BlobInfo>, Error> {
        check_blob_name(name)?;
        let opened = self.off(name, |inner, name| Opened::of(&inner.path(name), name)).await?;
        Ok(opened.map(|opened| opened.table.info(name)))
    }

    async fn delete(&self, name: &str) -> Result<(), Error> {
        check_blob_name(name)?;
        self.off(name, |inner, name| {
            let path = inner.path(name);
            match fs::remove_file(&path).and_then(|()| flush_folder(parent(&path))) {
                Err(error) if !absent(&error) => Err(failed(&error)),
                _ => Ok(()),
            }
        })
        .await
    }

    async fn names(&self, prefix: &str, after: Option<&str>, rows: usize) -> Result<Names, Error> {
        let mut walk =
            Walk { prefix: prefix.to_owned(), after: after.map(str::to_owned), rows, found: Names::default() };
        self.off("", move |inner, _| {
            walk.folder(&inner.folder, "").map_err(|error| failed(&error))?;
            Ok(walk.found)
        })
        .await
    }
}

impl Inner {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}~"))
    }

    /// Makes a folder below ours with those above it, each flushed into the one that holds it.
    fn make_folders(&self, folder: &Path) -> io::Result<()> {
        if folder == self.folder {
            return Ok(());
        }
        self.make_folders(parent(folder))?;
        match DirBuilder::new().mode(0o700).create(folder) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        flush_folder(parent(folder))
    }
}

/// Gathers names in order, folder by folder.
struct Walk {
    prefix: String,
    after: Option<String>,
    rows: usize,
    found: Names,
}

impl Walk {
    /// Walks the folder `within` ("" or ending in a slash).
    fn folder(&mut self, folder: &Path, within: &str) -> io::Result<()> {
        let entries = match fs::read_dir(folder) {
            Err(error) if absent(&error) => return Ok(()),
            entries => entries?,
        };
        // As names sort: what lies in the folder `a` begins with `a/`, so it comes after the blob `a` and after `a-b`.
        let mut steps: Vec<(String, bool)> = Vec::new();
        for entry in entries {
            let entry = entry?;
            let Ok(segment) = entry.file_name().into_string() else { continue };
            match segment.strip_suffix('~') {
                Some(segment) => steps.push((format!("{within}{segment}"), false)),
                None if segment != TEMPORARY && entry.file_type()?.is_dir() => {
                    steps.push((format!("{within}{segment}/"), true));
                }
                None => {}
            }
        }
        steps.sort_unstable();
        for (step, is_folder) in steps {
            if self.found.more {
                return Ok(());
            }
            if is_folder {
                let wanted = step.starts_with(&self.prefix) || self.prefix.starts_with(&step);
                let passed = self.after.as_ref().is_some_and(|after| *after > step && !after.starts_with(&step));
                if wanted && !passed {
                    let below = folder.join(&step[within.len()..step.len() - 1]);
                    self.folder(&below, &step)?;
                }
            } else if step.starts_with(&self.prefix) && self.after.as_ref().is_none_or(|after| step > *after) {
                if self.found.names.len() < self.rows {
                    self.found.names.push(step);
                } else {
                    self.found.more = true;
                }
            }
        }
        Ok(())
    }
}

/// A blob that has no name yet.
struct Unfinished {
    inner: Arc<Inner>,
    name: String,
    file: Option<(PathBuf, File)>,
    summing: Summing,
}

impl Unfinished {
    fn write(&mut self, pieces: &[Bytes]) -> io::Result<()> {
        let (_, file) = match &mut self.file {
            Some(file) => file,
            None => {
                let number = self.inner.next.fetch_add(1, Ordering::Relaxed);
                let path = self.inner.folder.join(TEMPORARY).join(number.to_string());
                let file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&path)?;
                self.file.insert((path, file))
            }
        };
        for piece in pieces {
            self.summing.push(piece);
            file.write_all(piece)?;
        }
        Ok(())
    }

    fn finish(mut self, pieces: &[Bytes]) -> io::Result<()> {
        let path = self.inner.path(&self.name);
        if !path.exists() {
            self.write(pieces)?;
            let table = std::mem::take(&mut self.summing).done();
            let Some((unfinished, file)) = &mut self.file else { return Ok(()) };
            file.write_all(&table.trailer(&self.name))?;
            file.sync_all()?;
            self.inner.make_folders(parent(&path))?;
            match fs::hard_link(unfinished, &path) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        // Also when another one was first: it may not have come to its flush yet.
        flush_folder(parent(&path))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some((path, _)) = &self.file {
            // Left behind it would only take room until the next open.
            let _ = fs::remove_file(path);
        }
    }
}

struct Writer {
    /// None while a piece is being written, and after an error.
    unfinished: Option<Unfinished>,
    /// What has come since the last go.
    pieces: Vec<Bytes>,
    bytes: usize,
}

impl Writer {
    fn take(&mut self) -> Result<(Unfinished, Vec<Bytes>), Error> {
        let unfinished = self.unfinished.take();
        let unfinished = unfinished.ok_or_else(|| Error::Invalid("a blob is not written on after an error".into()))?;
        self.bytes = 0;
        Ok((unfinished, std::mem::take(&mut self.pieces)))
    }
}

#[async_trait]
impl BlobWriter for Writer {
    async fn push(&mut self, piece: Bytes) -> Result<(), Error> {
        self.bytes += piece.len();
        self.pieces.push(piece);
        if self.bytes < GO_BYTES {
            return Ok(());
        }
        let (mut unfinished, pieces) = self.take()?;
        let written = off(move || {
            unfinished.write(&pieces).map_err(|error| failed(&error))?;
            Ok(unfinished)
        });
        self.unfinished = Some(written.await?);
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<(), Error> {
        let (unfinished, pieces) = self.take()?;
        off(move || unfinished.finish(&pieces).map_err(|error| failed(&error))).await
    }
}

/// A file whose checksums are known and right.
struct Opened {
    name: String,
    file: File,
    table: Table,
}

impl Opened {
    /// Nothing if there is no such file.
    fn of(path: &Path, name: &str) -> Result<Option<Self>, Error> {
        let file = match File::open(path) {
            Err(error) if absent(&error) => return Ok(None),
            file => file.map_err(|error| failed(&error))?,
        };
        let table = table_of(&file, name).map_err(|error| failed(&error))?;
        let table = table.ok_or_else(|| damaged(name))?;
        Ok(Some(Self { name: name.to_owned(), file, table }))
    }

    /// Reads on from `at` to about a go further, at most to `end`.
    fn read(&self, at: u64, end: u64) -> Result<Bytes, Error> {
        let first = at / CHUNK_BYTES as u64;
        let mut content = Vec::new();
        let mut chunk = first;
        while let Some(place) = self.table.place(chunk).filter(|place| place.start < end && content.len() < GO_BYTES) {
            let begin = content.len();
            // A chunk's length fits.
            content.resize(begin + (place.end - place.start) as usize, 0);
            self.file.read_exact_at(&mut content[begin..], place.start).map_err(|error| failed(&error))?;
            if !self.table.holds(chunk, &content[begin..]) {
                return Err(damaged(&self.name));
            }
            chunk += 1;
        }
        let start = first * CHUNK_BYTES as u64;
        let content = Bytes::from(content);
        let cut = |place: u64| usize::try_from(place - start).unwrap_or(usize::MAX).min(content.len());
        Ok(content.slice(cut(at)..cut(end)))
    }
}

/// The checksums of a file of either format; nothing if they are wrong.
fn table_of(file: &File, name: &str) -> io::Result<Option<Table>> {
    let file_bytes = file.metadata()?.len();
    let mut footer = [0; FOOTER_BYTES];
    let known = match file_bytes.checked_sub(FOOTER_BYTES as u64) {
        Some(at) => {
            file.read_exact_at(&mut footer, at)?;
            footer.ends_with(chunks::MAGIC)
        }
        None => false,
    };
    if !known {
        return table_of_first(file, file_bytes);
    }
    let Some(bytes) = chunks::trailer_bytes(&footer, file_bytes) else { return Ok(None) };
    let mut trailer = vec![0; usize::try_from(bytes).map_err(io::Error::other)?];
    file.read_exact_at(&mut trailer, file_bytes - bytes)?;
    Ok(Table::of_trailer(name, &trailer))
}

/// Verifies a file of the first format and sums it up.
fn table_of_first(file: &File, file_bytes: u64) -> io::Result<Option<Table>> {
    let Some(bytes) = file_bytes.checked_sub(FIRST_TRAILER_BYTES as u64) else { return Ok(None) };
    let mut trailer = [0; FIRST_TRAILER_BYTES];
    file.read_exact_at(&mut trailer, bytes)?;
    let (mut summing, mut hasher) = (Summing::default(), blake3::Hasher::new());
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut content = file.take(bytes);
    loop {
        let read = content.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        summing.push(&buffer[..read]);
        hasher.update(&buffer[..read]);
    }
    let (hash, magic) = trailer.split_at(blake3::OUT_LEN);
    let right = magic == FIRST_MAGIC && hasher.finalize().as_bytes() == hash;
    Ok(right.then(|| summing.done()))
}

struct Reader {
    opened: Arc<Opened>,
    at: u64,
    end: u64,
}

#[async_trait]
impl BlobReader for Reader {
    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        if self.at >= self.end {
            return Ok(None);
        }
        let (opened, at, end) = (Arc::clone(&self.opened), self.at, self.end);
        match off(move || opened.read(at, end)).await {
            Ok(piece) => {
                self.at += piece.len() as u64;
                Ok(Some(piece))
            }
            Err(error) => {
                self.at = self.end;
                Err(error)
            }
        }
    }
}

fn damaged(name: &str) -> Error {
    Error::Corrupt(format!("the checksum of the blob {name} is wrong"))
}

fn flush_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// The folder that holds a path below ours, which always has one.
fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

/// No such blob. A name below another blob's is not one, and a folder that is not there holds none.
fn absent(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

fn failed(error: &io::Error) -> Error {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Error::DiskFull,
        _ => Error::Io(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blobs() -> (tempfile::TempDir, FileBlobs) {
        let folder = tempfile::tempdir().unwrap();
        let blobs = FileBlobs::open(folder.path().join("blobs")).unwrap();
        (folder, blobs)
    }

    fn first_format(content: &[u8]) -> Vec<u8> {
        [content, blake3::hash(content).as_bytes(), FIRST_MAGIC].concat()
    }

    async fn notices_damage(blobs: &FileBlobs, whole: &[u8]) {
        let path = blobs.inner.path("a/b");
        for at in 0..whole.len() {
            let mut file = whole.to_vec();
            file[at] ^= 1;
            fs::write(&path, file).unwrap();
            assert!(matches!(blobs.get("a/b").await, Err(Error::Corrupt(_))), "byte {at}");
        }
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            assert!(matches!(blobs.get("a/b").await, Err(Error::Corrupt(_))), "cut to {length}");
        }
    }

    #[tokio::test]
    async fn any_damage_is_noticed() {
        let (_folder, blobs) = blobs();
        blobs.put("a/b", Bytes::from_static(b"content")).await.unwrap();
        let whole = fs::read(blobs.inner.path("a/b")).unwrap();
        notices_damage(&blobs, &whole).await;
        notices_damage(&blobs, &first_format(b"content")).await;
    }

    #[tokio::test]
    async fn a_part_is_read_although_another_part_is_damaged() {
        let (_folder, blobs) = blobs();
        let content = vec![7; 3 * CHUNK_BYTES];
        blobs.put("a", content.into()).await.unwrap();
        let path = blobs.inner.path("a");
        let mut file = fs::read(&path).unwrap();
        file[CHUNK_BYTES] ^= 1;
        fs::write(&path, file).unwrap();
        let chunk = CHUNK_BYTES as u64;
        for (range, right) in [(0..chunk, true), (2 * chunk..3 * chunk, true), (chunk - 1..chunk + 1, false)] {
            let mut reader = blobs.read("a", range.clone()).await.unwrap().unwrap();
            assert_eq!(reader.next().await.is_ok(), right, "{range:?}");
        }
    }

    #[tokio::test]
    async fn a_blob_under_another_name_is_damage() {
        let (_folder, blobs) = blobs();
        blobs.put("a", Bytes::from_static(b"of a")).await.unwrap();
        fs::rename(blobs.inner.path("a"), blobs.inner.path("b")).unwrap();
        assert!(matches!(blobs.get("b").await, Err(Error::Corrupt(_))));
    }

    #[tokio::test]
    async fn the_first_format_is_read() {
        let (_folder, blobs) = blobs();
        let content: Vec<u8> = (0..CHUNK_BYTES + 10).map(|at| (at % 251) as u8).collect();
        fs::write(blobs.inner.path("old"), first_format(&content)).unwrap();
        fs::write(blobs.inner.path("empty"), first_format(b"")).unwrap();
        assert_eq!(blobs.get("old").await.unwrap().unwrap(), content);
        assert_eq!(blobs.get("empty").await.unwrap().unwrap(), "");
        blobs.put("new", content.into()).await.unwrap();
        assert_eq!(blobs.info("old").await.unwrap().unwrap().bytes, blobs.info("new").await.unwrap().unwrap().bytes);
    }

    #[tokio::test]
    async fn what_unfinished_writers_left_is_removed_and_never_listed() {
        let (folder, blobs) = blobs();
        fs::write(folder.path().join("blobs/.tmp/17"), b"half").unwrap();
        assert_eq!(blobs.list("").await.unwrap(), Vec::<String>::new());
        drop(blobs);
        let blobs = FileBlobs::open(folder.path().join("blobs")).unwrap();
        let mut dropped = blobs.write("a").await.unwrap();
        dropped.push(vec![0; 2 * GO_BYTES].into()).await.unwrap();
        let left = || fs::read_dir(blobs.inner.folder.join(TEMPORARY)).unwrap().count();
        assert_eq!(left(), 1);
        drop(dropped);
        assert_eq!(left(), 0);
        assert_eq!(blobs.get("a").await.unwrap(), None);
    }
}
