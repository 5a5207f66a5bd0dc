//! PartiQL through the service.

use super::*;

const TABLE: &str = "\"events\"";

fn s(text: &str) -> Json {
    json!({ "S": text })
}

fn n(number: i32) -> Json {
    json!({ "N": number.to_string() })
}

impl Bench {
    async fn statement(&self, text: &str) -> Result<Json, Refusal> {
        self.call("ExecuteStatement", json!({ "Statement": text })).await
    }

    async fn items_of(&self, text: &str) -> Json {
        self.statement(text).await.unwrap_or_else(|error| panic!("{text}: {error}"))["Items"].clone()
    }

    async fn refused_statement(&self, text: &str, code: &str, message: &str) {
        let error = self.statement(text).await.expect_err("the statement must be refused");
        assert_eq!((error.code.as_str(), error.message.as_str()), (code, message), "{text}");
    }

    async fn with_numbers() -> Self {
        let bench = Self::with_events().await;
        for id in ["a", "b"] {
            for at in 0..4 {
                let text = format!(
                    "INSERT INTO {TABLE} VALUE {{'id': '{id}', 'at': {at}, 'even': {}, 'm': {{'x': [{at}]}}}}",
                    at % 2 == 0
                );
                assert_eq!(bench.items_of(&text).await, json!([]));
            }
        }
        bench
    }
}

fn at(id: &str, at: i32) -> Json {
    json!({ "id": s(id), "at": n(at) })
}

#[tokio::test]
async fn select_reads_items_partitions_and_tables() {
    let bench = Bench::with_numbers().await;
    let select = |rest: &str| format!("SELECT id, at FROM {TABLE} {rest}");
    let cases = [
        ("WHERE id = 'a' AND at = 2", vec![at("a", 2)]),
        ("WHERE 2 <= at AND id = 'a'", vec![at("a", 2), at("a", 3)]),
        ("WHERE id = 'a' AND at BETWEEN 1 AND 2", vec![at("a", 1), at("a", 2)]),
        ("WHERE id = 'a' ORDER BY at DESC", vec![at("a", 3), at("a", 2), at("a", 1), at("a", 0)]),
        ("WHERE id IN ['b', 'a'] AND even = true", vec![at("a", 0), at("a", 2), at("b", 0), at("b", 2)]),
        ("WHERE id IN ('a', 'b') AND at = 1 ORDER BY id DESC, at DESC", vec![at("b", 1), at("a", 1)]),
        ("WHERE id = 'a' AND (at = 1 OR at = 3)", vec![at("a", 1), at("a", 3)]),
        ("WHERE id = 'a' AND m.x[0] > 2", vec![at("a", 3)]),
        ("WHERE id = 'none'", vec![]),
        ("WHERE id = 'a' AND even IS MISSING", vec![]),
    ];
    for (rest, expected) in cases {
        assert_eq!(bench.items_of(&select(rest)).await, json!(expected), "{rest}");
    }
    assert_eq!(bench.items_of(&select("WHERE at > 2")).await.as_array().unwrap().len(), 2);
    assert_eq!(bench.items_of(&select("")).await.as_array().unwrap().len(), 8);
    let nested = bench.items_of(&format!("SELECT m.x, m FROM {TABLE} WHERE id = 'a' AND at = 1")).await;
    let x = json!({ "L": [n(1)] });
    assert_eq!(nested, json!([{ "x": x, "m": { "M": { "x": x } } }]));
    for (rest, message) in [
        ("ORDER BY at", "Must have WHERE clause in the statement when using ORDER BY clause."),
        ("WHERE id = 'a' ORDER BY even", "Attribute even in ORDER BY clause must be part of the primary key"),
        (
            "WHERE at > 1 ORDER BY at",
            "Must have at least one non-optional hash key condition in WHERE clause when using ORDER BY clause.",
        ),
        (
            "WHERE id IN ['a', 'b'] ORDER BY at",
            "Must have hash key in ORDER BY clause when more than one hash key condition specified in WHERE clause.",
        ),
    ] {
        bench.refused_statement(&select(rest), "ValidationException", message).await;
    }
    bench.refused_statement("SELECT * FROM absent", "ResourceNotFoundException", "Requested resource not found").await;
    bench
        .refused_statement(
            &format!("SELECT * FROM {TABLE}.\"none\""),
            "ValidationException",
            "The table does not have the specified index",
        )
        .await;
}

