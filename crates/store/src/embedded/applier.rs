//! The applier: the thread behind the commits that writes what the log holds into the tree, and tidies up.
//!
//! A generation of the overlay goes in portions, in the order of its keys, each one transaction without a flush; readers
//! do not mind, as the overlay hides what is half done. The last portion carries the generation's version and is
//! flushed, and all before it with it, as they lie in one file. Then the overlay drops the generation and the log gives
//! its segments back. So however random the writes are, a page of the tree is written once per generation.
//!
//! It works in rounds: when there is enough, when commits have paused for a second or waited for ten, and when somebody
//! waits for it (`Behind::drain`). Not sooner: to write a page costs the same whether few commits share it or many.
//! `Worker::step` is the smallest part of a round that others can come in between; the thread only repeats it.
//!
//! Invariants
//!   1. `version` in the tree never runs ahead of what the tree wholly holds, on disk; nothing in it runs ahead of what
//!      the log has on disk.
//!   2. A full disk loses nothing: the portion is undone, log and overlay keep the commits, and a later round tries
//!      again. Meanwhile `Room` is none, so that nothing new is taken in.
//!   3. Any other failure ends the store.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use rusqlite::Connection;

use super::Shared;
use super::overlay::Generation;
use super::schema::{self, Fault, PAGE_BYTES};
use crate::contract::{SNAPSHOT_LIFE_MS, Version};

/// By how much the thread is nicer than the others.
const NICE: i32 = 5;
/// How often snapshots are looked at. Commits that pause for so long are written into the tree.
const TICK: Duration = Duration::from_secs(1);
const TICK_US: u64 = TICK.as_micros() as u64;
/// Commits that never pause are written into the tree after this time, however few they are.
const LAG_US_MAX: u64 = 10 * TICK_US;
/// After this time without a commit the library's log is emptied, so that an idle store takes no room for it.
const EMPTY_WAL_AFTER_US: u64 = 3 * TICK_US;
/// Most writes of one portion.
pub(super) const PORTION_WRITES: usize = 2_048;
/// A portion is full at so many bytes.
const PORTION_BYTES: usize = 2 * 1024 * 1024;
/// How long readers are waited for then, and how often they are looked at.
const READERS_PATIENCE_US: u64 = 500_000;
const READERS_POLL: Duration = Duration::from_millis(2);
/// At so many times its usual length the library's log must start anew: commits wait until the oldest snapshot ends.
const WAL_LENGTHS_MAX: u64 = 6;
/// Longer than any usual snapshot lives.
const SNAPSHOTS_PATIENCE_US: u64 = (SNAPSHOT_LIFE_MS + 500) * 1_000;
/// Pages of the file that only what makes room may use.
const RESERVE_BYTES: u64 = 16 * PAGE_BYTES;

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

impl Orders {
    fn answer(&self, asked: u64) -> Option<Drained> {
        match (self.ended, self.full) {
            (true, _) => Some(Drained::Ended),
            _ if self.answered < asked => None,
            (_, true) => Some(Drained::DiskFull),
            _ => Some(Drained::All),
        }
    }
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

    /// Asks for all that is published now to be written into the tree, and returns the number of the question.
    fn ask(&self) -> u64 {
        let mut orders = self.orders.lock();
        orders.asked += 1;
        self.told.notify_one();
        orders.asked
    }

    /// What came of a question; none while it is not answered.
    fn answer(&self, asked: u64) -> Option<Drained> {
        self.orders.lock().answer(asked)
    }

    /// Waits for the answer.
    fn wait_for_answer(&self, asked: u64) -> Drained {
        let mut orders = self.orders.lock();
        loop {
            match orders.answer(asked) {
                Some(drained) => return drained,
                None => self.done.wait(&mut orders),
            }
        }
    }

    /// How many bytes the tree may still grow by, what waits for it included.
    pub(super) fn room(&self) -> u64 {
        self.room.bytes.load(Ordering::SeqCst)
    }

