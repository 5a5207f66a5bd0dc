//! Lambda's extensions: programs beside a function that hear of its calls and of its end, and count as part of each call.
//!
//! External ones are the executables in `/opt/extensions`, which the spawner has the sandbox's first process start before the
//! runtime; internal ones register from within the runtime's process. Every environment of processes can have some; one in
//! which nobody has registered when its init phase ends has none, and pays nothing for them afterwards.
//!
//! | file       | is                                                                          |
//! |------------|-----------------------------------------------------------------------------|
//! | `registry` | who they are, where each stands, what each waits for                        |
//! | `http`     | the Extensions API, and how they subscribe to telemetry                     |
//! | `launch`   | starts external ones, and stays with them                                   |
//! | `ending`   | how an environment with extensions ends                                     |
//! | `mod`      | the extensions of one environment                                           |
//!
//! Invariants
//!   1. A call begins only when all extensions have asked for their next event, and its environment takes no other before they
//!      have done so again.
//!   2. A caller gets its answer when the runtime has given it; extensions keep the environment, not the caller.
//!   3. Whatever an extension does or does not do, its environment ends within `ENDING_MAX` of the decision.
//!   4. An extension has nothing that the function has not: the same walls, limits, network and credentials.
//!
//! Start reading at `Extensions`.

mod ending;
mod http;
mod launch;
mod registry;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use base::{Clock, Random};
use model::FunctionVersion;
use parking_lot::Mutex;
use sandbox::Control;
use serde_json::json;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::engine::Core;
use crate::environment::Call;
use crate::faults::Fault;
use crate::inward::Inward;
use crate::output::Output;
use crate::records::Line;
use crate::telemetry::Hub;
pub(crate) use ending::{ENDING_MAX, Reason};
pub(crate) use http::{answer, is_theirs};
pub(crate) use launch::Agents;
use launch::Mouth;
use registry::Registry;
pub(crate) use registry::Standing;

/// The extensions of one environment.
pub(crate) struct Extensions {
    version: Arc<FunctionVersion>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    control: Arc<dyn Control>,
    output: Arc<Output>,
    hub: Arc<Hub>,
    gone: CancellationToken,
    registry: Mutex<Registry>,
    /// Woken when anything of the registry has changed.
    moved: Notify,
    /// External ones that were started: their names, and their numbers in the sandbox.
    programs: Mutex<Vec<(String, u64)>>,
    /// What they write.
    mouths: Mutex<Vec<Arc<Mouth>>>,
    ends: AtomicBool,
    /// Who waits for the ends of environments.
    endings: TaskTracker,
}

impl Extensions {
    /// None yet.
    pub(crate) fn new(
        core: &Core,
        version: &Arc<FunctionVersion>,
        control: &Arc<dyn Control>,
        output: &Arc<Output>,
        gone: &CancellationToken,
    ) -> Arc<Self> {
        let inward = Arc::new(Inward::new(control.clone()));
        let hub = Hub::new(core.clock.clone(), inward, gone.clone());
        Arc::new(Self {
            version: version.clone(),
            clock: core.clock.clone(),
            random: core.random.clone(),
            control: control.clone(),
            output: output.clone(),
            hub,
            gone: gone.clone(),
            registry: Mutex::default(),
            moved: Notify::new(),
            programs: Mutex::default(),
            mouths: Mutex::default(),
            ends: AtomicBool::new(false),
            endings: core.fleet.endings.clone(),
        })
    }

    /// What the platform has said of the environment's beginning, for those that have subscribed and those that will.
    pub(crate) fn begins(&self, line: &Line<'_>) {
        self.hub.line(line, self.clock.now_ms());
    }

    /// Whether anybody has subscribed to telemetry.
    pub(crate) fn is_heard(&self) -> bool {
        self.hub.is_heard()
    }

    /// Waits until all that have registered wait for their first event.
    pub(crate) async fn ready(&self) {
        self.until(|registry| registry.is_settled().then_some(())).await;
    }

    /// Whether all wait for their next event.
    pub(crate) fn is_ready(&self) -> bool {
        self.registry.lock().is_settled()
    }

    /// Waits until something goes wrong with one of them.
    pub(crate) async fn failed(&self) -> Fault {
        self.until(|registry| registry.fault().cloned()).await
    }

    /// The init phase is over, whichever way: nobody registers or subscribes any more, and the log says how all stand.
    /// Whether there are any.
    pub(crate) fn close(&self) -> bool {
        self.drain();
        let (standings, empty) = {
            let mut registry = self.registry.lock();
            registry.close();
            (registry.standings(), registry.is_empty())
        };
        for standing in &standings {
            self.output.line(&Line::Extension(standing));
        }
        self.hub.close();
        !empty
    }

    /// Has the log hold what external ones have written so far.
    pub(crate) fn drain(&self) {
        for mouth in self.mouths.lock().iter() {
            mouth.drain(&self.output);
        }
    }

    /// Tells those that want to know that a call begins.
    pub(crate) fn invoke(&self, call: &Call) {
        let event = json!({
            "eventType": "INVOKE",
            "deadlineMs": call.deadline_ms,
            "requestId": call.request_id.0,
            "invokedFunctionArn": call.function_arn,
            "tracing": {"type": "X-Amzn-Trace-Id", "value": call.trace_id.as_deref().unwrap_or_default()},
        });
        self.registry.lock().invoke(&event.to_string());
        self.moved.notify_waiters();
    }

    /// Nothing runs in the sandbox for now, or does so again.
    pub(crate) fn pause(&self, paused: bool) {
        self.hub.pause(paused);
    }

    async fn until<T>(&self, mut done: impl FnMut(&mut Registry) -> Option<T>) -> T {
        loop {
            let moved = self.moved.notified();
            tokio::pin!(moved);
            // Registered before the look, so that no move is missed between the two.
            moved.as_mut().enable();
            if let Some(result) = done(&mut self.registry.lock()) {
                return result;
            }
            moved.await;
        }
    }
}

/// What goes wrong with an environment's extensions; never, if it has none.
pub(crate) async fn failed(extensions: Option<&Arc<Extensions>>) -> Fault {
    match extensions {
        Some(extensions) => extensions.failed().await,
        None => std::future::pending().await,
    }
}
