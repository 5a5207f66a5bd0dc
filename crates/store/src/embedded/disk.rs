//! The files of the log, behind a trait: the real ones here, simulated and faulty ones in tests.
//!
//! Invariants
//!   1. `write_synced_at` returns success only when its own bytes are on disk, `sync` when all earlier writes are.
//!   2. After `reserve`, writes within the reserved bytes need no further room.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::{Errno, ReadWriteFlags, pwritev2};

/// One folder of files.
pub trait Disk: Send + Sync + 'static {
    /// Whether there is a file of that name.
    fn exists(&self, name: &str) -> io::Result<bool>;
    /// Opens a file, making it when there is none.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes the names of new files durable.
    fn sync_names(&self) -> io::Result<()>;
    /// How many more bytes the folder can take.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// One open file.
pub trait DiskFile: Send + Sync + 'static {
    /// Makes it at least that long and takes the room for it; the new bytes are zero.
    fn reserve(&self, bytes: u64) -> io::Result<()>;
    /// Fills the buffer from `offset` on.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all bytes; they survive the process, but not yet a loss of power.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Writes all bytes and returns when these are on disk.
    fn write_synced_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Returns when all that was written before is on disk.
    fn sync(&self) -> io::Result<()>;
}

/// A folder of this machine.
#[derive(Debug)]
pub struct FolderDisk {
    folder: PathBuf,
}

impl FolderDisk {
    /// The files of `folder`, which exists.
    pub fn shared(folder: impl Into<PathBuf>) -> Arc<dyn Disk> {
        Arc::new(Self { folder: folder.into() })
    }
}

impl Disk for FolderDisk {
    fn exists(&self, name: &str) -> io::Result<bool> {
        self.folder.join(name).try_exists()
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).read(true).write(true).mode(0o600);
        Ok(Arc::new(options.open(self.folder.join(name))?))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.folder.join(name))
    }

    fn sync_names(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let found = statvfs(&self.folder)?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }
}

impl DiskFile for File {
    fn reserve(&self, bytes: u64) -> io::Result<()> {
        match fallocate(self, FallocateFlags::empty(), 0, bytes) {
            // Not every file system can; there, writing the zeros takes the room.
            Err(Errno::OPNOTSUPP) if self.metadata()?.len() < bytes => self.set_len(bytes),
            Ok(()) | Err(Errno::OPNOTSUPP) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn write_synced_at(&self, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = match pwritev2(self, &[IoSlice::new(bytes)], offset, ReadWriteFlags::DSYNC) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => written,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            bytes = &bytes[written..];
            offset += written as u64;
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}
