//! One invocation, from the caller's wish to the answer: the only road into a sandbox.
//!
//! catalog → payload → admission → pool → run → settle. What belongs to a step is in its own file; the order is here.
//!
//! Invariants
//!   1. A call that reached an environment is settled exactly once, even if its caller goes away.
//!   2. A call that never reached a guest is tried in another environment; one that did is never repeated here.
//!   3. A call whose environment could not be initialised has the init repeated once, in its own time; how that ends is its
//!      answer.

use std::sync::Arc;
use std::time::Duration;

use model::{Answered, Body, FunctionVersion, Invocation, InvokeError, Outcome, WebAnswer, WebCall};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::admission::Permit;
use crate::after::{self, Course};
use crate::detached::Detached;
use crate::engine::Core;
use crate::environment::{Answer, Call};
use crate::faults::Fault;
use crate::patience;
use crate::payload;
use crate::pool::{Lease, Pool, Ready};
use crate::recursion;
use crate::report::{Beginning, Phase};
use crate::settle::{self, Ended, micros};
use crate::start::{self, FailedStart, StartEnd};
use crate::stream::{self, StreamSink};
use crate::tenants;
use crate::web;

/// Environments that are tried for one call: each one was gone before it got the event.
pub(crate) const TRIES_MAX: u32 = 4;

/// An admitted call.
pub(crate) struct Job {
    pub(crate) invocation: Invocation,
    pub(crate) version: Arc<FunctionVersion>,
    sink: Option<Arc<StreamSink>>,
    pub(crate) tries: u32,
    permit: Permit,
    _running: TaskTrackerToken,
}

impl Job {
    /// The caller has its answer, while the call goes on.
    pub(crate) fn answered(&mut self) {
        self.permit.answered();
    }
}

/// How a try ended: the call's end, or the call itself, to be tried again.
type Tried = Result<Result<Outcome, InvokeError>, Box<Job>>;

/// Runs one invocation.
pub(crate) async fn invoke(core: &Arc<Core>, invocation: Invocation) -> Result<Outcome, InvokeError> {
    run_whole(core, invocation, None, None).await
}

/// Runs one invocation as a task of its own and returns when its answer begins.
pub(crate) async fn invoke_streaming(core: &Arc<Core>, invocation: Invocation) -> Result<Answered, InvokeError> {
    let (sink, opened) = stream::open(&core.config.streams);
    let (told, end) = oneshot::channel();
    let core = core.clone();
    tokio::spawn(async move {
        // A caller that is gone hears nothing of the end.
        let _ = told.send(run_whole(&core, invocation, Some(sink), None).await);
    });
    opened.answered(end).await
}

/// Has a web server answer a request, as a task of its own, and returns when it begins to.
pub(crate) async fn serve(core: &Arc<Core>, call: WebCall) -> Result<WebAnswer, InvokeError> {
    let (sink, opened) = stream::open(&core.config.streams);
    let (told, end) = oneshot::channel();
    let core = core.clone();
    tokio::spawn(async move {
        let WebCall { invocation, request } = call;
        // A caller that is gone hears nothing of the end.
        let _ = told.send(run_whole(&core, invocation, Some(sink), Some(request)).await);
    });
    opened.begun(end).await
}

async fn run_whole(
    core: &Arc<Core>,
    mut invocation: Invocation,
    sink: Option<Arc<StreamSink>>,
    request: Option<http::Request<Body>>,
) -> Result<Outcome, InvokeError> {
    let running = core.enter()?;
    let version = core.catalog.version(&invocation.function).await?;
    let version = tenants::bound(version, invocation.tenant.as_deref())?;
    recursion::check(invocation.trace_id.as_deref(), &version)?;
    let header =
        core.sampler.header(invocation.trace_id.as_deref(), version.traced, core.clock.now_ms(), &*core.random);
    invocation.trace_id = Some(header);
    invocation.payload = payload::checked(&invocation)?;
    let permit = core.admit(&version).await.map_err(InvokeError::Throttled)?;
    let mut job = Box::new(Job { invocation, version, sink, tries: 0, permit, _running: running });
    if job.version.web.is_some() {
        // In a box, as most calls are of functions that are none.
        return Box::pin(web::run(core, job, request)).await;
    }
    if request.is_some() {
        return Err(InvokeError::Unfit("The function is no web server."));
    }
    loop {
        let pool = core.fleet.pool(&job.version);
        let ready = pool.checkout(core).await?;
        match Detached::new(run(core.clone(), pool, job, ready)).await {
            Ok(end) => return end,
            Err(again) => job = again,
        }
    }
}

/// Checks everything that `invoke` checks before it runs the function.
pub(crate) async fn dry_run(core: &Arc<Core>, function: &model::FunctionRef) -> Result<(), InvokeError> {
    let _running = core.enter()?;
    let version = core.catalog.version(function).await?;
    start::guest_of(core, &version)?;
    core.admission.check(&version, core.clock.monotonic_us()).map_err(InvokeError::Throttled)
}

