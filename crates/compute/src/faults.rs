//! Error documents that the platform makes when a function cannot answer for itself.
//!
//! Pure. Shapes and words follow Lambda: `{"errorType","errorMessage"}`, the message led by the request id.
//! What the function reports about itself never passes through here.

use std::time::Duration;

use bytes::Bytes;
use model::{Ending, RequestId};
use sandbox::{Exit, Usage};
use serde::{Deserialize, Serialize};

use crate::report;

/// Most bytes of an answer: 6 MiB and 100 bytes.
pub(crate) const ANSWER_BYTES_MAX: usize = 6_291_556;

const WEB_ANSWER: &str = "Runtime.InvalidResponse";

/// A failure of the sandbox or the runtime, as caller, log and ledger see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    /// `errorType` of the document.
    pub(crate) error_type: String,
    /// `errorMessage` of the document, without the request id.
    pub(crate) message: String,
    /// `Error Type` of the REPORT line.
    pub(crate) report_type: String,
    /// How the ledger counts it.
    pub(crate) ending: Ending,
}

impl Fault {
    fn new(error_type: &str, message: impl Into<String>, ending: Ending) -> Self {
        Self { error_type: error_type.into(), message: message.into(), report_type: error_type.into(), ending }
    }

    /// The function's time was over.
    pub(crate) fn timed_out(timeout_ms: u64) -> Self {
        Self::new("Sandbox.Timedout", report::timed_out(timeout_ms), Ending::Timeout)
    }

    /// A web server was not ready in time; what was seen of it last.
    pub(crate) fn web_start(cap: Duration, seen: &str) -> Self {
        let message =
            format!("Init timed out after {:.2} seconds: the web server is not ready ({seen})", cap.as_secs_f64());
        Self::new("Sandbox.Timedout", message, Ending::Crash)
    }

    /// A web server broke off, or does not speak HTTP.
    pub(crate) fn web_answer(detail: &str) -> Self {
        Self::new(WEB_ANSWER, format!("The web server gave no usable answer: {detail}"), Ending::Crash)
    }

    /// Whether it is one of a web server's answer.
    pub(crate) fn is_of_web_answer(&self) -> bool {
        self.error_type == WEB_ANSWER
    }

    /// The way back from a snapshot took too long.
    pub(crate) fn restore_timed_out(cap: Duration) -> Self {
        let message = format!("Restore timed out after {} seconds", cap.as_secs());
        Self::new("Sandbox.Timedout", message, Ending::Crash)
    }

    /// The runtime's process ended.
    pub(crate) fn exited(exit: &Exit) -> Self {
        let message = match (exit.code, exit.signal) {
            _ if exit.out_of_memory => "Runtime exited with error: signal: killed".to_owned(),
            (_, Some(signal)) => format!("Runtime exited with error: signal: {}", signal_name(signal)),
            (Some(0), None) => "Runtime exited without providing a reason".to_owned(),
            (Some(code), None) => format!("Runtime exited with error: exit status {code}"),
            (None, None) => "Runtime exited without providing a reason".to_owned(),
        };
        let mut fault = Self::new("Runtime.ExitError", message, Ending::Crash);
        if exit.out_of_memory {
            "Runtime.OutOfMemory".clone_into(&mut fault.report_type);
            fault.ending = Ending::OutOfMemory;
        }
        fault
    }

    /// A program ended itself, or did what nobody may. `words` say which.
    pub(crate) fn program(words: &str) -> Self {
        Self::new("Runtime.ExitError", format!("Runtime exited with error: {words}"), Ending::Crash)
    }

    /// A program's memory was over.
    pub(crate) fn out_of_memory() -> Self {
        Self::exited(&Exit { code: None, signal: None, out_of_memory: true, usage: Usage::default() })
    }

    /// There are as many runs of programs as there can be.
    pub(crate) fn no_run() -> Self {
        Self::new("Runtime.NoRoom", "The platform runs as many programs as it can", Ending::Crash)
    }

    /// An extension ended the environment: `Extension.Crash` and the like.
    pub(crate) fn extension(error_type: &str, words: &str) -> Self {
        Self::new(error_type, words, Ending::Crash)
    }

    /// How the process of an extension ended, in Lambda's words.
    pub(crate) fn exit_words(exit: &Exit) -> String {
        match (exit.code, exit.signal) {
            (Some(0), _) => "exit code 0".to_owned(),
            (Some(code), _) => format!("exit status {code}"),
            (None, Some(signal)) => format!("signal: {}", signal_name(signal)),
            (None, None) => "exit status unknown".to_owned(),
        }
    }

