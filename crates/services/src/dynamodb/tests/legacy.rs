//! The forms that requests had before expressions.

use super::*;

const PARAMETERS: &str = "One or more parameter values were invalid:";

fn s(text: &str) -> Json {
    json!({ "S": text })
}

fn n(number: i32) -> Json {
    json!({ "N": number.to_string() })
}

fn compare(operator: &str, values: &[Json]) -> Json {
    json!({ "ComparisonOperator": operator, "AttributeValueList": values })
}

async fn filled() -> Bench {
    let bench = Bench::with_items().await;
    bench.put("items", json!({ "id": s("a"), "n": n(1), "s": s("xyz"), "set": { "SS": ["p", "q"] } })).await;
    bench.put("items", json!({ "id": s("b"), "n": n(2), "s": s("xy"), "l": { "L": [s("p")] }, "a.b": n(1) })).await;
    bench.put("items", json!({ "id": s("c"), "ns": { "NS": ["1", "2"] }, "b": { "B": "AQID" } })).await;
    bench
}

async fn scanned(bench: &Bench, filter: Json, operator: Option<&str>) -> String {
    let mut scan = json!({ "TableName": "items", "ScanFilter": filter });
    if let Some(operator) = operator {
        scan["ConditionalOperator"] = json!(operator);
    }
    let answer = bench.ok("Scan", scan).await;
    let mut ids: Vec<_> = answer["Items"].as_array().unwrap().iter().map(|i| i["id"]["S"].as_str().unwrap()).collect();
    ids.sort_unstable();
    ids.concat()
}

#[tokio::test]
async fn every_operator_filters() {
    let bench = filled().await;
    let none: &[Json] = &[];
    let cases: &[(&str, &str, &[Json], &str)] = &[
        ("n", "EQ", &[n(1)], "a"),
        ("n", "NE", &[n(1)], "bc"),
        ("n", "LT", &[n(2)], "a"),
        ("n", "LE", &[n(2)], "ab"),
        ("n", "GT", &[n(1)], "b"),
        ("n", "GE", &[n(1)], "ab"),
        ("n", "NULL", none, "c"),
        ("n", "NOT_NULL", none, "ab"),
        ("n", "IN", &[n(2), n(3)], "b"),
        ("n", "BETWEEN", &[n(2), n(9)], "b"),
        ("n", "EQ", &[s("1")], ""),
        ("s", "BEGINS_WITH", &[s("xyz")], "a"),
        ("s", "CONTAINS", &[s("y")], "ab"),
        ("s", "NOT_CONTAINS", &[s("z")], "b"),
        ("s", "NOT_CONTAINS", &[n(1)], "ab"),
        ("n", "NOT_CONTAINS", &[s("1")], "ab"),
        ("b", "NOT_CONTAINS", &[s("x")], "c"),
        ("l", "NOT_CONTAINS", &[n(1)], "b"),
        ("l", "NOT_CONTAINS", &[s("p")], ""),
        ("set", "CONTAINS", &[s("p")], "a"),
        ("set", "NOT_CONTAINS", &[s("r")], "a"),
        ("ns", "CONTAINS", &[n(1)], "c"),
        ("ns", "NOT_CONTAINS", &[n(1)], ""),
        ("l", "CONTAINS", &[s("p")], "b"),
        ("b", "BEGINS_WITH", &[json!({ "B": "AQI=" })], "c"),
        ("set", "EQ", &[json!({ "SS": ["q", "p"] })], "a"),
        ("l", "EQ", &[json!({ "L": [s("p")] })], "b"),
        ("a.b", "EQ", &[n(1)], "b"),
    ];
    for (name, operator, values, found) in cases {
        assert_eq!(
            scanned(&bench, json!({ *name: compare(operator, values) }), None).await,
            *found,
            "{name} {operator}"
        );
    }
    let two = json!({ "n": compare("EQ", &[n(1)]), "ns": compare("NOT_NULL", none) });
    assert_eq!(scanned(&bench, two.clone(), None).await, "");
    assert_eq!(scanned(&bench, two.clone(), Some("AND")).await, "");
    assert_eq!(scanned(&bench, two, Some("OR")).await, "ac");
}

