//! The Runtime API's requests and answers: paths, headers, statuses and error bodies, as Lambda gives them.
//!
//! | request                                  | answer                                            |
//! |------------------------------------------|---------------------------------------------------|
//! | GET `…/runtime/invocation/next`          | 200, the event; waits for it                      |
//! | POST `…/runtime/invocation/ID/response`  | 202; 400, 413                                     |
//! | POST `…/runtime/invocation/ID/error`     | 202; 400, 413                                     |
//! | POST `…/runtime/init/error`              | 202; 403                                          |
//! | GET `…/ping`                             | 200 `pong`                                        |
//! | GET, POST `…/runtime/restore/…`          | 501 with what is missing                          |
//! | the same in a managed runtime            | 403                                               |
//! | extensions, telemetry, logs              | `extensions::http`                                |

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::body::{self, Read};
use super::state::Refusal;
use super::{RuntimeApi, Served};
use crate::container_credentials;
use crate::environment::{Answer, Call};
use crate::extensions;
use crate::faults::{ANSWER_BYTES_MAX, Failure, Fault};
use crate::reply::{self, Reply, accepted, error, not_found, plain};
use crate::stream::Outlet;

const BASE: &str = "/2018-06-01/";
const RESPONSE_MODE: &str = "lambda-runtime-function-response-mode";
const STREAM_TYPE: &str = "application/octet-stream";
const CAUSE_JSON: &str = "application/vnd.aws.lambda.error.cause+json";

/// Serves one connection of the runtime until either side ends it.
pub(super) async fn serve(stream: TcpStream, served: Arc<Served>) {
    // An answer that waits for more to send is latency of the function; without the option it still works.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let served = served.clone();
        async move { Ok::<_, Infallible>(answer(&served, request).await) }
    });
    // A broken connection is the runtime's to notice; it asks again on another one.
    let _ = base::repolled(http1::Builder::new().serve_connection(TokioIo::new(stream), service)).await;
}

async fn answer(served: &Served, request: Request<Incoming>) -> Reply {
    let path = request.uri().path().to_owned();
    let Some(path) = path.strip_prefix(BASE) else {
        return match &served.credentials {
            Some(document) if path == container_credentials::PATH => container_credentials::answer(document, &request),
            _ => extensions::answer(&served.extensions, request).await,
        };
    };
    if path == "ping" && request.method() == Method::GET {
        return plain(StatusCode::OK, "text/plain; charset=utf-8", Bytes::from_static(b"pong"));
    }
    match &served.runtime {
        Some(api) => of_runtime(api, path, request).await,
        None => {
            let message =
                "The Runtime API is the platform's own in managed runtimes: the function has a runtime already";
            error(StatusCode::FORBIDDEN, "InvalidStateTransition", message)
        }
    }
}

async fn of_runtime(api: &RuntimeApi, path: &str, request: Request<Incoming>) -> Reply {
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
            Some(failure) => (Answer::Error(failure), accepted()),
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
    if let Some(failure) = body::failure_of_stream(trailers.as_ref()) {
        return (Answer::Error(failure), accepted());
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
    let said = said_type(request.headers());
    let (answer, reply) = match body::read(request.into_body()).await {
        Read::Whole { bytes, .. } => {
            let document = if with_cause { body::without_cause(&bytes) } else { bytes };
            (Answer::Error(Failure::named(document, said.as_deref())), accepted())
        }
        Read::TooLarge => (Answer::Fault { fault: Fault::answer_too_large(), sound: true }, too_large()),
        Read::Truncated => (Answer::Fault { fault: Fault::truncated(), sound: true }, truncated()),
    };
    ended(api.end(id, answer), reply)
}

async fn init_error(api: &RuntimeApi, request: Request<Incoming>) -> Reply {
    let said = said_type(request.headers());
    match body::read(request.into_body()).await {
        Read::Whole { bytes, .. } => ended(api.init_error(Failure::named(bytes, said.as_deref())), accepted()),
        Read::TooLarge => too_large(),
        Read::Truncated => truncated(),
    }
}

/// What the runtime calls its error beside the document.
fn said_type(headers: &HeaderMap) -> Option<String> {
    reply::text(headers, body::ERROR_TYPE).map(str::to_owned)
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

fn too_large() -> Reply {
    let message = format!("Exceeded maximum allowed payload size ({ANSWER_BYTES_MAX} bytes).");
    error(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", &message)
}

fn truncated() -> Reply {
    error(StatusCode::BAD_REQUEST, "TruncatedHTTPRequest", "HTTP request detected as truncated")
}

fn not_here(what: &str) -> Reply {
    error(
        StatusCode::NOT_IMPLEMENTED,
        "NotImplemented",
        &format!("This platform does not offer {what} to functions yet"),
    )
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    reply::text(headers, name.as_str()).map(str::to_owned)
}
