//! Events as HTTP requests for a web server, and its answers as what such an event's function answers. Pure.
//!
//! | event                                             | request                                  | answer               |
//! |---------------------------------------------------|------------------------------------------|----------------------|
//! | format 2.0 (function URLs, HTTP APIs)             | its method, path, query, headers, body   | format 2.0           |
//! | format 1.0 (REST APIs, HTTP APIs)                 | the same                                 | format 1.0           |
//! | a load balancer's (`requestContext.elb`)          | the same; its query is encoded already   | a load balancer's    |
//! | anything else                                     | POST of the event to the path for events | the body, as JSON    |
//!
//! Invariants
//!   1. Whatever an event holds, the request's target, names and values are such as HTTP can carry, or the event is refused.
//!   2. Headers of a connection are taken from neither side.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, COOKIE, HeaderMap, HeaderName, HeaderValue, SET_COOKIE};
use http::{Method, Request, StatusCode};
use serde_json::{Map, Value, json};

use super::headers::is_of_connection;

/// The header that carries an event's context.
pub(super) const REQUEST_CONTEXT: &str = "x-amzn-request-context";

/// In which form an answer goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// Format 2.0.
    V2,
    /// Format 1.0.
    V1,
    /// A load balancer's, with lists of values if the event had them.
    Balancer {
        /// Whether it had.
        lists: bool,
    },
    /// The event was no HTTP request.
    PassThrough,
}

/// The request that an event means. The error is in words for whoever sent it.
pub(super) fn request(payload: &Bytes, pass_through: &str) -> Result<(Shape, Request<Bytes>), String> {
    let event: Value = serde_json::from_slice(payload).unwrap_or(Value::Null);
    let context = event.get("requestContext");
    if event.get("version").and_then(Value::as_str) == Some("2.0")
        && let Some(method) = event.pointer("/requestContext/http/method").and_then(Value::as_str)
    {
        let path = text(&event, "rawPath").unwrap_or("/");
        let target = target(path, text(&event, "rawQueryString").unwrap_or("").to_owned());
        let mut request = plain(method, &target, &event)?;
        let cookies: Vec<&str> = list(event.get("cookies")).collect();
        if !cookies.is_empty() {
            request.headers_mut().insert(COOKIE, value(&cookies.join("; "))?);
        }
        return Ok((Shape::V2, with_context(request, context)?));
    }
    if let (Some(method), Some(path), Some(_)) = (text(&event, "httpMethod"), text(&event, "path"), context) {
        let balancer = event.pointer("/requestContext/elb").is_some();
        let lists = event.get("multiValueHeaders").is_some_and(Value::is_object);
        let shape = if balancer { Shape::Balancer { lists } } else { Shape::V1 };
        let request = plain(method, &target(path, query(&event, balancer)), &event)?;
        return Ok((shape, with_context(request, context)?));
    }
    let mut request = Request::new(payload.clone());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = pass_through.parse().map_err(|_| "the path for events is none".to_owned())?;
    request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    request.headers_mut().insert(REQUEST_CONTEXT, HeaderValue::from_static("null"));
    Ok((Shape::PassThrough, request))
}

fn text<'a>(event: &'a Value, member: &str) -> Option<&'a str> {
    event.get(member)?.as_str()
}

