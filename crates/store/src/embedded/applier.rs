//! The applier: the thread behind the commits that writes what the log holds into the tree, and tidies up.
//!
//! A generation of the overlay goes in portions, in the order of its keys, each one transaction without a flush; readers
//! do not mind, as the overlay hides what is half done. The last portion carries the generation's version and is
//! flushed, and all before it with it, as they lie in one file. Then the overlay drops the generation and the log gives
//! its segments back. So however random the writes are, a page of the tree is written once per generation.
//!
//! It works when there is enough, when a second has passed, and when somebody waits for it (`Applier::drain`).
//!
//! Invariants
//!   1. `version` in the tree never runs ahead of what the tree wholly holds, on disk.
//!   2. A full disk loses nothing: the portion is undone, log and overlay keep the commits, and a later round tries
//!      again. Meanwhile `Room` is none, so that nothing new is taken in.
//!   3. Any other failure ends the store.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rusqlite::Connection;

use super::Shared;
use super::overlay::Generation;
use super::schema::{self, Fault, PAGE_BYTES, WAL_BYTES_MAX};
use crate::contract::Version;

/// By how much the thread is nicer than the others.
const NICE: i32 = 5;
/// How often snapshots are looked at, and commits that came slowly are written into the tree.
const TICK: Duration = Duration::from_secs(1);
/// After this time without a commit the library's log is emptied, so that an idle store takes no room for it.
const EMPTY_WAL_AFTER: Duration = Duration::from_secs(3);
/// Most writes of one portion.
const PORTION_WRITES: usize = 2_048;
/// A portion is full at so many bytes.
const PORTION_BYTES: usize = 2 * 1024 * 1024;
/// At this length of its log, in pages, the library copies it into the file.
const WAL_PAGES: u64 = WAL_BYTES_MAX / PAGE_BYTES;
/// When readers keep that log from starting anew, the next attempt waits for this many more pages.
const RETRY_PAGES: u64 = WAL_PAGES / 4;
/// How long readers are waited for then, and how often they are looked at.
const READERS_PATIENCE: Duration = Duration::from_millis(500);
const READERS_POLL: Duration = Duration::from_millis(2);
/// Pages of the file that only what makes room may use.
const RESERVE_BYTES: u64 = 16 * PAGE_BYTES;
/// Bytes of the disk that are left for the library's log.
const DISK_RESERVE_BYTES: u64 = 2 * WAL_BYTES_MAX;

/// How a wait for the applier ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Drained {
    /// The tree has all that was there when the wait began.
    All,
    /// It has not: the disk is full.
    DiskFull,
    /// The store has failed.
    Ended,
}

/// What the applier is told.
#[derive(Default)]
pub(super) struct Applier {
    orders: Mutex<Orders>,
    told: Condvar,
    done: Condvar,
    room: Room,
}

#[derive(Default)]
struct Orders {
    kicked: bool,
    /// Number of waits begun, and of those answered.
    asked: u64,
    answered: u64,
    full: bool,
    stop: bool,
    ended: bool,
}

/// How much the tree can still grow, as of its last transaction.
#[derive(Default)]
struct Room {
    bytes: AtomicU64,
}

impl Applier {
    /// Says that there is enough to do.
    pub(super) fn kick(&self) {
        self.orders.lock().kicked = true;
        self.told.notify_one();
    }

    /// Waits until the tree has all that is published now.
    pub(super) fn drain(&self) -> Drained {
        let mut orders = self.orders.lock();
        orders.asked += 1;
        let mine = orders.asked;
        self.told.notify_one();
        while orders.answered < mine && !orders.ended {
            self.done.wait(&mut orders);
        }
        match (orders.ended, orders.full) {
            (true, _) => Drained::Ended,
            (_, true) => Drained::DiskFull,
            _ => Drained::All,
        }
    }

    /// How many bytes the tree may still grow by, what waits for it included.
    pub(super) fn room(&self) -> u64 {
        self.room.bytes.load(Ordering::SeqCst)
    }

    /// Whether somebody waits for it.
    fn is_awaited(&self) -> bool {
        let orders = self.orders.lock();
        orders.asked != orders.answered || orders.stop || orders.ended
    }

    /// Ends the thread after all is in the tree.
    pub(super) fn stop(&self) {
        self.orders.lock().stop = true;
        self.told.notify_one();
    }

