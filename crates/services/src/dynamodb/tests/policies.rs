//! Resource policies: who is let in, who is kept out, and how documents are put and taken away.

use super::*;

const TABLE: &str = "arn:aws:dynamodb:us-east-1:000000000000:table/items";
const STRANGER: &str = "111122223333";

fn document(effect: &str, principal: &str, action: &str) -> String {
    let resources = json!([TABLE, format!("{TABLE}/index/*")]);
    let statement =
        json!({ "Effect": effect, "Principal": { "AWS": principal }, "Action": action, "Resource": resources });
    json!({ "Version": "2012-10-17", "Statement": [statement] }).to_string()
}

impl Bench {
    async fn call_of(&self, account: &str, operation: &'static str, input: Json) -> Result<Json, Refusal> {
        let mut call = aws::testing::call(operation, input);
        call.principal.account = AccountId::parse(account).unwrap();
        call.principal.arn = format!("arn:aws:iam::{account}:root");
        self.answer(call).await
    }

    async fn put_policy(&self, text: &str) -> Result<Json, Refusal> {
        self.call("PutResourcePolicy", json!({ "ResourceArn": TABLE, "Policy": text })).await
    }
}

#[tokio::test]
async fn a_stranger_does_what_a_policy_allows() {
    let bench = Bench::with_items().await;
    bench.put("items", json!({ "id": { "S": "a" } })).await;
    let get = json!({ "TableName": TABLE, "Key": { "id": { "S": "a" } } });
    let error = bench.call_of(STRANGER, "GetItem", get.clone()).await.unwrap_err();
    assert_eq!((error.status, error.code.as_str()), (400, "AccessDeniedException"));
    assert!(error.message.ends_with("because no resource-based policy allows the dynamodb:GetItem action"), "{error}");
    bench.put_policy(&document("Allow", STRANGER, "dynamodb:Get*")).await.unwrap();
    let found = bench.call_of(STRANGER, "GetItem", get.clone()).await.unwrap();
    assert_eq!(found["Item"], json!({ "id": { "S": "a" } }));
    let put = json!({ "TableName": TABLE, "Item": { "id": { "S": "b" } } });
    assert_eq!(bench.call_of(STRANGER, "PutItem", put).await.unwrap_err().code, "AccessDeniedException");
    assert_eq!(bench.call_of("444455556666", "GetItem", get).await.unwrap_err().code, "AccessDeniedException");
    // By its bare name it is a table of the stranger's own.
    let own = json!({ "TableName": "items", "Key": { "id": { "S": "a" } } });
    assert_eq!(bench.call_of(STRANGER, "GetItem", own).await.unwrap_err().code, "ResourceNotFoundException");
}

#[tokio::test]
async fn batches_and_transactions_reach_tables_of_other_accounts_by_their_arns() {
    let bench = Bench::with_items().await;
    bench.call_of(STRANGER, "CreateTable", create_input("own", &[("id", "S")])).await.unwrap();
    let key = |id: &str| json!({ "id": { "S": id } });
    let batch = json!({ "RequestItems": { TABLE: [{ "PutRequest": { "Item": key("a") } }],
        "own": [{ "PutRequest": { "Item": key("b") } }] }, "ReturnConsumedCapacity": "TOTAL" });
    let reads = json!({ "RequestItems": { TABLE: { "Keys": [key("a")] }, "own": { "Keys": [key("b")] } } });
    let writes = json!({ "TransactItems": [
        { "Put": { "TableName": TABLE, "Item": key("c") } }, { "Put": { "TableName": "own", "Item": key("c") } },
    ], "ReturnConsumedCapacity": "TOTAL" });
    let gets = json!({ "TransactItems": [
        { "Get": { "TableName": TABLE, "Key": key("c") } }, { "Get": { "TableName": "own", "Key": key("c") } },
    ] });
    let calls = [
        ("BatchWriteItem", &batch),
        ("BatchGetItem", &reads),
        ("TransactWriteItems", &writes),
        ("TransactGetItems", &gets),
    ];
    for (operation, input) in calls {
        let error = bench.call_of(STRANGER, operation, input.clone()).await.unwrap_err();
        assert_eq!(error.code, "AccessDeniedException", "{operation}");
    }
    let error = bench.call_of(STRANGER, "TransactWriteItems", writes.clone()).await.unwrap_err();
    assert!(error.message.ends_with("no resource-based policy allows the dynamodb:PutItem action"), "{error}");
    // The parts of transactions have the names of single operations, batches their own.
    for action in ["BatchWriteItem", "BatchGetItem", "PutItem", "GetItem"] {
        bench.put_policy(&document("Allow", STRANGER, &format!("dynamodb:{action}"))).await.unwrap();
        for (operation, input) in calls {
            let allowed = operation == action
                || operation.strip_prefix("Transact").is_some_and(|kind| {
                    (kind == "WriteItems" && action == "PutItem") || (kind == "GetItems" && action == "GetItem")
                });
            let answer = bench.call_of(STRANGER, operation, input.clone()).await;
            assert_eq!(answer.is_ok(), allowed, "{operation} with {action}: {answer:?}");
        }
    }
    assert_eq!(bench.get("items", key("a")).await, key("a"));
    assert_eq!(bench.get("items", key("b")).await, Json::Null);
    assert_eq!(bench.get("items", key("c")).await, key("c"));
    bench.put_policy(&document("Allow", STRANGER, "dynamodb:*")).await.unwrap();
    let found = bench.call_of(STRANGER, "BatchGetItem", reads).await.unwrap();
    assert_eq!(found["Responses"], json!({ TABLE: [key("a")], "own": [key("b")] }));
    let found = bench.call_of(STRANGER, "TransactGetItems", gets).await.unwrap();
    assert_eq!(found["Responses"], json!([{ "Item": key("c") }, { "Item": key("c") }]));
    // Answers name tables as requests do.
    for (operation, input) in [("BatchWriteItem", batch), ("TransactWriteItems", writes)] {
        let answer = bench.call_of(STRANGER, operation, input).await.unwrap();
        let names: std::collections::BTreeSet<&str> = answer["ConsumedCapacity"]
            .as_array()
            .unwrap()
            .iter()
            .map(|used| used["TableName"].as_str().unwrap())
            .collect();
        assert_eq!(names, [TABLE, "own"].into(), "{operation}");
    }
    // Statements do not, as on AWS.
    let statement = json!({ "Statement": format!("SELECT * FROM \"{TABLE}\"") });
    let error = bench.call_of(STRANGER, "ExecuteStatement", statement).await.unwrap_err();
    assert_eq!(error.code, "ResourceNotFoundException");
}

