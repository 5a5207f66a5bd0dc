//! What an extension asks of the Telemetry API, or of the Logs API before it. Pure.
//!
//! Sources: Lambda's references of both APIs.

use serde_json::{Map, Value};

use super::buffer::Buffering;
use crate::variables::RUNTIME_API;

/// Most bytes of a destination's URI.
const URI_BYTES_MAX: usize = 2_048;
/// What the platform listens on itself.
const RESERVED_PORT: u16 = 9001;
const HOSTS: [&str; 4] = ["sandbox.localdomain", "sandbox", "127.0.0.1", "localhost"];

/// Which of the two APIs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Api {
    Telemetry,
    Logs,
}

impl Api {
    /// What it is called in errors.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Telemetry => "Telemetry",
            Self::Logs => "Logs",
        }
    }

    fn schemas(self) -> &'static [&'static str] {
        match self {
            Self::Telemetry => &["2022-12-13", "2022-07-01", "2025-01-29"],
            Self::Logs => &["2020-08-15", "2021-03-18"],
        }
    }
}

/// A stream of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stream {
    Platform,
    Function,
    Extension,
}

impl Stream {
    const ALL: [(&'static str, Self); 3] =
        [("platform", Self::Platform), ("function", Self::Function), ("extension", Self::Extension)];

    /// As the APIs name it.
    pub(crate) fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(_, stream)| *stream == self).map_or("", |(name, _)| name)
    }
}

/// Where events go, in the sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Destination {
    /// A request for each batch, an array.
    Http {
        port: u16,
        /// With its query.
        path: String,
        /// Whether it is a PUT instead of a POST.
        put: bool,
    },
    /// A line for each event.
    Tcp { port: u16 },
}

/// A whole subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subscription {
    pub(crate) api: Api,
    pub(crate) schema: &'static str,
    /// In order, each once.
    pub(crate) streams: Vec<Stream>,
    pub(crate) buffering: Buffering,
    pub(crate) destination: Destination,
}

impl Subscription {
    /// Whether JSON lines of the function's are objects instead of strings.
    pub(crate) fn has_objects(&self) -> bool {
        self.api == Api::Telemetry && self.schema != "2022-07-01"
    }

    /// Whether it has events of how a runtime was done: the older schema has none.
    pub(crate) fn has_runtime_done(&self) -> bool {
        self.schema != "2020-08-15"
    }

    /// Reads a request's body. The error is for the extension's author.
    pub(crate) fn read(api: Api, body: &[u8]) -> Result<Self, String> {
        let parsed: Value = serde_json::from_slice(body).map_err(|error| format!("the body is no JSON: {error}"))?;
        let Value::Object(asked) = parsed else { return Err("the body is no JSON object".to_owned()) };
        let schema = match asked.get("schemaVersion") {
            None | Some(Value::Null) if api == Api::Logs => "2020-08-15",
            Some(Value::String(wanted)) => {
                let known = api.schemas().iter().find(|known| *known == wanted);
                *known.ok_or_else(|| format!("schemaVersion: {wanted} is none of {}", api.schemas().join(", ")))?
            }
            _ => return Err("schemaVersion: a string is required".to_owned()),
        };
        Ok(Self {
            api,
            schema,
            streams: streams(asked.get("types"))?,
            buffering: buffering(asked.get("buffering"))?,
            destination: destination(asked.get("destination"))?,
        })
    }
}

fn streams(types: Option<&Value>) -> Result<Vec<Stream>, String> {
    let Some(Value::Array(types)) = types.filter(|types| types.as_array().is_some_and(|all| !all.is_empty())) else {
        return Err("types: a list that is not empty is required".to_owned());
    };
    let mut streams = Vec::new();
    for wanted in types {
        let found = Stream::ALL.into_iter().find(|(name, _)| wanted.as_str() == Some(*name));
        let (_, stream) = found.ok_or_else(|| format!("types: {wanted} is none of platform, function, extension"))?;
        streams.push(stream);
    }
    streams.sort_unstable();
    streams.dedup();
    Ok(streams)
}

