//! Container images on their way to sandboxes: layers unpacked once, and roots made of them, all by digest below the code root.
//!
//! A root shares its files with the layers that it is made of (`oci::tree`), and layers are shared by images. What the
//! platform mounts in a root, and puts into it, is in it before it has its name.
//!
//! Invariants
//!   1. A folder under its final name is complete, as every package's is (`package`).
//!   2. What is unpacked of a layer is what was checked when it was deployed, by its digest; limits hold here again.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use model::ports::Catalog;
use model::{CodeDigest, InvokeError};
use oci::layer::{self, Limits};
use oci::tree::{Furniture, Tree};
use sandbox::{ROOT_FILES, ROOT_FOLDERS, ROOT_TRUST, TRUST_PLACES};
use tokio::runtime::Handle;

use crate::package::{make_folder, name};

/// Bytes that are asked for at once.
const PART_BYTES: usize = 4 * 1024 * 1024;
const FURNITURE: Furniture = Furniture { folders: ROOT_FOLDERS, files: ROOT_FILES, links: (TRUST_PLACES, ROOT_TRUST) };

/// A layer's bytes, read part by part. For threads that may wait.
pub(crate) struct Parts {
    catalog: Arc<dyn Catalog>,
    layer: CodeDigest,
    at: u64,
    part: Bytes,
    runtime: Handle,
}

impl Parts {
    /// The bytes of a layer. Must be called within a tokio runtime.
    pub(crate) fn new(catalog: Arc<dyn Catalog>, layer: CodeDigest) -> Self {
        Self { catalog, layer, at: 0, part: Bytes::new(), runtime: Handle::current() }
    }
}

