//! Format 1.0: the event of REST APIs (and of HTTP APIs that ask for it), and what a function may answer there.
//!
//! Rules of the event: single maps hold the last of several values, multi-value maps all; empty maps and bodies are
//! `null`; `path` keeps its percent-encoding and, in REST, has no stage.
//! Rules of the answer: an object with the five known members and no other; everything else is malformed.
//! Start reading at `event` and `response`.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Response, StatusCode};
use serde_json::value::RawValue;

use super::v2::{from_base64, is_set_here, shared, written};
use super::{BodyText, Facts, Lasts, Lists, Malformed, Members, Multi, Object, append_header, flag_of, grouped};
use super::{query_pairs, request_time, scalar_of, status_of, text_of, value_text};

/// What the matched resource adds to the facts.
#[derive(Debug, Clone, Copy)]
pub struct Route<'a> {
    /// `1.0` in HTTP APIs; REST events have no version.
    pub version: Option<&'static str>,
    /// `/pets/{id}`
    pub resource: &'a str,
    /// The resource's id; in HTTP APIs the route key.
    pub resource_id: &'a str,
    /// Path for `path`.
    pub path: &'a str,
    /// Path for `requestContext.path`, with the stage.
    pub full_path: &'a str,
    /// The stage's name.
    pub stage: &'a str,
    /// The deployment, where there is one.
    pub deployment_id: &'a str,
    /// Path parameters.
    pub parameters: &'a [(Cow<'a, str>, Cow<'a, str>)],
    /// Stage variables.
    pub variables: &'a BTreeMap<String, String>,
    /// Media types whose bodies are passed as base64. `None`: by the rule of HTTP APIs.
    pub binary_media_types: Option<&'a [String]>,
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Event<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'static str>,
    resource: &'a str,
    path: &'a str,
    http_method: &'a str,
    headers: Option<Lasts<'a>>,
    multi_value_headers: Option<Lists<'a>>,
    query_string_parameters: Option<Lasts<'a>>,
    multi_value_query_string_parameters: Option<Lists<'a>>,
    path_parameters: Option<Object<'a>>,
    stage_variables: Option<&'a BTreeMap<String, String>>,
    request_context: Context<'a>,
    body: Option<BodyText<'a>>,
    is_base64_encoded: bool,
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Context<'a> {
    account_id: &'a str,
    api_id: &'a str,
    deployment_id: &'a str,
    domain_name: &'a str,
    domain_prefix: &'a str,
    extended_request_id: &'a str,
    http_method: &'a str,
    identity: Identity<'a>,
    path: &'a str,
    protocol: &'a str,
    request_id: &'a str,
    request_time: String,
    request_time_epoch: u64,
    resource_id: &'a str,
    resource_path: &'a str,
    stage: &'a str,
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Identity<'a> {
    access_key: Option<&'a str>,
    account_id: Option<&'a str>,
    caller: Option<&'a str>,
    cognito_authentication_provider: Option<()>,
    cognito_authentication_type: Option<()>,
    cognito_identity_id: Option<()>,
    cognito_identity_pool_id: Option<()>,
    principal_org_id: Option<()>,
    source_ip: std::net::IpAddr,
    user: Option<&'a str>,
    user_agent: Option<Cow<'a, str>>,
    user_arn: Option<&'a str>,
}

/// The event's bytes. `extended_request_id` is the second id of REST APIs.
pub fn event(facts: &Facts<'_>, route: &Route<'_>, extended_request_id: &str) -> Bytes {
    let headers = headers_of(facts);
    let query = grouped(query_pairs(facts.query));
    let body = body_text(facts, route);
    let event = Event {
        version: route.version,
        resource: route.resource,
        path: route.path,
        http_method: facts.method,
        headers: (!headers.is_empty()).then_some(Lasts(&headers)),
        multi_value_headers: (!headers.is_empty()).then_some(Lists(&headers)),
        query_string_parameters: (!query.is_empty()).then_some(Lasts(&query)),
        multi_value_query_string_parameters: (!query.is_empty()).then_some(Lists(&query)),
        path_parameters: (!route.parameters.is_empty()).then_some(Object(route.parameters)),
        stage_variables: (!route.variables.is_empty()).then_some(route.variables),
        request_context: context(facts, route, extended_request_id),
        is_base64_encoded: matches!(body, Some(BodyText::Base64(_))),
        body,
    };
    written(&event, facts.body.len())
}

