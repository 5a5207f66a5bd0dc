//! Indexes beside a model of what they mean: after any sequence of writes, of indexes that come and go and of rounds of the
//! worker, an index holds what the items say, in order, and its counters are exact.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::value::{item_from_json, item_size};
use super::*;

#[derive(Debug, Clone)]
enum Step {
    Put(u8, i32, Option<u8>, Option<i32>),
    Delete(u8, i32),
    SetKind(u8, i32, Option<u8>),
    SetRank(u8, i32, Option<i32>),
    SetOther(u8, i32, u16),
    Create,
    Remove,
    Sweep,
}

fn step() -> impl Strategy<Value = Step> {
    let (id, at) = (0u8..3, -3i32..3);
    let (kind, rank) = (prop::option::of(0u8..2), prop::option::of(-2i32..2));
    prop_oneof![
        4 => (id.clone(), at.clone(), kind.clone(), rank.clone()).prop_map(|(id, at, k, r)| Step::Put(id, at, k, r)),
        2 => (id.clone(), at.clone()).prop_map(|(id, at)| Step::Delete(id, at)),
        2 => (id.clone(), at.clone(), kind).prop_map(|(id, at, k)| Step::SetKind(id, at, k)),
        2 => (id.clone(), at.clone(), rank).prop_map(|(id, at, r)| Step::SetRank(id, at, r)),
        // Some are too large to lie in an index.
        2 => (id, at, 0u16..6_000).prop_map(|(id, at, length)| Step::SetOther(id, at, length)),
        1 => Just(Step::Create),
        1 => Just(Step::Remove),
        1 => Just(Step::Sweep),
    ]
}

/// What an item has besides its keys.
#[derive(Debug, Clone, Default)]
struct Content {
    kind: Option<u8>,
    rank: Option<i32>,
    other: Option<String>,
}

type Model = BTreeMap<(u8, i32), Content>;

fn item_of(key: (u8, i32), content: &Content) -> Json {
    let mut item = json!({ "id": { "S": key.0.to_string() }, "at": { "N": key.1.to_string() } });
    if let Some(kind) = content.kind {
        item["kind"] = json!({ "S": kind.to_string() });
    }
    if let Some(rank) = content.rank {
        item["rank"] = json!({ "N": rank.to_string() });
    }
    if let Some(other) = &content.other {
        item["other"] = json!({ "S": other });
    }
    item
}

fn table() -> Json {
    let mut input = create_input("events", &[("id", "S"), ("at", "N")]);
    input["AttributeDefinitions"]
        .as_array_mut()
        .unwrap()
        .push(json!({ "AttributeName": "rank", "AttributeType": "N" }));
    input["LocalSecondaryIndexes"] = json!([{
        "IndexName": "local", "Projection": { "ProjectionType": "KEYS_ONLY" },
        "KeySchema": [
            { "AttributeName": "id", "KeyType": "HASH" }, { "AttributeName": "rank", "KeyType": "RANGE" },
        ],
    }]);
    input
}

fn created() -> Json {
    json!({
        "TableName": "events",
        "AttributeDefinitions": [
            { "AttributeName": "kind", "AttributeType": "S" }, { "AttributeName": "rank", "AttributeType": "N" },
        ],
        "GlobalSecondaryIndexUpdates": [{ "Create": {
            "IndexName": "global", "Projection": { "ProjectionType": "ALL" },
            "KeySchema": [
                { "AttributeName": "kind", "KeyType": "HASH" }, { "AttributeName": "rank", "KeyType": "RANGE" },
            ],
        } }],
    })
}

async fn set(bench: &Bench, key: (u8, i32), name: &str, value: Option<Json>) {
    let mut input = json!({
        "TableName": "events", "Key": item_of(key, &Content::default()), "ExpressionAttributeNames": { "#n": name },
    });
    match value {
        Some(value) => {
            input["UpdateExpression"] = json!("SET #n = :v");
            input["ExpressionAttributeValues"] = json!({ ":v": value });
        }
        None => input["UpdateExpression"] = json!("REMOVE #n"),
    }
    bench.ok("UpdateItem", input).await;
}

