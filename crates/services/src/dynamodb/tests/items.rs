//! PutItem, GetItem, UpdateItem, DeleteItem and the batches: answers, conditions, refusals.

use super::*;

/// It makes an item of the key.
#[tokio::test]
async fn of_an_item_that_is_not_there_anything_can_be_taken_away() {
    let bench = Bench::with_items().await;
    for (id, path) in [("a", "x.y"), ("b", "x[0]"), ("c", "x")] {
        let key = json!({ "id": { "S": id } });
        let update = |expression: &str| json!({ "TableName": "items", "Key": key, "UpdateExpression": expression });
        bench.ok("UpdateItem", update(&format!("REMOVE {path}"))).await;
        assert_eq!(bench.get("items", key.clone()).await, key);
        let wrong = "The document path provided in the update expression is invalid for update";
        bench.invalid("UpdateItem", update("REMOVE x.y"), wrong).await;
    }
}

#[tokio::test]
async fn every_type_comes_back_as_dynamodb_writes_it() {
    let bench = Bench::with_items().await;
    let item = json!({
        "id": { "S": "a" }, "n": { "N": "1.50" }, "big": { "N": "1E+2" }, "b": { "B": "AAEC" },
        "ss": { "SS": ["y", "x"] }, "ns": { "NS": ["10", "-2.0"] }, "bs": { "BS": ["AQ=="] },
        "t": { "BOOL": true }, "z": { "NULL": true }, "l": { "L": [{ "S": "" }, { "M": {} }] },
        "m": { "M": { "k": { "L": [{ "N": "0.10" }] } } },
    });
    bench.put("items", item).await;
    let expected = json!({
        "id": { "S": "a" }, "n": { "N": "1.5" }, "big": { "N": "100" }, "b": { "B": "AAEC" },
        "ss": { "SS": ["x", "y"] }, "ns": { "NS": ["-2", "10"] }, "bs": { "BS": ["AQ=="] },
        "t": { "BOOL": true }, "z": { "NULL": true }, "l": { "L": [{ "S": "" }, { "M": {} }] },
        "m": { "M": { "k": { "L": [{ "N": "0.1" }] } } },
    });
    assert_eq!(bench.get("items", json!({ "id": { "S": "a" } })).await, expected);
    let input = json!({ "TableName": "items", "Key": { "id": { "S": "none" } } });
    assert_eq!(bench.ok("GetItem", input).await, json!({}));
}

#[tokio::test]
async fn bad_values_are_refused_in_dynamodbs_words() {
    let bench = Bench::with_items().await;
    let long = "1".repeat(39);
    let cases = [
        (json!({}), "Supplied AttributeValue is empty, must contain exactly one of the supported datatypes"),
        (
            json!({ "S": "a", "N": "1" }),
            "Supplied AttributeValue has more than one datatypes set, must contain exactly one of the supported datatypes",
        ),
        (
            json!({ "NULL": false }),
            "One or more parameter values were invalid: Null attribute value types must have the value of true",
        ),
        (json!({ "N": "abc" }), "The parameter cannot be converted to a numeric value: abc"),
        (json!({ "N": "" }), "The parameter cannot be converted to a numeric value"),
        (json!({ "N": long }), "Attempting to store more than 38 significant digits in a Number"),
        (
            json!({ "N": "1e126" }),
            "Number overflow. Attempting to store a number with magnitude larger than supported range",
        ),
        (
            json!({ "N": "1e-131" }),
            "Number underflow. Attempting to store a number with magnitude smaller than supported range",
        ),
        (json!({ "SS": [] }), "One or more parameter values were invalid: An string set  may not be empty"),
        (json!({ "NS": [] }), "One or more parameter values were invalid: An number set  may not be empty"),
        (json!({ "BS": [] }), "One or more parameter values were invalid: Binary sets should not be empty"),
        (
            json!({ "SS": ["a", "a"] }),
            "One or more parameter values were invalid: Input collection [a, a] contains duplicates.",
        ),
        (json!({ "NS": ["1", "1.0"] }), "Input collection contains duplicates"),
    ];
    for (value, message) in cases {
        let item = json!({ "id": { "S": "a" }, "v": value });
        bench.invalid("PutItem", json!({ "TableName": "items", "Item": item }), message).await;
        let item = json!({ "id": { "S": "a" }, "v": { "L": [{ "M": { "x": value } }] } });
        bench.invalid("PutItem", json!({ "TableName": "items", "Item": item }), message).await;
    }
}

