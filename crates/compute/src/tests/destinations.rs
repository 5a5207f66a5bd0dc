//! The end of an event: what the rules of its qualifier say of retries and age, and the delivery of its record.
//!
//! Beside functions there is one service of queues, which remembers what it got (`fixtures::Queues`).

use std::sync::atomic::Ordering;
use std::time::Duration;

use model::ports::Invoker;
use model::{Delivery, DeliveryError, EventRules, FunctionRef, InvocationKind, InvokeError};
use serde_json::{Value, json};
use store::Range;

use super::fixtures::{World, invocation, reference};

pub(super) const QUEUE: &str = "arn:aws:sqs:us-east-1:000000000000:q";

pub(super) fn function_arn(name: &str) -> String {
    reference(name).arn()
}

pub(super) fn qualified(name: &str, qualifier: Option<&str>) -> FunctionRef {
    FunctionRef { qualifier: qualifier.map(str::to_owned), ..reference(name) }
}

pub(super) fn rule(world: &World, function: FunctionRef, rules: EventRules) {
    world.catalog.rules.lock().insert(function, rules);
}

pub(super) fn told(on_success: Option<&str>, on_failure: Option<&str>) -> EventRules {
    let arn = |text: Option<&str>| text.map(str::to_owned);
    EventRules { on_success: arn(on_success), on_failure: arn(on_failure), ..EventRules::default() }
}

pub(super) async fn send(world: &World, function: FunctionRef, id: &str) {
    let mut event = invocation(function.name.as_str(), id, "{\"n\":1}");
    (event.function, event.kind) = (function, InvocationKind::Event);
    event.trace_id = Some("Root=1".into());
    world.engine.accept(event).await.unwrap();
}

