//! Secondary indexes: what may be asked for, what they hold, how they are read, how they come and go on a live table.

use super::*;

const PARAMETERS: &str = "One or more parameter values were invalid: ";

/// A table `orders`: keys `id` (S) and `at` (N), a local index `by-rank` (N) and a global one `by-kind` (S, N).
fn orders() -> Json {
    let mut input = create_input("orders", &[("id", "S"), ("at", "N")]);
    input["AttributeDefinitions"].as_array_mut().unwrap().extend([
        json!({ "AttributeName": "rank", "AttributeType": "N" }),
        json!({ "AttributeName": "kind", "AttributeType": "S" }),
    ]);
    input["LocalSecondaryIndexes"] = json!([index("by-rank", &["id", "rank"], "KEYS_ONLY")]);
    input["GlobalSecondaryIndexes"] = json!([index("by-kind", &["kind", "rank"], "ALL")]);
    input
}

fn index(name: &str, keys: &[&str], projection: &str) -> Json {
    let schema = keys.iter().zip(["HASH", "RANGE"]);
    let schema = schema.map(|(name, role)| json!({ "AttributeName": name, "KeyType": role }));
    json!({
        "IndexName": name, "KeySchema": schema.collect::<Vec<_>>(), "Projection": { "ProjectionType": projection },
    })
}

async fn with_orders() -> Bench {
    let bench = Bench::new();
    bench.ok("CreateTable", orders()).await;
    bench
}

fn order(id: &str, at: i32, more: &Json) -> Json {
    let mut item = json!({ "id": { "S": id }, "at": { "N": at.to_string() } });
    for (name, value) in more.as_object().unwrap() {
        item[name] = value.clone();
    }
    item
}

fn of_kind(kind: &str) -> Json {
    json!({
        "TableName": "orders", "IndexName": "by-kind", "KeyConditionExpression": "kind = :k",
        "ExpressionAttributeValues": { ":k": { "S": kind } },
    })
}

fn ats(answer: &Json) -> Vec<&str> {
    answer["Items"].as_array().unwrap().iter().map(|item| item["at"]["N"].as_str().unwrap()).collect()
}

async fn sweep(bench: &Bench) {
    while bench.service.sweep().await.unwrap() > 0 {}
}

type Edit = fn(&mut Json);

fn text(message: &str) -> String {
    format!("{PARAMETERS}{message}")
}

fn wrong_keys() -> Vec<(Edit, String)> {
    vec![
        (|t| t["LocalSecondaryIndexes"] = json!([]), text("List of LocalSecondaryIndexes is empty")),
        (|t| t["GlobalSecondaryIndexes"] = json!([]), text("List of GlobalSecondaryIndexes is empty")),
        (
            |t| {
                t["KeySchema"].as_array_mut().unwrap().pop();
            },
            text("Table KeySchema does not have a range key, which is required when specifying a LocalSecondaryIndex"),
        ),
        (
            |t| t["LocalSecondaryIndexes"][0] = index("by-rank", &["id", "nope"], "ALL"),
            text(
                "Some index key attributes are not defined in AttributeDefinitions. Keys: [id, nope], \
                 AttributeDefinitions: [id, at, rank, kind]",
            ),
        ),
        (
            |t| t["LocalSecondaryIndexes"][0] = index("by-rank", &["id"], "ALL"),
            text("Index KeySchema does not have a range key for index: by-rank"),
        ),
        (
            |t| t["LocalSecondaryIndexes"][0] = index("by-rank", &["kind", "rank"], "ALL"),
            text(
                "Index KeySchema does not have the same leading hash key as table KeySchema for index: by-rank. index \
                 hash key: kind, table hash key: id",
            ),
        ),
        (
            |t| t["GlobalSecondaryIndexes"][0] = index("by-kind", &["kind", "kind"], "ALL"),
            "Both the Hash Key and the Range Key element in the KeySchema have the same name".into(),
        ),
        (
            |t| t["GlobalSecondaryIndexes"][0]["KeySchema"][0]["KeyType"] = json!("RANGE"),
            "Invalid KeySchema: The first KeySchemaElement is not a HASH key type".into(),
        ),
    ]
}

