//! What may be stored and what not: nesting, names, tags; and what ends a page or a call that cannot be done.

use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use proptest::prelude::*;
use store::{Claim, Claims, Error as StoreError, Snapshot, Store, Txn, Version, Watch};

use super::super::value::{AttributeValue, DEPTH_MAX, check_item};
use super::super::{item, partiql};
use super::engines::{Engine, over_each_engine};
use super::*;

const PARAMETERS: &str = "One or more parameter values were invalid:";
const TOO_DEEP: &str = "Nesting Levels have exceeded supported limits";
const TOO_LARGE: &str = "The aggregate size of the items in the transaction cannot exceed 4 MB";

/// Lists in lists, so many, around a value.
fn lists(count: usize, inner: Option<Json>) -> Json {
    (1..count).fold(json!({ "L": inner.into_iter().collect::<Vec<_>>() }), |value, _| json!({ "L": [value] }))
}

fn literal(count: usize) -> String {
    format!("{}{}", "[".repeat(count), "]".repeat(count))
}

#[tokio::test]
async fn what_nests_as_deep_as_may_be_is_kept_however_it_comes() {
    let bench = Bench::with_items().await;
    let key = json!({ "id": { "S": "a" } });
    for inner in [None, Some(json!({ "N": "1" }))] {
        let put = |value: Json| json!({ "TableName": "items", "Item": { "id": { "S": "a" }, "l": value } });
        bench.ok("PutItem", put(lists(DEPTH_MAX, inner.clone()))).await;
        bench.invalid("PutItem", put(lists(DEPTH_MAX + 1, inner.clone())), TOO_DEEP).await;
        assert_eq!(bench.get("items", key.clone()).await["l"], lists(DEPTH_MAX, inner.clone()));
        let update = json!({
            "TableName": "items", "Key": key, "UpdateExpression": "SET n = :n",
            "ExpressionAttributeValues": { ":n": { "N": "1" } },
        });
        bench.ok("UpdateItem", update).await;
        // One level more than the value has.
        let deeper = |levels: usize| {
            json!({
                "TableName": "items", "Key": key, "UpdateExpression": "SET m = :m, l = list_append(:l, :e)",
                "ExpressionAttributeValues": {
                    ":m": lists(DEPTH_MAX, inner.clone()), ":l": { "L": [] },
                    ":e": { "L": [lists(levels, inner.clone())] },
                },
            })
        };
        bench.ok("UpdateItem", deeper(DEPTH_MAX - 1)).await;
    }
    let nested = json!({
        "TableName": "items", "Key": key, "UpdateExpression": "SET l[0] = :v",
        "ExpressionAttributeValues": { ":v": lists(DEPTH_MAX, None) },
    });
    bench.invalid("UpdateItem", nested, TOO_DEEP).await;
}

