//! Limited throughput: what is refused in which words, what is paid for, and what may be set.

use std::time::Duration;

use super::*;

const EXCEEDED: &str = "The level of configured provisioned throughput for the table was exceeded. Consider increasing \
                        your provisioning level with the UpdateTable API.";
const INDEX_EXCEEDED: &str = "The level of configured provisioned throughput for one or more global secondary indexes of \
                              the table was exceeded. Consider increasing your provisioning level for the \
                              under-provisioned global secondary indexes with the UpdateTable API.";
const CODE: &str = "ProvisionedThroughputExceededException";
/// What a bucket of one unit a second holds.
const BURST: usize = 300;

fn units(read: u64, write: u64) -> Json {
    json!({ "ReadCapacityUnits": read, "WriteCapacityUnits": write })
}

/// An item that takes so many units to write.
fn item(id: &str, write_units: usize) -> Json {
    json!({ "id": { "S": id }, "v": { "S": "x".repeat(write_units * 1_024 - 10 - id.len()) } })
}

impl Bench {
    async fn provisioned(read: u64, write: u64) -> Self {
        let bench = Self::new();
        let mut input = create_input("items", &[("id", "S")]);
        input["BillingMode"] = json!("PROVISIONED");
        input["ProvisionedThroughput"] = units(read, write);
        bench.ok("CreateTable", input).await;
        bench
    }

    /// Takes the whole burst of one unit a second.
    async fn use_writes(&self) {
        self.put("items", item("big", BURST)).await;
    }

    async fn throttled(&self, operation: &'static str, input: Json) -> Refusal {
        self.refused(operation, input, CODE, EXCEEDED).await
    }
}

fn put(id: &str) -> Json {
    json!({ "TableName": "items", "Item": { "id": { "S": id } } })
}

fn get(id: &str) -> Json {
    json!({ "TableName": "items", "Key": { "id": { "S": id } } })
}

#[tokio::test]
async fn writes_beyond_the_burst_are_refused_until_there_is_more() {
    let bench = Bench::provisioned(1, 1).await;
    bench.use_writes().await;
    let error = bench.throttled("PutItem", put("a")).await;
    let reason = json!({
        "reason": "TableWriteProvisionedThroughputExceeded",
        "resource": "arn:aws:dynamodb:us-east-1:000000000000:table/items",
    });
    assert_eq!((error.status, &error.fields["ThrottlingReasons"]), (400, &json!([reason])));
    bench.throttled("DeleteItem", get("big")).await;
    bench.throttled("UpdateItem", get("b")).await;
    let statement = json!({ "Statement": "INSERT INTO items VALUE {'id': 'c'}" });
    bench.throttled("ExecuteStatement", statement.clone()).await;
    let batch = bench.ok("BatchExecuteStatement", json!({ "Statements": [statement] })).await;
    assert_eq!(batch["Responses"][0]["Error"]["Code"], "ProvisionedThroughputExceeded");
    // Reads have units of their own; what was refused has changed nothing.
    assert_eq!(bench.ok("Scan", json!({ "TableName": "items", "Select": "COUNT" })).await["Count"], 1);
    bench.clock.advance(Duration::from_secs(1));
    bench.ok("PutItem", put("a")).await;
    bench.throttled("PutItem", put("a")).await;
    // A condition that does not hold is paid for.
    bench.clock.advance(Duration::from_secs(1));
    let mut guarded = put("a");
    guarded["ConditionExpression"] = json!("attribute_not_exists(id)");
    let error = bench.call("PutItem", guarded).await.unwrap_err();
    assert_eq!(error.code, "ConditionalCheckFailedException");
    bench.throttled("PutItem", put("a")).await;
    // More units are there at once.
    bench.ok("UpdateTable", json!({ "TableName": "items", "ProvisionedThroughput": units(1, 10) })).await;
    bench.clock.advance(Duration::from_secs(1));
    for id in 0..10 {
        bench.ok("PutItem", put(&id.to_string())).await;
    }
    bench.throttled("PutItem", put("a")).await;
    // Paid for by request, nothing is short.
    bench.ok("UpdateTable", json!({ "TableName": "items", "BillingMode": "PAY_PER_REQUEST" })).await;
    bench.ok("PutItem", put("a")).await;
}

