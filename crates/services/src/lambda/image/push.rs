//! Images of the platform's own: an operator brings their layers piece by piece, then the image under a name and a tag.
//!
//! Names are the platform's, not an account's: every account can deploy what the operator has pushed.
//!
//! Invariants
//!   1. An image has all its layers: its record and theirs change in one transaction.
//!   2. A push that stops leaves blobs without an owner, which end by themselves.

use std::collections::HashMap;

use bytes::Bytes;
use model::CodeDigest;
use oci::document::{Config, Document};
use oci::reference::Reference;
use oci::{Digest, UNPACKED_BYTES_MAX};
use parking_lot::Mutex;
use store::{Range, Txn};

use super::arrivals::{Failure, Intake};
use super::{Uploads, content_of};
use crate::lambda::packages::Users;
use crate::lambda::record::{ImageContent, PushedImage};
use crate::lambda::{ATTEMPTS, Functions, encoded, keys};

/// Layers that are pushed at once, at most.
const PUSHES_MAX: usize = 64;
/// How long one waits for its next piece.
const PUSH_IDLE_MS: u64 = 10 * 60 * 1_000;

/// Why something is not taken.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// It is wrong, in these words.
    #[error("{0}")]
    Wrong(String),
    /// The platform has failed.
    #[error("the image could not be kept: {0}")]
    Failed(String),
}

fn wrong(words: impl ToString) -> PushError {
    PushError::Wrong(words.to_string())
}

fn failed(words: impl ToString) -> PushError {
    PushError::Failed(words.to_string())
}

impl From<Failure> for PushError {
    fn from(problem: Failure) -> Self {
        match problem {
            Failure::Refused(words) => Self::Wrong(words),
            Failure::Registry(problem) => failed(problem),
            Failure::Store(problem) => failed(problem),
            Failure::Internal(problem) => Self::Failed(problem),
        }
    }
}

/// An image, as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownImage {
    /// `NAME:TAG`
    pub name: String,
    /// `sha256:DIGITS` of its manifest.
    pub digest: String,
    /// How many layers it has.
    pub layers: usize,
    /// Bytes of the layers' blobs.
    pub bytes: u64,
    /// Milliseconds since the epoch.
    pub pushed_ms: u64,
}

struct Push {
    digest: Digest,
    intake: Intake,
    touched_ms: u64,
}

/// Layers that are being pushed, by an id.
#[derive(Default)]
pub(super) struct Pushes(Mutex<HashMap<String, Push>>);

impl Pushes {
    fn take(&self, id: &str) -> Result<Push, PushError> {
        // One that another call holds in this moment is not there for this one.
        let push = self.0.lock().remove(id);
        push.ok_or_else(|| wrong("this push is not under way: it has ended, waited too long, or another call is at it"))
    }

    fn put(&self, id: String, push: Push) -> Result<(), PushError> {
        let mut pushes = self.0.lock();
        let now_ms = push.touched_ms;
        pushes.retain(|_, push| now_ms.saturating_sub(push.touched_ms) < PUSH_IDLE_MS);
        if pushes.len() >= PUSHES_MAX {
            return Err(wrong("too many layers are being pushed at once: try again later"));
        }
        pushes.insert(id, push);
        Ok(())
    }
}

fn digest_of(text: &str) -> Result<(Digest, CodeDigest), PushError> {
    let digest = Digest::parse(text);
    let both = digest.and_then(|digest| CodeDigest::parse(digest.digits()).map(|code| (digest, code)));
    both.ok_or_else(|| wrong(format!("{text:?} is no sha256 digest")))
}

/// A name and a tag of the platform's own.
fn own_name(text: &str) -> Result<Reference, PushError> {
    let reference = Reference::parse(text).filter(|it| it.registry.is_none() && it.digest.is_none());
    reference.ok_or_else(|| {
        wrong(format!("{text:?} is no name for an image of the platform: write NAME:TAG, lower case, without a host"))
    })
}