#[tokio::test]
async fn operators_and_their_values_must_fit() {
    let bench = filled().await;
    let cases = [
        (compare("EQ", &[]), format!("{PARAMETERS} Invalid number of argument(s) for the EQ ComparisonOperator")),
        (compare("NULL", &[n(1)]), format!("{PARAMETERS} Invalid number of argument(s) for the NULL ComparisonOperator")),
        (compare("BETWEEN", &[n(1)]), format!("{PARAMETERS} Invalid number of argument(s) for the BETWEEN ComparisonOperator")),
        (compare("LE", &[json!({ "SS": ["a"] })]), format!("{PARAMETERS} ComparisonOperator LE is not valid for SS AttributeValue type")),
        (compare("BEGINS_WITH", &[n(1)]), format!("{PARAMETERS} ComparisonOperator BEGINS_WITH is not valid for N AttributeValue type")),
        (compare("IN", &[n(1), s("a")]), format!("{PARAMETERS} AttributeValues inside AttributeValueList must be of same type")),
        (compare("BETWEEN", &[n(2), n(1)]), "The BETWEEN condition was provided a range where the lower bound is greater than the upper bound".into()),
        (compare("EQ", &[json!({ "N": "x" })]), "The parameter cannot be converted to a numeric value: x".into()),
        (json!({}), "1 validation error detected: Value null at 'scanFilter.n.member.comparisonOperator' failed to satisfy constraint: Member must not be null".into()),
        (compare("LIKE", &[n(1)]), "1 validation error detected: Value 'LIKE' at 'scanFilter.n.member.comparisonOperator' failed to satisfy constraint: Member must satisfy enum value set: [IN, NULL, BETWEEN, LT, NOT_CONTAINS, EQ, GT, NOT_NULL, NE, LE, BEGINS_WITH, GE, CONTAINS]".into()),
    ];
    for (condition, message) in cases {
        bench.invalid("Scan", json!({ "TableName": "items", "ScanFilter": { "n": condition } }), &message).await;
    }
    let one = json!({ "n": compare("EQ", &[n(1)]) });
    let without = "ConditionalOperator cannot be used without Filter or Expected";
    bench.invalid("Scan", json!({ "TableName": "items", "ConditionalOperator": "OR" }), without).await;
    bench.invalid("Query", json!({ "TableName": "items", "ConditionalOperator": "OR" }), without).await;
    let two = "ConditionalOperator can only be used when Filter or Expected has two or more elements";
    bench.invalid("Scan", json!({ "TableName": "items", "ConditionalOperator": "OR", "ScanFilter": one }), two).await;
    let mixed = json!({
        "TableName": "items", "Key": { "id": s("a") }, "AttributeUpdates": {}, "Expected": one, "ConditionalOperator": "AND",
        "UpdateExpression": "SET a = :v", "ConditionExpression": "attribute_exists(id)", "ExpressionAttributeValues": { ":v": s("x") },
    });
    let message = "Can not use both expression and non-expression parameters in the same request: Non-expression parameters: \
                   {AttributeUpdates, Expected, ConditionalOperator} Expression parameters: {UpdateExpression, ConditionExpression}";
    bench.invalid("UpdateItem", mixed, message).await;
}

