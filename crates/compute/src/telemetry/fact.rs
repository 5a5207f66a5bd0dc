//! What happened in an environment, and how each schema of the two APIs tells it. Pure.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::subscription::{Api, Stream, Subscription};
use crate::report::iso_ms;

/// One thing that happened.
#[derive(Debug, Clone)]
pub(crate) struct Fact {
    at_ms: u64,
    what: What,
}

#[derive(Debug, Clone)]
enum What {
    /// `platform.KIND`.
    Platform { kind: &'static str, record: Value },
    /// A line that the function or an extension wrote; whether it may be a JSON record.
    Line { of: Stream, text: String, json: bool },
}

/// What the Logs API has of the platform's records, and their fields.
const OF_LOGS: [(&str, &[&str]); 7] = [
    ("start", &["requestId", "version"]),
    ("end", &["requestId"]),
    ("report", &["requestId", "metrics"]),
    ("runtimeDone", &["requestId", "status"]),
    ("extension", &["name", "state", "events"]),
    ("logsSubscription", &["name", "state", "types"]),
    ("logsDropped", &["reason", "droppedRecords", "droppedBytes"]),
];
/// What only that API has.
const NOT_OF_TELEMETRY: [&str; 3] = ["end", "logsSubscription", "fault"];

impl Fact {
    /// A record of the platform's.
    pub(crate) fn platform(at_ms: u64, kind: &'static str, record: Value) -> Self {
        Self { at_ms, what: What::Platform { kind, record } }
    }

    /// A line of the function or an extension.
    pub(crate) fn line(at_ms: u64, of: Stream, text: &str, json: bool) -> Self {
        Self { at_ms, what: What::Line { of, text: text.to_owned(), json } }
    }

    /// Where it belongs.
    pub(crate) fn stream(&self) -> Stream {
        match &self.what {
            What::Platform { .. } => Stream::Platform,
            What::Line { of, .. } => *of,
        }
    }

    /// How a subscriber reads it; nothing if it does not.
    pub(crate) fn text_for(&self, asked: &Subscription) -> Option<Bytes> {
        if !asked.streams.contains(&self.stream()) {
            return None;
        }
        let (kind, record) = match &self.what {
            What::Line { of, text, json } => (of.name().to_owned(), line(text, *json && asked.has_objects())),
            What::Platform { kind, record } => (format!("platform.{kind}"), platform(kind, record, asked)?),
        };
        Some(json!({"time": iso_ms(self.at_ms), "type": kind, "record": record}).to_string().into())
    }
}

/// A line's record: an object where it is one and may be.
fn line(text: &str, may_be_object: bool) -> Value {
    let object = Some(text).filter(|text| may_be_object && text.starts_with('{'));
    let object = object.and_then(|text| serde_json::from_str::<Map<String, Value>>(text).ok());
    object.map_or_else(|| Value::String(text.to_owned()), Value::Object)
}

fn platform(kind: &str, record: &Value, asked: &Subscription) -> Option<Value> {
    if asked.api == Api::Telemetry {
        return (!NOT_OF_TELEMETRY.contains(&kind)).then(|| record.clone());
    }
    if kind == "fault" {
        return Some(record.clone());
    }
    if kind == "runtimeDone" && !asked.has_runtime_done() {
        return None;
    }
    let (_, fields) = OF_LOGS.into_iter().find(|(of, _)| *of == kind)?;
    let fields = fields.iter().filter_map(|field| Some(((*field).to_owned(), record.get(field)?.clone())));
    Some(Value::Object(fields.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(api: Api, schema: &str) -> Subscription {
        let body = json!({
            "schemaVersion": schema, "types": ["platform", "function"], "destination": {"protocol": "TCP", "port": 1},
        });
        Subscription::read(api, body.to_string().as_bytes()).unwrap()
    }

    fn read(fact: &Fact, asked: &Subscription) -> Option<Value> {
        fact.text_for(asked).map(|text| serde_json::from_slice(&text).unwrap())
    }

    #[test]
    fn each_schema_has_its_own_words() {
        let new = asked(Api::Telemetry, "2022-12-13");
        let (first, old) = (asked(Api::Telemetry, "2022-07-01"), asked(Api::Logs, "2020-08-15"));
        let done = json!({"requestId": "r", "status": "success", "metrics": {"durationMs": 1.5}, "spans": []});
        let done = Fact::platform(1_700_000_000_007, "runtimeDone", done);
        let told = read(&done, &new).unwrap();
        assert_eq!(
            (told["time"].as_str(), told["type"].as_str()),
            (Some("2023-11-14T22:13:20.007Z"), Some("platform.runtimeDone"))
        );
        assert_eq!(told["record"]["metrics"]["durationMs"], 1.5);
        assert_eq!(read(&done, &old), None);
        assert_eq!(
            read(&done, &asked(Api::Logs, "2021-03-18")).unwrap()["record"],
            json!({"requestId": "r", "status": "success"})
        );
        let start = Fact::platform(0, "initStart", json!({"phase": "init"}));
        assert!(read(&start, &new).is_some() && read(&start, &old).is_none());
        let end = Fact::platform(0, "end", json!({"requestId": "r"}));
        assert!(read(&end, &new).is_none() && read(&end, &old).is_some());
        let line = |text: &str, json| Fact::line(0, Stream::Function, text, json);
        assert_eq!(read(&line("{\"a\":1}", true), &new).unwrap()["record"], json!({"a": 1}));
        assert_eq!(read(&line("{\"a\":1}", true), &first).unwrap()["record"], "{\"a\":1}");
        assert_eq!(read(&line("{\"a\":1}", false), &new).unwrap()["record"], "{\"a\":1}");
        assert_eq!(read(&line("{a", true), &new).unwrap()["record"], "{a");
        assert_eq!(read(&Fact::line(0, Stream::Extension, "x", false), &new), None);
    }
}
