//! Format 2.0: the event of HTTP APIs and function URLs, and what a function may answer there.
//!
//! Rules of the event: header names lower case, duplicates joined with `,`, cookies apart, absent things left out; a
//! body is plain text only for `text/*`, JSON, XML and JavaScript.
//! Rules of the answer: an object with `statusCode` is a structured answer; anything else is the body of a 200.
//! Start reading at `event` and `response`.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;

use super::{BodyText, Facts, Malformed, Members, Object, Pairs, append_header, decoded, grouped, is_of_connection};
use super::{flag_of, query_pairs, request_time, scalar_of, status_of, text_of, value_text};

/// What the matched route adds to the facts.
#[derive(Debug, Clone, Copy)]
pub struct Route<'a> {
    /// `GET /pets/{id}` or `$default`.
    pub key: &'a str,
    /// `$default` or the stage's name.
    pub stage: &'a str,
    /// Decoded path parameters.
    pub parameters: &'a [(Cow<'a, str>, Cow<'a, str>)],
    /// Stage variables.
    pub variables: Option<&'a BTreeMap<String, String>>,
}

impl Route<'_> {
    /// The only route of a function URL.
    pub const DEFAULT: Route<'static> = Route { key: "$default", stage: "$default", parameters: &[], variables: None };
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Event<'a> {
    version: &'static str,
    route_key: &'a str,
    raw_path: Cow<'a, str>,
    raw_query_string: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cookies: Vec<Cow<'a, str>>,
    headers: Headers<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    query_string_parameters: Option<Object<'a>>,
    request_context: Context<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_parameters: Option<Object<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stage_variables: Option<&'a BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<BodyText<'a>>,
    is_base64_encoded: bool,
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Context<'a> {
    account_id: &'a str,
    api_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    authorizer: Option<Authorizer<'a>>,
    domain_name: &'a str,
    domain_prefix: &'a str,
    http: Http<'a>,
    request_id: &'a str,
    route_key: &'a str,
    stage: &'a str,
    time: String,
    time_epoch: u64,
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Http<'a> {
    method: &'a str,
    path: &'a str,
    protocol: &'a str,
    source_ip: std::net::IpAddr,
    user_agent: Cow<'a, str>,
}

#[derive(serde::Serialize)]
struct Authorizer<'a> {
    iam: Iam<'a>,
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Iam<'a> {
    access_key: &'a str,
    account_id: &'a str,
    caller_id: &'a str,
    cognito_identity: Option<()>,
    principal_org_id: Option<()>,
    user_arn: &'a str,
    user_id: &'a str,
}

struct Headers<'a>(&'a Facts<'a>);

impl Serialize for Headers<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let facts = self.0;
        let mut map = serializer.serialize_map(None)?;
        for name in facts.headers.keys() {
            let name = name.as_str();
            if is_of_connection(name) || name == "cookie" || is_set_here(name) {
                continue;
            }
            let mut values = facts.headers.get_all(name).iter();
            let first = values.next().map(value_text).unwrap_or_default();
            match values.next() {
                None => map.serialize_entry(name, &first)?,
                Some(second) => {
                    let rest = std::iter::once(second).chain(values).map(value_text);
                    let joined = rest.fold(first.into_owned(), |joined, value| joined + "," + &value);
                    map.serialize_entry(name, &joined)?;
                }
            }
        }
        map.serialize_entry("x-amzn-trace-id", facts.trace_id)?;
        map.serialize_entry("x-forwarded-for", facts.forwarded_for)?;
        map.serialize_entry("x-forwarded-port", &facts.port.to_string())?;
        map.serialize_entry("x-forwarded-proto", facts.scheme)?;
        map.end()
    }
}

/// Headers that the front sets, whatever the client sent.
pub(crate) fn is_set_here(name: &str) -> bool {
    matches!(name, "x-amzn-trace-id" | "x-forwarded-for" | "x-forwarded-port" | "x-forwarded-proto")
}

/// The context that an event would have, as JSON.
pub fn context_json(facts: &Facts<'_>, route: &Route<'_>) -> Bytes {
    let raw_path = decoded(facts.path);
    written(&context(facts, route, &raw_path), 0)
}

