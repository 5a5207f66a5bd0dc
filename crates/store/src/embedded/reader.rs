//! Reading: connections that read, snapshots that hold one each, and scans that do not hold up the runtime.
//!
//! Everything is looked for in the overlay first, then in the tree; a scan merges both. See `overlay` for why that shows
//! one state although the tree is written behind.
//!
//! A `get` runs where it is called, on the runtime's own thread: it takes less than 10 µs, which is about what handing it to
//! another thread and back costs. A range runs there for its first 128 entries or 64 KB; only what is longer goes to a
//! blocking thread. A read that misses the page cache holds up its thread for one disk access: a price for all others.
//!
//! Invariants
//!   1. At most `SNAPSHOTS_MAX` snapshots live; who wants another one waits for it.
//!   2. A snapshot whose life is over reads nothing more, and `reap` takes its connection, whether its holder
//!      still reads or not: no reader keeps the tree's log from starting anew, or a generation of the overlay in memory, for long.
//!   3. A ticket is given out once, so a reaped snapshot never reads through the lease of a later one.

use std::cmp::Ordering;
use std::iter::Peekable;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{self, AtomicU64};

use async_trait::async_trait;
use base::Clock;
use bytes::Bytes;
use parking_lot::Mutex;
use rusqlite::fallible_streaming_iterator::FallibleStreamingIterator;
use rusqlite::{Connection, Row, Rows};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::idle::Idle;
use super::overlay::{Overlay, Pinned, Slice};
use super::record::Write;
use super::schema::{self, Arena, Fault};
use crate::commit::decide::Slot;
use crate::contract::{Entry, Error, Page, Range, SNAPSHOT_LIFE_MS, Snapshot, Version};

/// Most snapshots at a time.
const SNAPSHOTS_MAX: usize = 32;
/// Memory for pages of each of as many connections as read at the same time. It holds the upper levels of a tree; the
/// leaves are in the kernel's page cache, which is not this process's to keep.
pub(super) const CACHE_KIB: u64 = 1_024;
/// Of each further one.
const CACHE_KIB_MORE: u64 = 256;
/// How much of a range is read on the caller's thread.
const INLINE: Chunk = Chunk { rows: 128, bytes: 64 * 1024, deletions: 512 };
/// How much is read at a time on a blocking thread; between two chunks others may use the snapshot.
const BLOCKING: Chunk = Chunk { rows: 512, bytes: 1024 * 1024, deletions: 4_096 };

#[derive(Debug, Clone, Copy)]
struct Chunk {
    rows: usize,
    bytes: usize,
    /// Keys that are stepped over, since they are deleted but the tree still has them.
    deletions: usize,
}

/// Of how many more keys than are wanted the overlay is asked at first.
const LOOK_MORE: usize = 32;

/// All reading connections of a store.
pub(super) struct Readers {
    file: PathBuf,
    overlay: Arc<Overlay>,
    clock: Arc<dyn Clock>,
    /// Whether long ranges go to a blocking thread.
    threads: bool,
    permits: Arc<Semaphore>,
    tickets: AtomicU64,
    slots: Vec<Mutex<Slotted>>,
    free: Mutex<Vec<usize>>,
    /// For reads of the current state.
    idle: Idle,
}

/// A place for one snapshot. The connection stays when the lease ends.
#[derive(Default)]
struct Slotted {
    connection: Option<Connection>,
    lease: Option<Lease>,
}

struct Lease {
    ticket: u64,
    pinned: Pinned,
    /// On the monotonic clock.
    ends_us: u64,
    _permit: OwnedSemaphorePermit,
}

impl Readers {
    pub(super) fn new(file: PathBuf, overlay: Arc<Overlay>, clock: Arc<dyn Clock>, threads: bool) -> Self {
        Self {
            idle: Idle::new(file.clone()),
            file,
            overlay,
            clock,
            threads,
            permits: Arc::new(Semaphore::new(SNAPSHOTS_MAX)),
            tickets: AtomicU64::new(0),
            slots: (0..SNAPSHOTS_MAX).map(|_| Mutex::default()).collect(),
            free: Mutex::new((0..SNAPSHOTS_MAX).rev().collect()),
        }
    }

