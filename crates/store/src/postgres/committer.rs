//! The committer of one node: a task that turns what waits into one transaction of PostgreSQL, batch by batch.
//!
//! A batch takes two round trips, each with its statements sent at once. The first takes the lock (the row of `meta`),
//! learns what other nodes wrote since the last batch, and reads what the transactions expect. Then they are decided by
//! the same pure code as in the embedded engine. The second writes the winners' net effect, a row of `batches`, and
//! commits. The lock is held to the end of the flush, so batches of all nodes happen one after another: versions are
//! consecutive, in commit order, and a decision holds until it is written. What one node merges shares the price of that.
//!
//! **Lost answers.** When the connection breaks after the second part was sent, the batch may or may not have happened.
//! Another connection takes the lock, which the old one held until it ended, and looks which batch follows the version
//! that this one was decided on. Then it is known, and the batch is answered or done again.
//!
//! Invariants
//!   1. Nothing is answered with success before COMMIT has been, and no transaction happens twice.
//!   2. `recent` holds what was written up to `seen` by all nodes.
//!   3. A batch whose end cannot be found out any more ends the process (`on_fatal`): nothing is told about it.

use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::try_join_all;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, Statement};

use super::Shared;
use super::reader::entry;
use super::session::{Fault, Session, fault};
use crate::commit::decide::{Batch, Refusal, Tree};
use crate::commit::job::{Answer, Done, Job, Work, reply};
use crate::commit::recent::Recent;
use crate::contract::{Entry, Error, Expect, Op, Page, Range, Version};

/// Most transactions in one batch.
const BATCH_JOBS_MAX: usize = 1_024;
/// A batch is full when it has this many bytes.
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Statements must see what was committed until they had the lock, whatever the database's default is.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";
/// How long transactions wait for a server that cannot be reached before they are refused.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest round trip. A server that takes in what is sent and then is silent counts as gone.
const ROUND_TRIP: Duration = Duration::from_secs(10);
/// How long the end of a batch may stay unknown: with its round trip less than its row is kept.
const RESOLVE: Duration = Duration::from_secs(40);
/// Pauses between attempts to connect grow from the first to the second.
const PAUSES: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(1_000)];

/// A statement on its way: those of one round trip are polled, and so sent, in order.
type Step<'a, T> = Pin<Box<dyn Future<Output = Result<T, Fault>> + Send + 'a>>;

pub(super) struct Committer {
    shared: Arc<Shared>,
    jobs: mpsc::Receiver<Job>,
    connected: Option<Connected>,
    recent: Recent,
    seen: Version,
}

/// A session with the statements of a batch.
struct Connected {
    session: Session,
    lock: Statement,
    news: Statement,
    versions: Statement,
    values: Statement,
    queue: Statement,
    put: Statement,
    delete: Statement,
    advance: Statement,
    note: Statement,
}

impl Connected {
    async fn open(shared: &Shared) -> Result<Self, Fault> {
        let session = Session::open(&shared.connecting, || ()).await?;
        let schema = &shared.schema;
        let of = async |sql: &str| session.statement(&sql.replace("{}", schema)).await;
        Ok(Self {
            // The time is told when the lock is had.
            lock: of("SELECT version, (extract(epoch FROM clock_timestamp()) * 1000)::bigint FROM {}.meta FOR UPDATE")
                .await?,
            news: of("SELECT first, last, keys, versions, present FROM {}.batches WHERE first > $1 ORDER BY first")
                .await?,
            versions: of("SELECT k, ver FROM {}.kv WHERE k = ANY($1)").await?,
            values: of("SELECT k, v FROM {}.kv WHERE k = ANY($1)").await?,
            queue: of("SELECT k, v, ver FROM {}.kv WHERE k >= $1 AND k < $2 ORDER BY k LIMIT $3").await?,
            put: of("INSERT INTO {}.kv AS old (k, v, ver) SELECT * FROM unnest($1::bytea[], $2::bytea[], $3::bigint[])
                     ON CONFLICT (k) DO UPDATE SET v = EXCLUDED.v, ver = EXCLUDED.ver")
            .await?,
            delete: of("DELETE FROM {}.kv WHERE k = ANY($1)").await?,
            advance: of("UPDATE {}.meta SET version = $1").await?,
            note: of(
                "INSERT INTO {}.batches (first, last, node, keys, versions, present) VALUES ($1, $2, $3, $4, $5, $6)",
            )
            .await?,
            session,
        })
    }

    async fn rows(&self, statement: &Statement, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Fault> {
        self.session.client.query(statement, parameters).await.map_err(fault)
    }

    async fn done(&self, statement: &Statement, parameters: &[&(dyn ToSql + Sync)]) -> Result<(), Fault> {
        self.session.client.execute(statement, parameters).await.map(drop).map_err(fault)
    }

    async fn simple(&self, sql: &str) -> Result<(), Fault> {
        self.session.client.batch_execute(sql).await.map_err(fault)
    }
}

/// How an attempt to commit a batch ended.
enum Attempt {
    /// Committed, or nothing of it was to commit; all are answered.
    Done,
    /// Nothing happened: the jobs as they were, to be tried again.
    Again(Vec<Job>, Fault),
}

/// What the first round trip read.
struct Found {
    version: Version,
    /// The server's time.
    now_ms: u64,
    news: Vec<Row>,
    versions: HashMap<Bytes, Version>,
    values: HashMap<Bytes, Bytes>,
    /// The first entries of queues.
    queued: BTreeMap<Bytes, Entry>,
}

/// The committed state, as far as a batch asks for it.
struct Read<'a>(&'a Found);

impl Tree for Read<'_> {
    type Fault = Fault;