fn list(value: Option<&Value>) -> impl Iterator<Item = &str> {
    value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

/// Path and query as a request's target has them. What is encoded stays as it is.
fn target(path: &str, query: String) -> String {
    let mut out = String::with_capacity(path.len() + query.len() + 1);
    if !path.starts_with('/') {
        out.push('/');
    }
    encode(&mut out, path, |byte| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/%".contains(&byte));
    if !query.is_empty() {
        out.push('?');
        encode(&mut out, &query, |byte| byte.is_ascii_graphic() && !b"\"<>#".contains(&byte));
    }
    out
}

fn encode(out: &mut String, text: &str, plain: impl Fn(u8) -> bool) {
    for byte in text.bytes() {
        if plain(byte) {
            out.push(char::from(byte));
        } else {
            // A string takes every character.
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

/// The query of an event whose parameters are an object.
fn query(event: &Value, encoded: bool) -> String {
    let mut pairs: Vec<(&str, &str)> = Vec::new();
    let many = event.get("multiValueQueryStringParameters").and_then(Value::as_object);
    for (name, values) in many.into_iter().flatten() {
        pairs.extend(list(Some(values)).map(|value| (name.as_str(), value)));
    }
    if pairs.is_empty() {
        let single = event.get("queryStringParameters").and_then(Value::as_object);
        let single = single.into_iter().flatten();
        pairs.extend(single.filter_map(|(name, value)| Some((name.as_str(), value.as_str()?))));
    }
    let mut out = String::new();
    for (name, value) in pairs {
        if !out.is_empty() {
            out.push('&');
        }
        if encoded {
            let _ = write!(out, "{name}={value}");
        } else {
            let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
            encode(&mut out, name, unreserved);
            out.push('=');
            encode(&mut out, value, unreserved);
        }
    }
    out
}

fn plain(method: &str, target: &str, event: &Value) -> Result<Request<Bytes>, String> {
    let mut request = Request::new(body(event)?);
    *request.method_mut() = Method::from_bytes(method.as_bytes()).map_err(|_| format!("{method:?} is no method"))?;
    *request.uri_mut() = target.parse().map_err(|_| format!("{target:?} is no path with a query"))?;
    let headers = request.headers_mut();
    let many = event.get("multiValueHeaders").and_then(Value::as_object);
    for (name, values) in many.into_iter().flatten() {
        list(Some(values)).try_for_each(|value| append(headers, name, value))?;
    }
    let single = event.get("headers").and_then(Value::as_object).filter(|_| many.is_none());
    for (name, value) in single.into_iter().flatten() {
        value.as_str().map_or(Ok(()), |value| append(headers, name, value))?;
    }
    Ok(request)
}

fn append(headers: &mut HeaderMap, name: &str, text: &str) -> Result<(), String> {
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("{name:?} is no name of a header"))?;
    if !is_of_connection(&name) && name != http::header::CONTENT_LENGTH {
        headers.append(name, value(text)?);
    }
    Ok(())
}

fn value(text: &str) -> Result<HeaderValue, String> {
    HeaderValue::from_bytes(text.as_bytes()).map_err(|_| format!("{text:?} is no value of a header"))
}

fn body(event: &Value) -> Result<Bytes, String> {
    let Some(text) = text(event, "body") else { return Ok(Bytes::new()) };
    if event.get("isBase64Encoded").and_then(Value::as_bool) == Some(true) {
        return STANDARD.decode(text).map(Bytes::from).map_err(|_| "the body is no base64".to_owned());
    }
    Ok(Bytes::copy_from_slice(text.as_bytes()))
}

fn with_context(mut request: Request<Bytes>, context: Option<&Value>) -> Result<Request<Bytes>, String> {
    let json = context.map(Value::to_string).unwrap_or_else(|| "null".to_owned());
    request.headers_mut().insert(REQUEST_CONTEXT, value(&json)?);
    Ok(request)
}

/// The answer to an event.
pub(super) fn answer(shape: Shape, status: StatusCode, headers: &HeaderMap, body: &Bytes) -> Bytes {
    if shape == Shape::PassThrough {
        let is_json = !body.is_empty() && serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok();
        return if is_json { body.clone() } else { Value::from(String::from_utf8_lossy(body)).to_string().into() };
    }
    let mut out = head(shape, status, headers);
    let plain = std::str::from_utf8(body).ok().filter(|_| is_text(headers));
    out.insert("isBase64Encoded".to_owned(), plain.is_none().into());
    out.insert("body".to_owned(), plain.map_or_else(|| STANDARD.encode(body), str::to_owned).into());
    Value::Object(out).to_string().into()
}

/// What stands before the body of a streamed answer.
pub(super) fn prelude(status: StatusCode, headers: &HeaderMap) -> Bytes {
    let mut out = Value::Object(head(Shape::V2, status, headers)).to_string().into_bytes();
    out.extend_from_slice(&[0; 8]);
    out.into()
}

fn head(shape: Shape, status: StatusCode, headers: &HeaderMap) -> Map<String, Value> {
    let mut out = Map::new();
    out.insert("statusCode".to_owned(), status.as_u16().into());
    let own = |name: &HeaderName| !is_of_connection(name);
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let values = |name: &HeaderName| headers.get_all(name).iter().map(text).collect::<Vec<_>>();
    let lists = || -> Map<String, Value> {
        headers.keys().filter(|name| own(name)).map(|name| (name.to_string(), json!(values(name)))).collect()
    };
    let joined = |all: bool| -> Map<String, Value> {
        let names = headers.keys().filter(|name| own(name) && (all || *name != SET_COOKIE));
        names.map(|name| (name.to_string(), Value::from(values(name).join(",")))).collect()
    };
    match shape {
        Shape::V2 | Shape::PassThrough => {
            out.insert("headers".to_owned(), joined(false).into());
            out.insert("cookies".to_owned(), json!(values(&SET_COOKIE)));
        }
        Shape::V1 => {
            out.insert("headers".to_owned(), joined(true).into());
            out.insert("multiValueHeaders".to_owned(), lists().into());
        }
        Shape::Balancer { lists: many } => {
            let reason = status.canonical_reason().unwrap_or("");
            out.insert("statusDescription".to_owned(), format!("{} {reason}", status.as_u16()).trim_end().into());
            let (member, all) = if many { ("multiValueHeaders", lists()) } else { ("headers", joined(true)) };
            out.insert(member.to_owned(), all.into());
        }
    }
    out
}

/// Whether a body goes as text: by its type, unless it is encoded in a way that only its reader knows.
fn is_text(headers: &HeaderMap) -> bool {
    if headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        return false;
    }
    let Some(content_type) = headers.get(CONTENT_TYPE) else { return true };
    let media = String::from_utf8_lossy(content_type.as_bytes()).to_ascii_lowercase();
    let media = media.split(';').next().unwrap_or("").trim();
    media.starts_with("text/")
        || media.ends_with("+json")
        || media.ends_with("+xml")
        || matches!(
            media,
            "application/json" | "application/xml" | "application/javascript" | "application/x-www-form-urlencoded"
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(event: Value) -> (Shape, Request<Bytes>) {
        request(&event.to_string().into(), "/events").unwrap()
    }

    fn answered(shape: Shape, headers: &[(&str, &str)], body: &'static [u8]) -> Value {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        serde_json::from_slice(&answer(shape, StatusCode::CREATED, &map, &Bytes::from_static(body))).unwrap()
    }

    #[test]
    fn format_2_becomes_the_request_that_it_tells_of() {
        let (shape, request) = read(json!({
            "version": "2.0", "rawPath": "/a b/é%2F", "rawQueryString": "x=1&y=%20", "cookies": ["a=1", "b=2"],
            "headers": {"Host": "h", "Connection": "close", "content-length": "9", "x-a": "1,2"},
            "requestContext": {"http": {"method": "PUT"}}, "body": "aGk=", "isBase64Encoded": true,
        }));
        assert_eq!(shape, Shape::V2);
        assert_eq!(
            (request.method().as_str(), request.uri().to_string().as_str()),
            ("PUT", "/a%20b/%C3%A9%2F?x=1&y=%20")
        );
        assert_eq!((request.headers()["cookie"].as_bytes(), request.body().as_ref()), (&b"a=1; b=2"[..], &b"hi"[..]));
        assert_eq!(request.headers()[REQUEST_CONTEXT], r#"{"http":{"method":"PUT"}}"#);
        assert!(!request.headers().contains_key("connection") && !request.headers().contains_key("content-length"));
    }

    #[test]
    fn format_1_and_load_balancers_differ_in_their_query() {
        let event = |context: Value| {
            json!({
                "httpMethod": "GET", "path": "/p", "requestContext": context, "body": null,
                "multiValueQueryStringParameters": {"q": ["a b", "c"]}, "headers": {"x": "last"},
                "multiValueHeaders": {"x": ["first", "last"]},
            })
        };
        let (shape, request) = read(event(json!({"stage": "prod"})));
        assert_eq!((shape, request.uri().to_string().as_str()), (Shape::V1, "/p?q=a%20b&q=c"));
        assert_eq!(request.headers().get_all("x").iter().count(), 2);
        let mut balanced = event(json!({"elb": {}}));
        balanced["multiValueQueryStringParameters"] = json!({"q": ["a%20b"]});
        let (shape, request) = read(balanced);
        assert_eq!((shape, request.uri().to_string().as_str()), (Shape::Balancer { lists: true }, "/p?q=a%20b"));
    }

    #[test]
    fn whatever_else_comes_is_posted() {
        for event in [json!({"Records": []}), json!(7), json!({"version": "2.0"}), json!({"httpMethod": "GET"})] {
            let (shape, request) = read(event.clone());
            assert_eq!((shape, request.method(), request.uri().path()), (Shape::PassThrough, &Method::POST, "/events"));
            assert_eq!(request.body(), &event.to_string());
        }
    }

    #[test]
    fn what_http_cannot_carry_is_refused() {
        let event = |method: &str, name: &str, value: &str| {
            json!({"version": "2.0", "requestContext": {"http": {"method": method}}, "headers": {name: value}})
                .to_string()
        };
        for (method, name, value) in [("GE T", "a", "b"), ("GET", "a b", "c"), ("GET", "a", "b\r\nc: d")] {
            assert!(request(&event(method, name, value).into(), "/events").is_err(), "{method} {name} {value:?}");
        }
        let (_, request) = read(
            json!({"version": "2.0", "rawPath": "/ HTTP/1.1\r\nx: y", "requestContext": {"http": {"method": "GET"}}}),
        );
        assert_eq!(request.uri().path(), "/%20HTTP/1.1%0D%0Ax:%20y");
    }

    #[test]
    fn answers_have_the_form_of_their_event() {
        let headers =
            [("set-cookie", "a=1"), ("set-cookie", "b=2"), ("content-type", "text/plain"), ("connection", "close")];
        let v2 = answered(Shape::V2, &headers, b"hi");
        assert_eq!(
            (&v2["statusCode"], &v2["cookies"], &v2["body"]),
            (&json!(201), &json!(["a=1", "b=2"]), &json!("hi"))
        );
        assert_eq!(v2["headers"], json!({"content-type": "text/plain"}));
        let v1 = answered(Shape::V1, &headers, b"hi");
        assert_eq!(v1["multiValueHeaders"]["set-cookie"], json!(["a=1", "b=2"]));
        let balanced = answered(Shape::Balancer { lists: false }, &[("x", "1")], b"\xff");
        assert_eq!(
            (&balanced["statusDescription"], &balanced["isBase64Encoded"]),
            (&json!("201 Created"), &json!(true))
        );
        assert_eq!(balanced["body"], "/w==");
        assert_eq!(
            answered(Shape::V2, &[("content-encoding", "gzip"), ("content-type", "text/html")], b"x")["body"],
            "eA=="
        );
        assert_eq!(answered(Shape::PassThrough, &[], b"{\"a\":1}"), json!({"a": 1}));
        assert_eq!(answered(Shape::PassThrough, &[], b"done"), json!("done"));
        assert_eq!(answered(Shape::PassThrough, &[], b""), json!(""));
    }
}
