//! The committer: the one thread that writes. It turns what waits in the queue into one flushed SQLite transaction.
//!
//! A batch goes: take what waits, decide each transaction (`commit::decide`), write the winners' net effect, COMMIT with a
//! flush, remember the writes, answer, wake the watches. Losers are answered at once, except those that lost to a
//! transaction of their own batch: until it is committed a retry would read the old state and lose again.
//!
//! **Relaxed** transactions ride along with the next flushed one. A batch of only relaxed ones is committed without a
//! flush: it then lies in the kernel's page cache, where the death of the process does not touch it, and is flushed by
//! the next flushed batch (the log is one file), or after `FLUSH_AFTER` when none comes.
//!
//! **Checkpoints** copy the log into the file. The janitor does most of it beside the commits; when the log has
//! reached its size, the committer copies the small rest between two batches, and the log starts anew.
//!
//! Invariants
//!   1. Nothing is answered with success, or readable, before its COMMIT has returned.
//!   2. A full disk refuses a batch and leaves no trace of it; the next batch tries again.
//!   3. Damage that the decision of a transaction reads refuses that transaction and no other.
//!   4. Any other failure of a write, flush or read ends the store: nothing is answered, `on_fatal` is called, no flush
//!      is tried again. What was acknowledged is in the log and is found by the next open.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rusqlite::Connection;
use tokio::sync::oneshot;

use super::Shared;
use super::queue::{Job, Taken};
use super::schema::{self, Fault, LOG_BYTES_MAX, PAGE_BYTES};
use crate::commit::decide::{Batch, Refusal, Tree};
use crate::commit::recent::Recent;
use crate::contract::{Durability, Error, Version};

/// Relaxed commits are flushed after this time at the latest; the contract says a second.
const FLUSH_AFTER: Duration = Duration::from_millis(500);
/// After this time without a commit the log is emptied, so that an idle store opens at once and takes no room.
const EMPTY_LOG_AFTER: Duration = Duration::from_secs(3);
/// A log of this length is due to start anew.
const LOG_PAGES_MAX: u64 = LOG_BYTES_MAX / PAGE_BYTES;
/// When readers keep the log from starting anew, the next attempt waits for this many more pages.
const RETRY_PAGES: u64 = 16 * 1024 * 1024 / PAGE_BYTES;

type Answer = oneshot::Sender<Result<Version, Error>>;

pub(super) struct Committer {
    shared: Arc<Shared>,
    connection: Connection,
    recent: Recent,
    /// The last commit.
    version: Version,
    /// Whether a COMMIT flushes now.
    flushing: bool,
    /// Since when there are relaxed commits that are not flushed.
    relaxed_since: Option<Instant>,
    /// Whether the log holds anything.
    log_used: bool,
    /// At this length of the log, in pages, it is due to start anew.
    restart_at: u64,
}

/// How a batch ended.
struct Decided {
    batch: Batch,
    winners: Vec<(Answer, Version)>,
    /// Those that lost to a winner.
    losers: Vec<Answer>,
}

impl Committer {
    pub(super) fn new(shared: Arc<Shared>, connection: Connection, version: Version) -> Self {
        Self {
            shared,
            connection,
            recent: Recent::after(version),
            version,
            flushing: true,
            relaxed_since: None,
            log_used: true,
            restart_at: LOG_PAGES_MAX,
        }
    }

    /// Works until the queue is closed and empty.
    pub(super) fn run(mut self) -> Result<(), Fault> {
        loop {
            match self.shared.queue.take(self.patience()) {
                Taken::Batch(jobs) => self.commit(jobs)?,
                Taken::Idle if self.relaxed_since.is_some() => self.flush_relaxed()?,
                Taken::Idle => self.empty_log()?,
                Taken::Closed => break,
            }
            // Relaxed commits that never pause still are flushed in time.
            if self.relaxed_since.is_some_and(|since| since.elapsed() >= FLUSH_AFTER) {
                self.flush_relaxed()?;
            }
        }
        if self.relaxed_since.is_some() {
            self.flush_relaxed()?;
        }
        self.shared.readers.close();
        self.empty_log()
    }

    /// How long to wait for the next transaction before something else is due.
    fn patience(&self) -> Option<Duration> {
        match self.relaxed_since {
            Some(since) => Some(FLUSH_AFTER.saturating_sub(since.elapsed())),
            None => self.log_used.then_some(EMPTY_LOG_AFTER),
        }
    }

    fn commit(&mut self, jobs: Vec<Job>) -> Result<(), Fault> {
        let flush = jobs.iter().any(|job| job.txn.durability == Durability::Flushed);
        self.set_flushing(flush)?;
        self.connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let decided = self.decide(jobs)?;
        if decided.winners.is_empty() {
            return self.roll_back();
        }
        match self.write(&decided.batch) {
            Ok(()) => {}
            Err(Fault::DiskFull) => {
                self.roll_back()?;
                tracing::error!(commits = decided.winners.len(), "refused: the disk of the data folder is full");
                decided.winners.into_iter().for_each(|(answer, _)| reply(answer, Err(Error::DiskFull)));
                decided.losers.into_iter().for_each(|answer| reply(answer, Err(Error::Conflict)));
                return Ok(());
            }
            Err(fault) => return Err(fault),
        }
        if flush {
            self.relaxed_since = None;
        } else {
            self.relaxed_since.get_or_insert_with(Instant::now);
        }
        self.publish(decided);
        self.tend_log()
    }

