//! Event source mappings: what may be asked for, the states, one mapping of a source and a function, what the engine is told.

use std::collections::BTreeSet;

use model::ports::{Catalog, EventSource};
use model::{Mapping, MappingNews, Mappings, Position, SourceError, SourceFacts, SourceKind, Take, Taken, Wanted};

use super::*;

const QUEUE: &str = "arn:aws:sqs:us-east-1:000000000000:there";
const STREAM: &str = "arn:aws:kinesis:us-east-1:000000000000:stream/there";
const TABLE: &str = "arn:aws:dynamodb:us-east-1:000000000000:table/t/stream/there";

/// A service whose sources are there if their names end so.
pub(super) struct Source(pub(super) &'static str);

#[async_trait]
impl EventSource for Source {
    fn service(&self) -> &'static str {
        self.0
    }

    async fn describe(&self, arn: &str) -> Result<Option<SourceFacts>, SourceError> {
        let kind = match self.0 {
            "sqs" => SourceKind::Queue { fifo: arn.ends_with(".fifo"), lease_ms: 30_000 },
            _ => SourceKind::Stream,
        };
        let there = arn.trim_end_matches(".fifo").ends_with("there");
        Ok(there.then_some(SourceFacts { kind, content: None, batch_info: "BatchInfo" }))
    }

    async fn lease(&self, _: &Take) -> Result<Taken, SourceError> {
        Err(SourceError::Later("nothing is taken here".into()))
    }
}

fn of_queue() -> Value {
    json!({"FunctionName": "f", "EventSourceArn": QUEUE})
}

fn of_stream() -> Value {
    json!({"FunctionName": "f", "EventSourceArn": STREAM, "StartingPosition": "LATEST"})
}

fn uuid(shown: &Value) -> String {
    shown["UUID"].as_str().unwrap().to_owned()
}

async fn told(platform: &Platform) -> Vec<Arc<Mapping>> {
    platform.functions.all_mappings().await.unwrap().into_values().collect()
}

/// Says what a poller says when it follows what is asked for.
async fn settle(platform: &Platform) {
    for mapping in told(platform).await {
        let (arn, revision) = (mapping.arn.clone(), mapping.revision);
        platform.functions.tell(MappingNews::Settled { arn, revision }).await;
    }
}

async fn get(platform: &Platform, uuid: &str) -> Value {
    platform.ok("GetEventSourceMapping", json!({"UUID": uuid})).await
}

