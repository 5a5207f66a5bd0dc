//! Web servers: calls of functions that listen on a port of their own, instead of asking the platform for events.
//!
//! The server is a program as it is anywhere else (`guest` reaches it); many calls may be in one environment (`pool::seats`).
//! A call is an HTTP request from the front door, or an event (`exchange`, `event`).
//!
//! Invariants
//!   1. A call is settled exactly once, like any other (`invoke`); its end is that of its answer's last piece.
//!   2. Where several calls share an environment, one whose time is over leaves the others alone; where a call has it for
//!      itself, the environment ends with it, as on Lambda.
//!   3. The end of the server's process is the end of every call in it.

mod event;
mod exchange;
mod guest;
mod headers;
mod outbound;

use std::sync::Arc;
use std::time::Duration;

use http::Request;
use model::{Body, InvokeError, Outcome};
use sandbox::Control;
use tokio::time::{Instant, sleep_until, timeout};

use crate::detached::Detached;
use crate::engine::Core;
use crate::environment::{Answer, exit_of};
use crate::faults::Fault;
use crate::invoke::{self, Began, Job, TRIES_MAX};
use crate::pool::{Seat, Seated};
use crate::report::{Beginning, Phase};
use crate::settle::{self, Ended, micros};
use crate::start::FailedStart;
use exchange::Wish;
pub(crate) use guest::WebGuest;

/// How long after a broken connection it is waited whether the server's process has ended.
const END_GRACE: Duration = Duration::from_millis(500);
/// How long a server gets to end by itself when it is asked to.
pub(crate) const STOP_GRACE: Duration = Duration::from_secs(10);

/// How a try ended: the call's end, or the call itself, to be tried again.
type Tried = Result<Result<Outcome, InvokeError>, (Box<Job>, Wish)>;

/// Runs one call of a web server.
pub(crate) async fn run(
    core: &Arc<Core>,
    mut job: Box<Job>,
    request: Option<Request<Body>>,
) -> Result<Outcome, InvokeError> {
    let mut wish = request.map_or(Wish::Event, |request| Wish::Http(Box::new(request)));
    loop {
        let pool = core.fleet.pool(&job.version);
        let seated = pool.seat(core).await?;
        match Detached::new(run_seated(core.clone(), job, wish, seated)).await {
            Ok(end) => return end,
            Err(again) => (job, wish) = again,
        }
    }
}

async fn run_seated(core: Arc<Core>, job: Box<Job>, wish: Wish, seated: Seated) -> Tried {
    match seated {
        Seated::Seat(seat) => run_in(&core, job, wish, seat).await,
        Seated::Failed(failed) => {
            drop(wish);
            match *failed {
                FailedStart::Init(init) => Ok(Ok(settle::failed_init(&core, &job, init, Phase::Init).await)),
                FailedStart::Refused(error) => Ok(Err(error)),
                FailedStart::Cut { .. } => Ok(Err(InvokeError::Internal("the start was cut".to_owned()))),
            }
        }
    }
}

async fn run_in(core: &Arc<Core>, mut job: Box<Job>, wish: Wish, mut seat: Seat) -> Tried {
    let shared = seat.shared().clone();
    let shown = &shared.shown;
    let alone = shown.web.web().concurrency == 1;
    let timeout_ms = job.version.timeout_ms;
    let began = Began { at: Instant::now(), us: core.clock.monotonic_us() };
    let started_at_ms = core.clock.now_ms();
    let deadline = began.at + Duration::from_millis(timeout_ms);
    let connection = tokio::select! {
        connection = shown.web.connection() => connection,
        () = sleep_until(deadline) => Err(std::io::ErrorKind::TimedOut.into()),
        () = shown.gone.cancelled() => Err(std::io::ErrorKind::ConnectionReset.into()),
    };
    if connection.is_err() && !deadline_is_over(deadline) {
        seat.spoil();
        job.tries += 1;
        if job.tries < TRIES_MAX {
            return Err((job, wish));
        }
    }
    let beginning = shared.beginning();
    let call = invoke::call(core, &job, &began);
    let start = settle::start_line(&job);
    if alone {
        shown.output.begin(&start, job.invocation.log_tail)
    } else {
        shown.output.begin_among(&start, job.invocation.log_tail)
    }
    let (_, cpu_milli) = seat.pool().predicted();
    core.fleet.call_begins(cpu_milli);
    let answer = match connection {
        Ok(connection) => {
            let log_stream = shown.output.stream_name();
            let exchange = exchange::run(&shown.web, connection, &call, wish, log_stream);
            tokio::select! {
                biased;
                answer = exchange => answer,
                () = shown.gone.cancelled() => Answer::Exited,
                () = sleep_until(deadline) => Answer::Fault { fault: Fault::timed_out(timeout_ms), sound: !alone },
            }
        }
        Err(_) if deadline_is_over(deadline) => Answer::Fault { fault: Fault::timed_out(timeout_ms), sound: !alone },
        Err(error) => Answer::Fault { fault: Fault::web_answer(&error.to_string()), sound: false },
    };
    core.fleet.call_ends(cpu_milli);
    shown.card.served.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let answer = told(&seat, answer).await;
    Ok(Ok(settled(core, &job, seat, Measured { answer, began, started_at_ms, beginning }).await))
}

fn deadline_is_over(deadline: Instant) -> bool {
    Instant::now() >= deadline
}

/// An answer with its reason: a connection that broke may be the end of the server.
async fn told(seat: &Seat, answer: Answer) -> Answer {
    let shown = &seat.shared().shown;
    let breaks = matches!(&answer, Answer::Fault { fault, .. } if fault.is_of_web_answer());
    if matches!(answer, Answer::Exited) || (breaks && timeout(END_GRACE, shown.gone.cancelled()).await.is_ok()) {
        return Answer::Fault { fault: Fault::exited(&exit_of(&*shown.control).await), sound: false };
    }
    answer
}

struct Measured {
    answer: Answer,
    began: Began,
    started_at_ms: u64,
    beginning: Option<Beginning>,
}

async fn settled(core: &Arc<Core>, job: &Job, mut seat: Seat, measured: Measured) -> Outcome {
    let Measured { answer, began, started_at_ms, beginning } = measured;
    let shared = seat.shared().clone();
    let output = &shared.shown.output;
    let among = shared.shown.web.web().concurrency > 1;
    if matches!(answer, Answer::Fault { sound: false, .. }) {
        // So that it writes no more.
        shared.shown.control.kill();
        seat.spoil();
    }
    let now_us = core.clock.monotonic_us();
    let duration_us = now_us.saturating_sub(began.us);
    let (cpu, usage) = shared.usage();
    let cpu_us = micros(cpu).saturating_sub(beginning.map_or(0, Beginning::us));
    seat.pool().learn(core, now_us, duration_us, duration_us, cpu_us, beginning.is_some());
    let ended = Ended { started_at_ms, duration_us, beginning, cpu, usage, among, detail: None };
    let outcome = settle::settle(core, job, output, answer, ended);
    drop(seat);
    output.flush().await;
    outcome
}

/// Asks a server to end, and ends it when it takes too long. What drops an environment does not wait for that.
pub(crate) fn stop(control: Arc<dyn Control>) {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return control.kill() };
    runtime.spawn(async move {
        control.thaw();
        control.terminate();
        if timeout(STOP_GRACE, control.wait()).await.is_err() {
            control.kill();
        }
    });
}