fn wrong_others() -> Vec<(Edit, String)> {
    vec![
        (
            |t| t["GlobalSecondaryIndexes"][0]["Projection"] = json!({}),
            text("Unknown ProjectionType: null"),
        ),
        (
            |t| t["GlobalSecondaryIndexes"][0]["Projection"]["ProjectionType"] = json!("INCLUDE"),
            text("ProjectionType is INCLUDE, but NonKeyAttributes is not specified"),
        ),
        (
            |t| t["GlobalSecondaryIndexes"][0]["Projection"]["NonKeyAttributes"] = json!(["a"]),
            text("ProjectionType is ALL, but NonKeyAttributes is specified"),
        ),
        (
            |t| t["GlobalSecondaryIndexes"][0]["IndexName"] = json!("by-rank"),
            text("Duplicate index name: by-rank"),
        ),
        (
            |t| {
                let many = (0..6).map(|n| index(&format!("local{n}"), &["id", "rank"], "ALL"));
                t["LocalSecondaryIndexes"] = many.collect();
            },
            text("Number of LocalSecondaryIndexes exceeds per-table limit of 5"),
        ),
        (
            |t| {
                let many = (0..21).map(|n| index(&format!("global{n}"), &["kind"], "ALL"));
                t["GlobalSecondaryIndexes"] = many.collect();
            },
            text("GlobalSecondaryIndex count exceeds the per-table limit of 20"),
        ),
        (
            |t| {
                let units = json!({ "ReadCapacityUnits": 1, "WriteCapacityUnits": 1 });
                t["GlobalSecondaryIndexes"][0]["ProvisionedThroughput"] = units;
            },
            text("ProvisionedThroughput should not be specified for index: by-kind when BillingMode is PAY_PER_REQUEST"),
        ),
        (
            |t| {
                t["GlobalSecondaryIndexes"][0] = index("by-rank2", &["rank"], "ALL");
            },
            text(
                "Some AttributeDefinitions are not used. AttributeDefinitions: [id, at, rank, kind], keys used: [id, at, \
                 rank]",
            ),
        ),
        (
            |t| t["GlobalSecondaryIndexes"][0]["IndexName"] = json!("a!"),
            "2 validation errors detected: Value 'a!' at 'globalSecondaryIndexes.1.member.indexName' failed to satisfy \
             constraint: Member must satisfy regular expression pattern: [a-zA-Z0-9_.-]+; Value 'a!' at \
             'globalSecondaryIndexes.1.member.indexName' failed to satisfy constraint: Member must have length greater \
             than or equal to 3"
                .into(),
        ),
    ]
}

#[tokio::test]
async fn what_an_index_must_be_is_said() {
    let bench = Bench::new();
    for (change, message) in wrong_keys().into_iter().chain(wrong_others()) {
        let mut input = orders();
        change(&mut input);
        bench.invalid("CreateTable", input, &message).await;
    }
    let mut input = orders();
    input["BillingMode"] = json!("PROVISIONED");
    input["ProvisionedThroughput"] = json!({ "ReadCapacityUnits": 1, "WriteCapacityUnits": 1 });
    bench.invalid("CreateTable", input, &text("ProvisionedThroughput is not specified for index: by-kind")).await;
    let mut input = orders();
    input["GlobalSecondaryIndexes"][0]["WarmThroughput"] = json!({ "ReadUnitsPerSecond": 12_000 });
    let refusal = bench.call("CreateTable", input).await.unwrap_err();
    assert!(refusal.message.contains("WarmThroughput"), "{}", refusal.message);
}

#[tokio::test]
async fn a_table_describes_its_indexes_with_their_counts() {
    let bench = Bench::new();
    let created = bench.ok("CreateTable", orders()).await["TableDescription"].clone();
    assert_eq!(created["GlobalSecondaryIndexes"][0]["IndexStatus"], "CREATING");
    bench
        .put("orders", order("a", 1, &json!({ "rank": { "N": "7" }, "kind": { "S": "x" }, "v": { "S": "12345" } })))
        .await;
    bench.put("orders", order("a", 2, &json!({ "rank": { "N": "8" } }))).await;
    bench.put("orders", order("a", 3, &json!({}))).await;
    let table = bench.ok("DescribeTable", json!({ "TableName": "orders" })).await["Table"].clone();
    let definitions = table["AttributeDefinitions"].as_array().unwrap();
    let names: Vec<_> = definitions.iter().map(|one| one["AttributeName"].as_str().unwrap()).collect();
    assert_eq!(names, ["id", "at", "rank", "kind"]);
    let arn = "arn:aws:dynamodb:us-east-1:000000000000:table/orders/index/";
    assert_eq!(
        table["LocalSecondaryIndexes"],
        json!([{
            "IndexName": "by-rank", "KeySchema": index("", &["id", "rank"], "")["KeySchema"],
            "Projection": { "ProjectionType": "KEYS_ONLY" }, "ItemCount": 2, "IndexSizeBytes": 2 * (3 + 4 + 6),
            "IndexArn": format!("{arn}by-rank"),
        }])
    );
    assert_eq!(
        table["GlobalSecondaryIndexes"],
        json!([{
            "IndexName": "by-kind", "KeySchema": index("", &["kind", "rank"], "")["KeySchema"],
            "Projection": { "ProjectionType": "ALL" }, "ItemCount": 1, "IndexSizeBytes": 3 + 4 + 6 + 5 + 6,
            "IndexArn": format!("{arn}by-kind"), "IndexStatus": "ACTIVE",
            "ProvisionedThroughput": { "NumberOfDecreasesToday": 0, "ReadCapacityUnits": 0, "WriteCapacityUnits": 0 },
        }])
    );
}

