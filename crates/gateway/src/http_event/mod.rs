//! HTTP requests as events for functions, and functions' answers as HTTP responses. Pure.
//!
//! `v2` is the format of HTTP APIs and function URLs, `v1` that of REST APIs (and `"version": "1.0"` of HTTP APIs);
//! the routers pick a route, `cors` answers preflights, `stream` reads the prelude of streamed answers. Source of behaviour: API Gateway's developer guide and
//! recorded answers of AWS.
//!
//! Invariants
//!   1. An event is written straight into its bytes; a body is copied once (text) or encoded once (base64).
//!   2. Headers that belong to the connection are never part of an event or taken from a function.

pub mod cors;
pub mod http_router;
pub mod rest_router;
pub mod stream;
pub mod v1;
pub mod v2;

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::IpAddr;

use base::Random;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;

use crate::spelling::Spelling;

/// What an event tells about a request.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// Method.
    pub method: &'a str,
    /// Percent-encoded path as the site sees it; for APIs it starts with the stage if that has a segment.
    pub path: &'a str,
    /// Query without `?`.
    pub query: &'a str,
    /// Headers as they came.
    pub headers: &'a HeaderMap,
    /// How the client spelled the names of its headers.
    pub spelling: &'a Spelling,
    /// Whole body.
    pub body: &'a [u8],
    /// `HTTP/1.1` or `HTTP/2.0`.
    pub protocol: &'static str,
    /// The client.
    pub source_ip: IpAddr,
    /// `X-Forwarded-For` with the client at its end.
    pub forwarded_for: &'a str,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// Port that the client connected to.
    pub port: u16,
    /// Host name under which the site answers.
    pub domain: &'a str,
    /// The site's id.
    pub id: &'a str,
    /// Account for `accountId`.
    pub account: &'a str,
    /// Milliseconds since the epoch.
    pub now_ms: u64,
    /// The request's id in the form of its front.
    pub request_id: &'a str,
    /// `Root=1-…`
    pub trace_id: &'a str,
    /// Who signed the request, if that was asked for.
    pub caller: Option<&'a model::Principal>,
}

/// Names and values in order.
pub type Pairs<'a> = Vec<(Cow<'a, str>, Cow<'a, str>)>;

/// A function's answer that breaks the rules of its front. Holds what is wrong, for the platform's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the function's answer is not a proxy response: {0}")]
pub struct Malformed(pub &'static str);

/// Pairs as a JSON object.
pub(crate) struct Object<'a>(pub &'a [(Cow<'a, str>, Cow<'a, str>)]);

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

/// A body as JSON text.
pub(crate) enum BodyText<'a> {
    Plain(Cow<'a, str>),
    Base64(&'a [u8]),
}

impl Serialize for BodyText<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Plain(text) => serializer.serialize_str(text),
            Self::Base64(bytes) => {
                let engine = &base64::engine::general_purpose::STANDARD;
                serializer.collect_str(&base64::display::Base64Display::new(bytes, engine))
            }
        }
    }
}

/// An object's members in order, the values unread.
#[derive(Debug, Default)]
pub(crate) struct Members<'a>(pub Vec<(Text<'a>, &'a RawValue)>);

/// A JSON string, borrowed where it has no escapes.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct Text<'a>(#[serde(borrow)] pub Cow<'a, str>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::with_capacity(map.size_hint().unwrap_or(4));
                while let Some(entry) = map.next_entry::<Text<'de>, &'de RawValue>()? {
                    members.push(entry);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Read)
    }
}

/// The text of a JSON string; nothing for another kind of value.
pub(crate) fn text_of(raw: &RawValue) -> Option<Cow<'_, str>> {
    serde_json::from_str::<Text<'_>>(raw.get()).ok().map(|text| text.0)
}

/// A header's value: strings, numbers and booleans as text; `null` is nothing.
pub(crate) fn scalar_of(raw: &RawValue) -> Result<Option<Cow<'_, str>>, Malformed> {
    match raw.get().as_bytes().first() {
        Some(b'"') => text_of(raw).map(Some).ok_or(Malformed("a header's value is no text")),
        Some(b'n') => Ok(None),
        Some(b'[' | b'{') => Err(Malformed("a header's value is neither string, number nor boolean")),
        _ => Ok(Some(Cow::Borrowed(raw.get()))),
    }
}

/// A status from a JSON number or a string of digits.
pub(crate) fn status_of(raw: &RawValue) -> Result<http::StatusCode, Malformed> {
    // A number is asked for no text first: what is none costs an error with its place.
    let text = if raw.get().starts_with('"') { text_of(raw) } else { None };
    let text = text.unwrap_or(Cow::Borrowed(raw.get()));
    let number = text.parse::<u16>().map_err(|_| Malformed("statusCode is no integer"))?;
    // An informational status is not an answer.
    if !(200..=599).contains(&number) {
        return Err(Malformed("statusCode is outside 200 to 599"));
    }
    http::StatusCode::from_u16(number).map_err(|_| Malformed("statusCode is outside 200 to 599"))
}

/// `true`/`false` of a JSON value, where the strings count too.
pub(crate) fn flag_of(raw: Option<&RawValue>) -> bool {
    raw.is_some_and(|raw| matches!(raw.get(), "true" | "\"true\""))
}

/// Adds a header from a function; one that HTTP cannot carry is a malformed answer.
pub(crate) fn append_header(headers: &mut HeaderMap, name: &str, value: &str) -> Result<(), Malformed> {
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| Malformed("a header's name is not valid"))?;
    let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| Malformed("a header's value is not valid"))?;
    headers.append(name, value);
    Ok(())
}