#[tokio::test]
async fn keys_must_fit_the_schema() {
    let bench = Bench::with_events().await;
    let put = |item: Json| json!({ "TableName": "events", "Item": item });
    let get = |key: Json| json!({ "TableName": "events", "Key": key });
    let one = "One or more parameter values were invalid:";
    bench
        .invalid("PutItem", put(json!({ "id": { "S": "a" } })), &format!("{one} Missing the key at in the item"))
        .await;
    let item = json!({ "id": { "N": "1" }, "at": { "N": "1" } });
    bench.invalid("PutItem", put(item), &format!("{one} Type mismatch for key id expected: S actual: N")).await;
    let item = json!({ "id": { "S": "" }, "at": { "N": "1" } });
    let empty = "One or more parameter values are not valid. The AttributeValue for a key attribute cannot contain an \
                 empty string value. Key: id";
    bench.invalid("PutItem", put(item), empty).await;
    let item = json!({ "id": { "S": "x".repeat(2_049) }, "at": { "N": "1" } });
    let large = format!("{one} Size of hashkey has exceeded the maximum size limit of2048 bytes");
    bench.invalid("PutItem", put(item), &large).await;
    let mismatch = "The provided key element does not match the schema";
    bench.invalid("GetItem", get(json!({ "id": { "S": "a" } })), mismatch).await;
    let extra = json!({ "id": { "S": "a" }, "at": { "N": "1" }, "x": { "S": "" } });
    bench.invalid("GetItem", get(extra), mismatch).await;
    bench.invalid("DeleteItem", get(json!({ "id": { "S": "a" }, "at": { "S": "1" } })), mismatch).await;
    let missing = json!({ "TableName": "absent", "Key": {} });
    bench.refused("GetItem", missing, "ResourceNotFoundException", "Requested resource not found").await;
    let item = json!({ "id": { "S": "a" }, "at": { "N": "1" }, "x": { "S": "x".repeat(409_600) } });
    bench.invalid("PutItem", put(item), "Item size has exceeded the maximum allowed size").await;
}

#[tokio::test]
async fn wrong_members_are_reported_together() {
    let bench = Bench::with_items().await;
    let message = "3 validation errors detected: Value null at 'tableName' failed to satisfy constraint: Member must not \
                   be null; Value null at 'item' failed to satisfy constraint: Member must not be null; Value 'X' at \
                   'returnConsumedCapacity' failed to satisfy constraint: Member must satisfy enum value set: [INDEXES, \
                   TOTAL, NONE]";
    bench.invalid("PutItem", json!({ "ReturnConsumedCapacity": "X" }), message).await;
    let message = "1 validation error detected: Value '0' at 'limit' failed to satisfy constraint: Member must have value \
                   greater than or equal to 1";
    bench.invalid("Scan", json!({ "TableName": "items", "Limit": 0 }), message).await;
}

#[tokio::test]
async fn the_longest_keys_fit_the_store() {
    let bench = Bench::new();
    bench.create("blobs", &[("id", "B"), ("at", "B")]).await;
    use base64::Engine as _;
    let zeros = |count: usize| base64::engine::general_purpose::STANDARD.encode(vec![0; count]);
    let key = json!({ "id": { "B": zeros(2_048) }, "at": { "B": zeros(1_024) } });
    bench.put("blobs", key.clone()).await;
    assert_eq!(bench.get("blobs", key.clone()).await, key);
}