fn buffering(asked: Option<&Value>) -> Result<Buffering, String> {
    let mut buffering = Buffering::default();
    let asked = match asked {
        None | Some(Value::Null) => return Ok(buffering),
        Some(Value::Object(asked)) => asked,
        Some(_) => return Err("buffering: an object is required".to_owned()),
    };
    let number = |name: &str, range: std::ops::RangeInclusive<u64>, default: u64| match asked.get(name) {
        None | Some(Value::Null) => Ok(default),
        Some(value) => value
            .as_u64()
            .filter(|value| range.contains(value))
            .ok_or_else(|| format!("buffering.{name}: {value} is not between {} and {}", range.start(), range.end())),
    };
    buffering.items = number("maxItems", 1_000..=10_000, buffering.items as u64)? as usize;
    buffering.bytes = number("maxBytes", 262_144..=1_048_576, buffering.bytes as u64)? as usize;
    buffering.timeout_ms = number("timeoutMs", 25..=30_000, buffering.timeout_ms)?;
    Ok(buffering)
}

fn destination(asked: Option<&Value>) -> Result<Destination, String> {
    let Some(Value::Object(asked)) = asked else { return Err("destination: an object is required".to_owned()) };
    match text(asked, "encoding") {
        None | Some("JSON") => {}
        Some(other) => return Err(format!("destination.encoding: {other} is not JSON")),
    }
    match text(asked, "protocol") {
        Some("HTTP") => http(asked),
        Some("TCP") => tcp(asked),
        _ => Err("destination.protocol: HTTP or TCP is required".to_owned()),
    }
}

fn http(asked: &Map<String, Value>) -> Result<Destination, String> {
    let put = match text(asked, "method") {
        None | Some("POST") => false,
        Some("PUT") => true,
        Some(other) => return Err(format!("destination.method: {other} is neither POST nor PUT")),
    };
    let uri = text(asked, "URI").ok_or("destination.URI: a string is required")?;
    let wrong = || format!("destination.URI: {uri:?} is no http://sandbox.localdomain:PORT/PATH");
    if uri.len() > URI_BYTES_MAX {
        return Err(wrong());
    }
    let parsed: http::Uri = uri.parse().map_err(|_| wrong())?;
    if parsed.scheme_str() != Some("http") || !parsed.host().is_some_and(|host| HOSTS.contains(&host)) {
        return Err(wrong());
    }
    let port = allowed(parsed.port_u16().unwrap_or(80))?;
    let path = parsed.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    Ok(Destination::Http { port, path, put })
}

fn tcp(asked: &Map<String, Value>) -> Result<Destination, String> {
    let of_uri = || {
        let uri = text(asked, "URI")?;
        let (host, port) = uri.strip_prefix("tcp://").unwrap_or(uri).trim_end_matches('/').rsplit_once(':')?;
        port.parse().ok().filter(|_| HOSTS.contains(&host))
    };
    let port = match asked.get("port") {
        Some(port) => port.as_u64().and_then(|port| u16::try_from(port).ok()),
        None => of_uri(),
    };
    let port = port.filter(|port| *port > 0).ok_or("destination.port: a port is required")?;
    Ok(Destination::Tcp { port: allowed(port)? })
}

fn allowed(port: u16) -> Result<u16, String> {
    if port == RESERVED_PORT { Err(format!("destination: {RUNTIME_API} is the platform's own")) } else { Ok(port) }
}

