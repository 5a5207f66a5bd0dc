//! The end of an invocation: what the caller gets, what the log says, what the ledger counts.
//!
//! Invariants
//!   1. Exactly one usage record for every call that comes here, written before the answer exists for the caller, but where
//!      the runtime or extensions go on after it (`after`).
//!   2. In the log: the guest's lines, then the platform's about a fault, then END, then REPORT.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use model::{Ending, FunctionError, Outcome, UsageRecord};
use sandbox::Usage;

use crate::engine::Core;
use crate::environment::Answer;
use crate::faults::{Failure, Fault};
use crate::invoke::Job;
use crate::output::Output;
use crate::records::Line;
use crate::report::{self, Beginning, Detail, Phase, Report, Status};
use crate::start::{self, FailedInit, InitFailure, MIB, Purpose};

/// Measured facts of an ended call.
pub(crate) struct Ended {
    pub(crate) started_at_ms: u64,
    pub(crate) duration_us: u64,
    /// Set on a cold start, where something came before the call.
    pub(crate) beginning: Option<Beginning>,
    pub(crate) cpu: Duration,
    pub(crate) usage: Usage,
    /// Whether other calls may run in the environment.
    pub(crate) among: bool,
    /// What extensions are told of it. That the runtime was done is told already then.
    pub(crate) detail: Option<Detail>,
}

/// What everybody is told about an end.
#[derive(Clone)]
pub(crate) struct Verdict {
    payload: Bytes,
    content_type: Option<String>,
    error_type: Option<String>,
    /// What records call an error of the function's own.
    logged_type: Option<String>,
    /// `Error Type` of the REPORT line, for what the platform saw.
    report_type: Option<String>,
    ending: Ending,
    fault_line: Option<String>,
}

/// The line that a call begins with.
pub(crate) fn start_line(job: &Job) -> Line<'_> {
    let trace_id = job.invocation.trace_id.as_deref();
    Line::Start { request_id: &job.invocation.request_id, version: &job.version, trace_id }
}

impl Verdict {
    /// What the caller gets.
    pub(crate) fn outcome(self, job: &Job, log_tail: Option<Bytes>) -> Outcome {
        Outcome {
            payload: self.payload,
            error: self.error_type.map(|error_type| FunctionError { kind: "Unhandled", error_type }),
            content_type: self.content_type,
            executed_version: job.version.version.clone(),
            log_tail,
        }
    }

    /// How the platform says that the call went.
    pub(crate) fn status(&self) -> Status<'_> {
        match (&self.report_type, &self.logged_type, self.ending) {
            (_, _, Ending::Timeout) => Status::Timeout,
            (Some(kind), _, _) => Status::Error(kind),
            (None, Some(kind), _) => Status::Reported(kind),
            (None, None, _) => Status::Fine,
        }
    }

    /// After its answer was given, a call has come to this.
    pub(crate) fn comes_to(&mut self, core: &Core, job: &Job, fault: &Fault) {
        let Verdict { report_type, ending, fault_line, .. } = verdict_of_fault(core, job, fault);
        (self.report_type, self.ending, self.fault_line) = (report_type, ending, fault_line);
    }
}

/// Settles a call. The log holds all lines afterwards but is not flushed.
pub(crate) fn settle(core: &Core, job: &Job, output: &Output, answer: Answer, ended: Ended) -> Outcome {
    let verdict = verdict(core, job, answer);
    let tail = close(core, job, output, &verdict, ended);
    verdict.outcome(job, tail)
}

/// Ends the log of a call and meters it. Answers the log's tail if that is wanted.
pub(crate) fn close(core: &Core, job: &Job, output: &Output, verdict: &Verdict, mut ended: Ended) -> Option<Bytes> {
    if verdict.ending == Ending::Timeout {
        // Lambda reports the limit itself, not what it took to notice.
        ended.duration_us = job.version.timeout_ms * 1_000;
    }
    let request_id = &job.invocation.request_id;
    // The kernel counts what it has refused, too.
    let memory_peak_bytes = ended.usage.memory_peak_bytes.min(u64::from(job.version.memory_mb) * MIB);
    let report = Report {
        request_id,
        duration_us: ended.duration_us,
        beginning: ended.beginning,
        memory_mb: job.version.memory_mb,
        memory_peak_bytes,
        status: verdict.status(),
        trace_id: job.invocation.trace_id.as_deref(),
        detail: ended.detail,
    };
    let fault = verdict.fault_line.as_deref().map(Line::Words);
    let done = ended.detail.is_none().then_some(Line::RuntimeDone(&report));
    let lines = fault.into_iter().chain(done).chain([Line::End(&report), Line::Report(&report)]);
    let tail = if ended.among { output.end_among(lines, job.invocation.log_tail) } else { output.end(lines) };
    let record = UsageRecord {
        function: job.version.function.clone(),
        version: job.version.version.clone(),
        request_id: request_id.clone(),
        trigger: job.invocation.trigger,
        started_at_ms: ended.started_at_ms,
        duration_us: ended.duration_us,
        init_us: ended.beginning.map(Beginning::us),
        billed_ms: report::billed_ms(ended.duration_us, ended.beginning),
        memory_mb: job.version.memory_mb,
        memory_peak_bytes,
        cpu_us: micros(ended.cpu),
        ending: verdict.ending,
    };
    if let Err(error) = core.meter.record(record) {
        // The function has run; to refuse its answer now would make the caller run it again.
        tracing::error!(%error, %request_id, "an invocation could not be metered");
    }
    tail.filter(|_| job.invocation.log_tail)
}

