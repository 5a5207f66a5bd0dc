//! Streams: what is recorded when, how it is read, how long it stays, and how pollers see it.

use std::time::Duration;

use model::ports::EventSource;
use model::{Position, SourceError, SourceKind, Take};

use super::*;

const DAY_MS: u64 = 24 * 3_600_000;

/// A service whose time the test moves.
struct Timed {
    bench: Bench,
    clock: Arc<ManualClock>,
}

fn timed() -> Timed {
    let bench = Bench::new();
    let clock = Arc::clone(&bench.clock);
    Timed { bench, clock }
}

fn with_stream(view: &str) -> Json {
    let mut input = create_input("items", &[("id", "S")]);
    input["StreamSpecification"] = json!({ "StreamEnabled": true, "StreamViewType": view });
    input
}

/// Makes the table and answers the ARN of its stream.
async fn made(bench: &Bench, view: &str) -> String {
    let table = bench.ok("CreateTable", with_stream(view)).await["TableDescription"].clone();
    assert_eq!(table["StreamSpecification"], json!({ "StreamEnabled": true, "StreamViewType": view }));
    let arn = table["LatestStreamArn"].as_str().unwrap().to_owned();
    assert_eq!(
        arn,
        format!("{}/stream/{}", table["TableArn"].as_str().unwrap(), table["LatestStreamLabel"].as_str().unwrap())
    );
    arn
}

async fn shard(bench: &Bench, arn: &str) -> Json {
    bench.ok("DescribeStream", json!({ "StreamArn": arn })).await["StreamDescription"]["Shards"][0].clone()
}

async fn iterator(bench: &Bench, arn: &str, kind: &str, sequence: Option<&str>) -> Json {
    let shard = shard(bench, arn).await["ShardId"].clone();
    let mut input = json!({ "StreamArn": arn, "ShardId": shard, "ShardIteratorType": kind });
    if let Some(sequence) = sequence {
        input["SequenceNumber"] = json!(sequence);
    }
    bench.ok("GetShardIterator", input).await["ShardIterator"].clone()
}

async fn records(bench: &Bench, iterator: &Json) -> (Vec<Json>, Json) {
    let answer = bench.ok("GetRecords", json!({ "ShardIterator": iterator })).await;
    (answer["Records"].as_array().unwrap().clone(), answer["NextShardIterator"].clone())
}

async fn all(bench: &Bench, arn: &str) -> Vec<Json> {
    let start = iterator(bench, arn, "TRIM_HORIZON", None).await;
    records(bench, &start).await.0
}

async fn set(bench: &Bench, id: &str, value: &str) {
    let update = json!({
        "TableName": "items", "Key": { "id": { "S": id } }, "UpdateExpression": "SET v = :v",
        "ExpressionAttributeValues": { ":v": { "S": value } },
    });
    bench.ok("UpdateItem", update).await;
}

async fn remove(bench: &Bench, id: &str) {
    bench.ok("DeleteItem", json!({ "TableName": "items", "Key": { "id": { "S": id } } })).await;
}

