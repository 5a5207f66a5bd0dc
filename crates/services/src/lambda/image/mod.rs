//! Functions from container images: what an `ImageUri` means, and how its layers come to be packages.
//!
//! A name with a host leads to that registry; one without is an image that an operator has pushed to the platform itself,
//! which every account may use. A call that deploys an image waits until its layers are here and checked, so that its answer
//! says `Active`: there is no function whose code is still to come. Who gives up and calls again goes on with the same pull.
//!
//! Layers are kept as packages are (`packages`): one blob for all images that have it, owned by its record, removed when
//! nobody uses it. Manifest and configuration are not kept; what matters of them is in the function's record.
//!
//! Invariants
//!   1. A layer has a record only after its digest, its decompressed digest, its size and its paths were checked.
//!   2. A version goes on with the image that it was given, whatever the image's name means later.
//!
//! Start reading at `Functions::image`; how a layer comes is in `arrivals`, how an operator brings one in `push`.

mod arrivals;
mod push;

use std::collections::BTreeMap;
use std::sync::Arc;

use aws::Error;
use bytes::Bytes;
use model::CodeDigest;
use oci::credentials::Credentials;
use oci::document::{self, Config, Document, Manifest};
use oci::reference::Reference;
use oci::registry::{self, Place, Registry, Transport};
use oci::{Digest, UNPACKED_BYTES_MAX};

pub(super) use self::arrivals::Arrivals;
use self::arrivals::{Arrived, Failure, Wanted};
pub use self::push::{PushError, ShownImage};
use super::packages::{Brought, Package, Upload};
use super::record::{ImageContent, ImageRecord, PackageRecord};
use super::{Functions, decoded, error, keys};

/// The code that a call brings.
#[derive(Debug)]
pub(super) enum Code {
    /// A zip.
    Zip(Package),
    /// An image.
    Image(Image),
}

/// An image that was found, its layers not looked for yet.
#[derive(Debug)]
pub(super) struct Image {
    record: ImageRecord,
    /// Where its layers are, if not here.
    source: Option<Source>,
}

#[derive(Debug)]
struct Source {
    place: Place,
    layers: Vec<Wanted>,
}

impl Code {
    /// What `FunctionVersion::code` says.
    pub(super) fn digest(&self) -> &CodeDigest {
        match self {
            Self::Zip(package) => &package.digest,
            Self::Image(image) => &image.record.content.digest,
        }
    }

    /// `CodeSize`
    pub(super) fn bytes(&self) -> u64 {
        self.package().map_or(0, |package| package.zip.len() as u64)
    }

    /// The zip, if it is one.
    pub(super) fn package(&self) -> Option<&Package> {
        match self {
            Self::Zip(package) => Some(package),
            Self::Image(_) => None,
        }
    }

    /// The image, if it is one.
    pub(super) fn image(&self) -> Option<ImageRecord> {
        match self {
            Self::Zip(_) => None,
            Self::Image(image) => Some(image.record.clone()),
        }
    }
}

/// What a call has uploaded so far.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    zip: Option<Upload>,
    layers: BTreeMap<CodeDigest, Arrived>,
}

impl Uploads {
    /// What comes with a call, by its name.
    pub(super) fn brought<'a>(&'a self, code: &'a Code) -> Vec<Brought<'a>> {
        match code {
            Code::Zip(package) => vec![Brought::package(package, self.zip.as_ref())],
            Code::Image(image) => self.of(&image.record.content),
        }
    }

    fn of<'a>(&'a self, content: &'a ImageContent) -> Vec<Brought<'a>> {
        let layer = |code| {
            let arrived = self.layers.get(code);
            let unpacked_bytes = arrived.map_or(0, |arrived| arrived.unpacked_bytes);
            Brought { code, unpacked_bytes, upload: arrived.map(|arrived| &arrived.upload) }
        };
        content.layers.iter().map(layer).collect()
    }
}

/// What AWS says of an image that is not there.
fn no_such_image(uri: &str) -> Error {
    error::invalid(format!("Source image {uri} does not exist. Provide a valid source image."))
}