async fn run(core: Arc<Core>, pool: Arc<Pool>, job: Box<Job>, ready: Ready) -> Tried {
    match ready {
        Ready::Environment(lease) => run_in(&core, lease, job, None).await,
        // In a box, as the futures of starts are large and nearly no call needs one.
        Ready::Failed(failed) => Box::pin(run_unstarted(&core, &pool, job, *failed)).await,
    }
}

async fn run_unstarted(core: &Arc<Core>, pool: &Arc<Pool>, job: Box<Job>, failed: FailedStart) -> Tried {
    match failed {
        // What comes back from a snapshot has had its init before.
        FailedStart::Init(init) if init.restore => Ok(Ok(settle::failed_init(core, &job, init, Phase::Init).await)),
        FailedStart::Refused(error) => Ok(Err(error)),
        failed => {
            Box::new(failed).report_alone().await;
            run_with_init(core, pool, job).await
        }
    }
}

/// When the time of an invocation began, if that was before its environment got the event.
pub(crate) struct Began {
    pub(crate) at: Instant,
    pub(crate) us: u64,
}

/// Repeats an init that failed or was cut within the invocation, under the function's own timeout.
async fn run_with_init(core: &Arc<Core>, pool: &Arc<Pool>, job: Box<Job>) -> Tried {
    let began = Began { at: Instant::now(), us: core.clock.monotonic_us() };
    let timeout = Duration::from_millis(job.version.timeout_ms);
    match start::in_invocation(core, pool, timeout).await {
        StartEnd::Ready(environment) => run_in(core, pool.adopt(core, environment), job, Some(began)).await,
        StartEnd::Failed(failed) => match *failed {
            FailedStart::Init(init) => Ok(Ok(settle::failed_init(core, &job, init, Phase::Invoke).await)),
            FailedStart::Cut { output, .. } => Ok(Ok(settle::cut_again(core, &job, &output).await)),
            FailedStart::Refused(error) => Ok(Err(error)),
        },
    }
}

async fn run_in(core: &Arc<Core>, mut lease: Lease, mut job: Box<Job>, began: Option<Began>) -> Tried {
    let timeout_ms = job.version.timeout_ms;
    let environment = lease.environment();
    let output = environment.output.clone();
    let beginning = environment.first_beginning().filter(|_| began.is_none());
    let first = environment.is_unused();
    let began = began.unwrap_or_else(|| Began { at: Instant::now(), us: core.clock.monotonic_us() });
    let deadline = began.at + Duration::from_millis(timeout_ms);
    let started_at_ms = core.clock.now_ms();
    let call = call(core, &job, &began);
    output.begin(&settle::start_line(&job), job.invocation.log_tail);

    let (took_us, cpu_milli) = lease.pool().predicted();
    core.fleet.call_begins(cpu_milli);
    let look = patience::look(took_us, core.calls(), core.config.cores);
    let environment = lease.environment();
    let mut answer = environment.run(call, look, deadline, timeout_ms).await;
    core.fleet.call_ends(cpu_milli);

    if matches!(answer, Answer::NotDelivered) {
        job.tries += 1;
        if first {
            let kept = environment.is_kept();
            lease.pool().start_was_lost(kept, core.clock.monotonic_us());
        }
        if job.tries < TRIES_MAX {
            output.retract();
            return Err(job);
        }
        answer = Answer::Fault { fault: Fault::exited(&lease.environment().exit().await), sound: false };
    }
    let environment = lease.environment();
    let sound = !matches!(answer, Answer::Fault { sound: false, .. } | Answer::Died { .. });
    if sound && environment.goes_on() {
        let course = Course { started_at_ms, began_us: began.us, beginning, first, deadline };
        // In a box, as most calls are over with their answer.
        return Ok(Ok(Box::pin(after::after_answer(core, lease, job, answer, course)).await));
    }
    if !sound {
        environment.give_up(&answer);
    }
    let now_us = core.clock.monotonic_us();
    let duration_us = now_us.saturating_sub(began.us);
    let (cpu, usage) = environment.usage();
    let run_us = answer.run_us().map_or(duration_us, |run_us| run_us.min(duration_us));
    lease.pool().learn(
        core,
        now_us,
        duration_us,
        run_us,
        micros(cpu).saturating_sub(beginning.map_or(0, Beginning::us)),
        first,
    );
    let ended = Ended { started_at_ms, duration_us, beginning, cpu, usage, among: false, detail: None };
    let outcome = settle::settle(core, &job, &output, answer, ended);
    if sound {
        lease.release(deadline);
    } else {
        drop(lease);
    }
    output.flush().await;
    Ok(Ok(outcome))
}

/// The invocation, as its guest sees it.
pub(crate) fn call(core: &Core, job: &Job, began: &Began) -> Call {
    let spent_ms = core.clock.monotonic_us().saturating_sub(began.us) / 1_000;
    let invocation = &job.invocation;
    Call {
        request_id: invocation.request_id.clone(),
        payload: invocation.payload.clone(),
        deadline_ms: core.clock.now_ms() + job.version.timeout_ms.saturating_sub(spent_ms),
        function_arn: invocation.function.arn(),
        trace_id: recursion::counted(invocation.trace_id.as_deref(), &job.version.function),
        client_context: invocation.client_context.clone(),
        version: job.version.clone(),
        sink: job.sink.clone(),
    }
}
