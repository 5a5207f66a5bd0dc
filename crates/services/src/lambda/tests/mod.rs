//! Behaviour of the `lambda` service on a store in memory, with an invoker that records.
//!
//! `functions` covers the life of functions and their packages, `layers` layers, `versions`, `aliases` and `provisioned` what
//! is published of them, `event_configs` what is asked of their events, `code_signing` whose code they take, `policies` who may call them,
//! `images` functions from container images, `mappings` event source mappings, `tenants` whose environments calls get and what network they are in, `surface` everything around them. Start at `Platform`.

mod aliases;
mod code_signing;
mod event_configs;
mod functions;
mod images;
mod layers;
mod mappings;
mod policies;
mod provisioned;
mod surface;
mod tenants;
mod versions;

use std::collections::HashMap;
use std::io::{Cursor, Write};
use std::sync::Arc;

use async_trait::async_trait;
use aws::{Call, Error, Reply, Service};
use base::{Clock, ManualClock, SeededRandom};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use model::ports::{Catalog as _, EventTarget, Invoker};
use model::{
    AccountId, Delivery, DeliveryError, Family, FloorState, FunctionRef, Invocation, InvokeError, Outcome, Principal,
    Region, Runtime, SnapshotState,
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use store::{Blobs, MemoryBlobs, MemoryStore, Range, Store};
use zip::write::{SimpleFileOptions, ZipWriter};

use super::{Config, Functions, LambdaService};

/// 2024-01-02T03:04:05.678Z
const NOW_MS: u64 = 1_704_164_645_678;

/// Remembers what it was asked to run and answers what it was told to.
#[derive(Default)]
struct Recorder {
    seen: Mutex<Vec<(&'static str, Option<Invocation>)>>,
    answer: Mutex<Option<Result<Outcome, InvokeError>>>,
    /// What there is of environments that versions are to have always.
    floors: Mutex<HashMap<String, FloorState>>,
    prepared: Mutex<Vec<String>>,
    /// How far the snapshots of versions are.
    snapshots: Mutex<HashMap<String, SnapshotState>>,
}

#[async_trait]
impl Invoker for Recorder {
    async fn invoke(&self, invocation: Invocation) -> Result<Outcome, InvokeError> {
        self.seen.lock().push(("invoke", Some(invocation)));
        self.answer.lock().take().unwrap()
    }

    async fn accept(&self, invocation: Invocation) -> Result<(), InvokeError> {
        self.seen.lock().push(("accept", Some(invocation)));
        self.answer.lock().take().map_or(Ok(()), |answer| answer.map(|_| ()))
    }

    async fn dry_run(&self, _: &FunctionRef) -> Result<(), InvokeError> {
        self.seen.lock().push(("dry_run", None));
        self.answer.lock().take().map_or(Ok(()), |answer| answer.map(|_| ()))
    }

    fn floor(&self, _: &FunctionRef, version: &str) -> FloorState {
        self.floors.lock().get(version).cloned().unwrap_or_default()
    }

    fn prepare(&self, function: &FunctionRef) {
        let qualifier = function.qualifier.as_ref().map_or(String::new(), |version| format!(":{version}"));
        self.prepared.lock().push(format!("{}{qualifier}", function.name));
    }

    fn runtime_version(&self, runtime: &Runtime, region: &Region) -> Option<Result<String, String>> {
        match runtime.family() {
            Family::Node => Some(Ok(format!("arn:aws:lambda:{region}::runtime:{runtime}"))),
            Family::Provided => None,
            _ => Some(Err(format!("{runtime} is not here"))),
        }
    }

    fn snapshot(&self, function: &FunctionRef, version: &str) -> SnapshotState {
        assert_eq!(function.qualifier, None);
        self.snapshots.lock().get(version).cloned().unwrap_or(SnapshotState::Open)
    }
}

/// A service that takes events for what it has: functions that there are, or one queue.
enum Target {
    Functions(Arc<Functions>),
    Queue,
}

#[async_trait]
impl EventTarget for Target {
    fn service(&self) -> &'static str {
        match self {
            Self::Functions(_) => "lambda",
            Self::Queue => "sqs",
        }
    }

    fn event_bytes_max(&self) -> usize {
        1_024
    }

    async fn has(&self, arn: &str) -> bool {
        match (self, FunctionRef::parse_arn(arn)) {
            (Self::Functions(functions), Some(function)) => functions.version(&function).await.is_ok(),
            (Self::Functions(_), None) => false,
            (Self::Queue, _) => arn.ends_with(":there"),
        }
    }

    async fn deliver(&self, _: Delivery) -> Result<(), DeliveryError> {
        Err(DeliveryError::Refused("nothing is delivered here".into()))
    }
}

/// A service with all that it stands on.
struct Platform {
    store: Arc<dyn Store>,
    blobs: Arc<dyn Blobs>,
    clock: Arc<ManualClock>,
    functions: Arc<Functions>,
    invoker: Arc<Recorder>,
    service: Arc<LambdaService>,
}

impl Platform {
    fn new() -> Self {
        Self::with(Config::default())
    }

    fn with(config: Config) -> Self {
        let (store, blobs) = (MemoryStore::shared(), MemoryBlobs::shared());
        let clock = ManualClock::at_ms(NOW_MS);
        let as_clock: Arc<dyn Clock> = clock.clone();
        let functions = Functions::new(store.clone(), blobs.clone(), as_clock, SeededRandom::new(1), config);
        let invoker = Arc::new(Recorder::default());
        let service = Arc::new(LambdaService::new(
            functions.clone(),
            invoker.clone(),
            vec![Arc::new(Target::Functions(functions.clone())), Arc::new(Target::Queue)],
            vec![Arc::new(mappings::Source("sqs")), Arc::new(mappings::Source("kinesis"))],
        ));
        Self { store, blobs, clock, functions, invoker, service }
    }

    async fn call(&self, operation: &'static str, input: Value) -> Result<Reply, Error> {
        self.service.call(call(operation, input)).await
    }

    async fn ok(&self, operation: &'static str, input: Value) -> Value {
        self.call(operation, input).await.unwrap_or_else(|error| panic!("{operation}: {error}")).output
    }

    async fn fails(&self, operation: &'static str, input: Value) -> (u16, String, String) {
        let error = self.call(operation, input).await.expect_err(operation);
        (error.status, error.code, error.message)
    }

    async fn create(&self, name: &str) -> Value {
        self.ok("CreateFunction", creation(name)).await
    }

    /// Gives the function other code and publishes it.
    async fn publish(&self, name: &str, content: &str) -> Value {
        let input = json!({"FunctionName": name, "ZipFile": code(content), "Publish": true});
        self.ok("UpdateFunctionCode", input).await
    }

    /// Every key of the store and every blob.
    async fn everything(&self) -> (usize, usize) {
        let keys = self.store.range(&Range::prefix("")).await.unwrap().entries.len();
        (keys, self.blobs.list("").await.unwrap().len())
    }
}

fn call(operation: &'static str, input: Value) -> Call {
    Call {
        operation,
        input,
        payload: Bytes::new(),
        principal: Principal {
            account: AccountId::default(),
            arn: "arn:aws:iam::000000000000:root".into(),
            user_id: "000000000000".into(),
            access_key: "test".into(),
        },
        region: Region::default(),
        source_ip: None,
        headers: http::HeaderMap::new(),
        endpoint: "http://localhost:4566".into(),
        request_id: "7f3a0000-0000-4000-8000-000000000000".into(),
    }
}

fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in entries {
        writer.start_file(*name, SimpleFileOptions::default()).unwrap();
        writer.write_all(content).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn base64(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

fn code(content: &str) -> String {
    base64(&zip(&[("index.js", content.as_bytes())]))
}

fn creation(name: &str) -> Value {
    json!({
        "FunctionName": name,
        "Runtime": "nodejs20.x",
        "Role": "arn:aws:iam::000000000000:role/r",
        "Handler": "index.handler",
        "Code": {"ZipFile": code("one")},
    })
}

fn with(mut input: Value, member: &str, value: Value) -> Value {
    input[member] = value;
    input
}

fn reference(name: &str) -> FunctionRef {
    FunctionRef::parse_arn(&format!("arn:aws:lambda:us-east-1:000000000000:function:{name}")).unwrap()
}
