//! A queue and a stream in memory, for tests: they keep the contract of `EventSource` and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base::Clock;
use bytes::Bytes;
use model::ports::EventSource;
use model::{Content, Position, Shard, SourceError, SourceFacts, SourceKind, SourceRecord, Take, Taken};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::tests::fixtures::TestClock;

/// Milliseconds that a message is leased for.
pub(crate) const LEASE_MS: u64 = 30_000;

#[derive(Debug, Clone)]
struct Message {
    record: SourceRecord,
    visible_at_ms: u64,
    takes: u32,
}

/// One queue: `arn:aws:sqs:…:q`, or `q.fifo` with groups that keep their order.
pub(crate) struct MemoryQueue {
    clock: Arc<TestClock>,
    messages: Mutex<Vec<Message>>,
    changed: Notify,
    /// Everything that was acknowledged, in order.
    pub(crate) acked: Mutex<Vec<String>>,
    /// Most messages that were asked for at once, and how often it was asked.
    pub(crate) asked: Mutex<Vec<usize>>,
    /// Answers before all others, the last one first.
    pub(crate) errors: Mutex<Vec<SourceError>>,
    /// Where acknowledgements are kept for the next process.
    kept: Mutex<Option<File>>,
}

impl MemoryQueue {
    pub(crate) fn new(clock: Arc<TestClock>) -> Arc<Self> {
        let (messages, acked, asked, errors, kept) = Default::default();
        Arc::new(Self { clock, messages, changed: Notify::new(), acked, asked, errors, kept })
    }

    /// Keeps acknowledgements in a file from now on, one id in a line; those that it has already.
    pub(crate) fn keep(&self, path: &Path) -> BTreeSet<String> {
        let file = File::options().create(true).append(true).open(path).unwrap();
        *self.kept.lock() = Some(file);
        std::fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
    }

    /// Puts a message into the queue.
    pub(crate) fn send(&self, id: &str, body: &str, group: Option<&str>) {
        self.send_in(None, id, body, group);
    }

    /// Puts a message into the queue that its sender gave a trace header.
    pub(crate) fn send_in(&self, trace: Option<String>, id: &str, body: &str, group: Option<&str>) {
        let event = json!({"messageId": id, "body": body}).to_string();
        let record = SourceRecord {
            id: id.into(),
            handle: String::new(),
            key: group.map(str::to_owned),
            arrived_ms: self.clock.now_ms(),
            trace,
            event: Bytes::from(event),
        };
        self.messages.lock().push(Message { record, visible_at_ms: 0, takes: 0 });
        self.changed.notify_waiters();
    }

    /// How often a message was taken.
    pub(crate) fn takes(&self, id: &str) -> u32 {
        self.messages.lock().iter().find(|message| message.record.id == id).map_or(0, |message| message.takes)
    }

    /// Messages that there are.
    pub(crate) fn len(&self) -> usize {
        self.messages.lock().len()
    }

    fn take(&self, most: usize, fifo: bool) -> (Vec<SourceRecord>, Option<u64>) {
        let now_ms = self.clock.now_ms();
        let mut messages = self.messages.lock();
        let leased: Vec<String> = messages
            .iter()
            .filter(|message| fifo && message.visible_at_ms > now_ms)
            .filter_map(|message| message.record.key.clone())
            .collect();
        let mut taken = Vec::new();
        let free = |message: &&mut Message| {
            message.visible_at_ms <= now_ms && message.record.key.as_ref().is_none_or(|key| !leased.contains(key))
        };
        for message in messages.iter_mut().filter(free).take(most) {
            message.takes += 1;
            message.visible_at_ms = now_ms + LEASE_MS;
            message.record.handle = format!("{}/{}", message.record.id, message.takes);
            taken.push(message.record.clone());
        }
        (taken, messages.iter().map(|message| message.visible_at_ms).filter(|at_ms| *at_ms > now_ms).min())
    }
}

fn within(ms: u64) -> Instant {
    Instant::now() + Duration::from_millis(ms)
}

#[async_trait]
impl EventSource for MemoryQueue {
    fn service(&self) -> &'static str {
        "sqs"
    }

    async fn describe(&self, arn: &str) -> Result<Option<SourceFacts>, SourceError> {
        let content = Content { within: None, member: "body", base64: false };
        let kind = SourceKind::Queue { fifo: arn.ends_with(".fifo"), lease_ms: LEASE_MS };
        Ok((!arn.contains("gone")).then_some(SourceFacts { kind, content: Some(content), batch_info: "" }))
    }

    async fn lease(&self, take: &Take) -> Result<Taken, SourceError> {
        self.asked.lock().push(take.records);
        if let Some(error) = self.errors.lock().pop() {
            return Err(error);
        }
        let until = within(take.wait_ms);
        loop {
            let changed = self.changed.notified();
            let (records, next_ms) = self.take(take.records, take.source.ends_with(".fifo"));
            if !records.is_empty() || Instant::now() >= until {
                return Ok(Taken { records, next: None });
            }
            let wait_ms = next_ms.map_or(u64::MAX / 4, |at_ms| at_ms.saturating_sub(self.clock.now_ms()));
            tokio::select! {
                () = changed => {}
                () = sleep_until(until.min(Instant::now() + Duration::from_millis(wait_ms.min(1 << 40)))) => {}
            }
        }
    }

    async fn ack(&self, _: &str, records: &[SourceRecord]) -> Result<(), SourceError> {
        if let Some(file) = self.kept.lock().as_mut() {
            // One write, which a death cannot cut.
            let lines: String = records.iter().map(|record| format!("{}\n", record.id)).collect();
            file.write_all(lines.as_bytes()).unwrap();
        }
        for record in records {
            self.messages.lock().retain(|message| message.record.id != record.id);
            self.acked.lock().push(record.id.clone());
        }
        self.changed.notify_waiters();
        Ok(())
    }

    async fn nack(&self, _: &str, records: &[SourceRecord], delay_ms: u64) -> Result<(), SourceError> {
        let at_ms = self.clock.now_ms() + delay_ms;
        for message in self.messages.lock().iter_mut() {
            if records.iter().any(|record| record.handle == message.record.handle) {
                message.visible_at_ms = at_ms;
            }
        }
        self.changed.notify_waiters();
        Ok(())
    }
}