fn names(records: &[Json]) -> Vec<&str> {
    records.iter().map(|record| record["eventName"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn each_change_is_recorded_once_and_nothing_else() {
    let bench = Bench::new();
    let arn = made(&bench, "NEW_AND_OLD_IMAGES").await;
    bench.put("items", json!({ "id": { "S": "a" }, "v": { "S": "1" } })).await;
    bench.put("items", json!({ "id": { "S": "a" }, "v": { "S": "1" } })).await;
    set(&bench, "a", "1").await;
    set(&bench, "a", "2").await;
    let refused = json!({
        "TableName": "items", "Item": { "id": { "S": "a" } }, "ConditionExpression": "attribute_not_exists(id)",
    });
    bench.call("PutItem", refused).await.unwrap_err();
    remove(&bench, "a").await;
    remove(&bench, "a").await;
    let batch = json!({ "RequestItems": { "items": [{ "PutRequest": { "Item": { "id": { "S": "b" } } } }] } });
    bench.ok("BatchWriteItem", batch).await;
    let found = all(&bench, &arn).await;
    assert_eq!(names(&found), ["INSERT", "MODIFY", "REMOVE", "INSERT"]);
    let sequences: Vec<_> = found.iter().map(|record| record["dynamodb"]["SequenceNumber"].as_str().unwrap()).collect();
    assert!(sequences.is_sorted() && sequences.iter().all(|one| (21..=40).contains(&one.len())), "{sequences:?}");
    let mut modified = found[1].clone();
    assert_eq!(modified["eventID"].as_str().unwrap().len(), 32);
    modified["eventID"] = json!("");
    modified["dynamodb"]["SequenceNumber"] = json!("");
    let image = |value: &str| json!({ "id": { "S": "a" }, "v": { "S": value } });
    assert_eq!(
        modified,
        json!({
            "eventID": "", "eventName": "MODIFY", "eventVersion": "1.1", "eventSource": "aws:dynamodb",
            "awsRegion": "us-east-1",
            "dynamodb": {
                "ApproximateCreationDateTime": 1_700_000_000.0, "Keys": { "id": { "S": "a" } }, "NewImage": image("2"),
                "OldImage": image("1"), "SequenceNumber": "", "SizeBytes": 3 + 5 + 5,
                "StreamViewType": "NEW_AND_OLD_IMAGES",
            },
        })
    );
    assert_eq!(found[0]["dynamodb"]["OldImage"], Json::Null);
    assert_eq!(found[2]["dynamodb"]["NewImage"], Json::Null);
}

#[tokio::test]
async fn records_show_what_the_view_says() {
    for (view, new, old) in [
        ("KEYS_ONLY", false, false),
        ("NEW_IMAGE", true, false),
        ("OLD_IMAGE", false, true),
        ("NEW_AND_OLD_IMAGES", true, true),
    ] {
        let bench = Bench::new();
        let arn = made(&bench, view).await;
        set(&bench, "a", "1").await;
        set(&bench, "a", "2").await;
        let record = all(&bench, &arn).await[1]["dynamodb"].clone();
        assert_eq!((record["NewImage"].is_object(), record["OldImage"].is_object()), (new, old), "{view}");
        assert_eq!((&record["Keys"], &record["StreamViewType"]), (&json!({ "id": { "S": "a" } }), &json!(view)));
    }
}

#[tokio::test]
async fn iterators_begin_where_they_say() {
    let Timed { bench, clock } = timed();
    let arn = made(&bench, "KEYS_ONLY").await;
    let latest = iterator(&bench, &arn, "LATEST", None).await;
    for id in ["a", "b", "c"] {
        clock.advance(Duration::from_secs(1));
        set(&bench, id, "1").await;
    }
    let ids = |records: &[Json]| -> Vec<String> {
        records.iter().map(|one| one["dynamodb"]["Keys"]["id"]["S"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(&records(&bench, &latest).await.0), ["a", "b", "c"]);
    let found = all(&bench, &arn).await;
    let second = found[1]["dynamodb"]["SequenceNumber"].as_str().unwrap();
    for (kind, sequence, expected) in [
        ("AT_SEQUENCE_NUMBER", Some(second), &["b", "c"][..]),
        ("AFTER_SEQUENCE_NUMBER", Some(second), &["c"]),
        ("TRIM_HORIZON", None, &["a", "b", "c"]),
        ("LATEST", None, &[]),
    ] {
        let start = iterator(&bench, &arn, kind, sequence).await;
        assert_eq!(ids(&records(&bench, &start).await.0), expected, "{kind}");
    }
    for (seconds, expected) in [(0.0, &["a", "b", "c"][..]), (2.0, &["b", "c"]), (3.0, &["c"])] {
        let input = json!({
            "StreamArn": arn, "ShardId": shard(&bench, &arn).await["ShardId"], "ShardIteratorType": "AT_TIMESTAMP",
            "Timestamp": 1_700_000_000.0 + seconds,
        });
        let start = bench.ok("GetShardIterator", input).await["ShardIterator"].clone();
        assert_eq!(ids(&records(&bench, &start).await.0), expected, "{seconds}");
    }
    // Page by page, and on from where nothing was left.
    let mut next = iterator(&bench, &arn, "TRIM_HORIZON", None).await;
    let mut seen = Vec::new();
    for _ in 0..4 {
        let answer = bench.ok("GetRecords", json!({ "ShardIterator": next, "Limit": 1 })).await;
        seen.extend(ids(answer["Records"].as_array().unwrap()));
        next = answer["NextShardIterator"].clone();
    }
    set(&bench, "d", "1").await;
    seen.extend(ids(&records(&bench, &next).await.0));
    assert_eq!(seen, ["a", "b", "c", "d"]);
    clock.advance(Duration::from_secs(15 * 60 + 1));
    let error = bench.call("GetRecords", json!({ "ShardIterator": next })).await.unwrap_err();
    assert_eq!(error.code, "ExpiredIteratorException");
}

#[tokio::test]
async fn wrong_reads_are_refused() {
    let bench = Bench::new();
    let arn = made(&bench, "KEYS_ONLY").await;
    let absent = format!("{arn}0");
    let message = format!("Requested resource not found: Stream: {absent} not found");
    bench.refused("DescribeStream", json!({ "StreamArn": absent }), "ResourceNotFoundException", &message).await;
    let there = shard(&bench, &arn).await["ShardId"].clone();
    let ask = |shard: &Json, kind: &str, sequence: Json| json!({ "StreamArn": arn, "ShardId": shard, "ShardIteratorType": kind, "SequenceNumber": sequence });
    for (input, code) in [
        (ask(&json!("shardId-00000000000000000000-00000000"), "LATEST", Json::Null), "ResourceNotFoundException"),
        (ask(&there, "SOMEWHERE", Json::Null), "ValidationException"),
        (ask(&there, "AT_SEQUENCE_NUMBER", Json::Null), "ValidationException"),
        (ask(&there, "AT_SEQUENCE_NUMBER", json!("123456789012345678901")), "ValidationException"),
        (ask(&there, "LATEST", json!("123456789012345678901")), "ValidationException"),
    ] {
        assert_eq!(bench.call("GetShardIterator", input.clone()).await.unwrap_err().code, code, "{input}");
    }
    assert_eq!(
        bench.call("GetRecords", json!({ "ShardIterator": "x" })).await.unwrap_err().code,
        "ValidationException"
    );
    // Another region has another stream under the same name, or none.
    assert_eq!(
        bench.call_in("eu-west-1", "DescribeStream", json!({ "StreamArn": arn })).await.unwrap_err().code,
        "ResourceNotFoundException"
    );
}

#[tokio::test]
async fn a_stream_is_switched_off_and_on_again() {
    let Timed { bench, clock } = timed();
    let first = made(&bench, "NEW_IMAGE").await;
    set(&bench, "a", "1").await;
    let update = |specification: Json| json!({ "TableName": "items", "StreamSpecification": specification });
    let on = json!({ "StreamEnabled": true, "StreamViewType": "KEYS_ONLY" });
    let off = json!({ "StreamEnabled": false });
    let already = "Table already has an enabled stream: TableName: items";
    bench.invalid("UpdateTable", update(on.clone()), already).await;
    let with_view = json!({ "StreamEnabled": false, "StreamViewType": "KEYS_ONLY" });
    let message = "One or more parameter values were invalid: If stream is being disabled, then UpdateViewType must not be \
                   specified";
    bench.invalid("UpdateTable", update(with_view), message).await;
    let without = json!({ "StreamEnabled": true });
    let message =
        "One or more parameter values were invalid: If stream is being enabled then UpdateViewType is required";
    bench.invalid("UpdateTable", update(without), message).await;
    let table = bench.ok("UpdateTable", update(off.clone())).await["TableDescription"].clone();
    assert_eq!((&table["StreamSpecification"], &table["LatestStreamArn"]), (&Json::Null, &json!(first)));
    bench.invalid("UpdateTable", update(off), "Table has no stream to disable: TableName: items").await;
    set(&bench, "a", "2").await;
    let described = bench.ok("DescribeStream", json!({ "StreamArn": first })).await["StreamDescription"].clone();
    assert_eq!(described["StreamStatus"], "DISABLED");
    let end = described["Shards"][0]["SequenceNumberRange"]["EndingSequenceNumber"].as_str().unwrap().to_owned();
    let start = iterator(&bench, &first, "TRIM_HORIZON", None).await;
    let one = bench.ok("GetRecords", json!({ "ShardIterator": start, "Limit": 1 })).await;
    assert_eq!(one["Records"].as_array().unwrap().len(), 1);
    assert!(one["Records"][0]["dynamodb"]["SequenceNumber"].as_str().unwrap() < end.as_str());
    let (rest, next) = records(&bench, &one["NextShardIterator"]).await;
    assert_eq!((rest.len(), next), (0, Json::Null));
    let second = bench.ok("UpdateTable", update(on)).await["TableDescription"]["LatestStreamArn"].clone();
    let second = second.as_str().unwrap();
    assert_ne!(second, first);
    set(&bench, "a", "3").await;
    assert_eq!(names(&all(&bench, second).await), ["MODIFY"]);
    assert_eq!(all(&bench, &first).await.len(), 1);
    let listed = bench.ok("ListStreams", json!({ "TableName": "items" })).await;
    let arns: Vec<_> = listed["Streams"].as_array().unwrap().iter().map(|one| one["StreamArn"].clone()).collect();
    assert_eq!(arns, [json!(first), json!(second)]);
    let page = bench.ok("ListStreams", json!({ "Limit": 1 })).await;
    assert_eq!(page["LastEvaluatedStreamArn"], json!(first));
    let page = bench.ok("ListStreams", json!({ "Limit": 1, "ExclusiveStartStreamArn": first })).await;
    assert_eq!(page["Streams"][0]["StreamArn"], json!(second));
    // A stream outlives its table, for a day.
    bench.ok("DeleteTable", json!({ "TableName": "items" })).await;
    while bench.service.sweep().await.unwrap() > 0 {}
    assert_eq!(all(&bench, second).await.len(), 1);
    clock.advance(Duration::from_millis(DAY_MS + 1));
    while bench.service.sweep().await.unwrap() > 0 {}
    assert_eq!(bench.ok("ListStreams", json!({})).await["Streams"], json!([]));
    let everything = store::Range::prefix(vec![model::prefixes::DYNAMODB.byte]);
    let left = bench.service.shared.store.range(&everything).await.unwrap();
    assert!(left.entries.is_empty(), "{:?}", left.entries);
}

#[tokio::test]
async fn records_go_after_a_day_and_who_is_behind_is_told() {
    let Timed { bench, clock } = timed();
    let arn = made(&bench, "KEYS_ONLY").await;
    set(&bench, "a", "1").await;
    set(&bench, "b", "1").await;
    let found = all(&bench, &arn).await;
    let first = found[0]["dynamodb"]["SequenceNumber"].as_str().unwrap().to_owned();
    let second = found[1]["dynamodb"]["SequenceNumber"].as_str().unwrap().to_owned();
    clock.advance(Duration::from_millis(DAY_MS));
    set(&bench, "c", "1").await;
    while bench.service.sweep().await.unwrap() > 0 {}
    assert_eq!(all(&bench, &arn).await.len(), 1);
    for (kind, sequence) in [("AT_SEQUENCE_NUMBER", &second), ("AFTER_SEQUENCE_NUMBER", &first)] {
        let input = json!({
            "StreamArn": arn, "ShardId": shard(&bench, &arn).await["ShardId"], "ShardIteratorType": kind,
            "SequenceNumber": sequence,
        });
        assert_eq!(bench.call("GetShardIterator", input).await.unwrap_err().code, "TrimmedDataAccessException");
    }
    let after = iterator(&bench, &arn, "AFTER_SEQUENCE_NUMBER", Some(&second)).await;
    assert_eq!(records(&bench, &after).await.0.len(), 1);
    let take = |position| Take { source: arn.clone(), from: Some(("shard".into(), position)), records: 10, wait_ms: 0 };
    let source = bench.service.streams();
    assert_eq!(source.lease(&take(Position::After(first))).await.unwrap_err(), SourceError::Trimmed);
    assert_eq!(source.lease(&take(Position::TrimHorizon)).await.unwrap().records.len(), 1);
}

#[tokio::test]
async fn wrong_specifications_are_refused() {
    let bench = Bench::new();
    for (specification, message) in [
        (
            json!({ "StreamEnabled": true }),
            "One or more parameter values were invalid: Table is being created with a stream enabled, UpdateViewType is \
             required",
        ),
        (
            json!({ "StreamEnabled": false, "StreamViewType": "NEW_IMAGE" }),
            "One or more parameter values were invalid: Table is being created with a stream disabled, UpdateViewType should \
             not be specified",
        ),
        (
            json!({ "StreamEnabled": true, "StreamViewType": "ALL" }),
            "1 validation error detected: Value 'ALL' at 'streamSpecification.streamViewType' failed to satisfy constraint: \
             Member must satisfy enum value set: [OLD_IMAGE, NEW_IMAGE, KEYS_ONLY, NEW_AND_OLD_IMAGES]",
        ),
        (
            json!({ "StreamViewType": "NEW_IMAGE" }),
            "1 validation error detected: Value null at 'streamSpecification.streamEnabled' failed to satisfy constraint: \
             Member must not be null",
        ),
    ] {
        let mut input = create_input("items", &[("id", "S")]);
        input["StreamSpecification"] = specification;
        bench.invalid("CreateTable", input, message).await;
    }
    let mut input = create_input("items", &[("id", "S")]);
    input["StreamSpecification"] = json!({ "StreamEnabled": false });
    let table = bench.ok("CreateTable", input).await["TableDescription"].clone();
    assert_eq!((&table["StreamSpecification"], &table["LatestStreamArn"]), (&Json::Null, &Json::Null));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_waits_is_woken_by_the_commit_and_by_the_end() {
    let bench = Bench::new();
    let arn = made(&bench, "NEW_IMAGE").await;
    let source = bench.service.streams();
    let facts = source.describe(&arn).await.unwrap().unwrap();
    assert_eq!((facts.kind, facts.batch_info), (SourceKind::Stream, "DDBStreamBatchInfo"));
    assert_eq!(source.describe(&format!("{arn}0")).await.unwrap(), None);
    let shards = source.shards(&arn).await.unwrap();
    assert_eq!(json!(shards[0].id), shard(&bench, &arn).await["ShardId"]);
    let from = |position| Some((shards[0].id.clone(), position));
    let at = source.lease(&Take { source: arn.clone(), from: from(Position::Latest), records: 0, wait_ms: 0 }).await;
    let at = at.unwrap().next.unwrap();
    let take =
        |after: String| Take { source: arn.clone(), from: from(Position::After(after)), records: 10, wait_ms: 60_000 };
    let waiting = tokio::spawn({
        let (source, take) = (source.clone(), take(at));
        async move { source.lease(&take).await }
    });
    tokio::task::yield_now().await;
    set(&bench, "a", "1").await;
    let taken = tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap().unwrap().unwrap();
    let event: Json = serde_json::from_slice(&taken.records[0].event).unwrap();
    assert_eq!((&event["eventSourceARN"], &event["eventName"]), (&json!(arn), &json!("INSERT")));
    assert_eq!(json!(taken.records[0].id), event["dynamodb"]["SequenceNumber"]);
    assert_eq!(taken.records[0].key.as_deref(), Some("{\"id\":{\"S\":\"a\"}}"));
    let waiting = tokio::spawn({
        let (source, take) = (source.clone(), take(taken.next.unwrap()));
        async move { source.lease(&take).await }
    });
    tokio::task::yield_now().await;
    bench.ok("DeleteTable", json!({ "TableName": "items" })).await;
    let taken = tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap().unwrap().unwrap();
    assert_eq!((taken.records.len(), taken.next), (0, None));
    let gone = Take { source: format!("{arn}0"), from: from(Position::TrimHorizon), records: 1, wait_ms: 0 };
    assert!(matches!(source.lease(&gone).await, Err(SourceError::Gone(_))));
}

#[tokio::test]
async fn a_transaction_leaves_a_record_of_each_item_in_its_order() {
    let bench = Bench::new();
    let arn = made(&bench, "NEW_AND_OLD_IMAGES").await;
    set(&bench, "b", "1").await;
    let key = |id: &str| json!({ "id": { "S": id } });
    let items = json!([
        { "Put": { "TableName": "items", "Item": key("c") } },
        { "ConditionCheck": { "TableName": "items", "Key": key("none"), "ConditionExpression": "attribute_not_exists(id)" } },
        { "Delete": { "TableName": "items", "Key": key("b") } },
        { "Put": { "TableName": "items", "Item": key("a") } },
    ]);
    bench.ok("TransactWriteItems", json!({ "TransactItems": items })).await;
    let records = all(&bench, &arn).await;
    let shown: Vec<_> =
        records.iter().map(|one| (one["eventName"].as_str().unwrap(), &one["dynamodb"]["Keys"])).collect();
    assert_eq!(shown, [("INSERT", &key("b")), ("INSERT", &key("c")), ("REMOVE", &key("b")), ("INSERT", &key("a"))]);
    let numbers: Vec<_> = records.iter().map(|one| one["dynamodb"]["SequenceNumber"].as_str().unwrap()).collect();
    assert!(numbers.windows(2).all(|pair| (pair[0].len(), pair[0]) < (pair[1].len(), pair[1])), "{numbers:?}");
}

#[tokio::test]
async fn what_expires_is_told_from_what_callers_delete() {
    let Timed { bench, clock } = timed();
    let arn = made(&bench, "OLD_IMAGE").await;
    let specification = json!({ "Enabled": true, "AttributeName": "due" });
    bench.ok("UpdateTimeToLive", json!({ "TableName": "items", "TimeToLiveSpecification": specification })).await;
    while bench.service.sweep().await.unwrap() > 0 {}
    for id in ["expires", "deleted"] {
        bench.put("items", json!({ "id": { "S": id }, "due": { "N": "1700000010" } })).await;
    }
    bench.ok("DeleteItem", json!({ "TableName": "items", "Key": { "id": { "S": "deleted" } } })).await;
    clock.advance(Duration::from_secs(20));
    while bench.service.sweep().await.unwrap() > 0 {}
    let records = all(&bench, &arn).await;
    let removals: Vec<_> = records.iter().filter(|one| one["eventName"] == "REMOVE").collect();
    let service = json!({ "type": "Service", "principalId": "dynamodb.amazonaws.com" });
    let shown = |one: &Json| (one["dynamodb"]["Keys"]["id"]["S"].clone(), lowered(&one["userIdentity"]));
    assert_eq!(removals.len(), 2);
    assert_eq!((shown(removals[0]), shown(removals[1])), ((json!("deleted"), Json::Null), (json!("expires"), service)));
}

/// The same members whatever the case of their first letters, which the two shapes of a record differ in.
fn lowered(json: &Json) -> Json {
    let Some(members) = json.as_object() else { return json.clone() };
    let lower = |name: &str| format!("{}{}", name[..1].to_lowercase(), &name[1..]);
    Json::Object(members.iter().map(|(name, member)| (lower(name), member.clone())).collect())
}
