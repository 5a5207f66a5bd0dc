//! One environment: an initialised guest in its sandbox, and the keeper that stays with it until it is gone.
//!
//! Whoever holds the `Environment` may run calls in it, one at a time; dropping it ends the sandbox. The keeper is a
//! task of its own: it reads the output pipe between and during calls, and when the sandbox has ended it flushes the
//! log, gives the room back and takes the environment off every list.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use model::{Ending, FunctionVersion, RequestId};
use sandbox::{Control, Exit, GUEST, Usage};
use serde::Serialize;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::config::NetworkGuard;
use crate::engine::Core;
use crate::extensions::{self, Extensions, Reason};
use crate::faults::{Failure, Fault};
use crate::fleet::{Card, EnvironmentState, Room};
use crate::frames::{Frames, Order};
use crate::output::{Output, Read};
use crate::pool::{FloorPlace, Freezing, Pool};
use crate::program::Runner;
use crate::report::Beginning;
use crate::runtime_api::RuntimeApi;
use crate::start::InitEnd;
use crate::stream::StreamSink;
use crate::variables::TASK_ROOT;
use crate::web::{self, WebGuest};

/// How long a guest whose channel has closed gets to end by itself.
const EXIT_GRACE: Duration = Duration::from_secs(1);
/// How long lines wait for company before they go to the sink.
const FLUSH_AFTER: Duration = Duration::from_millis(100);

/// One invocation, as a guest sees it.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) request_id: RequestId,
    pub(crate) payload: Bytes,
    /// Milliseconds since the epoch.
    pub(crate) deadline_ms: u64,
    /// As invoked: qualified exactly if the caller said a version or alias.
    pub(crate) function_arn: String,
    pub(crate) trace_id: Option<String>,
    pub(crate) client_context: Option<String>,
    /// What runs.
    pub(crate) version: Arc<FunctionVersion>,
    /// Where pieces of the answer go, if the caller takes them.
    pub(crate) sink: Option<Arc<StreamSink>>,
}

/// What a call is known by, under the names that AWS's adapter for web servers gives it in a header.
#[derive(Serialize)]
pub(crate) struct About<'a> {
    request_id: &'a str,
    deadline: u64,
    invoked_function_arn: &'a str,
    xray_trace_id: Option<&'a str>,
    client_context: Option<serde_json::Value>,
    tenant_id: Option<&'a str>,
}

impl Call {
    pub(crate) fn about(&self) -> About<'_> {
        About {
            request_id: &self.request_id.0,
            deadline: self.deadline_ms,
            invoked_function_arn: &self.function_arn,
            xray_trace_id: self.trace_id.as_deref(),
            client_context: self.client_context.as_deref().and_then(|text| serde_json::from_str(text).ok()),
            tenant_id: self.version.tenant.as_deref(),
        }
    }
}

/// How a call ended inside the environment.
#[derive(Debug)]
pub(crate) enum Answer {
    /// The function answered.
    Response {
        /// Its bytes.
        payload: Bytes,
        /// What the runtime says they are.
        content_type: Option<String>,
        /// How long the guest had the call, by its own account: neither its way there and back nor its wait for a
        /// processor is in it. For predictions only.
        run_us: Option<u64>,
    },
    /// The function answered in pieces, which the caller has got.
    Streamed,
    /// The function failed, in its own words.
    Error(Failure),
    /// The same, and the runtime's process is about to end with it.
    LastError(Failure),
    /// The same, and the runtime's process has ended with it.
    Died {
        /// The function's words.
        failure: Failure,
        /// How the process ended.
        fault: Fault,
    },
    /// The platform speaks for the function.
    Fault {
        /// What happened.
        fault: Fault,
        /// Whether the environment can serve another call.
        sound: bool,
    },
    /// The runtime's process ended during the call.
    Exited,
    /// The guest never got the event: the call may go to another environment.
    NotDelivered,
}

