//! The store as clients see it. Every answer and every read goes past the checkers at once, as between two turns the
//! model is exactly where the store is: what is readable was acknowledged in the same turn.
//!
//! Each commit carries a mark, a numbered key with its id. It tells afterwards whether a commit happened that nobody was
//! told of, because its client gave up or because the power went. Claims, and commits that only delete, have none: there
//! the state itself must tell.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use base::{Clock, ManualClock};
use bytes::Bytes;
use store::contract::SNAPSHOT_LIFE_MS;
use store::{Claim, Claims, Embedded, Entry, Error, Expect, Op, Page, Range, Snapshot, Store, Txn, Version, Watch};

use crate::checkers::leases::Leases;
use crate::checkers::model::{Model, Work};
use crate::dice::Dice;
use crate::plan::{Broken, Stats};
use crate::tasks::{now, pause};
use crate::trace::Trace;

/// Where the marks lie.
pub(crate) const MARKS: &[u8] = b"m/";
/// The queues.
pub(crate) const QUEUES: [&[u8]; 2] = [b"q/a/", b"q/b/"];
/// By contract, relaxed commits are on disk after this time.
const RELAXED_US: u64 = 1_000_000;

/// How work ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Done {
    Committed(Version),
    Claimed(Claims),
}

type Answer = Result<Done, Error>;

/// Work that is not answered, or whose answer was not fetched.
struct Pending {
    work: Work,
    /// The last commit, when it was handed in.
    since: Version,
    /// None where the client has given up.
    future: Option<Pin<Box<dyn Future<Output = Answer>>>>,
    answer: Option<Answer>,
    waker: Option<Waker>,
    /// Whether the disk was full at some moment since.
    full: bool,
}

/// See the head of this file.
pub(crate) struct Env {
    pub(crate) dice: Dice,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) trace: RefCell<Trace>,
    pub(crate) model: RefCell<Model>,
    pub(crate) leases: RefCell<Leases>,
    pub(crate) stats: RefCell<Stats>,
    pub(crate) stopping: Cell<bool>,
    /// What each watcher waits for, and the version that it has seen.
    pub(crate) seen: RefCell<BTreeMap<u64, (Bytes, Version)>>,
    store: RefCell<Option<Arc<Embedded>>>,
    pending: RefCell<BTreeMap<u64, Pending>>,
    next: Cell<u64>,
    violation: RefCell<Option<String>>,
    /// Commits up to this one survive a cut of the power.
    safe: Cell<Version>,
    /// Relaxed ones that do not yet: version, when it was acknowledged.
    relaxed: RefCell<Vec<(Version, u64)>>,
    /// Whether the tree may be full at any time.
    tight: bool,
    broken: Broken,
}

impl Env {
    pub(crate) fn new(dice: Dice, keep_trace: bool, tight: bool, broken: Broken) -> Rc<Self> {
        Rc::new(Self {
            dice,
            clock: ManualClock::at_ms(1_000_000),
            trace: RefCell::new(Trace::new(keep_trace)),
            model: RefCell::default(),
            leases: RefCell::default(),
            stats: RefCell::default(),
            stopping: Cell::new(false),
            seen: RefCell::default(),
            store: RefCell::default(),
            pending: RefCell::default(),
            next: Cell::new(0),
            violation: RefCell::default(),
            safe: Cell::new(0),
            relaxed: RefCell::default(),
            tight,
            broken,
        })
    }

    pub(crate) fn event(&self, event: fmt::Arguments<'_>) {
        self.trace.borrow_mut().event(event);
    }

    /// Says that something is not as it must be; the first such thing ends the run.
    pub(crate) fn violated(&self, what: impl Into<String>) {
        let what = what.into();
        self.event(format_args!("VIOLATION: {what}"));
        self.violation.borrow_mut().get_or_insert(what);
    }

    pub(crate) fn violation(&self) -> Option<String> {
        self.violation.borrow().clone()
    }