    /// Whether the store is closed or has failed.
    fn is_ending(&self) -> bool {
        let orders = self.orders.lock();
        orders.stop || orders.ended
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

/// The applier as the committer sees it: a thread, or a worker that it drives itself.
pub(super) struct Behind {
    shared: Arc<Shared>,
    inline: Option<Arc<Mutex<Worker>>>,
}

impl Behind {
    pub(super) fn thread(shared: Arc<Shared>) -> Self {
        Self { shared, inline: None }
    }

    pub(super) fn inline(shared: Arc<Shared>, worker: Arc<Mutex<Worker>>) -> Self {
        Self { shared, inline: Some(worker) }
    }

    /// Returns when the tree has all that is published now, or why it has not.
    pub(super) fn drain(&self) -> Drained {
        let applier = &self.shared.applier;
        let asked = applier.ask();
        let Some(worker) = &self.inline else { return applier.wait_for_answer(asked) };
        let mut worker = worker.lock();
        loop {
            if let Some(drained) = applier.answer(asked) {
                return drained;
            }
            match worker.step() {
                // Whoever reads and the clock stand still while this thread waits.
                Ok(Step::Pause(_)) => worker.readers_until_us = None,
                Ok(_) => {}
                Err(fault) => self.shared.fail(fault),
            }
        }
    }
}

/// What is to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// The next step.
    More,
    /// The next step, after this time: a reader stands in the way.
    Pause(Duration),
    /// Nothing until something is ordered or some time has passed.
    Wait,
    /// Nothing any more.
    End,
}

/// Why a round is made.
#[derive(Debug, Clone, Copy)]
struct Round {
    stop: bool,
    /// Up to which number questions are answered by it.
    asked: Option<u64>,
}

/// What the thread itself has.
pub(super) struct Worker {
    shared: Arc<Shared>,
    connection: Connection,
    /// Whether a COMMIT flushes now.
    flushing: bool,
    /// At this length of its log, in pages, the library copies it into the file.
    wal_pages_max: u64,
    /// At this one it tries again, when readers kept that log from starting anew.
    checkpoint_at: u64,
    /// When something was last written into the tree; none once its log is empty. On the monotonic clock.
    wrote_us: Option<u64>,
    /// What was published at a look, and when it had changed, on the monotonic clock: tells whether commits pause.
    looked: (Version, u64),
    /// When a round last began that takes all there is.
    froze_us: u64,
    /// The round that is being made.
    round: Option<Round>,
    /// The last key of the oldest generation that is in the tree.
    after: Option<Bytes>,
    /// Until when readers are waited for.
    readers_until_us: Option<u64>,
    /// Whether the library's log is so long that commits wait for that too.
    overlong: bool,
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>, connection: Connection) -> Result<Self, Fault> {
        // An earlier process may have left something.
        let now = shared.clock.monotonic_us();
        let wal_pages_max = shared.limits.wal_bytes / PAGE_BYTES;
        let worker = Self {
            shared,
            connection,
            flushing: false,
            checkpoint_at: wal_pages_max,
            wal_pages_max,
            wrote_us: Some(now),
            looked: (0, now),
            froze_us: now,
            round: None,
            after: None,
            readers_until_us: None,
            overlong: false,
        };
        worker.measure_room()?;
        Ok(worker)
    }

