//! The lines that the platform itself writes into a function's log, to the letter of Lambda's text format.
//!
//! Pure: numbers in, text out. Fields are separated by tabs; a REPORT line without a status ends with a tab, as
//! Lambda's does. Lines are given without their final newline.
//!
//! Start reading at `Report`.

use std::fmt::Write as _;

use model::trace::field;
use model::{FunctionVersion, Region, RequestId, Runtime};

/// Room of the shorter lines and of the line's end that the log gives them.
const LINE_BYTES: usize = 80;

/// How an init or an invocation went, as far as a REPORT line tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status<'a> {
    /// Nothing is said.
    Fine,
    /// The function has reported an error of this type. A REPORT line says nothing of it, records do.
    Reported(&'a str),
    /// The time was over.
    Timeout,
    /// The platform saw an error of this type.
    Error(&'a str),
}

/// In which phase an init ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Before any invocation, under the cap of ten seconds.
    Init,
    /// Within an invocation, under the function's timeout.
    Invoke,
}

/// How an environment began before its first call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beginning {
    /// By an init phase.
    Init {
        /// Its length.
        us: u64,
    },
    /// From a snapshot.
    Restore {
        /// From its wish to its being ready.
        us: u64,
        /// Of that, what the function used for it: the way back into its process, and its hooks.
        own_us: u64,
    },
}

impl Beginning {
    /// How long the first call waited for it.
    pub(crate) fn us(self) -> u64 {
        match self {
            Self::Init { us } | Self::Restore { us, .. } => us,
        }
    }

    /// What of it is charged. Of a restore that is whole milliseconds.
    fn charged_us(self) -> u64 {
        match self {
            Self::Init { us } => us,
            Self::Restore { own_us, .. } => own_us.div_ceil(1_000) * 1_000,
        }
    }
}

/// What a REPORT line says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Report<'a> {
    /// The invocation.
    pub(crate) request_id: &'a RequestId,
    /// From event to answer.
    pub(crate) duration_us: u64,
    /// What came before, on a cold start.
    pub(crate) beginning: Option<Beginning>,
    /// Configured memory, MiB.
    pub(crate) memory_mb: u32,
    /// Highest memory seen.
    pub(crate) memory_peak_bytes: u64,
    /// How it went.
    pub(crate) status: Status<'a>,
    /// The trace header, if the call carried one.
    pub(crate) trace_id: Option<&'a str>,
    /// What only those hear that subscribe to it.
    pub(crate) detail: Option<Detail>,
}

/// What subscribers of an environment's telemetry are told of a call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Detail {
    /// When it began.
    pub(crate) start_ms: u64,
    /// Until the runtime had answered.
    pub(crate) latency_us: u64,
    /// Until the runtime asked for the next call.
    pub(crate) runtime_us: u64,
    /// Bytes of the answer.
    pub(crate) produced_bytes: u64,
    /// From then on, until the extensions were done.
    pub(crate) extensions_us: u64,
}

/// `INIT_START Runtime Version: …\tRuntime Version ARN: …`, the first line of an environment. The version is that of the
/// interpreter that runs the function (major, minor, patch), so that a substitution shows; the ARN holds its name in place
/// of AWS's digest.
pub(crate) fn init_start_line(runtime: &Runtime, interpreter: Option<(u32, u32, u32)>, region: &Region) -> String {
    let (version, arn) = runtime_version(runtime, interpreter, region);
    format!("INIT_START Runtime Version: {version}\tRuntime Version ARN: {arn}")
}

/// `RESTORE_START Runtime Version: …\tRuntime Version ARN: …`, the first line of an environment that begins from a snapshot.
pub(crate) fn restore_start_line(runtime: &Runtime, interpreter: Option<(u32, u32, u32)>, region: &Region) -> String {
    let (version, arn) = runtime_version(runtime, interpreter, region);
    format!("RESTORE_START Runtime Version: {version}\tRuntime Version ARN: {arn}")
}

/// The name of a runtime version and its ARN.
pub(crate) fn runtime_version(
    runtime: &Runtime,
    interpreter: Option<(u32, u32, u32)>,
    region: &Region,
) -> (String, String) {
    let name = runtime.as_str();
    let kind = name.split(|c: char| c.is_ascii_digit()).next().unwrap_or(name);
    let version = match interpreter {
        Some((major, minor, patch)) => format!("{kind}:{major}.{minor}.{patch}"),
        None => name.replacen('.', ":", 1),
    };
    let digest: String = version.bytes().map(|byte| format!("{byte:02x}")).collect();
    let arn = format!("arn:aws:lambda:{region}::runtime:{digest:0<64}");
    (version, arn)
}

/// `START RequestId: … Version: …`
pub(crate) fn start_line(request_id: &RequestId, version: &str) -> String {
    let mut line = String::with_capacity(LINE_BYTES);
    let _ = write!(line, "START RequestId: {request_id} Version: {version}");
    line
}

