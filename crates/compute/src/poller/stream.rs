//! The loops of a stream's mapping: one for its shards, parents before children, and one for each shard.
//!
//! Not here: what a shard does next (`shard`, `lane`). A loop reads ahead while calls run, and writes a checkpoint after
//! each of them.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use model::ports::{EventSource, target_of};
use model::{
    Attributes, Delivery, DeliveryError, Lineage, Position, RequestId, Shard, SourceError, SourceFacts, SourceRecord,
    Take, Taken,
};
use store::{Range, Txn};
use tokio::task::JoinSet;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::batch::payload;
use super::filter::Filter;
use super::lane::{Call, Ended, GiveUp, Rules, Step, Window};
use super::lease::{Kept, Lease};
use super::record::{self, GivenUp};
use super::scale::wait_after;
use super::shard::{Checkpoint, ShardRun};
use super::{Poller, READ_WAIT_MS, keys, until};
use crate::report::iso_ms;

/// How often it is looked for new shards where there is none to read, and whether one that was lost can be read again.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Polls until the poller is stopped or the stream is gone.
pub(super) async fn poll(poller: &Arc<Poller>, source: &Arc<dyn EventSource>, facts: &SourceFacts) {
    let mut known = match begin(poller, &**source).await {
        Ok(known) => known,
        Err(problem) => {
            tracing::warn!(arn = poller.mapping.source, %problem, "a stream cannot be read yet");
            poller.news.result("PROBLEM: Event source does not answer").await;
            return poller.settled().await;
        }
    };
    poller.settled().await;
    let mut shards: JoinSet<(String, bool)> = JoinSet::new();
    let mut running = BTreeSet::new();
    loop {
        let listed = match source.shards(&poller.mapping.source).await {
            Ok(listed) => listed,
            Err(SourceError::Gone(_)) if running.is_empty() => {
                return poller.news.result("PROBLEM: Event source not found").await;
            }
            Err(problem) => {
                tracing::warn!(arn = poller.mapping.source, %problem, "the shards of a stream are not known");
                Vec::new()
            }
        };
        forget_trimmed(poller, &listed, &mut known).await;
        for shard in ready(&listed, &known, &running) {
            let first = known.entry(shard.clone()).or_insert_with(|| Checkpoint::at(Position::TrimHorizon)).clone();
            running.insert(shard.clone());
            let loop_of_shard = ShardLoop { poller: poller.clone(), source: source.clone(), facts: *facts, shard };
            shards.spawn(loop_of_shard.run(first));
        }
        tokio::select! {
            Some(ended) = shards.join_next() => if let Ok((shard, done)) = ended {
                running.remove(&shard);
                if let Some(checkpoint) = known.get_mut(&shard) {
                    checkpoint.ended = done;
                }
                if !done {
                    // Gone, or with another process.
                    poller.pause(LOOK_EVERY).await;
                }
            },
            () = tokio::time::sleep(LOOK_EVERY), if running.is_empty() => {}
            () = poller.stop.cancelled() => break,
        }
    }
    while shards.join_next().await.is_some() {}
}

/// The shards that can be read now: neither read nor ended, and their parents have ended or are gone.
fn ready(listed: &[Shard], known: &BTreeMap<String, Checkpoint>, running: &BTreeSet<String>) -> Vec<String> {
    let ended = |shard: &str| known.get(shard).is_some_and(|checkpoint| checkpoint.ended);
    let there: BTreeSet<&str> = listed.iter().map(|shard| shard.id.as_str()).collect();
    let ready = listed.iter().filter(|shard| {
        let parents = shard.parents.iter().all(|parent| ended(parent) || !there.contains(parent.as_str()));
        parents && !ended(&shard.id) && !running.contains(&shard.id)
    });
    ready.map(|shard| shard.id.clone()).collect()
}

