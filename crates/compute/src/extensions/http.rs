//! The Extensions API's requests and answers, and the subscriptions of the Telemetry and Logs APIs.
//!
//! | request                                   | answer                                                     |
//! |-------------------------------------------|------------------------------------------------------------|
//! | POST `/2020-01-01/extension/register`     | 200, what the function is; 403                             |
//! | GET `/2020-01-01/extension/event/next`    | 200, the event; waits for it; 403                          |
//! | POST `/2020-01-01/extension/init/error`   | 202; 403                                                   |
//! | POST `/2020-01-01/extension/exit/error`   | 202; 403                                                   |
//! | PUT `/2022-07-01/telemetry`               | 200 `"OK"`; 400, 403                                       |
//! | PUT `/2020-08-15/logs`                    | 200 `"OK"`; 400, 403                                       |
//!
//! Invariant: no body is read beyond `BODY_BYTES_MAX`.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::json;

use super::Extensions;
use super::registry::{Event, Refusal, Registry};
use crate::records::Line;
use crate::reply::{self, Reply};
use crate::telemetry::{Api, Refused, Subscription};

const NAME: &str = "lambda-extension-name";
const IDENTIFIER: &str = "lambda-extension-identifier";
const EVENT_IDENTIFIER: &str = "lambda-extension-event-identifier";
const FEATURES: &str = "lambda-extension-accept-feature";
const ERROR_TYPE: &str = "lambda-extension-function-error-type";
/// Far above what any of these requests has.
const BODY_BYTES_MAX: usize = 256 * 1024;
/// Bytes of an error's type that are kept.
const ERROR_TYPE_BYTES_MAX: usize = 256;

/// Whether a path is of these APIs.
pub(crate) fn is_theirs(path: &str) -> bool {
    ["/2020-01-01/extension/", "/2022-07-01/telemetry", "/2020-08-15/logs"].iter().any(|api| path.starts_with(api))
}

/// Answers a request of these APIs.
pub(crate) async fn answer(extensions: &Arc<Extensions>, request: Request<Incoming>) -> Reply {
    let path = request.uri().path().trim_matches('/').to_owned();
    let method = request.method().clone();
    match (method, path.as_str()) {
        (Method::POST, "2020-01-01/extension/register") => register(extensions, request).await,
        (Method::GET, "2020-01-01/extension/event/next") => next(extensions, request.headers()).await,
        (Method::POST, "2020-01-01/extension/init/error") => error(extensions, request, Registry::init_error).await,
        (Method::POST, "2020-01-01/extension/exit/error") => error(extensions, request, Registry::exit_error).await,
        (Method::PUT, "2022-07-01/telemetry") => subscribe(extensions, request, Api::Telemetry).await,
        (Method::PUT, "2020-08-15/logs") => subscribe(extensions, request, Api::Logs).await,
        _ => reply::not_found(&path),
    }
}

fn refused(refusal: &Refusal) -> Reply {
    reply::error(StatusCode::FORBIDDEN, refusal.error_type, &refusal.message)
}

async fn body(request: Request<Incoming>) -> Result<Bytes, Reply> {
    let collected = Limited::new(request.into_body(), BODY_BYTES_MAX).collect().await;
    collected.map(|body| body.to_bytes()).map_err(|_| {
        let message = format!("Exceeded maximum allowed payload size ({BODY_BYTES_MAX} bytes).");
        reply::error(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", &message)
    })
}

async fn register(extensions: &Arc<Extensions>, request: Request<Incoming>) -> Reply {
    #[derive(Deserialize)]
    struct Register {
        #[serde(default)]
        events: Vec<String>,
    }
    let name = reply::text(request.headers(), NAME).unwrap_or_default().to_owned();
    let features = reply::text(request.headers(), FEATURES).unwrap_or_default();
    let with_account = features.split(',').any(|feature| feature.trim() == "accountId");
    let body = match body(request).await {
        Ok(body) => body,
        Err(reply) => return reply,
    };
    let events = match serde_json::from_slice::<Register>(&body) {
        Ok(register) => register.events,
        Err(error) if !name.is_empty() => {
            return refused(&Refusal::new("InvalidRequestFormat", error.to_string()));
        }
        // Without a name it is refused for that.
        Err(_) => Vec::new(),
    };
    let id = extensions.random.uuid();
    if let Err(refusal) = extensions.registry.lock().register(&name, &events, &id) {
        return refused(&refusal);
    }
    extensions.moved.notify_waiters();
    let version = &extensions.version;
    let mut about = json!({
        "functionName": version.function.name.as_str(),
        "functionVersion": version.version,
        "handler": version.handler,
    });
    if with_account {
        about["accountId"] = json!(version.function.account.as_str());
    }
    let mut reply = reply::json(StatusCode::OK, about.to_string().into());
    put(&mut reply, IDENTIFIER, &id);
    reply
}

fn put(reply: &mut Reply, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        reply.headers_mut().insert(name, value);
    }
}

