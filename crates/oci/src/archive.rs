//! Images in files: what `docker save` writes, and folders and archives of the OCI layout.
//!
//! Both become a manifest of the OCI and blobs by digest. Nothing is unpacked here: pieces of an archive are read where they
//! are in it.
//!
//! Start reading at `open`.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::document::{self, CONFIG, Config, Descriptor, Document, MANIFEST};
use crate::{DOCUMENT_BYTES_MAX, Digest};

/// Most pieces of an archive.
const PIECES_MAX: usize = 100_000;

/// An image in a file.
#[derive(Debug)]
pub struct Image {
    /// Its manifest.
    pub manifest: Vec<u8>,
    /// Its configuration.
    pub config: Vec<u8>,
    /// Its layers, the lowest first.
    pub layers: Vec<Blob>,
}

/// A layer.
#[derive(Debug)]
pub struct Blob {
    /// Of its bytes as they are.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    piece: Piece,
}

impl Blob {
    /// Its bytes.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn open(&self) -> io::Result<impl Read + use<>> {
        self.piece.open()
    }
}

/// Why a file holds no image.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It is something else.
    #[error("{0}")]
    Other(String),
    /// A document of it is refused.
    #[error(transparent)]
    Document(#[from] document::Error),
}

fn other(words: impl Into<String>) -> Error {
    Error::Other(words.into())
}

/// A part of a file.
#[derive(Debug, Clone)]
struct Piece {
    file: PathBuf,
    at: u64,
    size: u64,
}

impl Piece {
    fn open(&self) -> io::Result<impl Read + use<>> {
        let mut file = File::open(&self.file)?;
        file.seek(SeekFrom::Start(self.at))?;
        Ok(file.take(self.size))
    }