#[tokio::test]
async fn a_mapping_of_a_queue_is_made_changed_and_deleted() {
    let platform = Platform::new();
    platform.create("f").await;
    let made = platform.ok("CreateEventSourceMapping", of_queue()).await;
    let id = uuid(&made);
    let arn = format!("arn:aws:lambda:us-east-1:000000000000:event-source-mapping:{id}");
    let mut expected = json!({
        "UUID": id,
        "BatchSize": 10,
        "MaximumBatchingWindowInSeconds": 0,
        "EventSourceArn": QUEUE,
        "FunctionArn": reference("f").arn(),
        "LastModified": 1_704_164_645.678,
        "State": "Creating",
        "StateTransitionReason": "USER_INITIATED",
        "FunctionResponseTypes": [],
        "EventSourceMappingArn": arn,
    });
    assert_eq!(without_nulls(&made), expected);
    assert_eq!(get(&platform, &id).await["State"], "Creating");
    settle(&platform).await;
    expected["State"] = json!("Enabled");
    assert_eq!(without_nulls(&get(&platform, &id).await), expected);

    let input = json!({
        "UUID": id,
        "BatchSize": 500,
        "MaximumBatchingWindowInSeconds": 5,
        "FunctionResponseTypes": ["ReportBatchItemFailures"],
        "ScalingConfig": {"MaximumConcurrency": 7},
        "FilterCriteria": {"Filters": [{"Pattern": "{\"body\": [\"x\"]}"}]},
        "MetricsConfig": {"Metrics": ["EventCount"]},
    });
    let updated = platform.ok("UpdateEventSourceMapping", input).await;
    assert_eq!((&updated["State"], &updated["BatchSize"]), (&json!("Updating"), &json!(500)));
    let told = told(&platform).await;
    let [mapping] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!((mapping.batch_records, mapping.window_ms, mapping.reports_failures), (500, 5_000, true));
    assert_eq!((mapping.concurrency_max, mapping.filters.len(), mapping.wanted), (Some(7), 1, Wanted::Polled));
    settle(&platform).await;
    platform.functions.tell(MappingNews::Result { arn, words: "PROBLEM: Function call failed".into() }).await;
    let shown = get(&platform, &id).await;
    assert_eq!(
        (&shown["State"], &shown["LastProcessingResult"]),
        (&json!("Enabled"), &json!("PROBLEM: Function call failed"))
    );
    assert_eq!(shown["ScalingConfig"], json!({"MaximumConcurrency": 7}));
    assert_eq!(shown["FilterCriteria"], json!({"Filters": [{"Pattern": "{\"body\": [\"x\"]}"}]}));
    assert_eq!(shown["MetricsConfig"], json!({"Metrics": ["EventCount"]}));

    let cleared = json!({"UUID": id, "ScalingConfig": {}, "FilterCriteria": {}, "FunctionResponseTypes": []});
    let cleared = platform.ok("UpdateEventSourceMapping", cleared).await;
    assert_eq!((&cleared["ScalingConfig"], &cleared["FilterCriteria"]), (&Value::Null, &Value::Null));
    assert_eq!((&cleared["FunctionResponseTypes"], &cleared["BatchSize"]), (&json!([]), &json!(500)));
    settle(&platform).await;

    let deleted = platform.ok("DeleteEventSourceMapping", json!({"UUID": id})).await;
    assert_eq!(deleted["State"], "Deleting");
    assert_eq!(self::told(&platform).await[0].wanted, Wanted::Gone);
    settle(&platform).await;
    let missing = platform.fails("GetEventSourceMapping", json!({"UUID": id})).await;
    assert_eq!(missing, (404, "ResourceNotFoundException".into(), "The resource you requested does not exist.".into()));
    for tag in [b'e', b'q', b'r'] {
        let left = platform.store.range(&Range::prefix(vec![model::prefixes::LAMBDA.byte, tag])).await.unwrap();
        assert_eq!(left.entries, [], "nothing is left");
    }
    platform.ok("CreateEventSourceMapping", of_queue()).await;
}

#[tokio::test]
async fn a_mapping_of_a_stream_shows_all_that_streams_have() {
    let platform = Platform::new();
    platform.create("f").await;
    platform.publish("f", "one").await;
    platform.ok("CreateAlias", json!({"FunctionName": "f", "Name": "live", "FunctionVersion": "1"})).await;
    let input = with(of_stream(), "FunctionName", json!("f:live"));
    let made = platform.ok("CreateEventSourceMapping", input).await;
    let expected = json!({
        "UUID": uuid(&made),
        "StartingPosition": "LATEST",
        "BatchSize": 100,
        "MaximumBatchingWindowInSeconds": 0,
        "ParallelizationFactor": 1,
        "EventSourceArn": STREAM,
        "FunctionArn": reference("f:live").arn(),
        "LastModified": 1_704_164_645.678,
        "LastProcessingResult": "No records processed",
        "State": "Creating",
        "StateTransitionReason": "User action",
        "DestinationConfig": {"OnFailure": {}},
        "MaximumRecordAgeInSeconds": -1,
        "BisectBatchOnFunctionError": false,
        "MaximumRetryAttempts": -1,
        "TumblingWindowInSeconds": 0,
        "FunctionResponseTypes": [],
        "EventSourceMappingArn": made["EventSourceMappingArn"],
    });
    assert_eq!(without_nulls(&made), expected);
    let mapping = told(&platform).await.remove(0);
    assert_eq!((&mapping.function, &mapping.start), (&reference("f:live"), &Position::Latest));
    assert_eq!((mapping.retries_max, mapping.age_max_ms), (None, None));

    let all = json!({
        "FunctionName": "f",
        "EventSourceArn": STREAM,
        "StartingPosition": "AT_TIMESTAMP",
        "StartingPositionTimestamp": 1_700_000_000.5,
        "Enabled": false,
        "ParallelizationFactor": 3,
        "MaximumRetryAttempts": 0,
        "MaximumRecordAgeInSeconds": 60,
        "BisectBatchOnFunctionError": true,
        "TumblingWindowInSeconds": 30,
        "DestinationConfig": {"OnFailure": {"Destination": QUEUE}},
        "Tags": {"a": "1"},
    });
    let made = platform.ok("CreateEventSourceMapping", all).await;
    settle(&platform).await;
    let shown = get(&platform, &uuid(&made)).await;
    assert_eq!((&shown["State"], &shown["StartingPositionTimestamp"]), (&json!("Disabled"), &json!(1_700_000_000.5)));
    assert_eq!(shown["DestinationConfig"], json!({"OnFailure": {"Destination": QUEUE}}));
    let mapping =
        platform.functions.all_mappings().await.unwrap()[shown["EventSourceMappingArn"].as_str().unwrap()].clone();
    assert_eq!((mapping.wanted, &mapping.start), (Wanted::Rests, &Position::AtTimestamp(1_700_000_000_500)));
    assert_eq!((mapping.lanes, mapping.retries_max, mapping.age_max_ms), (3, Some(0), Some(60_000)));
    assert_eq!((mapping.bisects, mapping.tumbling_ms, mapping.on_failure.as_deref()), (true, 30_000, Some(QUEUE)));
    let enabled = platform.ok("UpdateEventSourceMapping", json!({"UUID": uuid(&made), "Enabled": true})).await;
    assert_eq!(enabled["State"], "Enabling");
    settle(&platform).await;
    let disabled = platform.ok("UpdateEventSourceMapping", json!({"UUID": uuid(&made), "Enabled": false})).await;
    assert_eq!(disabled["State"], "Disabling");
}