    /// Reads one key of the current state.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Entry>, Error> {
        if self.permits.is_closed() {
            return Err(Error::Closed);
        }
        let kept = self.overlay.kept();
        let reading = kept.begin();
        if let Some(slot) = self.overlay.get(key) {
            return Ok(entry_of(key, slot));
        }
        if let Some(entry) = kept.get(key) {
            return Ok(Some(entry));
        }
        let found = self.idle.with(|connection| schema::get(connection, key))?;
        if let Some(entry) = &found {
            kept.keep(reading, entry);
        }
        Ok(found)
    }

    /// Reads a page of the current state where that takes one statement, which needs no snapshot. None where more has to
    /// be read for it.
    pub(super) fn short_page(&self, range: &Range) -> Result<Option<Page>, Error> {
        if self.permits.is_closed() {
            return Err(Error::Closed);
        }
        let (kept, ends) = (self.overlay.kept(), range.half_open());
        let (reading, before) = (kept.begin(), self.overlay.base());
        let mut scan = Scan::new(range.clone());
        if let Some(entries) = kept.page(&ends)
            && let Some(pinned) = self.overlay.pin_beside(before)
        {
            let slice = pinned.slice(&scan.range, scan.look);
            scan.merge(KeptRows::of(&entries, range.reverse), slice, &mut INLINE.clone())?;
            return Ok(scan.done.then_some(scan.page));
        }
        self.idle.with(|connection| {
            let before = self.overlay.base();
            let overlay = |range: &Range, look| Some(self.overlay.pin_beside(before)?.slice(range, look));
            scan.step(connection, overlay, &mut INLINE.clone())
        })?;
        if !scan.done {
            return Ok(None);
        }
        if !scan.page.more {
            let entries = || {
                let mut entries = scan.page.entries.clone();
                if range.reverse {
                    entries.reverse();
                }
                entries
            };
            kept.keep_page(reading, ends, entries);
        }
        Ok(Some(scan.page))
    }

    /// Opens a snapshot of the current state, as soon as there is a place for it.
    pub(super) async fn snapshot(self: &Arc<Self>, life_ms: u64) -> Result<Box<dyn Snapshot>, Error> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| Error::Closed)?;
        let Some(index) = self.free.lock().pop() else {
            unreachable!("there are as many places as permits, and a place is given back before its permit");
        };
        let ticket = self.tickets.fetch_add(1, atomic::Ordering::Relaxed);
        let mut slot = self.slots[index].lock();
        let began = self.begin(index, &mut slot);
        let pinned = match began {
            Ok(pinned) => pinned,
            Err(fault) => {
                // A connection in an unknown state is not used again.
                slot.connection = None;
                self.free.lock().push(index);
                return Err(fault.into());
            }
        };
        let version = pinned.version;
        let ends_us = self.clock.monotonic_us().saturating_add(life_ms * 1_000);
        slot.lease = Some(Lease { ticket, pinned, ends_us, _permit: permit });
        drop(slot);
        let place = Arc::new(Place { readers: Arc::clone(self), index, ticket, version });
        Ok(Box::new(EmbeddedSnapshot { place }))
    }

    /// Begins a transaction over the tree, then takes the overlay that goes with it.
    fn begin(&self, index: usize, slot: &mut Slotted) -> Result<Pinned, Fault> {
        let connection = match slot.connection.take() {
            Some(connection) => connection,
            // The places are given out from the first one on: those beyond are for the rare moments of many.
            None if index < self.idle.most() => schema::open_reader(&self.file, CACHE_KIB)?,
            None => schema::open_reader(&self.file, CACHE_KIB_MORE)?,
        };
        let connection = slot.connection.insert(connection);
        loop {
            connection.prepare_cached("BEGIN")?.execute([])?;
            // The first read is what fixes the state.
            let applied = schema::version_of(connection)?;
            let pinned = self.overlay.pin();
            if pinned.base() <= applied {
                return Ok(pinned);
            }
            // The tree took over a generation in between, which this state of it lacks.
            connection.prepare_cached("COMMIT")?.execute([])?;
        }
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

    /// Whether a snapshot has longer to live than usual ones ever have.
    pub(super) fn has_long(&self) -> bool {
        let usual = self.clock.monotonic_us().saturating_add(SNAPSHOT_LIFE_MS * 1_000);
        self.slots.iter().any(|slot| slot.lock().lease.as_ref().is_some_and(|lease| lease.ends_us > usual))
    }

    /// Ends everything: nothing can be read any more, all connections are closed.
    pub(super) fn close(&self) {
        self.permits.close();
        self.idle.close();
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

    fn end(&self, index: usize, slot: &mut Slotted) {
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
    /// Reads with what the snapshot holds, if it still does.
    fn read<T>(&self, read: impl FnOnce(&Connection, &Pinned) -> Result<T, Fault>) -> Result<T, Error> {
        let mut slot = self.readers.slots[self.index].lock();
        let Some(lease) = slot.lease.as_ref().filter(|lease| lease.ticket == self.ticket) else {
            return Err(if self.readers.permits.is_closed() { Error::Closed } else { Error::TooOld });
        };
        if self.readers.expired(lease) {
            self.readers.end(self.index, &mut slot);
            return Err(Error::TooOld);
        }
        let Some(connection) = &slot.connection else { return Err(Error::Closed) };
        Ok(read(connection, &lease.pinned)?)
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
        self.place.read(|connection, pinned| match pinned.get(key) {
            Some(slot) => Ok(entry_of(key, slot)),
            None => schema::get(connection, key),
        })
    }

    async fn range(&self, range: &Range) -> Result<Page, Error> {
        let mut scan = Scan::new(range.clone());
        self.place.read(|connection, pinned| scan.advance(connection, pinned, INLINE))?;
        if scan.done {
            return Ok(scan.page);
        }
        let place = Arc::clone(&self.place);
        let rest = move || {
            while !scan.done {
                place.read(|connection, pinned| scan.advance(connection, pinned, BLOCKING))?;
            }
            Ok(scan.page)
        };
        if !self.place.readers.threads {
            return rest();
        }
        let rest = tokio::task::spawn_blocking(rest);
        rest.await.map_err(|error| Error::Io(format!("a range was not read to its end: {error}")))?
    }
}

/// The entry that a write left; none if it deleted it.
fn entry_of(key: &[u8], slot: Slot) -> Option<Entry> {
    // Copies, as the slot's bytes are a small part of a batch that would stay in memory as a whole.
    let value = Bytes::copy_from_slice(&slot.value?);
    Some(Entry { key: Bytes::copy_from_slice(key), value, version: slot.version })
}

/// Reads a range to its end, where it is called.
pub(super) fn page(connection: &Connection, pinned: &Pinned, range: &Range) -> Result<Page, Fault> {
    let mut scan = Scan::new(range.clone());
    while !scan.done {
        scan.advance(connection, pinned, INLINE)?;
    }
    Ok(scan.page)
}

/// A range being read, chunk by chunk.
struct Scan {
    /// What is left, with what is left of its limits.
    range: Range,
    page: Page,
    arena: Arena,
    /// Of how many keys the overlay is asked next. Little more than is wanted at first, as all are copied; then more and
    /// more, as where many are deleted there may be many more.
    look: usize,
    done: bool,
}

impl Scan {
    fn new(range: Range) -> Self {
        let look = range.rows.saturating_add(1).min(INLINE.rows) + LOOK_MORE;
        Self { range, page: Page::default(), arena: Arena::default(), look, done: false }
    }

    /// Reads on, about as far as `chunk` allows.
    fn advance(&mut self, connection: &Connection, pinned: &Pinned, chunk: Chunk) -> Result<(), Fault> {
        let mut left = chunk;
        while !self.done && left.rows > 0 && left.bytes > 0 && left.deletions > 0 {
            self.step(connection, |range, look| Some(pinned.slice(range, look)), &mut left)?;
        }
        Ok(())
    }

    /// Reads on as far as one slice of the overlay reaches, and `left` does. The overlay is asked when the state of the
    /// tree is fixed; what it says may be that this state is not its own, then nothing is read and the answer is false.
    fn step(
        &mut self,
        connection: &Connection,
        overlay: impl FnOnce(&Range, usize) -> Option<Slice>,
        left: &mut Chunk,
    ) -> Result<bool, Fault> {
        let mut statement = connection.prepare_cached(if self.range.reverse { BACKWARD } else { FORWARD })?;
        let (start, end) = self.range.half_open();
        let mut rows = statement.query([start, end])?;
        // Outside of a transaction this is what fixes the state.
        rows.advance()?;
        let Some(slice) = overlay(&self.range, self.look) else { return Ok(false) };
        self.look = (2 * self.look).min(BLOCKING.rows + BLOCKING.deletions);
        let arena = std::mem::take(&mut self.arena);
        let mut rows = TreeRows { rows, arena };
        self.merge(&mut rows, slice, left)?;
        self.arena = rows.arena;
        Ok(true)
    }

    /// Takes what is next of these rows and of the overlay, as far as `left` allows.
    fn merge(&mut self, rows: impl TreePart, slice: Slice, left: &mut Chunk) -> Result<(), Fault> {
        let Slice { writes, up_to } = slice;
        let (writes, reverse) = (writes.into_iter().peekable(), self.range.reverse);
        let mut merge = Merge { rows, row: true, writes, up_to, reverse };
        // Where a key ends what was read that is not the last entry's.
        let mut at = None;
        self.page.more = false;
        while left.rows > 0 && left.bytes > 0 && left.deletions > 0 {
            let Some(next) = merge.next()? else {
                at = merge.up_to;
                self.done = at.is_none();
                break;
            };
            let entry = match next {
                Next::Deleted(key) => {
                    left.deletions -= 1;
                    at = Some(key);
                    continue;
                }
                Next::Entry(entry) => entry,
            };
            if self.range.rows == 0 || (self.range.bytes == 0 && !self.page.entries.is_empty()) {
                self.page.more = true;
                self.done = true;
                break;
            }
            let bytes = entry.key.len() + entry.value.len();
            self.range.rows -= 1;
            self.range.bytes = self.range.bytes.saturating_sub(bytes);
            left.rows -= 1;
            left.bytes = left.bytes.saturating_sub(bytes);
            at = None;
            self.page.entries.push(entry);
        }
        if !self.done {
            let last = || self.page.entries.last().map(|entry| entry.key.clone());
            if let Some(at) = at.or_else(last) {
                self.range = self.range.clone().beyond(at);
            }
        }
        Ok(())
    }
}

const FORWARD: &str = "SELECT key, version, checksum, value FROM kv WHERE key >= ?1 AND key < ?2 ORDER BY key";
const BACKWARD: &str = "SELECT key, version, checksum, value FROM kv WHERE key >= ?1 AND key < ?2 ORDER BY key DESC";

/// Entries of the tree within a range, in its order. Stands on one of them, or behind the last.
trait TreePart {
    /// Goes on to the next.
    fn advance(&mut self) -> Result<(), Fault>;

    /// The key of the one that it stands on.
    fn key(&self) -> Result<Option<&[u8]>, Fault>;

    /// The one that it stands on; none behind the last.
    fn entry(&mut self) -> Result<Option<Entry>, Fault>;
}

/// What a statement reads, which stands on its first row.
struct TreeRows<'a> {
    rows: Rows<'a>,
    arena: Arena,
}

impl TreePart for &mut TreeRows<'_> {
    fn advance(&mut self) -> Result<(), Fault> {
        Ok(self.rows.advance()?)
    }

    fn key(&self) -> Result<Option<&[u8]>, Fault> {
        self.rows.get().map(key_of).transpose()
    }

    fn entry(&mut self) -> Result<Option<Entry>, Fault> {
        let TreeRows { rows, arena } = &mut **self;
        rows.get().map(|row| schema::entry(row, arena)).transpose()
    }
}

