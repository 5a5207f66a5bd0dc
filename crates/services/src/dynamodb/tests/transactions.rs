//! Transactions: all or nothing, reasons, tokens, and histories of many at once.

use std::time::Duration;

use super::engines::{Engine, over_each_engine};
use super::*;

const CANCELLED: &str = "Transaction cancelled, please refer cancellation reasons for specific reasons";

fn key(id: &str) -> Json {
    json!({ "id": { "S": id } })
}

fn account(id: &str, amount: i64) -> Json {
    json!({ "id": { "S": id }, "n": { "N": amount.to_string() } })
}

fn put(item: Json) -> Json {
    json!({ "Put": { "TableName": "items", "Item": item } })
}

fn add(id: &str, amount: i64, least: i64) -> Json {
    json!({ "Update": {
        "TableName": "items", "Key": key(id), "UpdateExpression": "ADD n :by", "ConditionExpression": "n >= :least",
        "ExpressionAttributeValues": { ":by": { "N": amount.to_string() }, ":least": { "N": least.to_string() } },
    } })
}

fn check(id: &str, condition: &str) -> Json {
    json!({ "ConditionCheck": { "TableName": "items", "Key": key(id), "ConditionExpression": condition } })
}

impl Bench {
    async fn transact(&self, items: Json) -> Result<Json, Refusal> {
        self.call("TransactWriteItems", json!({ "TransactItems": items })).await
    }

    async fn cancelled(&self, items: Json, reasons: Json) {
        let error = self.transact(items).await.expect_err("the transaction must be cancelled");
        assert_eq!(error.fields["CancellationReasons"], reasons, "{error}");
        let codes: Vec<_> = reasons.as_array().unwrap().iter().map(|one| one["Code"].as_str().unwrap()).collect();
        assert_eq!(error.message, format!("{CANCELLED} [{}]", codes.join(", ")));
        assert_eq!((error.status, error.code.as_str()), (400, "TransactionCanceledException"));
    }

    async fn read(&self, ids: &[&str]) -> Vec<Json> {
        let gets: Vec<_> = ids.iter().map(|id| json!({ "Get": { "TableName": "items", "Key": key(id) } })).collect();
        let answer = self.ok("TransactGetItems", json!({ "TransactItems": gets })).await;
        answer["Responses"].as_array().unwrap().iter().map(|one| one["Item"].clone()).collect()
    }
}

#[tokio::test]
async fn all_parts_happen_or_none() {
    let bench = Bench::with_items().await;
    bench.create("events", &[("id", "S"), ("at", "N")]).await;
    bench.put("items", account("a", 5)).await;
    bench.put("items", account("gone", 1)).await;
    let event = json!({ "id": { "S": "a" }, "at": { "N": "1" } });
    let mut parts = json!([
        add("a", -2, 2),
        { "Delete": { "TableName": "items", "Key": key("gone") } },
        { "Put": { "TableName": "events", "Item": event, "ConditionExpression": "attribute_not_exists(id)" } },
        check("guard", "attribute_not_exists(id)"),
        { "Update": { "TableName": "items", "Key": key("new"), "UpdateExpression": "SET x = :x",
                      "ExpressionAttributeValues": { ":x": { "S": "1" } } } },
    ]);
    assert_eq!(bench.transact(parts.clone()).await.unwrap(), json!({}));
    let expected = [account("a", 3), Json::Null, Json::Null, json!({ "id": { "S": "new" }, "x": { "S": "1" } })];
    assert_eq!(bench.read(&["a", "gone", "guard", "new"]).await, expected);
    assert_eq!(bench.get("events", event.clone()).await, event);
    let counts = async |name: &'static str| {
        bench.ok("DescribeTable", json!({ "TableName": name })).await["Table"]["ItemCount"].clone()
    };
    assert_eq!((counts("items").await, counts("events").await), (json!(2), json!(1)));
    // Now the event is there: nothing of the rest happens.
    parts[4]["Update"]["ExpressionAttributeValues"][":x"] = json!({ "S": "2" });
    parts[2]["Put"]["ReturnValuesOnConditionCheckFailure"] = json!("ALL_OLD");
    let none = json!({ "Code": "None" });
    let failed =
        json!({ "Code": "ConditionalCheckFailed", "Message": "The conditional request failed", "Item": event });
    bench.cancelled(parts, json!([none, none, failed, none, none])).await;
    assert_eq!(bench.read(&["a", "gone", "guard", "new"]).await, expected);
}

