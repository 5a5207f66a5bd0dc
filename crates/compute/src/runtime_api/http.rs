//! The Runtime API's requests and answers: paths, headers, statuses and error bodies, as Lambda gives them.
//!
//! | request                                  | answer                                            |
//! |------------------------------------------|---------------------------------------------------|
//! | GET `…/runtime/invocation/next`          | 200, the event; waits for it                      |
//! | POST `…/runtime/invocation/ID/response`  | 202; 400, 413                                     |
//! | POST `…/runtime/invocation/ID/error`     | 202; 400, 413                                     |
//! | POST `…/runtime/init/error`              | 202; 403                                          |
//! | GET `…/ping`                             | 200 `pong`                                        |
//! | extensions, telemetry, logs, snapshots   | 501 with what is missing                          |

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::TcpStream;

use super::RuntimeApi;
use super::body::{self, Read};
use super::state::Refusal;
use crate::environment::{Answer, Call};
use crate::faults::{ANSWER_BYTES_MAX, Fault};
use crate::stream::Outlet;

type Reply = Response<Full<Bytes>>;

const BASE: &str = "/2018-06-01/";
const RESPONSE_MODE: &str = "lambda-runtime-function-response-mode";
const STREAM_TYPE: &str = "application/octet-stream";
const CAUSE_JSON: &str = "application/vnd.aws.lambda.error.cause+json";

/// Serves one connection of the runtime until either side ends it.
pub(super) async fn serve(stream: TcpStream, api: Arc<RuntimeApi>) {
    // An answer that waits for more to send is latency of the function; without the option it still works.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let api = api.clone();
        async move { Ok::<_, Infallible>(answer(&api, request).await) }
    });
    // A broken connection is the runtime's to notice; it asks again on another one.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(api: &RuntimeApi, request: Request<Incoming>) -> Reply {
    let path = request.uri().path().to_owned();
    let Some(path) = path.strip_prefix(BASE) else { return elsewhere(&path) };
    let get = request.method() == Method::GET;
    let segments: Vec<&str> = path.split('/').collect();
    match (get, &segments[..]) {
        (true, ["runtime", "invocation", "next"]) => match api.next().await {
            Ok(call) => event(&call),
            Err(refusal) => refused(&refusal),
        },
        (false, ["runtime", "invocation", id, "response"]) if request.method() == Method::POST => {
            response(api, id, request).await
        }
        (false, ["runtime", "invocation", id, "error"]) if request.method() == Method::POST => {
            function_error(api, id, request).await
        }
        (false, ["runtime", "init", "error"]) if request.method() == Method::POST => init_error(api, request).await,
        (true, ["ping"]) => plain(StatusCode::OK, "text/plain; charset=utf-8", Bytes::from_static(b"pong")),
        (_, ["runtime", "restore", _]) => not_here("snapshots"),
        _ => not_found(path),
    }
}

async fn response(api: &RuntimeApi, id: &str, request: Request<Incoming>) -> Reply {
    let call = match api.expects(id) {
        Ok(call) => call,
        Err(refusal) => return refused(&refusal),
    };
    let mode = request.headers().get(RESPONSE_MODE);
    if mode.is_some_and(|mode| !mode.as_bytes().eq_ignore_ascii_case(b"streaming")) {
        let answer = Answer::Fault { fault: Fault::response_mode(), sound: true };
        let reply = error(StatusCode::BAD_REQUEST, "InvalidFunctionResponseMode", "Invalid function response mode");
        return ended(api.end(id, answer), reply);
    }
    let content_type = text(request.headers(), CONTENT_TYPE);
    // AWS's client for Go writes in pieces and names no mode: what comes without a length is a stream for whoever takes one.
    let in_pieces = call.sink.is_some() && request.body().size_hint().exact().is_none();
    if mode.is_some() || in_pieces {
        let outlet = Outlet::open(&call, content_type.unwrap_or_else(|| STREAM_TYPE.to_owned()));
        let (answer, reply) = stream(request.into_body(), outlet).await;
        return ended(api.end(id, answer), reply);
    }
    let (answer, reply) = match body::read(request.into_body()).await {
        Read::Whole { bytes, trailers } => match body::failure_of_stream(trailers.as_ref()) {
            Some(document) => (Answer::Error(document), accepted()),
            None => (Answer::Response { payload: bytes, content_type, run_us: None }, accepted()),
        },
        Read::TooLarge => (Answer::Fault { fault: Fault::answer_too_large(), sound: true }, too_large()),
        Read::Truncated => (Answer::Fault { fault: Fault::truncated(), sound: true }, truncated()),
    };
    ended(api.end(id, answer), reply)
}