#[tokio::test]
async fn pages_follow_each_other_by_tokens() {
    let bench = Bench::with_numbers().await;
    for (statement, limit) in [
        (format!("SELECT id, at FROM {TABLE}"), 3),
        (format!("SELECT id, at FROM {TABLE} WHERE id IN ['a', 'b', 'c']"), 3),
        (format!("SELECT id, at FROM {TABLE} WHERE id IN ['a', 'b'] ORDER BY id DESC, at DESC"), 1),
        (format!("SELECT id, at FROM {TABLE} WHERE even = true"), 1),
    ] {
        let whole = bench.items_of(&statement).await;
        let mut found = Vec::new();
        let mut input = json!({ "Statement": statement, "Limit": limit });
        loop {
            let page = bench.ok("ExecuteStatement", input.clone()).await;
            let items = page["Items"].as_array().unwrap();
            assert!(items.len() <= limit);
            found.extend(items.iter().cloned());
            match page.get("NextToken") {
                Some(token) => input["NextToken"] = token.clone(),
                None => break,
            }
        }
        assert_eq!(json!(found), whole, "{statement}");
    }
    let first =
        json!({ "Statement": format!("SELECT * FROM {TABLE} WHERE id = ?"), "Parameters": [s("a")], "Limit": 1 });
    let mut next = first.clone();
    next["NextToken"] = bench.ok("ExecuteStatement", first).await["NextToken"].clone();
    next["Limit"] = json!(2);
    assert_eq!(bench.ok("ExecuteStatement", next.clone()).await["Items"][0]["at"], n(1));
    next["Parameters"] = json!([s("b")]);
    bench.invalid("ExecuteStatement", next.clone(), "NextToken does not match request").await;
    next["NextToken"] = json!("what?");
    bench.invalid("ExecuteStatement", next, "Invalid NextToken").await;
}

#[tokio::test]
async fn writes_change_one_item_each() {
    let bench = Bench::with_numbers().await;
    let key = "WHERE id = 'a' AND at = 1";
    let duplicate = format!("INSERT INTO {TABLE} VALUE {{'id': 'a', 'at': 1}}");
    bench.refused_statement(&duplicate, "DuplicateItemException", "Duplicate primary key exists in table").await;
    let update = format!(
        "UPDATE {TABLE} SET n = 1 SET m.x = list_append(m.x, [2]), tags = set_add(tags, <<'t'>>) REMOVE even {key} RETURNING ALL NEW *"
    );
    let expected = json!({ "id": s("a"), "at": n(1), "n": n(1), "m": { "M": { "x": { "L": [n(1), n(2)] } } }, "tags": { "SS": ["t"] } });
    assert_eq!(bench.items_of(&update).await, json!([expected]));
    let modified = |which: &str| format!("UPDATE {TABLE} SET n = n + 5 REMOVE tags {key} RETURNING MODIFIED {which} *");
    assert_eq!(bench.items_of(&modified("OLD")).await, json!([{ "n": n(1), "tags": { "SS": ["t"] } }]));
    assert_eq!(bench.items_of(&modified("NEW")).await, json!([{ "n": n(11) }]));
    let failed = "The conditional request failed";
    for text in [
        format!("UPDATE {TABLE} SET n = 1 WHERE id = 'a' AND at = 99"),
        format!("UPDATE {TABLE} SET n = 1 {key} AND n = 1"),
        format!("DELETE FROM {TABLE} {key} AND n = 1"),
    ] {
        bench.refused_statement(&text, "ConditionalCheckFailedException", failed).await;
    }
    let shown = json!({ "Statement": format!("DELETE FROM {TABLE} {key} AND n = 1"), "ReturnValuesOnConditionCheckFailure": "ALL_OLD" });
    let error = bench.call("ExecuteStatement", shown).await.unwrap_err();
    assert_eq!(error.fields["Item"]["n"], n(11));
    let mandatory = "Where clause does not contain a mandatory equality on all key attributes";
    for text in [
        format!("UPDATE {TABLE} SET n = 1"),
        format!("UPDATE {TABLE} SET n = 1 WHERE id = 'a'"),
        format!("DELETE FROM {TABLE} WHERE id = 'a' OR at = 1"),
        format!("FROM {TABLE} WHERE n = 1 SET n = 2"),
    ] {
        bench.refused_statement(&text, "ValidationException", mandatory).await;
    }
    let message =
        "One or more parameter values were invalid: Cannot update attribute id. This attribute is part of the key";
    bench.refused_statement(&format!("UPDATE {TABLE} SET id = 'b' {key}"), "ValidationException", message).await;
    let message = "An operand in the update expression has an incorrect data type";
    bench
        .refused_statement(&format!("UPDATE {TABLE} SET n = set_add(n, <<1>>) {key}"), "ValidationException", message)
        .await;
    bench.items_of(&format!("FROM {TABLE} {key} AND n = 11 SET n = 12")).await;
    assert_eq!(bench.items_of(&format!("DELETE FROM {TABLE} {key} RETURNING ALL OLD *")).await[0]["n"], n(12));
    // What is not there can be deleted, whatever else is asked.
    assert_eq!(bench.items_of(&format!("DELETE FROM {TABLE} {key} AND n = 1 RETURNING ALL OLD *")).await, json!([]));
    let exists = format!("EXISTS(SELECT * FROM {TABLE} {key} AND n = 1)");
    bench
        .refused_statement(
            &exists,
            "ValidationException",
            "EXISTS can only be used in ExecuteTransaction write requests.",
        )
        .await;
    let capacity = json!({ "Statement": format!("INSERT INTO {TABLE} VALUE ?"), "Parameters": [{ "M": at("c", 1) }], "ReturnConsumedCapacity": "TOTAL" });
    let used = bench.ok("ExecuteStatement", capacity).await["ConsumedCapacity"].clone();
    assert_eq!(used, json!({ "TableName": "events", "CapacityUnits": 1.0 }));
    assert_eq!(bench.get("events", at("c", 1)).await, at("c", 1));
}

