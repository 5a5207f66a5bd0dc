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

/// The units of a table, members of overrides and the like are looked at before anything else, all at once.
#[tokio::test]
async fn members_within_members_are_what_they_must_be() {
    let bench = Bench::with_items().await;
    let null = |member: &str| format!("Value null at '{member}' failed to satisfy constraint: Member must not be null");
    let low = |member: &str| {
        format!(
            "Value '0' at '{member}' failed to satisfy constraint: Member must have value greater than or equal to 1"
        )
    };
    let arn = "arn:aws:dynamodb:us-east-1:000000000000:table/items/backup/01700000000123-00000001";
    let restores = [
        ("RestoreTableFromBackup", json!({ "TargetTableName": "other", "BackupArn": arn })),
        ("RestoreTableToPointInTime", json!({ "TargetTableName": "other", "SourceTableName": "items" })),
    ];
    let created = create_input("other", &[("id", "S")]);
    let mut cases: Vec<(&str, Json, &str, Json, Vec<String>)> = Vec::new();
    for (operation, input) in restores {
        let mut case = |member, value, wrong| cases.push((operation, input.clone(), member, value, wrong));
        case(
            "ProvisionedThroughputOverride",
            json!({ "WriteCapacityUnits": 0 }),
            vec![
                low("provisionedThroughputOverride.writeCapacityUnits"),
                null("provisionedThroughputOverride.readCapacityUnits"),
            ],
        );
        for (member, name) in [
            ("GlobalSecondaryIndexOverride", "globalSecondaryIndexOverride"),
            ("LocalSecondaryIndexOverride", "localSecondaryIndexOverride"),
        ] {
            let at = |part: &str| format!("{name}.1.member.{part}");
            case(member, json!([{}]), vec![null(&at("indexName")), null(&at("keySchema")), null(&at("projection"))]);
        }
        let units = json!([{
            "IndexName": "by-kind", "KeySchema": [{ "AttributeName": "kind", "KeyType": "HASH" }],
            "Projection": { "ProjectionType": "ALL" }, "ProvisionedThroughput": { "ReadCapacityUnits": 0 },
        }]);
        let at = |part: &str| format!("globalSecondaryIndexOverride.1.member.provisionedThroughput.{part}");
        case(
            "GlobalSecondaryIndexOverride",
            units,
            vec![low(&at("readCapacityUnits")), null(&at("writeCapacityUnits"))],
        );
        let rule = "failed to satisfy constraint: Member must satisfy enum value set: [AES256, KMS]";
        let wrong = vec![format!("Value 'X' at 'sSESpecificationOverride.sSEType' {rule}")];
        case("SSESpecificationOverride", json!({ "SSEType": "X" }), wrong);
    }
    for (operation, input) in [("CreateTable", created.clone()), ("UpdateTable", json!({ "TableName": "items" }))] {
        let units = json!({ "ReadCapacityUnits": 1 });
        cases.push((
            operation,
            input,
            "ProvisionedThroughput",
            units,
            vec![null("provisionedThroughput.writeCapacityUnits")],
        ));
    }
    for (operation, mut input, member, value, wrong) in cases {
        input[member] = value;
        let errors = if wrong.len() == 1 { "error" } else { "errors" };
        let message = format!("{} validation {errors} detected: {}", wrong.len(), wrong.join("; "));
        bench.invalid(operation, input, &message).await;
    }
    let mut encrypted = created;
    encrypted["SSESpecification"] = json!({ "Enabled": false, "SSEType": "KMS" });
    assert_eq!(bench.call("CreateTable", encrypted).await.unwrap_err().code, "NotImplementedException");
}

#[tokio::test]
async fn a_greatest_throughput_is_one_at_least_or_none() {
    let bench = Bench::new();
    let index = json!({
        "IndexName": "by-kind", "KeySchema": [{ "AttributeName": "kind", "KeyType": "HASH" }],
        "Projection": { "ProjectionType": "ALL" },
    });
    let mut input = create_input("items", &[("id", "S")]);
    let kind = json!({ "AttributeName": "kind", "AttributeType": "S" });
    input["AttributeDefinitions"].as_array_mut().unwrap().push(kind);
    input["GlobalSecondaryIndexes"] = json!([index]);
    let refused = |member: &str, what: &str| {
        format!(
            "One or more parameter values were invalid: Requested {member} for OnDemandThroughput for {what} is outside of \
             valid range"
        )
    };
    for bad in [0, -2] {
        let mut wrong = input.clone();
        wrong["OnDemandThroughput"] = json!({ "MaxReadRequestUnits": 1, "MaxWriteRequestUnits": bad });
        bench.invalid("CreateTable", wrong, &refused("MaxWriteRequestUnits", "table")).await;
        let mut wrong = input.clone();
        wrong["GlobalSecondaryIndexes"][0]["OnDemandThroughput"] = json!({ "MaxReadRequestUnits": bad });
        bench.invalid("CreateTable", wrong, &refused("MaxReadRequestUnits", "index by-kind")).await;
    }
    input["OnDemandThroughput"] = json!({ "MaxReadRequestUnits": 5, "MaxWriteRequestUnits": -1 });
    input["GlobalSecondaryIndexes"][0]["OnDemandThroughput"] = json!({ "MaxWriteRequestUnits": 7 });
    let table = bench.ok("CreateTable", input).await["TableDescription"].clone();
    assert_eq!(table["OnDemandThroughput"], json!({ "MaxReadRequestUnits": 5, "MaxWriteRequestUnits": -1 }));
    let of_index = |table: &Json| table["GlobalSecondaryIndexes"][0]["OnDemandThroughput"].clone();
    assert_eq!(of_index(&table), json!({ "MaxReadRequestUnits": -1, "MaxWriteRequestUnits": 7 }));
    let update = |table: Json, index: Json| {
        json!({
            "TableName": "items", "OnDemandThroughput": table,
            "GlobalSecondaryIndexUpdates": [{ "Update": { "IndexName": "by-kind", "OnDemandThroughput": index } }],
        })
    };
    let (some, none) = (json!({ "MaxReadRequestUnits": 3 }), json!({ "MaxReadRequestUnits": -1 }));
    for bad in [0, -2] {
        let bad = json!({ "MaxReadRequestUnits": bad });
        let words = refused("MaxReadRequestUnits", "table");
        bench.invalid("UpdateTable", update(bad.clone(), some.clone()), &words).await;
        let words = refused("MaxReadRequestUnits", "index by-kind");
        bench.invalid("UpdateTable", update(some.clone(), bad), &words).await;
    }
    // What is not named stays, and what has no limit any more is not told.
    let table = bench.ok("UpdateTable", update(none, some)).await["TableDescription"].clone();
    assert_eq!(table["OnDemandThroughput"], Json::Null);
    assert_eq!(of_index(&table), json!({ "MaxReadRequestUnits": 3, "MaxWriteRequestUnits": 7 }));
}