    pub(crate) fn set_store(&self, store: Option<Arc<Embedded>>) {
        *self.store.borrow_mut() = store;
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    /// Only called by clients, who live only while there is one.
    fn store(&self) -> Arc<Embedded> {
        self.store.borrow().clone().unwrap_or_else(|| unreachable!("clients live shorter than the store"))
    }

    pub(crate) fn count(&self, count: impl FnOnce(&mut Stats)) {
        count(&mut self.stats.borrow_mut());
    }

    pub(crate) fn is_broken(&self, how: Broken) -> bool {
        self.broken == how
    }
}

/// Handing work in.
impl Env {
    /// Commits with a mark.
    pub(crate) async fn commit(self: &Rc<Self>, txn: Txn) -> Result<Version, Error> {
        let mark = self.next.get().to_be_bytes().to_vec();
        self.commit_unmarked(txn.put_numbered(MARKS, mark, "")).await
    }

    /// Commits as it is.
    pub(crate) async fn commit_unmarked(self: &Rc<Self>, txn: Txn) -> Result<Version, Error> {
        match self.answered(self.submit(Work::Commit(txn))).await? {
            Done::Committed(version) => Ok(version),
            Done::Claimed(_) => unreachable!("a commit was handed in"),
        }
    }

    pub(crate) async fn claim(self: &Rc<Self>, claim: Claim) -> Result<Claims, Error> {
        match self.answered(self.submit(Work::Claim(claim))).await? {
            Done::Claimed(claims) => Ok(claims),
            Done::Committed(_) => unreachable!("a claim was handed in"),
        }
    }

    /// Commits with a mark, and does not wait for the answer.
    pub(crate) fn abandon(self: &Rc<Self>, txn: Txn) {
        let mark = self.next.get().to_be_bytes().to_vec();
        let id = self.submit(Work::Commit(txn.put_numbered(MARKS, mark, "")));
        self.event(format_args!("abandon {id}"));
        if let Some(pending) = self.pending.borrow_mut().get_mut(&id) {
            pending.future = None;
        }
    }

    fn submit(self: &Rc<Self>, work: Work) -> u64 {
        let id = self.next.replace(self.next.get() + 1);
        self.event(format_args!("submit {id}: {}", Short(&work)));
        let store = self.store();
        let sent = self.as_sent(&work);
        let mut future: Pin<Box<dyn Future<Output = Answer>>> = Box::pin(async move {
            match sent {
                Work::Commit(txn) => store.commit(txn).await.map(Done::Committed),
                Work::Claim(claim) => store.claim(claim).await.map(Done::Claimed),
            }
        });
        if let Poll::Ready(answer) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            self.violated(format!("{id} was answered before its turn: {answer:?}"));
        }
        let since = self.model.borrow().current();
        let pending = Pending { work, since, future: Some(future), answer: None, waker: None, full: false };
        self.pending.borrow_mut().insert(id, pending);
        id
    }

    /// The work that reaches the store: other work, where that is how it is broken on purpose.
    fn as_sent(&self, work: &Work) -> Work {
        let mut sent = work.clone();
        if let Work::Commit(txn) = &mut sent {
            match self.broken {
                Broken::IgnoredRanges => txn.expects.retain(|expect| !matches!(expect, Expect::RangeUnchanged(..))),
                Broken::IgnoredPoints => txn.expects.retain(|expect| matches!(expect, Expect::RangeUnchanged(..))),
                _ => {}
            }
        }
        sent
    }

    async fn answered(self: &Rc<Self>, id: u64) -> Answer {
        poll_fn(|context| {
            let mut all = self.pending.borrow_mut();
            let Some(pending) = all.get_mut(&id) else { return Poll::Pending };
            match pending.answer.take() {
                None => {
                    pending.waker = Some(context.waker().clone());
                    Poll::Pending
                }
                Some(answer) => {
                    all.remove(&id);
                    Poll::Ready(answer)
                }
            }
        })
        .await
    }
}

/// Taking answers.
impl Env {
    /// Notes that the disk is full.
    pub(crate) fn disk_is_full(&self) {
        self.pending.borrow_mut().values_mut().for_each(|pending| pending.full = true);
    }

    /// Takes the answers that the store has given in this turn, and compares them with the model.
    pub(crate) fn collect(&self) -> Result<(), String> {
        let (winners, losers): (Vec<_>, Vec<_>) =
            self.new_answers().into_iter().partition(|answered| version_of(&answered.answer).is_some());
        for Answered { id, answer, work, .. } in winners {
            self.find_abandoned(version_of(&answer).unwrap_or_default())?;
            self.acknowledged(id, &work, &answer)?;
        }
        self.find_abandoned(Version::MAX)?;
        // What they lost to may have been committed in the same turn.
        losers.into_iter().try_for_each(|loser| self.refused(&loser))
    }

