//! Compiled programs on the disk: one file for each package and engine, below a folder that nobody else can write.
//!
//! To load such a file is to run what is in it as the server's own code. So it is taken only as it was written: each has a
//! seal, a keyed hash over the package's digest and the file's bytes, by a key that lies beside them with mode 0600. A file
//! is read once against its seal in each process, and again when the system says that it has changed; what does not fit is
//! removed and compiled anew. The seal finds what a disk, a crash or a copied folder has done. Against who can write as the
//! server's own user there is no wall, here or anywhere.
//!
//! Invariants
//!   1. A file under its final name is whole, and its seal is written before it gets that name.
//!   2. Files of another engine (version, settings or processor) are never loaded; they go when the server starts, as do
//!      files that no process has read for a month.

use std::collections::HashMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use model::CodeDigest;
use parking_lot::Mutex;
use rustix::fs::{Timespec, Timestamps, UTIME_NOW, futimens};
use wasmtime::Engine;

/// Counted up when what is in a file changes without the engine.
const FORMAT: u32 = 1;
const KEY: &str = "key";
const ENDING: &str = "cwasm";
const SEAL: &str = "seal";
const UNFINISHED: &str = ".unfinished-";
const HASH_BYTES: usize = 32;
/// How long a file stays that no process has read.
const UNUSED: Duration = Duration::from_secs(30 * 24 * 3_600);

/// What tells that a file is the one that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    bytes: u64,
    modified_ns: (i64, i64),
    changed_ns: (i64, i64),
}

impl Stamp {
    fn of(about: &fs::Metadata) -> Self {
        Self {
            inode: about.ino(),
            bytes: about.len(),
            modified_ns: (about.mtime(), about.mtime_nsec()),
            changed_ns: (about.ctime(), about.ctime_nsec()),
        }
    }
}

/// The folder of compiled programs.
pub(super) struct Artefacts {
    folder: PathBuf,
    engine: String,
    key: [u8; HASH_BYTES],
    seen: Mutex<HashMap<CodeDigest, Stamp>>,
}

/// A file that is being written.
pub(super) struct Writing {
    file: fs::File,
    path: PathBuf,
    hash: blake3::Hasher,
}

impl Artefacts {
    /// The folder, which is made if it is not there and cleaned of what no engine here loads.
    pub(super) fn open(folder: PathBuf, engine: &Engine) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
        let mut hasher = DefaultHasher::new();
        (FORMAT, engine.precompile_compatibility_hash()).hash(&mut hasher);
        let engine = format!("{:016x}", hasher.finish());
        let key = key(&folder.join(KEY))?;
        let artefacts = Self { folder, engine, key, seen: Mutex::default() };
        artefacts.clean()?;
        Ok(artefacts)
    }

    fn clean(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let current = name.contains(&format!("-{}.", self.engine)) && !name.starts_with(UNFINISHED);
            if name != KEY && !current {
                fs::remove_file(entry.path())?;
            } else if name.ends_with(SEAL) && is_unused(&entry.metadata()?) {
                fs::remove_file(entry.path().with_extension(ENDING))?;
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    fn path(&self, code: &CodeDigest, ending: &str) -> PathBuf {
        self.folder.join(format!("{code}-{}.{ending}", self.engine))
    }

    fn hash(&self, code: &CodeDigest) -> blake3::Hasher {
        let mut hash = blake3::Hasher::new_keyed(&self.key);
        hash.update(code.as_str().as_bytes());
        hash
    }

    /// Whether a file was read in this process and is still the same; costs one system call.
    pub(super) fn known(&self, code: &CodeDigest) -> Option<(PathBuf, u64)> {
        let seen = self.seen.lock().get(code).copied()?;
        let path = self.path(code, ENDING);
        let about = fs::symlink_metadata(&path).ok()?;
        (Stamp::of(&about) == seen).then_some((path, seen.bytes))
    }

    /// Reads a file against its seal. None: there is none, or it is not as it was written, and is gone now.
    pub(super) fn verified(&self, code: &CodeDigest) -> io::Result<Option<PathBuf>> {
        let (path, seal) = (self.path(code, ENDING), self.path(code, SEAL));
        let mut file = match fs::File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let stamp = Stamp::of(&file.metadata()?);
        let mut hash = self.hash(code);
        let mut piece = vec![0; 256 * 1024];
        loop {
            match file.read(&mut piece)? {
                0 => break,
                length => hash.update(&piece[..length]),
            };
        }
        let sealed: Option<[u8; HASH_BYTES]> = fs::read(seal).ok().and_then(|seal| seal.try_into().ok());
        // `Hash` compares in constant time.
        if sealed.is_none_or(|sealed| hash.finalize() != blake3::Hash::from_bytes(sealed)) {
            tracing::warn!(package = %code, "a compiled program is not as it was written; it is compiled anew");
            self.forget(code);
            return Ok(None);
        }
        // Tells the next start that somebody needs it; what cannot be told costs a compilation in a month.
        let _ = fs::File::open(self.path(code, SEAL)).and_then(|seal| touch(&seal));
        self.seen.lock().insert(code.clone(), stamp);
        Ok(Some(path))
    }

    /// Begins to write a file.
    pub(super) fn begin(&self, code: &CodeDigest) -> io::Result<Writing> {
        let mut random = [0; 8];
        fill(&mut random)?;
        let path = self.folder.join(format!("{UNFINISHED}{:016x}-{}.", u64::from_le_bytes(random), self.engine));
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(Writing { file, path, hash: self.hash(code) })
    }

    /// Keeps a file that is written.
    pub(super) fn keep(&self, code: &CodeDigest, writing: Writing) -> io::Result<()> {
        let Writing { ref file, ref path, ref hash } = writing;
        file.sync_all()?;
        let seal = self.path(code, SEAL);
        let beside = path.with_extension(SEAL);
        fs::write(&beside, hash.finalize().as_bytes())?;
        fs::set_permissions(&beside, fs::Permissions::from_mode(0o600))?;
        fs::rename(&beside, seal)?;
        let path = self.path(code, ENDING);
        fs::rename(&writing.path, &path)?;
        let stamp = Stamp::of(&fs::symlink_metadata(&path)?);
        self.seen.lock().insert(code.clone(), stamp);
        Ok(())
    }

    /// Removes what was compiled of a package.
    pub(super) fn forget(&self, code: &CodeDigest) {
        self.seen.lock().remove(code);
        for ending in [ENDING, SEAL] {
            let _ = fs::remove_file(self.path(code, ending));
        }
    }
}

impl Writing {
    /// Appends.
    pub(super) fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.file.write_all(bytes)
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        // Of one that was kept there is nothing under this name any more.
        let _ = fs::remove_file(&self.path);
    }
}

