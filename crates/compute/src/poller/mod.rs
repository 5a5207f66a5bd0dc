//! Pollers: they take records from the sources of event source mappings and have functions handle them.
//!
//! Each mapping has a task of its own, which waits within its source as long as there is nothing to take. A queue keeps
//! track of its messages by itself; of a stream's shards the pollers keep how far they are.
//!
//! | file                               | is                                                                        |
//! |------------------------------------|-----------------------------------------------------------------------------|
//! | `batch`, `filter`, `answer`, `scale` | decisions: what goes into a call, which records are wanted, what has failed, how much at once |
//! | `shard`, `lane`                    | decisions: what a shard does next, and how far it is                       |
//! | `record`                           | what destinations get of batches that are given up                          |
//! | `queue`, `stream`                  | the loops: they read, call, acknowledge, and write checkpoints               |
//! | `lease`, `keys`                    | which process polls a shard                                                 |
//!
//! Invariants
//!   1. A message is acknowledged after the function has handled it, or as nobody wants it; a checkpoint passes a record
//!      then, or when the destination of what is given up has its record.
//!   2. A change of a mapping takes effect when the calls that run have ended; only then it is told as settled.
//!   3. Of two nodes one at a time polls a shard, and a queue whose calls are limited.
//!
//! Start reading at `follow`, then `queue::poll` and `stream::poll`.

mod answer;
mod batch;
#[cfg(test)]
pub(crate) mod doubles;
mod filter;
mod keys;
mod lane;
mod lease;
mod queue;
mod record;
mod scale;
mod shard;
mod stream;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use model::ports::{EventSource, source_of};
use model::{
    Invocation, InvocationKind, InvokeError, Mapping, MappingNews, Mappings, Outcome, RequestId, SourceFacts,
    SourceKind, Trigger, Wanted,
};
use parking_lot::Mutex;
use store::{Range, Txn};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::engine::Core;
use crate::invoke;
use lease::Nodes;
use scale::wait_after;

/// How long to wait after the store or the catalog failed.
const PAUSE: Duration = Duration::from_millis(500);
/// The least wait for what is due already.
const MOMENT: Duration = Duration::from_millis(5);
/// How long a read waits in its source.
const READ_WAIT_MS: u64 = 60_000;
/// A poll of this length is no failed try.
const LONG_US: u64 = 60_000_000;
/// How often at most it is written how batches end.
const RESULT_EVERY_MS: u64 = 1_000;

/// Polls for the mappings that there are, until the engine closes.
pub(crate) async fn follow(core: Arc<Core>) {
    let nodes =
        Nodes::new(core.store.clone(), core.clock.clone(), core.random.hex(8), core.config.async_queue.sole_node);
    let mut known = Mappings::new();
    let mut polled: HashMap<String, watch::Sender<Arc<Mapping>>> = HashMap::new();
    let closing = core.closing.clone();
    while let Some(found) = closing.run_until_cancelled(core.catalog.mappings(&known)).await {
        // Whoever is no longer there has been told as settled, or was taken away by another node: its task ends.
        polled.retain(|arn, _| found.contains_key(arn));
        for (arn, mapping) in &found {
            match polled.get(arn) {
                Some(sender) => {
                    sender.send_if_modified(|present| {
                        let changed = present != mapping;
                        *present = mapping.clone();
                        changed
                    });
                }
                None => {
                    let (sender, receiver) = watch::channel(mapping.clone());
                    tokio::spawn(supervise(core.clone(), nodes.clone(), receiver));
                    polled.insert(arn.clone(), sender);
                }
            }
        }
        known = found;
    }
}

/// Does what one mapping wants, as it changes.
async fn supervise(core: Arc<Core>, nodes: Arc<Nodes>, mut wanted: watch::Receiver<Arc<Mapping>>) {
    loop {
        let mapping = wanted.borrow_and_update().clone();
        let stop = core.closing.child_token();
        let poller = Arc::new(Poller {
            news: News { core: core.clone(), arn: mapping.arn.clone(), last: Mutex::default() },
            core: core.clone(),
            nodes: nodes.clone(),
            mapping,
            stop: stop.clone(),
        });
        let doing = poller.run();
        tokio::pin!(doing);
        tokio::select! {
            changed = wanted.changed() => {
                stop.cancel();
                doing.await;
                if changed.is_err() {
                    return;
                }
            }
            () = &mut doing => return,
        }
    }
}

/// The poller of one revision of a mapping.
struct Poller {
    core: Arc<Core>,
    nodes: Arc<Nodes>,
    mapping: Arc<Mapping>,
    news: News,
    /// Cancelled when the mapping changes or the engine closes.
    stop: CancellationToken,
}

impl Poller {
    /// Does what the mapping wants until it is stopped.
    async fn run(self: &Arc<Self>) {
        match self.mapping.wanted {
            Wanted::Polled => self.poll().await,
            Wanted::Rests => self.settled().await,
            Wanted::Gone => {
                self.forget().await;
                self.settled().await;
            }
        }
        self.stop.cancelled().await;
    }

