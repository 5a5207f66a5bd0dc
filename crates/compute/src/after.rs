//! What of a call comes after its answer: a custom runtime works on until it asks for its next call, extensions finish, and
//! only then the call is settled and its environment takes another.
//!
//! The caller has its answer meanwhile, unless it wants the log's tail with it, whose last line is the report. So a call is
//! metered after its answer here, and only here.
//!
//! Invariants
//!   1. Nothing that comes after an answer changes it. A timeout or an end of the runtime is in the log and in the ledger.
//!   2. What is written until the call is over is in the log before its END line.

use std::sync::Arc;

use bytes::Bytes;
use model::Outcome;
use tokio::time::{Instant, timeout_at};

use crate::engine::Core;
use crate::environment::Answer;
use crate::extensions::{self, Extensions, Reason};
use crate::faults::Fault;
use crate::invoke::Job;
use crate::pool::Lease;
use crate::records::Line;
use crate::report::{Beginning, Detail, Report};
use crate::settle::{self, Ended, Verdict, micros};

/// When a call that was answered began, and what it is bounded by.
pub(crate) struct Course {
    pub(crate) started_at_ms: u64,
    /// When its time began: monotonic microseconds.
    pub(crate) began_us: u64,
    pub(crate) beginning: Option<Beginning>,
    /// Whether it was the first of its environment.
    pub(crate) first: bool,
    pub(crate) deadline: Instant,
}

/// How it went on.
enum Rest {
    Done,
    Failed(Fault),
    Late,
}

/// Sees to the rest of a call; what the caller gets.
pub(crate) async fn after_answer(
    core: &Arc<Core>,
    mut lease: Lease,
    mut job: Box<Job>,
    answer: Answer,
    course: Course,
) -> Outcome {
    let latency_us = core.clock.monotonic_us().saturating_sub(course.began_us);
    let (run_us, produced_bytes) = (answer.run_us(), answer.bytes() as u64);
    let verdict = settle::verdict(core, &job, answer);
    let extensions = lease.environment().extensions().cloned();
    let mut outcome = verdict.clone().outcome(&job, None);
    let rest = After { core: core.clone(), lease, extensions, verdict, course, latency_us, produced_bytes, run_us };
    if job.invocation.log_tail {
        outcome.log_tail = rest.settle(job).await;
    } else {
        job.answered();
        tokio::spawn(rest.settle(job));
    }
    outcome
}

struct After {
    core: Arc<Core>,
    lease: Lease,
    /// Those that take part, if any do.
    extensions: Option<Arc<Extensions>>,
    verdict: Verdict,
    course: Course,
    latency_us: u64,
    produced_bytes: u64,
    run_us: Option<u64>,
}

impl After {
    fn spent_us(&self) -> u64 {
        self.core.clock.monotonic_us().saturating_sub(self.course.began_us)
    }

    /// Waits for the runtime, then for the extensions, and settles the call. Answers the log's tail.
    async fn settle(mut self, job: Box<Job>) -> Option<Bytes> {
        let output = self.lease.environment().output.clone();
        let end = self.runtime().await;
        let runtime_us = self.spent_us();
        let mut reason = self.judge(&job, end);
        let mut detail = self.extensions.is_some().then_some(Detail {
            start_ms: self.course.started_at_ms,
            latency_us: self.latency_us,
            runtime_us,
            produced_bytes: self.produced_bytes,
            extensions_us: 0,
        });
        if let (Some(detail), Some(extensions)) = (&mut detail, self.extensions.clone()) {
            output.drain_whole();
            output.line(&Line::RuntimeDone(&self.report(&job, detail)));
            if reason.is_none() {
                let end = self.finished(&extensions).await;
                reason = self.judge(&job, end);
            }
            detail.extensions_us = self.spent_us().saturating_sub(runtime_us);
            extensions.drain();
        } else if reason.is_some() {
            // Extensions are told of the end first; where there are none nothing is written after it.
            self.lease.environment().kill();
        }
        let duration_us = detail.map_or(runtime_us, |detail| detail.runtime_us + detail.extensions_us);
        let (cpu, usage) = self.lease.environment().usage();
        let before_us = self.course.beginning.map_or(0, Beginning::us);
        let run_us = self.run_us.map_or(duration_us, |run_us| run_us.min(duration_us));
        let (now_us, cpu_us) = (self.core.clock.monotonic_us(), micros(cpu).saturating_sub(before_us));
        self.lease.pool().learn(&self.core, now_us, duration_us, run_us, cpu_us, self.course.first);
        let Course { started_at_ms, beginning, .. } = self.course;
        let ended = Ended { started_at_ms, duration_us, beginning, cpu, usage, among: false, detail };
        let tail = settle::close(&self.core, &job, &output, &self.verdict, ended);
        match (reason, &self.extensions) {
            (None, _) => self.lease.release(self.course.deadline),
            (Some(reason), Some(extensions)) => extensions.end(reason),
            (Some(_), None) => {}
        }
        output.flush().await;
        tail
    }

    /// Waits until the runtime asks for its next call.
    async fn runtime(&mut self) -> Rest {
        let Self { lease, extensions, course, .. } = self;
        let environment = lease.environment();
        let ready = async {
            let ready = tokio::select! {
                biased;
                ready = environment.runtime_ready() => ready,
                fault = extensions::failed(extensions.as_ref()) => return Rest::Failed(fault),
            };
            if ready { Rest::Done } else { Rest::Failed(Fault::exited(&environment.exit().await)) }
        };
        timeout_at(course.deadline, ready).await.unwrap_or(Rest::Late)
    }

    /// Waits until the extensions ask for their next event.
    async fn finished(&self, extensions: &Extensions) -> Rest {
        let ready = async {
            tokio::select! {
                biased;
                fault = extensions.failed() => Rest::Failed(fault),
                () = extensions.ready() => Rest::Done,
            }
        };
        timeout_at(self.course.deadline, ready).await.unwrap_or(Rest::Late)
    }

    /// What the log and the ledger say of the end; why the environment ends, if it does.
    fn judge(&mut self, job: &Job, end: Rest) -> Option<Reason> {
        let (fault, reason) = match end {
            Rest::Done => return None,
            Rest::Failed(fault) => (fault, Reason::Failure),
            Rest::Late => (Fault::timed_out(job.version.timeout_ms), Reason::Timeout),
        };
        self.verdict.comes_to(&self.core, job, &fault);
        Some(reason)
    }

    fn report<'a>(&'a self, job: &'a Job, detail: &Detail) -> Report<'a> {
        Report {
            request_id: &job.invocation.request_id,
            duration_us: detail.runtime_us,
            beginning: None,
            memory_mb: job.version.memory_mb,
            memory_peak_bytes: 0,
            status: self.verdict.status(),
            trace_id: job.invocation.trace_id.as_deref(),
            detail: Some(*detail),
        }
    }
}
