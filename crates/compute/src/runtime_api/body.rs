//! Request bodies of a runtime: read whole up to the payload limit, or passed on as they come.
//!
//! What is beyond the limit is read and thrown away, so that the runtime gets to see its 413.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::HeaderMap;
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::faults::Failure;
use crate::stream::{Gathered, Outlet};

pub(super) const ERROR_TYPE: &str = "lambda-runtime-function-error-type";
const ERROR_BODY: &str = "lambda-runtime-function-error-body";

/// How reading ended.
pub(super) enum Read {
    /// All of it.
    Whole {
        /// The bytes.
        bytes: Bytes,
        /// What came after them.
        trailers: Option<HeaderMap>,
    },
    /// More than an answer may have.
    TooLarge,
    /// The connection ended before the body did.
    Truncated,
}

/// Reads a body.
pub(super) async fn read(mut body: Incoming) -> Read {
    let mut gathered = Gathered::default();
    let mut trailers = None;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return Read::Truncated };
        match frame.into_data() {
            Ok(data) => gathered.push(data),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    match gathered.finish() {
        Some(bytes) => Read::Whole { bytes, trailers },
        None => Read::TooLarge,
    }
}

/// Passes a body on, as quickly as it is taken; its trailers, or nothing if the connection ended before the body did.
pub(super) async fn pass(mut body: Incoming, outlet: &mut Outlet) -> Option<Option<HeaderMap>> {
    let mut trailers = None;
    while let Some(frame) = body.frame().await {
        match frame.ok()?.into_data() {
            Ok(data) => outlet.chunk(data).await,
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    Some(trailers)
}

/// How a stream failed half way, which its trailers tell.
pub(super) fn failure_of_stream(trailers: Option<&HeaderMap>) -> Option<Failure> {
    let trailers = trailers?;
    let error_type = trailers.get(ERROR_TYPE)?.to_str().ok()?;
    let body = trailers.get(ERROR_BODY).and_then(|body| STANDARD.decode(body.as_bytes()).ok());
    let document = match body {
        Some(document) => document.into(),
        None => serde_json::json!({ "errorType": error_type, "errorMessage": "" }).to_string().into(),
    };
    Some(Failure::named(document, Some(error_type)))
}

/// Of a document that carries its X-Ray cause, the part that the caller gets.
pub(super) fn without_cause(document: &Bytes) -> Bytes {
    #[derive(Deserialize, Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Shown<'a> {
        #[serde(borrow, skip_serializing_if = "Option::is_none")]
        error_message: Option<&'a RawValue>,
        #[serde(borrow, skip_serializing_if = "Option::is_none")]
        error_type: Option<&'a RawValue>,
        #[serde(borrow, skip_serializing_if = "Option::is_none")]
        stack_trace: Option<&'a RawValue>,
    }
    let shown: Option<Shown<'_>> = serde_json::from_slice(document).ok();
    shown.and_then(|shown| serde_json::to_vec(&shown).ok()).map_or_else(|| document.clone(), Bytes::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_left_out() {
        let document = Bytes::from_static(br#"{"errorType":"E","errorCause":{"a":1},"errorMessage":"m"}"#);
        assert_eq!(without_cause(&document), r#"{"errorMessage":"m","errorType":"E"}"#);
        assert_eq!(without_cause(&Bytes::from_static(b"text")), "text");
    }

    #[test]
    fn trailers_tell_of_a_failed_stream() {
        let mut trailers = HeaderMap::new();
        assert_eq!(failure_of_stream(Some(&trailers)), None);
        trailers.insert(ERROR_TYPE, "Function.Half".parse().unwrap());
        let failure = failure_of_stream(Some(&trailers)).unwrap();
        assert_eq!(failure.document, r#"{"errorType":"Function.Half","errorMessage":""}"#);
        trailers.insert(ERROR_BODY, "e30=".parse().unwrap());
        let failure = failure_of_stream(Some(&trailers)).unwrap();
        assert_eq!((failure.logged_type().as_str(), &failure.document[..]), ("Function.Half", &b"{}"[..]));
    }
}