    /// Ends the thread as it is, and every wait for it.
    pub(super) fn abort(&self) {
        self.orders.lock().ended = true;
        self.told.notify_all();
        self.done.notify_all();
    }
}

/// What the thread itself has.
pub(super) struct Worker {
    shared: Arc<Shared>,
    connection: Connection,
    /// Whether a COMMIT flushes now.
    flushing: bool,
    /// At this length of its log, in pages, the library copies it.
    checkpoint_at: u64,
    /// When something was last written into the tree; none once its log is empty.
    wrote: Option<Instant>,
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>, connection: Connection) -> Result<Self, Fault> {
        let worker = Self {
            shared,
            connection,
            flushing: false,
            checkpoint_at: WAL_PAGES,
            // An earlier process may have left something.
            wrote: Some(Instant::now()),
        };
        worker.measure_room()?;
        Ok(worker)
    }

    /// Before anything is committed: writes all there is into the tree, which from then on counts from `version`.
    pub(super) fn jump(&mut self, version: Version) -> Result<(), Fault> {
        self.round(true)?;
        self.set_flushing(true)?;
        schema::set_version(&self.connection, version)?;
        self.shared.overlay.jump(version);
        Ok(())
    }

    /// Works until told to stop.
    pub(super) fn run(mut self) -> Result<(), Fault> {
        // Where processors are few, commits go first. It concerns this thread only, and need not succeed.
        let _ = rustix::process::nice(NICE);
        loop {
            let (stop, asked) = match self.wait() {
                Some(orders) => orders,
                None => return Ok(()),
            };
            self.shared.readers.reap();
            let full = match self.round(stop || asked.is_some()) {
                Ok(()) => false,
                Err(Fault::DiskFull) => true,
                Err(fault) => return Err(fault),
            };
            self.answer(full, asked);
            if stop {
                self.shared.readers.close();
                return self.empty_wal();
            }
        }
    }

    /// Waits for something to do: whether to stop, and up to which number waits are to be answered.
    fn wait(&self) -> Option<(bool, Option<u64>)> {
        let applier = &self.shared.applier;
        let mut orders = applier.orders.lock();
        if !orders.kicked && !orders.stop && !orders.ended && orders.asked == orders.answered {
            applier.told.wait_for(&mut orders, TICK);
        }
        orders.kicked = false;
        let asked = (orders.asked != orders.answered).then_some(orders.asked);
        (!orders.ended).then_some((orders.stop, asked))
    }

    fn answer(&self, full: bool, asked: Option<u64>) {
        let mut orders = self.shared.applier.orders.lock();
        if full && !orders.full {
            tracing::error!("the disk of the data folder is full: writes are refused until there is room");
        }
        orders.full = full;
        if full {
            self.shared.applier.room.bytes.store(0, Ordering::SeqCst);
        }
        orders.answered = asked.unwrap_or(orders.answered);
        self.shared.applier.done.notify_all();
    }

    /// Writes what there is into the tree.
    fn round(&mut self, all: bool) -> Result<(), Fault> {
        let tick = self.wrote.is_none_or(|wrote| wrote.elapsed() >= TICK);
        if all || tick || self.shared.overlay.pressure().due {
            self.shared.overlay.freeze();
        }
        while let Some(generation) = self.shared.overlay.oldest() {
            self.apply(&generation)?;
            // In this order: what the tree has taken over counts twice for a moment, not never.
            self.measure_room()?;
            self.shared.overlay.drop_oldest();
            self.shared.log.recycle(generation.last());
            self.wrote = Some(Instant::now());
            if self.wal_pages()? >= 2 * WAL_PAGES {
                self.wait_for_readers()?;
            }
        }
        // Not before: what was just written into the tree may have freed one.
        if self.shared.log.wants_segment() {
            self.shared.log.make_segment()?;
        }
        if self.wrote.is_some_and(|wrote| wrote.elapsed() >= EMPTY_WAL_AFTER) {
            self.empty_wal()?;
        }
        self.measure_room()
    }

    fn apply(&mut self, generation: &Generation) -> Result<(), Fault> {
        let mut after = None;
        loop {
            let portion = generation.portion(after.as_ref(), PORTION_WRITES, PORTION_BYTES);
            let last = portion.last().map(|(key, _)| key.clone());
            // The empty portion at the end brings the version, and the flush.
            self.set_flushing(last.is_none())?;
            let written = self.connection.prepare_cached("BEGIN IMMEDIATE").and_then(|mut begin| begin.execute([]));
            let written = written.map_err(Fault::from).and_then(|_| {
                for (key, slot) in &portion {
                    match &slot.value {
                        Some(value) => schema::put(&self.connection, key, slot.version, value)?,
                        None => schema::delete(&self.connection, key)?,
                    }
                }
                if last.is_none() {
                    schema::set_version(&self.connection, generation.last())?;
                }
                Ok(self.connection.prepare_cached("COMMIT")?.execute([]).map(drop)?)
            });
            if let Err(fault) = written {
                self.roll_back()?;
                return Err(fault);
            }
            self.tend_wal()?;
            if last.is_none() {
                return Ok(());
            }
            after = last;
        }
    }

    fn roll_back(&self) -> Result<(), Fault> {
        // Some failures have rolled back already.
        if !self.connection.is_autocommit() {
            self.connection.prepare_cached("ROLLBACK")?.execute([])?;
        }
        Ok(())
    }

    /// Says whether the next COMMIT waits for the disk. Not allowed within a transaction.
    fn set_flushing(&mut self, flushing: bool) -> Result<(), Fault> {
        if self.flushing != flushing {
            self.flushing = flushing;
            let mode = if flushing { "FULL" } else { "NORMAL" };
            self.connection.execute_batch(&format!("PRAGMA synchronous = {mode}"))?;
        }
        Ok(())
    }

    /// Finds out by how much the tree can still grow.
    fn measure_room(&self) -> Result<(), Fault> {
        let file = schema::free_bytes(&self.connection)?.saturating_sub(RESERVE_BYTES);
        let disk = self.shared.log.free_bytes()?.saturating_sub(DISK_RESERVE_BYTES);
        self.shared.applier.room.bytes.store(file.min(disk), Ordering::SeqCst);
        Ok(())
    }

    /// After a transaction: copies the library's log into the file when it is long; the next one then starts it anew.
    fn tend_wal(&mut self) -> Result<(), Fault> {
        let pages = self.wal_pages()?;
        if pages < WAL_PAGES {
            self.checkpoint_at = WAL_PAGES;
        } else if pages >= self.checkpoint_at {
            checkpoint(&self.connection, "PASSIVE")?;
            self.checkpoint_at = pages + RETRY_PAGES;
        }
        Ok(())
    }

    /// How long the library's log is, in pages.
    fn wal_pages(&self) -> Result<u64, Fault> {
        let mut statement = self.connection.prepare_cached("PRAGMA wal_checkpoint(NOOP)")?;
        Ok(statement.query_row([], |row| row.get::<_, i64>(1))?.max(0).cast_unsigned())
    }

    /// Where there always is a reader, the library's log can start anew only if for a moment nothing is written: then
    /// new readers need nothing of it, and the old ones end. Not where one reads for minutes, and not when commits wait.
    fn wait_for_readers(&self) -> Result<(), Fault> {
        let deadline = Instant::now() + READERS_PATIENCE;
        let in_vain = || self.shared.readers.has_long() || self.shared.applier.is_awaited();
        while !checkpoint(&self.connection, "RESTART")? && Instant::now() < deadline && !in_vain() {
            self.shared.readers.reap();
            thread::sleep(READERS_POLL);
        }
        Ok(())
    }

    /// Copies all of the library's log and cuts it to nothing, if no reader stands in the way.
    fn empty_wal(&mut self) -> Result<(), Fault> {
        if checkpoint(&self.connection, "TRUNCATE")? {
            self.wrote = None;
        }
        Ok(())
    }
}

/// Runs a checkpoint; true if nothing stood in its way. A full disk only puts it off: the log keeps what it has.
fn checkpoint(connection: &Connection, mode: &str) -> Result<bool, Fault> {
    let run = connection
        .prepare_cached(&format!("PRAGMA wal_checkpoint({mode})"))
        .and_then(|mut statement| statement.query_row([], |row| row.get::<_, i64>(0)));
    match run.map_err(Fault::from) {
        Ok(busy) => Ok(busy == 0),
        Err(Fault::DiskFull) => {
            tracing::warn!("the tree's log cannot be emptied: the disk of the data folder is full");
            Ok(false)
        }
        Err(fault) => Err(fault),
    }
}