    /// Decides every transaction, in order.
    fn decide(&self, jobs: Vec<Job>) -> Result<Decided, Fault> {
        let mut decided =
            Decided { batch: Batch::after(self.version), winners: Vec::with_capacity(jobs.len()), losers: Vec::new() };
        for Job { txn, answer, .. } in jobs {
            match decided.batch.decide(txn, &self.recent, &SqliteTree(&self.connection)) {
                Ok(version) => decided.winners.push((answer, version)),
                Err(Refusal::ConflictInBatch) => decided.losers.push(answer),
                Err(Refusal::Conflict) => reply(answer, Err(Error::Conflict)),
                Err(Refusal::Refused(error)) => reply(answer, Err(error)),
                // Damage that was only read concerns only who reads it.
                Err(Refusal::Fault(fault @ Fault::Corrupt(_))) => reply(answer, Err(fault.into())),
                Err(Refusal::Fault(fault)) => return Err(fault),
            }
        }
        Ok(decided)
    }

    /// Writes the batch and commits it.
    fn write(&self, batch: &Batch) -> Result<(), Fault> {
        for (key, slot) in batch.slots() {
            match &slot.value {
                Some(value) => schema::put(&self.connection, key, slot.version, value)?,
                None => schema::delete(&self.connection, key)?,
            }
        }
        schema::set_version(&self.connection, batch.last())?;
        Ok(self.connection.prepare_cached("COMMIT")?.execute([]).map(drop)?)
    }

    /// Makes known what is committed.
    fn publish(&mut self, decided: Decided) {
        self.version = decided.batch.last();
        decided.winners.into_iter().for_each(|(answer, version)| reply(answer, Ok(version)));
        decided.losers.into_iter().for_each(|answer| reply(answer, Err(Error::Conflict)));
        let writes = decided.batch.into_writes();
        self.shared.watchers.touched(writes.iter().map(|(_, key, _)| &key[..]), self.version);
        for (version, key, present) in writes {
            self.recent.push(version, &key, present);
        }
    }

    fn roll_back(&self) -> Result<(), Fault> {
        // Some failures have rolled back already.
        if !self.connection.is_autocommit() {
            self.connection.prepare_cached("ROLLBACK")?.execute([])?;
        }
        Ok(())
    }
}

/// The log: flushes, and what keeps it short.
impl Committer {
    /// Says whether the next COMMIT waits for the disk. Not allowed within a transaction.
    fn set_flushing(&mut self, flushing: bool) -> Result<(), Fault> {
        if self.flushing != flushing {
            self.flushing = flushing;
            let mode = if flushing { "FULL" } else { "NORMAL" };
            self.connection.execute_batch(&format!("PRAGMA synchronous = {mode}"))?;
        }
        Ok(())
    }

    /// Flushes the relaxed commits by a flushed one of our own. It changes one number, as an unchanged page is not
    /// written, and what is not written is not flushed.
    fn flush_relaxed(&mut self) -> Result<(), Fault> {
        self.set_flushing(true)?;
        self.connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let flushed = schema::set_flushed(&self.connection, self.version)
            .and_then(|()| self.connection.prepare_cached("COMMIT")?.execute([]));
        match flushed.map_err(Fault::from) {
            Ok(_) => {}
            Err(Fault::DiskFull) => {
                self.roll_back()?;
                // A checkpoint begins with a flush of the log, and that needs no room.
                self.shared.checkpoint(&self.connection)?;
            }
            Err(fault) => return Err(fault),
        }
        self.relaxed_since = None;
        Ok(())
    }

    /// After a commit: lets the janitor copy what has gathered, and makes the log start anew when it is long.
    fn tend_log(&mut self) -> Result<(), Fault> {
        self.log_used = true;
        let log = LogLength::of(&self.connection)?;
        self.shared.janitor.note_backlog(log.pages.saturating_sub(log.copied));
        if log.pages < LOG_PAGES_MAX {
            self.restart_at = LOG_PAGES_MAX;
        } else if log.pages >= self.restart_at {
            // With all of it copied and no reader within, the next commit writes to its beginning.
            self.shared.checkpoint(&self.connection)?;
            self.restart_at = log.pages + RETRY_PAGES;
        }
        Ok(())
    }

    /// Copies all of the log and cuts it to nothing, if no reader stands in the way.
    fn empty_log(&mut self) -> Result<(), Fault> {
        let _alone = self.shared.checkpoints.lock();
        let emptied = checkpoint(&self.connection, "TRUNCATE")?;
        self.log_used = !emptied;
        Ok(())
    }
}

/// How long the log is and how much of it is in the file already, in pages.
struct LogLength {
    pages: u64,
    copied: u64,
}

impl LogLength {
    fn of(connection: &Connection) -> Result<Self, Fault> {
        let mut statement = connection.prepare_cached("PRAGMA wal_checkpoint(NOOP)")?;
        let number =
            |row: &rusqlite::Row<'_>, index| Ok::<_, rusqlite::Error>(row.get::<_, i64>(index)?.max(0).cast_unsigned());
        Ok(statement.query_row([], |row| Ok(Self { pages: number(row, 1)?, copied: number(row, 2)? }))?)
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
            tracing::warn!("the log of the store cannot be emptied: the disk of the data folder is full");
            Ok(false)
        }
        Err(fault) => Err(fault),
    }
}

fn reply(answer: Answer, outcome: Result<Version, Error>) {
    // Who has stopped waiting does not want to know.
    let _ = answer.send(outcome);
}

/// The committed state, as the writing connection sees it before it writes.
struct SqliteTree<'a>(&'a Connection);

impl Tree for SqliteTree<'_> {
    type Fault = Fault;

    fn version(&self, key: &[u8]) -> Result<Option<Version>, Fault> {
        schema::get_version(self.0, key)
    }

    fn value(&self, key: &[u8]) -> Result<Option<Bytes>, Fault> {
        Ok(schema::get(self.0, key)?.map(|entry| entry.value))
    }
}