#[tokio::test]
async fn reads_beyond_the_burst_are_refused() {
    let bench = Bench::provisioned(1, 1_000).await;
    bench.put("items", item("a", 380)).await;
    let consistent = |id: &str| {
        let mut input = get(id);
        input["ConsistentRead"] = json!(true);
        input
    };
    for _ in 0..4 {
        bench.ok("GetItem", consistent("a")).await;
    }
    bench.throttled("GetItem", get("a")).await;
    bench.throttled("Scan", json!({ "TableName": "items" })).await;
    bench.throttled("ExecuteStatement", json!({ "Statement": "SELECT * FROM items WHERE id = 'a'" })).await;
    let gets = json!({ "RequestItems": { "items": { "Keys": [get("a")["Key"]] } } });
    bench.throttled("BatchGetItem", gets).await;
    let error = bench.call("TransactGetItems", json!({ "TransactItems": [{ "Get": get("a") }] })).await.unwrap_err();
    assert_eq!(error.fields["CancellationReasons"][0]["Code"], "ProvisionedThroughputExceeded");
    bench.ok("PutItem", put("b")).await;
    bench.clock.advance(Duration::from_secs(200));
    bench.ok("GetItem", get("a")).await;
}

#[tokio::test]
async fn of_a_batch_what_there_is_no_capacity_for_is_unprocessed() {
    let bench = Bench::provisioned(1, 1).await;
    bench.create("free", &[("id", "S")]).await;
    bench.use_writes().await;
    let put = |id: &str| json!({ "PutRequest": { "Item": { "id": { "S": id } } } });
    let both = json!({ "RequestItems": { "items": [put("a"), put("b")], "free": [put("c")] } });
    let answer = bench.ok("BatchWriteItem", both).await;
    assert_eq!(answer["UnprocessedItems"], json!({ "items": [put("a"), put("b")] }));
    assert_eq!(bench.get("free", json!({ "id": { "S": "c" } })).await, json!({ "id": { "S": "c" } }));
    bench.throttled("BatchWriteItem", json!({ "RequestItems": { "items": [put("a")] } })).await;
    bench.clock.advance(Duration::from_secs(2));
    let answer = bench.ok("BatchWriteItem", json!({ "RequestItems": { "items": [put("a"), put("b")] } })).await;
    assert_eq!(answer["UnprocessedItems"], json!({}));
    // Of what is read as well.
    for _ in 0..80 {
        bench.call("GetItem", get("big")).await.ok();
    }
    let keys = json!({ "Keys": [get("a")["Key"]] });
    let answer = bench.ok("BatchGetItem", json!({ "RequestItems": { "items": keys, "free": keys } })).await;
    assert_eq!(answer["UnprocessedKeys"], json!({ "items": keys }));
}

#[tokio::test]
async fn a_transaction_pays_twice_and_says_what_is_short() {
    let bench = Bench::provisioned(1, 1).await;
    bench.create("free", &[("id", "S")]).await;
    bench
        .ok(
            "TransactWriteItems",
            json!({ "TransactItems": [{ "Put": { "TableName": "items", "Item": item("a", 150) } }] }),
        )
        .await;
    let items = json!([
        { "Put": { "TableName": "free", "Item": { "id": { "S": "b" } } } },
        { "Put": { "TableName": "items", "Item": { "id": { "S": "b" } } } },
    ]);
    let error = bench.call("TransactWriteItems", json!({ "TransactItems": items })).await.unwrap_err();
    assert_eq!(error.code, "TransactionCanceledException");
    let reason = json!({ "Code": "ProvisionedThroughputExceeded", "Message": EXCEEDED });
    assert_eq!(error.fields["CancellationReasons"], json!([{ "Code": "None" }, reason]));
    assert_eq!(bench.get("free", json!({ "id": { "S": "b" } })).await, Json::Null);
}