#[derive(Debug, Default)]
struct OneShard {
    parents: Vec<String>,
    records: Vec<SourceRecord>,
    closed: bool,
}

/// One stream: `arn:aws:kinesis:…`.
pub(crate) struct MemoryStream {
    clock: Arc<TestClock>,
    shards: Mutex<BTreeMap<String, OneShard>>,
    changed: Notify,
    /// Reads that were begun.
    pub(crate) reads: Mutex<usize>,
    /// Answers before all others, the last one first.
    pub(crate) errors: Mutex<Vec<SourceError>>,
}

impl MemoryStream {
    pub(crate) fn new(clock: Arc<TestClock>) -> Arc<Self> {
        let (shards, reads, errors) = Default::default();
        Arc::new(Self { clock, shards, changed: Notify::new(), reads, errors })
    }

    /// Adds a shard.
    pub(crate) fn open(&self, shard: &str, parents: &[&str]) {
        let parents = parents.iter().map(|parent| (*parent).to_owned()).collect();
        self.shards.lock().insert(shard.into(), OneShard { parents, ..OneShard::default() });
    }

    /// Ends a shard.
    pub(crate) fn close(&self, shard: &str) {
        self.shards.lock().get_mut(shard).unwrap().closed = true;
        self.changed.notify_waiters();
    }

    /// Appends a record with this text as its data.
    pub(crate) fn append(&self, shard: &str, key: &str, text: &str) {
        let mut shards = self.shards.lock();
        let records = &mut shards.get_mut(shard).unwrap().records;
        let number = records.len();
        let event = json!({"kinesis": {"partitionKey": key, "sequenceNumber": number.to_string(), "data": text}});
        records.push(SourceRecord {
            id: number.to_string(),
            handle: number.to_string(),
            key: Some(key.into()),
            arrived_ms: self.clock.now_ms(),
            trace: None,
            event: event.to_string().into(),
        });
        drop(shards);
        self.changed.notify_waiters();
    }

    fn read(&self, shard: &str, from: &Position, most: usize) -> Result<Taken, SourceError> {
        let shards = self.shards.lock();
        let shard = shards.get(shard).ok_or_else(|| SourceError::Gone("no such shard".into()))?;
        let begin = match from {
            Position::TrimHorizon => 0,
            Position::Latest => shard.records.len(),
            Position::AtTimestamp(ms) => shard.records.iter().take_while(|record| record.arrived_ms < *ms).count(),
            Position::After(place) if place == "start" => 0,
            Position::After(place) => place.parse::<usize>().unwrap() + 1,
        };
        let records: Vec<_> = shard.records[begin..].iter().take(most).cloned().collect();
        let end = begin + records.len();
        let next = if end == 0 { "start".to_owned() } else { (end - 1).to_string() };
        let ended = shard.closed && end == shard.records.len();
        Ok(Taken { records, next: (!ended).then_some(next) })
    }
}

#[async_trait]
impl EventSource for MemoryStream {
    fn service(&self) -> &'static str {
        "kinesis"
    }

    async fn describe(&self, _: &str) -> Result<Option<SourceFacts>, SourceError> {
        let content = Content { within: Some("kinesis"), member: "data", base64: false };
        let facts = SourceFacts { kind: SourceKind::Stream, content: Some(content), batch_info: "KinesisBatchInfo" };
        Ok(Some(facts))
    }

    async fn shards(&self, _: &str) -> Result<Vec<Shard>, SourceError> {
        let shards = self.shards.lock();
        Ok(shards.iter().map(|(id, shard)| Shard { id: id.clone(), parents: shard.parents.clone() }).collect())
    }

    async fn lease(&self, take: &Take) -> Result<Taken, SourceError> {
        *self.reads.lock() += 1;
        if let Some(error) = self.errors.lock().pop() {
            return Err(error);
        }
        let (shard, from) = take.from.as_ref().unwrap();
        let until = within(take.wait_ms);
        loop {
            let changed = self.changed.notified();
            let taken = self.read(shard, from, take.records)?;
            if !taken.records.is_empty() || taken.next.is_none() || Instant::now() >= until {
                return Ok(taken);
            }
            let _ = timeout_at(until, changed).await;
        }
    }
}