fn context<'a>(facts: &Facts<'a>, route: &Route<'a>, raw_path: &'a str) -> Context<'a> {
    Context {
        account_id: facts.account,
        api_id: facts.id,
        authorizer: facts.caller.map(authorizer),
        domain_name: facts.domain,
        domain_prefix: facts.id,
        http: Http {
            method: facts.method,
            path: raw_path,
            protocol: facts.protocol,
            source_ip: facts.source_ip,
            user_agent: facts.headers.get(http::header::USER_AGENT).map(value_text).unwrap_or_default(),
        },
        request_id: facts.request_id,
        route_key: route.key,
        stage: route.stage,
        time: request_time(facts.now_ms),
        time_epoch: facts.now_ms,
    }
}

/// The event's bytes.
pub fn event(facts: &Facts<'_>, route: &Route<'_>) -> Bytes {
    let raw_path = decoded(facts.path);
    let query = joined(query_pairs(facts.query));
    let cookies = facts.headers.get_all(http::header::COOKIE).iter().flat_map(|value| match value_text(value) {
        Cow::Borrowed(text) => text.split("; ").map(Cow::Borrowed).collect::<Vec<_>>(),
        Cow::Owned(text) => text.split("; ").map(|cookie| Cow::Owned(cookie.to_owned())).collect(),
    });
    let body = body_text(facts);
    let event = Event {
        version: "2.0",
        route_key: route.key,
        raw_path: Cow::Borrowed(&raw_path),
        raw_query_string: facts.query,
        cookies: cookies.collect(),
        headers: Headers(facts),
        query_string_parameters: (!query.is_empty()).then_some(Object(&query)),
        request_context: context(facts, route, &raw_path),
        path_parameters: (!route.parameters.is_empty()).then_some(Object(route.parameters)),
        stage_variables: route.variables.filter(|variables| !variables.is_empty()),
        is_base64_encoded: matches!(body, Some(BodyText::Base64(_))),
        body,
    };
    written(&event, facts.body.len())
}

/// A value as JSON, with room for a body of this size.
pub(super) fn written<T: Serialize>(event: &T, body_bytes: usize) -> Bytes {
    let mut out = Vec::with_capacity(body_bytes / 3 * 4 + 2_048);
    // A vector takes every byte and the event holds no type that JSON lacks.
    let result = serde_json::to_writer(&mut out, event);
    debug_assert!(result.is_ok(), "{result:?}");
    Bytes::from(out)
}

fn authorizer(caller: &model::Principal) -> Authorizer<'_> {
    Authorizer {
        iam: Iam {
            access_key: &caller.access_key,
            account_id: caller.account.as_str(),
            caller_id: &caller.user_id,
            cognito_identity: None,
            principal_org_id: None,
            user_arn: &caller.arn,
            user_id: &caller.user_id,
        },
    }
}

fn body_text<'a>(facts: &Facts<'a>) -> Option<BodyText<'a>> {
    if facts.body.is_empty() {
        return None;
    }
    let media = facts.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let text = media.is_some_and(is_text).then(|| std::str::from_utf8(facts.body).ok()).flatten();
    Some(text.map_or(BodyText::Base64(facts.body), |text| BodyText::Plain(Cow::Borrowed(text))))
}

/// Whether a body of this media type is passed as plain text.
pub(super) fn is_text(content_type: &str) -> bool {
    let media = content_type.split(';').next().unwrap_or("").trim();
    let is = |wanted: &str| media.eq_ignore_ascii_case(wanted);
    media.get(..5).is_some_and(|head| head.eq_ignore_ascii_case("text/"))
        || is("application/json")
        || is("application/xml")
        || is("application/javascript")
}

/// Duplicates joined with commas, at the place of the first.
fn joined(pairs: Pairs<'_>) -> Pairs<'_> {
    let joined = |(name, mut values): (_, Vec<_>)| match values.len() {
        1 => (name, values.swap_remove(0)),
        _ => (name, Cow::Owned(values.join(","))),
    };
    grouped(pairs).into_iter().map(joined).collect()
}

/// Where an answer goes: the two fronts of this format differ in details.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Front {
    /// A function URL.
    FunctionUrl,
    /// An HTTP API.
    HttpApi,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Structured<'a> {
    #[serde(borrow)]
    status_code: Option<&'a RawValue>,
    #[serde(borrow)]
    headers: Option<&'a RawValue>,
    #[serde(borrow)]
    cookies: Option<&'a RawValue>,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
    #[serde(borrow)]
    is_base64_encoded: Option<&'a RawValue>,
}