#[tokio::test]
async fn a_source_and_a_function_have_one_mapping() {
    let platform = Platform::new();
    platform.create("f").await;
    platform.create("g").await;
    let of_f = uuid(&platform.ok("CreateEventSourceMapping", of_queue()).await);
    let (status, code, message) = platform.fails("CreateEventSourceMapping", of_queue()).await;
    assert_eq!((status, code.as_str()), (409, "ResourceConflictException"));
    let expected = format!(
        "An event source mapping with SQS arn (\" {QUEUE} \") and function (\" f \") already exists. Please update or delete the existing mapping with UUID {of_f}"
    );
    assert_eq!(message, expected);
    let stream = uuid(&platform.ok("CreateEventSourceMapping", of_stream()).await);
    let (_, _, message) = platform.fails("CreateEventSourceMapping", of_stream()).await;
    assert!(message.contains("provided mapping already exists") && message.ends_with(&stream), "{message}");
    let of_g = uuid(&platform.ok("CreateEventSourceMapping", with(of_queue(), "FunctionName", json!("g"))).await);
    settle(&platform).await;
    let (status, _, message) =
        platform.fails("UpdateEventSourceMapping", json!({"UUID": of_g, "FunctionName": "f"})).await;
    assert!(status == 409 && message.ends_with(&of_f), "{message}");
    platform.ok("DeleteEventSourceMapping", json!({"UUID": of_f})).await;
    settle(&platform).await;
    let moved = platform.ok("UpdateEventSourceMapping", json!({"UUID": of_g, "FunctionName": "f"})).await;
    assert_eq!(moved["FunctionArn"], json!(reference("f").arn()));
    platform.ok("CreateEventSourceMapping", with(of_queue(), "FunctionName", json!("g"))).await;
}

#[tokio::test]
async fn changes_wait_for_each_other() {
    let platform = Platform::new();
    platform.create("f").await;
    let id = json!({"UUID": uuid(&platform.ok("CreateEventSourceMapping", of_queue()).await)});
    let in_use = |verb| {
        let message = format!("Cannot {verb} the event source mapping because it is in use.");
        (400, "ResourceInUseException".to_owned(), message)
    };
    assert_eq!(platform.fails("DeleteEventSourceMapping", id.clone()).await, in_use("delete"));
    let update = with(id.clone(), "BatchSize", json!(1));
    assert_eq!(platform.fails("UpdateEventSourceMapping", update.clone()).await, in_use("update"));
    settle(&platform).await;
    platform.ok("UpdateEventSourceMapping", update.clone()).await;
    assert_eq!(platform.fails("DeleteEventSourceMapping", id.clone()).await, in_use("delete"));
    // What a poller says of a revision before does not settle this one.
    let arn = told(&platform).await[0].arn.clone();
    platform.functions.tell(MappingNews::Settled { arn, revision: 1 }).await;
    assert_eq!(platform.fails("UpdateEventSourceMapping", update).await, in_use("update"));
    settle(&platform).await;
    platform.ok("DeleteEventSourceMapping", id.clone()).await;
    assert_eq!(platform.fails("DeleteEventSourceMapping", id).await, in_use("delete"));
}

