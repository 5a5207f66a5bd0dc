//! From a service's reply or error to an HTTP response in the protocol of its API.
//!
//! Invariant: every response names its request (`x-amzn-RequestId`), and every error has the shape that the SDKs of its
//! protocol read.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderValue, Response, StatusCode};
use model::Body;
use quick_xml::escape::escape;
use serde_json::{Map, Value, json};

use crate::apis::{Api, Protocol};
use crate::model_table::{Io, Kind, Location, Member, Operation, Shape, TimeFormat};
use crate::service::{Error, Reply};

/// How answers are written where no model says it: for services that the wire does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    RestJson,
    Json(&'static str),
    Query,
    /// S3's errors; no model here has this style.
    S3,
}

impl From<Protocol> for Style {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::RestJson => Self::RestJson,
            Protocol::Json(version) => Self::Json(version),
            Protocol::Query => Self::Query,
        }
    }
}

impl Style {
    fn content_type(self) -> &'static str {
        match self {
            Self::RestJson => "application/json",
            Self::Json("1.0") => "application/x-amz-json-1.0",
            Self::Json(_) => "application/x-amz-json-1.1",
            Self::Query => "text/xml",
            Self::S3 => "application/xml",
        }
    }
}

/// A success.
pub(crate) fn reply(api: &Api, operation: &Operation, io: &Io, reply: Reply, request_id: &str) -> Response<Body> {
    let style = Style::from(api.protocol);
    let mut status = reply.status.unwrap_or(operation.status);
    let mut headers: Vec<(&'static str, String)> = Vec::new();
    let body = match (api.protocol, reply.payload) {
        (_, Some(payload)) => {
            placed(io, reply.output, &mut headers, &mut status);
            match payload {
                Body::Whole(bytes) => bytes,
                stream => {
                    headers.extend(reply.headers);
                    return finish(style, status, headers, Bytes::new(), request_id, false).map(|_| stream);
                }
            }
        }
        (Protocol::Query, None) => Bytes::from(xml(api, operation.name, &reply.output, request_id)),
        (_, None) => {
            let output = placed(io, reply.output, &mut headers, &mut status);
            if output.is_empty() && (matches!(status, 202 | 204) || !io.output_payload.is_empty()) {
                Bytes::new()
            } else {
                Bytes::from(Value::Object(output).to_string())
            }
        }
    };
    headers.extend(reply.headers);
    finish(style, status, headers, body, request_id, crc_of(api)).map(Body::from)
}

/// A failure.
pub(crate) fn error(style: Style, api: Option<&Api>, error: Error, request_id: &str) -> Response<Bytes> {
    let mut headers = error.headers;
    let body = match style {
        Style::RestJson => {
            headers.push(("x-amzn-errortype", error.code.clone()));
            let kind = if error.status >= 500 { "Server" } else { "User" };
            // Some shapes have `message`, others `Message`: clients read the one they know.
            let mut body = json!({ "Type": kind, "message": error.message, "Message": error.message });
            merge(&mut body, error.fields);
            body.to_string()
        }
        Style::Json(_) => {
            let kind = format!("{}{}", json_namespace(api, &error.code), error.code);
            let mut body = json!({ "__type": kind, message_key(&error.code): error.message });
            merge(&mut body, error.fields);
            body.to_string()
        }
        Style::Query => {
            let kind = if error.status >= 500 { "Receiver" } else { "Sender" };
            let namespace = namespace_attribute(api.map_or("", |api| api.model.xml_namespace));
            format!(
                "<ErrorResponse{namespace}><Error><Type>{kind}</Type><Code>{}</Code><Message>{}</Message></Error>\
                 <RequestId>{request_id}</RequestId></ErrorResponse>",
                escape(error.code.as_str()),
                escape(error.message.as_str()),
            )
        }
        Style::S3 => format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{}</Code><Message>{}</Message>\
             <RequestId>{request_id}</RequestId></Error>",
            escape(error.code.trim_end_matches("Exception")),
            escape(error.message.as_str()),
        ),
    };
    finish(style, error.status, headers, Bytes::from(body), request_id, api.is_some_and(crc_of))
}

/// An answer without a body: the request had more than its service reads.
pub(crate) fn too_large(style: Style, api: Option<&Api>, request_id: &str) -> Response<Bytes> {
    finish(style, 413, Vec::new(), Bytes::new(), request_id, api.is_some_and(crc_of))
}

/// What a service says of its health.
pub(crate) fn health(style: Style, api: Option<&Api>, text: String, request_id: &str) -> Response<Bytes> {
    let headers = vec![("content-type", "text/plain".to_owned())];
    finish(style, 200, headers, Bytes::from(text), request_id, api.is_some_and(crc_of))
}

/// DynamoDB's SDKs check a checksum of the body where there is one.
fn crc_of(api: &Api) -> bool {
    api.signing_name == "dynamodb"
}

fn message_key(code: &str) -> &'static str {
    match code {
        "SerializationException"
        | "TransactionCanceledException"
        | "TransactionInProgressException"
        | "IdempotentParameterMismatchException" => "Message",
        _ => "message",
    }
}