/// How far the shards are. Those that there are at the very beginning begin where the mapping says; later ones, which
/// come of these, at their own beginning.
async fn begin(poller: &Poller, source: &dyn EventSource) -> Result<BTreeMap<String, Checkpoint>, SourceError> {
    let (store, mapping) = (&poller.core.store, &poller.mapping);
    let later = |problem: store::Error| SourceError::Later(problem.to_string());
    let begun = keys::begun(&mapping.arn);
    if store.get(&begun).await.map_err(later)?.is_none() {
        let mut txn = Txn::new().expect_absent(begun.clone()).put(begun, Bytes::new());
        for shard in source.shards(&mapping.source).await? {
            let checkpoint = first(poller, source, &shard.id).await?;
            let kept = Kept { holder: None, fence: 0, checkpoint };
            let value = serde_json::to_vec(&kept).map_err(|problem| SourceError::Later(problem.to_string()))?;
            txn = txn.put(keys::shard(&mapping.arn, &shard.id), value);
        }
        match store.commit(txn).await {
            // Another node was quicker, and its positions hold.
            Ok(_) | Err(store::Error::Conflict | store::Error::TooOld) => {}
            Err(problem) => return Err(later(problem)),
        }
    }
    let page = store.range(&Range::prefix(keys::shards(&mapping.arn))).await.map_err(later)?;
    let read = |entry: store::Entry| {
        let kept: Kept = serde_json::from_slice(&entry.value).ok()?;
        Some((keys::shard_of(&entry.key)?, kept.checkpoint))
    };
    Ok(page.entries.into_iter().filter_map(read).collect())
}

/// Where a shard begins. The end of it is a place from now on, so that what comes while nobody reads is not passed over.
async fn first(poller: &Poller, source: &dyn EventSource, shard: &str) -> Result<Checkpoint, SourceError> {
    let start = &poller.mapping.start;
    if *start != Position::Latest {
        return Ok(Checkpoint::at(start.clone()));
    }
    let take = Take {
        source: poller.mapping.source.clone(),
        from: Some((shard.to_owned(), Position::Latest)),
        records: 0,
        wait_ms: 0,
    };
    Ok(match source.lease(&take).await?.next {
        Some(next) => Checkpoint::at(Position::After(next)),
        None => Checkpoint { ended: true, ..Checkpoint::at(Position::Latest) },
    })
}

/// Forgets shards that the stream has no more.
async fn forget_trimmed(poller: &Poller, listed: &[Shard], known: &mut BTreeMap<String, Checkpoint>) {
    if listed.is_empty() {
        return;
    }
    let there: BTreeSet<&str> = listed.iter().map(|shard| shard.id.as_str()).collect();
    let gone: Vec<String> = known
        .iter()
        .filter(|(shard, at)| at.ended && !there.contains(shard.as_str()))
        .map(|(shard, _)| shard.clone())
        .collect();
    let arn = &poller.mapping.arn;
    let txn = gone.iter().fold(Txn::new().relaxed(), |txn, shard| txn.delete(keys::shard(arn, shard)));
    if !txn.ops.is_empty() && poller.core.store.commit(txn).await.is_ok() {
        known.retain(|shard, _| !gone.contains(shard));
    }
}

type Reading = Pin<Box<dyn Future<Output = (u64, Result<Taken, SourceError>)> + Send>>;

/// The read that is under way, and when the next one may begin.
#[derive(Default)]
struct Reads {
    reading: Option<Reading>,
    /// Until when it waits.
    until_ms: u64,
    failures: u32,
    not_before_ms: u64,
}

impl Reads {
    fn failed(&mut self, now_ms: u64) {
        self.failures += 1;
        let wait_ms = u64::try_from(wait_after(self.failures).as_millis()).unwrap_or(u64::MAX);
        self.not_before_ms = now_ms.saturating_add(wait_ms);
    }
}

/// How what a lane wanted has ended.
enum Done {
    Called(Ended),
    GaveUp,
    NotYet,
}

/// A lane with what it wanted; a stop waits until it is written.
type Doings = JoinSet<(usize, Done, Option<TaskTrackerToken>)>;

/// The loop of one shard.
#[derive(Clone)]
struct ShardLoop {
    poller: Arc<Poller>,
    source: Arc<dyn EventSource>,
    facts: SourceFacts,
    shard: String,
}

impl ShardLoop {
    /// Reads the shard until it has ended, which is true, or the poller is stopped or cannot go on.
    async fn run(self, first: Checkpoint) -> (String, bool) {
        let mapping = &self.poller.mapping;
        let nodes = &self.poller.nodes;
        let Some(mut lease) = nodes.take(&mapping.arn, &self.shard, &first, &self.poller.stop).await else {
            return (self.shard, false);
        };
        if lease.checkpoint().ended {
            lease.release().await;
            return (self.shard, true);
        }
        let lanes = usize::try_from(mapping.lanes).unwrap_or(1).max(1);
        let windows =
            if mapping.tumbling_ms > 0 { lease.windows(&mapping.arn, &self.shard, lanes).await } else { Vec::new() };
        let filter = Filter::new(&mapping.filters, self.facts.content);
        let run = ShardRun::new(Rules::of(mapping), filter, lanes, lease.checkpoint(), windows);
        let done = self.follow(run, &mut lease).await;
        lease.release().await;
        (self.shard, done)
    }