#[tokio::test]
async fn what_depends_on_the_item_or_the_schema_is_told_as_a_reason() {
    let bench = Bench::with_items().await;
    bench.put("items", json!({ "id": { "S": "a" }, "s": { "S": "text" }, "big": { "N": "9E125" } })).await;
    let update = |expression: &str, value: Json| {
        json!({ "Update": { "TableName": "items", "Key": key("a"), "UpdateExpression": expression,
                            "ExpressionAttributeValues": { ":v": value } } })
    };
    let large = json!({ "S": "x".repeat(409_600) });
    let parameters = "One or more parameter values were invalid:";
    let wrong_key = json!({ "Delete": { "TableName": "items", "Key": { "id": { "N": "1" } } } });
    let cases = [
        (
            update("SET s = s + :v", json!({ "N": "1" })),
            "An operand in the update expression has an incorrect data type".into(),
        ),
        (
            update("SET x.y = :v", json!({ "N": "1" })),
            "The document path provided in the update expression is invalid for update".into(),
        ),
        (
            update("SET y = x + :v", json!({ "N": "1" })),
            "The provided expression refers to an attribute that does not exist in the item".into(),
        ),
        (
            update("ADD big :v", json!({ "N": "9E125" })),
            "Number overflow. Attempting to store a number with magnitude larger than supported range".into(),
        ),
        (update("SET l = :v", large), "Item size to update has exceeded the maximum allowed size".into()),
        (
            update("SET id = :v", json!({ "S": "b" })),
            format!("{parameters} Cannot update attribute id. This attribute is part of the key"),
        ),
        (wrong_key, "The provided key element does not match the schema".into()),
        (put(json!({ "id": { "N": "1" } })), format!("{parameters} Type mismatch for key id expected: S actual: N")),
    ];
    for (part, message) in cases {
        let reason = json!({ "Code": "ValidationError", "Message": message });
        bench.cancelled(json!([put(key("other")), part]), json!([{ "Code": "None" }, reason])).await;
    }
    assert_eq!(bench.read(&["other"]).await, [Json::Null]);
    let gets = json!({ "TransactItems": [{ "Get": { "TableName": "items", "Key": { "id": { "N": "1" } } } }] });
    let error = bench.call("TransactGetItems", gets).await.unwrap_err();
    assert_eq!(
        (error.code.as_str(), error.message),
        ("TransactionCanceledException", format!("{CANCELLED} [ValidationError]"))
    );
}

