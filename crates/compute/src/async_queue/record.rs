//! The record of an event that has ended, as destinations get it. Pure.
//!
//! A record that is larger than its target takes goes without the answer, then without the event too: that an event has
//! ended is worth more than nothing.

use bytes::Bytes;
use model::{FunctionRef, Outcome, RequestId};
use serde::Serialize;
use serde_json::value::RawValue;

use super::event::Condition;
use crate::engine::LATEST;
use crate::report;

/// What a record tells of.
pub(super) struct Ended<'a> {
    /// When, milliseconds since the epoch.
    pub(super) now_ms: u64,
    /// Which event.
    pub(super) request_id: &'a RequestId,
    /// What it was sent to.
    pub(super) function: &'a FunctionRef,
    /// How it ended.
    pub(super) condition: Condition,
    /// How often the function ran for it.
    pub(super) invocations: u32,
    /// The event.
    pub(super) payload: &'a [u8],
    /// How the last try ended, if that reached the function.
    pub(super) outcome: Option<&'a Outcome>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Record<'a> {
    version: &'static str,
    timestamp: String,
    request_context: RequestContext<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_payload: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_context: Option<ResponseContext<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_payload: Option<&'a RawValue>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RequestContext<'a> {
    request_id: &'a str,
    function_arn: String,
    condition: &'static str,
    approximate_invoke_count: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResponseContext<'a> {
    status_code: u16,
    executed_version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    function_error: Option<&'a str>,
}

/// The record, at most `bytes_max` long unless even its frame is longer.
pub(super) fn of(ended: &Ended<'_>, bytes_max: usize) -> Bytes {
    let request = document(ended.payload);
    let response = ended.outcome.map(|outcome| document(&outcome.payload));
    let mut record = Record {
        version: "1.0",
        timestamp: report::iso_ms(ended.now_ms),
        request_context: RequestContext {
            request_id: &ended.request_id.0,
            function_arn: qualified(ended.function),
            condition: ended.condition.as_str(),
            approximate_invoke_count: ended.invocations,
        },
        request_payload: Some(&request),
        response_context: ended.outcome.map(|outcome| ResponseContext {
            status_code: 200,
            executed_version: &outcome.executed_version,
            function_error: outcome.error.as_ref().map(|error| error.kind),
        }),
        response_payload: response.as_deref(),
    };
    let whole = bytes(&record);
    if whole.len() <= bytes_max {
        return whole;
    }
    record.response_payload = None;
    let shorter = bytes(&record);
    if shorter.len() <= bytes_max {
        return shorter;
    }
    record.request_payload = None;
    bytes(&record)
}

fn bytes(record: &Record<'_>) -> Bytes {
    // Strings, numbers and documents that were read always serialise.
    serde_json::to_vec(record).unwrap_or_default().into()
}

/// JSON as it is; what is none, as runtimes of one's own may answer, as a string.
fn document(text: &[u8]) -> Box<RawValue> {
    let json = std::str::from_utf8(text).ok().and_then(|text| RawValue::from_string(text.to_owned()).ok());
    json.or_else(|| serde_json::value::to_raw_value(&String::from_utf8_lossy(text)).ok()).unwrap_or_default()
}

fn qualified(function: &FunctionRef) -> String {
    match function.qualifier {
        Some(_) => function.arn(),
        None => format!("{}:{LATEST}", function.arn()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::fixtures::{START_MS, reference};
    use model::FunctionError;
    use serde_json::{Value, json};

    fn outcome(payload: &'static str, failed: bool) -> Outcome {
        let error = failed.then(|| FunctionError { kind: "Unhandled", error_type: "Error".into() });
        let payload = Bytes::from_static(payload.as_bytes());
        Outcome { payload, error, content_type: None, executed_version: "7".into(), log_tail: None }
    }

    fn record(condition: Condition, outcome: Option<&Outcome>, qualifier: Option<&str>, bytes_max: usize) -> Value {
        let mut function = reference("f");
        function.qualifier = qualifier.map(str::to_owned);
        let request_id = RequestId("id-1".into());
        let (payload, function) = (&b"{\"a\": 1.50}"[..], &function);
        let ended =
            Ended { now_ms: START_MS, request_id: &request_id, function, condition, invocations: 3, payload, outcome };
        let text = of(&ended, bytes_max);
        assert!(bytes_max == 0 || text.len() <= bytes_max);
        serde_json::from_slice(&text).unwrap()
    }

    #[test]
    fn a_record_is_as_lambda_writes_it() {
        let failed = outcome("{\"errorType\":\"Error\"}", true);
        let arn = "arn:aws:lambda:us-east-1:000000000000:function:f";
        let expected = json!({
            "version": "1.0",
            "timestamp": "2023-11-14T22:13:20.000Z",
            "requestContext": {
                "requestId": "id-1",
                "functionArn": format!("{arn}:$LATEST"),
                "condition": "RetriesExhausted",
                "approximateInvokeCount": 3,
            },
            "requestPayload": {"a": 1.5},
            "responseContext": {"statusCode": 200, "executedVersion": "7", "functionError": "Unhandled"},
            "responsePayload": {"errorType": "Error"},
        });
        let found = record(Condition::RetriesExhausted, Some(&failed), None, usize::MAX);
        assert_eq!(found.to_string(), expected.to_string(), "the order of members counts too");
        let found = record(Condition::Success, Some(&outcome("null", false)), Some("live"), usize::MAX);
        assert_eq!(found["requestContext"]["functionArn"], json!(format!("{arn}:live")));
        assert_eq!(found["responseContext"], json!({"statusCode": 200, "executedVersion": "7"}));
        assert!(found.get("responsePayload").is_some_and(Value::is_null));
        let found = record(Condition::ZeroReservedConcurrency, None, None, usize::MAX);
        assert!(found.get("responseContext").is_none() && found.get("responsePayload").is_none(), "{found}");
        let found = record(Condition::Success, Some(&outcome("no json", false)), None, usize::MAX);
        assert_eq!(found["responsePayload"], json!("no json"));
    }

    #[test]
    fn a_record_that_is_too_large_goes_without_its_documents() {
        let answer = outcome("\"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\"", false);
        let whole = record(Condition::Success, Some(&answer), None, usize::MAX).to_string().len() + 10;
        let found = record(Condition::Success, Some(&answer), None, whole - 20);
        assert!(found.get("responsePayload").is_none() && found.get("requestPayload").is_some(), "{found}");
        let found = record(Condition::Success, Some(&answer), None, 0);
        assert!(found.get("responsePayload").is_none() && found.get("requestPayload").is_none(), "{found}");
        assert_eq!(found["responseContext"]["executedVersion"], json!("7"));
    }
}
