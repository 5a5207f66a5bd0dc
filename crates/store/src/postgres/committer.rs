//! The committer of one node: a task that turns what waits into one transaction of PostgreSQL, batch by batch.
//!
//! A batch takes two round trips the long way, each with its statements sent at once. The first takes the lock of all
//! writers, learns what other nodes wrote since the last batch, and reads what the jobs ask for. Then they are decided by
//! the same pure code as in the embedded engine. The second writes the winners' net effect, a row of `batches`, and
//! commits. The quick way (`merge`) is one: the batch is decided before on the supposition that what its transactions
//! expect holds; the server takes the lock, compares, and writes if it does. Either way the lock is held to the end of
//! the flush, so batches of all nodes happen one after another: versions are consecutive, in commit order, and what was
//! looked at under the lock holds until it is written. What one node merges shares the price of that.
//!
//! **Lost answers.** When the connection breaks after a batch was sent, it may or may not have happened, or be still to
//! happen. Another connection takes the lock and looks for the batch by its number. If it is not there, a fence is put:
//! no batch of this node up to that number is written any more, also if the server finds it in a buffer much later. Then
//! it is known, and the batch is answered or done again under another number.
//!
//! Invariants
//!   1. Nothing is answered with success before COMMIT has been, and no transaction happens twice.
//!   2. `recent` holds what was written up to `seen` by all nodes.
//!   3. A batch whose end cannot be found out any more ends the process (`on_fatal`): nothing is told about it.

use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::try_join_all;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, Statement};

use super::Shared;
use super::merge::{Counter, Plan, Supposed};
use super::reader::entry;
use super::schema::lock_of;
use super::session::{Fault, Session, fault, in_time};
use crate::commit::decide::{Batch, Refusal, Tree};
use crate::commit::heads::Heads;
use crate::commit::job::{Answer, Done, Job, Work, reply};
use crate::commit::recent::Recent;
use crate::contract::{Entry, Error, Expect, Op, Page, Range, Version};

/// Most transactions in one batch.
const BATCH_JOBS_MAX: usize = 1_024;
/// A batch is full when it has this many bytes.
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Statements must see what was committed until they had the lock, whatever the database's default is.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";
/// After a supposition that did not hold, so many batches go the long way; twice as many after the next, up to the second.
const DOUBTS: [u32; 2] = [1, 32];
/// So long this machine's clock carries the server's time on.
const CLOCK: Duration = Duration::from_secs(10);
/// Counters whose last values are remembered at most.
const COUNTERS_MAX: usize = 4_096;
/// How long a batch is let grow after the last one, where nodes wait for the lock anyway.
const GATHER: Duration = Duration::from_millis(1);
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
    /// Of the last batch that was sent.
    number: i64,
    /// The server's time when it was told last, and when that was.
    clock: Option<(u64, Instant)>,
    /// Counters as this node left them: supposed, and therefore harmless if they are wrong.
    counters: HashMap<Bytes, Counter>,
    /// So many batches still go the long way, and so many will after the next disappointment.
    doubts: u32,
    next_doubts: u32,
    /// If other nodes wrote between the last batch and the one before: how many jobs are let come together, until when.
    gathering: Option<(usize, Instant)>,
}

