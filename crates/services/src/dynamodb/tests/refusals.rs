//! Refusals of members that are wrong on their own, and their order.

use super::*;

fn one(value: &str, member: &str, rule: &str) -> String {
    format!(
        "1 validation error detected: Value '{value}' at '{member}' failed to satisfy constraint: Member must {rule}"
    )
}

#[tokio::test]
async fn the_length_of_a_table_s_name_is_told_alone_and_first() {
    let bench = Bench::new();
    let long = "a".repeat(256);
    for (name, rule) in [
        ("", "have length greater than or equal to 1"),
        ("ab", "have length greater than or equal to 3"),
        (long.as_str(), "have length less than or equal to 255"),
    ] {
        let put = json!({ "TableName": name, "Item": {}, "ReturnValues": "X" });
        bench.invalid("PutItem", put, &one(name, "tableName", rule)).await;
        let create = json!({ "TableName": name, "BillingMode": "X" });
        bench.invalid("CreateTable", create, &one(name, "tableName", rule)).await;
    }
    let without = "The parameter 'TableName' is required but was not present in the request";
    bench.invalid("CreateTable", json!({ "BillingMode": "X" }), without).await;
}

#[tokio::test]
async fn members_are_as_long_as_they_may_be() {
    let bench = Bench::with_items().await;
    let short = "have length greater than or equal to";
    let cases = [
        ("Scan", json!({ "TableName": "items", "IndexName": "i" }), one("i", "indexName", &format!("{short} 3"))),
        (
            "BatchExecuteStatement",
            json!({ "Statements": [{ "Statement": "INSERT INTO items VALUE {'id': 'a'}" }, { "Statement": "" }] }),
            one("", "statements.2.member.statement", &format!("{short} 1")),
        ),
        (
            "ExecuteTransaction",
            json!({ "TransactStatements": [{ "Statement": "x", "Parameters": [] }] }),
            one("[]", "transactStatements.1.member.parameters", &format!("{short} 1")),
        ),
        (
            "ExecuteTransaction",
            json!({ "TransactStatements": [{ "Statement": "x" }], "ClientRequestToken": "" }),
            one("", "clientRequestToken", &format!("{short} 1")),
        ),
        (
            "TransactWriteItems",
            json!({ "TransactItems": [{}], "ClientRequestToken": "" }),
            one("", "clientRequestToken", &format!("{short} 1")),
        ),
        ("ExecuteStatement", json!({ "Statement": "x", "NextToken": "" }), one("", "nextToken", &format!("{short} 1"))),
        ("DeleteBackup", json!({ "BackupArn": "arn" }), one("arn", "backupArn", &format!("{short} 37"))),
        (
            "RestoreTableToPointInTime",
            json!({ "TargetTableName": "ab", "SourceTableName": "items" }),
            one("ab", "targetTableName", &format!("{short} 3")),
        ),
        ("DescribeStream", json!({ "StreamArn": "arn" }), one("arn", "streamArn", &format!("{short} 37"))),
    ];
    for (operation, input, message) in cases {
        bench.invalid(operation, input, &message).await;
    }
    assert_eq!(bench.ok("Scan", json!({ "TableName": "items" })).await["Count"], json!(0));
    let long = "k".repeat(256);
    let rule = "have length less than or equal to 255";
    let error = bench.call("CreateTable", create_input("long", &[(&long, "S")])).await.unwrap_err();
    assert!(error.message.starts_with("2 validation errors detected") && error.message.contains(rule), "{error}");
}

