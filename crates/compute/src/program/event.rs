//! Events as HTTP requests for programs that take such, and their responses as functions' answers. Pure.
//!
//! | event                                   | request                                   | answer                         |
//! |-----------------------------------------|-------------------------------------------|--------------------------------|
//! | of a function URL or an HTTP API (2.0)  | what the client sent                      | `statusCode`, `headers`, …     |
//! | of a REST API (1.0)                     | what the client sent                      | the same, `multiValueHeaders`  |
//! | any other                               | `POST /events` with the event as its body | the body of a success, as it is|
//!
//! A request tells of its call by `x-amzn-lambda-context`, one that came by HTTP also by `x-amzn-request-context`, as the
//! event has it: the names that AWS's adapter for web servers gives them.
//!
//! Start reading at `read`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Deref;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Builder;
use http::{Method, Request};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Where events go that are no HTTP requests.
const EVENTS_PATH: &str = "/events";
/// Content type of streams that begin with status, headers and cookies.
pub(crate) const PRELUDE_TYPE: &str = "application/vnd.awslambda.http-integration-response";
/// Between these and the body.
pub(crate) const PRELUDE_END: &[u8] = &[0; 8];
/// What an answer's head takes as a rule, in bytes.
const HEAD_BYTES: usize = 512;

/// What an answer has to look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// As format 2.0 has it.
    Two,
    /// As format 1.0 has it.
    One,
    /// The body alone.
    Bare,
}

/// A JSON string, borrowed where it has no escapes.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

/// What is read of an event to tell whether it is an HTTP request.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event<'a> {
    #[serde(borrow, default)]
    request_context: Option<&'a RawValue>,
    #[serde(borrow, default)]
    http_method: Option<Text<'a>>,
    #[serde(borrow, default)]
    path: Option<Text<'a>>,
    #[serde(borrow, default)]
    raw_path: Option<Text<'a>>,
    #[serde(borrow, default)]
    raw_query_string: Option<Text<'a>>,
    #[serde(borrow, default)]
    cookies: Vec<Text<'a>>,
    #[serde(borrow, default)]
    headers: Option<BTreeMap<Text<'a>, Text<'a>>>,
    #[serde(borrow, default)]
    multi_value_headers: Option<BTreeMap<Text<'a>, Vec<Text<'a>>>>,
    #[serde(borrow, default)]
    query_string_parameters: Option<BTreeMap<Text<'a>, Text<'a>>>,
    #[serde(borrow, default)]
    multi_value_query_string_parameters: Option<BTreeMap<Text<'a>, Vec<Text<'a>>>>,
    #[serde(borrow, default)]
    body: Option<Text<'a>>,
    #[serde(default)]
    is_base64_encoded: bool,
}

#[derive(Deserialize)]
struct Context<'a> {
    #[serde(borrow, default)]
    http: Option<HttpContext<'a>>,
}

#[derive(Deserialize)]
struct HttpContext<'a> {
    #[serde(borrow)]
    method: Text<'a>,
}

/// The request that an event stands for, and what its answer has to look like. `about` is said of the call.
pub(crate) fn read(payload: &Bytes, about: &str) -> (Request<Bytes>, Shape) {
    if let Ok(event) = serde_json::from_slice::<Event<'_>>(payload)
        && let Some(found) = http_request(&event, payload, about)
    {
        return found;
    }
    let mut request = Request::new(payload.clone());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = http::Uri::from_static(EVENTS_PATH);
    let headers = request.headers_mut();
    headers.insert(header::HOST, HeaderValue::from_static("localhost"));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(payload.len()));
    put(headers, "x-amzn-lambda-context", about);
    (request, Shape::Bare)
}