/// Who asks.
fn identifier(headers: &HeaderMap) -> Result<String, Refusal> {
    let Some(id) = headers.get(IDENTIFIER) else {
        let message = "Missing Lambda-Extension-Identifier header";
        return Err(Refusal::new("Extension.MissingExtensionIdentifier", message));
    };
    let id = id.to_str().unwrap_or_default();
    let is_uuid = id.len() == 36
        && id.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        });
    if !is_uuid {
        let message = "Invalid Lambda-Extension-Identifier";
        return Err(Refusal::new("Extension.InvalidExtensionIdentifier", message));
    }
    Ok(id.to_ascii_lowercase())
}

/// One that waits for its next event. Dropped before that came, it may ask again.
struct Waiting<'a> {
    extensions: &'a Extensions,
    id: &'a str,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.extensions.registry.lock().left_waiting(self.id);
    }
}

async fn next(extensions: &Extensions, headers: &HeaderMap) -> Reply {
    let id = match identifier(headers) {
        Ok(id) => id,
        Err(refusal) => return refused(&refusal),
    };
    if let Err(refusal) = extensions.registry.lock().next(&id) {
        return refused(&refusal);
    }
    extensions.moved.notify_waiters();
    let waiting = Waiting { extensions, id: &id };
    let event: Event = extensions.until(|registry| registry.take(&id)).await;
    drop(waiting);
    let mut reply = reply::json(StatusCode::OK, event.text().to_owned().into());
    put(&mut reply, EVENT_IDENTIFIER, &extensions.random.uuid());
    reply
}

async fn error(
    extensions: &Extensions,
    request: Request<Incoming>,
    note: fn(&mut Registry, &str, &str) -> Result<(), Refusal>,
) -> Reply {
    let id = match identifier(request.headers()) {
        Ok(id) => id,
        Err(refusal) => return refused(&refusal),
    };
    let Some(error_type) = reply::text(request.headers(), ERROR_TYPE).filter(|kind| !kind.is_empty()) else {
        let message = "Lambda-Extension-Function-Error-Type not found";
        return refused(&Refusal::new("Extension.MissingHeader", message));
    };
    let error_type: String = error_type.chars().take(ERROR_TYPE_BYTES_MAX).collect();
    if let Err(reply) = body(request).await {
        return reply;
    }
    if let Err(refusal) = note(&mut extensions.registry.lock(), &id, &error_type) {
        return refused(&refusal);
    }
    extensions.moved.notify_waiters();
    reply::accepted()
}

async fn subscribe(extensions: &Arc<Extensions>, request: Request<Incoming>, api: Api) -> Reply {
    let id = match identifier(request.headers()) {
        Ok(id) => id,
        Err(refusal) => return refused(&refusal),
    };
    let Some(name) = extensions.registry.lock().name(&id).map(str::to_owned) else {
        return refused(&Refusal::new("Extension.UnknownExtensionIdentifier", format!("Unknown extension {id}")));
    };
    let body = match body(request).await {
        Ok(body) => body,
        Err(reply) => return reply,
    };
    let asked = match Subscription::read(api, &body) {
        Ok(asked) => asked,
        Err(words) => return reply::error(StatusCode::BAD_REQUEST, "ValidationError", &words),
    };
    let streams: Vec<&'static str> = asked.streams.iter().map(|stream| stream.name()).collect();
    match extensions.hub.subscribe(&name, asked) {
        Ok(()) => {}
        Err(Refused::Closed) => {
            let message = format!("{} API subscription is closed", api.name());
            return reply::error(StatusCode::FORBIDDEN, &format!("{}.SubscriptionClosed", api.name()), &message);
        }
        Err(Refused::Other(other)) => {
            let message =
                format!("An extension has subscribed by the {} API: both cannot be used at once", other.name());
            return reply::error(StatusCode::FORBIDDEN, &format!("{}.NotSupported", api.name()), &message);
        }
    }
    extensions.output.tell(extensions.hub.clone());
    let line = if api == Api::Telemetry { "TELEMETRY" } else { "LOGS" };
    extensions.output.line(&Line::Subscribed(line, &name, &streams));
    reply::json(StatusCode::OK, Bytes::from_static(b"\"OK\""))
}