/// The HTTP response that a function's answer means.
pub fn response(payload: &Bytes, front: Front) -> Result<Response<Bytes>, Malformed> {
    let first = payload.iter().find(|byte| !byte.is_ascii_whitespace());
    if first == Some(&b'{') {
        let structured = serde_json::from_slice::<Structured<'_>>(payload).ok();
        if let Some((status, parts)) = structured.and_then(|parts| parts.status_code.map(|status| (status, parts))) {
            return structured_response(payload, status, &parts, front);
        }
    }
    let body = match first {
        Some(b'"') => match serde_json::from_slice::<super::Text<'_>>(payload) {
            Ok(text) => shared(payload, text.0),
            Err(_) => payload.clone(),
        },
        _ => payload.clone(),
    };
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

fn structured_response(
    payload: &Bytes,
    status: &RawValue,
    parts: &Structured<'_>,
    front: Front,
) -> Result<Response<Bytes>, Malformed> {
    let body = body_bytes(payload, parts, front)?;
    let default = match front {
        Front::FunctionUrl => "application/json",
        Front::HttpApi => "text/plain;charset=UTF-8",
    };
    let mut response = head(Some(status), parts, default)?.map(|()| body);
    if is_without_body(response.status()) {
        response.body_mut().clear();
    }
    Ok(response)
}

/// Whether answers of a status have no body.
pub fn is_without_body(status: StatusCode) -> bool {
    matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// The head of a streamed answer, from the JSON before its body.
pub fn prelude(json: &[u8]) -> Result<Response<()>, Malformed> {
    let parts = serde_json::from_slice::<Structured<'_>>(json);
    let parts = parts.map_err(|_| Malformed("the stream's prelude is no JSON object"))?;
    head(parts.status_code, &parts, "application/octet-stream")
}

fn head(
    status: Option<&RawValue>,
    parts: &Structured<'_>,
    default_type: &'static str,
) -> Result<Response<()>, Malformed> {
    let mut response = Response::new(());
    if let Some(status) = status {
        *response.status_mut() = status_of(status)?;
    }
    let headers = response.headers_mut();
    if let Some(raw) = parts.headers {
        let members: Members<'_> = serde_json::from_str(raw.get()).map_err(|_| Malformed("headers is no object"))?;
        for (name, value) in &members.0 {
            let lower = name.0.to_ascii_lowercase();
            if is_of_connection(&lower) || lower == "content-length" {
                continue;
            }
            if let Some(value) = scalar_of(value)? {
                append_header(headers, &lower, &value)?;
            }
        }
    }
    if let Some(raw) = parts.cookies {
        let cookies: Vec<super::Text<'_>> =
            serde_json::from_str(raw.get()).map_err(|_| Malformed("cookies is no list of strings"))?;
        for cookie in cookies {
            append_header(headers, "set-cookie", &cookie.0)?;
        }
    }
    headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static(default_type));
    Ok(response)
}

fn body_bytes(payload: &Bytes, parts: &Structured<'_>, front: Front) -> Result<Bytes, Malformed> {
    let Some(raw) = parts.body else { return Ok(Bytes::new()) };
    let text = match text_of(raw) {
        Some(text) => text,
        None if front == Front::FunctionUrl => Cow::Borrowed(raw.get()),
        None => return Err(Malformed("body is no string")),
    };
    if flag_of(parts.is_base64_encoded) {
        return from_base64(&text);
    }
    Ok(shared(payload, text))
}

/// Decoded base64.
pub(super) fn from_base64(text: &str) -> Result<Bytes, Malformed> {
    let decoded = base64::engine::general_purpose::STANDARD.decode(text.trim_end());
    decoded.map(Bytes::from).map_err(|_| Malformed("body is no base64 although isBase64Encoded is true"))
}

/// Text as bytes; without a copy where it is a part of the payload.
pub(super) fn shared(payload: &Bytes, text: Cow<'_, str>) -> Bytes {
    match text {
        Cow::Borrowed(part) => payload.slice_ref(part.as_bytes()),
        Cow::Owned(text) => Bytes::from(text),
    }
}

#[cfg(test)]
mod tests;