#[tokio::test]
async fn a_mapping_outlives_its_function() {
    let platform = Platform::new();
    platform.create("f").await;
    let id = uuid(&platform.ok("CreateEventSourceMapping", of_queue()).await);
    settle(&platform).await;
    platform.ok("DeleteFunction", json!({"FunctionName": "f"})).await;
    assert_eq!(get(&platform, &id).await["State"], "Enabled");
    let listed = platform.ok("ListEventSourceMappings", json!({"FunctionName": "f"})).await;
    assert_eq!(listed["EventSourceMappings"].as_array().unwrap().len(), 1);
    platform.ok("DeleteEventSourceMapping", json!({"UUID": id})).await;
    settle(&platform).await;
    assert_eq!(platform.fails("GetEventSourceMapping", json!({"UUID": id})).await.0, 404);
}

const INVALID: &str = "InvalidParameterValueException";

/// Calls that break a rule of queues or of all sources, the code and words of what is answered.
fn broken_rules_of_queues() -> Vec<(Value, &'static str, &'static str)> {
    let fifo = format!("{QUEUE}.fifo");
    vec![
        (json!({"FunctionName": "f"}), INVALID, "Unrecognized event source."),
        (queue("EventSourceArn", json!("arn:aws:s3:::b")), INVALID, "Unrecognized event source."),
        (queue("FunctionName", json!("h")), INVALID, "Function does not exist"),
        (queue("FunctionName", json!("f:live")), INVALID, "Function does not exist"),
        (queue("FunctionName", json!("f:7")), INVALID, "Function does not exist"),
        (queue("BatchSize", json!(11)), INVALID, "Maximum batch window in seconds must be greater than 0"),
        (
            with(queue("EventSourceArn", json!(fifo)), "BatchSize", json!(11)),
            "ValidationException",
            "less than or equal to 10",
        ),
        (with(queue("EventSourceArn", json!(fifo)), "MaximumBatchingWindowInSeconds", json!(1)), INVALID, "FIFO"),
        (queue("StartingPosition", json!("LATEST")), INVALID, "Unsupported StartingPosition parameter for given"),
        (
            queue("DestinationConfig", json!({"OnFailure": {"Destination": QUEUE}})),
            INVALID,
            "Unsupported DestinationConfig",
        ),
    ]
}

/// The same of streams.
fn broken_rules_of_streams() -> Vec<(Value, &'static str, &'static str)> {
    let table = with(of_stream(), "EventSourceArn", json!(TABLE));
    vec![
        (
            stream("DestinationConfig", json!({"OnSuccess": {"Destination": QUEUE}})),
            INVALID,
            "Unsupported DestinationConfig",
        ),
        (stream("ScalingConfig", json!({"MaximumConcurrency": 2})), INVALID, "Unsupported ScalingConfig"),
        (stream("Topics", json!(["t"])), INVALID, "Unsupported Topics"),
        (stream("StartingPosition", Value::Null), INVALID, "Value null at 'startingPosition'"),
        (stream("StartingPosition", json!("AT_TIMESTAMP")), INVALID, "StartingPositionTimestamp is required"),
        (stream("StartingPositionTimestamp", json!(1)), INVALID, "StartingPositionTimestamp is allowed only"),
        (with(table, "StartingPosition", json!("AT_TIMESTAMP")), INVALID, "Unsupported starting position for arn type"),
        (stream("MaximumRecordAgeInSeconds", json!(59)), "ValidationException", "greater than or equal to 60"),
    ]
}

fn queue(member: &str, value: Value) -> Value {
    with(of_queue(), member, value)
}

fn stream(member: &str, value: Value) -> Value {
    with(of_stream(), member, value)
}