fn http_request(event: &Event<'_>, payload: &Bytes, about: &str) -> Option<(Request<Bytes>, Shape)> {
    let context = event.request_context?;
    let two = serde_json::from_str::<Context<'_>>(context.get()).ok().and_then(|context| context.http);
    let (shape, method, target) = match (two, &event.raw_path, &event.http_method, &event.path) {
        (Some(http), Some(path), ..) => (Shape::Two, http.method.0, target(path, event.raw_query_string.as_deref())),
        (None, _, Some(method), Some(path)) => (Shape::One, method.0.clone(), target(path, query(event).as_deref())),
        _ => return None,
    };
    let body = match (&event.body, event.is_base64_encoded) {
        (None, _) => Bytes::new(),
        (Some(Text(Cow::Borrowed(part))), false) => payload.slice_ref(part.as_bytes()),
        (Some(text), false) => Bytes::copy_from_slice(text.as_bytes()),
        (Some(text), true) => BASE64.decode(text.as_bytes()).ok()?.into(),
    };
    let mut request = Builder::new().method(method.as_bytes()).uri(target).body(body).ok()?;
    let length = request.body().len();
    let headers = request.headers_mut();
    match (&event.multi_value_headers, &event.headers) {
        (Some(many), _) => {
            many.iter().for_each(|(name, values)| values.iter().for_each(|value| put(headers, name, value)))
        }
        (None, Some(one)) => one.iter().for_each(|(name, value)| put(headers, name, value)),
        (None, None) => {}
    }
    if !event.cookies.is_empty() {
        let cookies: Vec<&str> = event.cookies.iter().map(|cookie| &**cookie).collect();
        put(headers, "cookie", &cookies.join("; "));
    }
    if !headers.contains_key(header::HOST) {
        headers.insert(header::HOST, HeaderValue::from_static("localhost"));
    }
    if length > 0 {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    for name in ["x-amzn-lambda-context", "x-amzn-request-context"] {
        // Said by the platform alone.
        headers.remove(name);
    }
    put(headers, "x-amzn-lambda-context", about);
    put(headers, "x-amzn-request-context", context.get());
    Some((request, shape))
}

/// Appends a header; what can be none is left out.
fn put(headers: &mut HeaderMap, name: &str, value: &str) {
    if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value.as_bytes()))
    {
        headers.append(name, value);
    }
}

/// A path as it stands in a request line. Events have it decoded.
fn target(path: &str, query: Option<&str>) -> String {
    let mut target = String::with_capacity(path.len() + 16);
    if !path.starts_with('/') {
        target.push('/');
    }
    encode(&mut target, path, |byte| b"/-._~!$&'()*+,;=:@%".contains(&byte));
    if let Some(query) = query.filter(|query| !query.is_empty()) {
        target.push('?');
        encode(&mut target, query, |byte| b"/-._~!$&'()*+,;=:@%?".contains(&byte));
    }
    target
}

fn query(event: &Event<'_>) -> Option<String> {
    let mut query = String::new();
    let mut pair = |name: &str, value: &str| {
        if !query.is_empty() {
            query.push('&');
        }
        encode(&mut query, name, |byte| b"-._~".contains(&byte));
        query.push('=');
        encode(&mut query, value, |byte| b"-._~".contains(&byte));
    };
    match (&event.multi_value_query_string_parameters, &event.query_string_parameters) {
        (Some(many), _) => many.iter().for_each(|(name, values)| values.iter().for_each(|value| pair(name, value))),
        (None, Some(one)) => one.iter().for_each(|(name, value)| pair(name, value)),
        (None, None) => return None,
    }
    Some(query)
}

fn encode(out: &mut String, text: &str, is_plain: impl Fn(u8) -> bool) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || is_plain(byte) {
            out.push(char::from(byte));
        } else {
            // A string takes everything.
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

/// Status, headers and cookies of a streamed answer.
pub(crate) fn prelude(head: &http::response::Parts) -> Bytes {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Prelude<'a> {
        status_code: u16,
        headers: BTreeMap<&'a str, Cow<'a, str>>,
        cookies: Vec<Cow<'a, str>>,
    }
    let (headers, cookies) = joined(&head.headers);
    let prelude = Prelude { status_code: head.status.as_u16(), headers, cookies };
    let mut bytes = serde_json::to_vec(&prelude).unwrap_or_default();
    bytes.extend_from_slice(PRELUDE_END);
    bytes.into()
}