impl Answer {
    /// Bytes of what the caller gets at once.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Response { payload, .. } => payload.len(),
            Self::Error(failure) | Self::LastError(failure) | Self::Died { failure, .. } => failure.document.len(),
            Self::Streamed | Self::Fault { .. } | Self::Exited | Self::NotDelivered => 0,
        }
    }

    /// How long the guest had the call, if it says so.
    pub(crate) fn run_us(&self) -> Option<u64> {
        match self {
            Self::Response { run_us, .. } => *run_us,
            _ => None,
        }
    }
}

/// How the platform speaks to the guest.
pub(crate) enum Guest {
    /// Frames of a managed runtime.
    Frames(Frames),
    /// The HTTP Runtime API of a custom runtime.
    Api(Arc<RuntimeApi>),
    /// The port of a web server. Its calls do not come through here (`web`).
    Web(Arc<WebGuest>),
    /// Not at all: a program begins anew with each call.
    Program(Runner),
}

/// What calls may use of an environment that several of them are in.
pub(crate) struct Shown {
    pub(crate) web: Arc<WebGuest>,
    pub(crate) output: Arc<Output>,
    pub(crate) control: Arc<dyn Control>,
    pub(crate) card: Arc<Card>,
    pub(crate) gone: CancellationToken,
}

impl Guest {
    /// Waits for the end of the init phase.
    pub(crate) async fn initialise(&mut self, handler: &str, order: &Order) -> InitEnd {
        match self {
            Self::Frames(frames) => frames.load(TASK_ROOT, handler, order).await,
            Self::Api(api) => api.initialised().await,
            Self::Web(web) => web.initialised().await,
            Self::Program(_) => InitEnd::Ready,
        }
    }

    async fn run(&mut self, call: Call, look: Option<Duration>) -> Answer {
        match self {
            Self::Frames(frames) => frames.run(&call, look).await,
            Self::Api(api) => api.run(Arc::new(call)).await,
            Self::Web(_) => unreachable!("calls of web servers take a seat in their environment"),
            Self::Program(runner) => runner.run(call).await,
        }
    }
}

/// What a guest was before its function was loaded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Before {
    /// Processor time that it had used.
    pub(crate) cpu: Duration,
    /// Its processes and threads.
    pub(crate) tasks: u32,
}

/// An initialised guest.
pub(crate) struct Environment {
    pub(crate) output: Arc<Output>,
    control: Arc<dyn Control>,
    guest: Guest,
    card: Arc<Card>,
    gone: CancellationToken,
    /// What runs beside the function, if anything does.
    extensions: Option<Arc<Extensions>>,
    cpu_seen: Duration,
    /// How it began, for its first call.
    beginning: Beginning,
    /// Whether it was ready before a call came for it: no call is then told of its init phase, nor billed for it.
    ahead: bool,
    /// Set where it is one of those that its version has always.
    place: Option<FloorPlace>,
    /// Processes and threads that it had before its function was loaded.
    usual_tasks: u32,
}

impl Environment {
    /// One that is ready for calls.
    pub(crate) fn new(
        guest: Guest,
        output: Arc<Output>,
        control: Arc<dyn Control>,
        card: Arc<Card>,
        gone: CancellationToken,
        before: Before,
        beginning: Beginning,
    ) -> Self {
        let Before { cpu: cpu_seen, tasks: usual_tasks } = before;
        let (extensions, ahead, place) = (None, false, None);
        Self { output, control, guest, card, gone, extensions, cpu_seen, beginning, ahead, place, usual_tasks }
    }

    /// Has extensions, which take part in its calls.
    pub(crate) fn accompany(&mut self, extensions: Arc<Extensions>) {
        self.extensions = Some(extensions);
    }

    /// The extensions that take part in its calls, if there are any.
    pub(crate) fn extensions(&self) -> Option<&Arc<Extensions>> {
        self.extensions.as_ref()
    }

    /// Becomes one of those that its version has always.
    pub(crate) fn keep(&mut self, place: FloorPlace) {
        self.place = Some(place);
    }

    /// Whether it is one of those that its version has always.
    pub(crate) fn is_kept(&self) -> bool {
        self.place.is_some()
    }

    /// 32 hexadecimal digits.
    pub(crate) fn id(&self) -> &str {
        &self.card.id
    }

    /// What others see of it.
    pub(crate) fn card(&self) -> &Card {
        &self.card
    }