#[tokio::test]
async fn what_cannot_be_is_refused() {
    let platform = Platform::new();
    platform.create("f").await;
    let refused = async |input: Value| {
        let (status, code, message) = platform.fails("CreateEventSourceMapping", input).await;
        assert_eq!(told(&platform).await.len(), 0, "nothing is kept");
        (status, code, message)
    };
    let table = with(of_stream(), "EventSourceArn", json!(TABLE));
    for (input, code, words) in [broken_rules_of_queues(), broken_rules_of_streams()].concat() {
        let found = refused(input.clone()).await;
        assert!(found.0 == 400 && found.1 == code && found.2.contains(words), "{input}: {found:?}");
    }
    let kafka = "arn:aws:kafka:us-east-1:000000000000:cluster/c/1";
    let sns = "arn:aws:sns:us-east-1:000000000000:t";
    for (input, words) in [
        (table, "DynamoDB Streams"),
        (queue("EventSourceArn", json!(kafka)), "MSK"),
        (queue("EventSourceArn", json!("arn:aws:mq:us-east-1:000000000000:broker:b:1")), "Amazon MQ"),
        (queue("EventSourceArn", json!("arn:aws:rds:us-east-1:000000000000:cluster:c")), "DocumentDB"),
        (stream("DestinationConfig", json!({"OnFailure": {"Destination": sns}})), "sns does not exist here yet"),
        (stream("DestinationConfig", json!({"OnFailure": {"Destination": "kafka://t"}})), "Kafka"),
        (queue("KMSKeyArn", json!("arn:aws:kms:us-east-1:000000000000:key/k")), "KMSKeyArn"),
        (queue("LoggingConfig", json!({"SystemLogLevel": "INFO"})), "LoggingConfig"),
    ] {
        let found = refused(input.clone()).await;
        assert!(
            found.0 == 501 && found.1 == "NotImplementedException" && found.2.contains(words),
            "{input}: {found:?}"
        );
    }
    // A queue that lets go of messages before the function may have ended.
    let longer = json!({"FunctionName": "f", "Timeout": 60});
    platform.ok("UpdateFunctionConfiguration", longer).await;
    let (_, _, message) = refused(of_queue()).await;
    assert_eq!(message, "Queue visibility timeout: 30 seconds is less than Function timeout: 60 seconds");
}

#[tokio::test]
async fn lists_are_paged_and_filtered() {
    let platform = Platform::new();
    let nothing = platform.ok("ListEventSourceMappings", json!({})).await;
    assert_eq!(nothing, json!({"EventSourceMappings": [], "NextMarker": null}));
    platform.create("f").await;
    platform.create("g").await;
    platform.publish("f", "one").await;
    for function in ["f", "f:1", "g"] {
        for source in [of_queue(), of_stream()] {
            platform.ok("CreateEventSourceMapping", with(source, "FunctionName", json!(function))).await;
        }
    }
    let list = async |input: Value| {
        let listed = platform.ok("ListEventSourceMappings", input).await;
        listed["EventSourceMappings"].as_array().unwrap().iter().map(uuid).collect::<BTreeSet<_>>()
    };
    assert_eq!(list(json!({})).await.len(), 6);
    assert_eq!(list(json!({"EventSourceArn": QUEUE})).await.len(), 3);
    assert_eq!(list(json!({"FunctionName": "f"})).await.len(), 4);
    assert_eq!(list(json!({"FunctionName": reference("f").arn()})).await.len(), 4);
    assert_eq!(list(json!({"FunctionName": "f:1"})).await.len(), 2);
    assert_eq!(list(json!({"FunctionName": "f:1", "EventSourceArn": STREAM})).await.len(), 1);
    assert_eq!(list(json!({"FunctionName": "h"})).await.len(), 0);
    let (mut found, mut input) = (BTreeSet::new(), json!({"MaxItems": 4}));
    for rest in [2, 0] {
        let page = platform.ok("ListEventSourceMappings", input.clone()).await;
        found.extend(page["EventSourceMappings"].as_array().unwrap().iter().map(uuid));
        assert_eq!((found.len() + rest, page["NextMarker"].is_null()), (6, rest == 0));
        input["Marker"] = page["NextMarker"].clone();
    }
}