#[tokio::test]
async fn an_index_is_in_the_order_of_its_sort_key_then_of_the_items_keys() {
    let bench = with_orders().await;
    for (id, at, rank) in [("b", 1, "5"), ("a", 2, "5"), ("a", 1, "5"), ("a", 9, "-3"), ("c", 0, "40")] {
        bench.put("orders", order(id, at, &json!({ "rank": { "N": rank }, "kind": { "S": "x" } }))).await;
    }
    bench.put("orders", order("z", 0, &json!({ "rank": { "N": "1" }, "kind": { "S": "y" } }))).await;
    bench.put("orders", order("z", 1, &json!({ "kind": { "S": "x" } }))).await;
    let keys = |answer: &Json| -> Vec<String> {
        let items = answer["Items"].as_array().unwrap().iter();
        items
            .map(|item| format!("{}{}", item["id"]["S"].as_str().unwrap(), item["at"]["N"].as_str().unwrap()))
            .collect()
    };
    let mut expected = vec!["a9", "a1", "a2", "b1", "c0"];
    for forward in [true, false] {
        let mut input = of_kind("x");
        input["ScanIndexForward"] = json!(forward);
        assert_eq!(keys(&bench.ok("Query", input.clone()).await), expected);
        input["Limit"] = json!(1);
        let mut seen = Vec::new();
        loop {
            let answer = bench.ok("Query", input.clone()).await;
            seen.extend(keys(&answer));
            let last = answer["LastEvaluatedKey"].clone();
            if last.is_null() {
                break;
            }
            assert_eq!(last.as_object().unwrap().keys().collect::<Vec<_>>(), ["at", "id", "kind", "rank"]);
            input["ExclusiveStartKey"] = last;
        }
        assert_eq!(seen, expected);
        expected.reverse();
    }
    for (condition, found) in [
        ("= :r", vec!["a1", "a2", "b1"]),
        ("< :r", vec!["a9"]),
        ("<= :r", vec!["a9", "a1", "a2", "b1"]),
        ("> :r", vec!["c0"]),
        (">= :r", vec!["a1", "a2", "b1", "c0"]),
        ("BETWEEN :r AND :r", vec!["a1", "a2", "b1"]),
    ] {
        let mut input = of_kind("x");
        input["KeyConditionExpression"] = json!(format!("kind = :k AND #r {condition}"));
        input["ExpressionAttributeNames"] = json!({ "#r": "rank" });
        input["ExpressionAttributeValues"][":r"] = json!({ "N": "5" });
        assert_eq!(keys(&bench.ok("Query", input).await), found, "{condition}");
    }
}

#[tokio::test]
async fn keys_of_full_length_and_of_any_bytes_are_told_apart() {
    use base64::Engine as _;
    let base64 = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    let bench = Bench::new();
    let mut input = create_input("bytes", &[("id", "B"), ("at", "B")]);
    input["AttributeDefinitions"].as_array_mut().unwrap().extend([
        json!({ "AttributeName": "g", "AttributeType": "B" }),
        json!({ "AttributeName": "s", "AttributeType": "B" }),
    ]);
    input["GlobalSecondaryIndexes"] = json!([index("bytes-index", &["g", "s"], "ALL")]);
    bench.ok("CreateTable", input).await;
    let long = |len: usize, last: u8| {
        let mut bytes = vec![0u8; len];
        bytes[len - 1] = last;
        base64(&bytes)
    };
    for (id, at) in [(0, 0), (0, 1), (1, 0)] {
        let item = json!({
            "id": { "B": long(2_048, id) }, "at": { "B": long(1_024, at) }, "g": { "B": long(2_048, 0) },
            "s": { "B": long(1_024, 0) },
        });
        bench.put("bytes", item).await;
    }
    for s in [&b"a\0"[..], b"a", b"a\0b", b"ab", b"a\x01"] {
        let item = json!({
            "id": { "B": base64(b"x") }, "at": { "B": base64(s) }, "g": { "B": long(2_048, 1) }, "s": { "B": base64(s) },
        });
        bench.put("bytes", item).await;
    }
    let query = |g: u8, start: &[u8]| {
        json!({
            "TableName": "bytes", "IndexName": "bytes-index", "KeyConditionExpression": "g = :g AND begins_with(s, :s)",
            "ExpressionAttributeValues": { ":g": { "B": long(2_048, g) }, ":s": { "B": base64(start) } },
        })
    };
    assert_eq!(bench.ok("Query", query(0, b"\0")).await["Count"], 3);
    let found = bench.ok("Query", query(1, b"a")).await;
    let sorts: Vec<_> = found["Items"].as_array().unwrap().iter().map(|item| item["s"]["B"].clone()).collect();
    let expected: Vec<_> = [&b"a"[..], b"a\0", b"a\0b", b"a\x01", b"ab"].iter().map(|s| json!(base64(s))).collect();
    assert_eq!(sorts, expected);
    assert_eq!(bench.ok("Query", query(1, b"a\0")).await["Count"], 2);
    assert_eq!(bench.ok("Scan", json!({ "TableName": "bytes", "IndexName": "bytes-index" })).await["Count"], 8);
}

