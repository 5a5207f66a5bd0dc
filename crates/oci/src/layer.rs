//! One layer of an image: an archive, possibly compressed, that is read under limits and unpacked to numbered files.
//!
//! An unpacked layer is a folder: `index` lists its entries in order, and the content of the file with the number N lies at
//! `files/N÷4096/N`. What an entry is called stands in the index alone (see `tree`).
//!
//! Invariants
//!   1. At most `Limits::bytes` leave the decompressor, headers and padding of the archive included.
//!   2. What describes an entry (long names, extended headers) is bounded before it is read.
//!   3. Of an entry's mode nothing but the nine permissions is kept: no file is ever set-user-id, set-group-id or sticky.
//!      Owners, times and extended attributes are not kept either.
//!   4. Devices, pipes and sockets are left out: a sandbox has devices of its own.
//!
//! Start reading at `walk`.

use std::fs;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tar::EntryType;

use crate::Digest;

/// Longest path, and longest target of a link.
const PATH_MAX: usize = 4_096;
/// Longest name in a path.
const NAME_MAX: usize = 255;
/// Most folders above an entry.
const DEPTH_MAX: usize = 100;
/// Most bytes of what describes one entry.
const DESCRIPTION_MAX: u64 = 1024 * 1024;
/// Files of one folder of an unpacked layer.
const SHARD: u64 = 4_096;
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// What the makers of some layers keep for themselves: hard links of their file system, and the like.
const RESERVED: &[u8] = b".wh..wh.";

/// Names from the root on; never empty names, `.` or `..`.
pub type Names = Vec<Vec<u8>>;

/// An entry of a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Where it is.
    pub path: Names,
    /// What it is.
    pub kind: Kind,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A folder with these permissions.
    Folder(u32),
    /// A file with these permissions.
    File(u32),
    /// A symbolic link with this text, which may say anything.
    Link(Vec<u8>),
    /// Another name of the file at this path.
    Same(Names),
    /// What lower layers have at this path is gone.
    Gone,
    /// What lower layers have in this folder is gone.
    Opaque,
}

/// How much layers may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes after decompression.
    pub bytes: u64,
    /// Most entries.
    pub entries: u64,
}

/// What a layer holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Bytes after decompression.
    pub bytes: u64,
    /// Entries.
    pub entries: u64,
    /// Of the archive after decompression.
    pub diff_id: Digest,
}