    async fn poll(self: &Arc<Self>) {
        let mut tries = 0;
        while !self.stop.is_cancelled() {
            let began_us = self.core.clock.monotonic_us();
            match self.source().await {
                Ok((source, facts)) => {
                    match facts.kind {
                        SourceKind::Queue { lease_ms, .. } => queue::poll(self, &source, &facts, lease_ms).await,
                        SourceKind::Stream => stream::poll(self, &source, &facts).await,
                    }
                    if self.core.clock.monotonic_us() - began_us > LONG_US {
                        tries = 0;
                    }
                }
                Err(words) => {
                    self.news.result(words).await;
                    self.settled().await;
                }
            }
            tries += 1;
            self.pause(wait_after(tries)).await;
        }
    }

    /// The source, or what to say if it cannot be polled.
    async fn source(&self) -> Result<(Arc<dyn EventSource>, SourceFacts), &'static str> {
        let arn = &self.mapping.source;
        let source =
            source_of(&self.core.sources, arn).ok_or("PROBLEM: The service of the event source is not there")?;
        match source.describe(arn).await {
            Ok(Some(facts)) => Ok((source.clone(), facts)),
            Ok(None) => Err("PROBLEM: Event source not found"),
            Err(problem) => {
                tracing::warn!(arn, %problem, "an event source cannot be asked");
                Err("PROBLEM: Event source does not answer")
            }
        }
    }

    /// Sleeps until a time, milliseconds since the epoch; without one for ever. What is due already waits a moment, as what
    /// it waits for is under way.
    async fn sleep_until(&self, at_ms: Option<u64>) {
        match at_ms {
            Some(at_ms) => {
                let wait = Duration::from_millis(at_ms.saturating_sub(self.core.clock.now_ms()));
                sleep(wait.max(MOMENT)).await;
            }
            None => std::future::pending().await,
        }
    }

    /// Waits, unless it is stopped.
    async fn pause(&self, wait: Duration) {
        self.stop.run_until_cancelled(sleep(wait)).await;
    }

    /// Tells that the mapping is as this revision wants it.
    async fn settled(&self) {
        let (arn, revision) = (self.mapping.arn.clone(), self.mapping.revision);
        while !self.core.catalog.tell(MappingNews::Settled { arn: arn.clone(), revision }).await {
            if self.stop.is_cancelled() {
                return;
            }
            self.pause(PAUSE).await;
        }
    }

    /// Removes what is kept for the mapping.
    async fn forget(&self) {
        let arn = &self.mapping.arn;
        while let Err(problem) = forget(&self.core, arn).await {
            tracing::warn!(arn, %problem, "what was kept for an event source mapping could not be removed yet");
            if self.stop.is_cancelled() {
                return;
            }
            self.pause(PAUSE).await;
        }
    }

    /// Calls the function, within the trace of its records if they have one. Nothing: the platform did not run it; why is told.
    async fn call(&self, payload: Bytes, trace: Option<String>) -> Option<(RequestId, Outcome)> {
        let request_id = RequestId(self.core.random.uuid());
        let invocation = Invocation {
            function: self.mapping.function.clone(),
            request_id: request_id.clone(),
            payload,
            kind: InvocationKind::RequestResponse,
            trigger: Trigger::EventSource,
            client_context: None,
            tenant: None,
            trace_id: trace,
            log_tail: false,
        };
        let result = invoke::invoke(&self.core, invocation).await;
        if self.core.closing.is_cancelled() && !matches!(&result, Ok(outcome) if outcome.error.is_none()) {
            // Cut off by the stop, not by the function.
            return None;
        }
        let words = match &result {
            Ok(outcome) if outcome.error.is_none() => "OK",
            Ok(_) => "PROBLEM: Function call failed",
            Err(InvokeError::NotFound(_)) => "PROBLEM: Function not found",
            Err(InvokeError::Throttled(_)) => "PROBLEM: Function call was throttled",
            Err(InvokeError::PayloadTooLarge { .. }) => "PROBLEM: Records are too large for a call",
            Err(_) => "PROBLEM: Function could not be called",
        };
        self.news.result(words).await;
        result.ok().map(|outcome| (request_id, outcome))
    }
}

/// The end of a future that there may be.
async fn until<F: Future + Unpin>(future: &mut Option<F>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

async fn forget(core: &Core, arn: &str) -> Result<(), store::Error> {
    let mut txn = Txn::new().delete(keys::begun(arn));
    for prefix in [keys::shards(arn), keys::windows(arn)] {
        for entry in core.store.range(&Range::prefix(prefix)).await?.entries {
            txn = txn.delete(entry.key);
        }
    }
    core.store.commit(txn).await.map(drop)
}

/// How the batches of a mapping end, as answers show it.
struct News {
    core: Arc<Core>,
    arn: String,
    /// What was told last, and when.
    last: Mutex<(&'static str, u64)>,
}

impl News {
    /// Tells how a batch has ended, if that is new.
    async fn result(&self, words: &'static str) {
        let now_ms = self.core.clock.now_ms();
        {
            let mut last = self.last.lock();
            if last.0 == words || now_ms < last.1.saturating_add(RESULT_EVERY_MS) {
                return;
            }
            *last = (words, now_ms);
        }
        self.core.catalog.tell(MappingNews::Result { arn: self.arn.clone(), words: words.to_owned() }).await;
    }
}