#[tokio::test]
async fn a_batch_answers_each_statement() {
    let bench = Bench::with_numbers().await;
    let batch = async |texts: &[&str]| {
        let statements: Vec<_> = texts.iter().map(|text| json!({ "Statement": text.replace("@", TABLE) })).collect();
        bench.call("BatchExecuteStatement", json!({ "Statements": statements })).await
    };
    let answer = batch(&[
        "SELECT at FROM @ WHERE id = 'a' AND at = 1",
        "SELECT * FROM @ WHERE id = 'none' AND at = 1",
        "SELECT * FROM @ WHERE id = 'a'",
        "SELECT",
        "SELECT * FROM absent WHERE id = 'a'",
    ])
    .await
    .unwrap();
    let error = |code: &str, message: &str| json!({ "Error": { "Code": code, "Message": message } });
    let expected = json!([
        { "TableName": "events", "Item": { "at": n(1) } },
        { "TableName": "events" },
        error("ValidationError", "Select statements within BatchExecuteStatement must specify the primary key in the where clause."),
        error("ValidationError", "Statement wasn't well formed, can't be processed: Unexpected term"),
        error("ResourceNotFound", "Requested resource not found"),
    ]);
    assert_eq!(answer["Responses"], expected);
    let answer = batch(&[
        "INSERT INTO @ VALUE {'id': 'a', 'at': 1}",
        "UPDATE @ SET n = 1 WHERE id = 'a' AND at = 3",
        "DELETE FROM @ WHERE id = 'a' AND at = 2 AND n = 1",
    ])
    .await
    .unwrap();
    let mut duplicate = error("DuplicateItem", "Duplicate primary key exists in table");
    duplicate["TableName"] = json!("events");
    let mut failed = error("ConditionalCheckFailed", "The conditional request failed");
    failed["TableName"] = json!("events");
    assert_eq!(answer["Responses"], json!([duplicate, { "TableName": "events" }, failed]));
    assert!(
        batch(&["SELECT * FROM @ WHERE id = 'a' AND at = 1", "DELETE FROM @ WHERE id = 'a' AND at = 1"]).await.is_err()
    );
    let many: Vec<_> = (0..26).map(|_| "SELECT * FROM @").collect();
    assert!(batch(&many).await.unwrap_err().message.ends_with("Member must have length less than or equal to 25"));
}