    /// Takes the last answers of a store that has failed, and all work of which nobody knows whether it happened.
    pub(crate) fn collect_last(&self) -> Result<Left, String> {
        let mut left = Left::default();
        for Answered { id, answer, work, .. } in self.new_answers() {
            // What failed with the store may have happened, and what comes behind something unknown is not placed yet.
            match version_of(&answer) {
                Some(version) if version == self.model.borrow().current() + 1 => {
                    self.acknowledged(id, &work, &answer)?;
                }
                Some(version) => {
                    left.acknowledged = left.acknowledged.max(version);
                    left.flushed = left.flushed.max(if work.is_flushed() { version } else { 0 });
                    left.works.insert(id, work);
                }
                None => drop(left.works.insert(id, work)),
            }
        }
        let pending = std::mem::take(&mut *self.pending.borrow_mut());
        left.works.extend(pending.into_iter().filter(|(_, one)| one.answer.is_none()).map(|(id, one)| (id, one.work)));
        left.acknowledged = left.acknowledged.max(self.model.borrow().current());
        left.flushed = left.flushed.max(self.safe.get());
        Ok(left)
    }

    /// Winners in the order of versions, then the others.
    fn new_answers(&self) -> Vec<Answered> {
        let mut answered = Vec::new();
        for (id, pending) in &mut *self.pending.borrow_mut() {
            let Some(future) = &mut pending.future else { continue };
            if let Poll::Ready(answer) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                pending.future = None;
                pending.answer = Some(answer.clone());
                pending.waker.take().into_iter().for_each(Waker::wake);
                let (work, since, full) = (pending.work.clone(), pending.since, pending.full);
                answered.push(Answered { id: *id, answer, work, since, full });
            }
        }
        answered.sort_by_key(|answered| version_of(&answered.answer).unwrap_or(Version::MAX));
        answered
    }

    fn acknowledged(&self, id: u64, work: &Work, answer: &Answer) -> Result<(), String> {
        let version = version_of(answer).unwrap_or_default();
        self.event(format_args!("committed {id} as {version}"));
        if self.broken == Broken::ForgottenCommit && version == 20 {
            return Ok(());
        }
        let expected = self.model.borrow().current() + 1;
        if version != expected {
            return Err(format!("{id} was committed as {version}; the next one was {expected}"));
        }
        let claims = self.apply(work)?;
        match (answer, claims) {
            (Ok(Done::Claimed(told)), Some(claims)) if told.entries != claims.entries => {
                return Err(format!("{id} claimed {:?}; it should have {:?}", told.entries, claims.entries));
            }
            _ => {}
        }
        if work.is_flushed() {
            self.safe.set(version);
        } else {
            self.relaxed.borrow_mut().push((version, self.clock.monotonic_us()));
        }
        Ok(())
    }

    /// Commits to the model.
    pub(crate) fn apply(&self, work: &Work) -> Result<Option<Claims>, String> {
        self.count(|stats| stats.commits += 1);
        let mut model = self.model.borrow_mut();
        let mut leases = self.leases.borrow_mut();
        match work {
            Work::Commit(txn) => {
                model.commit(txn, self.now_ms())?;
                note_queues(&mut leases, txn, model.current());
                Ok(None)
            }
            Work::Claim(claim) => {
                let claims = model.claim(claim, self.now_ms())?;
                self.count(|stats| stats.claimed += claims.entries.len() as u64);
                leases.claimed(&claims, self.now_ms())?;
                Ok(Some(claims))
            }
        }
    }

    fn refused(&self, Answered { id, answer, work, since, full }: &Answered) -> Result<(), String> {
        let model = self.model.borrow();
        let versions = *since..=model.current();
        let error = match answer {
            Ok(_) => {
                self.event(format_args!("claimed nothing {id}"));
                return Ok(());
            }
            Err(error) => error,
        };
        self.event(format_args!("refused {id}: {error}"));
        let (expects, ops) = match work {
            Work::Commit(txn) => (&txn.expects[..], &txn.ops[..]),
            Work::Claim(_) => (&[][..], &[][..]),
        };
        let just = match error {
            Error::Conflict => {
                self.count(|stats| stats.conflicts += 1);
                expects.iter().any(|expect| versions.clone().any(|version| !model.holds(expect, version)))
            }
            Error::TooOld => {
                self.count(|stats| stats.too_old += 1);
                let old = |expect: &Expect| matches!(expect, Expect::RangeUnchanged(_, at) if *at < model.current());
                expects.iter().any(old)
            }
            Error::DiskFull => {
                self.count(|stats| stats.disk_full += 1);
                // What only deletes still needs room in the log, which a full disk may lack, but none in the tree.
                let grows = ops.is_empty() || ops.iter().any(|op| !matches!(op, Op::Delete(_)));
                *full || (self.tight && grows)
            }
            Error::Invalid(_) => ops.iter().any(|op| matches!(op, Op::Add(key, _) if key.starts_with(b"k"))),
            _ => false,
        };
        if just { Ok(()) } else { Err(format!("{id} was refused without a reason: {error}")) }
    }

    /// Commits that happened although their clients had given up, as long as they come before `version`.
    fn find_abandoned(&self, version: Version) -> Result<(), String> {
        let given_up = |pending: &Pending| pending.future.is_none() && pending.answer.is_none();
        while self.model.borrow().current() + 1 < version {
            if !self.pending.borrow().values().any(given_up) {
                return Ok(());
            }
            let next = self.model.borrow().current() + 1;
            let marks = Range::prefix([MARKS, &next.to_be_bytes()].concat());
            let found =
                now(self.store().range(&marks)).ok_or("a short range waits")?.map_err(|error| error.to_string())?;
            let Some(entry) = found.entries.first() else { return Ok(()) };
            let id = id_of_mark(&entry.key);
            let Some(pending) = self.pending.borrow_mut().remove(&id) else {
                return Err(format!("{next} has the mark of {id}, which nobody has handed in"));
            };
            self.event(format_args!("abandoned {id} was committed as {next}"));
            self.apply(&pending.work)?;
            if pending.work.is_flushed() {
                self.safe.set(next);
            }
        }
        Ok(())
    }

    /// After a turn of the committer: what is relaxed and old enough is flushed.
    pub(crate) fn committer_had_its_turn(&self) {
        let now = self.clock.monotonic_us();
        self.relaxed.borrow_mut().retain(|(version, acknowledged)| {
            let safe = acknowledged + RELAXED_US <= now;
            if safe {
                self.safe.set(self.safe.get().max(*version));
            }
            !safe
        });
    }

    /// Whether nothing waits for an answer.
    pub(crate) fn is_quiet(&self) -> bool {
        self.pending.borrow().values().all(|pending| pending.future.is_none())
    }

    /// Takes back all after `version`.
    pub(crate) fn roll_back(&self, version: Version) {
        self.model.borrow_mut().truncate(version);
        self.leases.borrow_mut().truncate(version);
    }

    /// A new life begins with what the model has; by now all of that is on disk.
    pub(crate) fn recovered(&self) {
        self.relaxed.borrow_mut().clear();
        self.safe.set(self.model.borrow().current());
    }
}