#[tokio::test]
async fn what_is_wrong_with_the_request_is_told_before_anything_else() {
    let bench = Bench::with_items().await;
    let invalid = async |items: Json, message: &str| {
        bench.invalid("TransactWriteItems", json!({ "TransactItems": items }), message).await;
    };
    let twice = "Transaction request cannot include multiple operations on one item";
    invalid(json!([put(key("a")), check("a", "attribute_exists(id)")]), twice).await;
    invalid(json!([put(key("a")), put(key("")), put(json!({}))]), "One or more parameter values are not valid. The AttributeValue for a key attribute cannot contain an empty string value. Key: id").await;
    invalid(
        json!([put(json!({ "id": { "S": "a" }, "x": { "S": "x".repeat(409_600) } }))]),
        "Item size has exceeded the maximum allowed size",
    )
    .await;
    invalid(json!([{ "Put": { "TableName": "items", "Item": key("a") }, "Delete": { "TableName": "items", "Key": key("a") } }]), "TransactItems can only contain one of Check, Put, Update or Delete").await;
    invalid(json!([{}]), "Invalid Request: TransactWriteRequest should contain Delete or Put or Update request").await;
    invalid(json!([put(key("a")), { "Put": { "Item": {}, "ReturnValuesOnConditionCheckFailure": "X" } }]), "2 validation errors detected: Value null at 'transactItems.2.member.put.tableName' failed to satisfy constraint: Member must not be null; Value 'X' at 'transactItems.2.member.put.returnValuesOnConditionCheckFailure' failed to satisfy constraint: Member must satisfy enum value set: [ALL_OLD, NONE]").await;
    invalid(json!([]), "1 validation error detected: Value '[]' at 'transactItems' failed to satisfy constraint: Member must have length greater than or equal to 1").await;
    invalid(json!([check("a", "id")]), "Invalid ConditionExpression: Syntax error; token: \"<EOF>\", near: \"id\"")
        .await;
    let many: Vec<_> = (0..101).map(|n| put(key(&n.to_string()))).collect();
    let error = bench.transact(json!(many)).await.unwrap_err();
    assert!(
        error.message.ends_with(
            "at 'transactItems' failed to satisfy constraint: Member must have length less than or equal to 100"
        ),
        "{error}"
    );
    let large: Vec<_> =
        (0..11).map(|n| put(json!({ "id": { "S": n.to_string() }, "x": { "S": "x".repeat(400_000) } }))).collect();
    invalid(json!(large), "The aggregate size of the items in the transaction cannot exceed 4 MB").await;
    let absent = json!([put(key("a")), { "Delete": { "TableName": "absent", "Key": key("a") } }]);
    bench
        .refused(
            "TransactWriteItems",
            json!({ "TransactItems": absent }),
            "ResourceNotFoundException",
            "Requested resource not found",
        )
        .await;
    let token = json!({ "TransactItems": [put(key("a"))], "ClientRequestToken": "x".repeat(37) });
    let message = format!(
        "1 validation error detected: Value '{}' at 'clientRequestToken' failed to satisfy constraint: Member must have length less than or equal to 36",
        "x".repeat(37)
    );
    bench.invalid("TransactWriteItems", token, &message).await;
    assert_eq!(bench.ok("Scan", json!({ "TableName": "items" })).await["Count"], json!(0));
    let gets = json!({ "TransactItems": [{ "Get": { "TableName": "items", "Key": key("a") } }, { "Get": { "TableName": "items", "Key": key("a") } }] });
    bench.invalid("TransactGetItems", gets, twice).await;
    bench.invalid("TransactGetItems", json!({ "TransactItems": [{}] }), "1 validation error detected: Value null at 'transactItems.1.member.get' failed to satisfy constraint: Member must not be null").await;
}

#[tokio::test]
async fn of_parts_that_are_invalid_the_first_is_the_only_reason() {
    let bench = Bench::with_items().await;
    let wrong = put(json!({ "id": { "N": "1" } }));
    let message = "One or more parameter values were invalid: Type mismatch for key id expected: S actual: N";
    let (none, reason) = (json!({ "Code": "None" }), json!({ "Code": "ValidationError", "Message": message }));
    let failing = check("a", "attribute_exists(id)");
    bench.cancelled(json!([wrong, wrong, failing]), json!([reason, none, none])).await;
    bench.cancelled(json!([failing, wrong, put(key("b"))]), json!([none, reason, none])).await;
}

#[tokio::test]
async fn what_is_stored_already_does_not_count_towards_what_a_transaction_brings() {
    let bench = Bench::with_items().await;
    for number in 0..12 {
        bench.put("items", json!({ "id": { "S": number.to_string() }, "x": { "S": "x".repeat(390_000) } })).await;
    }
    let value = json!({ "S": "y".repeat(390_000) });
    let set = |id: String| {
        json!({ "Update": { "TableName": "items", "Key": key(&id), "UpdateExpression": "SET x = :x",
                            "ExpressionAttributeValues": { ":x": value } } })
    };
    let updates: Vec<_> = (0..12).map(|number| set(number.to_string())).collect();
    let too_large = "The aggregate size of the items in the transaction cannot exceed 4 MB";
    bench.invalid("TransactWriteItems", json!({ "TransactItems": updates }), too_large).await;
    let delete = |number: u32| json!({ "Delete": { "TableName": "items", "Key": key(&number.to_string()) } });
    bench.transact((0..12).map(delete).collect()).await.unwrap();
    assert_eq!(bench.ok("Scan", json!({ "TableName": "items" })).await["Count"], json!(0));
}