#[tokio::test]
async fn statements_nest_as_deep_as_other_writes_and_no_deeper() {
    let bench = Bench::with_items().await;
    let run = |text: String, parameters: Option<Json>| {
        let mut input = json!({ "Statement": text });
        if let Some(parameters) = parameters {
            input["Parameters"] = parameters;
        }
        input
    };
    let insert = |value: &str| format!("INSERT INTO items VALUE {{'id': 'x', 'a': {value}}}");
    let deepest = json!([lists(DEPTH_MAX, None)]);
    let below = json!([lists(DEPTH_MAX - 1, None)]);
    for (text, parameters) in [
        (insert("[?]"), Some(deepest.clone())),
        (insert("{'m': ?}"), Some(deepest.clone())),
        (insert(&literal(DEPTH_MAX + 1)), None),
        (insert(&literal(60)), None),
    ] {
        bench.invalid("ExecuteStatement", run(text.clone(), parameters.clone()), TOO_DEEP).await;
        let statement = run(text, parameters);
        let answer = bench.ok("BatchExecuteStatement", json!({ "Statements": [statement] })).await;
        assert_eq!(answer["Responses"][0]["Error"]["Message"], TOO_DEEP);
        let transaction = json!({ "TransactStatements": [statement] });
        assert!(bench.call("ExecuteTransaction", transaction).await.unwrap_err().message.contains(TOO_DEEP));
    }
    assert_eq!(bench.ok("Scan", json!({ "TableName": "items" })).await["Count"], 0);
    for (number, (value, parameters)) in
        [("?".to_owned(), Some(deepest.clone())), ("[?]".into(), Some(below)), (literal(DEPTH_MAX), None)]
            .into_iter()
            .enumerate()
    {
        let text = insert(&value).replace("'x'", &format!("'{number}'"));
        bench.ok("ExecuteStatement", run(text, parameters)).await;
    }
    let set = |value: &str| format!("UPDATE items SET b = {value} WHERE id = '0'");
    bench.ok("ExecuteStatement", run(set("?"), Some(deepest.clone()))).await;
    bench.ok("ExecuteStatement", run(set(&literal(DEPTH_MAX)), None)).await;
    bench.invalid("ExecuteStatement", run(set("[?]"), Some(deepest.clone())), TOO_DEEP).await;
    bench
        .invalid(
            "ExecuteStatement",
            run(set("list_append(a, ?)"), Some(json!([{ "L": [lists(DEPTH_MAX, None)] }]))),
            TOO_DEEP,
        )
        .await;
    let items = bench.ok("Scan", json!({ "TableName": "items" })).await;
    assert_eq!(items["Count"], 3);
    bench.ok("DeleteItem", json!({ "TableName": "items", "Key": { "id": { "S": "0" } } })).await;
}

fn nested() -> impl Strategy<Value = String> {
    let leaf =
        prop_oneof![Just("1".to_owned()), Just("'s'".into()), Just("?".into()), Just("[]".into()), Just("{}".into())];
    (leaf, proptest::collection::vec(any::<bool>(), 0..40)).prop_map(|(leaf, levels)| {
        levels
            .into_iter()
            .fold(leaf, |inner, list| if list { format!("[{inner}, 2]") } else { format!("{{'m': {inner}}}") })
    })
}

proptest! {
    #[test]
    fn what_is_inserted_can_be_read(text in nested(), depth in 1usize..=DEPTH_MAX) {
        let parameters = if text.contains('?') {
            vec![AttributeValue::from_json(&lists(depth, None)).unwrap()]
        } else {
            Vec::new()
        };
        let statement = partiql::parse(&format!("INSERT INTO t VALUE {{'id': 'x', 'a': {text}}}"), parameters);
        if let Ok(partiql::Statement::Insert { item: found, .. }) = statement {
            let stored = item::encode(&found);
            prop_assert_eq!(item::decode(&stored), Some(found.clone()));
            prop_assert!(item::write_json(&stored, &mut Vec::new()).is_some());
            prop_assert!(check_item(&found).is_ok());
        }
    }

    #[test]
    fn what_may_be_written_can_be_read(depth in 0usize..40, scalar in any::<bool>()) {
        let leaf = if scalar { AttributeValue::Null } else { AttributeValue::L(Vec::new()) };
        let value = (0..depth).fold(leaf, |value, level| match level % 2 {
            0 => AttributeValue::L(vec![value]),
            _ => AttributeValue::M([("m".to_owned(), value)].into()),
        });
        let written = [("a".to_owned(), value.clone())].into();
        prop_assert_eq!(check_item(&written).is_ok(), value.depth() <= DEPTH_MAX);
        if check_item(&written).is_ok() {
            prop_assert_eq!(AttributeValue::from_json(&value.to_json()).ok(), Some(value));
            prop_assert_eq!(item::decode(&item::encode(&written)), Some(written));
        } else {
            prop_assert!(AttributeValue::from_json(&value.to_json()).is_err());
        }
    }
}