/// The context that an event would have, as JSON.
pub fn context_json(facts: &Facts<'_>, route: &Route<'_>, extended_request_id: &str) -> Bytes {
    written(&context(facts, route, extended_request_id), 0)
}

fn context<'a>(facts: &Facts<'a>, route: &Route<'a>, extended_request_id: &'a str) -> Context<'a> {
    Context {
        account_id: facts.account,
        api_id: facts.id,
        deployment_id: route.deployment_id,
        domain_name: facts.domain,
        domain_prefix: facts.id,
        extended_request_id,
        http_method: facts.method,
        identity: Identity {
            access_key: facts.caller.map(|caller| caller.access_key.as_str()),
            account_id: facts.caller.map(|caller| caller.account.as_str()),
            caller: facts.caller.map(|caller| caller.user_id.as_str()),
            cognito_authentication_provider: None,
            cognito_authentication_type: None,
            cognito_identity_id: None,
            cognito_identity_pool_id: None,
            principal_org_id: None,
            source_ip: facts.source_ip,
            user: facts.caller.map(|caller| caller.user_id.as_str()),
            user_agent: facts.headers.get(http::header::USER_AGENT).map(value_text),
            user_arn: facts.caller.map(|caller| caller.arn.as_str()),
        },
        path: route.full_path,
        protocol: facts.protocol,
        request_id: facts.request_id,
        request_time: request_time(facts.now_ms),
        request_time_epoch: facts.now_ms,
        resource_id: route.resource_id,
        resource_path: route.resource,
        stage: route.stage,
    }
}

fn headers_of<'a>(facts: &Facts<'a>) -> Multi<'a> {
    let mut out: Multi<'a> = Vec::with_capacity(facts.headers.keys_len() + 4);
    for name in facts.headers.keys() {
        let lower = name.as_str();
        if is_dropped(lower) || is_set_here(lower) {
            continue;
        }
        let spelled = match lower {
            "authorization" => "Authorization",
            "user-agent" => "User-Agent",
            "host" => "Host",
            _ => facts.spelling.of(lower),
        };
        out.push((Cow::Borrowed(spelled), facts.headers.get_all(name).iter().map(value_text).collect()));
    }
    out.push(("X-Amzn-Trace-Id".into(), vec![facts.trace_id.into()]));
    out.push(("X-Forwarded-For".into(), vec![facts.forwarded_for.into()]));
    out.push(("X-Forwarded-Port".into(), vec![facts.port.to_string().into()]));
    out.push(("X-Forwarded-Proto".into(), vec![facts.scheme.into()]));
    out
}

/// Request headers that never reach a function. Source: API Gateway's table of restricted headers.
fn is_dropped(name: &str) -> bool {
    super::is_of_connection(name)
        || matches!(
            name,
            "content-length"
                | "content-md5"
                | "expect"
                | "max-forwards"
                | "proxy-authenticate"
                | "server"
                | "www-authenticate"
        )
}

fn body_text<'a>(facts: &Facts<'a>, route: &Route<'_>) -> Option<BodyText<'a>> {
    if facts.body.is_empty() {
        return None;
    }
    let media = facts.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let binary = match route.binary_media_types {
        Some(types) => matches_media(types, media),
        None => !super::v2::is_text(media) || std::str::from_utf8(facts.body).is_err(),
    };
    Some(if binary { BodyText::Base64(facts.body) } else { BodyText::Plain(String::from_utf8_lossy(facts.body)) })
}

