//! The record of a batch that is given up, as its destination gets it. Pure.
//!
//! Source: the developer guide, "Example Kinesis event source mapping configuration" and the same of DynamoDB streams and S3.

use bytes::Bytes;
use model::{FunctionRef, Outcome, RequestId, SourceRecord};
use serde_json::{Map, Value, json};

use crate::report::iso_ms;

/// Why a batch is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Condition {
    /// It failed as often as it may.
    RetryAttemptsExhausted,
    /// Its records are too old.
    RecordAgeExceeded,
}

impl Condition {
    fn as_str(self) -> &'static str {
        match self {
            Self::RetryAttemptsExhausted => "RetryAttemptsExhausted",
            Self::RecordAgeExceeded => "RecordAgeExceeded",
        }
    }
}

/// What a record tells of.
pub(super) struct GivenUp<'a> {
    /// When, milliseconds since the epoch.
    pub(super) now_ms: u64,
    /// Of the last call, or of the record alone.
    pub(super) request_id: &'a RequestId,
    pub(super) function: &'a FunctionRef,
    pub(super) condition: Condition,
    /// How often the function ran for it.
    pub(super) calls: u32,
    /// How the last call ended, if there was one.
    pub(super) outcome: Option<&'a Outcome>,
    /// What the source calls the place of a batch.
    pub(super) batch_info: &'static str,
    pub(super) source: &'a str,
    pub(super) shard: &'a str,
    pub(super) records: &'a [SourceRecord],
    /// The event, where the destination keeps it.
    pub(super) payload: Option<&'a [u8]>,
}

/// The record.
pub(super) fn of(given_up: &GivenUp<'_>) -> Bytes {
    let GivenUp { records, .. } = given_up;
    let mut record = Map::new();
    record.insert(
        "requestContext".into(),
        json!({
            "requestId": given_up.request_id.0,
            "functionArn": given_up.function.arn(),
            "condition": given_up.condition.as_str(),
            "approximateInvokeCount": given_up.calls,
        }),
    );
    if let Some(outcome) = given_up.outcome {
        let mut response = json!({"statusCode": 200, "executedVersion": outcome.executed_version});
        if let Some(error) = &outcome.error {
            response["functionError"] = json!(error.kind);
        }
        record.insert("responseContext".into(), response);
    }
    record.insert("version".into(), json!("1.0"));
    record.insert("timestamp".into(), json!(iso_ms(given_up.now_ms)));
    let id = |record: Option<&SourceRecord>| record.map(|record| record.id.clone());
    let arrived = |record: Option<&SourceRecord>| record.map(|record| iso_ms(record.arrived_ms));
    record.insert(
        given_up.batch_info.into(),
        json!({
            "shardId": given_up.shard,
            "startSequenceNumber": id(records.first()),
            "endSequenceNumber": id(records.last()),
            "approximateArrivalOfFirstRecord": arrived(records.first()),
            "approximateArrivalOfLastRecord": arrived(records.last()),
            "batchSize": records.len(),
            "streamArn": given_up.source,
        }),
    );
    if let Some(payload) = given_up.payload {
        record.insert("payload".into(), json!(String::from_utf8_lossy(payload)));
    }
    Value::Object(record).to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::FunctionError;

    #[test]
    fn a_record_has_the_documented_shape() {
        let function = FunctionRef::parse_arn("arn:aws:lambda:us-east-1:000000000000:function:f:live").unwrap();
        let at = |id: &str, arrived_ms| SourceRecord {
            id: id.into(),
            handle: String::new(),
            key: None,
            arrived_ms,
            trace: None,
            event: Bytes::new(),
        };
        let outcome = Outcome {
            payload: Bytes::new(),
            error: Some(FunctionError { kind: "Unhandled", error_type: "Error".into() }),
            content_type: None,
            executed_version: "7".into(),
            log_tail: None,
        };
        let mut given_up = GivenUp {
            now_ms: 1_573_690_149_912,
            request_id: &RequestId("r-1".into()),
            function: &function,
            condition: Condition::RetryAttemptsExhausted,
            calls: 3,
            outcome: Some(&outcome),
            batch_info: "KinesisBatchInfo",
            source: "arn:aws:kinesis:us-east-1:000000000000:stream/s",
            shard: "shardId-000000000001",
            records: &[at("11", 1_573_690_086_021), at("12", 1_573_690_087_000)],
            payload: None,
        };
        let expected = json!({
            "requestContext": {
                "requestId": "r-1",
                "functionArn": "arn:aws:lambda:us-east-1:000000000000:function:f:live",
                "condition": "RetryAttemptsExhausted",
                "approximateInvokeCount": 3,
            },
            "responseContext": {"statusCode": 200, "executedVersion": "7", "functionError": "Unhandled"},
            "version": "1.0",
            "timestamp": "2019-11-14T00:09:09.912Z",
            "KinesisBatchInfo": {
                "shardId": "shardId-000000000001",
                "startSequenceNumber": "11",
                "endSequenceNumber": "12",
                "approximateArrivalOfFirstRecord": "2019-11-14T00:08:06.021Z",
                "approximateArrivalOfLastRecord": "2019-11-14T00:08:07.000Z",
                "batchSize": 2,
                "streamArn": "arn:aws:kinesis:us-east-1:000000000000:stream/s",
            },
        });
        assert_eq!(of(&given_up), expected.to_string(), "the order of members counts too");
        (given_up.condition, given_up.outcome) = (Condition::RecordAgeExceeded, None);
        given_up.payload = Some(b"{\"Records\":[]}");
        let found: Value = serde_json::from_slice(&of(&given_up)).unwrap();
        assert_eq!(found["requestContext"]["condition"], "RecordAgeExceeded");
        assert_eq!((found.get("responseContext"), &found["payload"]), (None, &json!("{\"Records\":[]}")));
    }
}
