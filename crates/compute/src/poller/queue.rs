//! The loop of a queue's mapping: gathers messages, has the function handle them, acknowledges those that it has.
//!
//! What fails is left alone: it comes again when its lease ends, and the queue knows how often. A call that the platform
//! refuses is tried again while the messages are leased. Nothing is taken for a function that is not there, since every
//! take counts.

use std::collections::{BTreeSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;

use model::ports::EventSource;
use model::{InvokeError, Position, SourceError, SourceFacts, SourceRecord, Take, Taken};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::answer::{Failed, failed};
use super::batch::{Gathering, payload};
use super::filter::Filter;
use super::scale::{Scale, wait_after};
use super::shard::Checkpoint;
use super::{PAUSE, Poller, READ_WAIT_MS, until};
use crate::recursion;

/// How long before the end of a lease no call is begun any more.
const LEASE_REST_MS: u64 = 500;
/// How often an acknowledgement is tried.
const ACK_TRIES: u32 = 4;
/// How often it is looked whether more calls may run, while a batch waits for that.
const GROW_EVERY_MS: u64 = 200;

/// Messages on their way, and until when they are leased.
struct Batch {
    records: Vec<SourceRecord>,
    until_ms: u64,
    tries: u32,
}

/// A batch that was not run; nothing if it was.
type Refused = Option<Batch>;

type Reading = Pin<Box<dyn Future<Output = Result<Taken, SourceError>> + Send>>;

struct Queue<'a> {
    poller: &'a Arc<Poller>,
    source: &'a Arc<dyn EventSource>,
    filter: Option<Filter>,
    lease_ms: u64,
    gathering: Gathering,
    /// When the oldest message that gathers was taken.
    since_ms: u64,
    scale: Scale,
    /// Batches that were refused.
    refused: VecDeque<Batch>,
    /// Nothing is read or called before.
    not_before_ms: u64,
    /// Reads that have failed in a row, or looks for a function that is not there.
    troubles: u32,
    /// The function may not be there.
    doubts: bool,
}

/// Polls until the poller is stopped or the queue is gone.
pub(super) async fn poll(poller: &Arc<Poller>, source: &Arc<dyn EventSource>, facts: &SourceFacts, lease_ms: u64) {
    let mapping = &poller.mapping;
    poller.settled().await;
    let mut lease = None;
    if mapping.concurrency_max.is_some() {
        // Its calls are counted in one place.
        let first = Checkpoint::at(Position::TrimHorizon);
        lease = poller.nodes.take(&mapping.arn, "", &first, &poller.stop).await;
        if lease.is_none() {
            return;
        }
    }
    let queue = Queue {
        poller,
        source,
        filter: Filter::new(&mapping.filters, facts.content),
        lease_ms,
        gathering: Gathering::new(mapping.batch_records, mapping.window_ms),
        since_ms: 0,
        scale: Scale::new(mapping.concurrency_min, mapping.concurrency_max),
        refused: VecDeque::new(),
        not_before_ms: 0,
        troubles: 0,
        doubts: true,
    };
    queue.run().await;
    if let Some(lease) = lease {
        lease.release().await;
    }
}