/// What an answer means to everybody.
pub(crate) fn verdict(core: &Core, job: &Job, answer: Answer) -> Verdict {
    match answer {
        Answer::Response { payload, content_type, .. } => Verdict {
            payload,
            content_type,
            error_type: None,
            logged_type: None,
            report_type: None,
            ending: Ending::Success,
            fault_line: None,
        },
        Answer::Streamed => Verdict {
            payload: Bytes::new(),
            content_type: None,
            error_type: None,
            logged_type: None,
            report_type: None,
            ending: Ending::Success,
            fault_line: None,
        },
        Answer::Error(failure) => verdict_of_error(failure),
        // The caller hears the function's own words, log and ledger how its process ended.
        Answer::Died { failure, fault } => {
            let mut verdict = verdict_of_error(failure);
            verdict.comes_to(core, job, &fault);
            verdict
        }
        Answer::Fault { fault, .. } => verdict_of_fault(core, job, &fault),
        Answer::Exited | Answer::LastError(_) | Answer::NotDelivered => {
            unreachable!("how these ended is found out before they are settled")
        }
    }
}

fn verdict_of_error(failure: Failure) -> Verdict {
    Verdict {
        error_type: Some(failure.error_type()),
        logged_type: Some(failure.logged_type()),
        payload: failure.document,
        content_type: None,
        report_type: None,
        ending: Ending::FunctionError,
        fault_line: None,
    }
}

fn verdict_of_fault(core: &Core, job: &Job, fault: &Fault) -> Verdict {
    let request_id = &job.invocation.request_id;
    Verdict {
        payload: fault.document(request_id),
        content_type: None,
        error_type: Some(fault.error_type.clone()),
        logged_type: None,
        report_type: Some(fault.report_type.clone()),
        ending: fault.ending,
        fault_line: Some(fault.log_line(core.clock.now_ms(), request_id, job.version.timeout_ms)),
    }
}

/// Settles a call whose environment could not be initialised: the init's failure is the answer, its time the duration.
pub(crate) async fn failed_init(core: &Core, job: &Job, init: FailedInit, phase: Phase) -> Outcome {
    init.report(phase);
    let FailedInit { output, failure, init_us, usage, .. } = init;
    let answer = match failure {
        InitFailure::Told(failure) => Answer::Error(failure),
        InitFailure::Fault(fault) => Answer::Fault { fault, sound: false },
    };
    output.begin(&start_line(job), job.invocation.log_tail);
    let started_at_ms = core.clock.now_ms().saturating_sub(init_us / 1_000);
    let (cpu, duration_us) = (usage.cpu, init_us);
    let ended = Ended { started_at_ms, duration_us, beginning: None, cpu, usage, among: false, detail: None };
    let mut verdict = verdict(core, job, answer);
    if verdict.report_type.is_none() {
        verdict.report_type.clone_from(&verdict.logged_type);
    }
    let tail = close(core, job, &output, &verdict, ended);
    output.flush().await;
    verdict.outcome(job, tail)
}

/// Settles a call whose repeated init used up its whole time.
pub(crate) async fn cut_again(core: &Core, job: &Job, output: &Arc<Output>) -> Outcome {
    let timeout_ms = job.version.timeout_ms;
    let initialization = start::initialization(&job.version, Purpose::Calls);
    start::report_init(output, timeout_ms * 1_000, initialization, Phase::Invoke, Status::Timeout);
    output.begin(&start_line(job), job.invocation.log_tail);
    let answer = Answer::Fault { fault: Fault::timed_out(timeout_ms), sound: false };
    let ended = Ended {
        started_at_ms: core.clock.now_ms().saturating_sub(timeout_ms),
        duration_us: timeout_ms * 1_000,
        beginning: None,
        cpu: Duration::ZERO,
        usage: Usage::default(),
        among: false,
        detail: None,
    };
    let outcome = settle(core, job, output, answer, ended);
    output.flush().await;
    outcome
}

/// Whole microseconds.
pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