    /// The guest program could not be executed. `words` are the system's.
    pub(crate) fn entrypoint(words: &str) -> Self {
        Self::new("Runtime.InvalidEntrypoint", words, Ending::Crash)
    }

    /// The folder that the guest program is to begin in is not there.
    pub(crate) fn folder(words: &str) -> Self {
        Self::new("Runtime.InvalidWorkingDir", words, Ending::Crash)
    }

    /// The guest does not keep to its protocol.
    pub(crate) fn protocol(detail: &str) -> Self {
        Self::new("Runtime.Unknown", format!("The runtime broke its protocol: {detail}"), Ending::Crash)
    }

    /// The runtime says that it cannot initialise the function, and nothing else but what it calls that.
    pub(crate) fn init_error(failure: &Failure) -> Self {
        let fault = Self::new("Runtime.InitError", "The runtime could not initialise the function", Ending::Crash);
        let report_type = failure.named.clone().unwrap_or_else(|| fault.report_type.clone());
        Self { report_type, ..fault }
    }

    /// The runtime cut its answer short.
    pub(crate) fn truncated() -> Self {
        Self::new("Runtime.TruncatedResponse", "Response body is truncated", Ending::Crash)
    }

    /// The runtime asked for a response mode that does not exist.
    pub(crate) fn response_mode() -> Self {
        Self::new("Runtime.InvalidResponseModeHeader", "Invalid function response mode", Ending::FunctionError)
    }

    /// The answer is larger than allowed.
    pub(crate) fn answer_too_large() -> Self {
        let message =
            format!("Response payload size exceeded maximum allowed payload size ({ANSWER_BYTES_MAX} bytes).");
        Self::new("Function.ResponseSizeTooLarge", message, Ending::FunctionError)
    }

    /// The streamed answer is longer than allowed.
    pub(crate) fn stream_too_large(bytes_max: u64) -> Self {
        let message = format!("Response payload size exceeded maximum allowed payload size ({bytes_max} bytes).");
        Self::new("Function.ResponseSizeTooLarge", message, Ending::FunctionError)
    }

    /// Whether the document names the request, as those do that the sandbox makes.
    fn names_request(&self) -> bool {
        self.error_type != "Function.ResponseSizeTooLarge"
    }

    /// The document for the caller.
    pub(crate) fn document(&self, request_id: &RequestId) -> Bytes {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Document<'a> {
            error_type: &'a str,
            error_message: &'a str,
        }
        let message = self.message_for(request_id);
        let document = Document { error_type: &self.error_type, error_message: &message };
        // Two strings always serialise.
        serde_json::to_vec(&document).unwrap_or_default().into()
    }

    /// What the log says about it, if it is not said elsewhere.
    pub(crate) fn log_line(&self, now_ms: u64, request_id: &RequestId, timeout_ms: u64) -> String {
        match self.ending {
            Ending::Timeout => report::timeout_line(now_ms, request_id, timeout_ms),
            _ => format!("{}\n{}", self.message_for(request_id), self.error_type),
        }
    }

    fn message_for(&self, request_id: &RequestId) -> String {
        if self.names_request() {
            format!("RequestId: {request_id} Error: {}", self.message)
        } else {
            self.message.clone()
        }
    }
}

/// A failure in the runtime's own words, and what the runtime calls it beside them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The error document, which the caller gets as it is.
    pub(crate) document: Bytes,
    /// What the log and subscribers are told, if that is not the document's.
    named: Option<String>,
}

impl Failure {
    /// One that is named as its document says.
    pub(crate) fn of(document: Bytes) -> Self {
        Self { document, named: None }
    }

    /// One whose type the runtime has said beside the document, if it has.
    pub(crate) fn named(document: Bytes, said: Option<&str>) -> Self {
        Self { document, named: said.filter(|said| !said.is_empty()).map(valid_type) }
    }

    /// `errorType` of the document.
    pub(crate) fn error_type(&self) -> String {
        error_type_of(&self.document)
    }

    /// What the log calls it.
    pub(crate) fn logged_type(&self) -> String {
        self.named.clone().unwrap_or_else(|| self.error_type())
    }
}