/// Why a layer is refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not an archive, or a damaged one.
    #[error("the layer cannot be read: {0}")]
    Unreadable(String),
    /// A path that leaves the image.
    #[error("the entry {0:?} would be outside of the image")]
    Escapes(String),
    /// A path that no file system takes.
    #[error("the entry {0:?} has a path that is too long or too deep")]
    Path(String),
    /// An entry of a form that is not supported.
    #[error("the entry {0:?} is of a kind that is not supported ({1})")]
    Kind(String, &'static str),
    /// Too many bytes.
    #[error("the layers hold more than {0} bytes once unpacked")]
    TooLarge(u64),
    /// Too many entries.
    #[error("the layers have more than {0} entries")]
    TooMany(u64),
    /// Reading or writing failed for reasons of this machine.
    #[error("unpacking failed: {0}")]
    Io(#[from] io::Error),
}

/// Takes the entries of a layer; of a file it reads as much as it wants.
pub trait Sink {
    /// One entry.
    fn take(&mut self, entry: &Entry, content: &mut dyn Read) -> io::Result<()>;
}

/// Looks only.
impl Sink for () {
    fn take(&mut self, _: &Entry, _: &mut dyn Read) -> io::Result<()> {
        Ok(())
    }
}

/// Reads a layer to its end, whatever it is compressed with.
///
/// # Errors
/// It is refused, or `sink` has failed.
pub fn walk(blob: impl Read, limits: Limits, sink: &mut dyn Sink) -> Result<Summary, Error> {
    let mut counted = Counted { inner: decompressed(blob)?, sum: Sha256::new(), left: limits.bytes, over: false };
    let walked = entries(&mut counted, limits, sink);
    // Padding after the end belongs to the digest.
    let walked = walked.and_then(|entries| {
        io::copy(&mut counted, &mut io::sink()).map_err(Failure::Source)?;
        Ok(entries)
    });
    match walked {
        Ok(entries) => {
            let bytes = limits.bytes - counted.left;
            Ok(Summary { bytes, entries, diff_id: Digest::finish(counted.sum) })
        }
        Err(_) if counted.over => Err(Error::TooLarge(limits.bytes)),
        Err(Failure::Refused(error)) => Err(error),
        Err(Failure::Source(error)) => Err(Error::Unreadable(error.to_string())),
        Err(Failure::Sink(error)) => Err(Error::Io(error)),
    }
}

enum Failure {
    Refused(Error),
    Source(io::Error),
    Sink(io::Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

/// What is said of the next entry by those before it.
#[derive(Default)]
struct Said {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

fn entries(source: &mut dyn Read, limits: Limits, sink: &mut dyn Sink) -> Result<u64, Failure> {
    let mut archive = tar::Archive::new(source);
    let mut count = 0;
    let mut said = Said::default();
    for entry in archive.entries().map_err(Failure::Source)?.raw(true) {
        let mut entry = entry.map_err(Failure::Source)?;
        let kind = entry.header().entry_type();
        match kind {
            EntryType::GNULongName => said.path = Some(until_zero(description(&mut entry)?)),
            EntryType::GNULongLink => said.link = Some(until_zero(description(&mut entry)?)),
            EntryType::XHeader => extended(&mut entry, &mut said)?,
            // Of all entries: comments and the like. What an entry could not do without comes with each.
            EntryType::XGlobalHeader => drop(description(&mut entry)?),
            _ => {
                count += 1;
                if count > limits.entries {
                    return Err(Error::TooMany(limits.entries).into());
                }
                let said = std::mem::take(&mut said);
                if let Some(found) = read(entry.header(), kind, said)? {
                    let mut content = Passing { inner: &mut entry, failed: None };
                    if let Err(error) = sink.take(&found, &mut content) {
                        return Err(content.failed.map_or(Failure::Sink(error), Failure::Source));
                    }
                }
            }
        }
    }
    Ok(count)
}

/// Tells errors of what is read from errors of who reads.
struct Passing<'a> {
    inner: &'a mut dyn Read,
    failed: Option<io::Error>,
}

impl Read for Passing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buffer).map_err(|error| {
            let shown = io::Error::new(error.kind(), error.to_string());
            self.failed = Some(error);
            shown
        })
    }
}

fn description<R: Read>(entry: &mut tar::Entry<'_, R>) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    entry.take(DESCRIPTION_MAX + 1).read_to_end(&mut bytes).map_err(Failure::Source)?;
    if bytes.len() as u64 > DESCRIPTION_MAX {
        return Err(Error::Unreadable(format!("an entry is described by more than {DESCRIPTION_MAX} bytes")).into());
    }
    Ok(bytes)
}

fn until_zero(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    bytes.truncate(end);
    bytes
}

fn extended<R: Read>(entry: &mut tar::Entry<'_, R>, said: &mut Said) -> Result<(), Failure> {
    let bytes = description(entry)?;
    for extension in tar::PaxExtensions::new(&bytes) {
        let extension = extension.map_err(Failure::Source)?;
        match extension.key_bytes() {
            b"path" => said.path = Some(extension.value_bytes().to_vec()),
            b"linkpath" => said.link = Some(extension.value_bytes().to_vec()),
            b"size" => {
                // A header holds sizes up to 8 GiB by itself.
                return Err(Error::Kind(shown(&until_zero(said.path.take().unwrap_or_default())), "over 8 GiB").into());
            }
            key if key.starts_with(b"GNU.sparse.") => {
                return Err(Error::Kind(shown(said.path.as_deref().unwrap_or_default()), "a sparse file").into());
            }
            _ => {}
        }
    }
    Ok(())
}