#[tokio::test]
async fn no_attribute_is_without_a_name() {
    let bench = Bench::with_items().await;
    let key = json!({ "id": { "S": "a" } });
    let update = |name: &str| {
        json!({
            "TableName": "items", "Key": key, "UpdateExpression": "SET #a = :v",
            "ExpressionAttributeNames": { "#a": name }, "ExpressionAttributeValues": { ":v": { "N": "1" } },
        })
    };
    let prefix = "ExpressionAttributeNames contains invalid value:";
    bench.invalid("UpdateItem", update(""), &format!("{prefix} Empty attribute name for key #a")).await;
    let long = bench.call("UpdateItem", update(&"n".repeat(65_536))).await.unwrap_err();
    assert!(long.code == "ValidationException" && long.message.starts_with(prefix), "{long}");
    bench.ok("UpdateItem", update(&"n".repeat(65_535))).await;
    let legacy = json!({
        "TableName": "items", "Key": key, "AttributeUpdates": { "": { "Action": "PUT", "Value": { "N": "1" } } },
    });
    bench.invalid("UpdateItem", legacy, &format!("{PARAMETERS} Empty attribute name")).await;
    let empty = format!("{PARAMETERS} Attribute names must not be empty");
    for text in ["UPDATE items SET \"\" = 1 WHERE id = 'a'", "UPDATE items SET m['']=1 WHERE id = 'a'"] {
        bench.invalid("ExecuteStatement", json!({ "Statement": text }), &empty).await;
    }
}

#[tokio::test]
async fn tags_have_keys_and_values_of_their_lengths_and_none_is_reserved() {
    let bench = Bench::with_items().await;
    let arn = "arn:aws:dynamodb:us-east-1:000000000000:table/items";
    let tag = |key: &str, value: &str| json!({ "Key": key, "Value": value });
    let put = |tags: Vec<Json>| json!({ "ResourceArn": arn, "Tags": tags });
    let (long, longer) = ("k".repeat(128), "k".repeat(129));
    let failed = |shown: &str, at: &str, rule: &str| {
        format!(
            "1 validation error detected: Value '{shown}' at '{at}' failed to satisfy constraint: Member must have length {rule}"
        )
    };
    let cases = [
        (vec![], "Atleast one Tag needs to be provided as Input.".to_owned()),
        (vec![tag("", "v")], failed("", "tags.1.member.key", "greater than or equal to 1")),
        (vec![tag(&longer, "v")], failed(&longer, "tags.1.member.key", "less than or equal to 128")),
        (
            vec![tag("a", ""), tag("b", &"v".repeat(257))],
            failed(&"v".repeat(257), "tags.2.member.value", "less than or equal to 256"),
        ),
        (
            vec![tag("AWS:a", "v")],
            format!("{PARAMETERS} Keys of tags must not begin with aws:, which is reserved: AWS:a"),
        ),
        (vec![tag("a", "1"), tag("a", "2")], format!("{PARAMETERS} Duplicate tag key: a")),
    ];
    for (tags, message) in cases {
        bench.invalid("TagResource", put(tags.clone()), &message).await;
        if !tags.is_empty() {
            let mut table = create_input("tagged", &[("id", "S")]);
            table["Tags"] = json!(tags);
            bench.invalid("CreateTable", table, &message).await;
        }
    }
    bench.ok("TagResource", put(vec![tag(&long, &"v".repeat(256)), tag("\u{e9}".repeat(128).as_str(), "")])).await;
    let many = |count: usize| put((0..count).map(|number| tag(&number.to_string(), "v")).collect());
    let too_many = format!("{PARAMETERS} Too many tags: at most 50 are allowed");
    bench.invalid("TagResource", many(49), &too_many).await;
    bench.invalid("TagResource", many(51), &too_many).await;
    bench.ok("TagResource", many(48)).await;
    let untag = |keys: Json| json!({ "ResourceArn": arn, "TagKeys": keys });
    bench.invalid("UntagResource", untag(json!([])), "Atleast one Tag Key needs to be provided as Input.").await;
    let at = "tagKeys.1.member";
    bench.invalid("UntagResource", untag(json!([""])), &failed("", at, "greater than or equal to 1")).await;
    bench.ok("UntagResource", untag(json!([long]))).await;
}

