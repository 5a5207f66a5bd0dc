//! Blobs as files of a folder.
//!
//! A blob `a/b` is the file `a/b~`: no name contains `~`, so no blob is in the way of another one's folder. The file is
//! the content, 32 bytes of BLAKE3 over it, and eight bytes that say what it is; the content stands first and
//! unchanged, so that it can be mapped or sent as it is.
//!
//! Invariants
//!   1. A file under a blob's name is whole: it is written and flushed under `.tmp/`, then linked to its name.
//!      A link, unlike a rename, refuses to replace: the first of two puts stands.
//!   2. `put` returns after the flush of the file and of every folder that got an entry.
//!   3. No content is given out whose checksum is wrong.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;

use crate::contract::{Blobs, Error, check_blob_name};

const MAGIC: &[u8; 8] = b"dunblob1";
const TRAILER_BYTES: usize = blake3::OUT_LEN + MAGIC.len();
const TEMPORARY: &str = ".tmp";

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
    /// The blobs of a folder, which is made if there is none. What unfinished puts left there is removed, so only one
    /// process may have it open: the store's lock sees to that.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self, Error> {
        let folder = folder.into();
        let temporary = folder.join(TEMPORARY);
        match fs::remove_dir_all(&temporary) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(&error)),
            _ => {}
        }
        DirBuilder::new().recursive(true).mode(0o700).create(&temporary).map_err(|error| failed(&error))?;
        Ok(Self { inner: Arc::new(Inner { folder, next: AtomicU64::new(0) }) })
    }

    /// Does file work where it may block.
    async fn off<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let inner = Arc::clone(&self.inner);
        let done = tokio::task::spawn_blocking(move || work(&inner)).await;
        done.unwrap_or_else(|error| Err(Error::Io(format!("work on a blob did not end: {error}"))))
    }
}

#[async_trait]
impl Blobs for FileBlobs {
    async fn put(&self, name: &str, content: Bytes) -> Result<(), Error> {
        check_blob_name(name)?;
        let name = name.to_owned();
        self.off(move |inner| inner.put(&name, &content).map_err(|error| failed(&error))).await
    }

    async fn get(&self, name: &str) -> Result<Option<Bytes>, Error> {
        check_blob_name(name)?;
        let name = name.to_owned();
        self.off(move |inner| match fs::read(inner.path(&name)) {
            Ok(file) => content_of(&name, file).map(Some),
            Err(error) if absent(&error) => Ok(None),
            Err(error) => Err(failed(&error)),
        })
        .await
    }

    async fn delete(&self, name: &str) -> Result<(), Error> {
        check_blob_name(name)?;
        let name = name.to_owned();
        self.off(move |inner| {
            let path = inner.path(&name);
            match fs::remove_file(&path).and_then(|()| flush_folder(parent(&path))) {
                Err(error) if !absent(&error) => Err(failed(&error)),
                _ => Ok(()),
            }
        })
        .await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, Error> {
        let prefix = prefix.to_owned();
        self.off(move |inner| {
            let mut names = Vec::new();
            inner.walk("", &prefix, &mut names).map_err(|error| failed(&error))?;
            names.sort_unstable();
            Ok(names)
        })
        .await
    }
}

impl Inner {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}~"))
    }

    fn put(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let path = self.path(name);
        if !path.exists() {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let unfinished = self.folder.join(TEMPORARY).join(number.to_string());
            let linked = write_flushed(&unfinished, content)
                .and_then(|()| self.make_folders(parent(&path)))
                .and_then(|()| fs::hard_link(&unfinished, &path));
            // Left behind it would only take room until the next open.
            let _ = fs::remove_file(&unfinished);
            match linked {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        // Also when another put was first: it may not have come to its flush yet.
        flush_folder(parent(&path))
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

    /// Gathers the names under `prefix` that lie in the folder `within` ("" or ending in a slash).
    fn walk(&self, within: &str, prefix: &str, names: &mut Vec<String>) -> io::Result<()> {
        let entries = match fs::read_dir(self.folder.join(within)) {
            Err(error) if absent(&error) => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let Ok(segment) = entry.file_name().into_string() else { continue };
            let name = format!("{within}{segment}");
            if let Some(name) = name.strip_suffix('~') {
                if name.starts_with(prefix) {
                    names.push(name.to_owned());
                }
            } else if segment != TEMPORARY && entry.file_type()?.is_dir() {
                let below = format!("{name}/");
                if below.starts_with(prefix) || prefix.starts_with(&below) {
                    self.walk(&below, prefix, names)?;
                }
            }
        }
        Ok(())
    }
}

fn write_flushed(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.write_all(blake3::hash(content).as_bytes())?;
    file.write_all(MAGIC)?;
    file.sync_all()
}

fn content_of(name: &str, file: Vec<u8>) -> Result<Bytes, Error> {
    let damaged = || Error::Corrupt(format!("the checksum of the blob {name} is wrong"));
    let end = file.len().checked_sub(TRAILER_BYTES).ok_or_else(damaged)?;
    let file = Bytes::from(file);
    let (content, trailer) = (file.slice(..end), &file[end..]);
    let (hash, magic) = trailer.split_at(blake3::OUT_LEN);
    if magic != MAGIC || blake3::hash(&content).as_bytes() != hash {
        return Err(damaged());
    }
    Ok(content)
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

    #[tokio::test]
    async fn any_damage_is_noticed() {
        let (_folder, blobs) = blobs();
        blobs.put("a/b", Bytes::from_static(b"content")).await.unwrap();
        let path = blobs.inner.path("a/b");
        let whole = fs::read(&path).unwrap();
        for damaged in (0..whole.len()).map(|at| {
            let mut file = whole.clone();
            file[at] ^= 1;
            file
        }) {
            fs::write(&path, damaged).unwrap();
            assert!(matches!(blobs.get("a/b").await, Err(Error::Corrupt(_))));
        }
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            assert!(matches!(blobs.get("a/b").await, Err(Error::Corrupt(_))));
        }
    }

    #[tokio::test]
    async fn what_unfinished_puts_left_is_removed_and_never_listed() {
        let (folder, blobs) = blobs();
        fs::write(folder.path().join("blobs/.tmp/17"), b"half").unwrap();
        assert_eq!(blobs.list("").await.unwrap(), Vec::<String>::new());
        drop(blobs);
        let blobs = FileBlobs::open(folder.path().join("blobs")).unwrap();
        assert_eq!(fs::read_dir(blobs.inner.folder.join(TEMPORARY)).unwrap().count(), 0);
    }
}