#[tokio::test]
async fn one_item_is_one_item_whatever_its_table_is_called() {
    let bench = Bench::with_items().await;
    let put = json!([{ "PutRequest": { "Item": { "id": { "S": "a" } } } }]);
    let twice = json!({ "RequestItems": { TABLE: put, "items": put } });
    bench.invalid("BatchWriteItem", twice, "Provided list of item keys contains duplicates").await;
    let part = |table: &str| json!({ "Delete": { "TableName": table, "Key": { "id": { "S": "a" } } } });
    let twice = json!({ "TransactItems": [part(TABLE), part("items")] });
    let message = "Transaction request cannot include multiple operations on one item";
    bench.invalid("TransactWriteItems", twice, message).await;
    let answer = bench
        .ok("PutItem", json!({ "TableName": TABLE, "Item": { "id": { "S": "a" } }, "ReturnConsumedCapacity": "TOTAL" }))
        .await;
    assert_eq!(answer["ConsumedCapacity"]["TableName"], TABLE);
}

#[tokio::test]
async fn a_denial_keeps_out_whoever_it_names() {
    let bench = Bench::with_items().await;
    bench.put_policy(&document("Deny", "*", "dynamodb:DeleteItem")).await.unwrap();
    let key = json!({ "id": { "S": "a" } });
    let error = bench.call("DeleteItem", json!({ "TableName": "items", "Key": key })).await.unwrap_err();
    assert_eq!(error.code, "AccessDeniedException");
    assert!(error.message.ends_with("with an explicit deny in a resource-based policy"), "{error}");
    let parts = json!({ "TransactItems": [{ "Delete": { "TableName": "items", "Key": key } }] });
    assert_eq!(bench.call("TransactWriteItems", parts).await.unwrap_err().code, "AccessDeniedException");
    bench.put("items", key.clone()).await;
    bench.put_policy(&document("Deny", "*", "dynamodb:PartiQL*")).await.unwrap();
    for statement in ["SELECT * FROM items", "INSERT INTO items VALUE {'id': 'b'}", "DELETE FROM items WHERE id = 'a'"]
    {
        let error = bench.call("ExecuteStatement", json!({ "Statement": statement })).await.unwrap_err();
        assert_eq!(error.code, "AccessDeniedException", "{statement}");
    }
    let batch = json!({ "Statements": [{ "Statement": "SELECT * FROM items WHERE id = 'a'" }] });
    let answer = bench.ok("BatchExecuteStatement", batch).await;
    assert_eq!(answer["Responses"][0]["Error"]["Code"], "AccessDenied");
    bench.ok("DeleteItem", json!({ "TableName": "items", "Key": key })).await;
}