/// What becomes of the type that a runtime says beside its document: `Runtime.Reason` and `Function.Reason` stay.
fn valid_type(said: &str) -> String {
    let is_reason = |reason: &str| {
        reason.len() > 1
            && reason.starts_with(|first: char| first.is_ascii_uppercase())
            && reason.bytes().all(|byte| byte.is_ascii_alphabetic())
    };
    match said.split_once('.') {
        Some(("Runtime" | "Function", reason)) if is_reason(reason) => said.to_owned(),
        Some(("Function", _)) => "Function.Unknown".to_owned(),
        _ => "Runtime.Unknown".to_owned(),
    }
}

/// `errorType` of an error document, for metrics and records; `Function.Unknown` where it has none.
pub(crate) fn error_type_of(document: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Document {
        #[serde(rename = "errorType")]
        error_type: Option<String>,
    }
    let parsed: Option<Document> = serde_json::from_slice(document).ok();
    parsed.and_then(|document| document.error_type).unwrap_or_else(|| "Function.Unknown".to_owned())
}

/// Names as the Go runtime of Lambda's own supervisor prints them.
fn signal_name(signal: i32) -> String {
    let name = match signal {
        1 => "hangup",
        2 => "interrupt",
        3 => "quit",
        4 => "illegal instruction",
        5 => "trace/breakpoint trap",
        6 => "aborted",
        7 => "bus error",
        8 => "floating point exception",
        9 => "killed",
        11 => "segmentation fault",
        13 => "broken pipe",
        14 => "alarm clock",
        15 => "terminated",
        31 => "bad system call",
        other => return other.to_string(),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sandbox::Usage;

    fn exit(code: Option<i32>, signal: Option<i32>, out_of_memory: bool) -> Exit {
        Exit { code, signal, out_of_memory, usage: Usage::default() }
    }

    fn document(fault: &Fault) -> String {
        String::from_utf8(fault.document(&RequestId("r".into())).to_vec()).unwrap()
    }

    #[test]
    fn documents_read_as_lambdas() {
        assert_eq!(
            document(&Fault::timed_out(3_000)),
            r#"{"errorType":"Sandbox.Timedout","errorMessage":"RequestId: r Error: Task timed out after 3.00 seconds"}"#
        );
        assert_eq!(
            document(&Fault::exited(&exit(Some(1), None, false))),
            r#"{"errorType":"Runtime.ExitError","errorMessage":"RequestId: r Error: Runtime exited with error: exit status 1"}"#
        );
        assert_eq!(
            document(&Fault::exited(&exit(Some(0), None, false))),
            r#"{"errorType":"Runtime.ExitError","errorMessage":"RequestId: r Error: Runtime exited without providing a reason"}"#
        );
        assert_eq!(
            document(&Fault::answer_too_large()),
            r#"{"errorType":"Function.ResponseSizeTooLarge","errorMessage":"Response payload size exceeded maximum allowed payload size (6291556 bytes)."}"#
        );
    }

    #[test]
    fn out_of_memory_is_an_exit_for_the_caller_and_itself_in_the_report() {
        let fault = Fault::exited(&exit(None, Some(9), true));
        assert!(document(&fault).contains("signal: killed"));
        assert_eq!(fault.error_type, "Runtime.ExitError");
        assert_eq!(fault.report_type, "Runtime.OutOfMemory");
        assert_eq!(fault.ending, Ending::OutOfMemory);
    }

    #[test]
    fn a_type_that_is_said_beside_a_document() {
        let logged = |said| Failure::named(Bytes::from_static(br#"{"errorType":"E"}"#), said).logged_type();
        assert_eq!((logged(None), logged(Some(""))), ("E".to_owned(), "E".to_owned()));
        for (said, found) in [
            ("Runtime.MyReason", "Runtime.MyReason"),
            ("Function.MyReason", "Function.MyReason"),
            ("Function.my", "Function.Unknown"),
            ("Function.X", "Function.Unknown"),
            ("Function.X1", "Function.Unknown"),
            ("Runtime.", "Runtime.Unknown"),
            ("Runtime.My\tReason", "Runtime.Unknown"),
            ("My.Reason", "Runtime.Unknown"),
            ("unhandled", "Runtime.Unknown"),
        ] {
            assert_eq!(logged(Some(said)), found, "{said}");
        }
    }

    #[test]
    fn the_type_of_a_document() {
        assert_eq!(error_type_of(br#"{"errorType":"TypeError","stack":[1]}"#), "TypeError");
        for other in [&b"null"[..], b"{}", b"not json", br#"{"errorType":7}"#] {
            assert_eq!(error_type_of(other), "Function.Unknown");
        }
    }
}