/// What a life leaves behind.
#[derive(Debug, Default)]
pub(crate) struct Left {
    /// What may have happened, although nobody was told.
    pub(crate) works: BTreeMap<u64, Work>,
    /// The last commit that was acknowledged, and the last one that survives a cut of the power.
    pub(crate) acknowledged: Version,
    pub(crate) flushed: Version,
    /// Whether there was one.
    pub(crate) cut: bool,
}

struct Answered {
    id: u64,
    answer: Answer,
    work: Work,
    since: Version,
    full: bool,
}

fn version_of(answer: &Answer) -> Option<Version> {
    match answer {
        Ok(Done::Committed(version)) => Some(*version),
        Ok(Done::Claimed(claims)) => claims.entries.first().map(|claimed| claimed.version),
        Err(_) => None,
    }
}

/// What a transaction means to queues.
fn note_queues(leases: &mut Leases, txn: &Txn, version: Version) {
    for op in &txn.ops {
        match op {
            Op::Offer { id, .. } => leases.offered(id, version),
            Op::Delete(key) if key.starts_with(b"q/") => leases.settled(&key.slice(QUEUES[0].len() + 8..), version),
            _ => {}
        }
    }
}

/// The id in the key of a mark.
pub(crate) fn id_of_mark(key: &[u8]) -> u64 {
    key.last_chunk::<8>().map_or(u64::MAX, |id| u64::from_be_bytes(*id))
}

