//! Programs as the engine runs them: an environment that holds no process, and a fresh run for every call.
//!
//! Beside the frames of managed runtimes and the Runtime API this is the third way in which a call is given to an
//! environment (`environment::Guest`). Admission, pools, logs and the ledger know nothing of it. An environment still serves
//! one call at a time: it is a log stream, a `/tmp` and credentials, and costs no memory while it idles.
//!
//! What takes HTTP gets its event as a request (`event`); a command gets it on its standard input and answers on its standard
//! output, and an exit code other than zero is a failure of the function.
//!
//! Start reading at `Runner::run`; how one is made is in `open`, what is compiled when in `states`.

mod event;
mod open;
mod states;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use sandbox::program::{Lines, Program, ProgramKind, Reply, RunEnd};
use serde_json::json;
use tokio::sync::Mutex;

use crate::environment::{Answer, Call};
use crate::faults::{ANSWER_BYTES_MAX, Failure, Fault};
use crate::output::Output;
use crate::stream::{Gathered, Outlet};
use event::Shape;

pub(crate) use open::start;
pub(crate) use states::Programs;

/// Content type of what a command streams.
const COMMAND_TYPE: &str = "application/octet-stream";
/// Most bytes of a failed answer that are told as its message.
const MESSAGE_BYTES_MAX: usize = 1_024;

/// What runs the calls of one environment.
pub(crate) struct Runner {
    program: Arc<dyn Program>,
}

/// What an answer has come to so far.
#[derive(Default)]
struct Kept {
    head: Option<http::response::Parts>,
    gathered: Gathered,
    outlet: Option<Outlet>,
}

/// Takes an answer for a call.
struct Taker {
    call: Arc<Call>,
    shape: Shape,
    /// Held by one side at a time: by the run, then by who settles it.
    kept: Arc<Mutex<Kept>>,
}

impl Runner {
    /// Of a program that is open.
    pub(crate) fn new(program: Arc<dyn Program>) -> Self {
        Self { program }
    }

    /// Runs one call.
    pub(crate) async fn run(&self, call: Call) -> Answer {
        let call = Arc::new(call);
        let kept = Arc::new(Mutex::new(Kept::default()));
        let take = |shape| Box::new(Taker { call: call.clone(), shape, kept: kept.clone() });
        let variables = variables(&call);
        let (end, shape) = match self.program.kind() {
            ProgramKind::Http => {
                let (request, shape) =
                    event::read(&call.payload, &serde_json::to_string(&call.about()).unwrap_or_default());
                (self.program.request(variables, request, take(shape)).await, Some(shape))
            }
            ProgramKind::Command => {
                (self.program.command(variables, call.payload.clone(), take(Shape::Bare)).await, None)
            }
        };
        let kept = std::mem::take(&mut *kept.lock().await);
        match end {
            RunEnd::Done => kept.answer(shape),
            end => Answer::Fault { fault: fault(end), sound: true },
        }
    }
}

/// What a run is told of its call beside its event.
fn variables(call: &Call) -> Vec<(String, String)> {
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let mut all = vec![
        pair("AWS_REQUEST_ID", &call.request_id.0),
        pair("AWS_LAMBDA_DEADLINE_MS", &call.deadline_ms.to_string()),
        pair("AWS_LAMBDA_INVOKED_FUNCTION_ARN", &call.function_arn),
    ];
    let told = [
        ("_X_AMZN_TRACE_ID", &call.trace_id),
        ("AWS_LAMBDA_CLIENT_CONTEXT", &call.client_context),
        ("AWS_LAMBDA_TENANT_ID", &call.version.tenant),
    ];
    all.extend(told.into_iter().filter_map(|(name, value)| Some(pair(name, value.as_deref()?))));
    all
}

fn fault(end: RunEnd) -> Fault {
    match end {
        RunEnd::Exited(code) => Fault::program(&format!("exit status {code}")),
        RunEnd::OutOfMemory => Fault::out_of_memory(),
        RunEnd::Trapped(words) => Fault::program(&words),
        RunEnd::Broken(words) => Fault::protocol(&words),
        RunEnd::NoRoom => Fault::no_run(),
        RunEnd::Done | RunEnd::Killed => Fault::program("signal: killed"),
    }
}

#[async_trait]
impl Reply for Taker {
    async fn head(&mut self, head: http::response::Parts) {
        let mut kept = self.kept.lock().await;
        if self.call.sink.is_some() {
            let content_type = match self.shape {
                Shape::Bare => head.headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok()),
                Shape::One | Shape::Two => Some(event::PRELUDE_TYPE),
            };
            // What is no success is the function's failure, and is told whole.
            if self.shape != Shape::Bare || head.status.is_success() {
                let mut outlet = Outlet::open(&self.call, content_type.unwrap_or_default().to_owned());
                if self.shape != Shape::Bare {
                    outlet.chunk(event::prelude(&head)).await;
                }
                kept.outlet = Some(outlet);
            }
        }
        kept.head = Some(head);
    }

    async fn piece(&mut self, bytes: Bytes) {
        let mut kept = self.kept.lock().await;
        if kept.head.is_none() && kept.outlet.is_none() && self.call.sink.is_some() {
            kept.outlet = Some(Outlet::open(&self.call, COMMAND_TYPE.to_owned()));
        }
        match &mut kept.outlet {
            Some(outlet) => outlet.chunk(bytes).await,
            None => kept.gathered.push(bytes),
        }
    }
}

impl Kept {
    /// The answer of a run that came to its end; `shape` of one that took HTTP.
    fn answer(self, shape: Option<Shape>) -> Answer {
        if let Some(outlet) = self.outlet {
            return outlet.end();
        }
        let Some(body) = self.gathered.finish() else {
            return Answer::Fault { fault: Fault::answer_too_large(), sound: true };
        };
        let content_type = self.head.as_ref().and_then(|head| {
            let value = head.headers.get(http::header::CONTENT_TYPE)?;
            value.to_str().ok().map(str::to_owned)
        });
        let payload = match (shape, &self.head) {
            (Some(Shape::Bare), Some(head)) if !head.status.is_success() => {
                return Answer::Error(Failure::of(refused(head.status.as_u16(), &body)));
            }
            (Some(shape @ (Shape::One | Shape::Two)), Some(head)) => event::answer(head, &body, shape),
            _ => return Answer::Response { payload: body, content_type, run_us: None },
        };
        if payload.len() > ANSWER_BYTES_MAX {
            return Answer::Fault { fault: Fault::answer_too_large(), sound: true };
        }
        Answer::Response { payload, content_type: None, run_us: None }
    }
}

/// The error document of an event that was answered with another status than a success.
fn refused(status: u16, body: &[u8]) -> Bytes {
    let words = String::from_utf8_lossy(body);
    let words = &words[..words.floor_char_boundary(MESSAGE_BYTES_MAX)];
    json!({"errorType": format!("HttpStatus{status}"), "errorMessage": words}).to_string().into()
}

#[async_trait]
impl Lines for Output {
    fn write(&self, bytes: &[u8]) {
        self.take(bytes);
    }

    fn has_room(&self) -> bool {
        !self.is_full()
    }

    async fn make_room(&self) {
        self.flush().await;
    }
}