#[tokio::test]
async fn an_index_without_capacity_holds_up_the_writes_of_its_table() {
    let bench = Bench::new();
    let mut input = create_input("items", &[("id", "S")]);
    input["BillingMode"] = json!("PROVISIONED");
    input["ProvisionedThroughput"] = units(1_000, 1_000);
    input["AttributeDefinitions"] = json!([
        { "AttributeName": "id", "AttributeType": "S" }, { "AttributeName": "kind", "AttributeType": "S" },
    ]);
    input["GlobalSecondaryIndexes"] = json!([{
        "IndexName": "by-kind", "KeySchema": [{ "AttributeName": "kind", "KeyType": "HASH" }],
        "Projection": { "ProjectionType": "ALL" }, "ProvisionedThroughput": units(1, 1),
    }]);
    bench.ok("CreateTable", input).await;
    let mut big = item("a", BURST);
    big["kind"] = json!({ "S": "x" });
    bench.put("items", big).await;
    let indexed = json!({ "TableName": "items", "Item": { "id": { "S": "b" }, "kind": { "S": "x" } } });
    let error = bench.refused("PutItem", indexed, CODE, INDEX_EXCEEDED).await;
    let reason = &error.fields["ThrottlingReasons"][0];
    assert_eq!(reason["reason"], "IndexWriteProvisionedThroughputExceeded");
    assert_eq!(reason["resource"], "arn:aws:dynamodb:us-east-1:000000000000:table/items/index/by-kind");
    // What does not reach the index is not held up.
    bench.ok("PutItem", put("c")).await;
    let query = json!({
        "TableName": "items", "IndexName": "by-kind", "KeyConditionExpression": "kind = :k",
        "ExpressionAttributeValues": { ":k": { "S": "x" } },
    });
    for _ in 0..8 {
        bench.ok("Query", query.clone()).await;
    }
    bench.refused("Query", query, CODE, INDEX_EXCEEDED).await;
}

#[tokio::test]
async fn a_maximum_on_demand_is_set_enforced_and_taken_away() {
    let bench = Bench::with_items().await;
    let update = |most: Json| json!({ "TableName": "items", "OnDemandThroughput": most });
    let table = bench.ok("UpdateTable", update(json!({ "MaxWriteRequestUnits": 1 }))).await["TableDescription"].clone();
    assert_eq!(table["OnDemandThroughput"], json!({ "MaxReadRequestUnits": -1, "MaxWriteRequestUnits": 1 }));
    bench.use_writes().await;
    let message = "Throughput exceeds the maximum OnDemandThroughput configured on table or index.";
    let error = bench.refused("PutItem", put("a"), "ThrottlingException", message).await;
    assert_eq!(error.fields["throttlingReasons"][0]["reason"], "TableWriteMaxOnDemandThroughputExceeded");
    bench.ok("UpdateTable", update(json!({ "MaxWriteRequestUnits": -1 }))).await;
    bench.ok("PutItem", put("a")).await;
    let described = bench.ok("DescribeTable", json!({ "TableName": "items" })).await;
    assert_eq!(described["Table"]["OnDemandThroughput"], Json::Null);
    let provisioned =
        json!({ "TableName": "items", "BillingMode": "PROVISIONED", "ProvisionedThroughput": units(1, 1) });
    bench.ok("UpdateTable", provisioned).await;
    let error = bench.call("UpdateTable", update(json!({ "MaxWriteRequestUnits": 1 }))).await.unwrap_err();
    assert_eq!(error.code, "ValidationException");
}