impl Functions {
    /// Begins to take a layer; answers the id of the push, or nothing if the layer is here.
    ///
    /// # Errors
    /// The digest is none, or the platform has failed.
    pub async fn begin_layer(&self, digest: &str) -> Result<Option<String>, PushError> {
        let (digest, code) = digest_of(digest)?;
        let known = self.package_record(&code).await.map_err(|problem| failed(problem.message))?.is_some();
        if known || self.arrivals.arrived(&code).is_some() {
            return Ok(None);
        }
        let intake = self.arrivals.begin(&digest, UNPACKED_BYTES_MAX).await?;
        let id = self.arrivals.random.hex(16);
        let touched_ms = self.clock.now_ms();
        self.arrivals.pushes.put(id.clone(), Push { digest, intake, touched_ms })?;
        Ok(Some(id))
    }

    /// Takes a piece of a layer that begins `at` so many bytes.
    ///
    /// # Errors
    /// The piece is not the next one, or the layer is refused; the push is over then.
    pub async fn push_layer(&self, id: &str, at: u64, piece: Bytes) -> Result<(), PushError> {
        let mut push = self.arrivals.pushes.take(id)?;
        if push.intake.bytes != at {
            return Err(wrong(format!("the next piece begins at byte {}, not at {at}", push.intake.bytes)));
        }
        if let Err(problem) = push.intake.push(piece).await {
            return Err(match problem {
                // The end says why.
                Failure::Refused(_) => push.intake.finish(&push.digest).await.err().unwrap_or(problem).into(),
                other => other.into(),
            });
        }
        push.touched_ms = self.clock.now_ms();
        self.arrivals.pushes.put(id.to_owned(), push)
    }

    /// The end of a layer.
    ///
    /// # Errors
    /// It is not what its digest says, or no layer.
    pub async fn finish_layer(&self, id: &str) -> Result<(), PushError> {
        let Push { digest, intake, .. } = self.arrivals.pushes.take(id)?;
        let arrived = intake.finish(&digest).await?;
        let (_, code) = digest_of(&digest.to_string())?;
        self.arrivals.keep(&code, arrived);
        Ok(())
    }

    /// Gives an image whose layers are here a name; another image of that name is gone. Answers its digest.
    ///
    /// # Errors
    /// Name, manifest or configuration are refused, or a layer is missing.
    pub async fn put_image(&self, name: &str, manifest: &[u8], config: &[u8]) -> Result<String, PushError> {
        let reference = own_name(name)?;
        let document = Document::read(manifest, None).map_err(wrong)?;
        let Document::Manifest(read) = document else { return Err(wrong("an index is no image")) };
        if Digest::of(config) != read.config.digest {
            return Err(wrong("the configuration has another digest than the manifest says"));
        }
        let config = Config::read(config, self.config.architecture).map_err(wrong)?;
        if config.diff_ids.len() != read.layers.len() {
            return Err(wrong("manifest and configuration name different numbers of layers"));
        }
        let digest = Digest::of(manifest);
        let content = content_of(&digest, &read, &config).map_err(|problem| failed(problem.message))?;
        let mut uploads = Uploads::default();
        for (code, diff_id) in content.layers.iter().zip(&config.diff_ids) {
            if let Some(arrived) = self.arrivals.arrived(code) {
                if arrived.diff_id != *diff_id {
                    return Err(wrong(format!("the layer sha256:{code} unpacks to another digest than it should")));
                }
                uploads.layers.insert(code.clone(), arrived);
            }
        }
        let bytes = read.layers.iter().map(|layer| layer.size).sum();
        let image = PushedImage { content, bytes, pushed_ms: self.clock.now_ms() };
        self.commit_image(&reference, &image, &uploads).await?;
        Ok(digest.to_string())
    }

