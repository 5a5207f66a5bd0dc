//! Code packages on their way to sandboxes: `CODE_ROOT/DIGEST`, unpacked once.
//!
//! Invariants
//!   1. A folder under its final name is complete: packages are unpacked beside it and renamed.
//!   2. Of callers that want one package at the same time, one unpacks it and all wait for that.
//!   3. After a crash of the machine every folder is made anew, since its files may not have reached the disk.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::{Random, archive};
use model::ports::Catalog;
use model::{CodeDigest, FunctionVersion, ImageCode, InvokeError};
use parking_lot::Mutex;
use sandbox::CACHE_SUFFIX;
use tokio::sync::OnceCell;

use crate::dependencies::{self, Dependencies};
use crate::image::{self, Parts};

/// Lambda's limits: 250 MiB unpacked. Entries are bounded so that a package cannot exhaust the disk's inodes.
pub(crate) const LIMITS: archive::Limits = archive::Limits { unpacked_bytes: 250 * 1024 * 1024, entries: 200_000 };
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const BOOT_MARK: &str = ".boot";
/// What folders begin with that are not finished.
pub(crate) const UNFINISHED: &str = ".unpacking-";

/// Filled with what a package brings of others once it is unpacked.
type Flight = Arc<OnceCell<Arc<Dependencies>>>;

/// The unpacked packages of this host.
pub(crate) struct Packages {
    root: PathBuf,
    catalog: Arc<dyn Catalog>,
    random: Arc<dyn Random>,
    flights: Mutex<HashMap<CodeDigest, Flight>>,
}

impl Packages {
    /// The packages below `root`, which is made if it does not exist and cleaned of unfinished work.
    pub(crate) fn open(root: PathBuf, catalog: Arc<dyn Catalog>, random: Arc<dyn Random>) -> io::Result<Self> {
        clean(&root, fs::read_to_string(BOOT_ID).unwrap_or_default().trim())?;
        Ok(Self { root, catalog, random, flights: Mutex::default() })
    }

    /// Makes sure that the code and every layer of a version are unpacked.
    pub(crate) async fn ensure(&self, version: &FunctionVersion) -> Result<(), InvokeError> {
        if let Some(image) = &version.image {
            return self.ensure_image(&version.code, image).await;
        }
        self.unpacked(&version.code).await?;
        for layer in &version.layers {
            self.unpacked(layer).await?;
        }
        Ok(())
    }

    /// Makes sure that one package is unpacked.
    pub(crate) async fn ensure_one(&self, digest: &CodeDigest) -> Result<(), InvokeError> {
        self.unpacked(digest).await
    }

    /// A folder is not there although it was unpacked: the next caller unpacks it again.
    pub(crate) fn forget(&self, digest: &CodeDigest) {
        self.flights.lock().remove(digest);
    }

    /// Takes a package's folders from their names. Answers what is left to be removed.
    pub(crate) fn leave(&self, digest: &CodeDigest) -> Vec<PathBuf> {
        self.forget(digest);
        let names = [digest.to_string(), format!("{digest}{CACHE_SUFFIX}")];
        let renamed = names.iter().filter_map(|name| {
            let beside = self.root.join(format!("{UNFINISHED}{name}-{}", self.random.hex(8)));
            fs::rename(self.root.join(name), &beside).ok().map(|()| beside)
        });
        renamed.collect()
    }

    /// What an unpacked package brings of others.
    pub(crate) fn dependencies(&self, digest: &CodeDigest) -> Option<Arc<Dependencies>> {
        self.flights.lock().get(digest)?.get().cloned()
    }

    /// The files in `/opt/extensions` that a version's layers or image bring, in order. Everything is unpacked.
    pub(crate) fn agents(&self, version: &FunctionVersion) -> Vec<String> {
        let mut names = BTreeSet::new();
        let (packages, inside): (&[CodeDigest], &[&str]) = match &version.image {
            Some(_) => (std::slice::from_ref(&version.code), &["opt", "extensions"]),
            None => (&version.layers, &["extensions"]),
        };
        for package in packages {
            names.extend(files_in(&self.root.join(package.as_str()), inside));
        }
        names.into_iter().collect()
    }

    /// Makes sure that an image's root is there, and the layers that it is made of.
    async fn ensure_image(&self, root: &CodeDigest, image: &ImageCode) -> Result<(), InvokeError> {
        let flight = self.flights.lock().entry(root.clone()).or_default().clone();
        let made = async {
            let target = self.root.join(root.as_str());
            if tokio::fs::try_exists(&target).await.unwrap_or(false) {
                return Ok(Arc::default());
            }
            for layer in &image.layers {
                self.ensure_layer(layer).await?;
            }
            let layers = image.layers.iter().map(|layer| self.root.join(layer.as_str())).collect();
            let beside = self.beside(root);
            blocking(move || image::make_root(layers, &beside, &target)).await.map(|()| Arc::default())
        };
        flight.get_or_try_init(|| made).await.map(drop)
    }

    async fn ensure_layer(&self, layer: &CodeDigest) -> Result<(), InvokeError> {
        let flight = self.flights.lock().entry(layer.clone()).or_default().clone();
        let made = async {
            let target = self.root.join(layer.as_str());
            if tokio::fs::try_exists(&target).await.unwrap_or(false) {
                return Ok(Arc::default());
            }
            let beside = self.beside(layer);
            let parts = Parts::new(self.catalog.clone(), layer.clone());
            blocking(move || image::unpack_layer(parts, &beside, &target)).await.map(|()| Arc::default())
        };
        flight.get_or_try_init(|| made).await.map(drop)
    }

    fn beside(&self, digest: &CodeDigest) -> PathBuf {
        self.root.join(format!("{UNFINISHED}{digest}-{}", self.random.hex(8)))
    }