/// What is wrong with a part is a reason of its own; that two parts are of one item is wrong with the request.
#[tokio::test]
async fn two_operations_on_one_item_are_refused_whatever_else_is_wrong_with_them() {
    let bench = Bench::with_items().await;
    let update = json!({ "Update": {
        "TableName": "items", "Key": key("a"), "UpdateExpression": "SET id = :v", "ExpressionAttributeValues": { ":v": { "S": "b" } },
    } });
    let parts = json!({ "TransactItems": [put(key("a")), update] });
    let message = "Transaction request cannot include multiple operations on one item";
    bench.invalid("TransactWriteItems", parts, message).await;
    let get = |projection: &str| json!({ "Get": { "TableName": "items", "Key": key("a"), "ProjectionExpression": projection } });
    let parts = json!({ "TransactItems": [get("x"), get("id.x")] });
    bench.invalid("TransactGetItems", parts, message).await;
    assert_eq!(bench.ok("Scan", json!({ "TableName": "items" })).await["Count"], json!(0));
}

#[tokio::test]
async fn a_hundred_items_of_four_megabytes_fit() {
    let bench = Bench::with_items().await;
    let many: Vec<_> =
        (0..100).map(|n| put(json!({ "id": { "S": n.to_string() }, "x": { "S": "x".repeat(40_000) } }))).collect();
    bench.transact(json!(many)).await.unwrap();
    let gets: Vec<_> = (0..100)
        .map(|n| json!({ "Get": { "TableName": "items", "Key": key(&n.to_string()), "ProjectionExpression": "id" } }))
        .collect();
    let answer = bench.ok("TransactGetItems", json!({ "TransactItems": gets })).await;
    let expected: Vec<_> = (0..100).map(|n| json!({ "Item": key(&n.to_string()) })).collect();
    assert_eq!(answer["Responses"], json!(expected));
}

#[tokio::test]
async fn a_token_makes_a_transaction_happen_once() {
    let bench = Bench::with_items().await;
    bench.put("items", account("a", 0)).await;
    let send =
        |amount: i64, token: &str| json!({ "TransactItems": [add("a", amount, 0)], "ClientRequestToken": token });
    let amount = async || bench.get("items", key("a")).await["n"]["N"].as_str().unwrap().to_owned();
    let empty = bench.stored().await.len();
    bench.ok("TransactWriteItems", send(1, "one")).await;
    assert_eq!(bench.ok("TransactWriteItems", send(1, "one")).await, json!({}));
    assert_eq!(amount().await, "1");
    let error = bench.call("TransactWriteItems", send(2, "one")).await.unwrap_err();
    assert_eq!((error.status, error.code.as_str()), (400, "IdempotentParameterMismatchException"));
    // A transaction that did not happen leaves no token.
    let error = bench
        .call("TransactWriteItems", json!({ "TransactItems": [add("b", 1, 0)], "ClientRequestToken": "two" }))
        .await
        .unwrap_err();
    assert_eq!(error.code, "TransactionCanceledException");
    bench.ok("TransactWriteItems", send(1, "two")).await;
    assert_eq!((amount().await.as_str(), bench.stored().await.len()), ("2", empty + 4));
    // Other regions are other worlds.
    assert_eq!(
        bench.call_in("eu-west-1", "TransactWriteItems", send(1, "one")).await.unwrap_err().code,
        "ResourceNotFoundException"
    );
    bench.clock.advance(Duration::from_secs(599));
    assert_eq!(bench.service.sweep().await.unwrap(), 0);
    bench.ok("TransactWriteItems", send(1, "one")).await;
    assert_eq!(amount().await, "2");
    // After ten minutes it is a new token, whether or not the old one is gone.
    bench.clock.advance(Duration::from_secs(1));
    bench.ok("TransactWriteItems", send(1, "one")).await;
    assert_eq!(amount().await, "3");
    bench.clock.advance(Duration::from_secs(10));
    assert_eq!((bench.service.sweep().await.unwrap(), bench.stored().await.len()), (1, empty + 2));
    bench.ok("TransactWriteItems", send(1, "one")).await;
    assert_eq!(amount().await, "3");
    bench.clock.advance(Duration::from_secs(600));
    assert_eq!((bench.service.sweep().await.unwrap(), bench.stored().await.len()), (1, empty));
}