    async fn commit_image(
        &self,
        reference: &Reference,
        image: &PushedImage,
        uploads: &Uploads,
    ) -> Result<(), PushError> {
        let key = keys::image(&reference.repository, reference.tag());
        let of_aws = |problem: aws::Error| failed(problem.message);
        for _ in 0..ATTEMPTS {
            let snapshot = self.store.snapshot().await.map_err(failed)?;
            let entry = snapshot.get(&key).await.map_err(failed)?;
            let mut users = Users::default().of_layers(&image.content.layers, 1);
            if let Some(entry) = &entry {
                let before: PushedImage = serde_json::from_slice(&entry.value).map_err(failed)?;
                users = users.of_layers(&before.content.layers, -1);
            }
            let txn = Txn::new().expect_unchanged(key.clone(), entry.as_ref());
            let txn = txn.put(key.clone(), encoded(image).map_err(of_aws)?);
            let claimed = self.claim(&*snapshot, &users, &uploads.of(&image.content), txn).await.map_err(of_aws)?;
            drop(snapshot);
            let Some((txn, _)) = claimed else {
                image.content.layers.iter().for_each(|layer| self.arrivals.forget(layer));
                return Err(wrong("a layer of the image is missing: push its layers first"));
            };
            if self.committed(txn).await.map_err(of_aws)? {
                return Ok(());
            }
        }
        Err(failed("too many changes at once"))
    }

    /// Takes the name of an image away; false if there is none. Functions that were made of it keep it.
    ///
    /// # Errors
    /// The name is none, or the platform has failed.
    pub async fn remove_image(&self, name: &str) -> Result<bool, PushError> {
        let reference = own_name(name)?;
        let key = keys::image(&reference.repository, reference.tag());
        for _ in 0..ATTEMPTS {
            let snapshot = self.store.snapshot().await.map_err(failed)?;
            let Some(entry) = snapshot.get(&key).await.map_err(failed)? else { return Ok(false) };
            let image: PushedImage = serde_json::from_slice(&entry.value).map_err(failed)?;
            let txn = Txn::new().expect_version(key.clone(), entry.version).delete(key.clone());
            let users = Users::default().of_layers(&image.content.layers, -1);
            let txn = self.count(&*snapshot, &users, txn).await.map_err(|problem| failed(problem.message))?;
            drop(snapshot);
            if self.committed(txn).await.map_err(|problem| failed(problem.message))? {
                return Ok(true);
            }
        }
        Err(failed("too many changes at once"))
    }

    /// Every image of the platform's own.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn images(&self) -> Result<Vec<ShownImage>, PushError> {
        let images = self.pushed_images().await.map_err(failed)?;
        let shown = |(name, tag, image): (String, String, PushedImage)| ShownImage {
            name: format!("{name}:{tag}"),
            digest: format!("sha256:{}", image.content.digest),
            layers: image.content.layers.len(),
            bytes: image.bytes,
            pushed_ms: image.pushed_ms,
        };
        Ok(images.into_iter().map(shown).collect())
    }

    async fn pushed_images(&self) -> Result<Vec<(String, String, PushedImage)>, store::Error> {
        let mut all = Vec::new();
        let mut range = Range::prefix(keys::images()).rows(256);
        loop {
            let page = self.store.range(&range).await?;
            for entry in &page.entries {
                let torn = || store::Error::Corrupt("the record of an image cannot be read".into());
                let (name, tag) = keys::image_of(&entry.key).ok_or_else(torn)?;
                all.push((name, tag, serde_json::from_slice(&entry.value).map_err(|_| torn())?));
            }
            match page.entries.into_iter().next_back() {
                Some(last) if page.more => range = range.beyond(last.key),
                _ => return Ok(all),
            }
        }
    }

    /// The image that a name without a host means.
    pub(super) async fn pushed(&self, reference: &Reference) -> Result<Option<PushedImage>, store::Error> {
        if let Some(digest) = &reference.digest {
            let fits = |name: &str, content: &ImageContent| {
                name == reference.repository && content.digest.as_str() == digest.digits()
            };
            let images = self.pushed_images().await?;
            return Ok(images
                .into_iter()
                .find(|(name, _, image)| fits(name, &image.content))
                .map(|(_, _, image)| image));
        }
        let entry = self.store.get(&keys::image(&reference.repository, reference.tag())).await?;
        let torn = |_| store::Error::Corrupt("the record of an image cannot be read".into());
        entry.map(|entry| serde_json::from_slice(&entry.value).map_err(torn)).transpose()
    }
}