    fn small(&self) -> Result<Vec<u8>, Error> {
        if self.size > DOCUMENT_BYTES_MAX as u64 {
            return Err(other(format!("a document is longer than {DOCUMENT_BYTES_MAX} bytes")));
        }
        let mut bytes = Vec::new();
        self.open()?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

/// Where pieces are by their names.
enum Source {
    Folder(PathBuf),
    Archive(HashMap<String, Piece>),
}

impl Source {
    fn find(&self, name: &str) -> Option<Piece> {
        match self {
            Self::Archive(pieces) => pieces.get(name.trim_start_matches("./")).cloned(),
            Self::Folder(folder) => {
                let file = folder.join(name);
                let size = file.metadata().ok().filter(std::fs::Metadata::is_file)?.len();
                Some(Piece { file, at: 0, size })
            }
        }
    }

    fn need(&self, name: &str) -> Result<Piece, Error> {
        self.find(name).ok_or_else(|| other(format!("it has no {name}")))
    }

    fn blob(&self, digest: &Digest) -> Result<Piece, Error> {
        self.need(&format!("blobs/sha256/{}", digest.digits()))
    }
}

/// The image in a file or folder, for a machine (`x86_64`, `arm64`).
///
/// # Errors
/// There is none for this machine, there are several, or it is damaged.
pub fn open(path: &Path, architecture: &str) -> Result<Image, Error> {
    let source = if path.is_dir() { Source::Folder(path.to_owned()) } else { Source::Archive(pieces(path)?) };
    let image = match (source.find("index.json"), source.find("manifest.json")) {
        // What Docker writes since its version 25 is both; the layout has digests to check.
        (Some(index), _) => of_layout(&source, &index, architecture)?,
        (None, Some(list)) => of_docker(&source, &list)?,
        (None, None) => {
            return Err(other(
                "it is neither an archive of `docker save` (no manifest.json) nor an OCI layout (no index.json)",
            ));
        }
    };
    let config = Config::read(&image.config, architecture)?;
    if config.diff_ids.len() != image.layers.len() {
        return Err(other("its configuration names another number of layers"));
    }
    Ok(image)
}

fn pieces(path: &Path) -> Result<HashMap<String, Piece>, Error> {
    let mut file = File::open(path)?;
    let mut begin = [0; 4];
    let read = file.read(&mut begin)?;
    if begin[..read].starts_with(&[0x1f, 0x8b]) || begin[..read].starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        return Err(other("it is compressed: decompress it first (gunzip, unzstd)"));
    }
    file.seek(SeekFrom::Start(0))?;
    let mut archive = tar::Archive::new(file);
    let mut pieces = HashMap::new();
    let mut aliases = Vec::new();
    for entry in archive.entries_with_seek()? {
        let entry = entry.map_err(|error| other(format!("it is no archive: {error}")))?;
        if pieces.len() > PIECES_MAX {
            return Err(other(format!("it has more than {PIECES_MAX} entries")));
        }
        let name = entry.path()?.to_string_lossy().trim_start_matches("./").to_owned();
        let kind = entry.header().entry_type();
        if kind.is_file() {
            let piece = Piece { file: path.to_owned(), at: entry.raw_file_position(), size: entry.size() };
            pieces.insert(name, piece);
        } else if kind.is_symlink() || kind.is_hard_link() {
            // Older versions of Docker write a layer that stands twice as a link to the first.
            if let Some(to) = entry.link_name()? {
                aliases.push((name, to.to_string_lossy().into_owned(), kind.is_symlink()));
            }
        }
    }
    for (name, to, is_symbolic) in aliases {
        let above = name.rsplit_once('/').map_or("", |(above, _)| above);
        let to = if is_symbolic { joined(above, &to) } else { Some(to) };
        if let Some(piece) = to.and_then(|to| pieces.get(&to).cloned()) {
            pieces.insert(name, piece);
        }
    }
    Ok(pieces)
}

/// The name that a link in a folder leads to, within the archive.
fn joined(above: &str, to: &str) -> Option<String> {
    let mut names: Vec<&str> = above.split('/').filter(|name| !name.is_empty()).collect();
    for name in to.split('/') {
        match name {
            "" | "." => {}
            ".." => drop(names.pop()?),
            name => names.push(name),
        }
    }
    Some(names.join("/"))
}

fn of_layout(source: &Source, index: &Piece, architecture: &str) -> Result<Image, Error> {
    let mut document = Document::read(&index.small()?, Some(document::INDEX))?;
    for _ in 0..3 {
        let chosen = match &document {
            Document::Manifest(_) => break,
            Document::Index(all) => match &all[..] {
                [only] => only.clone(),
                all if all.iter().all(|one| one.platform.is_none()) => {
                    return Err(other("it holds several images: save one at a time"));
                }
                all => document::choose(all, architecture)?.clone(),
            },
        };
        let bytes = checked(source, &chosen)?;
        document = Document::read(&bytes, Some(&chosen.media_type))?;
        if let Document::Manifest(manifest) = &document {
            let config = checked(source, &manifest.config)?;
            let layers = manifest.layers.iter().map(|layer| layer_of(source, layer)).collect::<Result<_, _>>()?;
            return Ok(Image { manifest: bytes, config, layers });
        }
    }
    Err(other("its index leads to no image"))
}

fn checked(source: &Source, descriptor: &Descriptor) -> Result<Vec<u8>, Error> {
    let bytes = source.blob(&descriptor.digest)?.small()?;
    if Digest::of(&bytes) != descriptor.digest {
        return Err(other(format!("the blob {} has another digest", descriptor.digest)));
    }
    Ok(bytes)
}

/// What takes a layer sums it up and compares.
fn layer_of(source: &Source, descriptor: &Descriptor) -> Result<Blob, Error> {
    let piece = source.blob(&descriptor.digest)?;
    if piece.size != descriptor.size {
        return Err(other(format!("the blob {} has another size", descriptor.digest)));
    }
    Ok(Blob { digest: descriptor.digest.clone(), size: piece.size, piece })
}

fn of_docker(source: &Source, list: &Piece) -> Result<Image, Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Saved {
        config: String,
        layers: Vec<String>,
    }
    let saved: Vec<Saved> = serde_json::from_slice(&list.small()?).map_err(|error| other(error.to_string()))?;
    let [saved] = &saved[..] else { return Err(other("it holds several images: save one at a time")) };
    let config = source.need(&saved.config)?.small()?;
    let layers = saved.layers.iter().map(|name| {
        let piece = source.need(name)?;
        let mut sum = Sha256::new();
        io::copy(&mut piece.open()?, &mut sum)?;
        Ok::<_, Error>(Blob { digest: Digest::finish(sum), size: piece.size, piece })
    });
    let layers: Vec<Blob> = layers.collect::<Result<_, _>>()?;
    let shown = |layer: &Blob| json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer.digest.to_string(), "size": layer.size});
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": Digest::of(&config).to_string(), "size": config.len()},
        "layers": layers.iter().map(shown).collect::<Vec<_>>(),
    });
    Ok(Image { manifest: manifest.to_string().into_bytes(), config, layers })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: &str = r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:0000000000000000000000000000000000000000000000000000000000000000"]}}"#;

    fn archive(files: &[(&str, &[u8])], links: &[(&str, &str)]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut builder = tar::Builder::new(file.reopen().unwrap());
        for (name, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, *content).unwrap();
        }
        for (name, to) in links {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            builder.append_link(&mut header, name, to).unwrap();
        }
        builder.finish().unwrap();
        file
    }

    #[test]
    fn an_archive_of_docker_is_read_where_it_lies() {
        let list = br#"[{"Config":"c.json","RepoTags":["a:b"],"Layers":["x/layer.tar"]}]"#;
        let file = archive(
            &[("y/layer.tar", b"layer"), ("c.json", NOTHING.as_bytes()), ("manifest.json", list)],
            &[("x/layer.tar", "../y/layer.tar")],
        );
        let image = open(file.path(), "x86_64").unwrap();
        let mut content = Vec::new();
        image.layers[0].open().unwrap().read_to_end(&mut content).unwrap();
        assert_eq!((&content[..], &image.layers[0].digest), (&b"layer"[..], &Digest::of(b"layer")));
        let Ok(Document::Manifest(manifest)) = Document::read(&image.manifest, None) else { panic!() };
        assert_eq!(manifest.config.digest, Digest::of(NOTHING.as_bytes()));
        assert!(matches!(open(file.path(), "arm64"), Err(Error::Document(document::Error::Platform { .. }))));
    }

    #[test]
    fn a_layout_is_checked_by_its_digests() {
        let layer = Digest::of(b"layer");
        let config = Digest::of(NOTHING.as_bytes());
        let manifest = json!({"schemaVersion": 2, "config": {"mediaType": CONFIG, "digest": config.to_string(), "size": NOTHING.len()},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer.to_string(), "size": 5}]}).to_string();
        let of = Digest::of(manifest.as_bytes());
        let index = json!({"schemaVersion": 2, "manifests": [{"mediaType": MANIFEST, "digest": of.to_string(), "size": manifest.len()}]}).to_string();
        let name = |digest: &Digest| format!("blobs/sha256/{}", digest.digits());
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("blobs/sha256")).unwrap();
        let files = [
            ("index.json".to_owned(), &index[..]),
            (name(&of), &manifest),
            (name(&config), NOTHING),
            (name(&layer), "layer"),
        ];
        for (name, content) in &files {
            std::fs::write(folder.path().join(name), content).unwrap();
        }
        assert_eq!(open(folder.path(), "x86_64").unwrap().manifest, manifest.as_bytes());
        let packed: Vec<(&str, &[u8])> =
            files.iter().map(|(name, content)| (name.as_str(), content.as_bytes())).collect();
        assert_eq!(open(archive(&packed, &[]).path(), "x86_64").unwrap().manifest, manifest.as_bytes());
        std::fs::write(folder.path().join(name(&config)), NOTHING.replace("amd64", "amd65")).unwrap();
        assert!(matches!(open(folder.path(), "x86_64"), Err(Error::Other(_))));
        std::fs::remove_file(folder.path().join(name(&layer))).unwrap();
        assert!(open(folder.path(), "x86_64").is_err());
    }

    #[test]
    fn what_is_no_image_is_said() {
        for (file, words) in [
            (archive(&[("a", b"x")], &[]), "neither"),
            (archive(&[("manifest.json", b"[]")], &[]), "several"),
            (archive(&[("manifest.json", br#"[{"Config":"c","Layers":[]}]"#)], &[]), "no c"),
        ] {
            let error = open(file.path(), "x86_64").unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [0x1f, 0x8b, 8, 0]).unwrap();
        assert!(open(file.path(), "x86_64").unwrap_err().to_string().contains("compressed"));
        assert_eq!(joined("a/b", "../../../x"), None);
    }
}
