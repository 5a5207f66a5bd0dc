//! The tree's files. The library writes them itself, into a folder in memory; how it uses the system is tested elsewhere,
//! with real system calls. Here counts when it flushes, which shows from outside: when the tree holds a further
//! generation, and when its file changes, as the library syncs its log before it copies it, and the file after.
//!
//! So at each of these a copy is taken of what is on disk. A cut of the power restores it, with some sectors of what was
//! written to the library's log since; a kill keeps all.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use store::Version;
use tempfile::TempDir;

use crate::dice::Dice;
use crate::disk::Fate;

/// Bytes of the head of the library's log. It is synced by itself when the log starts anew.
const HEAD: usize = 32;

/// What is on disk.
#[derive(Debug, Default, Clone)]
struct Image {
    file: Vec<u8>,
    log: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct Tree {
    folder: TempDir,
    on_disk: Image,
    applied: Version,
}

impl Tree {
    pub(crate) fn new() -> io::Result<Self> {
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { tempfile::tempdir_in(memory)? } else { tempfile::tempdir()? };
        Ok(Self { folder, on_disk: Image::default(), applied: 0 })
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    fn now(&self) -> io::Result<Image> {
        Ok(Image { file: read(&self.folder.path().join("store.db"))?, log: read(&self.log())? })
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("store.db-wal")
    }

    /// After the store was opened: a new file has been made, an old one is as it was.
    pub(crate) fn opened(&mut self, applied: Version) -> io::Result<()> {
        self.on_disk.file = self.now()?.file;
        self.applied = applied;
        Ok(())
    }

    /// After the library has closed its files, and flushed all of them.
    pub(crate) fn closed(&mut self) -> io::Result<()> {
        self.on_disk = self.now()?;
        Ok(())
    }

    /// After anything that may have written: whether the tree has more generations.
    pub(crate) fn note(&mut self, applied: Version) -> io::Result<bool> {
        let now = self.now()?;
        let grown = self.applied != applied;
        if grown || now.file != self.on_disk.file {
            (self.on_disk, self.applied) = (now, applied);
        }
        Ok(grown)
    }

    /// Ends the store by `end`, and leaves of the files what a kill or a cut of the power leaves.
    pub(crate) fn end(&mut self, power: Option<&Dice>, end: impl FnOnce()) -> io::Result<()> {
        let now = self.now()?;
        // The library tidies up when it is closed, which neither a kill nor a cut lets it do.
        end();
        let left = match power {
            None => now,
            Some(dice) => {
                let mut log = self.on_disk.log.clone();
                log.resize(now.log.len(), 0);
                let head = now.log.len().min(HEAD);
                log[..head].copy_from_slice(&now.log[..head]);
                Fate::new(dice).write(dice, &mut log, head, &now.log[head..]);
                self.on_disk.log = log;
                self.on_disk.clone()
            }
        };
        let _ = fs::remove_file(self.folder.path().join("store.db-shm"));
        fs::write(self.folder.path().join("store.db"), &left.file)?;
        fs::write(self.log(), &left.log)
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read,
    }
}