/// Sets a file's time to that of the system.
fn touch(file: &fs::File) -> io::Result<()> {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    Ok(futimens(file, &Timestamps { last_access: now, last_modification: now })?)
}

/// Whether nobody has read what a seal is of for long.
fn is_unused(seal: &fs::Metadata) -> bool {
    seal.modified().ok().and_then(|at| at.elapsed().ok()).is_some_and(|since| since > UNUSED)
}

fn fill(random: &mut [u8]) -> io::Result<()> {
    getrandom::fill(random).map_err(|error| io::Error::other(error.to_string()))
}

/// The key, which is made if it is not there.
fn key(path: &Path) -> io::Result<[u8; HASH_BYTES]> {
    match fs::read(path) {
        Ok(bytes) => bytes.try_into().map_err(|_| io::Error::other(format!("{} is no key", path.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut key = [0; HASH_BYTES];
            fill(&mut key)?;
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
            file.write_all(&key)?;
            file.sync_all()?;
            Ok(key)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wasm::machine;

    fn code() -> CodeDigest {
        CodeDigest::parse(&"0a".repeat(32)).unwrap()
    }

    fn kept(folder: &Path) -> Artefacts {
        let artefacts = Artefacts::open(folder.to_owned(), &Engine::new(&machine::config()).unwrap()).unwrap();
        let mut writing = artefacts.begin(&code()).unwrap();
        writing.push(b"machine ").unwrap();
        writing.push(b"code").unwrap();
        artefacts.keep(&code(), writing).unwrap();
        artefacts
    }

    #[test]
    fn what_was_kept_is_known_and_read_anew_by_the_next_process() {
        let folder = tempfile::tempdir().unwrap();
        let artefacts = kept(folder.path());
        assert!(artefacts.known(&code()).is_some());
        let next = Artefacts::open(folder.path().to_owned(), &Engine::new(&machine::config()).unwrap()).unwrap();
        assert!(next.known(&code()).is_none(), "nothing was read yet");
        let path = next.verified(&code()).unwrap().unwrap();
        assert_eq!(fs::read(path).unwrap(), b"machine code");
        assert!(next.known(&code()).is_some());
        let mode = |name: &str| fs::metadata(folder.path().join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(KEY), mode(".")), (0o600, 0o700));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3, "the key, the file, its seal");
    }

    #[test]
    fn what_was_changed_is_not_taken() {
        let changes: [fn(&Artefacts); 4] = [
            |it| fs::write(it.path(&code(), ENDING), "other code").unwrap(),
            |it| fs::write(it.path(&code(), SEAL), [0; 32]).unwrap(),
            |it| fs::remove_file(it.path(&code(), SEAL)).unwrap(),
            // One that was sealed for another package.
            |it| {
                let other = CodeDigest::parse(&"0b".repeat(32)).unwrap();
                let mut writing = it.begin(&other).unwrap();
                writing.push(b"code of another").unwrap();
                it.keep(&other, writing).unwrap();
                for ending in [ENDING, SEAL] {
                    fs::rename(it.path(&other, ending), it.path(&code(), ending)).unwrap();
                }
            },
        ];
        for change in changes {
            let folder = tempfile::tempdir().unwrap();
            let artefacts = kept(folder.path());
            change(&artefacts);
            artefacts.seen.lock().clear();
            assert_eq!(artefacts.verified(&code()).unwrap(), None);
            assert!(!artefacts.path(&code(), ENDING).exists());
        }
    }

    #[test]
    fn a_changed_file_is_not_known_and_leftovers_go() {
        let folder = tempfile::tempdir().unwrap();
        let artefacts = kept(folder.path());
        fs::write(artefacts.path(&code(), ENDING), "machine kode").unwrap();
        assert!(artefacts.known(&code()).is_none());
        fs::write(folder.path().join(format!("{}-0000000000000000.cwasm", code())), "old").unwrap();
        std::mem::forget(artefacts.begin(&code()).unwrap());
        let again = || Artefacts::open(folder.path().to_owned(), &Engine::new(&machine::config()).unwrap()).unwrap();
        again();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
        let seal = fs::File::open(artefacts.path(&code(), SEAL)).unwrap();
        seal.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        again();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nobody needed it");
    }
}