impl Read for Parts {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.part.has_remaining() {
            let part = self.catalog.package_part(&self.layer, self.at, PART_BYTES);
            self.part = self.runtime.block_on(part).map_err(io::Error::other)?;
            self.at += self.part.len() as u64;
        }
        let count = buffer.len().min(self.part.remaining());
        self.part.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

/// Unpacks a layer at `beside` and gives it its name.
pub(crate) fn unpack_layer(parts: Parts, beside: &Path, target: &Path) -> Result<(), InvokeError> {
    let limits = Limits { bytes: oci::UNPACKED_BYTES_MAX, entries: oci::ENTRIES_MAX };
    let done = fs::create_dir(beside).map_err(host).and_then(|()| {
        layer::unpack(parts, beside, limits).map_err(|error| match error {
            layer::Error::Io(error) => host(error),
            other => unfit(other),
        })?;
        name(beside, target).map_err(host)
    });
    left(beside, done)
}

/// Makes a root of unpacked layers at `beside` and gives it its name.
pub(crate) fn make_root(layers: Vec<PathBuf>, beside: &Path, target: &Path) -> Result<(), InvokeError> {
    let mut tree = Tree::default();
    let mut left_over = oci::ENTRIES_MAX;
    for layer in &layers {
        let entries = layer::index(layer).map_err(host)?;
        let rest = left_over.checked_sub(entries.len() as u64);
        left_over = rest.ok_or_else(|| unfit(layer::Error::TooMany(oci::ENTRIES_MAX)))?;
        tree.apply(&entries).map_err(unfit)?;
    }
    tree.furnish(&FURNITURE);
    let done = make_folder(beside).and_then(|()| tree.write(beside, &layers)).and_then(|()| name(beside, target));
    left(beside, done.map_err(host))
}

fn left(beside: &Path, done: Result<(), InvokeError>) -> Result<(), InvokeError> {
    if done.is_err() {
        // What is left is removed at the next start at the latest.
        let _ = fs::remove_dir_all(beside);
    }
    done
}

fn host(error: io::Error) -> InvokeError {
    InvokeError::Internal(format!("an image could not be unpacked: {error}"))
}

fn unfit(error: impl std::fmt::Display) -> InvokeError {
    InvokeError::NotReady(format!("The function's image cannot be used: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::package::Packages;
    use async_trait::async_trait;
    use base::SeededRandom;
    use model::{FunctionRef, FunctionVersion, ImageCode};
    use parking_lot::Mutex;
    use sha2::{Digest, Sha256};
    use std::collections::HashMap;
    use std::os::unix::fs::MetadataExt;

    /// Layers, and how often each was begun to be read.
    #[derive(Default)]
    struct Layers {
        there: HashMap<CodeDigest, Bytes>,
        begun: Mutex<Vec<CodeDigest>>,
    }

    #[async_trait]
    impl Catalog for Layers {
        async fn version(&self, function: &FunctionRef) -> Result<Arc<FunctionVersion>, InvokeError> {
            Err(InvokeError::NotFound(function.arn()))
        }

        async fn package(&self, code: &CodeDigest) -> Result<Bytes, InvokeError> {
            self.there.get(code).cloned().ok_or_else(|| InvokeError::NotReady("it is gone".into()))
        }

        async fn package_part(&self, code: &CodeDigest, from: u64, _: usize) -> Result<Bytes, InvokeError> {
            if from == 0 {
                self.begun.lock().push(code.clone());
            }
            // Smaller parts than are asked for.
            let whole = self.package(code).await?;
            let from = (from as usize).min(whole.len());
            Ok(whole.slice(from..whole.len().min(from + 100)))
        }
    }

    /// A layer of files, as tar has them.
    fn layer(files: &[(&str, &str)]) -> Bytes {
        let mut archive = Vec::new();
        for (name, content) in files {
            let mut header = [0u8; 512];
            header[..name.len()].copy_from_slice(name.as_bytes());
            header[100..107].copy_from_slice(b"0000644");
            header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
            header[156] = b'0';
            header[257..265].copy_from_slice(b"ustar\x0000");
            header[148..156].fill(b' ');
            let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
            header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
            archive.extend_from_slice(&header);
            archive.extend_from_slice(content.as_bytes());
            archive.resize(archive.len().next_multiple_of(512), 0);
        }
        archive.resize(archive.len() + 1_024, 0);
        archive.into()
    }

    fn digest(bytes: &[u8]) -> CodeDigest {
        let digits: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        CodeDigest::parse(&digits).unwrap()
    }

    struct World {
        folder: tempfile::TempDir,
        layers: Layers,
    }

    impl World {
        /// A version of an image of these layers.
        fn version(&mut self, name: &str, layers: &[&Bytes]) -> FunctionVersion {
            self.layers.there.extend(layers.iter().map(|layer| (digest(layer), (*layer).clone())));
            let mut version = crate::tests::fixtures::version(name);
            version.code = digest(name.as_bytes());
            let layers = layers.iter().map(|layer| digest(layer)).collect();
            version.image = Some(ImageCode { layers, line: Vec::new(), folder: "/".into(), environment: Vec::new() });
            version
        }
    }

    #[tokio::test]
    async fn images_share_what_is_unpacked_once() {
        let mut world = World { folder: tempfile::tempdir().unwrap(), layers: Layers::default() };
        let (base, upper) = (layer(&[("bin/base", "shared"), ("gone", "x")]), layer(&[(".wh.gone", ""), ("own", "1")]));
        let (one, two) = (world.version("one", &[&base]), world.version("two", &[&base, &upper, &base]));
        let catalog = Arc::new(world.layers);
        let root = world.folder.path();
        let packages = Packages::open(root.to_owned(), catalog.clone(), SeededRandom::new(1)).unwrap();
        let (first, second) = tokio::join!(packages.ensure(&one), packages.ensure(&two));
        first.unwrap();
        second.unwrap();
        packages.ensure(&two).await.unwrap();
        assert_eq!(catalog.begun.lock().len(), 2, "each layer is read once");
        let file = |version: &FunctionVersion, path: &str| root.join(version.code.as_str()).join(path);
        let inode = |version: &FunctionVersion| fs::metadata(file(version, "bin/base")).unwrap().ino();
        assert_eq!(inode(&one), inode(&two));
        assert!(file(&one, "gone").exists() && file(&two, "own").exists());
        for (path, _) in ROOT_FILES {
            assert!(fs::symlink_metadata(file(&two, &path[1..])).unwrap().is_file(), "{path}");
        }
        for path in ROOT_FOLDERS {
            assert!(fs::symlink_metadata(file(&two, &path[1..])).unwrap().is_dir(), "{path}");
        }
        assert_eq!(fs::read_link(file(&one, &TRUST_PLACES[0][1..])).unwrap(), Path::new(ROOT_TRUST));
        // What one needs no more is no loss for the other.
        for package in [&one.code, &digest(&base)] {
            packages.leave(package).into_iter().for_each(|folder| fs::remove_dir_all(folder).unwrap());
        }
        assert_eq!(fs::read_to_string(file(&two, "bin/base")).unwrap(), "shared");
        packages.ensure(&one).await.unwrap();
        assert!(file(&one, "bin/base").exists());
    }

    #[tokio::test]
    async fn what_does_not_fit_leaves_nothing_and_is_tried_again() {
        let mut world = World { folder: tempfile::tempdir().unwrap(), layers: Layers::default() };
        let below = world.version("below", &[&layer(&[("a", "x")]), &layer(&[("a/b", "x")])]);
        let torn = world.version("torn", &[&layer(&[("a", &"x".repeat(600))]).slice(..700)]);
        let catalog = Arc::new(world.layers);
        let root = world.folder.path();
        let packages = Packages::open(root.to_owned(), catalog, SeededRandom::new(1)).unwrap();
        for (version, words) in [(&below, "below a file"), (&torn, "cannot be read")] {
            for _ in 0..2 {
                let Err(InvokeError::NotReady(message)) = packages.ensure(version).await else { panic!("{words}") };
                assert!(message.contains(words), "{message}");
            }
            assert!(!root.join(version.code.as_str()).exists());
        }
        let left = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        assert!(left.into_iter().all(|name| !name.contains("unpacking")));
    }
}
