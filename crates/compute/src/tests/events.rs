//! The asynchronous queue: durable before it is acknowledged, run at least once, retried, given up.
//!
//! The store is the one in memory; a restart is another engine on the same store while the first is dropped.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use model::ports::Invoker;
use model::{InvocationKind, InvokeError, Trigger};
use store::Range;

use crate::FunctionEvents;

use super::fixtures::{World, invocation};
use super::guests::Guests;

async fn accept(world: &World, name: &str, id: &str) {
    let mut event = invocation(name, id, "{\"n\":1}");
    event.kind = InvocationKind::Event;
    world.engine.accept(event).await.unwrap();
}

async fn kept(world: &World) -> usize {
    world.store.range(&Range::prefix(&b"a"[..])).await.unwrap().entries.len()
}

async fn until_kept(world: &World, count: usize) {
    for _ in 0..100_000 {
        if kept(world).await == count {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{} keys are kept, not {count}", kept(world).await);
}

fn tries(world: &World, id: &str) -> usize {
    world.guests.seen.lock().get(id).copied().unwrap_or(0)
}

#[tokio::test(start_paused = true)]
async fn an_event_is_kept_run_and_forgotten() {
    let world = World::new();
    world.deploy("f", "sleep 100", |_| {});
    accept(&world, "f", "e-1").await;
    assert_eq!(kept(&world).await, 2);
    until_kept(&world, 0).await;
    assert_eq!(tries(&world, "e-1"), 1);
    let records = world.records.0.lock();
    assert_eq!((records.len(), records[0].trigger), (1, Trigger::AsyncQueue));
}

#[tokio::test(start_paused = true)]
async fn a_failing_event_is_tried_three_times_then_dropped() {
    let world = World::new();
    world.deploy("f", "throw", |_| {});
    let began = tokio::time::Instant::now();
    accept(&world, "f", "e-1").await;
    until_kept(&world, 0).await;
    assert_eq!(tries(&world, "e-1"), 3);
    let took = began.elapsed().as_secs();
    assert!((180..182).contains(&took), "one minute, then two: {took}");
    let roots: BTreeSet<String> =
        world.guests.traces.lock().iter().map(|trace| trace.split(';').next().unwrap().to_owned()).collect();
    assert!(roots.len() == 1 && roots.first().unwrap().starts_with("Root=1-"), "one trace for all tries: {roots:?}");
    world.deploy("g", "throw_until 1", |_| {});
    accept(&world, "g", "e-2").await;
    until_kept(&world, 0).await;
    assert_eq!(tries(&world, "e-2"), 2, "it ends with its first success");
}

#[tokio::test(start_paused = true)]
async fn throttled_events_wait_and_run() {
    let world = World::new();
    world.deploy("f", "sleep 1000", |version| version.reserved_concurrency = Some(1));
    let started = tokio::time::Instant::now();
    for event in 0..10 {
        accept(&world, "f", &format!("e-{event}")).await;
    }
    until_kept(&world, 0).await;
    assert!((0..10).all(|event| tries(&world, &format!("e-{event}")) == 1));
    // One after the other without a pause: none was refused and waited for another try.
    assert!(started.elapsed() < Duration::from_secs(12), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn events_beyond_the_slots_wait_their_turn_and_stop_nobody() {
    let world = World::with(Guests::new(), |config| config.async_queue.slots = 100);
    world.deploy("quick", "echo", |_| {});
    for function in 0..4 {
        let name = format!("slow-{function}");
        world.deploy(&name, "sleep 20000", |version| version.timeout_ms = 60_000);
        for event in 0..100 {
            accept(&world, &name, &format!("s-{function}-{event}")).await;
        }
    }
    let began = tokio::time::Instant::now();
    accept(&world, "quick", "q").await;
    world.until("the quick one ran", |world| tries(world, "q") == 1).await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    let ran =
        |world: &World, function| (0..100).filter(|event| tries(world, &format!("s-{function}-{event}")) > 0).count();
    assert!((0..4).all(|function| (1..=50).contains(&ran(&world, function))), "each has some, none has all");
    until_kept(&world, 0).await;
    assert!((0..4).all(|function| ran(&world, function) == 100));
}

#[tokio::test(start_paused = true)]
async fn unfinished_events_run_again_after_a_restart() {
    let mut world = World::new();
    world.deploy("f", "sleep 100000", |version| version.timeout_ms = 900_000);
    world.deploy("g", "throw_until 1", |_| {});
    accept(&world, "f", "e-1").await;
    accept(&world, "g", "e-2").await;
    world.until("both were tried", |world| tries(world, "e-1") == 1 && tries(world, "e-2") == 1).await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    world.deploy("f", "sleep 10", |version| version.revision = "2".into());
    world.restart();
    world.until("the cut one runs at once", |world| tries(world, "e-1") == 2).await;
    until_kept(&world, 0).await;
    assert_eq!((tries(&world, "e-1"), tries(&world, "e-2")), (2, 2));
}

/// Where there are several nodes, nobody knows of another that it is dead but by the end of its leases.
#[tokio::test(start_paused = true)]
async fn the_event_of_a_dead_node_runs_when_its_lease_ends() {
    let lease = Duration::from_secs(60);
    let mut world = World::with(Guests::new(), |config| {
        config.async_queue.sole_node = false;
        config.async_queue.lease = lease;
    });
    world.deploy("f", "sleep 100000", |version| version.timeout_ms = 900_000);
    let began = tokio::time::Instant::now();
    accept(&world, "f", "e-1").await;
    world.until("it runs", |world| tries(world, "e-1") == 1).await;
    world.deploy("f", "echo", |version| version.revision = "2".into());
    world.restart();
    until_kept(&world, 0).await;
    assert_eq!(tries(&world, "e-1"), 2);
    assert!((lease..lease + Duration::from_secs(2)).contains(&began.elapsed()), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn events_of_a_drained_engine_run_in_the_next() {
    let mut world = World::new();
    world.deploy("f", "sleep 100000", |version| version.timeout_ms = 900_000);
    accept(&world, "f", "e-1").await;
    world.until("it runs", |world| tries(world, "e-1") == 1).await;
    world.engine.drain(Duration::from_millis(100)).await;
    assert_eq!(kept(&world).await, 2);
    world.deploy("f", "echo", |version| version.revision = "2".into());
    world.restart();
    until_kept(&world, 0).await;
    assert_eq!(tries(&world, "e-1"), 2);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_accepted_is_refused() {
    let world = World::new();
    world.deploy("f", "echo", |_| {});
    let refused = world.engine.accept(invocation("nobody", "e", "1")).await;
    assert!(matches!(refused, Err(InvokeError::NotFound(_))));
    let refused = world.engine.accept(invocation("f", "e", "{")).await;
    assert!(matches!(refused, Err(InvokeError::PayloadNotJson(_))));
    let large = format!("\"{}\"", "x".repeat(1024 * 1024));
    let refused = world.engine.accept(invocation("f", "e", &large)).await;
    assert!(matches!(refused, Err(InvokeError::PayloadTooLarge { kind: "Event", .. })));
    assert_eq!(kept(&world).await, 0);
}

#[tokio::test(start_paused = true)]
async fn an_event_of_a_deleted_function_is_given_up() {
    let world = World::new();
    world.deploy("f", "throw", |_| {});
    accept(&world, "f", "e-1").await;
    world.until("it was tried", |world| tries(world, "e-1") == 1).await;
    world.catalog.versions.lock().clear();
    until_kept(&world, 0).await;
    assert_eq!(tries(&world, "e-1"), 1);
}

/// What an operator is told of one function.
async fn told(world: &World, name: &str) -> FunctionEvents {
    let told = world.engine.events().await.unwrap();
    assert!(!told.more);
    told.functions.into_iter().find(|events| events.function.name.as_str() == name).unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_became_of_events_is_told() {
    let world = World::with(Guests::new(), |config| config.async_queue.slots = 4);
    world.deploy("f", "sleep 10000", |version| {
        version.reserved_concurrency = Some(1);
        version.timeout_ms = 60_000;
    });
    world.deploy("g", "throw", |_| {});
    for event in 0..3 {
        accept(&world, "f", &format!("f-{event}")).await;
    }
    world.until("one runs", |world| tries(world, "f-0") == 1).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let events = told(&world, "f").await;
    assert_eq!((events.counts.received, events.counts.begun, events.waiting, events.running), (3, 1, 2, 1));
    assert!(events.oldest_ms.is_some_and(|ms| (1_900..3_000).contains(&ms)), "{events:?}");
    accept(&world, "g", "g-1").await;
    until_kept(&world, 0).await;
    let events = told(&world, "f").await;
    assert_eq!((events.counts.begun, events.waiting, events.running, events.oldest_ms), (3, 0, 0, None));
    // The second began after ten seconds, the third after twenty.
    assert!((28_000..33_000).contains(&events.counts.age_sum_ms), "{events:?}");
    assert!(events.counts.dropped.is_empty());
    let events = told(&world, "g").await;
    assert_eq!((events.counts.received, events.counts.begun), (1, 3));
    assert_eq!(events.counts.dropped.into_iter().collect::<Vec<_>>(), [("RetriesExhausted", 1)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_events_run_once_each() {
    let world = Arc::new(World::with(Guests::new(), |config| config.async_queue.slots = 16));
    world.deploy("f", "echo", |_| {});
    for event in 0..1_000 {
        accept(&world, "f", &format!("e-{event}")).await;
    }
    until_kept(&world, 0).await;
    assert!((0..1_000).all(|event| tries(&world, &format!("e-{event}")) == 1));
    assert_eq!(world.records.0.lock().len(), 1_000);
}

#[tokio::test(start_paused = true)]
async fn an_event_runs_where_its_alias_leads_when_it_runs() {
    let world = World::new();
    world.point("f", "live", "1", "throw");
    let mut event = invocation("f", "e-1", "1");
    event.function.qualifier = Some("live".into());
    world.engine.accept(event).await.unwrap();
    world.until("the first try has failed", |world| world.records.0.lock().len() == 1).await;
    world.point("f", "live", "2", "echo");
    until_kept(&world, 0).await;
    let records = world.records.0.lock();
    let versions: Vec<&str> = records.iter().map(|record| record.version.as_str()).collect();
    assert_eq!(versions, ["1", "2"]);
    assert!(records.iter().all(|record| record.function.qualifier.is_none()));
}

#[tokio::test(start_paused = true)]
async fn all_qualifiers_of_a_function_share_its_slots() {
    let world = World::with(Guests::new(), |config| config.async_queue.slots = 4);
    for (qualifier, version) in [("1", "1"), ("2", "2"), ("live", "2")] {
        world.point("f", qualifier, version, "sleep 1000");
    }
    world.deploy("g", "echo", |_| {});
    for (number, qualifier) in ["1", "2", "live", "1", "2", "live"].into_iter().enumerate() {
        let mut event = invocation("f", &format!("e-{number}"), "1");
        event.function.qualifier = Some(qualifier.into());
        world.engine.accept(event).await.unwrap();
    }
    accept(&world, "g", "quick").await;
    world.until("the other function's event has run", |world| tries(world, "quick") == 1).await;
    assert_eq!(world.records.0.lock().iter().filter(|record| record.function.name.as_str() == "f").count(), 0);
    until_kept(&world, 0).await;
}
