//! Which records of a source a mapping wants. Pure.
//!
//! Patterns see a record as its function gets it, with the document inside of it (`Content`) read. Where a pattern wants an
//! object there and the content is plain text, or the other way round, the record is none that is wanted.
//! Source: the developer guide, "Filter rule syntax" and "Properly filtering messages" of each source.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use model::{Content, Pattern, SourceRecord};
use serde_json::Value;

/// The patterns of a mapping, of which one must match.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Filter {
    patterns: Vec<Pattern>,
    content: Option<Content>,
}

impl Filter {
    /// The patterns of a mapping; what is no pattern was refused when the mapping was made, and matches nothing.
    pub(super) fn new(patterns: &[String], content: Option<Content>) -> Option<Self> {
        if patterns.is_empty() {
            return None;
        }
        Some(Self { patterns: patterns.iter().filter_map(|text| Pattern::parse(text).ok()).collect(), content })
    }

    /// Whether the record is wanted.
    pub(super) fn passes(&self, record: &SourceRecord) -> bool {
        let Ok(mut seen) = serde_json::from_slice::<Value>(&record.event) else { return false };
        let Some(content) = self.content else { return self.patterns.iter().any(|pattern| pattern.matches(&seen)) };
        if let Some(within) = content.within {
            seen = seen.get_mut(within).map(Value::take).unwrap_or_default();
        }
        let document = seen.get_mut(content.member).map(|member| read(member.take(), content.base64));
        let is_json = document.as_ref().map(|document| document.is_object() || document.is_array());
        if let (Some(document), Some(member)) = (document, seen.get_mut(content.member)) {
            *member = document;
        }
        let suits = |pattern: &&Pattern| match (pattern.wants_object(content.member), is_json) {
            (Some(object), Some(json)) => object == json,
            _ => true,
        };
        self.patterns.iter().filter(suits).any(|pattern| pattern.matches(&seen))
    }
}

/// The document that a text holds; text that holds none as it is.
fn read(member: Value, base64: bool) -> Value {
    let Value::String(text) = member else { return member };
    let text = if base64 {
        BASE64.decode(&text).map_or(text, |bytes| String::from_utf8_lossy(&bytes).into_owned())
    } else {
        text
    };
    match serde_json::from_str(&text) {
        Ok(document @ (Value::Object(_) | Value::Array(_))) => document,
        _ => Value::String(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const BODY: Content = Content { within: None, member: "body", base64: false };
    const DATA: Content = Content { within: Some("kinesis"), member: "data", base64: true };

    fn passes(patterns: &[Value], content: Option<Content>, event: &Value) -> bool {
        let patterns: Vec<String> = patterns.iter().map(Value::to_string).collect();
        let event = event.to_string().into();
        let record = SourceRecord { id: "1".into(), handle: "1".into(), key: None, arrived_ms: 0, trace: None, event };
        Filter::new(&patterns, content).unwrap().passes(&record)
    }

    #[test]
    fn text_and_documents_are_told_apart() {
        let message = |body: &str| json!({"messageId": "1", "body": body, "attributes": {"n": "1"}});
        let (object, text) = (json!({"body": {"a": [1]}}), json!({"body": ["x"]}));
        let neither = json!({"attributes": {"n": ["1"]}});
        for (pattern, body, expected) in [
            (&object, "{\"a\": 1}", true),
            (&object, "{\"a\": 2}", false),
            (&object, "x", false),
            (&text, "x", true),
            (&text, "y", false),
            (&text, "{\"x\": 1}", false),
            (&text, "[\"x\"]", false),
            (&neither, "x", true),
            (&neither, "{}", true),
            (&json!({"body": {"a": [{"exists": false}]}}), "x", false),
            (&json!({"body": ["5"]}), "5", true),
        ] {
            assert_eq!(passes(std::slice::from_ref(pattern), Some(BODY), &message(body)), expected, "{pattern} {body}");
        }
        assert!(passes(&[object, text], Some(BODY), &message("x")), "one of several is enough");
    }

    #[test]
    fn what_is_base64_is_read_and_stands_beside_the_rest() {
        let record =
            |data: &str| json!({"kinesis": {"partitionKey": "k", "data": BASE64.encode(data)}, "eventID": "e"});
        assert!(passes(&[json!({"data": {"a": [1]}})], Some(DATA), &record("{\"a\": 1}")));
        assert!(passes(&[json!({"data": ["x"], "partitionKey": ["k"]})], Some(DATA), &record("x")));
        assert!(!passes(&[json!({"data": ["x"], "partitionKey": ["l"]})], Some(DATA), &record("x")));
        assert!(!passes(&[json!({"eventID": ["e"]})], Some(DATA), &record("x")), "beside the records of Kinesis");
    }

    #[test]
    fn a_record_without_content_is_seen_as_it_is() {
        let record = json!({"eventName": "INSERT", "dynamodb": {"Keys": {"id": {"S": "1"}}}});
        assert!(passes(&[json!({"eventName": ["INSERT"], "dynamodb": {"Keys": {"id": {"S": ["1"]}}}})], None, &record));
        assert!(!passes(&[json!({"eventName": ["REMOVE"]})], None, &record));
        assert!(passes(&[json!({})], None, &record));
        assert_eq!(Filter::new(&[], None), None);
    }
}
