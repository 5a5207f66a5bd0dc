//! Reading: connections that read, snapshots that hold one each, and scans that do not hold up the runtime.
//!
//! A `get` runs where it is called, on the runtime's own thread: it takes some 10 µs, which is about what handing it to
//! another thread and back costs. A range runs there for its first 64 entries or 64 KB; only what is longer goes to a
//! blocking thread. A read that misses the page cache holds up its thread for one disk access: a price for all others.
//!
//! Invariants
//!   1. At most `SNAPSHOTS_MAX` snapshots live; who wants another one waits for it.
//!   2. A snapshot whose life is over reads nothing more, and `reap` takes its connection, whether its holder
//!      still reads or not: no reader keeps the log from starting anew for long.
//!   3. A ticket is given out once, so a reaped snapshot never reads through the lease of a later one.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use base::Clock;
use bytes::Bytes;
use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::schema::{self, Fault};
use crate::contract::{Entry, Error, Page, Range, Snapshot, Version};

/// Most snapshots at a time.
const SNAPSHOTS_MAX: usize = 32;
/// How much of a range is read on the caller's thread.
const INLINE: Chunk = Chunk { rows: 64, bytes: 64 * 1024 };
/// How much is read at a time on a blocking thread; between two chunks others may use the snapshot.
const BLOCKING: Chunk = Chunk { rows: 512, bytes: 1024 * 1024 };

#[derive(Debug, Clone, Copy)]
struct Chunk {
    rows: usize,
    bytes: usize,
}

/// All reading connections of a store.
pub(super) struct Readers {
    file: PathBuf,
    clock: Arc<dyn Clock>,
    permits: Arc<Semaphore>,
    tickets: AtomicU64,
    slots: Vec<Mutex<Slot>>,
    free: Mutex<Vec<usize>>,
    /// For gets of the current state; none when the store is closed.
    idle: Mutex<Option<Vec<Connection>>>,
    /// Most of them that are kept open: as many as can read at the same time.
    idle_max: usize,
}

/// A place for one snapshot. The connection stays when the lease ends.
#[derive(Default)]
struct Slot {
    connection: Option<Connection>,
    lease: Option<Lease>,
}

struct Lease {
    ticket: u64,
    /// On the monotonic clock.
    ends_us: u64,
    _permit: OwnedSemaphorePermit,
}

impl Readers {
    pub(super) fn new(file: PathBuf, clock: Arc<dyn Clock>) -> Self {
        Self {
            file,
            clock,
            permits: Arc::new(Semaphore::new(SNAPSHOTS_MAX)),
            tickets: AtomicU64::new(0),
            slots: (0..SNAPSHOTS_MAX).map(|_| Mutex::default()).collect(),
            free: Mutex::new((0..SNAPSHOTS_MAX).rev().collect()),
            idle: Mutex::new(Some(Vec::new())),
            idle_max: std::thread::available_parallelism().map_or(2, usize::from) + 2,
        }
    }

    /// Reads one key of the current state.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Entry>, Error> {
        let idle = self.idle.lock().as_mut().ok_or(Error::Closed)?.pop();
        let connection = match idle {
            Some(connection) => connection,
            None => schema::open_reader(&self.file).map_err(Fault::from)?,
        };
        let entry = schema::get(&connection, key)?;
        let mut idle = self.idle.lock();
        if let Some(idle) = idle.as_mut().filter(|idle| idle.len() < self.idle_max) {
            idle.push(connection);
        }
        Ok(entry)
    }

    /// Opens a snapshot of the current state, as soon as there is a place for it.
    pub(super) async fn snapshot(self: &Arc<Self>, life_ms: u64) -> Result<Box<dyn Snapshot>, Error> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| Error::Closed)?;
        let Some(index) = self.free.lock().pop() else {
            unreachable!("there are as many places as permits, and a place is given back before its permit");
        };
        let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
        let mut slot = self.slots[index].lock();
        slot.lease =
            Some(Lease { ticket, ends_us: self.clock.monotonic_us().saturating_add(life_ms * 1_000), _permit: permit });
        let began = self.begin(&mut slot);
        drop(slot);
        let mut place = Place { readers: Arc::clone(self), index, ticket, version: 0 };
        // On an error the place is dropped and with it the lease.
        place.version = began?;
        Ok(Box::new(EmbeddedSnapshot { place: Arc::new(place) }))
    }

    fn begin(&self, slot: &mut Slot) -> Result<Version, Fault> {
        let connection = match slot.connection.take() {
            Some(connection) => connection,
            None => schema::open_reader(&self.file)?,
        };
        let connection = slot.connection.insert(connection);
        connection.prepare_cached("BEGIN")?.execute([])?;
        // The first read is what fixes the state.
        Ok(schema::version_of(connection)?)
    }

    /// Ends the snapshots that have lived too long.
    pub(super) fn reap(&self) {
        for (index, slot) in self.slots.iter().enumerate() {
            let mut slot = slot.lock();
            if slot.lease.as_ref().is_some_and(|lease| self.expired(lease)) {
                self.end(index, &mut slot);
            }
        }
    }

    /// Ends everything: nothing can be read any more, all connections are closed.
    pub(super) fn close(&self) {
        self.permits.close();
        drop(self.idle.lock().take());
        for (index, slot) in self.slots.iter().enumerate() {
            let mut slot = slot.lock();
            if slot.lease.is_some() {
                self.end(index, &mut slot);
            }
            slot.connection = None;
        }
    }

    fn expired(&self, lease: &Lease) -> bool {
        self.clock.monotonic_us() > lease.ends_us
    }

    fn end(&self, index: usize, slot: &mut Slot) {
        let ended = slot.connection.as_ref().map(|connection| connection.prepare_cached("COMMIT")?.execute([]));
        if !matches!(ended, Some(Ok(_))) || self.permits.is_closed() {
            // A connection in an unknown state is not used again.
            slot.connection = None;
        }
        self.free.lock().push(index);
        slot.lease = None;
    }
}