    /// Whether it may serve another call.
    pub(crate) fn is_usable(&self, now_us: u64, age_max: Duration) -> bool {
        let age = Duration::from_micros(now_us.saturating_sub(self.card.born_us));
        age < age_max && !self.gone.is_cancelled()
    }

    /// How it began, if this is the first call and it waited for that.
    pub(crate) fn first_beginning(&self) -> Option<Beginning> {
        (self.is_unused() && !self.ahead).then_some(self.beginning)
    }

    /// Whether it has served no call yet.
    pub(crate) fn is_unused(&self) -> bool {
        self.card.served.load(Ordering::Relaxed) == 0
    }

    /// Becomes idle. What its init used until now counts to no call if none came yet.
    pub(crate) fn rest(&mut self) {
        if self.is_unused() && !self.ahead {
            self.ahead = true;
            self.cpu_seen = self.control.usage().cpu;
        }
    }

    /// Whether nothing in it runs until the next call.
    pub(crate) fn is_frozen(&self) -> bool {
        self.card.frozen.load(Ordering::Relaxed)
    }

    /// Has it frozen until its next call; what is returned does it.
    pub(crate) fn freeze(&mut self) -> Freezing {
        self.card.frozen.store(true, Ordering::Relaxed);
        if let Some(extensions) = &self.extensions {
            extensions.pause(true);
        }
        self.control.freeze()
    }

    /// Processes and threads that it had before its function was loaded.
    pub(crate) fn usual_tasks(&self) -> u32 {
        self.usual_tasks
    }

    /// What it has used, and how many processes and threads it has.
    pub(crate) fn measured(&self) -> (Usage, u32) {
        (self.control.usage(), self.control.held().tasks)
    }

    /// Has it run, for a call.
    pub(crate) fn wake(&mut self) {
        if self.is_frozen() {
            self.control.thaw();
            self.card.frozen.store(false, Ordering::Relaxed);
            if let Some(extensions) = &self.extensions {
                extensions.pause(false);
            }
        }
        self.card.set(EnvironmentState::Busy);
    }

    /// What several calls at once may use of it.
    pub(crate) fn shown(&self) -> Shown {
        let Guest::Web(web) = &self.guest else { unreachable!("only web servers have several calls at once") };
        let (output, control) = (self.output.clone(), self.control.clone());
        Shown { web: web.clone(), output, control, card: self.card.clone(), gone: self.gone.clone() }
    }

    /// Runs one call, at most until `deadline`; its answer is looked for at first (`patience`). Counts it unless the guest
    /// never got it.
    pub(crate) async fn run(
        &mut self,
        call: Call,
        look: Option<Duration>,
        deadline: Instant,
        timeout_ms: u64,
    ) -> Answer {
        self.wake();
        if let Some(extensions) = &self.extensions {
            extensions.invoke(&call);
        }
        let answer = tokio::select! {
            biased;
            answer = self.guest.run(call, look) => answer,
            fault = extensions::failed(self.extensions.as_ref()) => Answer::Fault { fault, sound: false },
            () = sleep_until(deadline) => Answer::Fault { fault: Fault::timed_out(timeout_ms), sound: false },
        };
        if matches!(answer, Answer::NotDelivered) {
            return Answer::NotDelivered;
        }
        self.card.served.fetch_add(1, Ordering::Relaxed);
        match answer {
            Answer::Exited => Answer::Fault { fault: Fault::exited(&self.exit().await), sound: false },
            Answer::LastError(failure) => Answer::Died { failure, fault: Fault::exited(&self.exit().await) },
            answer => answer,
        }
    }

    /// Waits for the end of a guest that has left its channel.
    pub(crate) async fn exit(&self) -> Exit {
        exit_of(&*self.control).await
    }

    /// Kills the guest now, so that it writes no more; extensions hear of it before.
    pub(crate) fn give_up(&self, answer: &Answer) {
        let is_late = matches!(answer, Answer::Fault { fault, .. } if fault.ending == Ending::Timeout);
        match &self.extensions {
            Some(extensions) => extensions.end(if is_late { Reason::Timeout } else { Reason::Failure }),
            None => self.control.kill(),
        }
    }

