//! Zip archives from strangers: looked at and unpacked under limits.
//!
//! Invariants
//!   1. Nothing is ever written outside the target folder: names that climb, are absolute, or pass through a
//!      symbolic link are refused before the first byte is written.
//!   2. At most `Limits::unpacked_bytes` leave the decompressor, whatever the archive claims about itself.
//!   3. What is unpacked is readable by everyone and writable by its owner only (0644, 0755 for folders and for
//!      files that the archive marks executable), so that a sandbox under another id can read it.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Cursor, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use zip::ZipArchive;

/// How much an archive may unpack to.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most bytes of all files together.
    pub unpacked_bytes: u64,
    /// Most entries.
    pub entries: usize,
}

/// Why an archive is refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not a zip archive, or a damaged one.
    #[error("the archive cannot be read: {0}")]
    Unreadable(String),
    /// Nothing in it.
    #[error("the archive has no entries")]
    Empty,
    /// A name that would leave the folder.
    #[error("the entry {0:?} would be written outside the target folder")]
    Escapes(String),
    /// Two entries of one name, or a file where a folder is needed.
    #[error("the entry {0:?} collides with another one")]
    Collides(String),
    /// An entry that is neither file, folder nor symbolic link.
    #[error("the entry {0:?} is of a kind that is not supported")]
    Kind(String),
    /// Too many bytes once unpacked.
    #[error("the archive unpacks to more than {0} bytes")]
    TooLarge(u64),
    /// Too many entries.
    #[error("the archive has more than {0} entries")]
    TooMany(usize),
    /// Writing failed.
    #[error("unpacking failed: {0}")]
    Io(#[from] io::Error),
}

impl From<zip::result::ZipError> for Error {
    fn from(error: zip::result::ZipError) -> Self {
        Self::Unreadable(error.to_string())
    }
}

enum Kind {
    Folder,
    File { executable: bool },
    Link { target: PathBuf },
}

/// Reads the whole archive without writing: its limits, names and checksums. Returns the unpacked size in bytes.
pub fn inspect(zip: &[u8], limits: Limits) -> Result<u64, Error> {
    walk(zip, limits, &mut |_, _, content| io::copy(content, &mut io::sink()))
}

/// Whether there is a file of this name, folders included.
pub fn has_file(zip: &[u8], wanted: &str) -> Result<bool, Error> {
    let archive = ZipArchive::new(Cursor::new(zip))?;
    for name in archive.file_names() {
        if name?.trim_start_matches("./") == wanted {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Unpacks into `folder`, which must exist and be empty. Returns the unpacked size in bytes.
/// On an error the folder may hold a part of the archive; the caller removes it.
pub fn unpack(zip: &[u8], folder: &Path, limits: Limits) -> Result<u64, Error> {
    walk(zip, limits, &mut |path, kind, content| {
        let target = folder.join(path);
        if let Some(parent) = target.parent() {
            make_folder(folder, parent)?;
        }
        match kind {
            Kind::Folder => make_folder(folder, &target).map(|()| 0),
            Kind::Link { target: to } => symlink(to, &target).map(|()| 0),
            Kind::File { executable } => {
                let mode = if *executable { 0o755 } else { 0o644 };
                let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&target)?;
                let written = io::copy(content, &mut file)?;
                file.flush()?;
                // The mode above passed through the umask, which may have taken what the sandbox needs.
                file.set_permissions(fs::Permissions::from_mode(mode))?;
                Ok(written)
            }
        }
    })
}

fn make_folder(root: &Path, folder: &Path) -> io::Result<()> {
    if folder == root || folder.is_dir() {
        return Ok(());
    }
    if let Some(parent) = folder.parent() {
        make_folder(root, parent)?;
    }
    fs::create_dir(folder)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))
}

type Visit<'a> = &'a mut dyn FnMut(&Path, &Kind, &mut dyn Read) -> io::Result<u64>;

fn walk(zip: &[u8], limits: Limits, visit: Visit<'_>) -> Result<u64, Error> {
    let mut archive = ZipArchive::new(Cursor::new(zip))?;
    if archive.is_empty() {
        return Err(Error::Empty);
    }
    if archive.len() > limits.entries {
        return Err(Error::TooMany(limits.entries));
    }
    let mut taken = Taken::default();
    let mut total = 0u64;
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index)?;
        let name = entry.name()?.into_owned();
        let path = safe_path(&name).ok_or_else(|| Error::Escapes(name.clone()))?;
        if path.as_os_str().is_empty() {
            continue;
        }
        let kind = kind_of(&mut entry, &path, &name)?;
        taken.take(&path, &kind).map_err(|()| Error::Collides(name.clone()))?;
        let left = limits.unpacked_bytes - total;
        // One byte more than allowed tells "exactly full" from "too large".
        let mut content = (&mut entry).take(left + 1);
        let size = match visit(&path, &kind, &mut content) {
            Ok(size) => size,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(Error::Unreadable(error.to_string()));
            }
            Err(error) => return Err(Error::Io(error)),
        };
        if size > left {
            return Err(Error::TooLarge(limits.unpacked_bytes));
        }
        total += size;
    }
    Ok(total)
}

