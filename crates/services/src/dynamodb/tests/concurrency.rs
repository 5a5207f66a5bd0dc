//! Many at once: nothing is lost, nothing fails, nothing is seen half.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hot_counter_loses_no_update() {
    let bench = Bench::with_items().await;
    let table = bench.clone();
    at_once(64, move |_| {
        let bench = table.clone();
        async move {
            for _ in 0..10 {
                let update = json!({
                    "TableName": "items", "Key": { "id": { "S": "hot" } }, "UpdateExpression": "ADD n :one",
                    "ExpressionAttributeValues": { ":one": { "N": "1" } },
                });
                bench.ok("UpdateItem", update).await;
            }
        }
    })
    .await;
    assert_eq!(bench.get("items", json!({ "id": { "S": "hot" } })).await["n"], json!({ "N": "640" }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_on_one_store_lose_no_update() {
    let store = MemoryStore::shared();
    let nodes = [Bench::over(store.clone(), 1), Bench::over(store, 2)];
    nodes[0].create("items", &[("id", "S")]).await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_that_would_be_first_one_is() {
    let bench = Bench::with_items().await;
    let winners = shared(AtomicUsize::new(0));
    let (table, won) = (bench.clone(), Arc::clone(&winners));
    at_once(32, move |number| {
        let (bench, won) = (table.clone(), Arc::clone(&won));
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_deleted_under_its_writers_leaves_nothing() {
    let bench = Bench::with_items().await;
    let table = bench.clone();
    at_once(8, move |number| {
        let bench = table.clone();
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