    /// Whether a call is not over with its answer: extensions take part in it, or its runtime says itself when it is done.
    pub(crate) fn goes_on(&self) -> bool {
        self.extensions.is_some() || matches!(&self.guest, Guest::Api(api) if !api.is_ready())
    }

    /// Ends everything in it at once.
    pub(crate) fn kill(&self) {
        self.control.kill();
    }

    /// Whether it takes the next call: the runtime waits for that, and the extensions do.
    pub(crate) fn is_ready(&self) -> bool {
        self.extensions.as_ref().is_none_or(|extensions| extensions.is_ready()) && self.is_runtime_ready()
    }

    fn is_runtime_ready(&self) -> bool {
        match &self.guest {
            Guest::Frames(frames) => frames.is_ready(),
            Guest::Api(api) => api.is_ready(),
            Guest::Web(_) | Guest::Program(_) => true,
        }
    }

    /// Waits until it takes the next call; false if the runtime ended.
    pub(crate) async fn ready(&mut self) -> bool {
        let ready = self.runtime_ready().await;
        if let Some(extensions) = self.extensions.as_ref().filter(|_| ready) {
            extensions.ready().await;
        }
        ready
    }

    /// Waits until the runtime is ready for the next call; false if it ended.
    pub(crate) async fn runtime_ready(&mut self) -> bool {
        match &mut self.guest {
            Guest::Frames(frames) => frames.ready().await,
            Guest::Api(api) => api.ready().await,
            Guest::Web(_) | Guest::Program(_) => true,
        }
    }

    /// Processor time since the last time this was asked, and all that is used. What the guest did between two calls
    /// counts to the later one.
    pub(crate) fn usage(&mut self) -> (Duration, Usage) {
        let usage = self.control.usage();
        let cpu = usage.cpu.saturating_sub(self.cpu_seen);
        self.cpu_seen = usage.cpu;
        (cpu, usage)
    }
}

impl Drop for Environment {
    fn drop(&mut self) {
        match (&self.extensions, &self.guest) {
            (Some(extensions), _) => {
                extensions.end(if self.gone.is_cancelled() { Reason::Failure } else { Reason::Spindown });
            }
            (None, Guest::Web(_)) if !self.gone.is_cancelled() => web::stop(self.control.clone()),
            _ => self.control.kill(),
        }
    }
}

/// How a guest ended that has left its channel, or is made to end.
pub(crate) async fn exit_of(control: &dyn Control) -> Exit {
    match timeout(EXIT_GRACE, control.left(GUEST)).await {
        Ok(exit) => exit,
        Err(_) => {
            control.kill();
            control.wait().await
        }
    }
}

/// What the keeper holds for as long as there is anything of the sandbox.
pub(crate) struct Keeper {
    pub(crate) output: Arc<Output>,
    pub(crate) control: Arc<dyn Control>,
    pub(crate) gone: CancellationToken,
    pub(crate) id: String,
    pub(crate) pool: Arc<Pool>,
    pub(crate) room: Room,
    pub(crate) network: NetworkGuard,
}

impl Keeper {
    /// Stays with the sandbox until it is gone.
    pub(crate) async fn keep(self, core: Arc<Core>) {
        let control = self.control.clone();
        let mut ended = control.wait();
        let mut flush_at: Option<Instant> = None;
        let mut open = true;
        loop {
            tokio::select! {
                _ = &mut ended => break,
                readable = self.output.readable(), if open => match self.output.read() {
                    _ if readable.is_err() => open = false,
                    Read::Empty => {}
                    Read::Full => self.output.flush().await,
                    Read::Closed => open = false,
                },
                () = wait_until(flush_at) => {
                    flush_at = None;
                    self.output.flush().await;
                }
            }
            if flush_at.is_none() && self.output.holds_events() {
                flush_at = Some(Instant::now() + FLUSH_AFTER);
            }
        }
        self.gone.cancel();
        self.pool.forget(&self.id, core.clock.monotonic_us());
        while self.output.read() == Read::Full {
            self.output.flush().await;
        }
        self.output.cut();
        self.output.flush().await;
        core.fleet.leave(&self.id);
        drop((self.network, self.room));
    }
}

async fn wait_until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
