//! The committer: it alone decides and commits, and turns what waits in the queue into one flushed record. Whose thread it
//! works on is in `turns`.
//!
//! A batch goes: take what waits, decide each transaction (`decide`), append the winners' net effect to the log with a
//! flush, make it readable (`overlay`), answer, wake the watches. The tree learns of it later (`applier`). Losers are
//! answered at once, except those that lost to a transaction of their own batch: until it is committed a retry would
//! read the old state and lose again.
//!
//! **Relaxed** transactions ride along with the next flushed one. A batch of only relaxed ones is written without a
//! flush: it then lies in the kernel's page cache, where the death of the process does not touch it, and is flushed by
//! the next flushed batch, or after `FLUSH_AFTER_US` when none comes.
//!
//! **Full disks** are met before the commit point: the log's room is taken beforehand, and a transaction by which the
//! tree might outgrow its room is refused before it is decided. When that is only a guess, because the tree has yet to
//! take over commits that may free some, the tree takes them over first.
//!
//! Invariants
//!   1. Nothing is answered with success, or readable, before its record is as durable as asked.
//!   2. A full disk refuses a transaction and leaves no trace of it; the next one tries again.
//!   3. Damage that the decision of a transaction reads refuses that transaction and no other.
//!   4. Any other failure of a write, flush or read ends the store: nothing is answered, `on_fatal` is called, no flush
//!      is tried again. What was acknowledged is in the log and is found by the next open.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rusqlite::Connection;

use super::Shared;
use super::applier::{Behind, Drained};
use super::kept::Kept;
use super::log::Writer;
use super::overlay::{Pinned, growth};
use super::queue::{Taken, log_bytes};
use super::reader;
use super::schema::{self, Fault};
use crate::commit::decide::{Batch, Refusal, Tree};
use crate::commit::job::{Answer, Done, Job, Work, reply};
use crate::commit::recent::Recent;
use crate::contract::{Durability, Error, KEY_BYTES_MAX, OFFER_BYTES_MAX, Op, Page, Range, Version};

/// Relaxed commits are flushed after this time at the latest; the contract says a second.
const FLUSH_AFTER_US: u64 = 500_000;

pub(super) struct Committer {
    shared: Arc<Shared>,
    /// Reads what decisions need of the tree.
    connection: Connection,
    log: Writer,
    /// Writes into the tree what is committed.
    behind: Behind,
    recent: Recent,
    /// The last commit.
    version: Version,
    /// Since when there are relaxed commits that are not flushed; on the monotonic clock.
    relaxed_since_us: Option<u64>,
}

/// What a step of the committer did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// It decided a batch of so many jobs.
    Batch(usize),
    /// There was none.
    Idle,
    /// All that will ever come is decided.
    End,
}

/// How a batch ended.
struct Decided {
    batch: Batch,
    winners: Vec<(Answer, Done)>,
    /// Those that lost to a winner.
    losers: Vec<Answer>,
    /// Whether a winner wants its flush.
    flush: bool,
}

impl Committer {
    pub(super) fn new(
        behind: Behind,
        shared: Arc<Shared>,
        connection: Connection,
        log: Writer,
        version: Version,
    ) -> Self {
        let recent = Recent::for_ranges_after(version).at_most(shared.limits.recent_writes);
        Self { shared, connection, log, behind, recent, version, relaxed_since_us: None }
    }

    /// Takes one batch, if one waits, and does what is due.
    pub(super) fn step(&mut self) -> Result<Step, Fault> {
        let step = match self.shared.queue.take() {
            Taken::Batch(jobs) => {
                let count = jobs.len();
                self.commit(jobs)?;
                Step::Batch(count)
            }
            Taken::Idle => Step::Idle,
            Taken::Closed => {
                self.flush_relaxed()?;
                self.shared.applier.stop();
                return Ok(Step::End);
            }
        };
        // Relaxed commits that never pause still are flushed in time.
        if self.flush_in_us() == Some(0) {
            self.flush_relaxed()?;
        }
        Ok(step)
    }