/// A place that a snapshot holds; given back when the last user drops it.
struct Place {
    readers: Arc<Readers>,
    index: usize,
    ticket: u64,
    version: Version,
}

impl Place {
    /// Reads with the snapshot's connection, if it still has one.
    fn read<T>(&self, read: impl FnOnce(&Connection) -> Result<T, Fault>) -> Result<T, Error> {
        let mut slot = self.readers.slots[self.index].lock();
        let Some(lease) = slot.lease.as_ref().filter(|lease| lease.ticket == self.ticket) else {
            return Err(if self.readers.permits.is_closed() { Error::Closed } else { Error::TooOld });
        };
        if self.readers.expired(lease) {
            self.readers.end(self.index, &mut slot);
            return Err(Error::TooOld);
        }
        let Some(connection) = &slot.connection else { return Err(Error::Closed) };
        Ok(read(connection)?)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut slot = self.readers.slots[self.index].lock();
        if slot.lease.as_ref().is_some_and(|lease| lease.ticket == self.ticket) {
            self.readers.end(self.index, &mut slot);
        }
    }
}

struct EmbeddedSnapshot {
    place: Arc<Place>,
}

#[async_trait]
impl Snapshot for EmbeddedSnapshot {
    fn version(&self) -> Version {
        self.place.version
    }

    async fn get(&self, key: &[u8]) -> Result<Option<Entry>, Error> {
        self.place.read(|connection| schema::get(connection, key))
    }

    async fn range(&self, range: &Range) -> Result<Page, Error> {
        let mut scan = Scan::new(range.clone());
        self.place.read(|connection| scan.advance(connection, INLINE))?;
        if scan.done {
            return Ok(scan.page);
        }
        let place = Arc::clone(&self.place);
        let rest = tokio::task::spawn_blocking(move || {
            while !scan.done {
                place.read(|connection| scan.advance(connection, BLOCKING))?;
            }
            Ok(scan.page)
        });
        rest.await.map_err(|error| Error::Io(format!("a range was not read to its end: {error}")))?
    }
}

/// A range being read, chunk by chunk.
struct Scan {
    /// What is left, with what is left of its limits.
    range: Range,
    page: Page,
    done: bool,
}

impl Scan {
    fn new(range: Range) -> Self {
        Self { range, page: Page::default(), done: false }
    }

    /// Reads on, about as far as `chunk` allows.
    fn advance(&mut self, connection: &Connection, chunk: Chunk) -> Result<(), Fault> {
        let (start, end) = self.range.half_open();
        let sql = if self.range.reverse {
            "SELECT key, version, checksum, value FROM kv WHERE key >= ?1 AND key < ?2 ORDER BY key DESC"
        } else {
            "SELECT key, version, checksum, value FROM kv WHERE key >= ?1 AND key < ?2 ORDER BY key"
        };
        let mut statement = connection.prepare_cached(sql)?;
        let mut rows = statement.query([start, end])?;
        let (mut read_rows, mut read_bytes) = (0, 0);
        self.page.more = false;
        while let Some(row) = rows.next()? {
            let last = self.page.entries.last();
            if self.range.rows == 0 || (self.range.bytes == 0 && last.is_some()) {
                self.page.more = true;
                break;
            }
            if read_rows >= chunk.rows || read_bytes >= chunk.bytes {
                let beyond = last.map_or_else(Bytes::new, |entry| entry.key.clone());
                self.range = self.range.clone().beyond(beyond);
                return Ok(());
            }
            let entry = schema::entry(row)?;
            let bytes = entry.key.len() + entry.value.len();
            self.range.rows -= 1;
            self.range.bytes = self.range.bytes.saturating_sub(bytes);
            read_rows += 1;
            read_bytes += bytes;
            self.page.entries.push(entry);
        }
        self.done = true;
        Ok(())
    }
}