#[tokio::test]
async fn mappings_have_tags() {
    let platform = Platform::new();
    platform.create("f").await;
    let made = platform.ok("CreateEventSourceMapping", with(of_queue(), "Tags", json!({"a": "1"}))).await;
    let of = |input: Value| with(input, "Resource", made["EventSourceMappingArn"].clone());
    settle(&platform).await;
    platform.ok("TagResource", of(json!({"Tags": {"b": "2", "c": "3"}}))).await;
    platform.ok("UntagResource", of(json!({"TagKeys": ["a", "x"]}))).await;
    assert_eq!(platform.ok("ListTags", of(json!({}))).await, json!({"Tags": {"b": "2", "c": "3"}}));
    let many: serde_json::Map<String, Value> = (0..49).map(|n| (format!("t{n}"), json!("v"))).collect();
    assert_eq!(platform.fails("TagResource", of(json!({"Tags": many}))).await.0, 400);
    assert_eq!(get(&platform, &uuid(&made)).await["State"], "Enabled", "tags are not the poller's business");
    let absent =
        made["EventSourceMappingArn"].as_str().unwrap().replace(&uuid(&made), "7f3a0000-0000-4000-8000-000000000000");
    assert_eq!(platform.fails("ListTags", json!({"Resource": absent})).await.0, 404);
}

#[tokio::test]
async fn the_engine_is_told_of_every_change_at_once() {
    let platform = Platform::new();
    platform.create("f").await;
    let mut known = Mappings::new();
    let functions = platform.functions.clone();
    let next = tokio::spawn(async move { functions.mappings(&Mappings::new()).await });
    tokio::task::yield_now().await;
    let made = platform.ok("CreateEventSourceMapping", of_queue()).await;
    known.extend(next.await.unwrap());
    assert_eq!(known.keys().next().map(String::as_str), made["EventSourceMappingArn"].as_str());
    settle(&platform).await;
    platform.ok("UpdateEventSourceMapping", json!({"UUID": uuid(&made), "Enabled": false})).await;
    let changed = platform.functions.mappings(&known).await;
    assert_eq!(changed.values().next().unwrap().wanted, Wanted::Rests);
}

fn without_nulls(shown: &Value) -> Value {
    shown
        .as_object()
        .unwrap()
        .iter()
        .filter(|(_, value)| !value.is_null())
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// The calls of Terraform's AWS provider for `aws_lambda_event_source_mapping`, in its order. What it does not wait for it
/// takes for a failure. Source: its `internal/service/lambda/event_source_mapping.go`.
#[tokio::test]
async fn the_calls_of_terraform_find_what_they_wait_for() {
    let platform = Platform::new();
    let function = platform.create("f").await["FunctionArn"].clone();
    for source in [of_queue(), of_stream()] {
        let made = platform
            .ok(
                "CreateEventSourceMapping",
                with(with(source, "FunctionName", function.clone()), "Enabled", json!(true)),
            )
            .await;
        let id = json!({"UUID": made["UUID"]});
        let state = async || get(&platform, &uuid(&id)).await["State"].as_str().unwrap().to_owned();
        assert_eq!(state().await, "Creating");
        settle(&platform).await;
        assert_eq!(state().await, "Enabled");
        let read = get(&platform, &uuid(&id)).await;
        assert_eq!(read["FunctionArn"], function);
        let tags = json!({"Resource": read["EventSourceMappingArn"]});
        assert_eq!(platform.ok("ListTags", tags.clone()).await, json!({"Tags": {}}));
        let update = with(with(id.clone(), "Enabled", json!(false)), "KMSKeyArn", json!(""));
        platform.ok("UpdateEventSourceMapping", with(update, "FilterCriteria", json!({}))).await;
        assert_eq!(state().await, "Disabling");
        settle(&platform).await;
        assert_eq!(state().await, "Disabled");
        platform.ok("TagResource", with(tags, "Tags", json!({"a": "1"}))).await;
        platform.ok("UpdateEventSourceMapping", with(id.clone(), "BatchSize", json!(7))).await;
        // It deletes at once and tries again for as long as the mapping is in use.
        let in_use = platform.fails("DeleteEventSourceMapping", id.clone()).await;
        assert_eq!((in_use.0, in_use.1.as_str()), (400, "ResourceInUseException"));
        settle(&platform).await;
        platform.ok("DeleteEventSourceMapping", id.clone()).await;
        assert_eq!(state().await, "Deleting");
        settle(&platform).await;
        for operation in ["GetEventSourceMapping", "DeleteEventSourceMapping"] {
            assert_eq!(platform.fails(operation, id.clone()).await.1, "ResourceNotFoundException");
        }
    }
}
