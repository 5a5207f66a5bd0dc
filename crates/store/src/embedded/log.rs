//! The log: segments of fixed length that are made once, written in turn, and used again.
//!
//! The committer owns the `Writer`; the applier makes segments and gives back those whose commits the tree has (`Log`).
//! A segment is made with its room taken and its blocks written, so that a flush has nothing but data to write. The
//! first of a new store is only taken, since writing it would make a new store wait; its flushes take a little longer.
//!
//! Invariants
//!   1. A record that is acknowledged as flushed is on disk, with all before it.
//!   2. A segment is written anew only when all its commits are on disk in the tree. The tree takes over only what is
//!      flushed (`sync_up_to`): otherwise a power cut could leave in it a part of a commit that the log has lost.
//!   3. A write or flush that failed is never tried again: the store ends and recovers from what is there.
//!   4. When a log is opened, its chain is on disk, and records beyond it are nowhere any more.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;

use super::OpenError;
use super::disk::{Disk, DiskFile};
use super::queue::BATCH_BYTES_END;
use super::record::{self, BLOCK, HEADER, Head, Mark, Record, Write, padded};
use super::schema::Fault;
use crate::commit::decide::Slot;
use crate::contract::Version;

/// Bytes of a segment: any batch fits into one.
pub(super) const SEGMENT_BYTES: usize = 20 * 1024 * 1024;
/// Most segments: two generations of the overlay, one being written into the tree, and one segment that both are in.
pub(super) const SEGMENTS_MAX: usize = 3;
/// How much is written at once when a segment is made.
const FILL_BYTES: usize = 1024 * 1024;

const _: () = assert!(BATCH_BYTES_END + HEADER + BLOCK <= SEGMENT_BYTES, "a batch must fit into a segment");

type Segment = Arc<dyn DiskFile>;

/// The segments that are not being written.
pub(super) struct Log {
    disk: Arc<dyn Disk>,
    segment_bytes: usize,
    segments: Mutex<Segments>,
    /// Up to this version all is on disk.
    synced: AtomicU64,
    /// Whether a flush has failed. Held while one runs: the system tells of a failure once, and only one of two threads.
    failed: Mutex<bool>,
}

#[derive(Default)]
struct Segments {
    /// The one that is written.
    active: Option<Segment>,
    /// Free to be written.
    spare: Vec<Segment>,
    /// Written, oldest first, each with its last version.
    written: VecDeque<(Version, Segment)>,
    made: usize,
    /// Whether the writer will soon need one that there is not.
    wanted: bool,
}

/// What a log held when it was opened.
pub(super) struct Opened {
    pub(super) log: Arc<Log>,
    pub(super) writer: Writer,
    /// The commits that the tree does not have.
    pub(super) chain: Vec<Record>,
}

/// Where a record lies; epoch and version are those of no other.
struct Place {
    epoch: u64,
    last: Version,
    at: usize,
    bytes: usize,
}

impl Place {
    fn of(record: &Record) -> Self {
        Self { epoch: record.epoch, last: record.last, at: record.at, bytes: record.log_bytes }
    }
}

/// A segment as an earlier process has left it.
struct Left {
    file: Segment,
    places: Vec<Place>,
}

impl Left {
    /// Sees to it that what is part of the chain is on disk, and erases what is not: once the tree has gone on from where
    /// the chain ends, it could be taken for what comes next. Returns the last version of the chain in it.
    fn settle(&self, chain: &HashSet<(u64, Version)>, synced: Version) -> std::io::Result<Option<Version>> {
        let mut last = None;
        for place in &self.places {
            if !chain.contains(&(place.epoch, place.last)) {
                self.file.write_at(&[0; BLOCK], place.at as u64)?;
                continue;
            }
            last = last.max(Some(place.last));
            if place.last > synced {
                // A flush that failed may have left it in the page cache as if it were on disk: only what is written
                // again is flushed.
                let mut bytes = vec![0; place.bytes];
                self.file.read_at(&mut bytes, place.at as u64)?;
                self.file.write_at(&bytes, place.at as u64)?;
            }
        }
        if !self.places.is_empty() {
            self.file.sync()?;
        }
        Ok(last)
    }
}

fn name(number: usize) -> String {
    format!("log.{number}")
}

