//! Many at once: nothing is lost, nothing fails, nothing is seen half.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::engines::{Engine, over_each_engine};
use super::*;

over_each_engine!(
    a_hot_counter_loses_no_update,
    two_nodes_lose_no_update,
    of_many_that_would_be_first_one_is,
    a_table_deleted_under_its_writers_leaves_nothing,
);

async fn a_hot_counter_loses_no_update(engine: Engine) {
    let opened = engine.open().await.with_items().await;
    let bench = &opened.nodes[0];
    let table = bench.clone();
    let rounds = if engine.is_quick() { 10 } else { 2 };
    at_once(64, move |_| {
        let bench = table.clone();
        async move {
            for _ in 0..rounds {
                let update = json!({
                    "TableName": "items", "Key": { "id": { "S": "hot" } }, "UpdateExpression": "ADD n :one",
                    "ExpressionAttributeValues": { ":one": { "N": "1" } },
                });
                bench.ok("UpdateItem", update).await;
            }
        }
    })
    .await;
    assert_eq!(
        bench.get("items", json!({ "id": { "S": "hot" } })).await["n"],
        json!({ "N": (64 * rounds).to_string() })
    );
}

async fn two_nodes_lose_no_update(engine: Engine) {
    let opened = engine.open().await.with_items().await;
    let nodes = &opened.nodes;
    let both = nodes.clone();
    at_once(8, move |number| {
        let bench = both[number % 2].clone();
        async move {
            for _ in 0..20 {
                let update = json!({
                    "TableName": "items", "Key": { "id": { "S": "hot" } },
                    "UpdateExpression": "SET n = if_not_exists(n, :zero) + :one",
                    "ExpressionAttributeValues": { ":one": { "N": "1" }, ":zero": { "N": "0" } },
                });
                bench.ok("UpdateItem", update).await;
            }
        }
    })
    .await;
    assert_eq!(nodes[0].get("items", json!({ "id": { "S": "hot" } })).await["n"], json!({ "N": "160" }));
}

async fn of_many_that_would_be_first_one_is(engine: Engine) {
    let opened = engine.open().await.with_items().await;
    let winners = shared(AtomicUsize::new(0));
    let (both, won) = (opened.nodes.clone(), Arc::clone(&winners));
    at_once(32, move |number| {
        let (bench, won) = (both[number % 2].clone(), Arc::clone(&won));
        async move {
            let put = json!({
                "TableName": "items", "Item": { "id": { "S": "a" }, "by": { "N": number.to_string() } },
                "ConditionExpression": "attribute_not_exists(id)",
            });
            match bench.call("PutItem", put).await {
                Ok(_) => {
                    won.fetch_add(1, Ordering::SeqCst);
                }
                Err(error) => assert_eq!(error.code, "ConditionalCheckFailedException"),
            }
        }
    })
    .await;
    assert_eq!(winners.load(Ordering::SeqCst), 1);
}

async fn a_table_deleted_under_its_writers_leaves_nothing(engine: Engine) {
    let opened = engine.open().await.with_items().await;
    let bench = &opened.nodes[0];
    let both = opened.nodes.clone();
    at_once(8, move |number| {
        let bench = both[number % 2].clone();
        async move {
            for count in 0..20 {
                if number == 0 && count == 10 {
                    bench.ok("DeleteTable", json!({ "TableName": "items" })).await;
                }
                let item = json!({ "id": { "S": format!("{number}-{count}") } });
                if let Err(error) = bench.call("PutItem", json!({ "TableName": "items", "Item": item })).await {
                    assert_eq!(error.code, "ResourceNotFoundException");
                }
            }
        }
    })
    .await;
    while bench.service.sweep().await.unwrap() > 0 {}
    let left = bench.stored().await;
    assert!(left.is_empty(), "{left:?}");
}
