//! The Telemetry API and the Logs API before it: what happens in an environment, for extensions that subscribe to it.
//!
//! | file           | is                                                                    |
//! |----------------|-----------------------------------------------------------------------|
//! | `subscription` | what an extension asks for                                            |
//! | `fact`         | what happened, as each subscriber reads it                            |
//! | `buffer`       | what a subscriber has not got yet, and when it gets it                |
//! | `deliver`      | takes it into the sandbox                                             |
//! | `mod`          | the subscribers of one environment                                    |
//!
//! Invariants
//!   1. To tell something never waits: who does not take what it subscribed to loses it, and nobody else anything.
//!   2. Nobody subscribes after the init phase; who does so twice has one subscription, the later one.
//!   3. The platform connects to nothing but the sandbox's own loopback.
//!
//! Start reading at `Hub::tell`.

mod buffer;
mod deliver;
mod fact;
mod subscription;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base::Clock;
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::inward::Inward;
use crate::records::Line;
use buffer::Buffer;
pub(crate) use fact::Fact;
pub(crate) use subscription::{Api, Stream, Subscription};

/// Most facts that are kept for who subscribes later in the init phase.
const BACKLOG_MAX: usize = 256;

/// The subscribers of one environment.
pub(crate) struct Hub {
    clock: Arc<dyn Clock>,
    inward: Arc<Inward>,
    gone: CancellationToken,
    /// Whether nothing runs in the sandbox for now.
    paused: watch::Sender<bool>,
    state: Mutex<State>,
    /// Whether there is anybody to tell.
    heard: AtomicBool,
}

struct State {
    open: bool,
    subscribers: Vec<Arc<Subscriber>>,
    /// What the platform had to tell before.
    backlog: Vec<Fact>,
}

/// One that is told.
struct Subscriber {
    name: String,
    asked: Subscription,
    buffer: Mutex<Buffer>,
    wake: Notify,
}

/// Why a subscription is refused.
pub(crate) enum Refused {
    /// The init phase is over.
    Closed,
    /// The environment's extensions use the other API.
    Other(Api),
}

impl Hub {
    pub(crate) fn new(clock: Arc<dyn Clock>, inward: Arc<Inward>, gone: CancellationToken) -> Arc<Self> {
        let state = State { open: true, subscribers: Vec::new(), backlog: Vec::new() };
        let (state, paused) = (Mutex::new(state), watch::Sender::new(false));
        Arc::new(Self { clock, inward, gone, paused, state, heard: AtomicBool::new(false) })
    }

    /// Subscribes an extension.
    pub(crate) fn subscribe(self: &Arc<Self>, name: &str, asked: Subscription) -> Result<(), Refused> {
        let api = asked.api;
        let streams: Vec<&'static str> = asked.streams.iter().map(|stream| stream.name()).collect();
        let subscriber = Arc::new(Subscriber {
            name: name.to_owned(),
            buffer: Mutex::new(Buffer::new(asked.buffering)),
            asked,
            wake: Notify::new(),
        });
        {
            let mut state = self.state.lock();
            if !state.open {
                return Err(Refused::Closed);
            }
            if let Some(other) = state.subscribers.iter().find(|other| other.asked.api != api) {
                return Err(Refused::Other(other.asked.api));
            }
            if let Some(before) = state.subscribers.iter_mut().find(|before| before.name == name) {
                if before.asked == subscriber.asked {
                    return Ok(());
                }
                // Its task ends; what the platform had told it is told again below.
                before.wake.notify_one();
                *before = subscriber.clone();
            } else {
                state.subscribers.push(subscriber.clone());
            }
            for fact in &state.backlog {
                subscriber.tell(fact, self.clock.now_ms());
            }
            self.heard.store(true, Ordering::Release);
        }
        tokio::spawn(deliver::run(self.clone(), subscriber));
        let kind = if api == Api::Telemetry { "telemetrySubscription" } else { "logsSubscription" };
        let record = json!({"name": name, "state": "Subscribed", "types": streams});
        self.tell(Fact::platform(self.clock.now_ms(), kind, record));
        Ok(())
    }

    /// Whether anybody is told.
    pub(crate) fn is_heard(&self) -> bool {
        self.heard.load(Ordering::Acquire)
    }

    /// Tells all that want to know.
    pub(crate) fn tell(&self, fact: Fact) {
        let now_ms = self.clock.now_ms();
        let mut state = self.state.lock();
        for subscriber in &state.subscribers {
            subscriber.tell(&fact, now_ms);
        }
        if state.open && fact.stream() == Stream::Platform && state.backlog.len() < BACKLOG_MAX {
            state.backlog.push(fact);
        }
    }

    /// Tells what the platform's line says.
    pub(crate) fn line(&self, line: &Line<'_>, now_ms: u64) {
        if let Some((kind, record)) = line.fact() {
            self.tell(Fact::platform(now_ms, kind, record));
        }
    }

    /// The init phase is over.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.open = false;
        state.backlog = Vec::new();
    }

    /// Nothing runs in the sandbox, or does so again.
    pub(crate) fn pause(&self, paused: bool) {
        self.paused.send_if_modified(|now| std::mem::replace(now, paused) != paused);
    }

    /// The environment ends: what there is goes at once.
    pub(crate) fn hurry(&self) {
        for subscriber in &self.state.lock().subscribers {
            subscriber.buffer.lock().hurry();
            subscriber.wake.notify_one();
        }
    }

    /// Whether a subscriber is still this name's.
    fn has(&self, subscriber: &Arc<Subscriber>) -> bool {
        self.state.lock().subscribers.iter().any(|other| Arc::ptr_eq(other, subscriber))
    }
}

impl Subscriber {
    fn tell(&self, fact: &Fact, now_ms: u64) {
        if let Some(text) = fact.text_for(&self.asked) {
            self.buffer.lock().push(text, now_ms);
            self.wake.notify_one();
        }
    }
}