/// What is kept of a range.
struct KeptRows<'a> {
    rows: std::slice::Iter<'a, Entry>,
    row: Option<&'a Entry>,
    reverse: bool,
}

impl<'a> KeptRows<'a> {
    /// Of entries in the order of keys.
    fn of(entries: &'a [Entry], reverse: bool) -> Self {
        let mut rows = Self { rows: entries.iter(), row: None, reverse };
        rows.go_on();
        rows
    }

    fn go_on(&mut self) {
        self.row = if self.reverse { self.rows.next_back() } else { self.rows.next() };
    }
}

impl TreePart for KeptRows<'_> {
    fn advance(&mut self) -> Result<(), Fault> {
        self.go_on();
        Ok(())
    }

    fn key(&self) -> Result<Option<&[u8]>, Fault> {
        Ok(self.row.map(|entry| &entry.key[..]))
    }

    fn entry(&mut self) -> Result<Option<Entry>, Fault> {
        Ok(self.row.cloned())
    }
}

/// The overlay over the tree, in the order of a range.
struct Merge<R> {
    rows: R,
    /// Whether `rows` stands on an entry that is not given out yet.
    row: bool,
    writes: Peekable<std::vec::IntoIter<Write>>,
    /// Where the overlay's part ends: rows beyond are for later.
    up_to: Option<Bytes>,
    reverse: bool,
}

