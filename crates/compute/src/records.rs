//! The platform's own lines in a function's log: as text, or as JSON records where the function asks for them.
//!
//! Which records there are and at which level is Lambda's table of system logs. Text has every line; JSON has those of the
//! function's level and above. Pure.

use model::{FunctionVersion, RequestId, SystemLevel};
use serde_json::{Value, json};

use crate::extensions::Standing;
use crate::report::{self, Beginning, Detail, Phase, Report, Status};

/// One line of the platform's.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Line<'a> {
    /// An environment begins by an init.
    InitStart(MadeFrom<'a>),
    /// An environment begins from a snapshot.
    RestoreStart(MadeFrom<'a>),
    /// The guest's part of an init is over. No text.
    InitRuntimeDone(Init<'a>),
    /// What an init came to. No text of one that ended well, unless it was a snapshot's.
    InitReport(Init<'a>),
    /// The guest's part of the way out of a snapshot is over. No text.
    RestoreRuntimeDone(Status<'a>),
    /// The way out of a snapshot, in microseconds.
    RestoreReport(u64, Status<'a>),
    /// An invocation begins.
    Start {
        /// Which.
        request_id: &'a RequestId,
        /// Of what.
        version: &'a FunctionVersion,
        /// The trace header, if the call carried one. Only subscribers are told.
        trace_id: Option<&'a str>,
    },
    /// The runtime has ended an invocation. No text.
    RuntimeDone(&'a Report<'a>),
    /// An invocation has ended. Text only.
    End(&'a Report<'a>),
    /// How an extension stands at the end of an init.
    Extension(&'a Standing),
    /// An extension has subscribed: the API, its name, the streams.
    Subscribed(&'a str, &'a str, &'a [&'a str]),
    /// What an invocation came to.
    Report(&'a Report<'a>),
    /// Words for people, the same in both formats.
    Words(&'a str),
}

/// What an environment is made from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MadeFrom<'a> {
    /// The function.
    pub(crate) version: &'a FunctionVersion,
    /// The interpreter that runs it.
    pub(crate) interpreter: Option<(u32, u32, u32)>,
    /// `on-demand` and the like.
    pub(crate) initialization: &'static str,
    /// When it is made.
    pub(crate) phase: Phase,
}

/// An init that has ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Init<'a> {
    /// How long it took.
    pub(crate) us: u64,
    /// `on-demand` and the like.
    pub(crate) initialization: &'static str,
    /// When it ran.
    pub(crate) phase: Phase,
    /// How it ended.
    pub(crate) status: Status<'a>,
    /// Whether it was the one that a snapshot is taken of.
    pub(crate) of_snapshot: bool,
}

impl Line<'_> {
    /// The line as text, if text has it.
    pub(crate) fn text(&self) -> Option<String> {
        Some(match *self {
            Self::InitStart(of) => {
                report::init_start_line(&of.version.runtime, of.interpreter, &of.version.function.region)
            }
            Self::RestoreStart(of) => {
                report::restore_start_line(&of.version.runtime, of.interpreter, &of.version.function.region)
            }
            Self::InitRuntimeDone(_) | Self::RestoreRuntimeDone(_) | Self::RuntimeDone(_) => return None,
            Self::InitReport(init) if init.status == Status::Fine && !init.of_snapshot => return None,
            Self::InitReport(init) => report::init_report_line(init.us, init.phase, init.status),
            Self::RestoreReport(us, status) => report::restore_report_line(us, status),
            Self::Start { request_id, version, .. } => report::start_line(request_id, &version.version),
            Self::End(report) => report::end_line(report.request_id),
            Self::Extension(standing) => extension_line(standing),
            Self::Subscribed(api, name, streams) => subscribed_line(api, name, streams),
            Self::Report(report) => report::report_line(report),
            Self::Words(words) => words.to_owned(),
        })
    }

    /// The line as a record of this time; nothing if it is below the level.
    pub(crate) fn record(&self, now_ms: u64, least: SystemLevel) -> Option<String> {
        if let Self::Words(words) = self {
            return Some((*words).to_owned());
        }
        if let Self::End(_) = self {
            return None;
        }
        let (kind, level) = self.kind();
        let time = report::iso_ms(now_ms);
        (level >= least)
            .then(|| json!({"time": time, "type": format!("platform.{kind}"), "record": self.content()}).to_string())
    }

    /// What subscribers are told of it: the kind of record, and the record.
    pub(crate) fn fact(&self) -> Option<(&'static str, Value)> {
        let (kind, _) = self.kind();
        let mut record = self.content();
        match *self {
            Self::Words(words) => return Some(("fault", json!(words))),
            // Whoever subscribes another one does so.
            Self::Subscribed(..) => return None,
            Self::Start { trace_id, .. } => put_tracing(&mut record, trace_id),
            Self::RuntimeDone(report) => {
                put_runtime(&mut record, report.detail.as_ref());
                put_tracing(&mut record, report.trace_id);
            }
            Self::Report(report) => {
                if let Some(detail) = report.detail.filter(|detail| detail.extensions_us > 0) {
                    let start_ms = detail.start_ms + detail.runtime_us / 1_000;
                    record["spans"] = json!([span("extensionOverhead", start_ms, detail.extensions_us)]);
                }
                put_tracing(&mut record, report.trace_id);
            }
            _ => {}
        }
        Some((kind, record))
    }

    /// The kind of record and its level. Source: the developer guide's table of system log events.
    fn kind(&self) -> (&'static str, SystemLevel) {
        use SystemLevel::{Debug, Info, Warn};
        match *self {
            Self::InitStart(_) => ("initStart", Info),
            Self::RestoreStart(_) => ("restoreStart", Info),
            Self::InitRuntimeDone(init) => ("initRuntimeDone", level(init.status, Debug)),
            Self::InitReport(init) => {
                ("initReport", level(init.status, if init.initialization == ON_DEMAND { Debug } else { Info }))
            }
            Self::RestoreRuntimeDone(status) => ("restoreRuntimeDone", level(status, Debug)),
            Self::RestoreReport(_, status) => ("restoreReport", level(status, Info)),
            Self::Start { .. } => ("start", Info),
            Self::RuntimeDone(report) => ("runtimeDone", level(report.status, Debug)),
            Self::End(_) => ("end", Info),
            Self::Extension(standing) => ("extension", if standing.error_type.is_some() { Warn } else { Info }),
            Self::Subscribed("LOGS", ..) => ("logsSubscription", Info),
            Self::Subscribed(..) => ("telemetrySubscription", Info),
            Self::Report(report) => ("report", level(report.status, Info)),
            Self::Words(_) => ("words", Warn),
        }
    }

    fn content(&self) -> Value {
        match *self {
            Self::InitStart(of) => origin(of, name(of.phase)),
            Self::RestoreStart(of) => origin(of, "restore"),
            Self::InitRuntimeDone(init) => ended(start_of(&init), init.status),
            Self::InitReport(init) => {
                let mut record = ended(start_of(&init), init.status);
                record["metrics"] = json!({"durationMs": millis(init.us)});
                record
            }
            Self::RestoreRuntimeDone(status) => ended(json!({}), status),
            Self::RestoreReport(us, status) => {
                let mut record = ended(json!({}), status);
                record["metrics"] = json!({"durationMs": millis(us)});
                record
            }
            Self::Start { request_id, version, .. } => {
                let mut record = json!({
                    "requestId": request_id.0,
                    "functionArn": version.function.arn(),
                    "version": version.version,
                });
                if let Some(tenant) = &version.tenant {
                    record["tenantId"] = json!(tenant);
                }
                record
            }
            Self::RuntimeDone(report) => {
                let mut record = ended(json!({"requestId": report.request_id.0}), report.status);
                record["metrics"] = json!({"durationMs": millis(report.duration_us)});
                record
            }
            Self::End(report) => json!({"requestId": report.request_id.0}),
            Self::Extension(standing) => {
                let mut record = json!({"name": standing.name, "state": standing.state, "events": standing.events});
                if let Some(error_type) = &standing.error_type {
                    record["errorType"] = json!(error_type);
                }
                record
            }
            Self::Subscribed(_, name, streams) => json!({"name": name, "state": "Subscribed", "types": streams}),
            Self::Report(report) => whole(report),
            Self::Words(words) => json!(words),
        }
    }
}

/// How an environment begins that was started for a call.
pub(crate) const ON_DEMAND: &str = "on-demand";

/// `EXTENSION\tName: …\tState: …\tEvents: […]`
fn extension_line(standing: &Standing) -> String {
    let Standing { name, state, events, error_type } = standing;
    let error_type = error_type.as_ref().map(|error_type| format!("\tError Type: {error_type}")).unwrap_or_default();
    format!("EXTENSION\tName: {name}\tState: {state}\tEvents: [{}]{error_type}", events.join(", "))
}

/// `TELEMETRY\tName: …\tState: Subscribed\tTypes: […]`, or `LOGS`.
fn subscribed_line(api: &str, name: &str, streams: &[&str]) -> String {
    let capital = |stream: &&str| {
        let (first, rest) = stream.split_at(1);
        first.to_uppercase() + rest
    };
    let streams: Vec<String> = streams.iter().map(capital).collect();
    format!("{api}\tName: {name}\tState: Subscribed\tTypes: [{}]", streams.join(", "))
}

fn put_tracing(record: &mut Value, trace_id: Option<&str>) {
    if let Some(trace_id) = trace_id {
        record["tracing"] = json!({"type": "X-Amzn-Trace-Id", "value": trace_id});
    }
}

/// What subscribers are told beside the status of how a runtime was done. One that gave no answer has no spans.
fn put_runtime(record: &mut Value, detail: Option<&Detail>) {
    let Some(detail) = detail else {
        record["metrics"]["producedBytes"] = json!(0);
        record["spans"] = json!([]);
        return;
    };
    record["metrics"] = json!({"durationMs": millis(detail.runtime_us), "producedBytes": detail.produced_bytes});
    let answered_ms = detail.start_ms + detail.latency_us / 1_000;
    let overhead_us = detail.runtime_us.saturating_sub(detail.latency_us);
    record["spans"] = json!([
        span("responseLatency", detail.start_ms, detail.latency_us),
        span("responseDuration", answered_ms, 0),
        span("runtimeOverhead", answered_ms, overhead_us),
    ]);
}

fn span(name: &str, start_ms: u64, us: u64) -> Value {
    json!({"name": name, "start": report::iso_ms(start_ms), "durationMs": millis(us)})
}

/// What ends badly is a warning.
fn level(status: Status<'_>, fine: SystemLevel) -> SystemLevel {
    if status == Status::Fine { fine } else { SystemLevel::Warn }
}

fn name(phase: Phase) -> &'static str {
    match phase {
        Phase::Init => "init",
        Phase::Invoke => "invoke",
    }
}

fn origin(of: MadeFrom<'_>, phase: &str) -> Value {
    let function = &of.version.function;
    let (version, arn) = report::runtime_version(&of.version.runtime, of.interpreter, &function.region);
    json!({
        "initializationType": of.initialization,
        "phase": phase,
        "runtimeVersion": version,
        "runtimeVersionArn": arn,
        "functionName": function.name.as_str(),
        "functionVersion": of.version.version,
    })
}

fn start_of(init: &Init<'_>) -> Value {
    json!({"initializationType": init.initialization, "phase": name(init.phase)})
}

fn whole(report: &Report<'_>) -> Value {
    let mut metrics = json!({
        "durationMs": millis(report.duration_us),
        "billedDurationMs": report::billed_ms(report.duration_us, report.beginning),
        "memorySizeMB": report.memory_mb,
        "maxMemoryUsedMB": report.memory_peak_bytes.div_ceil(1024 * 1024),
    });
    match report.beginning {
        Some(Beginning::Init { us }) => metrics["initDurationMs"] = json!(millis(us)),
        Some(Beginning::Restore { us, .. }) => metrics["restoreDurationMs"] = json!(millis(us)),
        None => {}
    }
    ended(json!({"requestId": report.request_id.0, "metrics": metrics}), report.status)
}

/// A record with how it ended.
fn ended(mut record: Value, status: Status<'_>) -> Value {
    let (word, kind) = match status {
        Status::Fine => ("success", None),
        Status::Timeout => ("timeout", None),
        Status::Error(kind) | Status::Reported(kind) => ("error", Some(kind)),
    };
    record["status"] = json!(word);
    if let Some(kind) = kind {
        record["errorType"] = json!(kind);
    }
    record
}

/// Microseconds as milliseconds with at most three decimals.
fn millis(us: u64) -> f64 {
    us as f64 / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::fixtures::{START_MS, version};

    fn report<'a>(request_id: &'a RequestId, status: Status<'a>) -> Report<'a> {
        Report {
            request_id,
            duration_us: 201_670,
            beginning: Some(Beginning::Init { us: 480_250 }),
            memory_mb: 128,
            memory_peak_bytes: 80 * 1024 * 1024 + 1,
            status,
            trace_id: None,
            detail: None,
        }
    }

    fn init(status: Status<'_>) -> Init<'_> {
        Init { us: 1_500, initialization: ON_DEMAND, phase: Phase::Init, status, of_snapshot: false }
    }

    fn read(line: Line<'_>, least: SystemLevel) -> Option<Value> {
        line.record(START_MS, least).map(|text| serde_json::from_str(&text).unwrap())
    }

    #[test]
    fn records_say_what_lines_do() {
        let id = RequestId("id".into());
        let (fine, version) = (report(&id, Status::Fine), version("f"));
        assert_eq!(
            Line::Start { request_id: &id, version: &version, trace_id: None }
                .record(START_MS, SystemLevel::Info)
                .unwrap(),
            "{\"time\":\"2023-11-14T22:13:20.000Z\",\"type\":\"platform.start\",\"record\":{\"requestId\":\"id\",\
             \"functionArn\":\"arn:aws:lambda:us-east-1:000000000000:function:f\",\"version\":\"$LATEST\"}}"
        );
        let found = read(Line::Report(&fine), SystemLevel::Info).unwrap();
        assert_eq!(found["type"], "platform.report");
        assert_eq!(
            found["record"].to_string(),
            "{\"requestId\":\"id\",\"metrics\":{\"durationMs\":201.67,\"billedDurationMs\":682,\"memorySizeMB\":128,\
             \"maxMemoryUsedMB\":81,\"initDurationMs\":480.25},\"status\":\"success\"}"
        );
        let of = MadeFrom {
            version: &version,
            interpreter: Some((22, 3, 1)),
            initialization: ON_DEMAND,
            phase: Phase::Init,
        };
        let found = read(Line::InitStart(of), SystemLevel::Info).unwrap();
        assert_eq!(found["record"]["runtimeVersion"], "nodejs:22.3.1");
        assert_eq!(found["record"]["functionName"], "f");
        let text = Line::InitStart(of).text().unwrap();
        assert!(text.starts_with("INIT_START Runtime Version: nodejs:22.3.1\t"), "{text}");
        assert_eq!(read(Line::RestoreStart(of), SystemLevel::Info).unwrap()["record"]["phase"], "restore");
    }

    #[test]
    fn subscribers_are_told_more() {
        let id = RequestId("id".into());
        let detail = Detail {
            start_ms: START_MS,
            runtime_us: 1_500,
            latency_us: 1_000,
            produced_bytes: 7,
            extensions_us: 2_000,
        };
        let whole = Report { detail: Some(detail), trace_id: Some("Root=1"), ..report(&id, Status::Reported("E")) };
        let (kind, record) = Line::RuntimeDone(&whole).fact().unwrap();
        assert_eq!((kind, &record["status"], &record["errorType"]), ("runtimeDone", &json!("error"), &json!("E")));
        assert_eq!(record["metrics"], json!({"durationMs": 1.5, "producedBytes": 7}));
        assert_eq!(
            record["spans"][2],
            json!({"name": "runtimeOverhead", "start": "2023-11-14T22:13:20.001Z", "durationMs": 0.5})
        );
        assert_eq!(record["tracing"], json!({"type": "X-Amzn-Trace-Id", "value": "Root=1"}));
        let (_, record) = Line::Report(&whole).fact().unwrap();
        assert_eq!(record["spans"][0]["name"], "extensionOverhead");
        assert_eq!((&record["status"], &record["errorType"]), (&json!("error"), &json!("E")));
        let late = Report { trace_id: Some("Root=1"), ..report(&id, Status::Timeout) };
        let (_, record) = Line::RuntimeDone(&late).fact().unwrap();
        assert_eq!((&record["status"], &record["spans"]), (&json!("timeout"), &json!([])));
        assert_eq!(record["metrics"], json!({"durationMs": 201.67, "producedBytes": 0}));
        assert_eq!(record["tracing"]["value"], "Root=1");
        assert_eq!(Line::Report(&late).fact().unwrap().1["tracing"]["value"], "Root=1");
        assert_eq!(Line::End(&whole).fact().unwrap(), ("end", json!({"requestId": "id"})));
        assert_eq!(Line::End(&whole).record(START_MS, SystemLevel::Debug), None);
        assert_eq!(Line::Words("x").fact().unwrap(), ("fault", json!("x")));
        let standing = Standing {
            name: "a".into(),
            state: "LaunchError",
            events: vec!["INVOKE", "SHUTDOWN"],
            error_type: Some("PermissionDenied".into()),
        };
        assert_eq!(
            Line::Extension(&standing).text().unwrap(),
            "EXTENSION\tName: a\tState: LaunchError\tEvents: [INVOKE, SHUTDOWN]\tError Type: PermissionDenied"
        );
        assert_eq!(Line::Extension(&standing).fact().unwrap().1["errorType"], "PermissionDenied");
        let subscribed = Line::Subscribed("TELEMETRY", "a", &["platform", "function"]);
        assert_eq!(subscribed.text().unwrap(), "TELEMETRY\tName: a\tState: Subscribed\tTypes: [Platform, Function]");
    }

    #[test]
    fn a_level_leaves_out_what_is_below_it() {
        let id = RequestId("id".into());
        let (fine, late, version) = (report(&id, Status::Fine), report(&id, Status::Timeout), version("f"));
        let reported = report(&id, Status::Reported("E"));
        let provisioned = Init { initialization: "provisioned-concurrency", ..init(Status::Fine) };
        for (line, level) in [
            (Line::RuntimeDone(&fine), SystemLevel::Debug),
            (Line::RuntimeDone(&late), SystemLevel::Warn),
            (Line::RuntimeDone(&reported), SystemLevel::Warn),
            (Line::Report(&reported), SystemLevel::Warn),
            (Line::Report(&fine), SystemLevel::Info),
            (Line::Report(&late), SystemLevel::Warn),
            (Line::Start { request_id: &id, version: &version, trace_id: None }, SystemLevel::Info),
            (Line::InitRuntimeDone(init(Status::Fine)), SystemLevel::Debug),
            (Line::InitReport(init(Status::Fine)), SystemLevel::Debug),
            (Line::InitReport(provisioned), SystemLevel::Info),
            (Line::InitReport(init(Status::Error("X"))), SystemLevel::Warn),
            (Line::RestoreRuntimeDone(Status::Fine), SystemLevel::Debug),
            (Line::RestoreReport(1, Status::Fine), SystemLevel::Info),
            (Line::Words("x"), SystemLevel::Warn),
        ] {
            for least in [SystemLevel::Debug, SystemLevel::Info, SystemLevel::Warn] {
                assert_eq!(line.record(START_MS, least).is_some(), least <= level, "{line:?} {least:?}");
            }
        }
        let failed = read(Line::RestoreReport(1_500, Status::Error("X")), SystemLevel::Info).unwrap();
        assert_eq!(failed["record"], json!({"metrics": {"durationMs": 1.5}, "status": "error", "errorType": "X"}));
    }

    #[test]
    fn text_tells_of_inits_that_failed_or_were_for_a_snapshot() {
        assert_eq!(Line::InitRuntimeDone(init(Status::Fine)).text(), None);
        assert_eq!(Line::InitReport(init(Status::Fine)).text(), None);
        assert_eq!(
            Line::InitReport(init(Status::Timeout)).text().unwrap(),
            "INIT_REPORT Init Duration: 1.50 ms\tPhase: init\tStatus: timeout"
        );
        let of_snapshot = Init { of_snapshot: true, ..init(Status::Fine) };
        assert!(Line::InitReport(of_snapshot).text().unwrap().starts_with("INIT_REPORT "));
        assert_eq!(
            Line::InitReport(init(Status::Timeout)).record(START_MS, SystemLevel::Info).unwrap(),
            "{\"time\":\"2023-11-14T22:13:20.000Z\",\"type\":\"platform.initReport\",\"record\":\
             {\"initializationType\":\"on-demand\",\"phase\":\"init\",\"status\":\"timeout\",\
             \"metrics\":{\"durationMs\":1.5}}}"
        );
    }
}