/// A whole answer, as its shape wants it.
pub(crate) fn answer(head: &http::response::Parts, body: &Bytes, shape: Shape) -> Bytes {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Answer<'a> {
        status_code: u16,
        #[serde(skip_serializing_if = "Option::is_none")]
        headers: Option<BTreeMap<&'a str, Cow<'a, str>>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        cookies: Option<Vec<Cow<'a, str>>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        multi_value_headers: Option<BTreeMap<&'a str, Vec<Cow<'a, str>>>>,
        body: Cow<'a, str>,
        is_base64_encoded: bool,
    }
    let plain = !head.headers.contains_key(header::CONTENT_ENCODING);
    let text = std::str::from_utf8(body).ok().filter(|_| plain);
    let (headers, cookies, many) = match shape {
        Shape::One => (None, None, Some(listed(&head.headers))),
        _ => {
            let (headers, cookies) = joined(&head.headers);
            (Some(headers), Some(cookies).filter(|cookies| !cookies.is_empty()), None)
        }
    };
    let answer = Answer {
        status_code: head.status.as_u16(),
        headers,
        cookies,
        multi_value_headers: many,
        is_base64_encoded: text.is_none(),
        body: text.map_or_else(|| BASE64.encode(body).into(), Into::into),
    };
    let mut out = Vec::with_capacity(answer.body.len() + HEAD_BYTES);
    // A vector takes every byte, and an answer holds no type that JSON lacks.
    let written = serde_json::to_writer(&mut out, &answer);
    debug_assert!(written.is_ok(), "{written:?}");
    out.into()
}

fn value_text(value: &HeaderValue) -> Cow<'_, str> {
    String::from_utf8_lossy(value.as_bytes())
}

