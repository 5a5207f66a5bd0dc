//! What of a call comes after its answer, where extensions take part: the runtime gets ready again, the extensions finish, and
//! only then the call is settled and its environment takes another.
//!
//! The caller has its answer meanwhile, unless it wants the log's tail with it, whose last line is the report. So a call is
//! metered after its answer here, and only here.

use std::sync::Arc;

use bytes::Bytes;
use model::Outcome;
use tokio::time::{Instant, timeout_at};

use super::{Extensions, Reason};
use crate::engine::Core;
use crate::environment::Answer;
use crate::faults::Fault;
use crate::invoke::Job;
use crate::pool::Lease;
use crate::records::Line;
use crate::report::{Beginning, Detail, Report, Status};
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
    /// The runtime has ended.
    Gone,
    Failed(Fault),
    Late,
}

/// Sees to the rest of a call; what the caller gets.
pub(crate) async fn after_answer(
    core: &Arc<Core>,
    lease: Lease,
    extensions: Arc<Extensions>,
    job: Box<Job>,
    answer: Answer,
    course: Course,
) -> Outcome {
    let latency_us = core.clock.monotonic_us().saturating_sub(course.began_us);
    let (run_us, produced_bytes) = (answer.run_us(), answer.bytes() as u64);
    let verdict = settle::verdict(core, &job, answer);
    let mut outcome = verdict.clone().outcome(&job, None);
    let rest = After { core: core.clone(), lease, extensions, verdict, course, latency_us, produced_bytes, run_us };
    if job.invocation.log_tail {
        outcome.log_tail = rest.settle(job).await;
    } else {
        tokio::spawn(rest.settle(job));
    }
    outcome
}

struct After {
    core: Arc<Core>,
    lease: Lease,
    extensions: Arc<Extensions>,
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
        let mut end = self.runtime().await;
        let runtime_us = self.spent_us();
        let function_error = self.verdict.function_error().map(str::to_owned);
        let mut detail = Detail {
            start_ms: self.course.started_at_ms,
            latency_us: self.latency_us,
            runtime_us,
            produced_bytes: self.produced_bytes,
            extensions_us: 0,
            function_error: function_error.as_deref(),
        };
        output.drain_whole();
        output.line(&Line::RuntimeDone(&self.report(&job, &detail)));
        if matches!(end, Rest::Done) {
            end = self.extensions().await;
        }
        let duration_us = self.spent_us();
        detail.extensions_us = duration_us.saturating_sub(runtime_us);
        self.extensions.drain();
        let reason = self.judge(&job, end);
        let (cpu, usage) = self.lease.environment().usage();
        let before_us = self.course.beginning.map_or(0, Beginning::us);
        let run_us = self.run_us.map_or(duration_us, |run_us| run_us.min(duration_us));
        let (now_us, cpu_us) = (self.core.clock.monotonic_us(), micros(cpu).saturating_sub(before_us));
        self.lease.pool().learn(now_us, duration_us, run_us, cpu_us, self.course.first);
        let Course { started_at_ms, beginning, .. } = self.course;
        let ended = Ended { started_at_ms, duration_us, beginning, cpu, usage, among: false, detail: Some(detail) };
        let tail = settle::close(&self.core, &job, &output, &self.verdict, ended);
        match reason {
            None => self.lease.release(self.course.deadline),
            Some(reason) => {
                self.extensions.end(reason);
                drop(self.lease);
            }
        }
        output.flush().await;
        tail
    }

    async fn runtime(&mut self) -> Rest {
        let extensions = self.extensions.clone();
        let ready = async {
            tokio::select! {
                biased;
                ready = self.lease.environment().runtime_ready() => if ready { Rest::Done } else { Rest::Gone },
                fault = extensions.failed() => Rest::Failed(fault),
            }
        };
        timeout_at(self.course.deadline, ready).await.unwrap_or(Rest::Late)
    }

    async fn extensions(&self) -> Rest {
        let ready = async {
            tokio::select! {
                biased;
                fault = self.extensions.failed() => Rest::Failed(fault),
                () = self.extensions.ready() => Rest::Done,
            }
        };
        timeout_at(self.course.deadline, ready).await.unwrap_or(Rest::Late)
    }

    /// What the log and the ledger say of the end; why the environment ends, if it does.
    fn judge(&mut self, job: &Job, end: Rest) -> Option<Reason> {
        let (fault, reason) = match end {
            Rest::Done => return None,
            Rest::Gone => return Some(Reason::Failure),
            Rest::Failed(fault) => (fault, Reason::Failure),
            Rest::Late => (Fault::timed_out(job.version.timeout_ms), Reason::Timeout),
        };
        self.verdict.comes_to(&self.core, job, &fault);
        Some(reason)
    }

    fn report<'a>(&self, job: &'a Job, detail: &'a Detail<'a>) -> Report<'a> {
        Report {
            request_id: &job.invocation.request_id,
            duration_us: detail.runtime_us,
            beginning: None,
            memory_mb: job.version.memory_mb,
            memory_peak_bytes: 0,
            status: Status::Fine,
            trace_id: job.invocation.trace_id.as_deref(),
            detail: Some(*detail),
        }
    }
}