#[tokio::test]
async fn expectations_guard_writes() {
    let bench = filled().await;
    let put =
        |expected: Json| json!({ "TableName": "items", "Item": { "id": s("a"), "n": n(1) }, "Expected": expected });
    let holding = [
        json!({ "n": { "Value": n(1) } }),
        json!({ "n": { "Exists": true, "Value": n(1) } }),
        json!({ "none": { "Exists": false } }),
        json!({ "n": compare("BETWEEN", &[n(0), n(2)]), "none": { "ComparisonOperator": "NULL" } }),
        json!({ "n": { "ComparisonOperator": "GE", "Value": n(1) } }),
        json!({}),
    ];
    for expected in holding {
        bench.ok("PutItem", put(expected)).await;
    }
    let failing = [
        json!({ "n": { "Value": n(2) } }),
        json!({ "n": { "Exists": false } }),
        json!({ "n": compare("NE", &[n(1)]) }),
    ];
    for expected in failing {
        let failed = "The conditional request failed";
        bench.refused("PutItem", put(expected), "ConditionalCheckFailedException", failed).await;
    }
    let cases = [
        (json!({ "Value": n(1), "AttributeValueList": [] }), "Value and AttributeValueList cannot be used together"),
        (
            json!({ "Exists": true, "ComparisonOperator": "LT" }),
            "Exists and ComparisonOperator cannot be used together",
        ),
        (json!({ "ComparisonOperator": "LT" }), "Value or AttributeValueList must be used with ComparisonOperator: LT"),
        (json!({ "AttributeValueList": [] }), "AttributeValueList can only be used with a ComparisonOperator"),
        (json!({ "Exists": true }), "Value must be provided when Exists is true"),
        (json!({}), "Value must be provided when Exists is null"),
        (json!({ "Exists": false, "Value": n(1) }), "Value cannot be used when Exists is false"),
    ];
    for (expected, message) in cases {
        bench
            .invalid("PutItem", put(json!({ "n": expected })), &format!("{PARAMETERS} {message} for Attribute: n"))
            .await;
    }
    let delete = json!({
        "TableName": "items", "Key": { "id": s("b") }, "ConditionalOperator": "OR", "ReturnValues": "ALL_OLD",
        "Expected": { "n": { "Value": n(9) }, "s": compare("BEGINS_WITH", &[s("x")]) },
    });
    assert_eq!(bench.ok("DeleteItem", delete).await["Attributes"]["n"], n(2));
}

#[tokio::test]
async fn attribute_updates_change_items() {
    let bench = Bench::with_items().await;
    let update = |updates: Json| json!({ "TableName": "items", "Key": { "id": s("a") }, "AttributeUpdates": updates, "ReturnValues": "ALL_NEW" });
    let first = json!({
        "s": { "Value": s("x") }, "n": { "Action": "ADD", "Value": n(2) }, "a.b": { "Action": "PUT", "Value": n(1) },
        "set": { "Action": "ADD", "Value": { "SS": ["a", "b"] } }, "l": { "Action": "ADD", "Value": { "L": [n(1)] } },
    });
    let item = bench.ok("UpdateItem", update(first.clone())).await["Attributes"].clone();
    let expected =
        json!({ "id": s("a"), "s": s("x"), "n": n(2), "a.b": n(1), "set": { "SS": ["a", "b"] }, "l": { "L": [n(1)] } });
    assert_eq!(item, expected);
    bench.ok("UpdateItem", update(first)).await;
    let second = json!({ "s": { "Action": "DELETE" }, "set": { "Action": "DELETE", "Value": { "SS": ["a", "c"] } }, "none": { "Action": "DELETE" } });
    let item = bench.ok("UpdateItem", update(second)).await["Attributes"].clone();
    assert_eq!(
        item,
        json!({ "id": s("a"), "n": n(4), "a.b": n(1), "set": { "SS": ["b"] }, "l": { "L": [n(1), n(1)] } })
    );
    // Only to delete makes no item, as anything else does.
    let key =
        |id: &str, updates: Json| json!({ "TableName": "items", "Key": { "id": s(id) }, "AttributeUpdates": updates });
    bench.ok("UpdateItem", key("none", json!({ "x": { "Action": "DELETE" } }))).await;
    assert_eq!(bench.get("items", json!({ "id": s("none") })).await, Json::Null);
    bench.ok("UpdateItem", key("some", json!({}))).await;
    assert_eq!(bench.get("items", json!({ "id": s("some") })).await, json!({ "id": s("some") }));
    let cases = [
        (json!({ "x": {} }), format!("{PARAMETERS} Only DELETE action is allowed when no attribute value is specified")),
        (json!({ "x": { "Action": "DELETE", "Value": n(1) } }), format!("{PARAMETERS} DELETE action with value is not supported for the type N")),
        (json!({ "x": { "Action": "ADD", "Value": s("a") } }), format!("{PARAMETERS} ADD action is not supported for the type S")),
        (json!({ "n": { "Action": "ADD", "Value": { "SS": ["a"] } } }), "Type mismatch for attribute to update".into()),
        (json!({ "n": { "Action": "ADD", "Value": { "L": [] } } }), "Type mismatch for attribute to update".into()),
        (json!({ "set": { "Action": "DELETE", "Value": { "NS": ["1"] } } }), "Type mismatch for attribute to update".into()),
        (json!({ "id": { "Value": s("b") } }), format!("{PARAMETERS} Cannot update attribute id. This attribute is part of the key")),
        (json!({ "x": { "Action": "SET", "Value": n(1) } }), "1 validation error detected: Value 'SET' at 'attributeUpdates.x.member.action' failed to satisfy constraint: Member must satisfy enum value set: [ADD, DELETE, PUT]".into()),
    ];
    for (updates, message) in cases {
        bench.invalid("UpdateItem", update(updates), &message).await;
    }
}