fn invalid_image(uri: &str, why: impl std::fmt::Display) -> Error {
    error::invalid(format!("Source image {uri} is not valid. Provide a valid source image. ({why})"))
}

fn of_registry(uri: &str, problem: registry::Error) -> Error {
    match problem {
        registry::Error::NotFound => no_such_image(uri),
        registry::Error::Denied => error::denied(format!(
            "Lambda does not have permission to access the ECR image. Check the ECR permissions. ({uri}: the registry refuses the \
             credentials that this platform has for it, or it has none)"
        )),
        other => error::invalid(format!("Source image {uri} cannot be had: {other}")),
    }
}

fn of_document(uri: &str, problem: document::Error) -> Error {
    match problem {
        document::Error::MediaType(kind) => error::invalid(format!(
            "The image manifest, config or layer media type for the source image {uri} is not supported. ({kind})"
        )),
        other => invalid_image(uri, other),
    }
}

fn of_arrival(uri: &str, problem: Failure) -> Error {
    match problem {
        Failure::Registry(problem) => of_registry(uri, problem),
        Failure::Store(problem) => error::store(problem),
        Failure::Internal(problem) => Error::internal(problem),
        Failure::Refused(why) => invalid_image(uri, why),
    }
}

fn too_large(uri: &str) -> Error {
    invalid_image(uri, format_args!("its layers hold more than {UNPACKED_BYTES_MAX} bytes once unpacked"))
}

/// A digest as the name of a package.
fn code(digest: &Digest) -> Result<CodeDigest, Error> {
    CodeDigest::parse(digest.digits()).ok_or_else(|| Error::internal("a SHA-256 has 64 digits"))
}

/// What functions need to know of an image.
fn content_of(digest: &Digest, manifest: &Manifest, config: &Config) -> Result<ImageContent, Error> {
    Ok(ImageContent {
        digest: code(digest)?,
        layers: manifest.layers.iter().map(|layer| code(&layer.digest)).collect::<Result<_, _>>()?,
        entrypoint: config.entrypoint.clone(),
        command: config.command.clone(),
        folder: config.working_folder.clone(),
        environment: config.environment.clone(),
    })
}

impl Functions {
    /// Lets images come from registries: over this transport, with these credentials. Said once.
    pub fn pull_with(&self, transport: Arc<dyn Transport>, credentials: Credentials) {
        // A second registry client has nothing that the first has not.
        let _ = self.arrivals.registry.set(Registry::new(transport, credentials));
    }

    /// The image that an `ImageUri` means now.
    pub(super) async fn image(&self, uri: &str) -> Result<Image, Error> {
        let reference = Reference::parse(uri).ok_or_else(|| {
            invalid_image(
                uri,
                "it is no name of an image: HOST/NAME:TAG or HOST/NAME@sha256:…, or NAME:TAG of the platform",
            )
        })?;
        match &reference.registry {
            None => self.pushed_image(uri, &reference).await,
            Some(host) => {
                let place = Place { registry: host.clone(), repository: reference.repository.clone() };
                self.remote_image(uri, &reference, place).await
            }
        }
    }

    async fn pushed_image(&self, uri: &str, reference: &Reference) -> Result<Image, Error> {
        let pushed = self.pushed(reference).await.map_err(error::store)?;
        let content = pushed.ok_or_else(|| no_such_image(uri))?.content;
        let resolved = format!("{}@sha256:{}", reference.name(), content.digest);
        Ok(Image { record: ImageRecord { uri: uri.to_owned(), resolved, content }, source: None })
    }