    async fn follow(&self, mut run: ShardRun, lease: &mut Lease) -> bool {
        let clock = &self.poller.core.clock;
        let mut doings: Doings = JoinSet::new();
        let mut reads = Reads::default();
        let mut stopping = false;
        loop {
            let now_ms = clock.now_ms();
            let mut wake_ms = None;
            if !stopping {
                let (steps, wake) = run.steps(now_ms);
                steps.into_iter().for_each(|(lane, step)| self.start(&mut doings, lane, step));
                let read_wake_ms = self.read_on(&mut reads, &mut run, now_ms);
                wake_ms = [wake, read_wake_ms].into_iter().flatten().min();
            }
            if run.is_done() || stopping && doings.is_empty() {
                return self.save(&mut run, lease).await && run.is_done();
            }
            tokio::select! {
                Some(ended) = doings.join_next() => if let Ok((lane, done, _running)) = ended {
                    match done {
                        Done::Called(ended) => run.called(lane, ended, clock.now_ms()),
                        Done::GaveUp => run.lane(lane).gave_up(),
                        Done::NotYet => run.lane(lane).could_not_give_up(clock.now_ms()),
                    }
                    if !self.save(&mut run, lease).await {
                        return false;
                    }
                },
                (began_ms, taken) = until(&mut reads.reading) => {
                    reads.reading = None;
                    match self.took(&mut run, lease, began_ms, taken).await {
                        Ok(()) => reads.failures = 0,
                        Err(Stuck::Ended) => return false,
                        Err(Stuck::ForNow) => reads.failed(clock.now_ms()),
                    }
                }
                () = self.poller.sleep_until(wake_ms) => {}
                () = self.poller.stop.cancelled(), if !stopping => (stopping, reads.reading) = (true, None),
            }
        }
    }

    /// Takes over what was read.
    async fn took(
        &self,
        run: &mut ShardRun,
        lease: &mut Lease,
        began_ms: u64,
        taken: Result<Taken, SourceError>,
    ) -> Result<(), Stuck> {
        match taken {
            Ok(taken) => {
                let some = !taken.records.is_empty();
                run.read(taken, began_ms, self.poller.core.clock.now_ms());
                // What nobody wants is not read again.
                if some && run.is_idle() && !self.save(run, lease).await {
                    return Err(Stuck::Ended);
                }
                Ok(())
            }
            Err(SourceError::Trimmed) => {
                tracing::warn!(
                    arn = self.poller.mapping.source,
                    shard = self.shard,
                    "records have gone before they were read"
                );
                run.trimmed();
                Ok(())
            }
            Err(SourceError::Gone(problem)) => {
                tracing::warn!(arn = self.poller.mapping.source, problem, "a shard is gone");
                self.poller.news.result("PROBLEM: Event source not found").await;
                Err(Stuck::Ended)
            }
            Err(SourceError::Later(problem)) => {
                tracing::warn!(arn = self.poller.mapping.source, problem, "a shard cannot be read yet");
                self.poller.news.result("PROBLEM: Event source does not answer").await;
                Err(Stuck::ForNow)
            }
        }
    }

    /// Begins the next read, if one is wanted and none is under way; when it may begin, if not yet.
    fn read_on(&self, reads: &mut Reads, run: &mut ShardRun, now_ms: u64) -> Option<u64> {
        let ends_ms = run.window_ends_ms().unwrap_or(u64::MAX).max(now_ms);
        if reads.until_ms > ends_ms {
            // A window has opened since it began, and ends before.
            reads.reading = None;
        }
        if reads.reading.is_some() {
            return None;
        }
        if now_ms < reads.not_before_ms {
            return Some(reads.not_before_ms);
        }
        let (position, records) = run.wants()?;
        reads.until_ms = ends_ms.min(now_ms + READ_WAIT_MS);
        reads.reading = Some(self.read(position, records, reads.until_ms - now_ms, now_ms));
        None
    }

    /// A read that waits for records.
    fn read(&self, position: Position, records: usize, wait_ms: u64, now_ms: u64) -> Reading {
        let take = Take {
            source: self.poller.mapping.source.clone(),
            from: Some((self.shard.clone(), position)),
            records,
            wait_ms,
        };
        let source = self.source.clone();
        Box::pin(async move { (now_ms, source.lease(&take).await) })
    }