    fn version(&self, key: &[u8]) -> Result<Option<Version>, Fault> {
        Ok(self.0.versions.get(key).copied())
    }

    fn value(&self, key: &[u8]) -> Result<Option<Bytes>, Fault> {
        Ok(self.0.values.get(key).cloned())
    }

    /// Of a queue. So many of its entries were read that a claim never comes to the end of them before it has enough.
    fn range(&self, range: &Range) -> Result<Page, Fault> {
        let mut rest = self.0.queued.range((range.start.clone(), range.end.clone())).map(|(_, entry)| entry);
        let entries = rest.by_ref().take(range.rows).cloned().collect();
        Ok(Page { entries, more: rest.next().is_some() })
    }
}

/// A decided batch, and who waits for what.
struct Decided {
    batch: Batch,
    base: Version,
    winners: Vec<(Job, Done)>,
    losers: Vec<Answer>,
}

impl Committer {
    pub(super) fn new(shared: Arc<Shared>, jobs: mpsc::Receiver<Job>, version: Version) -> Self {
        Self { shared, jobs, connected: None, recent: Recent::after(version), seen: version }
    }

    /// Works until the store is closed and nothing waits.
    pub(super) async fn run(mut self) {
        while let Some(first) = self.jobs.recv().await {
            let mut bytes = first.bytes;
            let mut batch = vec![first];
            while batch.len() < BATCH_JOBS_MAX && bytes < BATCH_BYTES_MAX {
                let Ok(job) = self.jobs.try_recv() else { break };
                bytes += job.bytes;
                batch.push(job);
            }
            self.shared.waiting_bytes.fetch_sub(bytes, std::sync::atomic::Ordering::Relaxed);
            self.commit(batch).await;
        }
    }

    /// Commits a batch, through as many connections as it takes, or refuses it.
    async fn commit(&mut self, mut jobs: Vec<Job>) {
        let deadline = Instant::now() + PATIENCE;
        let mut pause = PAUSES[0];
        loop {
            // Who has gone away while nothing was sent does not want it any more.
            jobs.retain(|job| !job.answer.is_closed());
            if jobs.is_empty() {
                return;
            }
            let reason = match self.attempt(jobs).await {
                Attempt::Done => return,
                Attempt::Again(again, reason) => {
                    jobs = again;
                    reason
                }
            };
            let hopeless = !matches!(reason, Fault::Disconnected(_)) || Instant::now() + pause >= deadline;
            if hopeless || self.shared.is_closed() {
                tracing::error!(commits = jobs.len(), reason = %Error::from(reason.clone()), "refused");
                jobs.into_iter().for_each(|job| reply(job.answer, Err(reason.clone().into())));
                return;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSES[1]);
        }
    }