/// Whether a media type is one of these: exact, `type/*` or `*/*`.
fn matches_media(types: &[String], media: &str) -> bool {
    let media = media.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    types.iter().any(|wanted| {
        let wanted = wanted.to_ascii_lowercase();
        wanted == "*/*"
            || wanted == media
            || wanted.strip_suffix('*').is_some_and(|head| head.ends_with('/') && media.starts_with(head))
    })
}

/// How an answer is read.
#[derive(Debug, Clone, Copy)]
pub enum Reading<'a> {
    /// A REST API: base64 is decoded only where the client's `Accept` fits these media types.
    Rest {
        /// The API's binary media types.
        binary_media_types: &'a [String],
        /// The client's `Accept`.
        accept: &'a str,
    },
    /// Format 1.0 in an HTTP API: base64 is always decoded.
    HttpApi,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Answer<'a> {
    #[serde(borrow)]
    status_code: Option<&'a RawValue>,
    #[serde(borrow)]
    headers: Option<&'a RawValue>,
    #[serde(borrow)]
    multi_value_headers: Option<&'a RawValue>,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
    #[serde(borrow)]
    is_base64_encoded: Option<&'a RawValue>,
}

/// The HTTP response that a function's answer means.
pub fn response(payload: &Bytes, reading: Reading<'_>) -> Result<Response<Bytes>, Malformed> {
    // An array would fit the members by position.
    if payload.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return Err(Malformed("it is no object"));
    }
    let answer: Answer<'_> = serde_json::from_slice(payload).map_err(|_| Malformed("it has a member of no meaning"))?;
    let mut response = Response::new(body_bytes(payload, &answer, reading)?);
    *response.status_mut() = answer.status_code.map_or(Ok(StatusCode::OK), status_of)?;
    if matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        response.body_mut().clear();
    }
    let headers = response.headers_mut();
    if let Some(raw) = answer.multi_value_headers {
        let members: Members<'_> = object(raw)?;
        for (name, values) in &members.0 {
            let values: Vec<&RawValue> =
                serde_json::from_str(values.get()).map_err(|_| Malformed("multiValueHeaders holds no lists"))?;
            for value in values {
                add(headers, &name.0, value, reading)?;
            }
        }
    }
    if let Some(raw) = answer.headers {
        let members: Members<'_> = object(raw)?;
        for (name, value) in &members.0 {
            add(headers, &name.0, value, reading)?;
        }
    }
    let default = match reading {
        Reading::Rest { .. } => "application/json",
        Reading::HttpApi => "text/plain;charset=UTF-8",
    };
    headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static(default));
    Ok(response)
}

fn object(raw: &RawValue) -> Result<Members<'_>, Malformed> {
    serde_json::from_str(raw.get()).map_err(|_| Malformed("headers is no object"))
}

fn add(headers: &mut HeaderMap, name: &str, value: &RawValue, reading: Reading<'_>) -> Result<(), Malformed> {
    let Some(value) = scalar_of(value)? else { return Ok(()) };
    let lower = name.to_ascii_lowercase();
    let remapped = match reading {
        // Source: API Gateway's table of remapped headers, proxy integrations.
        Reading::Rest { .. } => matches!(lower.as_str(), "connection" | "content-length" | "date" | "server"),
        Reading::HttpApi => false,
    };
    if remapped {
        return append_header(headers, &format!("x-amzn-remapped-{lower}"), &value);
    }
    if super::is_of_connection(&lower) || lower == "content-length" {
        return Ok(());
    }
    append_header(headers, &lower, &value)
}

fn body_bytes(payload: &Bytes, answer: &Answer<'_>, reading: Reading<'_>) -> Result<Bytes, Malformed> {
    let Some(raw) = answer.body else { return Ok(Bytes::new()) };
    let text = text_of(raw).ok_or(Malformed("body is no string"))?;
    let decode = match reading {
        Reading::Rest { binary_media_types, accept } => {
            matches_media(binary_media_types, accept.split(',').next().unwrap_or(""))
        }
        Reading::HttpApi => true,
    };
    if decode && flag_of(answer.is_base64_encoded) { from_base64(&text) } else { Ok(shared(payload, text)) }
}

#[cfg(test)]
mod tests;
