//! Usage records in files, between the moment they are made and the moment the store has them.
//!
//! Two files per boot are used in turn: records are appended to one while the other is folded and then emptied. Writing
//! is a plain `pwrite`. The kernel keeps what was written in its page cache whether or not the process lives on, which
//! is all that a shared memory map would promise too; it needs no `unsafe`, reports a full disk as an error instead
//! of a signal, and costs one system call.
//!
//! Frame: length of the record (4 bytes), CRC-32 of sequence and record (4), sequence (8), record (a format byte and
//! postcard); numbers little-endian. A frame that is cut short or does not match its checksum ends a file: it was never acknowledged.
//!
//! Invariants
//!   1. `append` has returned only if the whole frame was handed to the kernel.
//!   2. Sequences of a boot start at 1, grow by one, and are in order within a file.
//!   3. A file is emptied only after the store has all of it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use model::UsageRecord;
use parking_lot::Mutex;

use super::Error;

/// Names the form of a stored record; a change of `UsageRecord` takes another one and reads both.
pub(super) const FORMAT: u8 = 1;
const HEAD_BYTES: usize = 16;
/// Bytes from which on a fold should not wait.
const CROWDED_BYTES: u64 = 1024 * 1024;
/// Most bytes of one file. At some 250 bytes a record that is a quarter of a million calls that the store refused.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Larger than any record; guards reading against damaged lengths.
const RECORD_BYTES_MAX: usize = 64 * 1024;

/// A record with its place in the boot's order.
pub(super) type Numbered = (u64, UsageRecord);

/// The files of this boot.
#[derive(Debug)]
pub(super) struct Ring {
    files: [File; 2],
    paths: [PathBuf; 2],
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    active: usize,
    /// End of the active file.
    end: u64,
    next: u64,
    /// Records of the active file, so that a fold need not read them back.
    records: Vec<Numbered>,
    frame: Vec<u8>,
}

/// The records of a file that is at rest.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) file: usize,
    pub(super) records: Vec<Numbered>,
}

impl Ring {
    pub(super) fn create(folder: &Path, boot_id: &str) -> Result<Self, Error> {
        let paths = [0, 1].map(|number| folder.join(format!("{boot_id}.{number}.ring")));
        let open = |path: &PathBuf| {
            let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path);
            file.map_err(|source| Error::Io { path: path.clone(), source })
        };
        let files = [open(&paths[0])?, open(&paths[1])?];
        let state = State { active: 0, end: 0, next: 1, records: Vec::new(), frame: Vec::new() };
        Ok(Self { files, paths, state: Mutex::new(state) })
    }

    /// Keeps a record. Says whether a fold should come soon.
    pub(super) fn append(&self, record: UsageRecord) -> Result<bool, Error> {
        let mut state = self.state.lock();
        let state = &mut *state;
        let sequence = state.next;
        state.frame.clear();
        write_frame(&mut state.frame, sequence, &record).map_err(Error::Damaged)?;
        let length = state.frame.len() as u64;
        if state.end + length > FILE_BYTES_MAX {
            return Err(Error::Full(state.end));
        }
        let write = self.files[state.active].write_all_at(&state.frame, state.end);
        // A frame that was written in part is overwritten by the next one, since the end has not moved.
        write.map_err(|source| Error::Io { path: self.paths[state.active].clone(), source })?;
        state.end += length;
        state.next += 1;
        state.records.push((sequence, record));
        Ok(state.end >= CROWDED_BYTES && state.end - length < CROWDED_BYTES)
    }

    /// The records of the active file, which rests from now on; appending goes on in the other one, which must be
    /// empty. Nothing if there is nothing to fold.
    pub(super) fn take(&self) -> Option<Taken> {
        let mut state = self.state.lock();
        if state.records.is_empty() {
            return None;
        }
        let file = state.active;
        let records = std::mem::take(&mut state.records);
        state.active = 1 - file;
        state.end = 0;
        Some(Taken { file, records })
    }

    /// Empties a file at rest whose records the store has.
    pub(super) fn empty(&self, file: usize) -> Result<(), Error> {
        self.files[file].set_len(0).map_err(|source| Error::Io { path: self.paths[file].clone(), source })
    }
}

fn write_frame(frame: &mut Vec<u8>, sequence: u64, record: &UsageRecord) -> Result<(), String> {
    frame.extend_from_slice(&[0; 8]);
    frame.extend_from_slice(&sequence.to_le_bytes());
    frame.push(FORMAT);
    // In place: the frame's room is used again and again.
    *frame = postcard::to_extend(record, std::mem::take(frame)).map_err(|error| error.to_string())?;
    let length = u32::try_from(frame.len() - HEAD_BYTES).map_err(|error| error.to_string())?;
    let checksum = crc32fast::hash(&frame[8..]);
    frame[..4].copy_from_slice(&length.to_le_bytes());
    frame[4..8].copy_from_slice(&checksum.to_le_bytes());
    Ok(())
}

/// The whole frames of a file, up to the first that is torn.
pub(super) fn read_frames(mut bytes: &[u8]) -> Vec<Numbered> {
    let mut records = Vec::new();
    while let Some((frame, rest)) = read_frame(bytes) {
        records.push(frame);
        bytes = rest;
    }
    records
}

fn read_frame(bytes: &[u8]) -> Option<(Numbered, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (checksum, checked) = rest.split_first_chunk::<4>()?;
    let length = u32::from_le_bytes(*length) as usize;
    if length > RECORD_BYTES_MAX {
        return None;
    }
    let (checked, after) = checked.split_at_checked(HEAD_BYTES - 8 + length)?;
    if crc32fast::hash(checked) != u32::from_le_bytes(*checksum) {
        return None;
    }
    let (sequence, body) = checked.split_first_chunk::<8>()?;
    let record = postcard::from_bytes(body.strip_prefix(&[FORMAT])?).ok()?;
    Some(((u64::from_le_bytes(*sequence), record), after))
}

/// Boot ids that left files in a folder, with these files.
pub(super) fn left_by_boots(folder: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".ring"));
        if let Some((boot_id, _)) = name.and_then(|name| name.rsplit_once('.')) {
            found.push((boot_id.to_owned(), path.clone()));
        }
    }
    found.sort();
    Ok(found)
}