    /// Before anything is committed: writes all there is into the tree, which from then on counts from `version`.
    pub(super) fn jump(&mut self, version: Version) -> Result<(), Fault> {
        self.shared.overlay.freeze();
        while self.advance()? != Step::Wait {}
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
            match self.step()? {
                Step::More => {}
                Step::Pause(time) => thread::sleep(time),
                Step::Wait => self.wait(),
                Step::End => return Ok(()),
            }
        }
    }

    /// Does the next part of a round, or begins one.
    pub(super) fn step(&mut self) -> Result<Step, Fault> {
        let round = match self.round {
            Some(round) => round,
            None => match self.begin() {
                Some(round) => *self.round.insert(round),
                None => return Ok(Step::End),
            },
        };
        let full = match self.advance() {
            Ok(Step::Wait) => false,
            Err(Fault::DiskFull) => true,
            unfinished => return unfinished,
        };
        self.round = None;
        self.answer(full, round.asked);
        if round.stop {
            self.shared.readers.close();
            self.empty_wal()?;
            return Ok(Step::End);
        }
        Ok(Step::Wait)
    }

    /// Waits for something to do.
    fn wait(&self) {
        let applier = &self.shared.applier;
        let mut orders = applier.orders.lock();
        if !orders.kicked && !orders.stop && !orders.ended && orders.asked == orders.answered {
            applier.told.wait_for(&mut orders, TICK);
        }
    }

    /// Begins a round with what is ordered; none once the store has failed.
    fn begin(&mut self) -> Option<Round> {
        let round = {
            let mut orders = self.shared.applier.orders.lock();
            if orders.ended {
                return None;
            }
            orders.kicked = false;
            Round { stop: orders.stop, asked: (orders.asked != orders.answered).then_some(orders.asked) }
        };
        self.shared.readers.reap();
        if round.stop || round.asked.is_some() || self.is_due() {
            self.shared.overlay.freeze();
            self.froze_us = self.shared.clock.monotonic_us();
        }
        Some(round)
    }

    /// Whether what the tree does not have is enough to be written, or has waited for long enough.
    fn is_due(&mut self) -> bool {
        let now = self.shared.clock.monotonic_us();
        let published = self.shared.overlay.published();
        if published != self.looked.0 {
            self.looked = (published, now);
        }
        let has_passed = |since: u64, time_us| now.saturating_sub(since) >= time_us;
        self.shared.overlay.pressure().due
            || has_passed(self.looked.1, TICK_US)
            || has_passed(self.froze_us, LAG_US_MAX)
    }

    /// Whether nothing was written into the tree for so long.
    fn is_idle_for(&self, time_us: u64) -> bool {
        let now = self.shared.clock.monotonic_us();
        self.wrote_us.is_none_or(|wrote| now.saturating_sub(wrote) >= time_us)
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

    /// Writes the next portion of what is frozen into the tree; when there is none, tidies up.
    fn advance(&mut self) -> Result<Step, Fault> {
        if self.readers_until_us.is_some() && !self.is_wal_anew()? {
            return Ok(Step::Pause(READERS_POLL));
        }
        if let Some(generation) = self.shared.overlay.oldest() {
            if self.apply(&generation)? {
                // In this order: what the tree has taken over counts twice for a moment, not never.
                self.measure_room()?;
                self.shared.overlay.drop_oldest();
                self.shared.log.recycle(generation.last());
                let now = self.shared.clock.monotonic_us();
                self.wrote_us = Some(now);
                let lengths = self.wal_pages()? / self.wal_pages_max;
                self.overlong = lengths >= WAL_LENGTHS_MAX;
                if lengths >= 2 {
                    let patience = if self.overlong { SNAPSHOTS_PATIENCE_US } else { READERS_PATIENCE_US };
                    self.readers_until_us = Some(now + patience);
                }
            }
            return Ok(Step::More);
        }
        // Not before: what was just written into the tree may have freed one.
        if self.shared.log.wants_segment() {
            self.shared.log.make_segment()?;
        }
        if self.wrote_us.is_some() && self.is_idle_for(EMPTY_WAL_AFTER_US) {
            self.empty_wal()?;
        }
        self.measure_room()?;
        Ok(Step::Wait)
    }

    /// Writes the next portion of a generation; true if that was the last.
    fn apply(&mut self, generation: &Generation) -> Result<bool, Fault> {
        self.shared.log.sync_up_to(generation.last())?;
        let portion = generation.portion(self.after.as_ref(), self.shared.limits.portion_writes, PORTION_BYTES);
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
        self.after = last;
        self.tend_wal()?;
        Ok(self.after.is_none())
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
        // The library's log needs some too.
        let disk = self.shared.log.free_bytes()?.saturating_sub(2 * self.shared.limits.wal_bytes);
        self.shared.applier.room.bytes.store(file.min(disk), Ordering::SeqCst);
        Ok(())
    }

    /// After a transaction: copies the library's log into the file when it is long; the next one then starts it anew.
    fn tend_wal(&mut self) -> Result<(), Fault> {
        let pages = self.wal_pages()?;
        if pages < self.wal_pages_max {
            self.checkpoint_at = self.wal_pages_max;
        } else if pages >= self.checkpoint_at {
            checkpoint(&self.connection, "PASSIVE")?;
            self.checkpoint_at = pages + self.wal_pages_max / 4;
        }
        Ok(())
    }

    /// How long the library's log is, in pages.
    fn wal_pages(&self) -> Result<u64, Fault> {
        let mut statement = self.connection.prepare_cached("PRAGMA wal_checkpoint(NOOP)")?;
        Ok(statement.query_row([], |row| row.get::<_, i64>(1))?.max(0).cast_unsigned())
    }

    /// Where there always is a reader, the library's log can start anew only if for a moment nothing is written: then
    /// new readers need nothing of it, and the old ones end. Not where one reads for minutes, and not when commits wait,
    /// unless it has become so long that they have to.
    /// True when it has, or is not waited for any longer.
    fn is_wal_anew(&mut self) -> Result<bool, Fault> {
        let in_time = self.readers_until_us.is_some_and(|until| self.shared.clock.monotonic_us() < until);
        let applier = &self.shared.applier;
        let is_awaited = || if self.overlong { applier.is_ending() } else { applier.is_awaited() };
        let in_vain = || self.shared.readers.has_long() || is_awaited();
        if !checkpoint(&self.connection, "RESTART")? && in_time && !in_vain() {
            self.shared.readers.reap();
            return Ok(false);
        }
        self.readers_until_us = None;
        Ok(true)
    }

    /// Copies all of the library's log and cuts it to nothing, if no reader stands in the way.
    fn empty_wal(&mut self) -> Result<(), Fault> {
        if checkpoint(&self.connection, "TRUNCATE")? {
            self.wrote_us = None;
        }
        Ok(())
    }
}

/// Runs a checkpoint; true if nothing stood in its way. A full disk only puts it off: the log keeps what it has.
pub(super) fn checkpoint(connection: &Connection, mode: &str) -> Result<bool, Fault> {
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