/// Whether a header belongs to one connection and not to the message.
pub(crate) fn is_of_connection(name: &str) -> bool {
    matches!(
        name,
        "connection" | "keep-alive" | "proxy-connection" | "te" | "trailer" | "transfer-encoding" | "upgrade"
    )
}

/// A header's value as text; bytes that are no UTF-8 are replaced.
pub(crate) fn value_text(value: &HeaderValue) -> Cow<'_, str> {
    String::from_utf8_lossy(value.as_bytes())
}

/// Percent-decoded text; bytes that are no UTF-8 are replaced.
pub(crate) fn decoded(text: &str) -> Cow<'_, str> {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy()
}

/// `04/Mar/2020:19:15:17 +0000`
pub(crate) fn request_time(now_ms: u64) -> String {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let time = i64::try_from(now_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    let time = jiff::tz::Offset::UTC.to_datetime(time.unwrap_or_default());
    let month = MONTHS[usize::from(time.month().unsigned_abs()).saturating_sub(1) % MONTHS.len()];
    let (day, year, hour, minute, second) = (time.day(), time.year(), time.hour(), time.minute(), time.second());
    // Every event holds it, and a format that is read anew each time takes several times as long.
    format!("{day:02}/{month}/{year}:{hour:02}:{minute:02}:{second:02} +0000")
}

/// The trace header that goes on: the client's if it has a root, else a new root.
pub fn trace_id(headers: &HeaderMap, now_ms: u64, random: &dyn Random) -> String {
    let given = headers.get("x-amzn-trace-id").and_then(|value| value.to_str().ok());
    match given.filter(|text| text.contains("Root=") && text.len() <= 512) {
        Some(text) => text.to_owned(),
        None => model::trace::begun(now_ms, random),
    }
}

/// Pairs of a query string, decoded, in order.
pub(crate) fn query_pairs(query: &str) -> Pairs<'_> {
    form_urlencoded::parse(query.as_bytes()).collect()
}

/// Names in order, each with all its values.
pub(crate) type Multi<'a> = Vec<(Cow<'a, str>, Vec<Cow<'a, str>>)>;

/// The values of each name, at the place of its first. Linear: a query may have thousands of names.
pub(crate) fn grouped(pairs: Pairs<'_>) -> Multi<'_> {
    let mut out: Multi<'_> = Vec::with_capacity(pairs.len());
    let mut places: HashMap<Cow<'_, str>, usize> = HashMap::with_capacity(pairs.len());
    for (name, value) in pairs {
        let place = *places.entry(name.clone()).or_insert(out.len());
        match out.get_mut(place) {
            Some((_, values)) => values.push(value),
            None => out.push((name, vec![value])),
        }
    }
    out
}

/// Serializes a list of lists as an object of arrays.
pub(crate) struct Lists<'a>(pub &'a [(Cow<'a, str>, Vec<Cow<'a, str>>)]);

impl Serialize for Lists<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, values)| (name, values)))
    }
}

/// The last value of each list as an object.
pub(crate) struct Lasts<'a>(pub &'a [(Cow<'a, str>, Vec<Cow<'a, str>>)]);

impl Serialize for Lasts<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, values) in self.0 {
            map.serialize_entry(name, values.last().map_or("", |value| value.as_ref()))?;
        }
        map.end()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Facts of a plain request for tests.
    pub(crate) fn facts<'a>(method: &'a str, path: &'a str, query: &'a str, headers: &'a HeaderMap) -> Facts<'a> {
        static SPELLING: std::sync::LazyLock<Spelling> = std::sync::LazyLock::new(Spelling::default);
        Facts {
            method,
            path,
            query,
            headers,
            spelling: &SPELLING,
            body: b"",
            protocol: "HTTP/1.1",
            source_ip: IpAddr::from([192, 0, 2, 1]),
            forwarded_for: "192.0.2.1",
            scheme: "https",
            port: 443,
            domain: "abc.execute-api.us-east-1.localhost",
            id: "abc",
            account: "000000000000",
            now_ms: 1_583_349_317_135,
            request_id: "id",
            trace_id: "Root=1-5e6722a7-cc56xmpl46db7ae02d4da47e",
            caller: None,
        }
    }

    #[test]
    fn times_are_written_as_in_access_logs() {
        assert_eq!(request_time(1_583_349_317_135), "04/Mar/2020:19:15:17 +0000");
    }

    #[test]
    fn values_are_grouped_by_name_in_order_however_many_there_are() {
        let query = "b=1&a=2&b=3&%61=4&c";
        let shown: Vec<String> =
            grouped(query_pairs(query)).iter().map(|(name, values)| format!("{name}={}", values.join(","))).collect();
        assert_eq!(shown, ["b=1,3", "a=2,4", "c="]);
        // Quadratic work would take minutes here.
        let many: String = (0..300_000).map(|number| format!("{number:x}&")).collect();
        assert_eq!(grouped(query_pairs(&many)).len(), 300_000);
    }

    #[test]
    fn a_trace_root_is_kept_or_made() {
        let random = base::SeededRandom::new(1);
        let mut headers = HeaderMap::new();
        let made = trace_id(&headers, 1_583_349_317_135, &*random);
        assert!(made.starts_with("Root=1-5e5ffe45-") && made.len() == "Root=1-".len() + 8 + 1 + 24, "{made}");
        headers.insert("x-amzn-trace-id", HeaderValue::from_static("Root=1-a-b;Sampled=1"));
        assert_eq!(trace_id(&headers, 0, &*random), "Root=1-a-b;Sampled=1");
    }
}