impl Log {
    /// Reads what is there; the chain that it returns is on disk.
    pub(super) fn open(
        disk: Arc<dyn Disk>,
        segment_bytes: usize,
        mark: Mark,
        applied: Version,
    ) -> Result<Opened, OpenError> {
        let mut segments = Segments::default();
        let (mut found, mut epoch, mut synced) = (Vec::new(), 0, 0);
        let mut buffer = Vec::new();
        let mut left = Vec::new();
        while segments.made < SEGMENTS_MAX && disk.exists(&name(segments.made))? {
            let file = disk.open(&name(segments.made))?;
            segments.made += 1;
            // Shorter where the process died while it made it: then nothing is in it yet.
            file.reserve(segment_bytes as u64)?;
            buffer.resize(segment_bytes, 0);
            file.read_at(&mut buffer, 0)?;
            let scanned = record::scan(&buffer, &mark, applied);
            epoch = epoch.max(scanned.epoch);
            synced = synced.max(scanned.synced);
            left.push(Left { file, places: scanned.records.iter().map(Place::of).collect() });
            found.extend(scanned.records);
        }
        drop(buffer);
        let chain = record::recover(found, synced, applied).map_err(OpenError::Damaged)?;
        let (kept, mut written) = (chain.iter().map(|record| (record.epoch, record.last)).collect(), Vec::new());
        for left in left {
            match left.settle(&kept, synced)? {
                None => segments.spare.push(left.file),
                Some(last) => written.push((last, left.file)),
            }
        }
        written.sort_by_key(|(last, _)| *last);
        segments.written = written.into();
        let last = chain.last().map_or(applied, |record| record.last);
        if segments.made == 0 {
            let file = disk.open(&name(0))?;
            file.reserve(segment_bytes as u64)?;
            file.sync()?;
            segments.spare.push(file);
            segments.made = 1;
        }
        let (segments, synced) = (Mutex::new(segments), AtomicU64::new(last));
        let log = Arc::new(Self { disk, segment_bytes, segments, synced, failed: Mutex::new(false) });
        let writer = Writer {
            log: Arc::clone(&log),
            active: None,
            at: 0,
            mark,
            epoch: epoch + 1,
            last,
            synced: last,
            buffer: Vec::new(),
        };
        Ok(Opened { log, writer, chain })
    }

    /// Whether a segment is to be made.
    pub(super) fn wants_segment(&self) -> bool {
        let segments = self.segments.lock();
        segments.wanted && segments.spare.is_empty() && segments.made < SEGMENTS_MAX
    }

    /// Makes a segment. Without room, nothing is left of it.
    pub(super) fn make_segment(&self) -> Result<(), Fault> {
        let name = name(self.segments.lock().made);
        match self.fill_segment(&name).map_err(Fault::from) {
            Ok(file) => {
                let mut segments = self.segments.lock();
                segments.made += 1;
                segments.spare.push(file);
                segments.wanted = false;
                Ok(())
            }
            Err(Fault::DiskFull) => {
                self.disk.remove(&name)?;
                Err(Fault::DiskFull)
            }
            Err(fault) => Err(fault),
        }
    }

    fn fill_segment(&self, name: &str) -> std::io::Result<Segment> {
        let file = self.disk.open(name)?;
        file.reserve(self.segment_bytes as u64)?;
        let zeros = vec![0; FILL_BYTES.min(self.segment_bytes)];
        for at in (0..self.segment_bytes).step_by(zeros.len()) {
            // Flushed piece by piece, so that no flush of the log has to wait for all of it.
            file.write_synced_at(&zeros[..zeros.len().min(self.segment_bytes - at)], at as u64)?;
        }
        file.sync()?;
        self.disk.sync_names()?;
        Ok(file)
    }

    /// Flushes what is not flushed yet of commits up to `version`, which have been appended.
    pub(super) fn sync_up_to(&self, version: Version) -> Result<(), Fault> {
        if self.synced.load(Ordering::SeqCst) >= version {
            return Ok(());
        }
        // Those before it are flushed when the writer leaves them.
        let active = self.segments.lock().active.clone();
        active.map_or(Ok(()), |active| self.flush(&active)).map_err(unflushed)
    }

    /// Flushes a segment, unless an earlier flush has failed.
    fn flush(&self, segment: &Segment) -> std::io::Result<()> {
        let mut failed = self.failed.lock();
        if *failed {
            return Err(std::io::Error::other("an earlier flush has failed"));
        }
        segment.sync().inspect_err(|_| *failed = true)
    }

