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
/// Where Lambda starts what it finds beside the function's own program.
const EXTENSIONS: &str = "/opt/extensions";

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
    if tree.has_files_in(EXTENSIONS) {
        return Err(unfit(format_args!("external extensions are not supported, and it has some in {EXTENSIONS}")));
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
