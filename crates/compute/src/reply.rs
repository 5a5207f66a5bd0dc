//! Answers of the HTTP interfaces that a sandbox has on its own loopback: statuses, types and error bodies as Lambda's.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;

/// What is answered to a program in a sandbox.
pub(crate) type Reply = Response<Full<Bytes>>;

/// `{"errorMessage","errorType"}`.
pub(crate) fn error(status: StatusCode, error_type: &str, message: &str) -> Reply {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Body<'a> {
        error_message: &'a str,
        error_type: &'a str,
    }
    // Two strings always serialise.
    let body = serde_json::to_vec(&Body { error_message: message, error_type }).unwrap_or_default();
    json(status, body.into())
}

/// 202, `{"status":"OK"}`.
pub(crate) fn accepted() -> Reply {
    json(StatusCode::ACCEPTED, Bytes::from_static(b"{\"status\":\"OK\"}\n"))
}

/// 404 for a path that no interface has.
pub(crate) fn not_found(path: &str) -> Reply {
    error(StatusCode::NOT_FOUND, "NotFound", &format!("The Runtime API has no {path}"))
}

/// A JSON document.
pub(crate) fn json(status: StatusCode, body: Bytes) -> Reply {
    plain(status, "application/json", body)
}

/// Anything.
pub(crate) fn plain(status: StatusCode, content_type: &'static str, body: Bytes) -> Reply {
    let mut reply = Response::new(Full::new(body));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}

/// A header's text.
pub(crate) fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}
