//! Behaviour of the service: on a store in memory, and what concerns the store on every engine (`engines`).
//!
//! Not here: tests of pure parts that fit beside them. Error texts follow the reference of the service, since clients
//! look at them.
//!
//! Start reading at `Bench`.

mod backups;
mod concurrency;
mod engines;
mod expressions;
mod fuzz;
mod histories;
mod index_sequences;
mod indexes;
mod items;
mod legacy;
mod limits;
mod pages;
mod partiql;
mod policies;
mod pure;
mod refusals;
mod semantics;
mod streams;
mod tables;
mod throttling;
mod transactions;
mod ttl;
mod updates;

use std::sync::Arc;

use aws::{Call, Service};
use base::{ManualClock, SeededRandom};
use model::{AccountId, Body, Principal, Region};
use serde_json::{Value as Json, json};
use store::memory::MemoryStore;

use super::{Config, DynamoDb};

/// A service and a way to call it.
#[derive(Clone)]
struct Bench {
    service: DynamoDb,
    clock: Arc<ManualClock>,
}

type Refusal = aws::Error;

impl Bench {
    fn new() -> Self {
        Self::over(MemoryStore::shared(), 1)
    }

    /// One of several nodes over one store.
    fn over(store: Arc<dyn store::Store>, seed: u64) -> Self {
        Self::of(store, seed, Config::default())
    }

    fn of(store: Arc<dyn store::Store>, seed: u64, config: Config) -> Self {
        let clock = ManualClock::at_ms(1_700_000_000_123);
        let service = DynamoDb::new(store, clock.clone(), SeededRandom::new(seed), config);
        Self { service, clock }
    }

    /// With a table `items`: key `id` (S).
    async fn with_items() -> Self {
        let bench = Self::new();
        bench.create("items", &[("id", "S")]).await;
        bench
    }

    /// With a table `events`: keys `id` (S) and `at` (N).
    async fn with_events() -> Self {
        let bench = Self::new();
        bench.create("events", &[("id", "S"), ("at", "N")]).await;
        bench
    }

    async fn create(&self, name: &str, keys: &[(&str, &str)]) -> Json {
        self.ok("CreateTable", create_input(name, keys)).await
    }

    async fn call_in(&self, region: &str, operation: &'static str, input: Json) -> Result<Json, Refusal> {
        let principal = Principal {
            account: AccountId::default(),
            arn: "arn:aws:iam::000000000000:root".into(),
            user_id: "000000000000".into(),
            access_key: "test".into(),
        };
        let call = Call {
            operation,
            input,
            payload: bytes::Bytes::new(),
            principal,
            region: Region::parse(region).unwrap(),
            source_ip: None,
            headers: http::HeaderMap::new(),
            endpoint: "http://localhost:4566".into(),
            request_id: "test".into(),
        };
        self.answer(call).await
    }

    async fn answer(&self, call: Call) -> Result<Json, Refusal> {
        // What is large is written already.
        self.service.call(call).await.map(|reply| match reply.payload {
            Some(Body::Whole(text)) if text.is_empty() => json!({}),
            Some(Body::Whole(text)) => serde_json::from_slice(&text).unwrap(),
            _ => reply.output,
        })
    }

    async fn call(&self, operation: &'static str, input: Json) -> Result<Json, Refusal> {
        self.call_in("us-east-1", operation, input).await
    }

    async fn ok(&self, operation: &'static str, input: Json) -> Json {
        self.call(operation, input).await.unwrap_or_else(|error| panic!("{operation}: {error}"))
    }

    /// Calls what must be refused with this code and message.
    async fn refused(&self, operation: &'static str, input: Json, code: &str, message: &str) -> Refusal {
        let error = self.call(operation, input.clone()).await.expect_err("the call must be refused");
        assert_eq!((error.code.as_str(), error.message.as_str()), (code, message), "{operation} {input}");
        error
    }

    async fn invalid(&self, operation: &'static str, input: Json, message: &str) {
        let error = self.refused(operation, input, "ValidationException", message).await;
        assert_eq!(error.status, 400);
    }

    async fn put(&self, table: &str, item: Json) {
        self.ok("PutItem", json!({ "TableName": table, "Item": item })).await;
    }

    /// What lies in the store of this service; all of it.
    async fn stored(&self) -> Vec<store::Entry> {
        let all = store::Range::prefix(vec![model::prefixes::DYNAMODB.byte]);
        self.service.shared.store.range(&all).await.unwrap().entries
    }

    async fn get(&self, table: &str, key: Json) -> Json {
        self.ok("GetItem", json!({ "TableName": table, "Key": key })).await["Item"].clone()
    }
}

fn create_input(name: &str, keys: &[(&str, &str)]) -> Json {
    let kinds = ["HASH", "RANGE"];
    let definitions = keys.iter().map(|(name, kind)| json!({ "AttributeName": name, "AttributeType": kind }));
    let schema = keys.iter().zip(kinds).map(|((name, _), kind)| json!({ "AttributeName": name, "KeyType": kind }));
    json!({
        "TableName": name,
        "AttributeDefinitions": definitions.collect::<Vec<_>>(),
        "KeySchema": schema.collect::<Vec<_>>(),
        "BillingMode": "PAY_PER_REQUEST",
    })
}

/// Runs `work` for each number at once and waits for all.
async fn at_once<F: Future<Output = ()> + Send + 'static>(count: usize, work: impl Fn(usize) -> F) {
    let tasks: Vec<_> = (0..count).map(|number| tokio::spawn(work(number))).collect();
    for task in tasks {
        task.await.unwrap();
    }
}

fn shared<T>(value: T) -> Arc<T> {
    Arc::new(value)
}