/// `END RequestId: …`
pub(crate) fn end_line(request_id: &RequestId) -> String {
    let mut line = String::with_capacity(LINE_BYTES);
    let _ = write!(line, "END RequestId: {request_id}");
    line
}

/// The REPORT line.
pub(crate) fn report_line(report: &Report<'_>) -> String {
    let Report { request_id, duration_us, beginning, memory_mb, memory_peak_bytes, status, trace_id, .. } = report;
    let billed = billed_ms(*duration_us, *beginning);
    let peak_mb = memory_peak_bytes.div_ceil(1024 * 1024);
    let mut line = String::with_capacity(224);
    let _ = write!(line, "REPORT RequestId: {request_id}\tDuration: {} ms\t", Millis(*duration_us));
    let _ = write!(line, "Billed Duration: {billed} ms\tMemory Size: {memory_mb} MB\tMax Memory Used: {peak_mb} MB\t");
    match beginning {
        Some(Beginning::Init { us }) => {
            let _ = write!(line, "Init Duration: {} ms\t", Millis(*us));
        }
        Some(restore @ Beginning::Restore { us, .. }) => {
            let _ = write!(line, "Restore Duration: {} ms\t", Millis(*us));
            let _ = write!(line, "Billed Restore Duration: {} ms\t", restore.charged_us() / 1_000);
        }
        None => {}
    }
    write_status(&mut line, *status);
    // Only a traced call has segments to point to.
    let trace = trace_id.filter(|trace| field(trace, "Sampled") == Some("1"));
    if let Some(root) = trace.and_then(|trace| field(trace, "Root")) {
        let _ = write!(line, "\nXRAY TraceId: {root}\t");
        if let Some(parent) = trace.and_then(|trace| field(trace, "Parent")) {
            let _ = write!(line, "SegmentId: {parent}\t");
        }
        let _ = write!(line, "Sampled: true\t");
    }
    line
}

/// The INIT_REPORT line of an init that did not end well.
pub(crate) fn init_report_line(init_us: u64, phase: Phase, status: Status<'_>) -> String {
    let phase = match phase {
        Phase::Init => "init",
        Phase::Invoke => "invoke",
    };
    let mut line = format!("INIT_REPORT Init Duration: {} ms\tPhase: {phase}\t", Millis(init_us));
    write_status(&mut line, status);
    line
}

/// The RESTORE_REPORT line.
pub(crate) fn restore_report_line(restore_us: u64, status: Status<'_>) -> String {
    let mut line = format!("RESTORE_REPORT Restore Duration: {} ms\t", Millis(restore_us));
    write_status(&mut line, status);
    line
}

/// The log line of a timeout; Lambda adds an empty line to it.
pub(crate) fn timeout_line(now_ms: u64, request_id: &RequestId, timeout_ms: u64) -> String {
    format!("{} {request_id} {}\n", iso_ms(now_ms), timed_out(timeout_ms))
}

/// `Task timed out after 3.00 seconds`
pub(crate) fn timed_out(timeout_ms: u64) -> String {
    format!("Task timed out after {}.{:02} seconds", timeout_ms / 1_000, timeout_ms % 1_000 / 10)
}

/// Milliseconds that are charged: duration and what came before, rounded up; at least one.
pub(crate) fn billed_ms(duration_us: u64, beginning: Option<Beginning>) -> u64 {
    duration_us.saturating_add(beginning.map_or(0, Beginning::charged_us)).div_ceil(1_000).max(1)
}

/// `2026-01-31T23:59:59.999Z`
pub(crate) fn iso_ms(now_ms: u64) -> String {
    let timestamp = timestamp(now_ms);
    format!("{}.{:03}Z", timestamp.strftime("%Y-%m-%dT%H:%M:%S"), now_ms % 1_000)
}

/// `2026/01/31/[$LATEST]0123456789abcdef0123456789abcdef`, the name of an environment's log stream. In a log group that is not
/// the function's own the function's name comes before the version.
pub(crate) fn stream_name(now_ms: u64, version: &FunctionVersion, id: &str) -> String {
    let day = timestamp(now_ms).strftime("%Y/%m/%d");
    let name = version.function.name.as_str();
    let is_own = version.log_group.strip_prefix("/aws/lambda/") == Some(name);
    format!("{day}/{}[{}]{id}", if is_own { "" } else { name }, version.version)
}

fn timestamp(now_ms: u64) -> jiff::Timestamp {
    i64::try_from(now_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok()).unwrap_or(jiff::Timestamp::MAX)
}

fn write_status(line: &mut String, status: Status<'_>) {
    match status {
        Status::Fine | Status::Reported(_) => {}
        Status::Timeout => line.push_str("Status: timeout"),
        Status::Error(kind) => {
            let _ = write!(line, "Status: error\tError Type: {kind}");
        }
    }
}

/// Microseconds, written as milliseconds with two decimals (rounded half up).
struct Millis(u64);