/// A body that is passed on as it comes.
async fn stream(body: Incoming, mut outlet: Outlet) -> (Answer, Reply) {
    let Some(trailers) = body::pass(body, &mut outlet).await else {
        return (Answer::Fault { fault: Fault::truncated(), sound: true }, truncated());
    };
    if let Some(document) = body::failure_of_stream(trailers.as_ref()) {
        return (Answer::Error(document), accepted());
    }
    match outlet.end() {
        answer @ Answer::Fault { .. } => (answer, too_large()),
        answer => (answer, accepted()),
    }
}

async fn function_error(api: &RuntimeApi, id: &str, request: Request<Incoming>) -> Reply {
    if let Err(refusal) = api.expects(id) {
        return refused(&refusal);
    }
    let with_cause = text(request.headers(), CONTENT_TYPE).as_deref() == Some(CAUSE_JSON);
    let (answer, reply) = match body::read(request.into_body()).await {
        Read::Whole { bytes, .. } if with_cause => (Answer::Error(body::without_cause(&bytes)), accepted()),
        Read::Whole { bytes, .. } => (Answer::Error(bytes), accepted()),
        Read::TooLarge => (Answer::Fault { fault: Fault::answer_too_large(), sound: true }, too_large()),
        Read::Truncated => (Answer::Fault { fault: Fault::truncated(), sound: true }, truncated()),
    };
    ended(api.end(id, answer), reply)
}

async fn init_error(api: &RuntimeApi, request: Request<Incoming>) -> Reply {
    match body::read(request.into_body()).await {
        Read::Whole { bytes, .. } => ended(api.init_error(bytes), accepted()),
        Read::TooLarge => too_large(),
        Read::Truncated => truncated(),
    }
}

fn event(call: &Call) -> Reply {
    let mut reply = plain(StatusCode::OK, "application/json", call.payload.clone());
    let deadline = call.deadline_ms.to_string();
    let headers = [
        ("lambda-runtime-aws-request-id", Some(call.request_id.0.as_str())),
        ("lambda-runtime-deadline-ms", Some(deadline.as_str())),
        ("lambda-runtime-invoked-function-arn", Some(call.function_arn.as_str())),
        ("lambda-runtime-trace-id", call.trace_id.as_deref()),
        ("lambda-runtime-client-context", call.client_context.as_deref()),
        ("lambda-runtime-aws-tenant-id", call.version.tenant.as_deref()),
    ];
    for (name, value) in headers {
        // Empty headers are left out, as are values that no header can carry.
        let value =
            value.filter(|value| !value.is_empty()).and_then(|value| HeaderValue::from_bytes(value.as_bytes()).ok());
        if let Some(value) = value {
            reply.headers_mut().insert(HeaderName::from_static(name), value);
        }
    }
    reply
}

fn ended(result: Result<(), Refusal>, reply: Reply) -> Reply {
    match result {
        Ok(()) => reply,
        Err(refusal) => refused(&refusal),
    }
}

fn refused(refusal: &Refusal) -> Reply {
    match refusal {
        Refusal::RequestId => error(StatusCode::BAD_REQUEST, "InvalidRequestID", "Invalid request ID"),
        Refusal::Transition { from, to } => {
            let message = format!(
                "State transition from {from} to {to} failed for runtime. Error: State transition is not allowed"
            );
            error(StatusCode::FORBIDDEN, "InvalidStateTransition", &message)
        }
    }
}

fn accepted() -> Reply {
    plain(StatusCode::ACCEPTED, "application/json", Bytes::from_static(b"{\"status\":\"OK\"}\n"))
}

fn too_large() -> Reply {
    let message = format!("Exceeded maximum allowed payload size ({ANSWER_BYTES_MAX} bytes).");
    error(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", &message)
}

fn truncated() -> Reply {
    error(StatusCode::BAD_REQUEST, "TruncatedHTTPRequest", "HTTP request detected as truncated")
}

/// Paths outside the Runtime API: the other APIs of Lambda's sandbox are told apart from nonsense.
fn elsewhere(path: &str) -> Reply {
    match path.trim_start_matches('/').split('/').nth(1) {
        Some("extension") => not_here("extensions"),
        Some("telemetry") => not_here("the Telemetry API"),
        Some("logs") => not_here("the Logs API"),
        _ => not_found(path),
    }
}

fn not_here(what: &str) -> Reply {
    error(
        StatusCode::NOT_IMPLEMENTED,
        "NotImplemented",
        &format!("This platform does not offer {what} to functions yet"),
    )
}

fn not_found(path: &str) -> Reply {
    error(StatusCode::NOT_FOUND, "NotFound", &format!("The Runtime API has no {path}"))
}

fn error(status: StatusCode, error_type: &str, message: &str) -> Reply {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Body<'a> {
        error_message: &'a str,
        error_type: &'a str,
    }
    // Two strings always serialise.
    let body = serde_json::to_vec(&Body { error_message: message, error_type }).unwrap_or_default();
    plain(status, "application/json", body.into())
}

fn plain(status: StatusCode, content_type: &'static str, body: Bytes) -> Reply {
    let mut reply = Response::new(Full::new(body));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}