    async fn attempt(&mut self, jobs: Vec<Job>) -> Attempt {
        let connected = match self.connected.take() {
            Some(connected) => connected,
            None => match Connected::open(&self.shared).await {
                Ok(connected) => connected,
                Err(reason) => return Attempt::Again(jobs, reason),
            },
        };
        let found = match in_time(read(&connected, self.seen, &jobs)).await {
            Ok(found) => found,
            // Nothing is written yet; the server ends the transaction with the connection.
            Err(reason) => return Attempt::Again(jobs, reason),
        };
        self.learn(&found);
        let Some(decided) = self.decide(jobs, &found) else {
            if connected.simple("ROLLBACK").await.is_ok() {
                self.connected = Some(connected);
            }
            return Attempt::Done;
        };
        match in_time(self.write(&connected, &decided)).await {
            Ok(()) => {
                self.connected = Some(connected);
                self.publish(decided);
                Attempt::Done
            }
            Err(Fault::Disconnected(words)) => {
                drop(connected);
                tracing::warn!(words, "the connection broke within a commit; its end is looked up");
                match self.resolve(&decided).await {
                    Some(true) => {
                        self.publish(decided);
                        Attempt::Done
                    }
                    Some(false) => Attempt::Again(decided.undone(), Fault::Disconnected(words)),
                    None => {
                        self.shared.fatal("the end of a commit could not be found out");
                        Attempt::Done
                    }
                }
            }
            // The server has said no: nothing of the transaction happened.
            Err(reason) => {
                if connected.simple("ROLLBACK").await.is_ok() {
                    self.connected = Some(connected);
                }
                Attempt::Again(decided.undone(), reason)
            }
        }
    }

    /// Takes in what other nodes have written.
    fn learn(&mut self, found: &Found) {
        for row in &found.news {
            let (first, last): (i64, i64) = (row.get(0), row.get(1));
            let (first, last) = (first.cast_unsigned(), last.cast_unsigned());
            if first != self.seen + 1 {
                // Rows between are gone already: what was written in them is not known.
                self.recent = Recent::after(first - 1);
            }
            let (keys, versions, present): (Vec<&[u8]>, Vec<i64>, Vec<bool>) = (row.get(2), row.get(3), row.get(4));
            for ((key, version), present) in keys.into_iter().zip(versions).zip(present) {
                self.recent.push(version.cast_unsigned(), key, present);
            }
            self.seen = last;
        }
        if self.seen != found.version {
            self.recent = Recent::after(found.version);
            self.seen = found.version;
        }
    }

    /// Decides every job, in order; nothing if none writes.
    fn decide(&self, jobs: Vec<Job>, found: &Found) -> Option<Decided> {
        let batch = Batch::after(found.version, found.now_ms);
        let mut decided =
            Decided { batch, base: found.version, winners: Vec::with_capacity(jobs.len()), losers: Vec::new() };
        for job in jobs {
            match decided.batch.decide(job.work.clone(), &self.recent, &Read(found)) {
                Ok(done) => decided.winners.push((job, done)),
                Err(Refusal::ConflictInBatch) => decided.losers.push(job.answer),
                Err(Refusal::Conflict) => reply(job.answer, Err(Error::Conflict)),
                Err(Refusal::Refused(error)) => reply(job.answer, Err(error)),
                Err(Refusal::Fault(reason)) => reply(job.answer, Err(reason.into())),
            }
        }
        if decided.batch.is_empty() {
            decided.answer();
            return None;
        }
        Some(decided)
    }

    /// Writes a batch and commits it: one round trip.
    async fn write(&self, connected: &Connected, decided: &Decided) -> Result<(), Fault> {
        let (mut keys, mut values, mut versions, mut gone) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (key, slot) in decided.batch.slots() {
            match &slot.value {
                Some(value) => {
                    keys.push(&key[..]);
                    values.push(&value[..]);
                    versions.push(slot.version.cast_signed());
                }
                None => gone.push(&key[..]),
            }
        }
        let (first, last) = ((decided.base + 1).cast_signed(), decided.batch.last().cast_signed());
        let writes = decided.batch.writes();
        let noted: Vec<&[u8]> = writes.iter().map(|(_, key, _)| &key[..]).collect();
        let noted_versions: Vec<i64> = writes.iter().map(|(version, _, _)| version.cast_signed()).collect();
        let present: Vec<bool> = writes.iter().map(|(_, _, present)| *present).collect();
        let put: [&(dyn ToSql + Sync); 3] = [&keys, &values, &versions];
        let delete: [&(dyn ToSql + Sync); 1] = [&gone];
        let advance: [&(dyn ToSql + Sync); 1] = [&last];
        let note: [&(dyn ToSql + Sync); 6] = [&first, &last, &self.shared.node, &noted, &noted_versions, &present];
        // All are sent at once. After an error the server refuses the rest, and COMMIT rolls back and says so nowhere:
        // therefore it is asked for last and counted only when all before it went well.
        let mut steps: Vec<Step<'_, ()>> = Vec::new();
        if !keys.is_empty() {
            steps.push(Box::pin(connected.done(&connected.put, &put)));
        }
        if !gone.is_empty() {
            steps.push(Box::pin(connected.done(&connected.delete, &delete)));
        }
        steps.push(Box::pin(connected.done(&connected.advance, &advance)));
        steps.push(Box::pin(connected.done(&connected.note, &note)));
        steps.push(Box::pin(connected.simple("COMMIT")));
        // Not the first error but the worst counts: a broken connection leaves the end open.
        let mut outcome = Ok(());
        for step in futures_util::future::join_all(steps).await {
            match (&outcome, step) {
                (_, Err(Fault::Disconnected(words))) => outcome = Err(Fault::Disconnected(words)),
                (Ok(()), Err(reason)) => outcome = Err(reason),
                _ => {}
            }
        }
        outcome
    }

