//! Container images as they are defined by the Open Container Initiative and by Docker: names, documents, layers, registries.
//!
//! | file          | is                                                                            |
//! |---------------|-------------------------------------------------------------------------------|
//! | `reference`   | what an image is called                                                       |
//! | `document`    | manifests, indexes, configurations                                            |
//! | `layer`       | one layer: read under limits, and unpacked to numbered files                  |
//! | `tree`        | layers over each other, as one tree of files; how it comes to disk            |
//! | `archive`     | images in files: `docker save`, and folders of the OCI layout                 |
//! | `registry`    | the distribution protocol, over a transport that others provide               |
//! | `credentials` | the registries' passwords in the form of Docker's `config.json`               |
//!
//! Non-purpose: which images there are, who may have them, and what runs in them.
//!
//! Invariants
//!   1. Nothing of an image decides where something is written: files of layers have numbers for names, and the tree that
//!      names them is made in memory, where no link of the disk can be followed.
//!   2. Every byte is counted against a limit before it is kept, after decompression.
//!   3. What is fetched by a digest has that digest, or is refused.

pub mod archive;
pub mod credentials;
pub mod document;
pub mod layer;
pub mod reference;
pub mod registry;
pub mod tree;

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Most bytes of an image once unpacked. Source: Lambda quotas (10 GB, every layer counted).
pub const UNPACKED_BYTES_MAX: u64 = 10 * 1024 * 1024 * 1024;
/// Most layers of an image. Source: what container engines take.
pub const LAYERS_MAX: usize = 127;
/// Most entries of all layers of an image: a bound on inodes and on the memory of the tree.
pub const ENTRIES_MAX: u64 = 500_000;
/// Most bytes of a manifest, an index or a configuration. Source: the distribution specification's advice.
pub const DOCUMENT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A SHA-256 as 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Digest(String);

impl Digest {
    /// Of `sha256:DIGITS`; nothing of other texts and other algorithms.
    pub fn parse(text: &str) -> Option<Self> {
        Self::of_digits(text.strip_prefix("sha256:")?)
    }

    /// Of the digits alone.
    pub fn of_digits(digits: &str) -> Option<Self> {
        let fits = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        (digits.len() == 64 && digits.bytes().all(fits)).then(|| Self(digits.to_owned()))
    }

    /// Of bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self::finish(Sha256::new_with_prefix(bytes))
    }

    /// Of what a sum has taken.
    pub fn finish(sum: Sha256) -> Self {
        Self(hex::encode(sum.finalize()))
    }

    /// The digits.
    pub fn digits(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}