fn text<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    object.get(name)?.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(api: Api, body: Value) -> Result<Subscription, String> {
        Subscription::read(api, body.to_string().as_bytes())
    }

    fn telemetry(change: impl FnOnce(&mut Value)) -> Result<Subscription, String> {
        let destination = json!({"protocol": "HTTP", "URI": "http://sandbox.localdomain:8080/a?b=c"});
        let mut body = json!({"schemaVersion": "2022-07-01", "types": ["platform"], "destination": destination});
        change(&mut body);
        read(Api::Telemetry, body)
    }

    #[test]
    fn what_agents_send_is_read() {
        let asked = telemetry(|body| {
            body["types"] = json!(["function", "platform", "function"]);
            body["buffering"] = json!({"maxItems": 1000, "maxBytes": 262_144, "timeoutMs": 25});
        });
        let asked = asked.unwrap();
        assert_eq!(asked.destination, Destination::Http { port: 8080, path: "/a?b=c".into(), put: false });
        assert_eq!(asked.streams, [Stream::Platform, Stream::Function]);
        assert_eq!(asked.buffering, Buffering { items: 1_000, bytes: 262_144, timeout_ms: 25 });
        assert!(!asked.has_objects() && asked.has_runtime_done());
        assert!(telemetry(|body| body["schemaVersion"] = json!("2022-12-13")).unwrap().has_objects());
        let tcp = |to: Value| telemetry(|body| body["destination"] = to).map(|asked| asked.destination);
        assert_eq!(tcp(json!({"protocol": "TCP", "port": 9})), Ok(Destination::Tcp { port: 9 }));
        let uri = json!({"protocol": "TCP", "URI": "tcp://sandbox.localdomain:4000"});
        assert_eq!(tcp(uri), Ok(Destination::Tcp { port: 4000 }));
        let old = json!({
            "types": ["extension"], "destination": {"protocol": "HTTP", "URI": "http://sandbox:81", "method": "PUT", "encoding": "JSON"},
        });
        let old = read(Api::Logs, old).unwrap();
        assert_eq!(old.destination, Destination::Http { port: 81, path: "/".into(), put: true });
        assert!(!old.has_runtime_done());
    }

    #[test]
    fn everything_else_is_refused_with_its_name() {
        let refused = |change: fn(&mut Value), word: &str| {
            let error = telemetry(change).unwrap_err();
            assert!(error.starts_with(word), "{error}");
        };
        refused(|body| body["schemaVersion"] = json!("2020-08-15"), "schemaVersion");
        refused(|body| body["schemaVersion"] = json!(1), "schemaVersion");
        refused(|body| body["types"] = json!([]), "types");
        refused(|body| body["types"] = json!(["platform", "noise"]), "types");
        refused(|body| body["buffering"] = json!({"maxItems": 999}), "buffering.maxItems");
        refused(|body| body["buffering"] = json!({"maxBytes": 1_048_577}), "buffering.maxBytes");
        refused(|body| body["buffering"] = json!({"timeoutMs": 24}), "buffering.timeoutMs");
        refused(|body| body["buffering"] = json!({"timeoutMs": "25"}), "buffering.timeoutMs");
        refused(|body| body["destination"]["protocol"] = json!("UDP"), "destination.protocol");
        for uri in [
            "https://sandbox.localdomain:1",
            "http://example.com:80",
            "http://169.254.169.254/",
            "sandbox.localdomain:80",
            "http://",
            "",
        ] {
            let error = telemetry(|body| body["destination"]["URI"] = json!(uri)).unwrap_err();
            assert!(error.starts_with("destination.URI"), "{uri}: {error}");
        }
        refused(|body| body["destination"]["URI"] = json!("http://sandbox.localdomain:9001/"), "destination");
        refused(|body| body["destination"]["method"] = json!("GET"), "destination.method");
        refused(|body| body["destination"] = json!({"protocol": "TCP", "port": 65_536}), "destination.port");
        refused(|body| body["destination"] = json!({"protocol": "TCP", "URI": "tcp://10.0.0.1:5"}), "destination.port");
        for body in ["", "[]", "{", "null"] {
            assert!(Subscription::read(Api::Telemetry, body.as_bytes()).is_err(), "{body}");
        }
        assert!(read(Api::Telemetry, json!({})).is_err());
    }
}
