//! Lines in: gathered from many environments over a moment, committed together.
//!
//! Waiting batches are bounded in bytes: beyond that `append` waits, so that no line is dropped. A store that fails is
//! tried again; the lines stay here meanwhile.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use model::{AccountId, LogBatch, LogEvent, Region};
use parking_lot::Mutex;
use store::{Snapshot, Txn, transact};
use tokio::sync::{Notify, Semaphore};

use super::chunk::{Chunk, EVENT_OVERHEAD_BYTES, cut};
use super::groups::{Group, Stream, decode, encode};
use super::{Error, Logs, keys};

/// Most bytes that wait, in units of `UNIT` bytes.
const UNITS: u32 = 16 * 1024;
const UNIT: usize = 1024;
/// How long lines gather before they are committed.
const GATHER: Duration = Duration::from_millis(50);
/// Pause after the store refused lines.
const RETRY: Duration = Duration::from_secs(1);
/// Chunk bytes from which on a commit is large enough.
const COMMIT_BYTES: usize = 3 * 1024 * 1024;

/// One stream's name in full.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Target {
    pub(super) account: AccountId,
    pub(super) region: Region,
    pub(super) group: Arc<str>,
    pub(super) stream: Arc<str>,
}

/// Events that are cut and ready for a commit.
struct Ready {
    target: Target,
    events: Vec<LogEvent>,
}

/// What waits to be written.
pub(super) struct Writer {
    waiting: Mutex<Vec<(LogBatch, u32)>>,
    room: Semaphore,
    work: Notify,
    /// One flush at a time; holds what a failed one left.
    flushing: tokio::sync::Mutex<Vec<Ready>>,
}

impl Default for Writer {
    fn default() -> Self {
        Self {
            waiting: Mutex::new(Vec::new()),
            room: Semaphore::new(UNITS as usize),
            work: Notify::new(),
            flushing: tokio::sync::Mutex::new(Vec::new()),
        }
    }
}

impl Writer {
    pub(super) async fn accept(&self, mut batch: LogBatch) {
        // CloudWatch Logs keeps the line's end of what functions write; readers that print messages as they are count on it.
        batch.events.iter_mut().for_each(|event| event.message.push('\n'));
        let bytes: usize = batch.events.iter().map(|event| event.message.len() + EVENT_OVERHEAD_BYTES).sum();
        // A batch larger than all room takes all room.
        let units = u32::try_from(bytes / UNIT + 1).unwrap_or(UNITS).min(UNITS);
        if let Ok(permit) = self.room.acquire_many(units).await {
            permit.forget();
        }
        self.waiting.lock().push((batch, units));
        self.work.notify_one();
    }

    pub(super) fn wake(&self) {
        self.work.notify_one();
    }
}

impl Logs {
    /// Writes lines out, keeps retention and removes what was deleted, until `stop` ends; then writes out what waits.
    pub async fn run(&self, stop: impl Future<Output = ()> + Send) {
        let mut stop = std::pin::pin!(stop);
        let mut housekeeping = tokio::time::interval(super::worker::EVERY);
        loop {
            tokio::select! {
                () = &mut stop => break,
                _ = housekeeping.tick() => {
                    if let Err(error) = self.housekeeping().await {
                        tracing::warn!(%error, "old log events could not be removed; the next round tries again");
                    }
                }
                () = self.writer.work.notified() => {
                    tokio::time::sleep(GATHER).await;
                    if let Err(error) = self.flush().await {
                        tracing::error!(%error, "log lines wait: the store does not take them");
                        tokio::time::sleep(RETRY).await;
                        self.writer.wake();
                    }
                }
            }
        }
        if let Err(error) = self.flush().await {
            tracing::error!(%error, "the last log lines could not be written");
        }
    }

    /// Writes out every line that was appended before.
    pub async fn flush(&self) -> Result<(), Error> {
        let mut left = self.writer.flushing.lock().await;
        // First what an earlier flush could not write: nothing more is taken in before that is gone.
        self.write(&mut left).await?;
        let taken = std::mem::take(&mut *self.writer.waiting.lock());
        let mut units = 0;
        let mut streams: BTreeMap<Target, Vec<LogEvent>> = BTreeMap::new();
        for (batch, room) in taken {
            units += room as usize;
            let LogBatch { account, region, group, stream, events } = batch;
            streams.entry(Target { account, region, group, stream }).or_default().extend(events);
        }
        for (target, events) in streams {
            left.extend(cut(events).into_iter().map(|events| Ready { target: target.clone(), events }));
        }
        self.writer.room.add_permits(units);
        self.write(&mut left).await
    }

    async fn write(&self, left: &mut Vec<Ready>) -> Result<(), Error> {
        while !left.is_empty() {
            let mut bytes = 0;
            let fits = |ready: &&Ready| {
                let before = bytes;
                bytes += ready.events.iter().map(|event| event.message.len() + EVENT_OVERHEAD_BYTES).sum::<usize>();
                before < COMMIT_BYTES
            };
            let count = left.iter().take_while(fits).count();
            self.commit(&left[..count], true).await?;
            left.drain(..count);
        }
        Ok(())
    }

