//! Nothing but the log: each group is appended to one file that has its room already, and flushed. It checks versions in
//! memory and keeps no tree, so that it shows what waiting for a flush in flight and one's own costs by itself.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::grouped::{Tree, Versions, Writes};
use crate::subject::{Failure, Found, Row};

/// The room that is written again and again, as that of recycled segments is.
const ROOM_BYTES: u64 = 60 << 20;
/// Appends begin at blocks of the disk.
const BLOCK_BYTES: usize = 512;

pub struct Log {
    file: File,
    inner: Mutex<Inner>,
}

struct Inner {
    at: u64,
    versions: HashMap<Bytes, u64>,
}

impl Log {
    pub fn open(folder: &Path) -> Result<Self, Failure> {
        let mut file = File::create(folder.join("log"))?;
        let zeros = vec![0; 1 << 20];
        for _ in 0..ROOM_BYTES >> 20 {
            file.write_all(&zeros)?;
        }
        file.sync_all()?;
        Ok(Self { file, inner: Mutex::new(Inner { at: 0, versions: HashMap::new() }) })
    }
}

impl Tree for Log {
    fn write(&self, decide: &mut dyn FnMut(&mut Versions<'_>) -> Result<Writes, Failure>) -> Result<(), Failure> {
        let mut inner = self.inner.lock();
        let writes = decide(&mut |key| Ok(inner.versions.get(key).copied()))?;
        let mut record = Vec::new();
        for (key, written) in &writes {
            record.extend_from_slice(key);
            match written {
                Some((version, value)) => {
                    record.extend_from_slice(value);
                    inner.versions.insert(key.clone(), *version);
                }
                None => drop(inner.versions.remove(key)),
            }
        }
        record.resize(record.len().next_multiple_of(BLOCK_BYTES), 0);
        if inner.at + record.len() as u64 > ROOM_BYTES {
            inner.at = 0;
        }
        self.file.write_all_at(&record, inner.at)?;
        inner.at += record.len() as u64;
        Ok(self.file.sync_data()?)
    }

    /// The version: values are not kept.
    fn get(&self, key: &[u8]) -> Result<Found, Failure> {
        Ok(self.inner.lock().versions.get(key).map(|version| (*version, Bytes::new())))
    }

    fn range(&self, _start: &[u8], _end: &[u8], _rows: usize) -> Result<Vec<Row>, Failure> {
        Err("a log alone is not read".into())
    }
}