#[tokio::test]
async fn what_an_index_has_of_an_item_follows_its_projection() {
    let bench = Bench::new();
    let mut input = orders();
    input["GlobalSecondaryIndexes"] = json!([
        index("by-kind", &["kind"], "KEYS_ONLY"),
        index("some", &["kind"], "INCLUDE"),
        index("all", &["kind"], "ALL"),
    ]);
    input["GlobalSecondaryIndexes"][1]["Projection"]["NonKeyAttributes"] = json!(["v"]);
    bench.ok("CreateTable", input).await;
    // Once small enough to lie in the index, once so large that the index leads to the table.
    for (at, size) in [(1, 10), (2, 9_000)] {
        let text = "x".repeat(size);
        let item = order(
            "a",
            at,
            &json!({ "kind": { "S": "k" }, "rank": { "N": "1" }, "v": { "S": text }, "w": { "S": "w" } }),
        );
        bench.put("orders", item.clone()).await;
        let read = async |index: &str, more: Json| {
            let mut input = of_kind("k");
            input["IndexName"] = json!(index);
            input["Limit"] = json!(1);
            input["ScanIndexForward"] = json!(false);
            if index == "by-rank" {
                input["KeyConditionExpression"] = json!("id = :k");
                input["ExpressionAttributeValues"] = json!({ ":k": { "S": "a" } });
            }
            for (name, value) in more.as_object().unwrap() {
                input[name] = value.clone();
            }
            bench.ok("Query", input).await
        };
        let names =
            |answer: &Json| answer["Items"][0].as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
        assert_eq!(names(&read("by-kind", json!({})).await), "at id kind");
        assert_eq!(names(&read("some", json!({})).await), "at id kind v");
        assert_eq!(read("all", json!({})).await["Items"][0], item);
        assert_eq!(read("all", json!({ "Select": "ALL_ATTRIBUTES" })).await["Items"][0], item);
        // A local index fetches what it does not have, at the price of a read of the table.
        let capacity = json!({ "ReturnConsumedCapacity": "INDEXES" });
        let keys = read("by-rank", capacity.clone()).await;
        assert_eq!(names(&keys), "at id rank");
        // Not minus zero, which equals zero.
        assert_eq!(keys["ConsumedCapacity"]["Table"]["CapacityUnits"].to_string(), "0.0");
        assert_eq!(keys["ConsumedCapacity"]["LocalSecondaryIndexes"]["by-rank"]["CapacityUnits"], 0.5);
        let mut all = capacity;
        all["Select"] = json!("ALL_ATTRIBUTES");
        let all = read("by-rank", all).await;
        assert_eq!(all["Items"][0], item);
        assert_eq!(all["ConsumedCapacity"]["Table"]["CapacityUnits"], if size > 4_096 { 1.5 } else { 0.5 });
        let some = read("by-rank", json!({ "ProjectionExpression": "w" })).await;
        assert_eq!(some["Items"][0], json!({ "w": { "S": "w" } }));
        // An update of what an index leads to is seen through it.
        let update = json!({
            "TableName": "orders", "Key": order("a", at, &json!({})), "UpdateExpression": "SET w = :w",
            "ExpressionAttributeValues": { ":w": { "S": "new" } },
        });
        bench.ok("UpdateItem", update).await;
        assert_eq!(read("all", json!({})).await["Items"][0]["w"], json!({ "S": "new" }));
    }
}

/// Along a partition nobody filters by what an index lacks, be it local or global. A scan of the index finds it missing.
#[tokio::test]
async fn a_filter_sees_what_an_index_has() {
    let bench = with_orders().await;
    let created = json!({
        "TableName": "orders", "AttributeDefinitions": [{ "AttributeName": "kind", "AttributeType": "S" }],
        "GlobalSecondaryIndexUpdates": [{ "Create": index("keys", &["kind"], "KEYS_ONLY") }],
    });
    bench.ok("UpdateTable", created).await;
    sweep(&bench).await;
    let own = json!({ "rank": { "N": "2" }, "kind": { "S": "k" } });
    let mut item = order("a", 1, &own);
    let shown = json!([order("a", 1, &json!({ "rank": { "N": "2" } }))]);
    item["w"] = json!({ "S": "w" });
    bench.put("orders", item).await;
    let refused = |index: &str, names: &str| {
        format!("{PARAMETERS}Secondary index {index} does not project one or more filter attributes: [{names}]")
    };
    for (name, hash, value) in [("by-rank", "id", "a"), ("keys", "kind", "k")] {
        let scan = json!({
            "TableName": "orders", "IndexName": name, "FilterExpression": "w = :w OR x = :w OR size(w) = :w",
            "ExpressionAttributeValues": { ":w": { "S": "w" } },
        });
        let mut query = scan.clone();
        query["KeyConditionExpression"] = json!(format!("{hash} = :k"));
        query["ExpressionAttributeValues"][":k"] = json!({ "S": value });
        bench.invalid("Query", query.clone(), &refused(name, "w, x")).await;
        query["FilterExpression"] = json!("NOT w = :w");
        bench.invalid("Query", query, &refused(name, "w")).await;
        let legacy = json!({
            "TableName": "orders", "IndexName": name, "QueryFilter": { "w": { "ComparisonOperator": "NULL" } },
            "KeyConditions": { hash: { "ComparisonOperator": "EQ", "AttributeValueList": [{ "S": value }] } },
        });
        bench.invalid("Query", legacy, &refused(name, "w")).await;
        assert_eq!(bench.ok("Scan", scan.clone()).await["Count"], 0);
        let mut scan = scan;
        scan["FilterExpression"] = json!("NOT w = :w");
        assert_eq!(bench.ok("Scan", scan).await["Count"], 1);
        let select = |rest: &str| json!({ "Statement": format!("SELECT * FROM orders.\"{name}\" WHERE {rest}") });
        for rest in ["= 'K' AND w = 'w'", "= 'K' AND w IS MISSING", "IN ['K', 'z'] AND NOT w = 'w'"] {
            let statement = select(&format!("{hash} {}", rest.replace('K', value)));
            bench.invalid("ExecuteStatement", statement, &refused(name, "w")).await;
        }
        for (rest, count) in [
            ("w = 'w'".to_owned(), 0),
            ("NOT w = 'w'".to_owned(), 1),
            (format!("({hash} = '{value}' AND w = 'w') OR {hash} = '{value}'"), 1),
        ] {
            let found = bench.ok("ExecuteStatement", select(&rest)).await;
            assert_eq!(found["Items"].as_array().unwrap().len(), count, "{rest}");
        }
    }
    let statement = json!({ "Statement": "SELECT w, x FROM orders.keys WHERE kind = 'k'" });
    let missing = format!("{PARAMETERS}Global secondary index keys does not project [w, x]");
    bench.invalid("ExecuteStatement", statement, &missing).await;
    let statement = json!({
        "Statement": "SELECT w FROM orders.\"by-rank\" WHERE id = 'a' AND rank = 2", "ReturnConsumedCapacity": "INDEXES",
    });
    let fetched = bench.ok("ExecuteStatement", statement).await;
    assert_eq!(fetched["Items"], json!([{ "w": { "S": "w" } }]));
    assert_eq!(fetched["ConsumedCapacity"]["Table"]["CapacityUnits"], 0.5);
    assert_eq!(fetched["ConsumedCapacity"]["LocalSecondaryIndexes"]["by-rank"]["CapacityUnits"], 0.5);
    let statement = json!({ "Statement": "SELECT * FROM orders.\"by-rank\" WHERE id = 'a'" });
    assert_eq!(bench.ok("ExecuteStatement", statement).await["Items"], shown);
}