/// Reading.
impl Env {
    pub(crate) async fn get(self: &Rc<Self>, key: &[u8]) -> Result<Option<Entry>, Error> {
        let found = self.store().get(key).await?;
        self.compare(&format!("get {}", key.escape_ascii()), &found, &self.model.borrow().get(key, Version::MAX));
        Ok(found)
    }

    pub(crate) async fn range(self: &Rc<Self>, range: &Range) -> Result<Page, Error> {
        let found = self.store().range(range).await?;
        self.compare(&format!("range {range:?}"), &found, &self.model.borrow().range(range, Version::MAX));
        Ok(found)
    }

    pub(crate) async fn snapshot(self: &Rc<Self>) -> Result<Reading, Error> {
        let snapshot = self.store().snapshot().await?;
        self.event(format_args!("snapshot at {}", snapshot.version()));
        self.compare("the version of a snapshot", &snapshot.version(), &self.model.borrow().current());
        let ends_us = self.clock.monotonic_us() + SNAPSHOT_LIFE_MS * 1_000;
        Ok(Reading { env: Rc::clone(self), snapshot, ends_us })
    }

    pub(crate) fn watch(&self, prefix: &[u8]) -> Watch {
        self.store().watch(prefix)
    }

    fn compare<T: fmt::Debug + PartialEq>(&self, what: &str, found: &T, expected: &T) {
        self.count(|stats| stats.reads += 1);
        if found != expected {
            self.violated(format!("{what}: the store says {found:?}, the model {expected:?}"));
        }
    }
}

/// A snapshot whose every read is compared with the model.
pub(crate) struct Reading {
    env: Rc<Env>,
    snapshot: Box<dyn Snapshot>,
    ends_us: u64,
}

impl Reading {
    pub(crate) fn version(&self) -> Version {
        self.snapshot.version()
    }

    pub(crate) async fn get(&self, key: &[u8]) -> Result<Option<Entry>, Error> {
        let found = self.in_time(self.snapshot.get(key).await)?;
        let expected = self.env.model.borrow().get(key, self.version());
        self.env.compare(&format!("get {} at {}", key.escape_ascii(), self.version()), &found, &expected);
        Ok(found)
    }

    pub(crate) async fn range(&self, range: &Range) -> Result<Page, Error> {
        let found = self.in_time(self.snapshot.range(range).await)?;
        let expected = self.env.model.borrow().range(range, self.version());
        self.env.compare(&format!("range {range:?} at {}", self.version()), &found, &expected);
        Ok(found)
    }

    /// A snapshot can be read until it is too old, and not after.
    fn in_time<T>(&self, read: Result<T, Error>) -> Result<T, Error> {
        let over = self.env.clock.monotonic_us() > self.ends_us;
        match (&read, over) {
            (Err(Error::TooOld), true) => self.env.count(|stats| stats.too_old += 1),
            (Ok(_), false) => {}
            (Err(error), _) => self.env.violated(format!("a snapshot could not be read: {error}")),
            (Ok(_), true) => self.env.violated("a snapshot was read after its life"),
        }
        read
    }
}

/// Work in a few words, for the trace.
struct Short<'a>(&'a Work);

impl fmt::Display for Short<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Work::Claim(claim) => write!(out, "{claim:?}"),
            Work::Commit(txn) => {
                write!(out, "{:?} expects {:?};", txn.durability, txn.expects)?;
                for op in &txn.ops {
                    match op {
                        Op::Put(key, value) => write!(out, " put {} ({})", key.escape_ascii(), value.len())?,
                        Op::Delete(key) => write!(out, " delete {}", key.escape_ascii())?,
                        Op::Add(key, by) => write!(out, " add {by} to {}", key.escape_ascii())?,
                        Op::PutNumbered { prefix, value, .. } => {
                            write!(out, " numbered {} ({})", prefix.escape_ascii(), value.len())?;
                        }
                        Op::Offer { prefix, id, delay_ms, .. } => {
                            write!(out, " offer {}{} in {delay_ms}", prefix.escape_ascii(), id.escape_ascii())?;
                        }
                    }
                }
                Ok(())
            }
        }
    }
}

/// For clients that wait for time to pass.
pub(crate) async fn a_while(env: &Env) {
    for _ in 0..env.dice.below(6) {
        pause().await;
    }
}
