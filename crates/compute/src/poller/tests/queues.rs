//! Mappings of a queue: batches, failures, filters, limits, stops.

use std::collections::BTreeSet;
use std::time::Duration;

use model::SourceError;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::*;
use crate::poller::doubles::LEASE_MS;

fn bodies(events: &Events) -> Vec<Vec<String>> {
    texts(events, "/body")
}

fn failures(ids: &[&str]) -> Option<String> {
    let items: Vec<Value> = ids.iter().map(|id| json!({"itemIdentifier": id})).collect();
    Some(json!({"batchItemFailures": items}).to_string())
}

#[tokio::test(start_paused = true)]
async fn messages_come_in_batches_and_are_acknowledged() {
    let world = World::new();
    let events = deploy(&world, "f", 10, |_| Some("null".into()));
    let mapping = Mapping { batch_records: 3, ..mapping(QUEUE, "f") };
    (0..7).for_each(|number| world.queue.send(&format!("m{number}"), &number.to_string(), None));
    map(&world, mapping.clone());
    world.until("all are acknowledged", |world| world.queue.len() == 0).await;
    assert!(is_settled(&world, &mapping));
    let seen = bodies(&events);
    assert!(seen.len() == 3 && seen.iter().all(|batch| batch.len() <= 3), "{seen:?}");
    assert_eq!(seen.iter().flatten().collect::<BTreeSet<_>>().len(), 7);
    assert_eq!(results(&world), ["OK"]);
    let record = world.records.0.lock().first().map(|record| record.trigger);
    assert_eq!(record, Some(model::Trigger::EventSource));
    // A message that comes later is there at once.
    let sent = Instant::now();
    world.queue.send("m7", "7", None);
    world.until("it is acknowledged", |world| world.queue.len() == 0).await;
    assert!(sent.elapsed() < Duration::from_millis(50), "{:?}", sent.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_batch_waits_for_its_window() {
    let world = World::new();
    let events = deploy(&world, "f", 0, |_| Some("null".into()));
    map(&world, Mapping { batch_records: 100, window_ms: 2_000, ..mapping(QUEUE, "f") });
    for number in 0..5 {
        world.queue.send(&format!("m{number}"), &number.to_string(), None);
        sleep(Duration::from_millis(300)).await;
    }
    assert_eq!(bodies(&events).len(), 0);
    world.until("all are acknowledged", |world| world.queue.len() == 0).await;
    assert_eq!(bodies(&events), [["0", "1", "2", "3", "4"]]);
    assert!((2_000..2_100).contains(&(world.clock_s() * 1_000)), "{}", world.clock_s());
}

#[tokio::test(start_paused = true)]
async fn what_fails_comes_again_when_its_lease_ends() {
    let world = World::new();
    let mut calls = 0;
    let events = deploy(&world, "f", 0, move |_| {
        calls += 1;
        (calls > 1).then(|| "null".into())
    });
    world.queue.send("m", "x", None);
    map(&world, mapping(QUEUE, "f"));
    world.until("it is acknowledged", |world| world.queue.len() == 0).await;
    assert_eq!(bodies(&events).len(), 2);
    assert_eq!(world.clock_s(), LEASE_MS / 1_000);
    assert_eq!(results(&world), ["PROBLEM: Function call failed", "OK"]);
}

#[tokio::test(start_paused = true)]
async fn only_those_that_are_named_come_again() {
    for reports_failures in [true, false] {
        let world = World::new();
        let mut calls = 0;
        let events = deploy(&world, "f", 0, move |_| {
            calls += 1;
            if calls == 1 { failures(&["m1", "m3"]) } else { Some("{}".into()) }
        });
        (0..4).for_each(|number| world.queue.send(&format!("m{number}"), &number.to_string(), None));
        map(&world, Mapping { reports_failures, ..mapping(QUEUE, "f") });
        world.until("all are acknowledged", |world| world.queue.len() == 0).await;
        let seen = bodies(&events);
        assert_eq!(seen[0], ["0", "1", "2", "3"]);
        if reports_failures {
            assert_eq!(seen[1..], [["1", "3"]]);
            assert_eq!(*world.queue.acked.lock(), ["m0", "m2", "m1", "m3"]);
        } else {
            assert_eq!(seen.len(), 1, "nobody asked");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_nobody_wants_is_acknowledged_and_never_seen() {
    let world = World::new();
    let events = deploy(&world, "f", 0, |_| Some("null".into()));
    for number in 0..20 {
        world.queue.send(&format!("m{number}"), &json!({"n": number}).to_string(), None);
    }
    world.queue.send("plain", "7", None);
    let filters = vec![json!({"body": {"n": [{"numeric": [">=", 15]}]}}).to_string()];
    map(&world, Mapping { filters, ..mapping(QUEUE, "f") });
    world.until("all are acknowledged", |world| world.queue.len() == 0).await;
    let seen: Vec<String> = bodies(&events).concat();
    assert_eq!(seen, (15..20).map(|number| json!({"n": number}).to_string()).collect::<Vec<_>>());
}

/// A trace in which `f` was called so often.
fn looped(calls: usize) -> Option<String> {
    let begin = "Root=1-a-b;Parent=c;Sampled=0".to_owned();
    Some((0..calls).fold(begin, |trace, _| crate::recursion::counted(Some(&trace), &reference("f")).unwrap()))
}

#[tokio::test(start_paused = true)]
async fn a_function_that_sends_to_its_own_queue_is_stopped() {
    let world = World::new();
    let (queue, traces) = (world.queue.clone(), world.guests.traces.clone());
    let events = deploy(&world, "f", 0, move |event| {
        let number: u32 = event["Records"][0]["body"].as_str().unwrap().parse().ok()?;
        // As an SDK does within a function: the header of the call goes along with what is sent.
        let trace = traces.lock().last().cloned();
        queue.send_in(trace, &format!("m{}", number + 1), &(number + 1).to_string(), None);
        Some("null".into())
    });
    world.queue.send("m1", "1", None);
    map(&world, mapping(QUEUE, "f"));
    world.until("the message is left and comes again", |world| world.queue.takes("m17") == 2).await;
    let numbers: Vec<String> = (1..=16).map(|number| number.to_string()).collect();
    assert_eq!(bodies(&events).concat(), numbers);
    assert_eq!((world.queue.len(), world.queue.acked.lock().len()), (1, 16));
    assert!(
        results(&world).contains(&"PROBLEM: Function was called in a recursive loop".to_owned()),
        "{:?}",
        results(&world)
    );
    let traces = world.guests.traces.lock().clone();
    let root = |trace: &String| trace.split(';').next().unwrap().to_owned();
    assert!(root(&traces[0]).starts_with("Root=1-") && traces.iter().all(|trace| root(trace) == root(&traces[0])));
}

#[tokio::test(start_paused = true)]
async fn a_loop_does_not_hold_up_the_other_messages_of_its_batch() {
    for allows in [false, true] {
        let world = World::new();
        let events = deploy(&world, "f", 0, |_| Some("null".into()));
        world.deploy("f", "script 0", |version| version.allows_recursion = allows);
        for (id, calls) in [("three", 3), ("loop", 16), ("five", 5)] {
            world.queue.send_in(looped(calls), id, id, None);
        }
        world.queue.send("none", "none", None);
        map(&world, mapping(QUEUE, "f"));
        let left = usize::from(!allows);
        world.until("the others are acknowledged", |world| world.queue.len() == left).await;
        let expected: &[&str] = if allows { &["three", "loop", "five", "none"] } else { &["three", "five", "none"] };
        assert_eq!(bodies(&events), [expected]);
        // The call goes on with the chain that has led to the function most often.
        let calls = if allows { 17 } else { 6 };
        assert_eq!(*world.guests.traces.lock(), [looped(calls).unwrap()]);
    }
}

#[tokio::test(start_paused = true)]
async fn what_comes_after_a_loop_in_its_group_waits_with_it() {
    let world = World::new();
    let events = deploy(&world, "f", 0, |_| Some("null".into()));
    for (id, calls, group) in [("a1", 1, "a"), ("b1", 16, "b"), ("a2", 1, "a"), ("b2", 1, "b")] {
        world.queue.send_in(looped(calls), id, id, Some(group));
    }
    map(&world, mapping(&format!("{QUEUE}.fifo"), "f"));
    world.until("the other group is handled", |world| world.queue.len() == 2).await;
    assert_eq!((bodies(&events), world.queue.takes("b2")), (vec![vec!["a1".to_owned(), "a2".to_owned()]], 1));
}

#[tokio::test(start_paused = true)]
async fn groups_keep_their_order() {
    let world = World::new();
    let mut calls = 0;
    let events = deploy(&world, "f", 50, move |_| {
        calls += 1;
        (calls % 3 != 0).then(|| "null".into())
    });
    for number in 0..40 {
        world.queue.send(&format!("m{number}"), &number.to_string(), Some(["a", "b", "c"][number % 3]));
    }
    map(&world, Mapping { batch_records: 4, ..mapping(&format!("{QUEUE}.fifo"), "f") });
    world.until("all are acknowledged", |world| world.queue.len() == 0).await;
    let acked = world.queue.acked.lock();
    for group in 0..3 {
        let of_group = acked.iter().filter_map(|id| id[1..].parse::<usize>().ok()).filter(|number| number % 3 == group);
        assert!(of_group.is_sorted(), "{acked:?}");
    }
    assert!(bodies(&events).len() > 10);
}

#[tokio::test(start_paused = true)]
async fn no_more_calls_run_than_are_allowed() {
    for (most, expected) in [(Some(2), 2..=2), (None, 6..=1_000)] {
        let world = World::new();
        deploy(&world, "f", 1_000, |_| Some("null".into()));
        (0..200).for_each(|number| world.queue.send(&format!("m{number}"), "x", None));
        map(&world, Mapping { batch_records: 1, concurrency_max: most, ..mapping(QUEUE, "f") });
        let mut top = 0;
        while world.queue.len() > 0 {
            sleep(Duration::from_millis(100)).await;
            let shown = world.engine.environments();
            top = top.max(shown.iter().filter(|shown| shown.state == crate::EnvironmentState::Busy).count());
        }
        assert!(expected.contains(&top), "{most:?}: {top}");
        assert_eq!(world.queue.acked.lock().len(), 200, "none came twice");
    }
}

#[tokio::test(start_paused = true)]
async fn refused_calls_are_tried_again_within_the_lease() {
    let world = World::new();
    let events = deploy(&world, "f", 400, |_| Some("null".into()));
    world.deploy("f", "script 400", |version| {
        version.timeout_ms = 60_000;
        version.reserved_concurrency = Some(1);
    });
    (0..12).for_each(|number| world.queue.send(&format!("m{number}"), "x", None));
    map(&world, Mapping { batch_records: 1, ..mapping(QUEUE, "f") });
    world.until("all are acknowledged", |world| world.queue.len() == 0).await;
    assert_eq!(bodies(&events).len(), 12);
    assert!(results(&world).contains(&"PROBLEM: Function call was throttled".to_owned()), "{:?}", results(&world));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_taken_for_a_function_that_is_not_there() {
    let world = World::new();
    world.queue.send("m", "x", None);
    map(&world, mapping(QUEUE, "f"));
    sleep(Duration::from_secs(600)).await;
    assert_eq!((world.queue.takes("m"), results(&world)), (0, vec!["PROBLEM: Function not found".to_owned()]));
    deploy(&world, "f", 0, |_| Some("null".into()));
    world.until("it is acknowledged", |world| world.queue.len() == 0).await;
    world.catalog.versions.lock().clear();
    (0..20).for_each(|number| world.queue.send(&format!("m{number}"), "x", None));
    sleep(Duration::from_secs(600)).await;
    let takes: u32 = (0..20).map(|number| world.queue.takes(&format!("m{number}"))).sum();
    assert!(takes <= 20, "at most once, before it was known: {takes}");
    deploy(&world, "f", 0, |_| Some("null".into()));
    world.until("all are acknowledged", |world| world.queue.len() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_source_that_fails_or_is_gone_is_asked_again() {
    let world = World::new();
    deploy(&world, "f", 0, |_| Some("null".into()));
    world.queue.errors.lock().extend([SourceError::Gone("gone".into()), SourceError::Later("busy".into())]);
    world.queue.send("m", "x", None);
    map(&world, mapping(QUEUE, "f"));
    world.until("it is acknowledged", |world| world.queue.len() == 0).await;
    assert_eq!(results(&world)[0], "PROBLEM: Event source does not answer");
    let gone = mapping(&format!("{QUEUE}-gone"), "g");
    map(&world, gone.clone());
    world
        .until("its result is told", |world| results(world).contains(&"PROBLEM: Event source not found".to_owned()))
        .await;
    // It can be deleted.
    world.until("it is settled", |world| is_settled(world, &gone)).await;
    let other = mapping("arn:aws:kafka:us-east-1:000000000000:cluster/c/1", "h");
    map(&world, other.clone());
    world.until("it is settled", move |world| is_settled(world, &other)).await;
}

#[tokio::test(start_paused = true)]
async fn a_mapping_that_rests_takes_nothing_and_gives_back_what_it_had() {
    let world = World::new();
    let events = deploy(&world, "f", 500, |_| Some("null".into()));
    let first = Mapping { batch_records: 10, window_ms: 5_000, ..mapping(QUEUE, "f") };
    map(&world, first.clone());
    world.queue.send("m0", "0", None);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(world.queue.takes("m0"), 1, "it gathers");
    let rests = Mapping { wanted: Wanted::Rests, revision: 2, ..first.clone() };
    map(&world, rests.clone());
    world.until("it rests", |world| is_settled(world, &rests)).await;
    world.queue.send("m1", "1", None);
    sleep(Duration::from_secs(100)).await;
    assert_eq!((bodies(&events).len(), world.queue.takes("m1")), (0, 0));
    map(&world, Mapping { revision: 3, window_ms: 0, ..first.clone() });
    world.until("the call runs", |world| world.guests.alive() == 1).await;
    sleep(Duration::from_millis(100)).await;
    // What is under way is finished before it is settled.
    let gone = Mapping { wanted: Wanted::Gone, revision: 4, ..first };
    map(&world, gone.clone());
    world.until("it has stopped", |world| is_settled(world, &gone)).await;
    assert_eq!(*world.queue.acked.lock(), ["m0", "m1"]);
}

#[tokio::test(start_paused = true)]
async fn a_limit_of_calls_holds_over_two_nodes() {
    let world = World::with(crate::tests::guests::Guests::new(), |config| config.async_queue.sole_node = false);
    deploy(&world, "f", 1_000, |_| Some("null".into()));
    (0..40).for_each(|number| world.queue.send(&format!("m{number}"), "x", None));
    map(&world, Mapping { batch_records: 1, concurrency_max: Some(3), ..mapping(QUEUE, "f") });
    let other = world.beside();
    let mut top = 0;
    while world.queue.len() > 0 {
        sleep(Duration::from_millis(100)).await;
        let shown = [world.engine.environments(), other.environments()].concat();
        top = top.max(shown.iter().filter(|shown| shown.state == crate::EnvironmentState::Busy).count());
    }
    assert_eq!((top, world.queue.acked.lock().len()), (3, 40));
}