#[tokio::test]
async fn capacity_is_twice_that_of_single_writes() {
    let bench = Bench::with_items().await;
    bench.create("events", &[("id", "S"), ("at", "N")]).await;
    let large = json!({ "id": { "S": "a" }, "x": { "S": "x".repeat(1_500) } });
    let event = json!({ "Put": { "TableName": "events", "Item": { "id": { "S": "a" }, "at": { "N": "1" } } } });
    let write = json!({
        "TransactItems": [put(large), check("b", "attribute_not_exists(id)"), event], "ReturnConsumedCapacity": "INDEXES",
        "ClientRequestToken": "t",
    });
    let capacity = |name: &str, kind: &str, units: f64| json!({ "TableName": name, "CapacityUnits": units, "Table": { "CapacityUnits": units, kind: units }, kind: units });
    let used = bench.ok("TransactWriteItems", write.clone()).await["ConsumedCapacity"].clone();
    assert_eq!(
        used,
        json!([capacity("events", "WriteCapacityUnits", 2.0), capacity("items", "WriteCapacityUnits", 6.0)])
    );
    let used = bench.ok("TransactWriteItems", write).await["ConsumedCapacity"].clone();
    assert_eq!(
        used,
        json!([capacity("events", "ReadCapacityUnits", 2.0), capacity("items", "ReadCapacityUnits", 4.0)])
    );
    let get = json!({ "TransactItems": [{ "Get": { "TableName": "items", "Key": key("a") } }], "ReturnConsumedCapacity": "TOTAL" });
    let used = bench.ok("TransactGetItems", get).await["ConsumedCapacity"].clone();
    assert_eq!(used, json!([{ "TableName": "items", "CapacityUnits": 2.0, "ReadCapacityUnits": 2.0 }]));
}

#[tokio::test]
async fn indexes_take_no_more_of_a_transaction_than_of_a_single_write() {
    let bench = Bench::new();
    let mut input = create_input("items", &[("id", "S")]);
    let definition = |name: &str| json!({ "AttributeName": name, "AttributeType": "S" });
    input["AttributeDefinitions"] = json!([definition("id"), definition("kind")]);
    input["GlobalSecondaryIndexes"] = json!([{ "IndexName": "by-kind", "Projection": { "ProjectionType": "ALL" },
                                               "KeySchema": [{ "AttributeName": "kind", "KeyType": "HASH" }] }]);
    bench.ok("CreateTable", input).await;
    let item = json!({ "id": { "S": "a" }, "kind": { "S": "k" }, "x": { "S": "x".repeat(1_500) } });
    let write = json!({ "TransactItems": [put(item)], "ReturnConsumedCapacity": "INDEXES" });
    let used = bench.ok("TransactWriteItems", write).await["ConsumedCapacity"][0].clone();
    assert_eq!((&used["CapacityUnits"], &used["Table"]["CapacityUnits"]), (&json!(6.0), &json!(4.0)));
    assert_eq!(used["GlobalSecondaryIndexes"]["by-kind"]["CapacityUnits"], 2.0);
}

const ACCOUNTS: [&str; 4] = ["a", "b", "c", "d"];

fn total(items: &[Json]) -> i64 {
    items.iter().map(|item| item["n"]["N"].as_str().unwrap().parse::<i64>().unwrap()).sum()
}

over_each_engine!(
    money_is_neither_made_nor_lost_and_no_reader_sees_half_a_transfer,
    write_skew_is_impossible,
    single_writes_and_transactions_lose_nothing_of_each_other,
    of_many_with_one_token_one_happens_and_all_succeed,
);

