//! How an environment with extensions ends: the runtime is asked to, then those extensions that want to know, then all are
//! killed.
//!
//! | who is there            | the runtime has | all have |
//! |-------------------------|-----------------|----------|
//! | external extensions     | 300 ms          | 2 s      |
//! | internal ones only      | 500 ms          | 500 ms   |
//!
//! Source: Lambda's documentation of the execution environment's lifecycle.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sandbox::GUEST;
use serde_json::json;
use tokio::time::{Instant, timeout_at};

use super::Extensions;

/// How long an end may take.
pub(crate) const ENDING_MAX: Duration = Duration::from_secs(2);
const INTERNAL_MAX: Duration = Duration::from_millis(500);
const RUNTIME_MAX: Duration = Duration::from_millis(300);
const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;

/// Why an environment ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// It is not needed any more.
    Spindown,
    /// A call took too long.
    Timeout,
    /// The runtime or an extension failed.
    Failure,
}

impl Reason {
    fn word(self) -> &'static str {
        match self {
            Self::Spindown => "spindown",
            Self::Timeout => "timeout",
            Self::Failure => "failure",
        }
    }
}

impl Extensions {
    /// Ends the environment, as a task of its own. Only the first reason counts.
    pub(crate) fn end(self: &Arc<Self>, reason: Reason) {
        if self.ends.swap(true, Ordering::SeqCst) {
            return;
        }
        if tokio::runtime::Handle::try_current().is_err() {
            return self.control.kill();
        }
        let this = self.clone();
        self.endings.spawn(async move {
            let gone = this.gone.clone();
            gone.run_until_cancelled(this.end_all(reason)).await;
            this.control.kill();
        });
    }

    async fn end_all(&self, reason: Reason) {
        let external = {
            let mut registry = self.registry.lock();
            registry.end();
            registry.has_external()
        };
        let began = Instant::now();
        let (runtime_max, max) = if external { (RUNTIME_MAX, ENDING_MAX) } else { (INTERNAL_MAX, INTERNAL_MAX) };
        self.hub.pause(false);
        self.control.thaw();
        self.control.signal(GUEST, SIGTERM);
        let left = self.control.left(GUEST);
        if timeout_at(began + runtime_max, left).await.is_err() {
            self.control.signal(GUEST, SIGKILL);
        }
        if !external {
            return;
        }
        self.tell_all(reason, began.elapsed());
        let over = self.until(|registry| (registry.running().count() == 0).then_some(()));
        // Those that are still there are killed with everything.
        let _ = timeout_at(began + max, over).await;
    }

    fn tell_all(&self, reason: Reason, since: Duration) {
        let left = u64::try_from(ENDING_MAX.saturating_sub(since).as_millis()).unwrap_or(0);
        let event = json!({
            "eventType": "SHUTDOWN",
            "shutdownReason": reason.word(),
            "deadlineMs": self.clock.now_ms() + left,
        });
        let deaf: Vec<String> = {
            let mut registry = self.registry.lock();
            registry.shut_down(&event.to_string());
            registry.running().filter(|(_, wants)| !wants).map(|(name, _)| name.to_owned()).collect()
        };
        for (name, number) in self.programs.lock().iter() {
            if deaf.contains(name) {
                self.control.signal(*number, SIGKILL);
            }
        }
        self.moved.notify_waiters();
        self.hub.hurry();
    }
}