#[tokio::test]
async fn conditions_guard_writes() {
    let bench = Bench::with_items().await;
    let once = json!({
        "TableName": "items", "Item": { "id": { "S": "a" }, "v": { "N": "1" } },
        "ConditionExpression": "attribute_not_exists(id)", "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    });
    bench.ok("PutItem", once.clone()).await;
    let failed = "The conditional request failed";
    let error = bench.refused("PutItem", once, "ConditionalCheckFailedException", failed).await;
    assert_eq!(error.fields["Item"], json!({ "id": { "S": "a" }, "v": { "N": "1" } }));
    let delete = json!({
        "TableName": "items", "Key": { "id": { "S": "a" } }, "ConditionExpression": "v = :v",
        "ExpressionAttributeValues": { ":v": { "N": "2" } },
    });
    let error = bench.refused("DeleteItem", delete, "ConditionalCheckFailedException", failed).await;
    assert!(error.fields.is_empty());
    let update = json!({
        "TableName": "items", "Key": { "id": { "S": "b" } }, "UpdateExpression": "SET x = :x",
        "ConditionExpression": "attribute_exists(id)", "ExpressionAttributeValues": { ":x": { "N": "2" } },
    });
    bench.refused("UpdateItem", update, "ConditionalCheckFailedException", failed).await;
    assert_eq!(bench.get("items", json!({ "id": { "S": "b" } })).await, Json::Null);
}

#[tokio::test]
async fn return_values_say_what_was_and_what_is() {
    let bench = Bench::with_items().await;
    let put = |v: &str| json!({ "TableName": "items", "Item": { "id": { "S": "a" }, "v": { "S": v } }, "ReturnValues": "ALL_OLD" });
    assert_eq!(bench.ok("PutItem", put("1")).await, json!({}));
    assert_eq!(bench.ok("PutItem", put("2")).await, json!({ "Attributes": { "id": { "S": "a" }, "v": { "S": "1" } } }));
    let mut wrong = put("3");
    wrong["ReturnValues"] = json!("ALL_NEW");
    bench.invalid("PutItem", wrong, "ReturnValues can only be ALL_OLD or NONE").await;
    let update = |v: &str, returns: &str| {
        json!({
            "TableName": "items", "Key": { "id": { "S": "a" } }, "ReturnValues": returns,
            "UpdateExpression": "SET v = :v, w = if_not_exists(w, :v)",
            "ExpressionAttributeValues": { ":v": { "S": v } },
        })
    };
    let answer = |attributes: Json| json!({ "Attributes": attributes });
    let was = json!({ "v": { "S": "2" } });
    assert_eq!(bench.ok("UpdateItem", update("3", "UPDATED_OLD")).await, answer(was));
    let is = json!({ "v": { "S": "4" }, "w": { "S": "3" } });
    assert_eq!(bench.ok("UpdateItem", update("4", "UPDATED_NEW")).await, answer(is));
    let is = json!({ "id": { "S": "a" }, "v": { "S": "5" }, "w": { "S": "3" } });
    assert_eq!(bench.ok("UpdateItem", update("5", "ALL_NEW")).await, answer(is.clone()));
    assert_eq!(bench.ok("UpdateItem", update("6", "ALL_OLD")).await, answer(is));
    assert_eq!(bench.ok("UpdateItem", update("7", "NONE")).await, json!({}));
    let delete = json!({ "TableName": "items", "Key": { "id": { "S": "a" } }, "ReturnValues": "ALL_OLD" });
    assert_eq!(bench.ok("DeleteItem", delete.clone()).await["Attributes"]["v"], json!({ "S": "7" }));
    assert_eq!(bench.ok("DeleteItem", delete).await, json!({}));
}

#[tokio::test]
async fn an_update_makes_the_item_that_is_not_there() {
    let bench = Bench::with_items().await;
    let key = json!({ "id": { "S": "a" } });
    bench.ok("UpdateItem", json!({ "TableName": "items", "Key": key, "UpdateExpression": "REMOVE x" })).await;
    assert_eq!(bench.get("items", key.clone()).await, key);
    let touch = json!({ "TableName": "items", "Key": { "id": { "S": "b" } } });
    bench.ok("UpdateItem", touch).await;
    assert_eq!(bench.get("items", json!({ "id": { "S": "b" } })).await, json!({ "id": { "S": "b" } }));
}

#[tokio::test]
async fn a_projection_cuts_out_parts() {
    let bench = Bench::with_items().await;
    let l = json!({ "L": [{ "N": "0" }, { "N": "1" }, { "N": "2" }] });
    bench
        .put("items", json!({ "id": { "S": "a" }, "l": l, "m": { "M": { "x": { "S": "1" }, "y": { "S": "2" } } } }))
        .await;
    let input = json!({
        "TableName": "items", "Key": { "id": { "S": "a" } },
        "ProjectionExpression": "l[2], l[0], #m.y, nothing.there", "ExpressionAttributeNames": { "#m": "m" },
    });
    let expected = json!({ "l": { "L": [{ "N": "0" }, { "N": "2" }] }, "m": { "M": { "y": { "S": "2" } } } });
    assert_eq!(bench.ok("GetItem", input).await["Item"], expected);
    let input = json!({ "TableName": "items", "Key": { "id": { "S": "a" } }, "AttributesToGet": ["id"] });
    assert_eq!(bench.ok("GetItem", input).await["Item"], json!({ "id": { "S": "a" } }));
}

#[tokio::test]
async fn capacity_is_reported_when_asked() {
    let bench = Bench::with_items().await;
    let item = json!({ "id": { "S": "a" }, "x": { "S": "x".repeat(1_500) } });
    let put = json!({ "TableName": "items", "Item": item, "ReturnConsumedCapacity": "TOTAL" });
    let capacity = bench.ok("PutItem", put).await["ConsumedCapacity"].clone();
    assert_eq!(capacity, json!({ "TableName": "items", "CapacityUnits": 2.0 }));
    let get = json!({ "TableName": "items", "Key": { "id": { "S": "a" } }, "ReturnConsumedCapacity": "INDEXES" });
    let capacity = bench.ok("GetItem", get).await["ConsumedCapacity"].clone();
    assert_eq!(capacity, json!({ "TableName": "items", "CapacityUnits": 0.5, "Table": { "CapacityUnits": 0.5 } }));
}

#[tokio::test]
async fn batches_write_and_read_many() {
    let bench = Bench::with_items().await;
    let puts: Vec<_> = (0..25).map(|n| json!({ "PutRequest": { "Item": { "id": { "S": n.to_string() } } } })).collect();
    let answer = bench.ok("BatchWriteItem", json!({ "RequestItems": { "items": puts } })).await;
    assert_eq!(answer, json!({ "UnprocessedItems": {} }));
    let writes = json!([
        { "DeleteRequest": { "Key": { "id": { "S": "0" } } } },
        { "PutRequest": { "Item": { "id": { "S": "1" }, "v": { "N": "1" } } } },
    ]);
    bench.ok("BatchWriteItem", json!({ "RequestItems": { "items": writes } })).await;
    let keys: Vec<_> = (0..3).map(|n| json!({ "id": { "S": n.to_string() } })).collect();
    let answer = bench.ok("BatchGetItem", json!({ "RequestItems": { "items": { "Keys": keys } } })).await;
    let expected = json!([{ "id": { "S": "1" }, "v": { "N": "1" } }, { "id": { "S": "2" } }]);
    assert_eq!(answer, json!({ "Responses": { "items": expected }, "UnprocessedKeys": {} }));
    let twice = json!([{ "DeleteRequest": { "Key": { "id": { "S": "0" } } } }, { "PutRequest": { "Item": { "id": { "S": "0" } } } }]);
    let duplicates = "Provided list of item keys contains duplicates";
    bench.invalid("BatchWriteItem", json!({ "RequestItems": { "items": twice } }), duplicates).await;
    let keys = json!([{ "id": { "S": "0" } }, { "id": { "S": "0" } }]);
    bench.invalid("BatchGetItem", json!({ "RequestItems": { "items": { "Keys": keys } } }), duplicates).await;
}

/// What SDKs let pass and DynamoDB does not.
#[tokio::test]
async fn empty_lists_and_missing_members_are_told_by_their_places() {
    let bench = Bench::with_items().await;
    let one = |text: &str| format!("1 validation error detected: {text}");
    let empty = "failed to satisfy constraint: Member must have length greater than or equal to 1";
    let absent = "failed to satisfy constraint: Member must not be null";
    let key = json!({ "id": { "S": "a" } });
    let get = json!({ "TableName": "items", "Key": key, "AttributesToGet": [] });
    bench.invalid("GetItem", get, &one(&format!("Value '[]' at 'attributesToGet' {empty}"))).await;
    let scan = json!({ "TableName": "items", "AttributesToGet": [] });
    bench.invalid("Scan", scan, &one(&format!("Value '[]' at 'attributesToGet' {empty}"))).await;
    for (member, text) in [
        (json!({ "Keys": [] }), format!("Value '[]' at 'requestItems.items.member.keys' {empty}")),
        (json!({}), format!("Value null at 'requestItems.items.member.keys' {absent}")),
        (
            json!({ "Keys": [key], "AttributesToGet": [] }),
            format!("Value '[]' at 'requestItems.items.member.attributesToGet' {empty}"),
        ),
    ] {
        bench.invalid("BatchGetItem", json!({ "RequestItems": { "items": member } }), &one(&text)).await;
    }
    let keys: Vec<Json> = (0..101).map(|number| json!({ "id": { "S": number.to_string() } })).collect();
    let all = json!({ "RequestItems": { "items": { "Keys": keys } } });
    let error = bench.call("BatchGetItem", all).await.unwrap_err();
    assert!(error.message.ends_with(
        "at 'requestItems.items.member.keys' failed to satisfy constraint: Member must have length less than or equal to 100"
    ), "{error}");
    let halves = json!({ "RequestItems": { "items": { "Keys": keys[..50] }, "other": { "Keys": keys[50..100] } } });
    assert_eq!(bench.call("BatchGetItem", halves).await.unwrap_err().code, "ResourceNotFoundException");
    let more = json!({ "RequestItems": { "items": { "Keys": keys[..51] }, "other": { "Keys": keys[50..] } } });
    bench.invalid("BatchGetItem", more, "Too many items requested for the BatchGetItem call").await;
    let at = "requestItems.items.member.2.member";
    for (write, text) in [
        (json!({ "PutRequest": {} }), one(&format!("Value null at '{at}.putRequest.item' {absent}"))),
        (json!({ "DeleteRequest": {} }), one(&format!("Value null at '{at}.deleteRequest.key' {absent}"))),
        (
            json!({}),
            "Supplied AttributeValue has more than one datatypes set, must contain exactly one of the supported datatypes"
                .to_owned(),
        ),
    ] {
        let good = json!({ "PutRequest": { "Item": key } });
        bench.invalid("BatchWriteItem", json!({ "RequestItems": { "items": [good, write] } }), &text).await;
    }
    let start = json!({ "ExclusiveStartTableName": "a;" });
    let text = "2 validation errors detected: Value 'a;' at 'exclusiveStartTableName' failed to satisfy constraint: Member \
                must satisfy regular expression pattern: [a-zA-Z0-9_.-]+; Value 'a;' at 'exclusiveStartTableName' failed to \
                satisfy constraint: Member must have length greater than or equal to 3";
    bench.invalid("ListTables", start, text).await;
    let mut input = create_input("other", &[("id", "S")]);
    input["BillingMode"] = json!("PROVISIONED");
    input["ProvisionedThroughput"] = json!({ "ReadCapacityUnits": 0, "WriteCapacityUnits": 0 });
    let low = "failed to satisfy constraint: Member must have value greater than or equal to 1";
    let text = format!(
        "2 validation errors detected: Value '0' at 'provisionedThroughput.writeCapacityUnits' {low}; Value '0' at \
         'provisionedThroughput.readCapacityUnits' {low}"
    );
    bench.invalid("CreateTable", input, &text).await;
}