#[tokio::test]
async fn units_and_tables_have_limits() {
    let bench = Bench::provisioned(10, 10).await;
    let update = |read, write| json!({ "TableName": "items", "ProvisionedThroughput": units(read, write) });
    let same = "The provisioned throughput for the table will not change. The requested value equals the current value. \
                Current ReadCapacityUnits provisioned for the table: 10. Requested ReadCapacityUnits: 10. Current \
                WriteCapacityUnits provisioned for the table: 10. Requested WriteCapacityUnits: 10. Refer to the Amazon \
                DynamoDB Developer Guide for current limits and how to request higher limits.";
    bench.invalid("UpdateTable", update(10, 10), same).await;
    for write in [9, 8, 7, 6] {
        bench.ok("UpdateTable", update(10, write)).await;
    }
    let table = bench.ok("DescribeTable", json!({ "TableName": "items" })).await["Table"].clone();
    assert_eq!(table["ProvisionedThroughput"]["NumberOfDecreasesToday"], 4);
    let error = bench.call("UpdateTable", update(10, 5)).await.unwrap_err();
    assert_eq!(error.code, "LimitExceededException");
    bench.clock.advance(Duration::from_secs(3_600));
    bench.ok("UpdateTable", update(10, 5)).await;
    let limits = bench.ok("DescribeLimits", json!({})).await;
    assert_eq!(limits["TableMaxWriteCapacityUnits"], 40_000);
    assert_eq!(bench.call("UpdateTable", update(40_001, 5)).await.unwrap_err().code, "LimitExceededException");
    bench.ok("UpdateTable", update(40_000, 5)).await;
    let mut other = create_input("other", &[("id", "S")]);
    other["BillingMode"] = json!("PROVISIONED");
    other["ProvisionedThroughput"] = units(40_000, 1);
    bench.ok("CreateTable", other.clone()).await;
    other["TableName"] = json!("third");
    other["ProvisionedThroughput"] = units(1, 1);
    let error = bench.call("CreateTable", other).await.unwrap_err();
    assert_eq!(error.code, "LimitExceededException");
    assert!(error.message.contains("80001 and"), "{error}");
    let small = Bench::of(MemoryStore::shared(), 1, Config { tables_max: 2, ..Config::default() });
    small.create("one", &[("id", "S")]).await;
    small.create("two", &[("id", "S")]).await;
    let message = "Subscriber limit exceeded: There is a limit of 2 tables per subscriber";
    small.refused("CreateTable", create_input("three", &[("id", "S")]), "LimitExceededException", message).await;
}

#[tokio::test]
async fn nodes_share_what_a_table_may_take() {
    let store = MemoryStore::shared();
    let nodes = [Bench::over(store.clone(), 1), Bench::over(store, 2)];
    let mut input = create_input("items", &[("id", "S")]);
    input["BillingMode"] = json!("PROVISIONED");
    input["ProvisionedThroughput"] = units(1, 1);
    nodes[0].ok("CreateTable", input).await;
    // Which of them serves limited tables is known after a round of each.
    for node in [0, 1, 0, 1] {
        nodes[node].ok("PutItem", put("a")).await;
        nodes[node].service.sweep().await.unwrap();
    }
    let mut written = 0;
    for node in &nodes {
        while node.call("PutItem", put("a")).await.is_ok() {
            written += 1;
        }
    }
    assert!((BURST - 4..=BURST).contains(&written), "{written}");
    // Who has given no sign of life for half a minute leaves its part to others.
    nodes[0].clock.advance(Duration::from_secs(31));
    nodes[0].service.sweep().await.unwrap();
    nodes[0].clock.advance(Duration::from_secs(1));
    let mut written = 0;
    while nodes[0].call("PutItem", put("a")).await.is_ok() {
        written += 1;
    }
    assert!(written >= 10, "{written}");
    let unlimited = Bench::with_items().await;
    unlimited.service.sweep().await.unwrap();
    assert_eq!(unlimited.service.shared.store.range(&super::super::keys::nodes()).await.unwrap().entries, []);
}