    /// Commits events of one stream that exists, flushed: for PutLogEvents.
    pub(super) async fn commit_durably(&self, target: &Target, events: Vec<LogEvent>) -> Result<(), Error> {
        let ready: Vec<Ready> =
            cut(events).into_iter().map(|events| Ready { target: target.clone(), events }).collect();
        if ready.is_empty() { Ok(()) } else { self.commit(&ready, false).await }
    }

    async fn commit(&self, ready: &[Ready], relaxed: bool) -> Result<(), Error> {
        transact(&*self.store, |snapshot| async move {
            let mut commit = Commit {
                logs: self,
                snapshot,
                txn: Txn::new(),
                groups: BTreeMap::new(),
                streams: BTreeMap::new(),
                part: 0,
                create: relaxed,
            };
            for ready in ready {
                commit.add(ready).await?;
            }
            let txn = commit.finish()?;
            Ok::<_, Error>((if relaxed { txn.relaxed() } else { txn }, ()))
        })
        .await?;
        Ok(())
    }
}

/// One transaction being made.
struct Commit<'a> {
    logs: &'a Logs,
    snapshot: Box<dyn Snapshot>,
    txn: Txn,
    groups: BTreeMap<(&'a AccountId, &'a Region, &'a str), (Group, u64)>,
    streams: BTreeMap<&'a Target, (u64, Stream)>,
    part: u32,
    /// Whether groups and streams that are not there are made, as they are for functions.
    create: bool,
}

impl<'a> Commit<'a> {
    async fn group(&mut self, target: &'a Target) -> Result<u64, Error> {
        let name = (&target.account, &target.region, &*target.group);
        if let Some((group, _)) = self.groups.get(&name) {
            return Ok(group.id);
        }
        let key = keys::group(&target.account, &target.region, &target.group);
        let entry = self.snapshot.get(&key).await?;
        let txn = std::mem::take(&mut self.txn).expect_unchanged(key.clone(), entry.as_ref());
        let (txn, group) = match entry {
            Some(entry) => (txn, decode::<Group>(&entry)?),
            None if self.create => {
                let group = self.logs.new_group();
                (txn.put(key, encode(&group)?), group)
            }
            None => return Err(Error::NoGroup),
        };
        self.txn = txn;
        let id = group.id;
        self.groups.insert(name, (group, 0));
        Ok(id)
    }

    async fn stream(&mut self, group_id: u64, target: &'a Target) -> Result<u64, Error> {
        if let Some((_, stream)) = self.streams.get(target) {
            return Ok(stream.id);
        }
        let key = keys::stream(group_id, &target.stream);
        let entry = self.snapshot.get(&key).await?;
        self.txn = std::mem::take(&mut self.txn).expect_unchanged(key, entry.as_ref());
        let stream = match entry {
            Some(entry) => decode(&entry)?,
            None if self.create => self.logs.new_stream(),
            None => return Err(Error::NoStream),
        };
        let id = stream.id;
        self.streams.insert(target, (group_id, stream));
        Ok(id)
    }

    async fn add(&mut self, ready: &'a Ready) -> Result<(), Error> {
        let target = &ready.target;
        let group_id = self.group(target).await?;
        let stream_id = self.stream(group_id, target).await?;
        let ingested_ms = self.logs.clock.now_ms();
        let chunk = Chunk { stream_id, stream: target.stream.to_string(), ingested_ms, events: ready.events.clone() };
        let (last_ms, bytes) = (chunk.last_ms(), chunk.bytes());
        let first_ms = chunk.events.iter().map(|event| event.timestamp_ms).min().unwrap_or(last_ms);
        if let Some((_, stream)) = self.streams.get_mut(target) {
            let (first, last) = stream.events_ms.unwrap_or((first_ms, last_ms));
            stream.events_ms = Some((first.min(first_ms), last.max(last_ms)));
            stream.ingested_ms = Some(ingested_ms);
        }
        if let Some((_, stored)) = self.groups.get_mut(&(&target.account, &target.region, &*target.group)) {
            *stored += bytes;
        }
        let part = keys::part(self.part);
        self.part += 1;
        self.txn = std::mem::take(&mut self.txn)
            .put_numbered(keys::chunks_at(group_id, last_ms), part.clone(), encode(&chunk)?)
            .put_numbered(keys::index_at(group_id, stream_id, last_ms), part, "");
        Ok(())
    }

    fn finish(self) -> Result<Txn, Error> {
        let mut txn = self.txn;
        for (group, stored) in self.groups.into_values() {
            txn = txn.add(keys::stored_bytes(group.id), i64::try_from(stored).unwrap_or(i64::MAX));
        }
        for (target, (group_id, stream)) in self.streams {
            txn = txn.put(keys::stream(group_id, &target.stream), encode(&stream)?);
        }
        Ok(txn)
    }
}