async fn apply(bench: &Bench, model: &mut Model, step: &Step) {
    match step.clone() {
        Step::Put(id, at, kind, rank) => {
            let content = Content { kind, rank, other: None };
            bench.put("events", item_of((id, at), &content)).await;
            model.insert((id, at), content);
        }
        Step::Delete(id, at) => {
            let key = json!({ "TableName": "events", "Key": item_of((id, at), &Content::default()) });
            bench.ok("DeleteItem", key).await;
            model.remove(&(id, at));
        }
        Step::SetKind(id, at, kind) => {
            set(bench, (id, at), "kind", kind.map(|kind| json!({ "S": kind.to_string() }))).await;
            model.entry((id, at)).or_default().kind = kind;
        }
        Step::SetRank(id, at, rank) => {
            set(bench, (id, at), "rank", rank.map(|rank| json!({ "N": rank.to_string() }))).await;
            model.entry((id, at)).or_default().rank = rank;
        }
        Step::SetOther(id, at, length) => {
            let text = "x".repeat(length.into());
            set(bench, (id, at), "other", Some(json!({ "S": text }))).await;
            model.entry((id, at)).or_default().other = Some(text);
        }
        Step::Create => {
            // Refused where it is there, or is being made or removed.
            let _ = bench.call("UpdateTable", created()).await;
        }
        Step::Remove => {
            let update = json!([{ "Delete": { "IndexName": "global" } }]);
            let _ = bench
                .call("UpdateTable", json!({ "TableName": "events", "GlobalSecondaryIndexUpdates": update }))
                .await;
        }
        Step::Sweep => {
            bench.service.sweep().await.unwrap();
        }
    }
}

/// All items of an index's partition, read in pages.
async fn read(bench: &Bench, index: &str, hash: &str, value: u8, limit: usize) -> Vec<Json> {
    let mut input = json!({
        "TableName": "events", "IndexName": index, "KeyConditionExpression": format!("{hash} = :h"), "Limit": limit,
        "ExpressionAttributeValues": { ":h": { "S": value.to_string() } },
    });
    let mut all = Vec::new();
    loop {
        let answer = bench.ok("Query", input.clone()).await;
        all.extend(answer["Items"].as_array().unwrap().iter().cloned());
        if answer["LastEvaluatedKey"].is_null() {
            return all;
        }
        input["ExclusiveStartKey"] = answer["LastEvaluatedKey"].clone();
    }
}

async fn check(bench: &Bench, model: &Model) {
    for id in 0..3 {
        let mut expected: Vec<_> =
            model.iter().filter(|((one, _), content)| *one == id && content.rank.is_some()).collect();
        expected.sort_by_key(|((_, at), content)| (content.rank, *at));
        let keys =
            expected.iter().map(|(key, content)| item_of(**key, &Content { rank: content.rank, ..Content::default() }));
        assert_eq!(read(bench, "local", "id", id, 2).await, keys.collect::<Vec<_>>());
    }
    let described = bench.ok("DescribeTable", json!({ "TableName": "events" })).await["Table"].clone();
    if described["GlobalSecondaryIndexes"].is_null() {
        return;
    }
    assert_eq!(described["GlobalSecondaryIndexes"][0]["IndexStatus"], "ACTIVE");
    let (mut count, mut bytes) = (0, 0);
    for kind in 0..2 {
        let mut expected: Vec<_> =
            model.iter().filter(|(_, content)| content.kind == Some(kind) && content.rank.is_some()).collect();
        expected.sort_by_key(|(key, content)| (content.rank, **key));
        let expected: Vec<Json> = expected.into_iter().map(|(key, content)| item_of(*key, content)).collect();
        count += expected.len();
        bytes += expected.iter().map(|i| item_size(&item_from_json(i.as_object().unwrap()).unwrap())).sum::<usize>();
        assert_eq!(read(bench, "global", "kind", kind, 3).await, expected);
    }
    let shown = &described["GlobalSecondaryIndexes"][0];
    assert_eq!((&shown["ItemCount"], &shown["IndexSizeBytes"]), (&json!(count), &json!(bytes)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn an_index_holds_what_the_items_say(steps in prop::collection::vec(step(), 0..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let bench = Bench::new();
            bench.ok("CreateTable", table()).await;
            let mut model = Model::new();
            for step in &steps {
                apply(&bench, &mut model, step).await;
            }
            while bench.service.sweep().await.unwrap() > 0 {}
            check(&bench, &model).await;
            bench.ok("DeleteTable", json!({ "TableName": "events" })).await;
            while bench.service.sweep().await.unwrap() > 0 {}
            let all = store::Range::prefix(vec![model::prefixes::DYNAMODB.byte]);
            assert!(bench.service.shared.store.range(&all).await.unwrap().entries.is_empty());
        });
    }
}
