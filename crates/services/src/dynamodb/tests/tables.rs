//! Tables: creating, describing, listing, changing, deleting, and what is refused.

use super::*;

type Edit = fn(&mut Json);

#[tokio::test]
async fn a_table_is_created_described_and_listed() {
    let bench = Bench::new();
    let created = bench.create("items", &[("id", "S"), ("at", "N")]).await;
    assert_eq!(created["TableDescription"]["TableStatus"], "CREATING");
    let table = bench.ok("DescribeTable", json!({ "TableName": "items" })).await["Table"].clone();
    assert_eq!(table["TableStatus"], "ACTIVE");
    assert_eq!(table["TableArn"], "arn:aws:dynamodb:us-east-1:000000000000:table/items");
    assert_eq!(table["CreationDateTime"], 1_700_000_000.123);
    assert_eq!(table["BillingModeSummary"]["BillingMode"], "PAY_PER_REQUEST");
    assert_eq!(table["ProvisionedThroughput"]["ReadCapacityUnits"], 0);
    assert_eq!(
        table["KeySchema"],
        json!([{ "AttributeName": "id", "KeyType": "HASH" }, { "AttributeName": "at", "KeyType": "RANGE" }])
    );
    assert_eq!((&table["ItemCount"], &table["TableSizeBytes"]), (&json!(0), &json!(0)));
    let by_arn = bench.ok("DescribeTable", json!({ "TableName": table["TableArn"] })).await;
    assert_eq!(by_arn["Table"]["TableId"], table["TableId"]);
    assert_eq!(bench.ok("ListTables", json!({})).await, json!({ "TableNames": ["items"] }));
    let elsewhere = bench.call_in("eu-west-1", "ListTables", json!({})).await.unwrap();
    assert_eq!(elsewhere, json!({ "TableNames": [] }));
}

#[tokio::test]
async fn tables_are_listed_in_pages() {
    let bench = Bench::new();
    for number in 0..5 {
        bench.create(&format!("table-{number}"), &[("id", "S")]).await;
    }
    let first = bench.ok("ListTables", json!({ "Limit": 2 })).await;
    assert_eq!(first, json!({ "TableNames": ["table-0", "table-1"], "LastEvaluatedTableName": "table-1" }));
    let rest = bench.ok("ListTables", json!({ "ExclusiveStartTableName": "table-1" })).await;
    assert_eq!(rest, json!({ "TableNames": ["table-2", "table-3", "table-4"] }));
}

#[tokio::test]
async fn a_table_created_again_does_not_see_old_items() {
    let bench = Bench::with_items().await;
    bench.put("items", json!({ "id": { "S": "a" } })).await;
    let deleted = bench.ok("DeleteTable", json!({ "TableName": "items" })).await;
    assert_eq!(deleted["TableDescription"]["TableStatus"], "DELETING");
    assert_eq!(deleted["TableDescription"]["ItemCount"], 1);
    let gone = "Requested resource not found: Table: items not found";
    bench.refused("DescribeTable", json!({ "TableName": "items" }), "ResourceNotFoundException", gone).await;
    bench.create("items", &[("id", "S")]).await;
    assert_eq!(bench.get("items", json!({ "id": { "S": "a" } })).await, Json::Null);
    // The item and both counters.
    assert_eq!(bench.service.sweep().await.unwrap(), 3);
    assert_eq!(bench.service.sweep().await.unwrap(), 0);
    let left = bench.service.shared.store.range(&super::super::keys::all_garbage()).await.unwrap();
    assert!(left.entries.is_empty());
}

#[tokio::test]
async fn counters_follow_the_items() {
    let bench = Bench::with_items().await;
    bench.put("items", json!({ "id": { "S": "a" }, "x": { "S": "12345" } })).await;
    bench.put("items", json!({ "id": { "S": "b" } })).await;
    bench.put("items", json!({ "id": { "S": "a" }, "x": { "S": "1" } })).await;
    let table = bench.ok("DescribeTable", json!({ "TableName": "items" })).await["Table"].clone();
    assert_eq!((&table["ItemCount"], &table["TableSizeBytes"]), (&json!(2), &json!(3 + 2 + 3)));
    bench.ok("DeleteItem", json!({ "TableName": "items", "Key": { "id": { "S": "a" } } })).await;
    bench.ok("DeleteItem", json!({ "TableName": "items", "Key": { "id": { "S": "a" } } })).await;
    let table = bench.ok("DescribeTable", json!({ "TableName": "items" })).await["Table"].clone();
    assert_eq!((&table["ItemCount"], &table["TableSizeBytes"]), (&json!(1), &json!(3)));
}