#[tokio::test]
async fn a_batch_with_two_statements_of_one_item_does_nothing() {
    let bench = Bench::with_numbers().await;
    let twice = "Provided list of item keys contains duplicates";
    for text in ["SELECT * FROM {} WHERE id = 'a' AND at = 1", "UPDATE {} SET v = 1 WHERE at = 1 AND id = 'a'"] {
        let one = json!({ "Statement": text.replace("{}", TABLE) });
        bench.invalid("BatchExecuteStatement", json!({ "Statements": [one, one] }), twice).await;
    }
    assert_eq!(bench.get("events", at("a", 1)).await["v"], Json::Null);
}

#[tokio::test]
async fn a_transaction_of_statements_happens_whole_or_not() {
    let bench = Bench::with_numbers().await;
    let transaction = async |texts: &[&str], token: Option<&str>| {
        let statements: Vec<_> = texts.iter().map(|text| json!({ "Statement": text.replace("@", TABLE) })).collect();
        bench.call("ExecuteTransaction", json!({ "TransactStatements": statements, "ClientRequestToken": token })).await
    };
    let writes = [
        "UPDATE @ SET n = 1 WHERE id = 'a' AND at = 1",
        "INSERT INTO @ VALUE {'id': 'c', 'at': 1}",
        "DELETE FROM @ WHERE id = 'a' AND at = 2",
        "EXISTS(SELECT * FROM @ WHERE id = 'a' AND at = 3 AND n IS MISSING)",
    ];
    for _ in 0..2 {
        // The second time it is known by its token.
        assert_eq!(transaction(&writes, Some("token")).await.unwrap(), json!({ "Responses": [] }));
    }
    let answer =
        transaction(&["SELECT n FROM @ WHERE id = 'a' AND at = 1", "SELECT * FROM @ WHERE id = 'a' AND at = 2"], None)
            .await
            .unwrap();
    assert_eq!(answer, json!({ "Responses": [{ "Item": { "n": n(1) } }, {}] }));
    let error = transaction(
        &[
            "UPDATE @ SET n = 2 WHERE id = 'b' AND at = 1",
            "INSERT INTO @ VALUE {'id': 'c', 'at': 1}",
            "UPDATE @ SET n = 2 WHERE id = 'none' AND at = 1",
        ],
        None,
    )
    .await
    .unwrap_err();
    assert_eq!(error.code, "TransactionCanceledException");
    let expected = json!([
        { "Code": "None" },
        { "Code": "DuplicateItem", "Message": "Duplicate primary key exists in table" },
        { "Code": "ConditionalCheckFailed", "Message": "The conditional request failed" },
    ]);
    assert_eq!(error.fields["CancellationReasons"], expected);
    assert_eq!(bench.get("events", at("b", 1)).await["n"], Json::Null);
    let mixed = "ExecuteTransaction API does not support both read and write operations in the same request.";
    let cases: [(&[&str], &str); 5] = [
        (&["SELECT * FROM @ WHERE id = 'a' AND at = 1", "DELETE FROM @ WHERE id = 'a' AND at = 1"], mixed),
        (
            &["SELECT * FROM @ WHERE id = 'a'"],
            "Validation failed in TransactStatements[0]: Select statements within ExecuteTransaction must specify the primary key in the where clause.",
        ),
        (
            &["UPDATE @ SET n = 1 WHERE id = 'a' AND at = 1 RETURNING ALL NEW *"],
            "Validation failed in TransactStatements[0]: RETURNING clause is not supported in ExecuteTransaction.",
        ),
        (
            &["DELETE FROM @ WHERE id = 'a' AND at = 1", "EXISTS(SELECT * FROM @ WHERE id = 'a' AND at = 3)"],
            "Validation failed in TransactStatements[1]: EXISTS() must contain a single item read with additional condition",
        ),
        (
            &["SELECT * FROM @ WHERE"],
            "Validation failed in TransactStatements[0]: Statement wasn't well formed, can't be processed: Unexpected term",
        ),
    ];
    for (texts, message) in cases {
        assert_eq!(transaction(texts, None).await.unwrap_err().message, message);
    }
}