    /// How long to wait for the next transaction before something else is due.
    pub(super) fn patience(&self) -> Option<Duration> {
        self.flush_in_us().map(Duration::from_micros)
    }

    /// In which time relaxed commits are to be flushed.
    fn flush_in_us(&self) -> Option<u64> {
        let since = self.relaxed_since_us?;
        Some((since + FLUSH_AFTER_US).saturating_sub(self.shared.clock.monotonic_us()))
    }

    fn flush_relaxed(&mut self) -> Result<(), Fault> {
        self.relaxed_since_us = None;
        self.log.sync()
    }

    fn commit(&mut self, jobs: Vec<Job>) -> Result<(), Fault> {
        if !self.make_room(&jobs)? {
            jobs.into_iter().for_each(|job| reply(job.answer, Err(Error::DiskFull)));
            return Ok(());
        }
        let decided = self.decide(jobs)?;
        if decided.batch.is_empty() {
            decided.answer();
            return Ok(());
        }
        self.publish(decided)
    }

    /// Makes sure that the log can take the batch; false if that needs room on the disk that there is not.
    fn make_room(&mut self, jobs: &[Job]) -> Result<bool, Fault> {
        let bytes = jobs.iter().map(log_bytes).sum();
        loop {
            let fits = self.log.make_room(bytes)?;
            if fits && !self.shared.overlay.pressure().wait {
                return Ok(true);
            }
            match self.behind.drain() {
                Drained::All => {}
                Drained::DiskFull => return Ok(false),
                Drained::Ended => return Err(Fault::Broken("the store has failed".to_owned())),
            }
        }
    }

    /// Decides every job, in order.
    fn decide(&self, jobs: Vec<Job>) -> Result<Decided, Fault> {
        let mut decided = Decided {
            batch: Batch::after(self.version, self.shared.clock.now_ms()),
            winners: Vec::with_capacity(jobs.len()),
            losers: Vec::new(),
            flush: false,
        };
        let mut room = Room::new(&self.shared, &self.behind);
        let state = State {
            overlay: self.shared.overlay.peek(),
            kept: self.shared.overlay.kept(),
            tree: &self.connection,
            begun: Cell::new(false),
        };
        for Job { work, answer, .. } in jobs {
            let flush = work.durability() == Durability::Flushed;
            if !room.take(&work)? {
                reply(answer, Err(Error::DiskFull));
                continue;
            }
            match decided.batch.decide(work, &self.recent, &state) {
                Ok(done) => {
                    decided.flush |= flush;
                    decided.winners.push((answer, done));
                }
                Err(Refusal::ConflictInBatch) => decided.losers.push(answer),
                Err(Refusal::Conflict) => reply(answer, Err(Error::Conflict)),
                Err(Refusal::Refused(error)) => reply(answer, Err(error)),
                // Damage that was only read concerns only who reads it.
                Err(Refusal::Fault(fault @ Fault::Corrupt(_))) => reply(answer, Err(fault.into())),
                Err(Refusal::Fault(fault)) => return Err(fault),
            }
        }
        state.end()?;
        Ok(decided)
    }

    /// Writes the batch to the log, and makes known what is committed then.
    fn publish(&mut self, decided: Decided) -> Result<(), Fault> {
        let last = decided.batch.last();
        let writes = self.log.append(decided.batch.slots(), last, decided.flush)?;
        if decided.flush {
            self.relaxed_since_us = None;
        } else {
            self.relaxed_since_us.get_or_insert_with(|| self.shared.clock.monotonic_us());
        }
        self.version = last;
        self.shared.overlay.publish(writes, last, self.log.last_bytes());
        let batch = decided.answer();
        self.shared.watchers.touched(batch.writes().iter().map(|(_, key, _)| &key[..]), last);
        batch.teach(&mut self.recent);
        if self.shared.overlay.pressure().due || self.shared.log.wants_segment() {
            self.shared.applier.kick();
        }
        Ok(())
    }
}