impl Queue<'_> {
    async fn run(mut self) {
        let mut calls = JoinSet::new();
        let mut reading: Option<Reading> = None;
        loop {
            let now_ms = self.poller.core.clock.now_ms();
            self.start(&mut calls, now_ms);
            if reading.is_none() && self.reads(calls.len(), now_ms) && self.function_is_there(now_ms).await {
                reading = Some(self.read());
            }
            let wake_ms = self.wake_ms(now_ms);
            tokio::select! {
                Some(ended) = calls.join_next() => if let Some(batch) = ended.ok().flatten() {
                    self.refused(batch);
                    // It would take what cannot be called.
                    reading = None;
                },
                taken = until(&mut reading) => {
                    reading = None;
                    if !self.taken(taken, calls.is_empty()).await {
                        break;
                    }
                }
                () = self.poller.sleep_until(wake_ms) => {}
                () = self.poller.stop.cancelled() => break,
            }
        }
        drop(reading);
        let mut left = self.gathering.into_records();
        left.extend(self.refused.into_iter().flat_map(|batch| batch.records));
        while let Some(ended) = calls.join_next().await {
            left.extend(ended.ok().flatten().into_iter().flat_map(|batch: Batch| batch.records));
        }
        if !left.is_empty()
            && let Err(problem) = self.source.nack(&self.poller.mapping.source, &left, 0).await
        {
            tracing::debug!(%problem, "messages come again only when their lease ends");
        }
    }

    /// Starts the batches that are due, as many as may run.
    fn start(&mut self, calls: &mut JoinSet<Refused>, now_ms: u64) {
        if now_ms < self.not_before_ms {
            return;
        }
        while calls.len() < self.scale.calls() {
            let Some(batch) = self.next(now_ms) else {
                self.scale.free();
                return;
            };
            calls.spawn(handle(self.poller.clone(), self.source.clone(), batch));
        }
        if self.is_due(now_ms) {
            self.scale.busy(now_ms);
        }
    }

    /// The next batch that is due.
    fn next(&mut self, now_ms: u64) -> Option<Batch> {
        while let Some(batch) = self.refused.pop_front() {
            // The others come again by themselves.
            if now_ms + LEASE_REST_MS < batch.until_ms {
                return Some(batch);
            }
        }
        if !self.is_due(now_ms) {
            return None;
        }
        let until_ms = self.since_ms.saturating_add(self.lease_ms);
        let records = self.gathering.take(now_ms);
        Some(Batch { records, until_ms, tries: 0 })
    }

    fn is_due(&self, now_ms: u64) -> bool {
        self.gathering.due_ms().is_some_and(|due_ms| due_ms <= now_ms)
    }

    /// Whether messages are to be taken. What cannot be called soon is left in the queue, where others may have it.
    fn reads(&self, calls: usize, now_ms: u64) -> bool {
        let may_call = calls < self.scale.calls() || self.scale.grows();
        let calm = self.refused.is_empty() && now_ms >= self.not_before_ms;
        may_call && calm && !self.is_due(now_ms) && self.gathering.wants() > 0
    }

    fn read(&self) -> Reading {
        let take = Take {
            source: self.poller.mapping.source.clone(),
            from: None,
            records: self.gathering.wants(),
            wait_ms: READ_WAIT_MS,
        };
        let source = self.source.clone();
        Box::pin(async move { source.lease(&take).await })
    }

    /// Whether there is a function to call; if not, nothing is read for a while.
    async fn function_is_there(&mut self, now_ms: u64) -> bool {
        if !self.doubts {
            return true;
        }
        let found = self.poller.core.catalog.version(&self.poller.mapping.function).await;
        if let Err(InvokeError::NotFound(_)) = found {
            self.poller.news.result("PROBLEM: Function not found").await;
            self.wait(now_ms);
            return false;
        }
        self.doubts = false;
        true
    }

    fn wait(&mut self, now_ms: u64) {
        self.troubles += 1;
        self.not_before_ms = now_ms.saturating_add(wait_ms(self.troubles));
    }

    fn wake_ms(&self, now_ms: u64) -> Option<u64> {
        if now_ms < self.not_before_ms {
            return Some(self.not_before_ms);
        }
        self.gathering.due_ms().map(|due_ms| if due_ms > now_ms { due_ms } else { now_ms + GROW_EVERY_MS })
    }

    fn refused(&mut self, batch: Batch) {
        let now_ms = self.poller.core.clock.now_ms();
        self.scale.refused();
        self.doubts = true;
        self.not_before_ms = now_ms.saturating_add(wait_ms(batch.tries));
        self.refused.push_back(batch);
    }

    /// Takes over what was read. False: the queue is gone.
    async fn taken(&mut self, taken: Result<Taken, SourceError>, is_calm: bool) -> bool {
        let now_ms = self.poller.core.clock.now_ms();
        let records = match taken {
            Ok(taken) => taken.records,
            Err(SourceError::Gone(_)) => {
                self.poller.news.result("PROBLEM: Event source not found").await;
                return false;
            }
            Err(problem) => {
                tracing::warn!(arn = self.poller.mapping.source, %problem, "messages cannot be taken");
                self.poller.news.result("PROBLEM: Event source does not answer").await;
                self.wait(now_ms);
                return true;
            }
        };
        self.troubles = 0;
        if records.is_empty() && is_calm {
            self.scale.idle();
        }
        let passes = |record: &SourceRecord| self.filter.as_ref().is_none_or(|filter| filter.passes(record));
        let (wanted, unwanted): (Vec<_>, Vec<_>) = records.into_iter().partition(passes);
        if self.gathering.due_ms().is_none() {
            self.since_ms = now_ms;
        }
        self.gathering.add(wanted, now_ms);
        acknowledge(self.poller, &**self.source, &unwanted).await;
        true
    }
}