    /// Finds out whether a batch happened whose answer was lost; nothing if that cannot be found out in time.
    async fn resolve(&self, decided: &Decided) -> Option<bool> {
        let deadline = Instant::now() + RESOLVE;
        let mut pause = PAUSES[0];
        while Instant::now() < deadline {
            match in_time(self.look_up(decided)).await {
                Ok(happened) => return Some(happened),
                Err(reason) => tracing::warn!(reason = %Error::from(reason), "the end of a commit is not known yet"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSES[1]);
        }
        None
    }

    async fn look_up(&self, decided: &Decided) -> Result<bool, Fault> {
        let session = Session::open(&self.shared.connecting, || ()).await?;
        let schema = &self.shared.schema;
        let first = (decided.base + 1).cast_signed();
        session.client.batch_execute(BEGIN).await.map_err(fault)?;
        // The lock: the broken connection held it until it had committed or rolled back.
        let sql = format!("SELECT version FROM {schema}.meta FOR UPDATE");
        let version: i64 = session.client.query_one(&sql, &[]).await.map_err(fault)?.get(0);
        let sql = format!("SELECT node, last FROM {schema}.batches WHERE first = $1");
        let row = session.client.query_opt(&sql, &[&first]).await.map_err(fault)?;
        session.client.batch_execute("ROLLBACK").await.map_err(fault)?;
        match row {
            Some(row) => {
                Ok(row.get::<_, &str>(0) == self.shared.node
                    && row.get::<_, i64>(1) == decided.batch.last().cast_signed())
            }
            None if version < first => Ok(false),
            None => Err(Fault::Broken("the row that would tell it is gone".into())),
        }
    }

    /// Makes known what is committed.
    fn publish(&mut self, decided: Decided) {
        self.seen = decided.batch.last();
        let batch = decided.answer();
        self.shared.watchers.touched(batch.writes().iter().map(|(_, key, _)| &key[..]), self.seen);
        batch.teach(&mut self.recent);
        self.shared.committed.notify_one();
    }
}

impl Decided {
    /// Tells all how it ended.
    fn answer(self) -> Batch {
        self.winners.into_iter().for_each(|(job, done)| reply(job.answer, Ok(done)));
        self.losers.into_iter().for_each(|answer| reply(answer, Err(Error::Conflict)));
        self.batch
    }

    /// The jobs of a batch that did not happen. Its losers are answered: they may try again at once.
    fn undone(self) -> Vec<Job> {
        self.losers.into_iter().for_each(|answer| reply(answer, Err(Error::Conflict)));
        self.winners.into_iter().map(|(job, _)| job).collect()
    }
}

/// Waits for a round trip, within its time.
async fn in_time<T>(work: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    let late = || Fault::Disconnected(format!("no answer within {} s", ROUND_TRIP.as_secs()));
    tokio::time::timeout(ROUND_TRIP, work).await.unwrap_or_else(|_| Err(late()))
}

/// What a batch is decided by.
#[derive(Default)]
struct Wanted<'a> {
    /// Keys whose version is expected.
    expected: Vec<&'a [u8]>,
    /// Keys that are added to.
    added: Vec<&'a [u8]>,
    /// The queues of claims, and how many of their first entries.
    queues: BTreeMap<&'a Bytes, usize>,
}