#[tokio::test]
async fn definitions_are_distinct_and_keys_of_several_attributes_are_not_here() {
    let bench = Bench::with_items().await;
    let duplicated = "Attribute Name is duplicated: id";
    let mut table = create_input("other", &[("id", "S"), ("id", "N")]);
    bench.invalid("CreateTable", table.clone(), duplicated).await;
    table["TableName"] = json!("items");
    let update = json!({ "TableName": "items", "AttributeDefinitions": table["AttributeDefinitions"], "BillingMode": "PAY_PER_REQUEST" });
    bench.invalid("UpdateTable", update, duplicated).await;

    let index = |keys: &[(&str, &str)]| {
        let keys = keys.iter().map(|(name, role)| json!({ "AttributeName": name, "KeyType": role }));
        json!({ "IndexName": "several", "KeySchema": keys.collect::<Vec<_>>(), "Projection": { "ProjectionType": "ALL" } })
    };
    let definitions = ["id", "a", "b"].map(|name| json!({ "AttributeName": name, "AttributeType": "S" }));
    for keys in [&[("a", "HASH"), ("b", "HASH")][..], &[("a", "HASH"), ("b", "HASH"), ("id", "RANGE")]] {
        let mut table = create_input("other", &[("id", "S")]);
        table["AttributeDefinitions"] = json!(definitions);
        table["GlobalSecondaryIndexes"] = json!([index(keys)]);
        let update = json!({
            "TableName": "items", "AttributeDefinitions": definitions,
            "GlobalSecondaryIndexUpdates": [{ "Create": index(keys) }],
        });
        for (operation, input) in [("CreateTable", table), ("UpdateTable", update)] {
            let error = bench.call(operation, input).await.unwrap_err();
            assert_eq!((error.status, error.code.as_str()), (501, "NotImplementedException"), "{error}");
            assert!(error.message.contains("several attributes"), "{error}");
        }
    }
}

#[tokio::test]
async fn a_table_remembers_that_it_was_paid_per_request() {
    let bench = Bench::with_items().await;
    let units = json!({ "ReadCapacityUnits": 5, "WriteCapacityUnits": 6 });
    let provisioned =
        json!({ "TableName": "items", "BillingMode": "PROVISIONED", "ProvisionedThroughput": units.clone() });
    bench.ok("UpdateTable", provisioned).await;
    let table = bench.ok("DescribeTable", json!({ "TableName": "items" })).await["Table"].clone();
    assert_eq!(table["BillingModeSummary"]["BillingMode"], "PROVISIONED");
    assert_eq!(table["BillingModeSummary"]["LastUpdateToPayPerRequestDateTime"], table["CreationDateTime"]);
    let mut always = create_input("always", &[("id", "S")]);
    always["BillingMode"] = json!("PROVISIONED");
    always["ProvisionedThroughput"] = units;
    assert_eq!(bench.ok("CreateTable", always).await["TableDescription"]["BillingModeSummary"], Json::Null);
}