/// Errors of the framework in front of a service carry its namespace, those of the service the service's own.
fn json_namespace(api: Option<&Api>, code: &str) -> &'static str {
    let own = api.map_or("", |api| api.error_namespace);
    if own.is_empty() {
        return "";
    }
    match code {
        "ValidationException" => "com.amazon.coral.validate#",
        "UnknownOperationException"
        | "SerializationException"
        | "MissingAuthenticationTokenException"
        | "UnrecognizedClientException"
        | "IncompleteSignatureException"
        | "InvalidSignatureException"
        | "ExpiredTokenException"
        | "AccessDeniedException"
        | "NotImplementedException"
        | "ThrottlingException" => "com.amazon.coral.service#",
        _ => own,
    }
}

fn merge(body: &mut Value, fields: Map<String, Value>) {
    if let Value::Object(body) = body {
        body.extend(fields);
    }
}

fn finish(
    style: Style,
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
    request_id: &str,
    crc: bool,
) -> Response<Bytes> {
    let checksum = crc.then(|| crc32fast::hash(&body));
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let map = response.headers_mut();
    map.insert(CONTENT_TYPE, HeaderValue::from_static(style.content_type()));
    if let Ok(value) = HeaderValue::from_str(request_id) {
        map.insert(HeaderName::from_static("x-amzn-requestid"), value);
    }
    if let Some(checksum) = checksum {
        map.insert(HeaderName::from_static("x-amz-crc32"), HeaderValue::from(checksum));
    }
    for (name, value) in headers {
        // A value that no header can hold is left out: the rest of the answer is worth more.
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_str(&value)) {
            map.insert(name, value);
        }
    }
    response
}

/// Members of the output that stay in the body; the others go where the model says.
fn placed(io: &Io, output: Value, headers: &mut Vec<(&'static str, String)>, status: &mut u16) -> Map<String, Value> {
    let Value::Object(mut members) = output else { return Map::new() };
    for member in io.output {
        match member.location {
            Location::Header => {
                if let Some(value) = members.remove(member.name).filter(|value| !value.is_null()) {
                    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                    headers.push((member.wire, text));
                }
            }
            Location::Status => {
                if let Some(code) = members.remove(member.name).and_then(|value| value.as_u64()) {
                    *status = u16::try_from(code).unwrap_or(*status);
                }
            }
            Location::Body | Location::Uri | Location::Query => {}
        }
    }
    on_wire(io.output, members)
}

/// Members under their wire names, without nulls, timestamps in their form.
fn on_wire(table: &'static [Member], members: Map<String, Value>) -> Map<String, Value> {
    let mut wire = Map::new();
    for (name, value) in members {
        if value.is_null() {
            continue;
        }
        match table.iter().find(|member| member.name == name) {
            Some(member) => wire.insert(member.wire.to_owned(), value_on_wire(member.shape, value)),
            None => wire.insert(name, value),
        };
    }
    wire
}

fn value_on_wire(shape: &'static Shape, value: Value) -> Value {
    match (&shape.kind, value) {
        (Kind::Structure(table), Value::Object(members)) => Value::Object(on_wire(table, members)),
        (Kind::List(inner), Value::Array(values)) => {
            Value::Array(values.into_iter().map(|value| value_on_wire(inner, value)).collect())
        }
        (Kind::Map(_, inner), Value::Object(entries)) => {
            Value::Object(entries.into_iter().map(|(name, value)| (name, value_on_wire(inner, value))).collect())
        }
        (Kind::Timestamp(TimeFormat::Iso8601), Value::Number(seconds)) => {
            let ms = (seconds.as_f64().unwrap_or_default() * 1_000.0).round();
            let at = jiff::Timestamp::from_millisecond(ms as i64).unwrap_or_default();
            Value::String(at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
        }
        (_, value) => value,
    }
}

fn namespace_attribute(namespace: &str) -> String {
    if namespace.is_empty() { String::new() } else { format!(" xmlns=\"{namespace}\"") }
}

fn xml(api: &Api, operation: &str, output: &Value, request_id: &str) -> String {
    let mut result = String::new();
    if let Value::Object(members) = output {
        for (name, value) in members {
            element(&mut result, name, value);
        }
    }
    let namespace = namespace_attribute(api.model.xml_namespace);
    format!(
        "<{operation}Response{namespace}><{operation}Result>{result}</{operation}Result>\
         <ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata></{operation}Response>"
    )
}

fn element(out: &mut String, name: &str, value: &Value) {
    let inner = match value {
        Value::Null => return,
        Value::String(text) => escape(text.as_str()).into_owned(),
        Value::Array(values) => {
            let mut inner = String::new();
            for value in values {
                element(&mut inner, "member", value);
            }
            inner
        }
        Value::Object(members) => {
            let mut inner = String::new();
            for (name, value) in members {
                element(&mut inner, name, value);
            }
            inner
        }
        other => other.to_string(),
    };
    out.push_str(&format!("<{name}>{inner}</{name}>"));
}