fn wait_ms(tries: u32) -> u64 {
    u64::try_from(wait_after(tries).as_millis()).unwrap_or(u64::MAX)
}

/// Has the function handle a batch, and acknowledges what it has handled.
async fn handle(poller: Arc<Poller>, source: Arc<dyn EventSource>, mut batch: Batch) -> Refused {
    // A stop waits until it is written what has become of the batch.
    let Ok(_running) = poller.core.enter() else { return Some(batch) };
    batch.records = without_loops(&poller, batch.records).await;
    if batch.records.is_empty() {
        return None;
    }
    let traces = batch.records.iter().filter_map(|record| record.trace.as_deref());
    let trace = recursion::foremost(traces, &poller.mapping.function).map(str::to_owned);
    let event = payload(batch.records.iter().map(|record| &record.event), "");
    let Some((_, outcome)) = poller.call(event, trace).await else {
        batch.tries += 1;
        return Some(batch);
    };
    let failed = match (&outcome.error, poller.mapping.reports_failures) {
        (Some(_), _) => Failed::Everything,
        (None, false) => Failed::Nothing,
        (None, true) => failed(&outcome.payload, batch.records.iter().map(|record| record.id.as_str())),
    };
    let handled = match failed {
        Failed::Nothing => batch.records,
        Failed::Everything => Vec::new(),
        Failed::Some(places) => {
            let numbered = batch.records.into_iter().enumerate();
            numbered.filter(|(place, _)| places.binary_search(place).is_err()).map(|(_, record)| record).collect()
        }
    };
    acknowledge(&poller, &*source, &handled).await;
    None
}

/// The messages of a batch that the function is to have. One whose chain of calls has led to the function too often is left alone
/// like a failure, until its queue has enough of it, so that the others do not suffer; so are those that come after it in its
/// group.
async fn without_loops(poller: &Poller, records: Vec<SourceRecord>) -> Vec<SourceRecord> {
    if records.iter().all(|record| record.trace.is_none()) {
        return records;
    }
    // What a call of it would say is said by the call.
    let Ok(version) = poller.core.catalog.version(&poller.mapping.function).await else { return records };
    let mut groups = BTreeSet::new();
    let (loops, wanted): (Vec<_>, Vec<_>) = records.into_iter().partition(|record| {
        let waits = record.key.as_ref().is_some_and(|key| groups.contains(key));
        let is_loop = waits || recursion::check(record.trace.as_deref(), &version).is_err();
        if let Some(key) = record.key.as_ref().filter(|_| is_loop && !waits) {
            groups.insert(key.clone());
        }
        is_loop
    });
    if !loops.is_empty() {
        let (arn, messages) = (&poller.mapping.arn, loops.len());
        tracing::warn!(arn, messages, "messages of a recursive loop are not handled");
        poller.news.result("PROBLEM: Function was called in a recursive loop").await;
    }
    wanted
}

/// Acknowledges messages. Where that fails they come again.
async fn acknowledge(poller: &Poller, source: &dyn EventSource, records: &[SourceRecord]) {
    if records.is_empty() {
        return;
    }
    for attempt in 1..=ACK_TRIES {
        match source.ack(&poller.mapping.source, records).await {
            Ok(()) => return,
            Err(SourceError::Later(problem)) if attempt < ACK_TRIES => {
                tracing::debug!(%problem, "messages cannot be acknowledged yet");
                sleep(PAUSE * attempt).await;
            }
            Err(problem) => {
                tracing::warn!(%problem, "messages are not acknowledged and will come again");
                return;
            }
        }
    }
}