#[tokio::test]
async fn wrong_tables_are_refused() {
    let bench = Bench::with_items().await;
    bench
        .refused(
            "CreateTable",
            create_input("items", &[("id", "S")]),
            "ResourceInUseException",
            "Table already exists: items",
        )
        .await;
    let edit = |change: fn(&mut Json)| {
        let mut input = create_input("other", &[("id", "S"), ("at", "N")]);
        change(&mut input);
        input
    };
    let cases: [(Edit, &str); 7] = [
        (
            |t| t["TableName"] = json!("ab"),
            "1 validation error detected: Value 'ab' at 'tableName' failed to satisfy constraint: Member must have length \
             greater than or equal to 3",
        ),
        (
            |t| t["ProvisionedThroughput"] = json!({ "ReadCapacityUnits": 1, "WriteCapacityUnits": 1 }),
            "One or more parameter values were invalid: Neither ReadCapacityUnits nor WriteCapacityUnits can be \
             specified when BillingMode is PAY_PER_REQUEST",
        ),
        (
            |t| t["BillingMode"] = json!("PROVISIONED"),
            "One or more parameter values were invalid: ReadCapacityUnits and WriteCapacityUnits must both be \
             specified when BillingMode is PROVISIONED",
        ),
        (
            |t| t["KeySchema"][0]["KeyType"] = json!("RANGE"),
            "Invalid KeySchema: The first KeySchemaElement is not a HASH key type",
        ),
        (
            |t| t["KeySchema"][1]["AttributeName"] = json!("id"),
            "Both the Hash Key and the Range Key element in the KeySchema have the same name",
        ),
        (
            |t| {
                t["KeySchema"].as_array_mut().unwrap().pop();
            },
            "One or more parameter values were invalid: Number of attributes in KeySchema does not exactly match \
             number of attributes defined in AttributeDefinitions",
        ),
        (
            |t| t["KeySchema"][1]["AttributeName"] = json!("zz"),
            "One or more parameter values were invalid: Some index key attributes are not defined in \
             AttributeDefinitions. Keys: [id, zz], AttributeDefinitions: [id, at]",
        ),
    ];
    for (change, message) in cases {
        bench.invalid("CreateTable", edit(change), message).await;
    }
}

#[tokio::test]
async fn what_is_not_supported_is_said() {
    let bench = Bench::new();
    let mut input = create_input("items", &[("id", "S")]);
    input["SSESpecification"] = json!({ "Enabled": true });
    let error = bench.call("CreateTable", input).await.unwrap_err();
    assert_eq!((error.status, error.code.as_str()), (501, "NotImplementedException"));
    assert!(error.message.contains("SSESpecification"));
    let mut input = create_input("items", &[("id", "S")]);
    input["WarmThroughput"] = json!({ "ReadUnitsPerSecond": 12_000 });
    assert!(bench.call("CreateTable", input).await.unwrap_err().message.contains("WarmThroughput"));
    let error = bench.call("CreateGlobalTable", json!({})).await.unwrap_err();
    assert!(error.message.contains("CreateGlobalTable"));
}

#[tokio::test]
async fn a_table_is_updated_tagged_and_protected() {
    let bench = Bench::with_items().await;
    let update = |input: Json| async {
        let mut input = input;
        input["TableName"] = json!("items");
        bench.ok("UpdateTable", input).await["TableDescription"].clone()
    };
    let units = json!({ "ReadCapacityUnits": 5, "WriteCapacityUnits": 6 });
    let table = update(json!({ "BillingMode": "PROVISIONED", "ProvisionedThroughput": units })).await;
    assert_eq!(table["ProvisionedThroughput"]["WriteCapacityUnits"], 6);
    assert_eq!(table["BillingModeSummary"]["BillingMode"], "PROVISIONED");
    assert_eq!(table["TableStatus"], "UPDATING");
    let same = json!({ "TableName": "items", "BillingMode": "PROVISIONED", "ProvisionedThroughput": units });
    let error = bench.call("UpdateTable", same).await.unwrap_err();
    assert!(error.message.contains("will not change"), "{error}");
    update(json!({ "BillingMode": "PAY_PER_REQUEST" })).await;
    let units = json!({ "TableName": "items", "ProvisionedThroughput": units });
    let message = "One or more parameter values were invalid: Neither ReadCapacityUnits nor WriteCapacityUnits can be \
                   specified when BillingMode is PAY_PER_REQUEST";
    bench.invalid("UpdateTable", units, message).await;
    update(json!({ "DeletionProtectionEnabled": true })).await;
    let protected =
        "Resource cannot be deleted as it is currently protected against deletion. Disable deletion protection first.";
    bench.invalid("DeleteTable", json!({ "TableName": "items" }), protected).await;
    update(json!({ "DeletionProtectionEnabled": false })).await;
    let arn = "arn:aws:dynamodb:us-east-1:000000000000:table/items";
    let tags = json!([{ "Key": "a", "Value": "1" }, { "Key": "b", "Value": "2" }]);
    bench.ok("TagResource", json!({ "ResourceArn": arn, "Tags": tags })).await;
    bench.ok("UntagResource", json!({ "ResourceArn": arn, "TagKeys": ["a"] })).await;
    let listed = bench.ok("ListTagsOfResource", json!({ "ResourceArn": arn })).await;
    assert_eq!(listed, json!({ "Tags": [{ "Key": "b", "Value": "2" }] }));
    let deleted = bench.ok("DeleteTable", json!({ "TableName": "items" })).await["TableDescription"].clone();
    assert_eq!((&deleted["TableName"], &deleted["KeySchema"]), (&json!("items"), &Json::Null));
}