fn kind_of<R: Read>(entry: &mut zip::read::ZipFile<'_, R>, path: &Path, name: &str) -> Result<Kind, Error> {
    const TYPE: u32 = 0o170_000;
    let mode = entry.unix_mode().unwrap_or(0);
    match mode & TYPE {
        0o120_000 => {
            let mut target = String::new();
            entry.take(4_096).read_to_string(&mut target).map_err(|error| Error::Unreadable(error.to_string()))?;
            let target = PathBuf::from(target);
            if link_stays_inside(path, &target) { Ok(Kind::Link { target }) } else { Err(Error::Escapes(name.into())) }
        }
        _ if entry.is_dir() => Ok(Kind::Folder),
        0 | 0o100_000 => Ok(Kind::File { executable: mode & 0o111 != 0 }),
        _ => Err(Error::Kind(name.into())),
    }
}

/// The relative path of an entry, or nothing if it is absolute or climbs.
fn safe_path(name: &str) -> Option<PathBuf> {
    if name.contains(['\0', '\\']) {
        return None;
    }
    let mut path = PathBuf::new();
    for component in Path::new(name).components() {
        match component {
            Component::Normal(part) => path.push(part),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(path)
}

fn link_stays_inside(link: &Path, target: &Path) -> bool {
    let mut depth = link.components().count().saturating_sub(1);
    for component in target.components() {
        match component {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir if depth > 0 => depth -= 1,
            _ => return false,
        }
    }
    true
}

/// Which paths are used, so that no entry is written twice or through a link.
#[derive(Default)]
struct Taken {
    folders: BTreeSet<PathBuf>,
    others: BTreeSet<PathBuf>,
}

impl Taken {
    fn take(&mut self, path: &Path, kind: &Kind) -> Result<(), ()> {
        for parent in path.ancestors().skip(1) {
            if self.others.contains(parent) {
                return Err(());
            }
            self.folders.insert(parent.to_owned());
        }
        let fresh = match kind {
            Kind::Folder => {
                self.folders.insert(path.to_owned());
                !self.others.contains(path)
            }
            _ => !self.folders.contains(path) && self.others.insert(path.to_owned()),
        };
        if fresh { Ok(()) } else { Err(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zip::write::{SimpleFileOptions, ZipWriter};

    const LIMITS: Limits = Limits { unpacked_bytes: 1_000_000, entries: 100 };

    fn zip_of(entries: &[(&str, &[u8], u32)]) -> Vec<u8> {
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, content, mode) in entries {
            let options = SimpleFileOptions::default().unix_permissions(*mode);
            if mode & 0o170_000 == 0o120_000 {
                writer.add_symlink(*name, String::from_utf8_lossy(content), options).unwrap();
            } else {
                writer.start_file(*name, options).unwrap();
                writer.write_all(content).unwrap();
            }
        }
        writer.finish().unwrap().into_inner()
    }

    #[test]
    fn unpacks_files_with_their_modes() {
        let zip = zip_of(&[("a/b.txt", b"hi", 0o600), ("bootstrap", b"#!", 0o755), ("l", b"a/b.txt", 0o120_777)]);
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(unpack(&zip, folder.path(), LIMITS).unwrap(), 4);
        let mode = |p: &str| fs::metadata(folder.path().join(p)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode("a/b.txt"), 0o644);
        assert_eq!(mode("a"), 0o755);
        assert_eq!(mode("bootstrap"), 0o755);
        assert_eq!(fs::read(folder.path().join("l")).unwrap(), b"hi");
    }

    #[test]
    fn refuses_names_that_leave_the_folder() {
        for name in ["../x", "/etc/passwd", "a/../../x", "a\\..\\x"] {
            let zip = zip_of(&[(name, b"x", 0o644)]);
            assert!(matches!(inspect(&zip, LIMITS), Err(Error::Escapes(_))), "{name}");
        }
    }

    #[test]
    fn refuses_links_that_leave_and_files_behind_links() {
        for target in ["../x", "/etc", "a/../../y"] {
            let zip = zip_of(&[("l", target.as_bytes(), 0o120_777)]);
            assert!(matches!(inspect(&zip, LIMITS), Err(Error::Escapes(_))), "{target}");
        }
        let zip = zip_of(&[("l", b"d", 0o120_777), ("l/x", b"x", 0o644)]);
        assert!(matches!(inspect(&zip, LIMITS), Err(Error::Collides(_))));
    }

    #[test]
    fn refuses_a_bomb_by_what_comes_out() {
        let zip = zip_of(&[("bomb", &vec![0; 1_000_001], 0o644)]);
        assert!(zip.len() < 10_000);
        assert!(matches!(inspect(&zip, LIMITS), Err(Error::TooLarge(1_000_000))));
        let exact = zip_of(&[("full", &vec![0; 1_000_000], 0o644)]);
        assert_eq!(inspect(&exact, LIMITS).unwrap(), 1_000_000);
    }

    #[test]
    fn refuses_too_many_entries_and_noise() {
        let zip = zip_of(&[("a", b"", 0o644), ("b", b"", 0o644)]);
        assert!(matches!(inspect(&zip, Limits { entries: 1, ..LIMITS }), Err(Error::TooMany(1))));
        assert!(matches!(inspect(b"not a zip", LIMITS), Err(Error::Unreadable(_))));
        assert!(matches!(inspect(&zip_of(&[]), LIMITS), Err(Error::Empty)));
        let mut damaged = zip_of(&[("a", b"some content that is stored here", 0o644)]);
        damaged[40] ^= 0xff;
        assert!(inspect(&damaged, LIMITS).is_err());
    }

    proptest::proptest! {
        #[test]
        fn never_panics_on_noise(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400)) {
            let _ = inspect(&bytes, LIMITS);
        }
    }
}