#[tokio::test]
async fn key_conditions_query() {
    let bench = Bench::with_events().await;
    for at in 0..5 {
        bench.put("events", json!({ "id": s("a"), "at": n(at), "even": { "BOOL": at % 2 == 0 } })).await;
    }
    let query = |conditions: Json| json!({ "TableName": "events", "KeyConditions": conditions });
    let is_a = compare("EQ", &[s("a")]);
    let count = async |input: Json| bench.ok("Query", input).await["Count"].clone();
    assert_eq!(count(query(json!({ "id": is_a }))).await, json!(5));
    let cases = [
        ("EQ", vec![n(1)], 1),
        ("LT", vec![n(2)], 2),
        ("LE", vec![n(2)], 3),
        ("GT", vec![n(2)], 2),
        ("GE", vec![n(2)], 3),
        ("BETWEEN", vec![n(1), n(3)], 3),
    ];
    for (operator, values, found) in cases {
        let conditions = json!({ "at": compare(operator, &values), "id": is_a });
        assert_eq!(count(query(conditions)).await, json!(found), "{operator}");
    }
    let mut filtered = query(json!({ "id": is_a }));
    filtered["QueryFilter"] = json!({ "even": compare("EQ", &[json!({ "BOOL": true })]) });
    filtered["AttributesToGet"] = json!(["at"]);
    let answer = bench.ok("Query", filtered.clone()).await;
    assert_eq!(
        (&answer["Count"], &answer["ScannedCount"], &answer["Items"][1]),
        (&json!(3), &json!(5), &json!({ "at": n(2) }))
    );
    filtered["QueryFilter"] = json!({ "at": compare("EQ", &[n(1)]) });
    bench
        .invalid(
            "Query",
            filtered,
            "QueryFilter can only contain non-primary key attributes: Primary key attribute: at",
        )
        .await;
    // Key conditions go together with expressions of other kinds.
    let mut both = query(json!({ "id": is_a }));
    both["FilterExpression"] = json!("even = :yes");
    both["ExpressionAttributeValues"] = json!({ ":yes": { "BOOL": true } });
    assert_eq!(count(both.clone()).await, json!(3));
    both["KeyConditionExpression"] = json!("id = :a");
    let message = "Can not use both expression and non-expression parameters in the same request: Non-expression parameters: \
                   {KeyConditions} Expression parameters: {FilterExpression, KeyConditionExpression}";
    bench.invalid("Query", both, message).await;
    let cases = [
        (json!({}), "Conditions can be of length 1 or 2 only"),
        (json!({ "at": compare("EQ", &[n(1)]) }), "Query condition missed key schema element: id"),
        (json!({ "id": compare("GT", &[s("a")]) }), "Query key condition not supported"),
        (json!({ "id": compare("NOT_NULL", &[]) }), "Attempted conditional constraint is not an indexable operation"),
        (
            json!({ "id": is_a, "at": compare("NE", &[n(1)]) }),
            "Attempted conditional constraint is not an indexable operation",
        ),
    ];
    for (conditions, message) in cases {
        bench.invalid("Query", query(conditions), message).await;
    }
}