    /// Gives back the segments whose commits all are in the tree, on disk.
    pub(super) fn recycle(&self, applied: Version) {
        let mut segments = self.segments.lock();
        while segments.written.front().is_some_and(|(last, _)| *last <= applied) {
            let freed = segments.written.pop_front();
            segments.spare.extend(freed.map(|(_, segment)| segment));
        }
    }

    /// How many more bytes the disk can take.
    pub(super) fn free_bytes(&self) -> Result<u64, Fault> {
        Ok(self.disk.free_bytes()?)
    }
}

fn unflushed(error: std::io::Error) -> Fault {
    Fault::Broken(format!("the log cannot be flushed: {error}"))
}

/// The end of the log, where the committer writes.
pub(super) struct Writer {
    log: Arc<Log>,
    active: Option<Segment>,
    /// Where the next record goes.
    at: usize,
    mark: Mark,
    epoch: u64,
    last: Version,
    synced: Version,
    buffer: Vec<u8>,
}

impl Writer {
    /// Makes sure that a record with writes of at most `bytes` bytes fits, by going on to the next segment if need be.
    /// False if there is none: the tree has to take over what is in the written ones first.
    pub(super) fn make_room(&mut self, bytes: usize) -> Result<bool, Fault> {
        if self.active.is_some() && self.at + padded(HEADER + bytes) <= self.log.segment_bytes {
            return Ok(true);
        }
        // What is relaxed and not flushed yet must not be left behind in a segment that nobody flushes any more.
        self.sync()?;
        let mut segments = self.log.segments.lock();
        let Some(next) = segments.spare.pop() else {
            segments.wanted = true;
            return Ok(false);
        };
        segments.active = Some(Arc::clone(&next));
        if let Some(before) = self.active.replace(next) {
            segments.written.push_back((self.last, before));
        }
        self.at = 0;
        Ok(true)
    }

    /// Appends the winners of a batch, up to version `last`, and returns their writes. Room was made before.
    pub(super) fn append(
        &mut self,
        slots: &BTreeMap<Bytes, Slot>,
        last: Version,
        flush: bool,
    ) -> Result<Vec<Write>, Fault> {
        let head = Head { mark: self.mark, epoch: self.epoch, before: self.last, last, synced: self.synced };
        let writes = record::encode(head, slots, &mut self.buffer);
        let Some(active) = self.active.as_ref().filter(|_| self.at + self.buffer.len() <= self.log.segment_bytes)
        else {
            return Err(Fault::Broken(format!("no room in the log for {} bytes", self.buffer.len())));
        };
        let at = self.at as u64;
        let written = if !flush {
            active.write_at(&self.buffer, at)
        } else if self.is_synced() {
            active.write_synced_at(&self.buffer, at)
        } else {
            active.write_at(&self.buffer, at).and_then(|()| self.log.flush(active))
        };
        // Beyond the point where a full disk could still be met: the room was taken before.
        written.map_err(|error| Fault::Broken(format!("the log cannot be written: {error}")))?;
        self.at += self.buffer.len();
        self.last = last;
        if flush {
            self.is_now_synced();
        }
        self.want_next();
        Ok(writes)
    }

    /// Bytes that the last record takes.
    pub(super) fn last_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Counts from `version` on. Before the first record, when the tree has all that the log held, and counts from there.
    pub(super) fn jump(&mut self, version: Version) {
        (self.last, self.synced) = (version, version);
    }

    /// Whether all that was appended is on disk.
    fn is_synced(&self) -> bool {
        self.synced == self.last
    }

    /// Flushes what is not flushed yet.
    pub(super) fn sync(&mut self) -> Result<(), Fault> {
        if let Some(active) = self.active.as_ref().filter(|_| !self.is_synced()) {
            self.log.flush(active).map_err(unflushed)?;
        }
        self.is_now_synced();
        Ok(())
    }

    fn is_now_synced(&mut self) {
        self.synced = self.last;
        self.log.synced.store(self.last, Ordering::SeqCst);
    }

    fn want_next(&self) {
        if self.at > self.log.segment_bytes / 2 {
            let mut segments = self.log.segments.lock();
            segments.wanted = segments.spare.is_empty() && segments.made < SEGMENTS_MAX;
        }
    }
}