impl std::fmt::Display for Millis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let hundredths = self.0.saturating_add(5) / 10;
        write!(f, "{}.{:02}", hundredths / 100, hundredths % 100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn report(duration_us: u64, init_us: Option<u64>, status: Status<'_>) -> String {
        report_after(duration_us, init_us.map(|us| Beginning::Init { us }), status)
    }

    fn report_after(duration_us: u64, beginning: Option<Beginning>, status: Status<'_>) -> String {
        let request_id = RequestId("id".into());
        report_line(&Report {
            request_id: &request_id,
            duration_us,
            beginning,
            memory_mb: 128,
            memory_peak_bytes: 80 * 1024 * 1024 + 1,
            status,
            trace_id: None,
            detail: None,
        })
    }

    #[test]
    fn report_lines_read_as_lambdas() {
        assert_eq!(
            report(201_670, Some(480_250), Status::Fine),
            "REPORT RequestId: id\tDuration: 201.67 ms\tBilled Duration: 682 ms\tMemory Size: 128 MB\t\
             Max Memory Used: 81 MB\tInit Duration: 480.25 ms\t"
        );
        assert_eq!(
            report_after(2_338_660, Some(Beginning::Restore { us: 398_970, own_us: 181_200 }), Status::Fine),
            "REPORT RequestId: id\tDuration: 2338.66 ms\tBilled Duration: 2521 ms\tMemory Size: 128 MB\t\
             Max Memory Used: 81 MB\tRestore Duration: 398.97 ms\tBilled Restore Duration: 182 ms\t"
        );
        assert_eq!(
            report(3_000_000, None, Status::Timeout),
            "REPORT RequestId: id\tDuration: 3000.00 ms\tBilled Duration: 3000 ms\tMemory Size: 128 MB\t\
             Max Memory Used: 81 MB\tStatus: timeout"
        );
        assert!(
            report(1, None, Status::Error("Runtime.OutOfMemory"))
                .ends_with("\tStatus: error\tError Type: Runtime.OutOfMemory")
        );
    }

    #[test]
    fn a_trace_is_appended_to_traced_calls_only() {
        let request_id = RequestId("id".into());
        let traced = |trace_id| {
            report_line(&Report {
                request_id: &request_id,
                duration_us: 1,
                beginning: None,
                memory_mb: 128,
                memory_peak_bytes: 0,
                status: Status::Fine,
                trace_id: Some(trace_id),
                detail: None,
            })
        };
        assert!(!traced("Root=1-a-b;Parent=c;Sampled=0").contains("XRAY"));
        let line = traced("Root=1-a-b;Parent=c;Sampled=1");
        assert!(line.ends_with("\t\nXRAY TraceId: 1-a-b\tSegmentId: c\tSampled: true\t"), "{line}");
    }

    #[test]
    fn the_first_line_names_what_runs() {
        let line =
            |runtime: &str, version| init_start_line(&Runtime::parse(runtime).unwrap(), version, &Region::default());
        assert!(
            line("nodejs18.x", Some((20, 1, 2)))
                .starts_with("INIT_START Runtime Version: nodejs:20.1.2\tRuntime Version ARN: ")
        );
        assert!(line("python3.12", Some((3, 12, 1))).starts_with("INIT_START Runtime Version: python:3.12.1\t"));
        assert!(line("java17.al2023", Some((17, 0, 9))).starts_with("INIT_START Runtime Version: java:17.0.9\t"));
        let line = line("provided.al2023", None);
        let (words, arn) = line.split_once("\tRuntime Version ARN: ").unwrap();
        assert_eq!(words, "INIT_START Runtime Version: provided:al2023");
        let digest = arn.strip_prefix("arn:aws:lambda:us-east-1::runtime:").unwrap();
        assert!(digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()), "{digest}");
    }

    #[test]
    fn times_and_names() {
        assert_eq!(iso_ms(1_700_000_000_007), "2023-11-14T22:13:20.007Z");
        let mut version = crate::tests::fixtures::version("f");
        assert_eq!(stream_name(1_700_000_000_007, &version, "ab"), "2023/11/14/[$LATEST]ab");
        version.log_group = "shared".into();
        assert_eq!(stream_name(1_700_000_000_007, &version, "ab"), "2023/11/14/f[$LATEST]ab");
        assert_eq!(timed_out(3_000), "Task timed out after 3.00 seconds");
        assert_eq!(
            init_report_line(137_690, Phase::Init, Status::Error("X")),
            "INIT_REPORT Init Duration: 137.69 ms\tPhase: init\tStatus: error\tError Type: X"
        );
    }

    proptest! {
        #[test]
        fn what_is_billed_covers_what_was_used(duration in 0u64..1 << 50, init in proptest::option::of(0u64..1 << 50)) {
            let used = duration + init.unwrap_or(0);
            let billed = billed_ms(duration, init.map(|us| Beginning::Init { us }));
            prop_assert!(billed * 1_000 >= used);
            prop_assert!(billed == 1 || (billed - 1) * 1_000 < used);
        }

        #[test]
        fn a_report_is_one_line(duration: u64, init: Option<u64>) {
            prop_assert!(!report(duration, init, Status::Fine).contains('\n'));
        }
    }
}