impl<'a> Wanted<'a> {
    fn of(jobs: &'a [Job]) -> Self {
        let mut wanted = Self::default();
        for job in jobs {
            match &job.work {
                Work::Commit(txn) => {
                    wanted.expected.extend(txn.expects.iter().filter_map(|expect| match expect {
                        Expect::Version(key, _) | Expect::Absent(key) | Expect::Present(key) => Some(&key[..]),
                        Expect::RangeUnchanged(..) => None,
                    }));
                    let added = |op: &'a Op| if let Op::Add(key, _) = op { Some(&key[..]) } else { None };
                    wanted.added.extend(txn.ops.iter().filter_map(added));
                }
                // With the one after the last, which tells when to come again.
                Work::Claim(claim) => *wanted.queues.entry(&claim.prefix).or_insert(1) += claim.entries,
            }
        }
        if !wanted.queues.is_empty() {
            wanted.add_hidden(jobs);
        }
        wanted
    }

    /// What the batch deletes or writes itself does not count among the entries that its claims are to have.
    fn add_hidden(&mut self, jobs: &[Job]) {
        for job in jobs {
            let Work::Commit(txn) = &job.work else { continue };
            for op in &txn.ops {
                let (Op::Put(key, _) | Op::Delete(key) | Op::Add(key, _)) = op else { continue };
                for (queue, entries) in &mut self.queues {
                    *entries += usize::from(key.starts_with(queue));
                }
            }
        }
    }
}

/// Takes the lock and reads all that the batch is decided by: one round trip.
async fn read(connected: &Connected, seen: Version, jobs: &[Job]) -> Result<Found, Fault> {
    let Wanted { expected, added, queues } = Wanted::of(jobs);
    let seen = seen.cast_signed();
    let queues: Vec<(Vec<u8>, Vec<u8>, i64)> = queues
        .into_iter()
        .map(|(prefix, entries)| {
            let (start, end) = Range::prefix(prefix.clone()).half_open();
            (start, end, i64::try_from(entries).unwrap_or(i64::MAX))
        })
        .collect();
    let news: [&(dyn ToSql + Sync); 1] = [&seen];
    let points: [&(dyn ToSql + Sync); 1] = [&expected];
    let counters: [&(dyn ToSql + Sync); 1] = [&added];
    let firsts: Vec<[&(dyn ToSql + Sync); 3]> =
        queues.iter().map(|(start, end, entries)| [start as &(dyn ToSql + Sync), end, entries]).collect();
    let begun = connected.simple(BEGIN);
    let mut reads: Vec<Step<'_, Vec<Row>>> = vec![
        Box::pin(async { begun.await.map(|()| Vec::new()) }),
        Box::pin(connected.rows(&connected.lock, &[])),
        // These see what is committed when they begin, which is after the lock was had.
        Box::pin(connected.rows(&connected.news, &news)),
    ];
    if !expected.is_empty() {
        reads.push(Box::pin(connected.rows(&connected.versions, &points)));
    }
    if !added.is_empty() {
        reads.push(Box::pin(connected.rows(&connected.values, &counters)));
    }
    for first in &firsts {
        reads.push(Box::pin(connected.rows(&connected.queue, first)));
    }
    let mut rows = try_join_all(reads).await?.into_iter().skip(1);
    let lock = rows.next().unwrap_or_default();
    let Some(lock) = lock.first() else { return Err(Fault::Broken("the row of meta is missing".into())) };
    let version = lock.get::<_, i64>(0).cast_unsigned();
    let now_ms = lock.get::<_, i64>(1).cast_unsigned();
    let news = rows.next().unwrap_or_default();
    let key = |row: &Row| Bytes::copy_from_slice(row.get::<_, &[u8]>(0));
    let versions = if expected.is_empty() { Vec::new() } else { rows.next().unwrap_or_default() };
    let values = if added.is_empty() { Vec::new() } else { rows.next().unwrap_or_default() };
    Ok(Found {
        version,
        now_ms,
        news,
        versions: versions.iter().map(|row| (key(row), row.get::<_, i64>(1).cast_unsigned())).collect(),
        values: values.iter().map(|row| (key(row), Bytes::copy_from_slice(row.get::<_, &[u8]>(1)))).collect(),
        queued: rows.flatten().map(|row| (key(&row), entry(&row))).collect(),
    })
}