async fn money_is_neither_made_nor_lost_and_no_reader_sees_half_a_transfer(engine: Engine) {
    let opened = engine.open().await.with_items().await;
    let nodes = &opened.nodes;
    for id in ACCOUNTS {
        nodes[0].put("items", account(id, 100)).await;
    }
    let both = nodes.clone();
    at_once(12, move |number| {
        let bench = both[number % 2].clone();
        async move {
            for round in 0..15 {
                let (from, to) = (ACCOUNTS[(number + round) % 4], ACCOUNTS[(number + 2 * round + 1) % 4]);
                let amount = i64::try_from(round % 7 + 1).unwrap();
                // Each order of the two accounts comes up, so that lanes taken in the order of requests would lock up.
                let result = match number % 3 {
                    _ if from == to => continue,
                    0 => {
                        let sum = total(&bench.read(&ACCOUNTS).await);
                        assert_eq!(sum, 400);
                        continue;
                    }
                    1 => bench.transact(json!([add(from, -amount, amount), add(to, amount, 0)])).await,
                    _ => bench.transact(json!([add(to, amount, 0), add(from, -amount, amount)])).await,
                };
                if let Err(error) = result {
                    assert_eq!(error.code, "TransactionCanceledException", "{error}");
                }
            }
        }
    })
    .await;
    let items = nodes[0].read(&ACCOUNTS).await;
    assert_eq!(total(&items), 400);
    assert!(items.iter().all(|item| !item["n"]["N"].as_str().unwrap().starts_with('-')), "{items:?}");
}

/// Each of two may go if the other stays. Both would go if what is only checked could change meanwhile.
async fn write_skew_is_impossible(engine: Engine) {
    let opened = engine.open().await.with_items().await;
    let nodes = &opened.nodes;
    for round in 0..if engine.is_quick() { 40 } else { 15 } {
        let ids = [format!("{round}-x"), format!("{round}-y")];
        for id in &ids {
            nodes[0].put("items", key(id)).await;
        }
        let leave = |own: &str, other: &str| json!([{ "Delete": { "TableName": "items", "Key": key(own) } }, check(other, "attribute_exists(id)")]);
        let first = nodes[0].transact(leave(&ids[0], &ids[1]));
        let second = nodes[1].transact(leave(&ids[1], &ids[0]));
        let (first, second) = tokio::join!(first, second);
        assert!(first.is_ok() != second.is_ok(), "{first:?} {second:?}");
        let left = nodes[0].read(&[&ids[0], &ids[1]]).await;
        assert_eq!(left.iter().filter(|item| !item.is_null()).count(), 1);
    }
}

async fn single_writes_and_transactions_lose_nothing_of_each_other(engine: Engine) {
    let opened = engine.open().await.with_items().await;
    let [bench, other] = &opened.nodes;
    bench.put("items", account("a", 0)).await;
    bench.put("items", account("b", 0)).await;
    let both = [bench.clone(), other.clone()];
    at_once(8, move |number| {
        // Writes and transactions on each node.
        let bench = both[number / 2 % 2].clone();
        async move {
            for round in 0..20 {
                if number % 2 == 0 {
                    let token = format!("{number}-{round}");
                    let input =
                        json!({ "TransactItems": [add("a", 1, 0), add("b", 1, 0)], "ClientRequestToken": token });
                    bench.ok("TransactWriteItems", input).await;
                } else {
                    bench.ok("UpdateItem", add("a", 1, 0)["Update"].clone()).await;
                }
            }
        }
    })
    .await;
    assert_eq!(bench.read(&["a", "b"]).await, [account("a", 160), account("b", 80)]);
}

async fn of_many_with_one_token_one_happens_and_all_succeed(engine: Engine) {
    let opened = engine.open().await.with_items().await;
    let [bench, other] = &opened.nodes;
    bench.put("items", account("a", 0)).await;
    let both = [bench.clone(), other.clone()];
    at_once(16, move |number| {
        let bench = both[number % 2].clone();
        async move {
            let input = json!({ "TransactItems": [add("a", 1, 0)], "ClientRequestToken": "same" });
            bench.ok("TransactWriteItems", input).await;
        }
    })
    .await;
    assert_eq!(bench.read(&["a"]).await, [account("a", 1)]);
}