#[tokio::test]
async fn streams_are_named_by_arns_and_shards_by_their_ids() {
    let bench = Bench::new();
    let mut input = create_input("items", &[("id", "S")]);
    input["StreamSpecification"] = json!({ "StreamEnabled": true, "StreamViewType": "KEYS_ONLY" });
    let arn = bench.ok("CreateTable", input).await["TableDescription"]["LatestStreamArn"].clone();
    let described = bench.ok("DescribeStream", json!({ "StreamArn": arn })).await;
    let shard = &described["StreamDescription"]["Shards"][0]["ShardId"];
    let no_arn = "x".repeat(50);
    for (operation, input) in [
        ("DescribeStream", json!({ "StreamArn": no_arn })),
        ("GetShardIterator", json!({ "StreamArn": no_arn, "ShardId": shard, "ShardIteratorType": "LATEST" })),
        ("ListStreams", json!({ "ExclusiveStartStreamArn": no_arn })),
    ] {
        assert_eq!(bench.call(operation, input).await.unwrap_err().code, "ValidationException", "{operation}");
    }
    let filtered = |filter: Json| json!({ "StreamArn": arn, "ShardFilter": filter });
    for (filter, member) in [
        (json!({ "Type": "foo", "ShardId": shard }), "shardFilter.type"),
        (json!({ "Type": "CHILD_SHARDS", "ShardId": "qwerty" }), "shardFilter.shardId"),
        (json!({ "Type": "CHILD_SHARDS" }), "shardFilter.shardId"),
        (json!({ "ShardId": shard }), "shardFilter.type"),
    ] {
        let error = bench.call("DescribeStream", filtered(filter)).await.unwrap_err();
        assert_eq!(error.code, "ValidationException");
        assert!(error.message.contains(member), "{error}");
    }
    let children = bench.ok("DescribeStream", filtered(json!({ "Type": "CHILD_SHARDS", "ShardId": shard }))).await;
    assert_eq!(children["StreamDescription"]["Shards"], json!([]));
}

#[tokio::test]
async fn tags_have_letters_that_tags_may_have() {
    let bench = Bench::with_items().await;
    let arn = "arn:aws:dynamodb:us-east-1:000000000000:table/items";
    for (key, value) in [("hi!", "dog"), ("dog", "\"hello\"")] {
        let input = json!({ "ResourceArn": arn, "Tags": [{ "Key": key, "Value": value }] });
        assert_eq!(bench.call("TagResource", input).await.unwrap_err().code, "ValidationException");
    }
    let tags = json!([{ "Key": "größe +-=._:/@", "Value": "" }]);
    bench.ok("TagResource", json!({ "ResourceArn": arn, "Tags": tags })).await;
    assert_eq!(bench.ok("ListTagsOfResource", json!({ "ResourceArn": arn })).await["Tags"], tags);
    let of_index = format!("{arn}/index/by-kind");
    let words = format!("Invalid TableArn: Invalid ResourceArn provided as input {of_index}");
    bench.invalid("ListTagsOfResource", json!({ "ResourceArn": of_index }), &words).await;
}

#[tokio::test]
async fn what_a_call_cannot_do_without_is_named() {
    let bench = Bench::with_items().await;
    for operation in ["BatchGetItem", "BatchWriteItem"] {
        let words = format!("The requestItems parameter is required for {operation}");
        bench.invalid(operation, json!({ "RequestItems": {} }), &words).await;
    }
    let nameless = json!({ "TableName": "items", "Item": { "id": { "S": "a" }, "": { "S": "b" } } });
    bench.invalid("PutItem", nameless, "One or more parameter values were invalid: Empty attribute name").await;
    let created = bench.create("others", &[("id", "S")]).await;
    assert!(created["TableDescription"].get("GlobalSecondaryIndexes").is_none(), "{created}");
    let gone = json!([{ "Delete": { "IndexName": "one" } }, { "Delete": { "IndexName": "two" } }]);
    let busy = "Subscriber limit exceeded: Only 1 online index can be created or deleted simultaneously per table";
    let input = json!({ "TableName": "items", "GlobalSecondaryIndexUpdates": gone });
    bench.refused("UpdateTable", input, "LimitExceededException", busy).await;
    let many = (0..51).map(|number| format!("'{number}'")).collect::<Vec<_>>().join(", ");
    let statement = json!({ "Statement": format!("SELECT * FROM items WHERE id IN [{many}]") });
    assert_eq!(bench.call("ExecuteStatement", statement).await.unwrap_err().code, "ValidationException");
}