fn joined(headers: &HeaderMap) -> (BTreeMap<&str, Cow<'_, str>>, Vec<Cow<'_, str>>) {
    let (mut one, mut cookies) = (BTreeMap::<&str, Cow<'_, str>>::new(), Vec::new());
    for (name, value) in headers {
        if name == header::SET_COOKIE {
            cookies.push(value_text(value));
            continue;
        }
        let text = value_text(value);
        one.entry(name.as_str()).and_modify(|held| *held = format!("{held},{text}").into()).or_insert(text);
    }
    (one, cookies)
}

fn listed(headers: &HeaderMap) -> BTreeMap<&str, Vec<Cow<'_, str>>> {
    let mut many = BTreeMap::<&str, Vec<Cow<'_, str>>>::new();
    for (name, value) in headers {
        many.entry(name.as_str()).or_default().push(value_text(value));
    }
    many
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn read_json(event: &Value) -> (Request<Bytes>, Shape) {
        read(&event.to_string().into(), "{}")
    }

    fn head(status: u16, headers: &[(&str, &str)]) -> http::response::Parts {
        let mut builder = http::Response::builder().status(status);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    #[test]
    fn an_event_of_a_url_is_the_request_that_the_client_sent() {
        let (request, shape) = read_json(&json!({
            "version": "2.0", "rawPath": "/a b/ü", "rawQueryString": "x=1&y=%20", "cookies": ["c=1", "d=2"],
            "headers": {"host": "h.example", "x-a": "1,2", "x-amzn-lambda-context": "a client's"},
            "requestContext": {"http": {"method": "PUT"}, "accountId": "1"},
            "body": "aGk=", "isBase64Encoded": true,
        }));
        assert_eq!((shape, request.method().as_str()), (Shape::Two, "PUT"));
        assert_eq!(request.uri().to_string(), "/a%20b/%C3%BC?x=1&y=%20");
        assert_eq!(request.body(), "hi");
        let of = |name: &str| request.headers()[name].to_str().unwrap().to_owned();
        assert_eq!((of("host"), of("x-a"), of("cookie")), ("h.example".into(), "1,2".into(), "c=1; d=2".into()));
        assert_eq!((of("content-length"), of("x-amzn-lambda-context")), ("2".into(), "{}".into()));
        assert!(of("x-amzn-request-context").contains("accountId"));
    }

    #[test]
    fn what_has_escapes_is_read_like_what_has_none() {
        let (request, _) = read_json(&json!({
            "rawPath": "/\"a\"", "rawQueryString": "q=\\", "cookies": ["c=\"1\""], "headers": {"x-\u{1}": "1", "x-b": "\"2\""},
            "requestContext": {"http": {"method": "POST"}}, "body": "a\n\"b\"",
        }));
        assert_eq!((request.uri().to_string(), &request.body()[..]), ("/%22a%22?q=%5C".to_owned(), &b"a\n\"b\""[..]));
        assert_eq!(request.headers()["cookie"], "c=\"1\"");
        assert_eq!(request.headers()["x-b"], "\"2\"");
        let plain = Bytes::from(r#"{"rawPath":"/","requestContext":{"http":{"method":"PUT"}},"body":"plain"}"#);
        let (request, _) = read(&plain, "{}");
        let within = plain.as_ptr_range().contains(&request.body().as_ptr());
        assert!(within && request.body() == "plain", "a body without escapes is no copy");
    }

    #[test]
    fn an_event_of_a_rest_api_keeps_every_value() {
        let (request, shape) = read_json(&json!({
            "httpMethod": "GET", "path": "/p", "requestContext": {"stage": "s"}, "body": null, "isBase64Encoded": false,
            "multiValueHeaders": {"X-A": ["1", "2"], "Host": ["h"]},
            "multiValueQueryStringParameters": {"q": ["a b", "&"]},
        }));
        assert_eq!((shape, request.uri().to_string()), (Shape::One, "/p?q=a%20b&q=%26".to_owned()));
        assert_eq!(request.headers().get_all("x-a").iter().count(), 2);
        let answer = answer(&head(201, &[("x-b", "1"), ("x-b", "2")]), &"ü".into(), Shape::One);
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(
            answer,
            json!({"statusCode": 201, "multiValueHeaders": {"x-b": ["1", "2"]}, "body": "ü", "isBase64Encoded": false})
        );
    }

    #[test]
    fn any_other_event_is_posted() {
        for event in [json!({"Records": []}), json!({"requestContext": {}}), json!("text"), json!({"headers": 7})] {
            let (request, shape) = read_json(&event);
            assert_eq!((shape, request.method().as_str(), request.uri().path()), (Shape::Bare, "POST", "/events"));
            assert_eq!(request.body(), &event.to_string());
        }
    }

    #[test]
    fn bodies_that_are_no_text_are_encoded() {
        let of = |headers: &[(&str, &str)], body: &'static [u8]| {
            let answer = answer(&head(200, headers), &Bytes::from_static(body), Shape::Two);
            serde_json::from_slice::<Value>(&answer).unwrap()
        };
        assert_eq!(of(&[("set-cookie", "a=1"), ("set-cookie", "b=2")], b"x")["cookies"], json!(["a=1", "b=2"]));
        assert_eq!(of(&[], &[0xff])["body"], "/w==");
        assert_eq!(of(&[("content-encoding", "gzip")], b"text")["isBase64Encoded"], true);
    }

    proptest! {
        #[test]
        fn every_event_becomes_a_request(payload: Vec<u8>, path in "\\PC*", query in "\\PC*", method in "[A-Z]{1,7}") {
            read(&payload.into(), "{}");
            let event = json!({"rawPath": path, "rawQueryString": query, "requestContext": {"http": {"method": method}}});
            let (request, shape) = read_json(&event);
            prop_assert_eq!((shape, request.method().as_str()), (Shape::Two, method.as_str()));
        }
    }
}