#[tokio::test]
async fn a_local_index_that_leads_to_large_items_is_read_in_pages() {
    let bench = Bench::new();
    let mut table = create_input("large", &[("id", "S"), ("at", "N")]);
    table["AttributeDefinitions"]
        .as_array_mut()
        .unwrap()
        .push(json!({ "AttributeName": "rank", "AttributeType": "N" }));
    table["LocalSecondaryIndexes"] = json!([{
        "IndexName": "by-rank", "Projection": { "ProjectionType": "KEYS_ONLY" },
        "KeySchema": [{ "AttributeName": "id", "KeyType": "HASH" }, { "AttributeName": "rank", "KeyType": "RANGE" }],
    }]);
    bench.ok("CreateTable", table).await;
    for at in 0..10 {
        let number = json!({ "N": at.to_string() });
        let text = json!({ "S": "x".repeat(300 * 1024) });
        bench
            .put("large", json!({ "id": { "S": "a" }, "at": number, "rank": number, "text": text, "v": number }))
            .await;
    }
    for (more, fits) in [
        (json!({ "Select": "ALL_ATTRIBUTES" }), 3),
        (json!({ "ProjectionExpression": "v" }), 3),
        // What the index has itself is one page.
        (json!({}), 10),
    ] {
        let (mut found, mut start) = (0, Json::Null);
        loop {
            let mut query = json!({
                "TableName": "large", "IndexName": "by-rank", "KeyConditionExpression": "id = :a",
                "ExpressionAttributeValues": { ":a": { "S": "a" } }, "ExclusiveStartKey": start,
            });
            query.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let answer = bench.ok("Query", query).await;
            let scanned = answer["ScannedCount"].as_u64().unwrap();
            assert!(scanned <= fits, "{more}: {scanned} items of 300 KB in a page");
            found += answer["Count"].as_u64().unwrap();
            start = answer["LastEvaluatedKey"].clone();
            if start.is_null() {
                break;
            }
            assert_eq!(scanned, fits, "{more}");
        }
        assert_eq!(found, 10, "{more}");
    }
}

#[tokio::test]
async fn batches_tell_of_keys_as_reads_do() {
    let bench = Bench::with_events().await;
    for item in [json!({ "id": { "S": "a" } }), json!({ "id": { "S": "a" }, "at": { "S": "1" } })] {
        let batch = json!({ "RequestItems": { "events": [{ "PutRequest": { "Item": item } }] } });
        bench.invalid("BatchWriteItem", batch, "The provided key element does not match the schema").await;
    }
}

#[tokio::test]
async fn where_a_query_may_go_on_is_told_before_and_by_its_conditions() {
    let bench = Bench::with_events().await;
    let query = |condition: &str, id: &str, at: &str| {
        let names = if condition.contains('#') { json!({ "#at": "at" }) } else { Json::Null };
        json!({
            "TableName": "events", "KeyConditionExpression": format!("id = :a AND {condition}"),
            "ExpressionAttributeNames": names, "ExpressionAttributeValues": { ":a": { "S": "a" }, ":n": { "N": "5" } },
            "ExclusiveStartKey": { "id": { "S": id }, "at": { "N": at } },
        })
    };
    let (one, range) = (
        "The query can return at most one row and cannot be restarted",
        "The provided starting key does not match the range key predicate",
    );
    for (condition, inside, outside) in [("#at = :n", "5", "6"), ("#at > :n", "6", "5"), ("#at <= :n", "5", "6")] {
        bench.ok("Query", query(condition, "a", inside)).await;
        bench.invalid("Query", query(condition, "b", inside), one).await;
        bench.invalid("Query", query(condition, "a", outside), range).await;
        bench.invalid("Query", query(condition, "b", outside), range).await;
    }
    let mut wrong = query("v = :n", "a", "5");
    bench.invalid("Query", wrong.clone(), "Query condition missed key schema element: at").await;
    wrong["ExclusiveStartKey"] = json!({ "id": { "S": "a" } });
    bench.invalid("Query", wrong, "The provided starting key is invalid").await;
}

#[tokio::test]
async fn a_statement_with_an_empty_range_finds_nothing() {
    let bench = Bench::with_events().await;
    bench.put("events", json!({ "id": { "S": "a" }, "at": { "N": "3" } })).await;
    for range in ["at BETWEEN 5 AND 1", "at > 5 AND at < 1", "begins_with(at, 3)"] {
        let text = format!("SELECT * FROM events WHERE id = 'a' AND {range}");
        assert_eq!(bench.ok("ExecuteStatement", json!({ "Statement": text })).await["Items"], json!([]), "{range}");
    }
}