#[tokio::test]
async fn what_an_index_does_not_have_is_refused() {
    let bench = with_orders().await;
    for at in [1, 2] {
        bench.put("orders", order("a", at, &json!({ "kind": { "S": "k" }, "rank": { "N": "1" } }))).await;
    }
    let update = json!([{ "Delete": { "IndexName": "by-kind" } }]);
    bench.ok("UpdateTable", json!({ "TableName": "orders", "GlobalSecondaryIndexUpdates": update })).await;
    sweep(&bench).await;
    let again = json!({
        "TableName": "orders", "AttributeDefinitions": [{ "AttributeName": "kind", "AttributeType": "S" }],
        "GlobalSecondaryIndexUpdates": [{ "Create": index("by-kind", &["kind"], "KEYS_ONLY") }],
    });
    bench.ok("UpdateTable", again).await;
    sweep(&bench).await;
    let refuse = async |more: Json, message: &str| {
        let mut input = of_kind("k");
        for (name, value) in more.as_object().unwrap() {
            input[name] = value.clone();
        }
        bench.invalid("Query", input, message).await;
    };
    let all = "Select type ALL_ATTRIBUTES is not supported for global secondary index by-kind because its projection type \
               is not ALL";
    refuse(json!({ "Select": "ALL_ATTRIBUTES" }), &format!("{PARAMETERS}{all}")).await;
    let missing = "Global secondary index by-kind does not project [v, w]";
    refuse(json!({ "ProjectionExpression": "v, id, w" }), &format!("{PARAMETERS}{missing}")).await;
    refuse(json!({ "ConsistentRead": true }), "Consistent reads are not supported on global secondary indexes").await;
    refuse(json!({ "IndexName": "nope" }), "The table does not have the specified index: nope").await;
    let filter = "Filter Expression can only contain non-primary key attributes: Primary key attribute: kind";
    refuse(json!({ "FilterExpression": "kind = :k" }), filter).await;
    let mut on_table_key = of_kind("k");
    on_table_key["FilterExpression"] = json!("id = :a");
    on_table_key["ExpressionAttributeValues"][":a"] = json!({ "S": "a" });
    assert_eq!(bench.ok("Query", on_table_key).await["Count"], 2);
}

#[tokio::test]
async fn where_a_page_of_an_index_may_start() {
    let bench = with_orders().await;
    for at in 1..=3 {
        bench.put("orders", order("a", at, &json!({ "rank": { "N": "1" }, "kind": { "S": "x" } }))).await;
    }
    let start = |kind: &str, rank: Json| {
        let mut input = of_kind("x");
        input["ExclusiveStartKey"] = order("a", 1, &json!({ "rank": rank, "kind": { "S": kind } }));
        input
    };
    assert_eq!(ats(&bench.ok("Query", start("x", json!({ "N": "1" }))).await), ["2", "3"]);
    // An item that is gone by now is a place all the same.
    bench.ok("DeleteItem", json!({ "TableName": "orders", "Key": order("a", 1, &json!({})) })).await;
    assert_eq!(ats(&bench.ok("Query", start("x", json!({ "N": "1" }))).await), ["2", "3"]);
    let outside = "The provided starting key is outside query boundaries based on provided conditions";
    bench.invalid("Query", start("y", json!({ "N": "1" })), outside).await;
    let wrong = "The provided starting key is invalid: The provided key element does not match the schema";
    bench.invalid("Query", start("x", json!({ "S": "1" })), wrong).await;
    let mut short = of_kind("x");
    short["ExclusiveStartKey"] = order("a", 1, &json!({}));
    bench.invalid("Query", short, "The provided starting key is invalid").await;
    let segments = json!({ "TableName": "orders", "IndexName": "by-kind", "Segment": 0, "TotalSegments": 2 });
    let mut count = bench.ok("Scan", segments.clone()).await["Count"].as_u64().unwrap();
    let mut other = segments;
    other["Segment"] = json!(1);
    count += bench.ok("Scan", other).await["Count"].as_u64().unwrap();
    assert_eq!(count, 2);
}