#[tokio::test]
async fn policies_are_put_read_and_deleted_by_their_revisions() {
    let bench = Bench::with_items().await;
    let of = json!({ "ResourceArn": TABLE });
    let message = "Resource-based policy not found for the provided ResourceArn";
    bench.refused("GetResourcePolicy", of.clone(), "PolicyNotFoundException", message).await;
    assert_eq!(bench.ok("DeleteResourcePolicy", of.clone()).await, json!({ "RevisionId": "" }));
    let text = document("Allow", STRANGER, "dynamodb:GetItem");
    let put =
        |text: &str, expected: &str| json!({ "ResourceArn": TABLE, "Policy": text, "ExpectedRevisionId": expected });
    let error = bench.call("PutResourcePolicy", put(&text, "1")).await.unwrap_err();
    assert_eq!(error.code, "PolicyNotFoundException");
    let first = bench.ok("PutResourcePolicy", put(&text, "NO_POLICY")).await["RevisionId"].clone();
    let again = bench.put_policy(&text).await.unwrap();
    assert_eq!(again["RevisionId"], first);
    let found = bench.ok("GetResourcePolicy", of.clone()).await;
    assert_eq!(found, json!({ "Policy": text, "RevisionId": first }));
    let other = document("Allow", STRANGER, "dynamodb:*");
    assert!(bench.call("PutResourcePolicy", put(&other, "NO_POLICY")).await.is_err());
    let second = bench.ok("PutResourcePolicy", put(&other, first.as_str().unwrap())).await["RevisionId"].clone();
    assert_ne!(first, second);
    let stale = json!({ "ResourceArn": TABLE, "ExpectedRevisionId": first });
    assert_eq!(bench.call("DeleteResourcePolicy", stale).await.unwrap_err().code, "PolicyNotFoundException");
    assert_eq!(bench.ok("DeleteResourcePolicy", of).await["RevisionId"], second);
    // Who would lock itself out must say that this is meant; the account's root comes in again.
    let locking = document("Deny", "*", "dynamodb:*");
    assert_eq!(bench.put_policy(&locking).await.unwrap_err().code, "ValidationException");
    let mut confirmed = json!({ "ResourceArn": TABLE, "Policy": locking });
    confirmed["ConfirmRemoveSelfResourceAccess"] = json!(true);
    bench.ok("PutResourcePolicy", confirmed).await;
    assert_eq!(bench.put_policy(&text).await.unwrap_err().code, "AccessDeniedException");
    bench.ok("DeleteResourcePolicy", json!({ "ResourceArn": TABLE })).await;
    for wrong in ["{", "{}", &document("Allow", "*", "dynamodb:GetItem").replace("Action", "Deed")] {
        assert_eq!(bench.put_policy(wrong).await.unwrap_err().code, "ValidationException", "{wrong}");
    }
}

#[tokio::test]
async fn a_table_can_be_made_with_a_policy_and_streams_have_their_own() {
    let bench = Bench::new();
    let mut input = create_input("items", &[("id", "S")]);
    input["ResourcePolicy"] = json!(document("Allow", STRANGER, "dynamodb:PutItem"));
    input["StreamSpecification"] = json!({ "StreamEnabled": true, "StreamViewType": "KEYS_ONLY" });
    let stream = bench.ok("CreateTable", input).await["TableDescription"]["LatestStreamArn"].clone();
    let put = json!({ "TableName": TABLE, "Item": { "id": { "S": "b" } } });
    bench.call_of(STRANGER, "PutItem", put).await.unwrap();
    let deny = json!({ "Effect": "Deny", "Principal": "*", "Action": "dynamodb:GetRecords", "Resource": stream });
    let text = json!({ "Statement": deny }).to_string();
    bench.ok("PutResourcePolicy", json!({ "ResourceArn": stream, "Policy": text })).await;
    let shard =
        bench.ok("DescribeStream", json!({ "StreamArn": stream })).await["StreamDescription"]["Shards"][0].clone();
    let iterator = json!({ "StreamArn": stream, "ShardId": shard["ShardId"], "ShardIteratorType": "TRIM_HORIZON" });
    let iterator = bench.ok("GetShardIterator", iterator).await["ShardIterator"].clone();
    let read = json!({ "ShardIterator": iterator });
    assert_eq!(bench.call("GetRecords", read.clone()).await.unwrap_err().code, "AccessDeniedException");
    // The policy stays with the stream when the stream is switched off.
    let off = json!({ "TableName": "items", "StreamSpecification": { "StreamEnabled": false } });
    bench.ok("UpdateTable", off).await;
    let found = bench.ok("GetResourcePolicy", json!({ "ResourceArn": stream })).await;
    assert_eq!(found["Policy"], json!(text));
    bench.ok("DeleteResourcePolicy", json!({ "ResourceArn": stream })).await;
    assert_eq!(bench.ok("GetRecords", read).await["Records"].as_array().unwrap().len(), 1);
}