/// A store in which somebody else is always first, while that is wanted.
struct Lost {
    inner: Arc<dyn Store>,
    loses: AtomicBool,
}

#[async_trait]
impl Store for Lost {
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, StoreError> {
        self.inner.snapshot().await
    }

    async fn commit(&self, txn: Txn) -> Result<Version, StoreError> {
        if self.loses.load(Ordering::SeqCst) { Err(StoreError::Conflict) } else { self.inner.commit(txn).await }
    }

    async fn claim(&self, claim: Claim) -> Result<Claims, StoreError> {
        self.inner.claim(claim).await
    }

    fn watch(&self, prefix: &[u8]) -> Watch {
        self.inner.watch(prefix)
    }
}

#[tokio::test]
async fn who_always_comes_second_is_told_of_a_conflict() {
    let store = Arc::new(Lost { inner: MemoryStore::shared(), loses: AtomicBool::new(false) });
    let bench = Bench::over(store.clone(), 1);
    bench.create("items", &[("id", "S")]).await;
    store.loses.store(true, Ordering::SeqCst);
    let ongoing = "Transaction is ongoing for the item";
    let item = json!({ "id": { "S": "a" } });
    let put = json!({ "TableName": "items", "Item": item });
    let error = bench.refused("PutItem", put.clone(), "TransactionConflictException", ongoing).await;
    assert_eq!(error.status, 400);
    let both = json!({ "TransactItems": [{ "Put": put }, { "ConditionCheck": {
        "TableName": "items", "Key": { "id": { "S": "b" } }, "ConditionExpression": "attribute_not_exists(id)",
    } }] });
    let words = "Transaction cancelled, please refer cancellation reasons for specific reasons \
                 [TransactionConflict, TransactionConflict]";
    let error = bench.refused("TransactWriteItems", both, "TransactionCanceledException", words).await;
    assert_eq!(error.status, 400);
    let batch = json!({ "RequestItems": { "items": [{ "PutRequest": { "Item": item } }] } });
    assert_eq!(bench.ok("BatchWriteItem", batch.clone()).await["UnprocessedItems"], batch["RequestItems"]);
    let statements = json!({ "Statements": [{ "Statement": "INSERT INTO items VALUE {'id': 'a'}" }] });
    let answer = bench.ok("BatchExecuteStatement", statements).await;
    assert_eq!(answer["Responses"][0]["Error"], json!({ "Code": "TransactionConflict", "Message": ongoing }));
    store.loses.store(false, Ordering::SeqCst);
    bench.ok("PutItem", put).await;
}

/// An answer ends before it has more than 16 MB. What is left of the request can be sent again as it is.
#[tokio::test]
async fn a_batch_of_reads_ends_where_its_answer_is_full() {
    let bench = Bench::with_items().await;
    let text = "t".repeat(300 * 1024 - 10);
    for number in 0..60 {
        bench.put("items", json!({ "id": { "S": format!("{number:03}") }, "v": { "S": text } })).await;
    }
    let key = |number: usize| json!({ "id": { "S": format!("{number:03}") } });
    let keys: Vec<Json> = (0..100).map(key).collect();
    let asked = json!({ "RequestItems": { "items": { "Keys": keys, "ConsistentRead": true } } });
    let answer = bench.ok("BatchGetItem", asked).await;
    assert_eq!(answer["Responses"]["items"].as_array().unwrap().len(), 52);
    let left = json!({ "items": { "Keys": keys[52..], "ConsistentRead": true } });
    assert_eq!(answer["UnprocessedKeys"], left);
    let rest = bench.ok("BatchGetItem", json!({ "RequestItems": left })).await;
    assert_eq!((rest["Responses"]["items"].as_array().unwrap().len(), &rest["UnprocessedKeys"]), (8, &json!({})));
}