#[tokio::test]
async fn values_that_cannot_be_keys_of_an_index_are_refused() {
    let bench = with_orders().await;
    let put = |more: Json| json!({ "TableName": "orders", "Item": order("a", 1, &more) });
    let mismatch = "Type mismatch for Index Key rank Expected: N Actual: S IndexName: by-rank";
    bench.invalid("PutItem", put(json!({ "rank": { "S": "1" } })), &format!("{PARAMETERS}{mismatch}")).await;
    let empty = "One or more parameter values are not valid. A value specified for a secondary index key is not supported. \
                 The AttributeValue for a key attribute cannot contain an empty string value. IndexName: by-kind, \
                 IndexKey: kind";
    bench.invalid("PutItem", put(json!({ "kind": { "S": "" } })), empty).await;
    let long = format!("{PARAMETERS}Size of hashkey has exceeded the maximum size limit of2048 bytes");
    bench.invalid("PutItem", put(json!({ "kind": { "S": "x".repeat(2_049) } })), &long).await;
    let batch = json!({ "RequestItems": { "orders": [{ "PutRequest": { "Item": order("a", 1, &json!({ "kind": { "S": "" } })) } }] } });
    bench.invalid("BatchWriteItem", batch, empty).await;
    bench.put("orders", order("a", 1, &json!({ "v": { "S": "s" }, "n": { "N": "1" } }))).await;
    let update = |expression: &str, values: Json| {
        let mut input =
            json!({ "TableName": "orders", "Key": order("a", 1, &json!({})), "UpdateExpression": expression });
        if !values.is_null() {
            input["ExpressionAttributeValues"] = values;
        }
        input
    };
    let mismatch = "Type mismatch for Index Key kind Expected: S Actual: N IndexName: by-kind";
    let set = update("SET kind = :v", json!({ ":v": { "N": "1" } }));
    bench.invalid("UpdateItem", set, &format!("{PARAMETERS}{mismatch}")).await;
    let unsupported = "The update expression attempted to update the secondary index key to unsupported type";
    bench.invalid("UpdateItem", update("SET kind = n", Json::Null), unsupported).await;
    let empty = "One or more parameter values are not valid. The update expression attempted to update a secondary index \
                 key to a value that is not supported. The AttributeValue for a key attribute cannot contain an empty \
                 string value.";
    bench.invalid("UpdateItem", update("SET kind = :v", json!({ ":v": { "S": "" } })), empty).await;
    let nested =
        "Key attributes must be scalars; list random access '[]' and map lookup '.' are not allowed: IndexKey: kind";
    bench.invalid("UpdateItem", update("SET kind.x = :v", json!({ ":v": { "S": "" } })), nested).await;
    bench.ok("UpdateItem", update("SET kind = v", Json::Null)).await;
    assert_eq!(bench.ok("Scan", json!({ "TableName": "orders", "IndexName": "by-kind" })).await["Count"], 0);
    bench.ok("UpdateItem", update("SET #r = n", Json::Null).with_names(&json!({ "#r": "rank" }))).await;
    assert_eq!(bench.ok("Query", of_kind("s")).await["Count"], 1);
}

trait WithNames {
    fn with_names(self, names: &Json) -> Json;
}

impl WithNames for Json {
    fn with_names(mut self, names: &Json) -> Json {
        self["ExpressionAttributeNames"] = names.clone();
        self
    }
}

#[tokio::test]
async fn writes_tell_the_capacity_of_indexes_and_the_size_of_collections() {
    let bench = with_orders().await;
    let mut put = json!({
        "TableName": "orders", "ReturnConsumedCapacity": "INDEXES", "ReturnItemCollectionMetrics": "SIZE",
        "Item": order("a", 1, &json!({ "rank": { "N": "1" }, "kind": { "S": "x" }, "v": { "S": "x".repeat(2_000) } })),
    });
    let answer = bench.ok("PutItem", put.clone()).await;
    assert_eq!(
        answer["ConsumedCapacity"],
        json!({
            "TableName": "orders", "CapacityUnits": 5.0, "Table": { "CapacityUnits": 2.0 },
            "LocalSecondaryIndexes": { "by-rank": { "CapacityUnits": 1.0 } },
            "GlobalSecondaryIndexes": { "by-kind": { "CapacityUnits": 2.0 } },
        })
    );
    let metrics = json!({ "ItemCollectionKey": { "id": { "S": "a" } }, "SizeEstimateRangeGB": [0, 1] });
    assert_eq!(answer["ItemCollectionMetrics"], metrics);
    // Nothing changes in the local index, and the entry of the global one moves.
    put["Item"]["kind"] = json!({ "S": "y" });
    let moved = bench.ok("PutItem", put.clone()).await["ConsumedCapacity"].clone();
    assert_eq!(moved["GlobalSecondaryIndexes"]["by-kind"]["CapacityUnits"], 4.0);
    assert_eq!(moved["LocalSecondaryIndexes"], Json::Null);
    let batch = json!({
        "RequestItems": { "orders": [
            { "DeleteRequest": { "Key": order("a", 1, &json!({})) } }, { "PutRequest": { "Item": order("a", 2, &json!({})) } },
        ] },
        "ReturnItemCollectionMetrics": "SIZE", "ReturnConsumedCapacity": "TOTAL",
    });
    let answer = bench.ok("BatchWriteItem", batch).await;
    assert_eq!(answer["ItemCollectionMetrics"], json!({ "orders": [metrics] }));
    assert_eq!(answer["ConsumedCapacity"], json!([{ "TableName": "orders", "CapacityUnits": 2.0 + 1.0 + 2.0 + 1.0 }]));
    bench.create("plain", &[("id", "S")]).await;
    let plain = json!({ "TableName": "plain", "Item": { "id": { "S": "a" } }, "ReturnItemCollectionMetrics": "SIZE" });
    assert_eq!(bench.ok("PutItem", plain).await, json!({}));
}

