//! The service beside a model of what it means: any sequence of writes ends in the same items, order and counters.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Put(u8, i32, i32),
    Delete(u8, i32),
    Add(u8, i32, i32),
    SetIfLess(u8, i32, i32),
    Remove(u8, i32),
}

fn step() -> impl Strategy<Value = Step> {
    let (id, at, value) = (0u8..3, -20i32..20, -1_000i32..1_000);
    prop_oneof![
        (id.clone(), at.clone(), value.clone()).prop_map(|(id, at, v)| Step::Put(id, at, v)),
        (id.clone(), at.clone()).prop_map(|(id, at)| Step::Delete(id, at)),
        (id.clone(), at.clone(), value.clone()).prop_map(|(id, at, v)| Step::Add(id, at, v)),
        (id.clone(), at.clone(), value).prop_map(|(id, at, v)| Step::SetIfLess(id, at, v)),
        (id, at).prop_map(|(id, at)| Step::Remove(id, at)),
    ]
}

/// Partition and sort key to the attribute `v`, which may be missing.
type Model = BTreeMap<(u8, i32), Option<i32>>;

fn apply_to_model(model: &mut Model, step: &Step) -> bool {
    match *step {
        Step::Put(id, at, value) => {
            model.insert((id, at), Some(value));
        }
        Step::Delete(id, at) => {
            model.remove(&(id, at));
        }
        Step::Add(id, at, value) => {
            let slot = model.entry((id, at)).or_default();
            *slot = Some(slot.unwrap_or(0) + value);
        }
        Step::SetIfLess(id, at, value) => match model.get_mut(&(id, at)) {
            Some(Some(old)) if *old < value => *old = value,
            _ => return false,
        },
        Step::Remove(id, at) => {
            model.insert((id, at), None);
        }
    }
    true
}

fn key(id: u8, at: i32) -> Json {
    json!({ "id": { "S": id.to_string() }, "at": { "N": at.to_string() } })
}

async fn apply_to_service(bench: &Bench, step: &Step) -> bool {
    let update = |id: u8, at: i32, text: &str, value: Option<i32>| {
        let mut input = json!({ "TableName": "events", "Key": key(id, at), "UpdateExpression": text });
        if let Some(value) = value {
            input["ExpressionAttributeValues"] = json!({ ":v": { "N": value.to_string() } });
        }
        input
    };
    let (operation, input) = match *step {
        Step::Put(id, at, value) => {
            let mut item = key(id, at);
            item["v"] = json!({ "N": value.to_string() });
            ("PutItem", json!({ "TableName": "events", "Item": item }))
        }
        Step::Delete(id, at) => ("DeleteItem", json!({ "TableName": "events", "Key": key(id, at) })),
        Step::Add(id, at, value) => ("UpdateItem", update(id, at, "ADD v :v", Some(value))),
        Step::SetIfLess(id, at, value) => {
            let mut input = update(id, at, "SET v = :v", Some(value));
            input["ConditionExpression"] = json!("v < :v");
            ("UpdateItem", input)
        }
        Step::Remove(id, at) => ("UpdateItem", update(id, at, "REMOVE v", None)),
    };
    match bench.call(operation, input).await {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error.code, "ConditionalCheckFailedException");
            false
        }
    }
}

async fn check(bench: &Bench, model: &Model) {
    let mut bytes = 0;
    for id in 0..3 {
        let query = json!({
            "TableName": "events", "KeyConditionExpression": "id = :id",
            "ExpressionAttributeValues": { ":id": { "S": id.to_string() } },
        });
        let found = bench.ok("Query", query).await["Items"].clone();
        let expected = model.iter().filter(|((partition, _), _)| *partition == id).map(|((_, at), value)| {
            let mut item = key(id, *at);
            if let Some(value) = value {
                item["v"] = json!({ "N": value.to_string() });
            }
            item
        });
        let expected = Json::Array(expected.collect());
        assert_eq!(found, expected);
        for item in expected.as_array().unwrap() {
            let item = super::super::value::item_from_json(item.as_object().unwrap()).unwrap();
            bytes += super::super::value::item_size(&item);
        }
    }
    let table = bench.ok("DescribeTable", json!({ "TableName": "events" })).await["Table"].clone();
    assert_eq!((&table["ItemCount"], &table["TableSizeBytes"]), (&json!(model.len()), &json!(bytes)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_sequence_of_writes_ends_as_the_model_says(steps in prop::collection::vec(step(), 0..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let bench = Bench::with_events().await;
            let mut model = Model::new();
            for step in &steps {
                assert_eq!(apply_to_service(&bench, step).await, apply_to_model(&mut model, step), "{step:?}");
            }
            check(&bench, &model).await;
        });
    }
}