/// A table `items` whose changes are told in its stream, as they were and as they are, and kept for points in time.
async fn with_images(bench: &Bench) {
    let mut table = create_input("items", &[("id", "S")]);
    table["StreamSpecification"] = json!({ "StreamEnabled": true, "StreamViewType": "NEW_AND_OLD_IMAGES" });
    bench.ok("CreateTable", table).await;
    let recovery = json!({ "PointInTimeRecoveryEnabled": true });
    let input = json!({ "TableName": "items", "PointInTimeRecoverySpecification": recovery });
    bench.ok("UpdateContinuousBackups", input).await;
}

fn puts(count: usize, text: &str) -> Json {
    let item = |number: usize| json!({ "id": { "S": number.to_string() }, "v": { "S": text } });
    let puts = (0..count).map(|number| json!({ "Put": { "TableName": "items", "Item": item(number) } }));
    json!({ "TransactItems": puts.collect::<Vec<_>>() })
}

over_each_engine!(the_largest_transaction_is_done_with_all_its_images);

async fn the_largest_transaction_is_done_with_all_its_images(engine: Engine) {
    let opened = engine.open().await;
    let bench = &opened.nodes[0];
    with_images(bench).await;
    // A hundred items have 4 MB together, but for some bytes of their keys.
    let text = |letter: &str| letter.repeat(4 * 1024 * 1024 / 100 - 10);
    for letter in ["a", "b"] {
        bench.ok("TransactWriteItems", puts(100, &text(letter))).await;
    }
    bench.invalid("TransactWriteItems", puts(100, &(text("c") + "1234567890")), TOO_LARGE).await;
    let described = bench.ok("DescribeTable", json!({ "TableName": "items" })).await;
    let arn = &described["Table"]["LatestStreamArn"];
    let stream = bench.ok("DescribeStream", json!({ "StreamArn": arn })).await;
    let shard = &stream["StreamDescription"]["Shards"][0]["ShardId"];
    let start = json!({ "StreamArn": arn, "ShardId": shard, "ShardIteratorType": "TRIM_HORIZON" });
    let mut iterator = bench.ok("GetShardIterator", start).await["ShardIterator"].clone();
    let mut events = Vec::new();
    while events.len() < 200 {
        let page = bench.ok("GetRecords", json!({ "ShardIterator": iterator })).await;
        iterator = page["NextShardIterator"].clone();
        for record in page["Records"].as_array().unwrap() {
            let begin = |image: &str| record["dynamodb"][image]["v"]["S"].as_str().map(|text| text[..1].to_owned());
            events.push((begin("OldImage"), begin("NewImage")));
        }
    }
    let (first, second) = events.split_at(100);
    assert!(first.iter().all(|event| *event == (None, Some("a".into()))));
    assert!(second.iter().all(|event| *event == (Some("a".into()), Some("b".into()))));
}

#[tokio::test]
async fn a_transaction_whose_images_do_not_fit_one_commit_is_refused_and_leaves_nothing() {
    let bench = Bench::new();
    with_images(&bench).await;
    for number in 0..13 {
        let item = json!({ "id": { "S": number.to_string() }, "v": { "S": "a".repeat(390_000) } });
        bench.put("items", item).await;
    }
    let updates = (0..13).map(|number: usize| {
        json!({ "Update": {
            "TableName": "items", "Key": { "id": { "S": number.to_string() } }, "UpdateExpression": "SET n = :n",
            "ExpressionAttributeValues": { ":n": { "N": "1" } },
        } })
    });
    let updates = json!({ "TransactItems": updates.collect::<Vec<_>>() });
    let error = bench.call("TransactWriteItems", updates).await.unwrap_err();
    assert_eq!(error.code, "ValidationException");
    assert!(error.message.contains("18 MB together"), "{error}");
    let item = bench.get("items", json!({ "id": { "S": "0" } })).await;
    assert_eq!(item["n"], Json::Null);
    let small = json!({ "TableName": "items", "Item": { "id": { "S": "0" }, "v": { "S": "c" } } });
    bench.ok("PutItem", small).await;
}