    async fn unpacked(&self, digest: &CodeDigest) -> Result<(), InvokeError> {
        let flight = self.flights.lock().entry(digest.clone()).or_default().clone();
        // A failure leaves the cell empty, so that the next caller tries again.
        let unpacked = async {
            self.unpack(digest).await?;
            let target = self.root.join(digest.as_str());
            let found = tokio::task::spawn_blocking(move || dependencies::of(&target)).await;
            let found =
                found.map_err(|error| InvokeError::Internal(format!("looking at {digest} stopped: {error}")))?;
            found.map(Arc::new).map_err(|error| InvokeError::Internal(format!("{digest} cannot be read: {error}")))
        };
        flight.get_or_try_init(|| unpacked).await.map(drop)
    }

    async fn unpack(&self, digest: &CodeDigest) -> Result<(), InvokeError> {
        let target = self.root.join(digest.as_str());
        let cache = self.root.join(format!("{digest}{CACHE_SUFFIX}"));
        if tokio::fs::try_exists(&target).await.unwrap_or(false) {
            return Ok(());
        }
        let zip = self.catalog.package(digest).await?;
        let beside = self.beside(digest);
        let work = tokio::task::spawn_blocking(move || {
            let done = unpack_to(&zip, &beside, &target, &cache);
            if done.is_err() {
                // What is left is removed at the next start at the latest.
                let _ = fs::remove_dir_all(&beside);
            }
            done
        });
        match work.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(archive::Error::Io(error))) => {
                Err(InvokeError::Internal(format!("the package {digest} could not be unpacked: {error}")))
            }
            Ok(Err(error)) => Err(InvokeError::NotReady(format!("The function's code cannot be used: {error}"))),
            Err(error) => Err(InvokeError::Internal(format!("unpacking stopped: {error}"))),
        }
    }
}

/// Names of what is no folder in a folder of a package. No link is followed: it would lead out of the package here.
fn files_in(package: &Path, inside: &[&str]) -> Vec<String> {
    let mut folder = package.to_owned();
    for name in inside {
        folder.push(name);
        if !fs::symlink_metadata(&folder).is_ok_and(|found| found.is_dir()) {
            return Vec::new();
        }
    }
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let files = entries.filter(|entry| entry.file_type().is_ok_and(|kind| !kind.is_dir()));
    files.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn unpack_to(zip: &[u8], beside: &Path, target: &Path, cache: &Path) -> Result<(), archive::Error> {
    make_folder(beside)?;
    archive::unpack(zip, beside, LIMITS)?;
    // What was made of an earlier folder goes by the times of its files.
    if let Err(error) = fs::remove_dir_all(cache)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error.into());
    }
    Ok(name(beside, target)?)
}

/// Gives a finished folder its name.
pub(crate) fn name(beside: &Path, target: &Path) -> io::Result<()> {
    match fs::rename(beside, target) {
        Ok(()) => Ok(()),
        // Another process on the same folder was first; both made the same.
        Err(_) if target.is_dir() => fs::remove_dir_all(beside),
        Err(error) => Err(error),
    }
}

async fn blocking(work: impl FnOnce() -> Result<(), InvokeError> + Send + 'static) -> Result<(), InvokeError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(InvokeError::Internal(format!("unpacking stopped: {error}"))))
}

pub(crate) fn make_folder(folder: &Path) -> io::Result<()> {
    fs::create_dir(folder)?;
    // Sandboxes read it under ids of their own, whatever the umask says; the root above is closed to all others.
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))
}

/// Removes unfinished folders, and all of them if the machine was started since they were made.
fn clean(root: &Path, boot: &str) -> io::Result<()> {
    fs::create_dir_all(root)?;
    let mark = root.join(BOOT_MARK);
    let same_boot = fs::read_to_string(&mark).is_ok_and(|marked| marked == boot);
    let mut gone = Vec::new();
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let package = CodeDigest::parse(name.strip_suffix(CACHE_SUFFIX).unwrap_or(name)).is_some();
        if name.starts_with(UNFINISHED) {
            gone.push(entry.path());
        } else if package && !same_boot {
            let beside = root.join(format!("{UNFINISHED}old-{boot}-{name}"));
            fs::rename(entry.path(), &beside)?;
            gone.push(beside);
        }
    }
    fs::write(mark, boot)?;
    // Images have many files: a start does not wait for them to go.
    let remove = move || {
        for folder in gone {
            if let Err(error) = fs::remove_dir_all(&folder) {
                tracing::warn!(%error, "an old package cannot be removed");
            }
        }
    };
    std::thread::Builder::new().name("old-packages".into()).spawn(remove).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_outlive_the_process_but_not_the_boot() {
        let root = tempfile::tempdir().unwrap();
        let package = root.path().join("0a".repeat(32));
        let cache = root.path().join(format!("{}.cache", "0a".repeat(32)));
        let unfinished = root.path().join(".unpacking-x");
        clean(root.path(), "boot1").unwrap();
        fs::create_dir(&package).unwrap();
        fs::create_dir(&cache).unwrap();
        fs::create_dir(&unfinished).unwrap();
        fs::create_dir(root.path().join("other")).unwrap();
        clean(root.path(), "boot1").unwrap();
        assert!(package.is_dir() && cache.is_dir());
        clean(root.path(), "boot2").unwrap();
        assert!(!package.exists() && !cache.exists() && root.path().join("other").is_dir());
        let left = || fs::read_dir(root.path()).unwrap().count();
        let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while left() > 2 && std::time::Instant::now() < end {
            std::thread::yield_now();
        }
        assert_eq!(left(), 2, "the mark and what is no package");
    }
}