impl Decided {
    /// Tells all how it ended.
    fn answer(self) -> Batch {
        self.winners.into_iter().for_each(|(answer, done)| reply(answer, Ok(done)));
        self.losers.into_iter().for_each(|answer| reply(answer, Err(Error::Conflict)));
        self.batch
    }
}

/// What is left of the tree's room while a batch is decided.
struct Room<'a> {
    shared: &'a Shared,
    behind: &'a Behind,
    left: u64,
}

impl<'a> Room<'a> {
    fn new(shared: &'a Shared, behind: &'a Behind) -> Self {
        Self { shared, behind, left: Self::left(shared) }
    }

    fn left(shared: &Shared) -> u64 {
        // In this order: what the tree takes over in between counts twice, not never.
        let waiting = shared.overlay.pressure().growth;
        shared.applier.room().saturating_sub(waiting)
    }

    /// Takes what a job may need. What only removes needs nothing.
    fn take(&mut self, work: &Work) -> Result<bool, Fault> {
        let need: u64 = match work {
            Work::Commit(txn) => txn.ops.iter().map(growth_of).sum(),
            // What it puts it takes away elsewhere: little more than a leaf that splits is needed.
            Work::Claim(_) => growth(KEY_BYTES_MAX, OFFER_BYTES_MAX),
        };
        if need > self.left {
            self.left = match self.behind.drain() {
                Drained::Ended => return Err(Fault::Broken("the store has failed".to_owned())),
                Drained::DiskFull => 0,
                Drained::All => Self::left(self.shared),
            };
        }
        let fits = need <= self.left;
        self.left -= if fits { need } else { 0 };
        Ok(fits)
    }
}

fn growth_of(op: &Op) -> u64 {
    match op {
        Op::Put(key, value) => growth(key.len(), value.len()),
        Op::Delete(_) => 0,
        Op::Add(key, _) => growth(key.len(), size_of::<i64>()),
        Op::PutNumbered { prefix, suffix, value } => {
            growth(prefix.len() + size_of::<Version>() + suffix.len(), value.len())
        }
        Op::Offer { prefix, id, value, .. } => growth(prefix.len() + size_of::<u64>() + id.len(), value.len()),
    }
}

/// The committed state beneath a batch: the overlay, then what is kept, then the tree, in one transaction that begins with
/// its first use. Nothing is committed meanwhile, so that what the tree takes over is in the overlay as it was looked at,
/// and what readers keep until then is the same.
struct State<'a> {
    overlay: Pinned,
    kept: &'a Kept,
    tree: &'a Connection,
    begun: Cell<bool>,
}

impl State<'_> {
    fn tree(&self) -> Result<&Connection, Fault> {
        if !self.begun.replace(true) {
            self.tree.prepare_cached("BEGIN")?.execute([])?;
        }
        Ok(self.tree)
    }

    fn end(&self) -> Result<(), Fault> {
        if self.begun.replace(false) {
            self.tree.prepare_cached("COMMIT")?.execute([])?;
        }
        Ok(())
    }
}

impl Tree for State<'_> {
    type Fault = Fault;

    fn version(&self, key: &[u8]) -> Result<Option<Version>, Fault> {
        match self.overlay.get(key) {
            Some(slot) => Ok(slot.value.is_some().then_some(slot.version)),
            None => match self.kept.get(key) {
                Some(entry) => Ok(Some(entry.version)),
                None => schema::get_version(self.tree()?, key),
            },
        }
    }

    fn value(&self, key: &[u8]) -> Result<Option<Bytes>, Fault> {
        match self.overlay.get(key) {
            Some(slot) => Ok(slot.value),
            None => match self.kept.get(key) {
                Some(entry) => Ok(Some(entry.value)),
                None => Ok(schema::get(self.tree()?, key)?.map(|entry| entry.value)),
            },
        }
    }

    fn range(&self, range: &Range) -> Result<Page, Fault> {
        reader::page(self.tree()?, &self.overlay, range)
    }
}
