//! Query and Scan: ranges, order, pages, filters, segments, and what is refused.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

async fn with_numbers(numbers: &[&str]) -> Bench {
    let bench = Bench::with_events().await;
    for number in numbers {
        bench.put("events", json!({ "id": { "S": "a" }, "at": { "N": number }, "v": { "S": number } })).await;
    }
    bench.put("events", json!({ "id": { "S": "ab" }, "at": { "N": "0" } })).await;
    bench
}

fn query(condition: &str, values: Json) -> Json {
    json!({ "TableName": "events", "KeyConditionExpression": condition, "ExpressionAttributeValues": values })
}

fn with(mut input: Json, more: &Json) -> Json {
    for (name, value) in more.as_object().unwrap() {
        input[name] = value.clone();
    }
    input
}

fn numbers(answer: &Json) -> Vec<&str> {
    answer["Items"].as_array().unwrap().iter().map(|item| item["at"]["N"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_query_reads_its_range_in_order_of_value() {
    let bench = with_numbers(&["10", "9", "-1", "0", "-1.5", "1e3", "2"]).await;
    let cases: [(&str, Json, &[&str]); 8] = [
        ("id = :a", json!({}), &["-1.5", "-1", "0", "2", "9", "10", "1000"]),
        ("id = :a AND #t > :x", json!({ ":x": { "N": "2" } }), &["9", "10", "1000"]),
        ("id = :a and #t >= :x", json!({ ":x": { "N": "2" } }), &["2", "9", "10", "1000"]),
        (":x > #t AND :a = id", json!({ ":x": { "N": "0" } }), &["-1.5", "-1"]),
        ("id = :a AND #t <= :x", json!({ ":x": { "N": "0" } }), &["-1.5", "-1", "0"]),
        ("(id = :a) AND (#t = :x)", json!({ ":x": { "N": "10.0" } }), &["10"]),
        (
            "id = :a AND #t BETWEEN :x AND :y",
            json!({ ":x": { "N": "-1" }, ":y": { "N": "9" } }),
            &["-1", "0", "2", "9"],
        ),
        ("id = :a AND #t > :x", json!({ ":x": { "N": "5000" } }), &[]),
    ];
    for (condition, values, expected) in cases {
        let mut input = query(condition, with(json!({ ":a": { "S": "a" } }), &values));
        if condition.contains('#') {
            input["ExpressionAttributeNames"] = json!({ "#t": "at" });
        }
        let answer = bench.ok("Query", input.clone()).await;
        assert_eq!(numbers(&answer), expected, "{condition}");
        assert_eq!(answer["Count"], expected.len());
        assert_eq!(answer["LastEvaluatedKey"], Json::Null);
        input["ScanIndexForward"] = json!(false);
        let mut reversed = expected.to_vec();
        reversed.reverse();
        assert_eq!(numbers(&bench.ok("Query", input).await), reversed, "{condition} backwards");
    }
}

#[tokio::test]
async fn strings_and_binaries_sort_by_their_bytes_and_begin() {
    let bench = Bench::new();
    bench.create("texts", &[("id", "N"), ("k", "S")]).await;
    for text in ["b", "a", "aa", "a\u{0}", "ab", "é", "a\u{ffff}"] {
        bench.put("texts", json!({ "id": { "N": "1" }, "k": { "S": text } })).await;
    }
    let input = |condition: &str, values: Json| json!({ "TableName": "texts", "KeyConditionExpression": condition, "ExpressionAttributeValues": values });
    let texts = |answer: Json| -> Vec<String> {
        let items = answer["Items"].as_array().unwrap();
        items.iter().map(|item| item["k"]["S"].as_str().unwrap().to_owned()).collect()
    };
    let all = bench.ok("Query", input("id = :i", json!({ ":i": { "N": "1.0" } }))).await;
    assert_eq!(texts(all), ["a", "a\u{0}", "aa", "ab", "a\u{ffff}", "b", "é"]);
    let begins = input("id = :i AND begins_with(k, :p)", json!({ ":i": { "N": "1" }, ":p": { "S": "a" } }));
    assert_eq!(texts(bench.ok("Query", begins).await), ["a", "a\u{0}", "aa", "ab", "a\u{ffff}"]);
}

#[tokio::test]
async fn pages_follow_each_other_without_gap_or_repetition() {
    let bench = with_numbers(&["1", "2", "3", "4", "5"]).await;
    for forward in [true, false] {
        let mut start = Json::Null;
        let mut seen = Vec::new();
        let mut pages = 0;
        loop {
            let mut input = query("id = :a", json!({ ":a": { "S": "a" } }));
            input["Limit"] = json!(2);
            input["ScanIndexForward"] = json!(forward);
            input["ExclusiveStartKey"] = start;
            let answer = bench.ok("Query", input).await;
            seen.extend(numbers(&answer).iter().map(|n| (*n).to_owned()));
            pages += 1;
            start = answer["LastEvaluatedKey"].clone();
            if start.is_null() {
                break;
            }
        }
        assert_eq!(pages, 3);
        let mut expected = ["1", "2", "3", "4", "5"];
        if !forward {
            expected.reverse();
        }
        assert_eq!(seen, expected);
    }
    // A limit that is met exactly at the end still says where it ended.
    let input = with(query("id = :a", json!({ ":a": { "S": "a" } })), &json!({ "Limit": 5 }));
    let answer = bench.ok("Query", input).await;
    assert_eq!(answer["LastEvaluatedKey"], json!({ "id": { "S": "a" }, "at": { "N": "5" } }));
}

#[tokio::test]
async fn a_filter_counts_what_it_hides() {
    let bench = with_numbers(&["1", "2", "3"]).await;
    let values = json!({ ":a": { "S": "a" }, ":v": { "S": "2" } });
    let input = with(query("id = :a", values), &json!({ "FilterExpression": "v <> :v" }));
    let answer = bench.ok("Query", input.clone()).await;
    assert_eq!((&answer["Count"], &answer["ScannedCount"]), (&json!(2), &json!(3)));
    let counted = bench.ok("Query", with(input.clone(), &json!({ "Select": "COUNT" }))).await;
    assert_eq!(counted, json!({ "Count": 2, "ScannedCount": 3 }));
    let on_key = with(input, &json!({ "FilterExpression": "v <> :v AND attribute_exists(id)" }));
    let message = "Filter Expression can only contain non-primary key attributes: Primary key attribute: id";
    bench.invalid("Query", on_key, message).await;
}

#[tokio::test]
async fn a_page_ends_before_it_passes_one_megabyte() {
    let bench = Bench::with_events().await;
    let big = "x".repeat(300_000);
    for at in 0..5 {
        bench.put("events", json!({ "id": { "S": "a" }, "at": { "N": at.to_string() }, "x": { "S": big } })).await;
    }
    let mut input = query("id = :a", json!({ ":a": { "S": "a" }, ":no": { "S": "" } }));
    input["FilterExpression"] = json!("x = :no");
    input["ReturnConsumedCapacity"] = json!("TOTAL");
    let answer = bench.ok("Query", input.clone()).await;
    assert_eq!((&answer["Count"], &answer["ScannedCount"]), (&json!(0), &json!(3)));
    assert_eq!(answer["LastEvaluatedKey"]["at"], json!({ "N": "2" }));
    assert_eq!(answer["ConsumedCapacity"]["CapacityUnits"], 110.0);
    input["ExclusiveStartKey"] = answer["LastEvaluatedKey"].clone();
    let rest = bench.ok("Query", input).await;
    assert_eq!((&rest["ScannedCount"], &rest["LastEvaluatedKey"]), (&json!(2), &Json::Null));
}

#[tokio::test]
async fn segments_share_out_the_table() {
    let bench = Bench::with_items().await;
    for number in 0..200 {
        bench.put("items", json!({ "id": { "S": number.to_string() } })).await;
    }
    let mut seen = BTreeSet::new();
    let mut sizes = Vec::new();
    for segment in 0..4 {
        let mut input = json!({ "TableName": "items", "Segment": segment, "TotalSegments": 4, "Limit": 7 });
        let mut size = 0;
        loop {
            let answer = bench.ok("Scan", input.clone()).await;
            for item in answer["Items"].as_array().unwrap() {
                assert!(seen.insert(item["id"]["S"].as_str().unwrap().to_owned()), "an item came twice");
                size += 1;
            }
            if answer["LastEvaluatedKey"].is_null() {
                break;
            }
            input["ExclusiveStartKey"] = answer["LastEvaluatedKey"].clone();
        }
        sizes.push(size);
    }
    assert_eq!(seen.len(), 200);
    assert!(sizes.iter().all(|size| (25..80).contains(size)), "{sizes:?}");
    let whole = bench.ok("Scan", json!({ "TableName": "items" })).await;
    assert_eq!(whole["Count"], 200);
}

#[tokio::test]
async fn a_scan_is_told_what_is_wrong_with_its_start() {
    let bench = Bench::with_events().await;
    for start in [json!({}), json!({ "id": { "S": "a" } })] {
        let scan = json!({ "TableName": "events", "ExclusiveStartKey": start });
        let words = "The provided starting key is invalid: The provided key element does not match the schema";
        bench.invalid("Scan", scan, words).await;
    }
    let get = json!({ "TableName": "events", "Key": { "id": { "S": "a" }, "at": { "N": "1" } },
                      "AttributesToGet": ["x".repeat(65_536)] });
    assert_eq!(bench.call("GetItem", get).await.unwrap_err().code, "ValidationException");
}

#[tokio::test]
async fn wrong_queries_are_refused() {
    let bench = with_numbers(&["1"]).await;
    let a = json!({ ":a": { "S": "a" } });
    let both = json!({ ":a": { "S": "a" }, ":b": { "N": "1" } });
    let cases = [
        (query("#at = :b", json!({ ":b": { "N": "1" } })), "Query condition missed key schema element: id"),
        (query("id > :a", a.clone()), "Query key condition not supported"),
        (query("id = :a OR id = :a", a.clone()), "Invalid operator used in KeyConditionExpression: OR"),
        (query("id = :a AND id = :a", a.clone()), "KeyConditionExpressions must only contain one condition per key"),
        (query("id = :a AND v = :b", both.clone()), "Query condition missed key schema element: at"),
        (
            query("id = :b", json!({ ":b": { "N": "1" } })),
            "One or more parameter values were invalid: Condition parameter type does not match schema type",
        ),
        (query("id = :a AND size(v) = :b", both), "KeyConditionExpressions cannot contain nested operations"),
        (
            with(query("id = :a", a.clone()), &json!({ "IndexName": "nope" })),
            "The table does not have the specified index: nope",
        ),
        (
            with(query("id = :a", a.clone()), &json!({ "ExclusiveStartKey": { "id": { "S": "a" } } })),
            "The provided starting key is invalid",
        ),
        (
            with(
                query("id = :a", a.clone()),
                &json!({ "ExclusiveStartKey": { "id": { "S": "b" }, "at": { "N": "1" } } }),
            ),
            "The provided starting key is outside query boundaries based on provided conditions",
        ),
        (
            with(
                query("id = :a", a.clone()),
                &json!({ "ExclusiveStartKey": { "id": { "S": "a" }, "at": { "S": "1" } } }),
            ),
            "The provided starting key is invalid: The provided key element does not match the schema",
        ),
        (
            json!({ "TableName": "events" }),
            "Either the KeyConditions or KeyConditionExpression parameter must be specified in the request.",
        ),
    ];
    for (mut input, message) in cases {
        if input["KeyConditionExpression"].as_str().is_some_and(|text| text.contains('#')) {
            input["ExpressionAttributeNames"] = json!({ "#at": "at" });
        }
        bench.invalid("Query", input, message).await;
    }
    let scan = |more: Json| with(json!({ "TableName": "events" }), &more);
    let cases = [
        (
            json!({ "Segment": 0 }),
            "The TotalSegments parameter is required but was not present in the request when Segment parameter is present",
        ),
        (
            json!({ "Segment": 5, "TotalSegments": 4 }),
            "The Segment parameter is zero-based and must be less than parameter TotalSegments: Segment: 5 is not less \
             than TotalSegments: 4",
        ),
        (
            json!({ "Select": "SPECIFIC_ATTRIBUTES" }),
            "One or more parameter values were invalid: Must specify the AttributesToGet or ProjectionExpression when \
             choosing to get SPECIFIC_ATTRIBUTES",
        ),
    ];
    for (more, message) in cases {
        bench.invalid("Scan", scan(more), message).await;
    }
}

/// Stands still, but jumps ten seconds at the second question after it was asked to.
struct Jumping {
    asked: AtomicU64,
    now_us: AtomicU64,
}

impl Jumping {
    /// It was not asked to jump yet.
    fn standing() -> Arc<Self> {
        Arc::new(Self { asked: AtomicU64::new(2), now_us: AtomicU64::new(0) })
    }

    fn jump(&self) {
        self.asked.store(0, Ordering::Relaxed);
    }
}

impl base::Clock for Jumping {
    fn now_us(&self) -> u64 {
        1_700_000_000_000_000
    }

    fn monotonic_us(&self) -> u64 {
        if self.asked.fetch_add(1, Ordering::Relaxed) == 1 {
            self.now_us.fetch_add(10_000_000, Ordering::Relaxed);
        }
        self.now_us.load(Ordering::Relaxed)
    }
}

#[tokio::test]
async fn what_outlives_its_snapshot_is_read_anew() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Jumping::standing();
    let config = store::EmbeddedConfig::new(folder.path(), clock.clone());
    let bench = Bench::over(Arc::new(store::embedded::open(config).unwrap()), 1);
    bench.create("items", &[("id", "S")]).await;
    let key = json!({ "id": { "S": "a" } });
    bench.put("items", key.clone()).await;
    let get = json!({ "TransactItems": [{ "Get": { "TableName": "items", "Key": key } }] });
    let put = json!({ "TransactItems": [{ "Put": { "TableName": "items", "Item": key } }], "ClientRequestToken": "t" });
    let calls = [
        ("Scan", json!({ "TableName": "items" }), "/Items/0/id/S"),
        ("TransactGetItems", get, "/Responses/0/Item/id/S"),
    ];
    for (operation, input, place) in calls {
        clock.jump();
        assert_eq!(bench.ok(operation, input).await.pointer(place), Some(&json!("a")), "{operation}");
    }
    clock.jump();
    bench.ok("TransactWriteItems", put).await;
    assert_eq!(clock.now_us.load(Ordering::Relaxed), 30_000_000, "a snapshot that was not outlived");
}