    async fn remote_image(&self, uri: &str, reference: &Reference, place: Place) -> Result<Image, Error> {
        let registry = self.arrivals.registry.get();
        let registry = registry.ok_or_else(|| Error::not_implemented("images of registries on this platform"))?;
        let fetched = |problem| of_registry(uri, problem);
        let read = |problem| of_document(uri, problem);
        let architecture = self.config.architecture;
        let mut found = registry.document(&place, &reference.asked()).await.map_err(fetched)?;
        let mut document = Document::read(&found.bytes, found.media_type.as_deref()).map_err(read)?;
        if let Document::Index(index) = &document {
            let chosen = document::choose(index, architecture).map_err(read)?;
            found = registry.document(&place, &chosen.digest.to_string()).await.map_err(fetched)?;
            document = Document::read(&found.bytes, Some(&chosen.media_type)).map_err(read)?;
        }
        let Document::Manifest(manifest) = document else {
            return Err(invalid_image(uri, "an index leads to another index"));
        };
        let config = registry.small_blob(&place, &manifest.config.digest).await.map_err(fetched)?;
        let config = Config::read(&config, architecture).map_err(read)?;
        if config.diff_ids.len() != manifest.layers.len() {
            return Err(invalid_image(uri, "manifest and configuration name different numbers of layers"));
        }
        if manifest.layers.iter().map(|layer| layer.size).fold(0, u64::saturating_add) > UNPACKED_BYTES_MAX {
            return Err(too_large(uri));
        }
        let content = content_of(&found.digest, &manifest, &config)?;
        let wanted = manifest.layers.iter().zip(config.diff_ids).map(|(layer, diff_id)| Wanted {
            digest: layer.digest.clone(),
            bytes: layer.size,
            diff_id,
        });
        let source = Some(Source { place, layers: wanted.collect() });
        let resolved = format!("{}@{}", reference.name(), found.digest);
        Ok(Image { record: ImageRecord { uri: uri.to_owned(), resolved, content }, source })
    }

    /// Has what a function is made of here, as far as that takes long.
    pub(super) async fn ready(&self, code: &Code) -> Result<Uploads, Error> {
        let mut uploads = Uploads::default();
        if let Code::Image(image) = code {
            self.bring(code, &mut uploads).await?;
            self.check_image_size(image, &uploads).await?;
        }
        Ok(uploads)
    }

    /// Uploads what has no record yet.
    pub(super) async fn bring(&self, brought: &Code, uploads: &mut Uploads) -> Result<(), Error> {
        let image = match brought {
            Code::Zip(package) => {
                uploads.zip = Some(self.upload(package).await?);
                return Ok(());
            }
            Code::Image(image) => image,
        };
        let uri = &image.record.uri;
        let Some(source) = &image.source else {
            for layer in &image.record.content.layers {
                // It was removed a moment ago.
                self.package_record(layer).await?.ok_or_else(|| no_such_image(uri))?;
            }
            return Ok(());
        };
        for wanted in &source.layers {
            let layer = code(&wanted.digest)?;
            if self.package_record(&layer).await?.is_some() {
                continue;
            }
            if uploads.layers.remove(&layer).is_some() {
                // It was of no use: too old by now.
                self.arrivals.forget(&layer);
            }
            let arrived = self.arrivals.fetch(source.place.clone(), wanted.clone()).await;
            uploads.layers.insert(layer, arrived.map_err(|problem| of_arrival(uri, problem))?);
        }
        Ok(())
    }

    async fn check_image_size(&self, image: &Image, uploads: &Uploads) -> Result<(), Error> {
        let mut total = 0u64;
        for layer in &image.record.content.layers {
            let bytes = match uploads.layers.get(layer) {
                Some(arrived) => arrived.unpacked_bytes,
                None => self.package_record(layer).await?.and_then(|record| record.unpacked_bytes).unwrap_or(0),
            };
            total = total.saturating_add(bytes);
        }
        if total > UNPACKED_BYTES_MAX { Err(too_large(&image.record.uri)) } else { Ok(()) }
    }

    async fn package_record(&self, code: &CodeDigest) -> Result<Option<PackageRecord>, Error> {
        let entry = self.store.get(&keys::package(code)).await.map_err(error::store)?;
        entry.map(|entry| decoded(&entry.value)).transpose()
    }

    /// Removes the zip of a call that did not come to use it. Layers stay for a while: whoever calls again has them.
    pub(super) async fn discard_unused(&self, uploads: Uploads, used: bool) {
        if let Some(upload) = uploads.zip.filter(|_| !used) {
            self.discard(&upload).await;
        }
    }
}

/// Pieces of something that comes, whoever sends it.
type Piece = Bytes;