/// A session with the statements of a batch.
struct Connected {
    session: Session,
    merge: Statement,
    lock: Statement,
    state: Statement,
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
        let session = Session::open(&shared.connecting, |_| ()).await?;
        // Every statement has one plan that is right whatever the tables' size: by the primary key.
        let plans = "SET plan_cache_mode = force_generic_plan; SET enable_hashjoin = off; SET enable_mergejoin = off;
                     SET enable_seqscan = off; SET jit = off";
        session.simple(plans).await?;
        let schema = &shared.schema;
        let of = async |sql: &str| session.statement(&sql.replace("{}", schema)).await;
        let parameters: Vec<String> = (1..=18).map(|number| format!("${number}")).collect();
        let merge = format!("SELECT * FROM {{}}.merge_1({})", parameters.join(", "));
        let lock = format!("SELECT pg_advisory_xact_lock({})", lock_of(schema));
        // All on their way at once.
        let (merge, lock, state, news, versions, values, queue, put, delete, advance, note) = tokio::try_join!(
            of(&merge),
            of(&lock),
            of("SELECT version, (extract(epoch FROM clock_timestamp()) * 1000)::bigint FROM {}.meta WHERE one"),
            of("SELECT first, last, keys, versions, present FROM {}.batches WHERE first > $1 ORDER BY first"),
            of("SELECT k, ver FROM {}.kv WHERE k = ANY($1)"),
            of("SELECT k, v, ver FROM {}.kv WHERE k = ANY($1)"),
            of("SELECT k, v, ver FROM {}.kv WHERE k >= $1 AND k < $2 ORDER BY k LIMIT $3"),
            of("INSERT INTO {}.kv AS old (k, v, ver) SELECT * FROM unnest($1::bytea[], $2::bytea[], $3::bigint[])
                ON CONFLICT (k) DO UPDATE SET v = EXCLUDED.v, ver = EXCLUDED.ver"),
            of("DELETE FROM {}.kv WHERE k = ANY($1)"),
            of("UPDATE {}.meta SET version = $1 WHERE one"),
            of("INSERT INTO {}.batches (first, last, node, number, keys, versions, present)
                VALUES ($1, $2, $3, $4, $5, $6, $7)"),
        )?;
        Ok(Self { session, merge, lock, state, news, versions, values, queue, put, delete, advance, note })
    }

    async fn rows(&self, statement: &Statement, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Fault> {
        self.session.answer(self.session.client.query(statement, parameters)).await
    }

    async fn done(&self, statement: &Statement, parameters: &[&(dyn ToSql + Sync)]) -> Result<(), Fault> {
        self.session.answer(self.session.client.execute(statement, parameters)).await.map(drop)
    }
}

/// A batch that comes together.
struct Gathered {
    jobs: Vec<Job>,
    bytes: usize,
}

impl Gathered {
    fn take(&mut self, job: Job) {
        self.bytes += job.bytes;
        self.jobs.push(job);
    }

    async fn grow_to(&mut self, jobs: usize, waiting: &mut mpsc::Receiver<Job>) {
        while self.jobs.len() < jobs && self.bytes < BATCH_BYTES_MAX {
            let Some(job) = waiting.recv().await else { return };
            self.take(job);
        }
    }
}

/// How an attempt to commit a batch ended.
enum Attempt {
    /// Committed, or nothing of it was to commit; all are answered.
    Done,
    /// Nothing happened: the jobs as they were, to be tried again.
    Again(Vec<Job>, Fault),
}

/// How the quick way ended.
enum Quick {
    /// As an attempt does.
    Ended(Attempt),
    /// Not at all: nothing happened, and the long way is to be gone.
    Slow(Box<Connected>, Vec<Job>),
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
    /// How these were asked for.
    queues: Vec<Queue>,
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
        Self {
            shared,
            jobs,
            connected: None,
            recent: Recent::after(version),
            seen: version,
            number: 0,
            clock: None,
            counters: HashMap::new(),
            doubts: 0,
            next_doubts: DOUBTS[0],
            gathering: None,
        }
    }

    /// Works until the store is closed and nothing waits.
    pub(super) async fn run(mut self) {
        while let Some(first) = self.jobs.recv().await {
            let mut batch = Gathered { bytes: first.bytes, jobs: vec![first] };
            if let Some((jobs, until)) = self.gathering.take() {
                // Whoever did not come by then is not waited for.
                let _ = tokio::time::timeout_at(until, batch.grow_to(jobs, &mut self.jobs)).await;
            }
            let most = if self.shared.merging { BATCH_JOBS_MAX } else { 1 };
            while batch.jobs.len() < most && batch.bytes < BATCH_BYTES_MAX {
                let Ok(job) = self.jobs.try_recv() else { break };
                batch.take(job);
            }
            self.shared.waiting_bytes.fetch_sub(batch.bytes, Ordering::Relaxed);
            self.commit(batch.jobs).await;
        }
    }

    /// Commits a batch, through as many connections as it takes, or refuses it.
    async fn commit(&mut self, mut jobs: Vec<Job>) {
        let deadline = Instant::now() + self.shared.deadlines.unreachable;
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
            let passes = matches!(reason, Fault::Disconnected(_) | Fault::Undone(_));
            let hopeless = !passes || Instant::now() + pause >= deadline;
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
        let jobs = match self.quick(connected, jobs).await {
            Quick::Ended(attempt) => return attempt,
            Quick::Slow(connected, jobs) => {
                self.connected = Some(*connected);
                jobs
            }
        };
        let Some(connected) = self.connected.take() else { return Attempt::Again(jobs, gone()) };
        let mut found = match read(&connected, self.seen, &jobs, self.recent.heads()).await {
            Ok(found) => found,
            // Nothing is written yet; the server ends the transaction with the connection.
            Err(reason) => return Attempt::Again(jobs, reason),
        };
        self.learn(&found.news, found.version);
        if let Err(reason) = found.read_lowered(&connected, self.recent.heads()).await {
            return Attempt::Again(jobs, reason);
        }
        self.clock = Some((found.now_ms, Instant::now()));
        let Some(decided) = self.decide(jobs, &found) else {
            self.give_back(connected).await;
            return Attempt::Done;
        };
        let before = self.number();
        match self.write(&connected, &decided).await {
            Ok(()) => {
                self.connected = Some(connected);
                self.publish(decided);
                Attempt::Done
            }
            Err(Fault::Disconnected(words)) => {
                drop(connected);
                match self.resolve(before, words.clone()).await {
                    Some(Some(_)) => {
                        self.publish(decided);
                        Attempt::Done
                    }
                    Some(None) => Attempt::Again(decided.undone(), Fault::Disconnected(words)),
                    None => Attempt::Done,
                }
            }
            // The server has said no: nothing of the transaction happened.
            Err(reason) => {
                self.give_back(connected).await;
                Attempt::Again(decided.undone(), reason)
            }
        }
    }

    /// A number for a batch that is sent now. Returns what was seen before.
    fn number(&mut self) -> Version {
        self.number += 1;
        self.seen
    }

    /// Ends a transaction that is not wanted.
    async fn give_back(&mut self, connected: Connected) {
        if connected.session.simple("ROLLBACK").await.is_ok() {
            self.connected = Some(connected);
        }
    }

    /// Commits a batch the quick way, if it can go that way and what it supposes holds.
    async fn quick(&mut self, connected: Connected, jobs: Vec<Job>) -> Quick {
        if self.doubts > 0 {
            self.doubts -= 1;
            return Quick::Slow(Box::new(connected), jobs);
        }
        let plan = match self.plan(&connected, &jobs).await {
            Ok(Some(plan)) => plan,
            Ok(None) => return Quick::Slow(Box::new(connected), jobs),
            Err(reason) => return Quick::Ended(Attempt::Again(jobs, reason)),
        };
        let before = self.number();
        match self.merge(&connected, &plan).await {
            Ok(rows) => {
                self.connected = Some(connected);
                self.merged(plan, jobs, &rows)
            }
            Err(Fault::Disconnected(words)) => {
                drop(connected);
                match self.resolve(before, words.clone()).await {
                    Some(Some(base)) => {
                        // What others have written before it was told with the answer.
                        self.learn(&[], base);
                        self.end_merged(plan, jobs, base);
                        Quick::Ended(Attempt::Done)
                    }
                    Some(None) => Quick::Ended(Attempt::Again(jobs, Fault::Disconnected(words))),
                    None => Quick::Ended(Attempt::Done),
                }
            }
            Err(Fault::DiskFull) => {
                self.connected = Some(connected);
                Quick::Ended(Attempt::Again(jobs, Fault::DiskFull))
            }
            // Whatever it is, the long way tells whose fault it is.
            Err(Fault::Undone(_) | Fault::Broken(_)) => Quick::Slow(Box::new(connected), jobs),
        }
    }

    /// Decides a batch by what it supposes; nothing if it cannot.
    async fn plan(&mut self, connected: &Connected, jobs: &[Job]) -> Result<Option<Plan>, Fault> {
        let clock = self.clock.filter(|(_, told)| told.elapsed() < CLOCK);
        let (Some(mut supposed), Some((now_ms, told))) = (Supposed::of(jobs), clock) else { return Ok(None) };
        let counters: Vec<Bytes> = supposed.counters().cloned().collect();
        let unknown: Vec<&[u8]> =
            counters.iter().filter(|key| !self.counters.contains_key(*key)).map(|key| &key[..]).collect();
        let mut read: HashMap<Bytes, Counter> = HashMap::new();
        if !unknown.is_empty() {
            let parameters: [&(dyn ToSql + Sync); 1] = [&unknown];
            for row in connected.rows(&connected.values, &parameters).await? {
                let version = row.get::<_, i64>(2).cast_unsigned();
                read.insert(key_of(&row), Some((version, Bytes::copy_from_slice(row.get(1)))));
            }
        }
        for key in &counters {
            let counter = self.counters.get(key).or_else(|| read.get(key)).cloned().flatten();
            if supposed.counter(key, counter).is_none() {
                self.counters.remove(key);
                return Ok(None);
            }
        }
        // The server's clock, carried on by this machine's.
        let now_ms = now_ms + u64::try_from(told.elapsed().as_millis()).unwrap_or_default();
        Ok(Plan::of(jobs, supposed, &self.recent, self.seen, now_ms))
    }

    /// Sends a batch: one round trip.
    async fn merge(&self, connected: &Connected, plan: &Plan) -> Result<Vec<Row>, Fault> {
        let (mut keys, mut values, mut versions, mut places) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut gone: Vec<&[u8]> = Vec::new();
        for (key, slot) in plan.batch.slots() {
            match &slot.value {
                Some(value) => {
                    keys.push(&key[..]);
                    values.push(&value[..]);
                    versions.push(Plan::ahead(slot.version));
                    places.push(plan.place(key));
                }
                None => gone.push(&key[..]),
            }
        }
        let writes = plan.batch.writes();
        let noted: Vec<&[u8]> = writes.iter().map(|(_, key, _)| &key[..]).collect();
        let noted_versions: Vec<i64> = writes.iter().map(|(version, _, _)| Plan::ahead(*version)).collect();
        let noted_places: Vec<i32> = writes.iter().map(|(_, key, _)| plan.place(key)).collect();
        let present: Vec<bool> = writes.iter().map(|(_, _, present)| *present).collect();
        let (points, held) = plan.points();
        let (starts, ends, since) = plan.ranges();
        let (seen, count) = (self.seen.cast_signed(), Plan::ahead(plan.batch.last()));
        let parameters: [&(dyn ToSql + Sync); 18] = [
            &seen,
            &self.shared.node,
            &self.number,
            &count,
            &points,
            &held,
            &starts,
            &ends,
            &since,
            &keys,
            &values,
            &versions,
            &places,
            &gone,
            &noted,
            &noted_versions,
            &noted_places,
            &present,
        ];
        connected.rows(&connected.merge, &parameters).await
    }

    /// Takes in what the server has answered.
    fn merged(&mut self, plan: Plan, jobs: Vec<Job>, rows: &[Row]) -> Quick {
        let Some((last, news)) = rows.split_last() else {
            let reason = Fault::Broken("merge has answered nothing".into());
            return Quick::Ended(Attempt::Again(jobs, reason));
        };
        let (base, now) = (last.get::<_, i64>(0), last.get::<_, i64>(1));
        let times: Vec<i64> = last.get(3);
        self.clock = times.first().map(|now_ms| (now_ms.cast_unsigned(), Instant::now()));
        self.learn(news, base.cast_unsigned());
        if now > base {
            self.next_doubts = (self.next_doubts / 2).max(DOUBTS[0]);
            let together = jobs.len() + self.jobs.len();
            // Those whose commits are answered now come again soon, to be part of the same batch as those that wait
            // already. Without, the nodes' batches would be halves, each with its own wait for the lock.
            let contended = self.shared.merging && !news.is_empty();
            self.gathering = contended.then(|| (together.min(BATCH_JOBS_MAX), Instant::now() + GATHER));
            self.end_merged(plan, jobs, base.cast_unsigned());
            return Quick::Ended(Attempt::Done);
        }
        self.doubts = self.next_doubts;
        self.next_doubts = (self.next_doubts * 2).min(DOUBTS[1]);
        self.counters.clear();
        match self.connected.take() {
            // The long way begins at once, with this batch.
            Some(connected) => Quick::Slow(Box::new(connected), jobs),
            None => Quick::Ended(Attempt::Again(jobs, gone())),
        }
    }

    /// Answers a batch that was committed after `base`.
    fn end_merged(&mut self, plan: Plan, jobs: Vec<Job>, base: Version) {
        if self.counters.len() > COUNTERS_MAX {
            self.counters.clear();
        }
        self.counters.extend(plan.counters_after(base));
        let (batch, outcomes) = plan.after(base);
        let mut decided = Decided { batch, base, winners: Vec::with_capacity(jobs.len()), losers: Vec::new() };
        for (job, outcome) in jobs.into_iter().zip(outcomes) {
            match outcome {
                Some(done) => decided.winners.push((job, done)),
                None => decided.losers.push(job.answer),
            }
        }
        self.publish(decided);
    }

    /// Takes in what other nodes have written up to commit `version`.
    fn learn(&mut self, news: &[Row], version: Version) {
        for row in news {
            let (first, last): (i64, i64) = (row.get(0), row.get(1));
            let (first, last) = (first.cast_unsigned(), last.cast_unsigned());
            let (keys, versions, present): (Vec<&[u8]>, Vec<i64>, Vec<bool>) = (row.get(2), row.get(3), row.get(4));
            if first == self.seen + 1 {
                self.shared.watchers.touched(keys.iter().copied(), last);
            } else {
                // Rows between are gone already: what was written in them is not known.
                self.recent = Recent::after(first - 1);
                self.shared.watchers.touched_all(last);
            }
            for ((key, version), present) in keys.into_iter().zip(versions).zip(present) {
                self.recent.push(version.cast_unsigned(), key, present);
            }
            self.seen = last;
        }
        if self.seen != version {
            self.recent = Recent::after(version);
            self.seen = version;
            self.shared.watchers.touched_all(version);
        }
        self.shared.told.fetch_max(self.seen, Ordering::Relaxed);
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
        let note: [&(dyn ToSql + Sync); 7] =
            [&first, &last, &self.shared.node, &self.number, &noted, &noted_versions, &present];
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
        steps.push(Box::pin(connected.session.simple("COMMIT")));
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

    /// Finds out whether the last batch that was sent happened, after its answer was lost, and after which commit. If that
    /// cannot be found out in time, the process ends.
    async fn resolve(&self, before: Version, words: String) -> Option<Option<Version>> {
        tracing::warn!(words, "the connection broke within a commit; its end is looked up");
        let deadlines = self.shared.deadlines;
        let deadline = Instant::now() + deadlines.unknown;
        let mut pause = PAUSES[0];
        while Instant::now() < deadline {
            match in_time(deadlines.round_trip, self.look_up(before)).await {
                Ok(happened) => return Some(happened),
                Err(reason) => tracing::warn!(reason = %Error::from(reason), "the end of a commit is not known yet"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSES[1]);
        }
        self.shared.fatal("the end of a commit could not be found out");
        None
    }

    /// The commit that the last batch follows, if it happened. If not, it never will.
    async fn look_up(&self, before: Version) -> Result<Option<Version>, Fault> {
        let session = Session::open(&self.shared.connecting, |_| ()).await?;
        let (client, schema) = (&session.client, &self.shared.schema);
        client
            .batch_execute(&format!("{BEGIN}; SELECT pg_advisory_xact_lock({})", lock_of(schema)))
            .await
            .map_err(fault)?;
        let sql = format!("SELECT first FROM {schema}.batches WHERE node = $1 AND number = $2");
        let found = client.query_opt(&sql, &[&self.shared.node, &self.number]).await.map_err(fault)?;
        if let Some(row) = found {
            client.batch_execute("ROLLBACK").await.map_err(fault)?;
            return Ok(Some(row.get::<_, i64>(0).cast_unsigned() - 1));
        }
        // That it is not there says something only if rows of that time are.
        let sql = format!(
            "SELECT version = $1 OR EXISTS (SELECT FROM {schema}.batches WHERE first = $1 + 1) FROM {schema}.meta WHERE one"
        );
        if !client.query_one(&sql, &[&before.cast_signed()]).await.map_err(fault)?.get::<_, bool>(0) {
            return Err(Fault::Broken("the row that would tell it is gone".into()));
        }
        let sql = format!(
            "INSERT INTO {schema}.fences AS old (node, number) VALUES ($1, $2)
             ON CONFLICT (node) DO UPDATE SET number = EXCLUDED.number, at = EXCLUDED.at"
        );
        client.execute(&sql, &[&self.shared.node, &self.number]).await.map_err(fault)?;
        client.batch_execute("COMMIT").await.map_err(fault)?;
        Ok(None)
    }

    /// Makes known what is committed.
    fn publish(&mut self, decided: Decided) {
        self.seen = decided.batch.last();
        let batch = decided.answer();
        self.shared.watchers.touched(batch.writes().iter().map(|(_, key, _)| &key[..]), self.seen);
        batch.teach(&mut self.recent);
        self.shared.told.fetch_max(self.seen, Ordering::Relaxed);
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

fn gone() -> Fault {
    Fault::Disconnected("the connection is gone".into())
}

fn key_of(row: &Row) -> Bytes {
    Bytes::copy_from_slice(row.get::<_, &[u8]>(0))
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
async fn read(connected: &Connected, seen: Version, jobs: &[Job], heads: &Heads) -> Result<Found, Fault> {
    let Wanted { expected, added, queues } = Wanted::of(jobs);
    let seen = seen.cast_signed();
    let queues: Vec<Queue> = queues.into_iter().map(|(prefix, entries)| Queue::new(prefix, entries, heads)).collect();
    let news: [&(dyn ToSql + Sync); 1] = [&seen];
    let points: [&(dyn ToSql + Sync); 1] = [&expected];
    let counters: [&(dyn ToSql + Sync); 1] = [&added];
    let firsts: Vec<[&(dyn ToSql + Sync); 3]> = queues.iter().map(Queue::parameters).collect();
    let begun = connected.session.simple(BEGIN);
    let mut reads: Vec<Step<'_, Vec<Row>>> = vec![
        Box::pin(async { begun.await.map(|()| Vec::new()) }),
        Box::pin(connected.rows(&connected.lock, &[])),
        Box::pin(connected.rows(&connected.state, &[])),
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
    let mut rows = try_join_all(reads).await?.into_iter().skip(2);
    let state = rows.next().unwrap_or_default();
    let Some(state) = state.first() else { return Err(Fault::Broken("the row of meta is missing".into())) };
    let version = state.get::<_, i64>(0).cast_unsigned();
    let now_ms = state.get::<_, i64>(1).cast_unsigned();
    let news = rows.next().unwrap_or_default();
    let versions = if expected.is_empty() { Vec::new() } else { rows.next().unwrap_or_default() };
    let values = if added.is_empty() { Vec::new() } else { rows.next().unwrap_or_default() };
    Ok(Found {
        version,
        now_ms,
        news,
        versions: versions.iter().map(|row| (key_of(row), row.get::<_, i64>(1).cast_unsigned())).collect(),
        values: values.iter().map(|row| (key_of(row), Bytes::copy_from_slice(row.get::<_, &[u8]>(1)))).collect(),
        queued: rows.flatten().map(|row| (key_of(&row), entry(&row))).collect(),
        queues,
    })
}

/// The beginning of a queue, as it is read. What was taken from there is in the server's index until it is vacuumed, so
/// nothing is read that is known to be gone.
struct Queue {
    prefix: Bytes,
    start: Vec<u8>,
    end: Vec<u8>,
    entries: i64,
}

impl Queue {
    fn new(prefix: &Bytes, entries: usize, heads: &Heads) -> Self {
        let (_, end) = Range::prefix(prefix.clone()).half_open();
        let entries = i64::try_from(entries).unwrap_or(i64::MAX);
        Self { prefix: prefix.clone(), start: Self::start(prefix, heads), end, entries }
    }

    fn start(prefix: &Bytes, heads: &Heads) -> Vec<u8> {
        heads.get(prefix).unwrap_or(prefix).to_vec()
    }

    fn parameters(&self) -> [&(dyn ToSql + Sync); 3] {
        [&self.start, &self.end, &self.entries]
    }
}

impl Found {
    /// Reads queues again that, as it turned out, begin earlier: another node has put something there.
    async fn read_lowered(&mut self, connected: &Connected, heads: &Heads) -> Result<(), Fault> {
        for queue in &mut self.queues {
            let start = Queue::start(&queue.prefix, heads);
            if start < queue.start {
                queue.start = start;
                let rows = connected.rows(&connected.queue, &queue.parameters()).await?;
                // What was read before lies beyond as many entries as were asked for, or among them.
                self.queued.extend(rows.iter().map(|row| (key_of(row), entry(row))));
            }
        }
        Ok(())
    }
}