/// An entry of the archive as one of the layer; nothing if it is left out.
fn read(header: &tar::Header, kind: EntryType, said: Said) -> Result<Option<Entry>, Error> {
    let path = said.path.unwrap_or_else(|| header.path_bytes().into_owned());
    let mut names = names_of(&path)?;
    let mode = header.mode().map_err(|error| Error::Unreadable(error.to_string()))? & 0o777;
    let link = || said.link.or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned)).unwrap_or_default();
    if names.iter().rev().skip(1).any(|name| name.starts_with(WHITEOUT)) {
        // Nothing is in what is only a mark.
        return if names.iter().any(|name| name.starts_with(RESERVED)) {
            Ok(None)
        } else {
            Err(Error::Kind(shown(&path), "below a whiteout"))
        };
    }
    let Some(last) = names.last() else {
        // The image's root, which the platform makes itself.
        return if kind == EntryType::Directory { Ok(None) } else { Err(Error::Escapes(shown(&path))) };
    };
    if last == OPAQUE {
        names.pop();
        return Ok(Some(Entry { path: names, kind: Kind::Opaque }));
    }
    if last.starts_with(RESERVED) {
        return Ok(None);
    }
    if let Some(gone) = last.strip_prefix(WHITEOUT) {
        if gone.is_empty() || gone == b"." || gone == b".." {
            return Err(Error::Escapes(shown(&path)));
        }
        let gone = gone.to_vec();
        names.pop();
        names.push(gone);
        return Ok(Some(Entry { path: names, kind: Kind::Gone }));
    }
    let kind = match kind {
        EntryType::Directory => Kind::Folder(mode),
        EntryType::Regular | EntryType::Continuous if path.ends_with(b"/") => Kind::Folder(mode),
        EntryType::Regular | EntryType::Continuous => Kind::File(mode),
        EntryType::Symlink => {
            let target = link();
            if target.is_empty() || target.len() > PATH_MAX || target.contains(&0) {
                return Err(Error::Path(shown(&path)));
            }
            Kind::Link(target)
        }
        EntryType::Link => Kind::Same(names_of(&link())?),
        EntryType::Char | EntryType::Block | EntryType::Fifo => return Ok(None),
        EntryType::GNUSparse => return Err(Error::Kind(shown(&path), "a sparse file")),
        _ => return Err(Error::Kind(shown(&path), "of no known type")),
    };
    if matches!(&kind, Kind::Same(to) if to.is_empty()) {
        return Err(Error::Escapes(shown(&path)));
    }
    Ok(Some(Entry { path: names, kind }))
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(&path[..path.len().min(200)]).into_owned()
}

/// The names of a path. An absolute one begins at the image's root, as every tool has it; one that climbs is refused.
fn names_of(path: &[u8]) -> Result<Names, Error> {
    let mut names = Names::new();
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => return Err(Error::Escapes(shown(path))),
            _ if name.len() > NAME_MAX => return Err(Error::Path(shown(path))),
            _ if name.contains(&0) => return Err(Error::Escapes(shown(path))),
            _ => names.push(name.to_vec()),
        }
    }
    if path.len() > PATH_MAX || names.len() > DEPTH_MAX {
        return Err(Error::Path(shown(path)));
    }
    Ok(names)
}

/// Counts and sums up what leaves the decompressor.
struct Counted<R> {
    inner: R,
    sum: Sha256,
    left: u64,
    over: bool,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // One byte more than allowed tells "exactly full" from "too large".
        let most = usize::try_from(self.left.saturating_add(1)).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.inner.read(&mut buffer[..most])?;
        if read as u64 > self.left {
            self.over = true;
            return Err(io::Error::other("too large"));
        }
        self.left -= read as u64;
        self.sum.update(&buffer[..read]);
        Ok(read)
    }
}