fn create_index(name: &str, keys: &[(&str, &str)], projection: &str) -> Json {
    let names: Vec<&str> = keys.iter().map(|(name, _)| *name).collect();
    let definitions = keys.iter().map(|(name, kind)| json!({ "AttributeName": name, "AttributeType": kind }));
    json!({
        "TableName": "items", "AttributeDefinitions": definitions.collect::<Vec<_>>(),
        "GlobalSecondaryIndexUpdates": [{ "Create": index(name, &names, projection) }],
    })
}

async fn status(bench: &Bench) -> Json {
    bench.ok("DescribeTable", json!({ "TableName": "items" })).await["Table"]["GlobalSecondaryIndexes"].clone()
}

#[tokio::test]
async fn an_index_is_made_filled_and_taken_away_on_a_live_table() {
    let bench = Bench::with_items().await;
    for number in 0..1_200 {
        let kind = ["even", "odd"][number % 2];
        bench
            .put("items", json!({ "id": { "S": number.to_string() }, "kind": { "S": kind }, "n": { "N": "1" } }))
            .await;
    }
    // What cannot be a key of the new index is there already, and stays out of it.
    bench.put("items", json!({ "id": { "S": "wrong" }, "kind": { "N": "1" } })).await;
    let answer = bench.ok("UpdateTable", create_index("by-kind", &[("kind", "S")], "ALL")).await;
    assert_eq!(answer["TableDescription"]["TableStatus"], "UPDATING");
    let shown = status(&bench).await;
    assert_eq!((&shown[0]["IndexStatus"], &shown[0]["Backfilling"]), (&json!("CREATING"), &json!(true)));
    let query = json!({
        "TableName": "items", "IndexName": "by-kind", "KeyConditionExpression": "kind = :k", "Select": "COUNT",
        "ExpressionAttributeValues": { ":k": { "S": "even" } },
    });
    bench.invalid("Query", query.clone(), "Cannot read from backfilling global secondary index: by-kind").await;
    let busy = "Subscriber limit exceeded: Only 1 online index can be created or deleted simultaneously per table";
    let another = create_index("other", &[("n", "N")], "ALL");
    bench.refused("UpdateTable", another.clone(), "LimitExceededException", busy).await;
    // Written before the worker comes, and not counted twice.
    bench.put("items", json!({ "id": { "S": "0" }, "kind": { "S": "odd" } })).await;
    bench.put("items", json!({ "id": { "S": "new" }, "kind": { "S": "even" } })).await;
    bench.ok("DeleteItem", json!({ "TableName": "items", "Key": { "id": { "S": "1" } } })).await;
    sweep(&bench).await;
    let shown = status(&bench).await;
    assert_eq!((&shown[0]["IndexStatus"], &shown[0]["Backfilling"]), (&json!("ACTIVE"), &Json::Null));
    assert_eq!(shown[0]["ItemCount"], 1_200);
    assert_eq!(bench.ok("Query", query.clone()).await["Count"], 600);
    bench.ok("UpdateTable", another).await;
    sweep(&bench).await;
    let delete =
        json!({ "TableName": "items", "GlobalSecondaryIndexUpdates": [{ "Delete": { "IndexName": "by-kind" } }] });
    bench.ok("UpdateTable", delete.clone()).await;
    assert_eq!(status(&bench).await[0]["IndexStatus"], "DELETING");
    bench.invalid("Query", query.clone(), "The table does not have the specified index: by-kind").await;
    bench.put("items", json!({ "id": { "S": "0" }, "kind": { "N": "1" } })).await;
    sweep(&bench).await;
    let shown = status(&bench).await;
    assert_eq!(shown.as_array().unwrap().len(), 1);
    assert_eq!(shown[0]["IndexName"], "other");
    let missing = "Requested resource not found: Index by-kind for table items";
    bench.refused("UpdateTable", delete, "ResourceNotFoundException", missing).await;
    // The same name again is another index.
    bench.ok("UpdateTable", create_index("by-kind", &[("kind", "S")], "KEYS_ONLY")).await;
    sweep(&bench).await;
    assert_eq!(bench.ok("Query", query).await["Count"], 600);
    bench.ok("DeleteTable", json!({ "TableName": "items" })).await;
    sweep(&bench).await;
    let left =
        bench.service.shared.store.range(&store::Range::prefix(vec![model::prefixes::DYNAMODB.byte])).await.unwrap();
    assert!(left.entries.is_empty(), "{:?}", left.entries);
}

#[tokio::test]
async fn a_filling_that_is_broken_off_leaves_nothing() {
    let bench = Bench::with_items().await;
    bench.put("items", json!({ "id": { "S": "a" }, "kind": { "S": "x" } })).await;
    bench.ok("UpdateTable", create_index("by-kind", &[("kind", "S")], "ALL")).await;
    bench.put("items", json!({ "id": { "S": "b" }, "kind": { "S": "x" } })).await;
    bench
        .ok(
            "UpdateTable",
            json!({ "TableName": "items", "GlobalSecondaryIndexUpdates": [{ "Delete": { "IndexName": "by-kind" } }] }),
        )
        .await;
    sweep(&bench).await;
    assert_eq!(status(&bench).await, Json::Null);
    bench.ok("DeleteTable", json!({ "TableName": "items" })).await;
    sweep(&bench).await;
    let left =
        bench.service.shared.store.range(&store::Range::prefix(vec![model::prefixes::DYNAMODB.byte])).await.unwrap();
    assert!(left.entries.is_empty(), "{:?}", left.entries);
}