pub(super) async fn until_empty(world: &World) {
    let kept = async || world.store.range(&Range::prefix(&b"a"[..])).await.unwrap().entries.len();
    for _ in 0..100_000 {
        if kept().await == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{} keys are kept", kept().await);
}

fn taken(world: &World) -> Vec<(Delivery, Value)> {
    let taken = world.queues.taken.lock();
    taken.iter().map(|delivery| (delivery.clone(), serde_json::from_slice(&delivery.event).unwrap())).collect()
}

#[tokio::test(start_paused = true)]
async fn the_record_of_a_success_goes_to_its_destination() {
    let world = World::new();
    world.deploy("f", "echo", |_| {});
    rule(&world, reference("f"), told(Some(QUEUE), None));
    send(&world, reference("f"), "e-1").await;
    until_empty(&world).await;
    let [(delivery, record)] = &taken(&world)[..] else { panic!("not one record") };
    assert_eq!((delivery.target.as_str(), delivery.trace_id.as_deref()), (QUEUE, Some("Root=1")));
    assert_eq!(
        record["requestContext"],
        json!({
            "requestId": "e-1",
            "functionArn": format!("{}:$LATEST", function_arn("f")),
            "condition": "Success",
            "approximateInvokeCount": 1,
        })
    );
    assert_eq!(record["requestPayload"], json!({"n": 1}));
    assert_eq!(record["responseContext"], json!({"statusCode": 200, "executedVersion": "$LATEST"}));
    assert_eq!(record["responsePayload"], json!({"n": 1}));
}

#[tokio::test(start_paused = true)]
async fn the_record_of_a_failure_comes_after_as_many_retries_as_the_rules_say() {
    for (retries, tries, seconds) in [(None, 3, 180), (Some(0), 1, 0), (Some(1), 2, 60)] {
        let world = World::new();
        world.deploy("f", "throw", |_| {});
        let rules = EventRules { retries_max: retries, ..told(Some("arn:aws:sqs:::never"), Some(QUEUE)) };
        rule(&world, reference("f"), rules);
        let began = tokio::time::Instant::now();
        send(&world, reference("f"), "e-1").await;
        until_empty(&world).await;
        assert!((seconds..seconds + 2).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
        let [(delivery, record)] = &taken(&world)[..] else { panic!("not one record") };
        assert_eq!(delivery.target, QUEUE);
        assert_eq!(record["requestContext"]["condition"], json!("RetriesExhausted"));
        assert_eq!(record["requestContext"]["approximateInvokeCount"], json!(tries));
        assert_eq!(record["responseContext"]["functionError"], json!("Unhandled"));
        assert!(record["responsePayload"]["errorType"].is_string(), "{record}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_rules_are_those_of_the_qualifier_and_hold_when_the_try_ends() {
    let world = World::new();
    world.point("f", "live", "1", "throw");
    world.deploy("f", "throw", |_| {});
    let live = qualified("f", Some("live"));
    rule(&world, reference("f"), EventRules { retries_max: Some(0), ..told(None, None) });
    send(&world, live.clone(), "e-1").await;
    world.until("the first try has failed", |world| world.records.0.lock().len() == 1).await;
    rule(&world, live, EventRules { retries_max: Some(1), ..told(None, Some(QUEUE)) });
    until_empty(&world).await;
    let [(_, record)] = &taken(&world)[..] else { panic!("not one record") };
    assert_eq!(record["requestContext"]["functionArn"], json!(format!("{}:live", function_arn("f"))));
    assert_eq!(record["requestContext"]["approximateInvokeCount"], json!(2));
    assert_eq!(record["responseContext"]["executedVersion"], json!("1"));
}

#[tokio::test(start_paused = true)]
async fn an_event_that_is_too_old_is_not_tried_again() {
    let world = World::new();
    world.deploy("f", "throw", |_| {});
    let rules = EventRules { age_max_s: Some(90), ..told(None, Some(QUEUE)) };
    rule(&world, reference("f"), rules);
    send(&world, reference("f"), "e-1").await;
    until_empty(&world).await;
    let [(_, record)] = &taken(&world)[..] else { panic!("not one record") };
    assert_eq!(record["requestContext"]["condition"], json!("EventAgeExceeded"));
    assert_eq!(record["requestContext"]["approximateInvokeCount"], json!(2), "the second retry would come too late");
}

#[tokio::test(start_paused = true)]
async fn an_event_that_waited_too_long_does_not_run_at_all() {
    let world = World::new();
    world.deploy("f", "sleep 100000", |version| {
        version.timeout_ms = 900_000;
        version.reserved_concurrency = Some(1);
    });
    let rules = EventRules { age_max_s: Some(60), ..told(Some(QUEUE), Some(QUEUE)) };
    rule(&world, reference("f"), rules);
    send(&world, reference("f"), "e-1").await;
    send(&world, reference("f"), "e-2").await;
    until_empty(&world).await;
    let records = taken(&world);
    let of = |id: &str| {
        let found = records.iter().find(|(_, record)| record["requestContext"]["requestId"] == json!(id));
        found.unwrap_or_else(|| panic!("no record of {id}")).1.clone()
    };
    assert_eq!(of("e-1")["requestContext"]["condition"], json!("Success"));
    let old = of("e-2");
    assert_eq!(old["requestContext"]["condition"], json!("EventAgeExceeded"));
    assert_eq!(old["requestContext"]["approximateInvokeCount"], json!(0));
    assert!(old.get("responseContext").is_none() && old.get("responsePayload").is_none(), "{old}");
    assert_eq!(world.guests.seen.lock().get("e-2"), None);
}

#[tokio::test(start_paused = true)]
async fn without_concurrency_the_event_goes_to_the_destination_at_once() {
    let world = World::new();
    world.deploy("f", "echo", |version| version.reserved_concurrency = Some(0));
    rule(&world, reference("f"), told(None, Some(QUEUE)));
    let began = tokio::time::Instant::now();
    send(&world, reference("f"), "e-1").await;
    until_empty(&world).await;
    assert!(began.elapsed() < Duration::from_secs(1));
    let [(_, record)] = &taken(&world)[..] else { panic!("not one record") };
    assert_eq!(record["requestContext"]["condition"], json!("ZeroReservedConcurrency"));
    assert!(record.get("responseContext").is_none(), "{record}");
}

#[tokio::test(start_paused = true)]
async fn a_function_gets_the_record_as_an_event_of_its_own() {
    let world = World::new();
    world.deploy("f", "throw", |_| {});
    world.point("g", "live", "3", "echo");
    let g = format!("{}:live", function_arn("g"));
    rule(&world, reference("f"), EventRules { retries_max: Some(0), ..told(None, Some(&g)) });
    rule(&world, qualified("g", Some("live")), told(Some(QUEUE), None));
    send(&world, reference("f"), "e-1").await;
    until_empty(&world).await;
    let [(delivery, record)] = &taken(&world)[..] else { panic!("not one record") };
    assert_ne!(record["requestContext"]["requestId"], json!("e-1"));
    assert_eq!(record["requestContext"]["functionArn"], json!(g));
    assert_eq!(record["requestPayload"]["requestContext"]["condition"], json!("RetriesExhausted"));
    assert_eq!(record["requestPayload"]["requestPayload"], json!({"n": 1}));
    assert_eq!(delivery.lineage.get(&function_arn("g")), Some(&1));
    assert_eq!(delivery.trace_id.as_deref(), Some("Root=1"), "the trace goes on");
}

#[tokio::test(start_paused = true)]
async fn functions_that_call_each_other_stop_after_a_while() {
    let world = World::new();
    for (name, other) in [("f", "g"), ("g", "f")] {
        world.deploy(name, "echo", |_| {});
        rule(&world, reference(name), told(Some(&function_arn(other)), None));
    }
    send(&world, reference("f"), "e-1").await;
    until_empty(&world).await;
    assert_eq!(world.records.0.lock().len(), 1 + 2 * 16);
}

#[tokio::test(start_paused = true)]
async fn a_chain_of_deliveries_that_is_stopped_is_told_of_once_and_one_that_is_allowed_goes_on() {
    let world = World::new();
    for (name, other) in [("f", "g"), ("g", "f")] {
        world.deploy(name, "echo", |_| {});
        rule(&world, reference(name), told(Some(&function_arn(other)), Some(QUEUE)));
    }
    send(&world, reference("f"), "e-1").await;
    until_empty(&world).await;
    assert_eq!(world.records.0.lock().len(), 1 + 2 * 16);
    let [(_, record)] = &taken(&world)[..] else { panic!("not one record") };
    assert_eq!(record["requestContext"]["condition"], json!("RecursiveLoop"));
    assert_eq!(record["requestContext"]["approximateInvokeCount"], json!(0));

    // Whoever hears of a stop and is in the loop does not make it endless.
    for (name, other) in [("f", "g"), ("g", "f")] {
        rule(&world, reference(name), told(Some(&function_arn(other)), Some(&function_arn(other))));
    }
    send(&world, reference("f"), "e-2").await;
    until_empty(&world).await;
    assert_eq!(world.records.0.lock().len(), 2 * (1 + 2 * 16));

    for name in ["f", "g"] {
        world.deploy(name, "echo", |version| version.allows_recursion = true);
    }
    send(&world, reference("f"), "e-3").await;
    // A loop that never rests leaves the paused clock no moment to go on: nothing here may wait for it.
    while world.records.0.lock().len() <= 4 * (1 + 2 * 16) {
        tokio::task::yield_now().await;
    }
    for name in ["f", "g"] {
        rule(&world, reference(name), EventRules::default());
    }
    until_empty(&world).await;
}

#[tokio::test(start_paused = true)]
async fn an_event_whose_chain_of_calls_has_come_back_too_often_is_not_run() {
    let world = World::new();
    world.deploy("f", "echo", |_| {});
    rule(&world, reference("f"), told(None, Some(QUEUE)));
    let mut trace = "Root=1".to_owned();
    for calls in 0..=16 {
        let mut event = invocation("f", &format!("e-{calls}"), "{}");
        event.trace_id = Some(trace.clone());
        world.engine.accept(event).await.unwrap();
        trace = crate::recursion::counted(Some(&trace), &reference("f")).unwrap();
    }
    until_empty(&world).await;
    assert_eq!(world.records.0.lock().len(), 16);
    let [(_, record)] = &taken(&world)[..] else { panic!("not one record") };
    assert_eq!(record["requestContext"]["requestId"], json!("e-16"));
    assert_eq!(record["requestContext"]["condition"], json!("RecursiveLoop"));
    let mut call = invocation("f", "sync", "{}");
    call.trace_id = Some(trace);
    let refused = world.engine.invoke(call).await;
    assert!(matches!(refused, Err(InvokeError::Recursive(_))), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn a_delivery_that_fails_for_now_comes_later() {
    let world = World::new();
    world.deploy("f", "echo", |_| {});
    rule(&world, reference("f"), told(Some(QUEUE), None));
    let later = || DeliveryError::Later("busy".into());
    *world.queues.answers.lock() = vec![later(), later(), later()];
    let began = tokio::time::Instant::now();
    send(&world, reference("f"), "e-1").await;
    until_empty(&world).await;
    assert_eq!(taken(&world).len(), 1);
    assert_eq!(began.elapsed().as_secs(), 1 + 2 + 4);
    assert_eq!(world.records.0.lock().len(), 1, "the function does not run again");
    *world.queues.answers.lock() = vec![DeliveryError::Refused("it is gone".into())];
    send(&world, reference("f"), "e-2").await;
    until_empty(&world).await;
    assert_eq!(taken(&world).len(), 1, "what is refused for good is not kept for ever");
}

#[tokio::test(start_paused = true)]
async fn a_record_whose_delivery_a_crash_cut_off_is_delivered_by_the_next_process() {
    let mut world = World::new();
    world.deploy("f", "throw", |_| {});
    rule(&world, reference("f"), EventRules { retries_max: Some(0), ..told(None, Some(QUEUE)) });
    world.queues.hangs.store(true, Ordering::SeqCst);
    send(&world, reference("f"), "e-1").await;
    world.until("it was tried", |world| world.records.0.lock().len() == 1).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(taken(&world).is_empty());
    world.queues.hangs.store(false, Ordering::SeqCst);
    world.restart();
    until_empty(&world).await;
    assert_eq!(taken(&world).len(), 1);
    assert_eq!(world.guests.seen.lock().get("e-1"), Some(&1), "the event had ended, only its record was left");
}