enum Next {
    Entry(Entry),
    Deleted(Bytes),
}

impl<R: TreePart> Merge<R> {
    fn next(&mut self) -> Result<Option<Next>, Fault> {
        if !self.row {
            self.rows.advance()?;
            self.row = true;
        }
        let key = match (self.rows.key()?, &self.up_to) {
            (Some(key), Some(up_to)) if is_beyond(key, up_to, self.reverse) => None,
            (key, _) => key,
        };
        let Some((written, _)) = self.writes.peek() else {
            self.row = key.is_none();
            return if self.row { Ok(None) } else { Ok(self.rows.entry()?.map(Next::Entry)) };
        };
        let order = match key {
            None => Ordering::Greater,
            Some(key) if self.reverse => written[..].cmp(key),
            Some(key) => key.cmp(written),
        };
        // A row that the overlay hides is not looked at: whatever is wrong with it, it has been replaced.
        self.row = order == Ordering::Greater;
        if order == Ordering::Less {
            return Ok(self.rows.entry()?.map(Next::Entry));
        }
        let Some((key, slot)) = self.writes.next() else { return Ok(None) };
        Ok(Some(match entry_of(&key, slot) {
            Some(entry) => Next::Entry(entry),
            None => Next::Deleted(key),
        }))
    }
}