#[tokio::test]
async fn wrong_changes_of_indexes_are_refused() {
    let bench = with_orders().await;
    let cases: Vec<(Json, String)> = vec![
        (
            json!([{ "Delete": { "IndexName": "by-rank" } }]),
            "Cannot delete an index that is not a GlobalSecondaryIndex: by-rank".into(),
        ),
        (json!([{ "Create": index("by-kind", &["kind"], "ALL") }]), "Attempting to create an index which already exists".into()),
        (
            json!([{ "Create": index("other", &["zz"], "ALL") }]),
            format!("{PARAMETERS}AttributeDefinitions is not specified for index: other"),
        ),
        (
            json!([{}]),
            format!(
                "{PARAMETERS}One of GlobalSecondaryIndexUpdate.Update, GlobalSecondaryIndexUpdate.Create, \
                 GlobalSecondaryIndexUpdate.Delete must not be null"
            ),
        ),
        (
            json!([{ "Delete": { "IndexName": "abc" } }, { "Delete": { "IndexName": "abc" } }]),
            format!("{PARAMETERS}Only one global secondary index update per index is allowed simultaneously. Index: abc"),
        ),
        (
            json!([{ "Update": { "IndexName": "by-kind", "ProvisionedThroughput": { "ReadCapacityUnits": 1, "WriteCapacityUnits": 1 } } }]),
            format!(
                "{PARAMETERS}Neither ReadCapacityUnits nor WriteCapacityUnits can be specified for index: by-kind when \
                 BillingMode is PAY_PER_REQUEST"
            ),
        ),
        (
            json!([{ "Update": { "IndexName": "by-kind" } }]),
            "1 validation error detected: Value null at 'globalSecondaryIndexUpdates.1.member.update.provisionedThroughput' \
             failed to satisfy constraint: Member must not be null"
                .into(),
        ),
    ];
    for (updates, message) in cases {
        bench
            .invalid("UpdateTable", json!({ "TableName": "orders", "GlobalSecondaryIndexUpdates": updates }), &message)
            .await;
    }
    let two = json!({
        "TableName": "orders", "AttributeDefinitions": [{ "AttributeName": "kind", "AttributeType": "S" }],
        "GlobalSecondaryIndexUpdates": [
            { "Create": index("one", &["kind"], "ALL") }, { "Create": index("two", &["kind"], "ALL") },
        ],
    });
    let busy = "Subscriber limit exceeded: Only 1 online index can be created or deleted simultaneously per table";
    bench.refused("UpdateTable", two, "LimitExceededException", busy).await;
    // Indexes of a table that is paid for by units have units of their own.
    let units = json!({ "ReadCapacityUnits": 5, "WriteCapacityUnits": 6 });
    let provisioned = json!({ "TableName": "orders", "BillingMode": "PROVISIONED", "ProvisionedThroughput": units });
    let message = format!("{PARAMETERS}ProvisionedThroughput must be specified for index: by-kind");
    bench.invalid("UpdateTable", provisioned.clone(), &message).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_fill_an_index_beside_their_writers() {
    let store = MemoryStore::shared();
    let node = |seed| Bench::of(store.clone(), seed, Config { removal_rows: 16, ..Config::default() });
    let nodes = [node(1), node(2)];
    nodes[0].create("items", &[("id", "S")]).await;
    for number in 0..300 {
        nodes[0].put("items", json!({ "id": { "S": number.to_string() }, "kind": { "S": "a" } })).await;
    }
    nodes[0].ok("UpdateTable", create_index("by-kind", &[("kind", "S")], "ALL")).await;
    let all = nodes.clone();
    at_once(6, move |task| {
        let bench = all[task % 2].clone();
        async move {
            for round in 0..60 {
                if task < 2 {
                    bench.service.sweep().await.unwrap();
                    continue;
                }
                let id = (round * 7 + task * 13) % 300;
                let kind = ["a", "b"][(round + task) % 2];
                match round % 3 {
                    0 => bench.put("items", json!({ "id": { "S": id.to_string() }, "kind": { "S": kind } })).await,
                    1 => {
                        let key = json!({ "TableName": "items", "Key": { "id": { "S": id.to_string() } } });
                        bench.ok("DeleteItem", key).await;
                    }
                    _ => bench.put("items", json!({ "id": { "S": id.to_string() } })).await,
                }
            }
        }
    })
    .await;
    while status(&nodes[0]).await[0]["IndexStatus"] != "ACTIVE" {
        nodes[0].service.sweep().await.unwrap();
        tokio::task::yield_now().await;
    }
    let items = nodes[0].ok("Scan", json!({ "TableName": "items" })).await["Items"].clone();
    let mut expected: Vec<_> = items.as_array().unwrap().iter().filter(|item| !item["kind"].is_null()).collect();
    let found = nodes[1].ok("Scan", json!({ "TableName": "items", "IndexName": "by-kind" })).await["Items"].clone();
    let mut found: Vec<_> = found.as_array().unwrap().iter().collect();
    for list in [&mut expected, &mut found] {
        list.sort_by_key(|item| item["id"]["S"].as_str().unwrap().to_owned());
    }
    assert_eq!(found, expected);
    assert_eq!(status(&nodes[0]).await[0]["ItemCount"], expected.len());
}