    fn start(&self, doings: &mut Doings, lane: usize, step: Step) {
        let this = self.clone();
        match step {
            Step::Invoke(call) => {
                doings.spawn(async move {
                    let Ok(running) = this.poller.core.enter() else {
                        return (lane, Done::Called(Ended::Refused), None);
                    };
                    (lane, Done::Called(this.call(call).await), Some(running))
                });
            }
            Step::GiveUp(given_up) => {
                doings.spawn(async move { (lane, this.give_up(given_up).await, None) });
            }
            Step::Busy | Step::Wait(_) => {}
        }
    }

    async fn call(&self, call: Call) -> Ended {
        match self.poller.call(self.payload(&call.records, call.window.as_ref()), None).await {
            Some((id, outcome)) => Ended::Ran(id, outcome),
            None => Ended::Refused,
        }
    }

    fn payload(&self, records: &[SourceRecord], window: Option<&(Window, bool)>) -> Bytes {
        let more = window.map(|(window, is_last)| self.window_members(window, *is_last)).unwrap_or_default();
        payload(records.iter().map(|record| &record.event), &more)
    }

    /// What an event has beside its records within a window. Source: the developer guide, "Tumbling windows".
    fn window_members(&self, window: &Window, is_last: bool) -> String {
        let mapping = &self.poller.mapping;
        let time = |ms: u64| iso_ms(ms).replace(".000Z", "Z");
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        format!(
            r#","window":{{"start":"{}","end":"{}"}},"state":{},"shardId":{},"eventSourceARN":{},"isFinalInvokeForWindow":{is_last},"isWindowTerminatedEarly":{}"#,
            time(window.start_ms),
            time(window.start_ms + mapping.tumbling_ms),
            window.state,
            quoted(&self.shard),
            quoted(&mapping.source),
            is_last && window.ends_early,
        )
    }

    /// Sends the record of a batch that is given up to its destination.
    async fn give_up(&self, given_up: GiveUp) -> Done {
        let (core, mapping) = (&self.poller.core, &self.poller.mapping);
        let lost = |reason: &str| {
            let (arn, shard, records) = (&mapping.arn, &self.shard, given_up.records.len());
            tracing::warn!(arn, shard, records, condition = ?given_up.condition, reason, "records of a stream are given up");
            Done::GaveUp
        };
        let Some(arn) = &mapping.on_failure else { return lost("nobody is to be told") };
        let Some(target) = target_of(&core.targets(), arn).cloned() else {
            return lost("there is no service that takes the record");
        };
        let own_id = RequestId(core.random.uuid());
        let (request_id, outcome) = given_up.last.as_ref().map_or((&own_id, None), |(id, outcome)| (id, Some(outcome)));
        let event = (target.service() == "s3").then(|| self.payload(&given_up.records, None));
        let event = record::of(&GivenUp {
            now_ms: core.clock.now_ms(),
            request_id,
            function: &mapping.function,
            condition: given_up.condition,
            calls: given_up.calls,
            outcome,
            batch_info: self.facts.batch_info,
            source: &mapping.source,
            shard: &self.shard,
            records: &given_up.records,
            payload: event.as_deref(),
        });
        let (target_arn, attributes) = (arn.clone(), Attributes::new());
        let delivery = Delivery { target: target_arn, event, attributes, trace_id: None, lineage: Lineage::new() };
        match target.deliver(delivery).await {
            Ok(()) => Done::GaveUp,
            Err(DeliveryError::Refused(reason)) => lost(&reason),
            Err(DeliveryError::Later(reason)) => {
                tracing::debug!(target_arn = arn, reason, "the record of a batch cannot be delivered yet");
                Done::NotYet
            }
        }
    }

    /// Writes how far the shard is. False: another process has it.
    async fn save(&self, run: &mut ShardRun, lease: &mut Lease) -> bool {
        let arn = &self.poller.mapping.arn;
        let windows: Vec<(Bytes, Option<Bytes>)> = match self.poller.mapping.tumbling_ms {
            0 => Vec::new(),
            _ => {
                let encoded = |window: &Window| serde_json::to_vec(window).unwrap_or_default().into();
                let windows = run.windows().into_iter().enumerate();
                windows.map(|(lane, window)| (keys::window(arn, &self.shard, lane), window.map(encoded))).collect()
            }
        };
        lease.save(run.checkpoint(), &windows).await
    }
}

/// Why a shard is not read on.
enum Stuck {
    /// At all.
    Ended,
    /// It is tried again.
    ForNow,
}