fn is_beyond(key: &[u8], end: &[u8], reverse: bool) -> bool {
    if reverse { key < end } else { key > end }
}

fn key_of<'a>(row: &'a Row<'_>) -> Result<&'a [u8], Fault> {
    row.get_ref(0)?.as_blob().map_err(|error| Fault::Corrupt(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use base::SystemClock;
    use proptest::prelude::*;

    use super::super::stepped::{Progress, Stepped, open_stepped};
    use super::super::{EmbeddedConfig, Limits};
    use super::*;
    use crate::contract::{Store, Txn};

    #[derive(Debug, Clone)]
    enum Do {
        Write(u8, Option<u8>),
        /// The tree takes over so many portions.
        Apply(u8),
        Read {
            page: u8,
            reverse: bool,
            rows: u8,
        },
    }

    fn any_step() -> impl Strategy<Value = Do> {
        prop_oneof![
            2 => (0u8..30, prop::option::weighted(0.7, any::<u8>())).prop_map(|(key, value)| Do::Write(key, value)),
            2 => (1u8..8).prop_map(Do::Apply),
            // Few ranges, so that they are read again.
            6 => (0u8..3, any::<bool>(), prop_oneof![Just(u8::MAX), 0u8..6])
                .prop_map(|(page, reverse, rows)| Do::Read { page, reverse, rows }),
        ]
    }

    fn stepped(folder: &std::path::Path) -> Stepped {
        let limits = Limits { due_log_bytes: 1, portion_writes: 2, ..Limits::default() };
        let on_fatal = Arc::new(|reason: &str| panic!("the store failed: {reason}"));
        let config = EmbeddedConfig { limits, on_fatal, ..EmbeddedConfig::new(folder, SystemClock::shared()) };
        open_stepped(config).unwrap()
    }

    async fn commit(stepped: &mut Stepped, txn: Txn) {
        let store = Arc::clone(stepped.store());
        let commit = tokio::spawn(async move { store.commit(txn).await });
        while !commit.is_finished() {
            tokio::task::yield_now().await;
            stepped.step_committer();
        }
        commit.await.unwrap().unwrap();
    }

    fn name(key: u8) -> String {
        format!("{}/{key:02}", key / 10)
    }

    /// Does all that, beside a map that does the same; how many reads found their range kept.
    async fn run(steps: Vec<Do>) -> usize {
        let folder = tempfile::tempdir().unwrap();
        let (mut stepped, mut model, mut found) = (stepped(folder.path()), BTreeMap::new(), 0);
        for step in steps {
            match step {
                Do::Write(key, Some(value)) => {
                    commit(&mut stepped, Txn::new().put(name(key), vec![value]).relaxed()).await;
                    model.insert(name(key), value);
                }
                Do::Write(key, None) => {
                    commit(&mut stepped, Txn::new().delete(name(key)).relaxed()).await;
                    model.remove(&name(key));
                }
                Do::Apply(portions) => {
                    // What is not flushed is not taken over.
                    commit(&mut stepped, Txn::new().put("flush", "")).await;
                    (0..portions).for_each(|_| assert_ne!(stepped.step_applier(), Progress::Ended));
                }
                Do::Read { page, reverse, rows } => {
                    let range = Range::prefix(format!("{page}/"));
                    let ends = range.half_open();
                    found += usize::from(stepped.store().shared.overlay.kept().page(&ends).is_some());
                    let range = if reverse { range.reversed() } else { range }.rows(rows.into());
                    let page = stepped.store().shared.readers.short_page(&range).unwrap().expect("a short range");
                    let seen: Vec<_> = page.entries.iter().map(|it| (it.key.to_vec(), it.value[0])).collect();
                    let mut all: Vec<_> = model.iter().map(|(key, value)| (key.as_bytes().to_vec(), *value)).collect();
                    all.retain(|(key, _)| range.contains(key));
                    if reverse {
                        all.reverse();
                    }
                    assert_eq!(page.more, all.len() > usize::from(rows));
                    all.truncate(rows.into());
                    assert_eq!(seen, all);
                }
            }
        }
        found
    }

    fn run_alone(steps: Vec<Do>) -> usize {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(run(steps))
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn pages_show_what_was_committed_whether_they_are_kept_or_not(steps in prop::collection::vec(any_step(), 1..120)) {
            run_alone(steps);
        }
    }

    #[test]
    fn what_is_read_again_is_found_kept() {
        let read = || Do::Read { page: 1, reverse: false, rows: u8::MAX };
        let settle = || Do::Apply(20);
        let written = [Do::Write(11, Some(1)), Do::Write(15, Some(2)), settle()];
        let twice = [written.to_vec(), vec![read(), read()]].concat();
        assert_eq!(run_alone([twice.clone(), vec![read()]].concat()), 1, "the third read");
        assert_eq!(run_alone([twice.clone(), vec![Do::Write(13, Some(3)), read()]].concat()), 1, "beside the overlay");
        assert_eq!(run_alone([twice.clone(), vec![Do::Write(13, None), settle(), read()]].concat()), 0, "written in");
        assert_eq!(run_alone([twice, vec![Do::Write(23, None), settle(), read()]].concat()), 1, "written beside");
    }
}
