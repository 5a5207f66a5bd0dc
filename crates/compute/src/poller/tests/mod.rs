//! The decisions of pollers over many seeds, and pollers of a whole engine on a queue and a stream in memory.

mod kills;
mod lanes;
mod queues;
mod restarts;
mod seeds;
mod streams;

use std::sync::Arc;

use model::{FunctionRef, Mapping, MappingNews, Position, Wanted};
use parking_lot::Mutex;
use serde_json::Value;

use crate::tests::fixtures::{World, reference};

const QUEUE: &str = "arn:aws:sqs:us-east-1:000000000000:q";
const STREAM: &str = "arn:aws:kinesis:us-east-1:000000000000:stream/s";

fn mapping(source: &str, function: &str) -> Mapping {
    Mapping {
        arn: format!("arn:aws:lambda:us-east-1:000000000000:event-source-mapping:{function}"),
        revision: 1,
        wanted: Wanted::Polled,
        function: FunctionRef { ..reference(function) },
        source: source.into(),
        start: Position::TrimHorizon,
        batch_records: 10,
        window_ms: 0,
        filters: Vec::new(),
        reports_failures: false,
        concurrency_max: None,
        concurrency_min: None,
        lanes: 1,
        retries_max: None,
        age_max_ms: None,
        bisects: false,
        tumbling_ms: 0,
        on_failure: None,
    }
}

/// Has the catalog tell of a mapping, in place of the one of the same ARN.
fn map(world: &World, mapping: Mapping) {
    world.catalog.mappings.send_modify(|mappings| {
        mappings.insert(mapping.arn.clone(), Arc::new(mapping));
    });
}

/// Whether a revision of a mapping was told as settled.
fn is_settled(world: &World, mapping: &Mapping) -> bool {
    let (arn, revision) = (mapping.arn.clone(), mapping.revision);
    world.catalog.told.lock().contains(&MappingNews::Settled { arn, revision })
}

fn results(world: &World) -> Vec<String> {
    let told = world.catalog.told.lock();
    let results = told.iter().filter_map(|news| match news {
        MappingNews::Result { words, .. } => Some(words.clone()),
        MappingNews::Settled { .. } => None,
    });
    results.collect()
}

/// Events that functions got.
type Events = Arc<Mutex<Vec<Value>>>;

/// Deploys a function that remembers its events and answers what `answer` says; nothing is an error.
fn deploy(
    world: &World,
    name: &str,
    ms: u64,
    mut answer: impl FnMut(&Value) -> Option<String> + Send + 'static,
) -> Events {
    let events = Events::default();
    let seen = events.clone();
    *world.guests.script.lock() = Box::new(move |event| {
        let event: Value = serde_json::from_slice(event).unwrap();
        let answer = answer(&event);
        seen.lock().push(event);
        answer
    });
    world.deploy(name, &format!("script {ms}"), |version| version.timeout_ms = 60_000);
    events
}

/// What each event says at this place of each of its records.
fn texts(events: &Events, pointer: &str) -> Vec<Vec<String>> {
    let of = |event: &Value| {
        let records = event["Records"].as_array().unwrap().iter();
        records.map(|record| record.pointer(pointer).and_then(Value::as_str).unwrap().to_owned()).collect()
    };
    events.lock().iter().map(of).collect()
}