/// What a blob holds, by how it begins: gzip, zstd, or an archive as it is.
fn decompressed<'a>(blob: impl Read + 'a) -> Result<Box<dyn Read + 'a>, Error> {
    let mut blob = BufReader::with_capacity(64 * 1024, blob);
    let mut begin = Vec::new();
    // A source may give less than was asked for.
    while begin.len() < 4 {
        let mut byte = [0];
        match blob.read(&mut byte) {
            Ok(0) => break,
            Ok(_) => begin.push(byte[0]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::Unreadable(error.to_string())),
        }
    }
    let (gzip, zstd) = (begin.starts_with(&[0x1f, 0x8b]), begin == [0x28, 0xb5, 0x2f, 0xfd]);
    let whole = BufReader::new(io::Cursor::new(begin).chain(blob));
    Ok(match (gzip, zstd) {
        (true, _) => Box::new(flate2::bufread::MultiGzDecoder::new(whole)),
        (_, true) => Box::new(Zstd { source: whole, decoder: FrameDecoder::new(), within: false }),
        _ => Box::new(whole),
    })
}

/// Frames of zstd, one after the other; those that hold nothing are passed over.
struct Zstd<R> {
    source: R,
    decoder: FrameDecoder,
    /// Whether a frame has begun and not ended.
    within: bool,
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let damaged = |error: &dyn std::fmt::Display| io::Error::new(io::ErrorKind::InvalidData, error.to_string());
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if self.within {
                let read = self.decoder.read(buffer)?;
                if read > 0 {
                    return Ok(read);
                }
                if self.decoder.is_finished() {
                    self.within = false;
                } else {
                    let blocks = BlockDecodingStrategy::UptoBlocks(1);
                    self.decoder.decode_blocks(&mut self.source, blocks).map_err(|error| damaged(&error))?;
                }
                continue;
            }
            if self.source.fill_buf()?.is_empty() {
                return Ok(0);
            }
            match self.decoder.init(&mut self.source) {
                Ok(()) => self.within = true,
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    let length = u64::from(length);
                    if io::copy(&mut (&mut self.source).take(length), &mut io::sink())? < length {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(damaged(&error)),
            }
        }
    }
}

/// Unpacks a layer into an empty folder. After an error the caller removes it.
///
/// # Errors
/// The layer is refused, or the disk is full.
pub fn unpack(blob: impl Read, folder: &Path, limits: Limits) -> Result<Summary, Error> {
    let index = BufWriter::new(fs::File::create(folder.join(INDEX))?);
    let mut writer = Writer { folder, index, files: 0 };
    let summary = walk(blob, limits, &mut writer)?;
    writer.index.flush()?;
    Ok(summary)
}

const INDEX: &str = "index";

/// Where the content of a file of an unpacked layer is.
pub(crate) fn file(layer: &Path, number: u64) -> PathBuf {
    layer.join(format!("files/{}/{number}", number / SHARD))
}

struct Writer<'a> {
    folder: &'a Path,
    index: BufWriter<fs::File>,
    files: u64,
}

impl Sink for Writer<'_> {
    fn take(&mut self, entry: &Entry, content: &mut dyn Read) -> io::Result<()> {
        let bytes = postcard::to_stdvec(entry).map_err(io::Error::other)?;
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        self.index.write_all(&length.to_le_bytes())?;
        self.index.write_all(&bytes)?;
        if let Kind::File(mode) = entry.kind {
            let path = file(self.folder, self.files);
            if self.files.is_multiple_of(SHARD)
                && let Some(parent) = path.parent()
            {
                fs::create_dir_all(parent)?;
            }
            self.files += 1;
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            io::copy(content, &mut file)?;
            file.set_permissions(fs::Permissions::from_mode(mode))?;
        }
        Ok(())
    }
}

/// The entries of an unpacked layer; files in the order of their numbers.
///
/// # Errors
/// The index is not there or damaged.
pub fn index(folder: &Path) -> io::Result<Vec<Entry>> {
    let bytes = fs::read(folder.join(INDEX))?;
    let torn = || io::Error::new(io::ErrorKind::InvalidData, "the index of a layer is damaged");
    let (mut entries, mut rest) = (Vec::new(), &bytes[..]);
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        let (one, after) = after.split_at_checked(length).ok_or_else(torn)?;
        entries.push(postcard::from_bytes(one).map_err(|_| torn())?);
        rest = after;
    }
    if rest.is_empty() { Ok(entries) } else { Err(torn()) }
}

#[cfg(test)]
#[path = "layer_tests.rs"]
mod tests;
