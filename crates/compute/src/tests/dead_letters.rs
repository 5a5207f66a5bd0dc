//! Dead letters: events that are given up go to the queue of their function, beside the records of their ends.
//!
//! Both go to one service of queues (`fixtures::Queues`), under two ARNs.

use model::ports::Invoker;
use model::{Attribute, Attributes, Delivery, DeliveryError, EventRules, InvocationKind};
use serde_json::{Value, json};

use super::destinations::{QUEUE, function_arn, qualified, rule, send, told, until_empty};
use super::fixtures::{World, invocation, reference};

const LETTERS: &str = "arn:aws:sqs:us-east-1:000000000000:letters";
const OTHERS: &str = "arn:aws:sqs:us-east-1:000000000000:others";

fn deploy(world: &World, handler: &str) {
    world.deploy("f", handler, |version| version.dead_letters = Some(LETTERS.into()));
}

/// No retries, and whoever is told of failures.
fn once(on_failure: Option<&str>) -> EventRules {
    EventRules { retries_max: Some(0), ..told(None, on_failure) }
}

/// What a queue got.
fn at(world: &World, arn: &str) -> Vec<Delivery> {
    world.queues.taken.lock().iter().filter(|delivery| delivery.target == arn).cloned().collect()
}

/// The condition of the one record that there is.
fn condition(world: &World) -> Value {
    let [record] = &at(world, QUEUE)[..] else { panic!("not one record") };
    assert_eq!(record.attributes, Attributes::new());
    serde_json::from_slice::<Value>(&record.event).unwrap()["requestContext"]["condition"].clone()
}

/// What the one letter that there is says beside the event: its code and message.
fn letter(world: &World, id: &str) -> (u64, String) {
    let [letter] = &at(world, LETTERS)[..] else { panic!("not one letter") };
    assert_eq!(letter.event, "{\"n\":1}");
    assert_eq!(letter.attributes.get("RequestID"), Some(&Attribute::Text(id.into())));
    let said = (letter.attributes.get("ErrorCode"), letter.attributes.get("ErrorMessage"));
    let (Some(Attribute::Number(code)), Some(Attribute::Text(message))) = said else { panic!("{said:?}") };
    (*code, message.clone())
}

#[tokio::test(start_paused = true)]
async fn an_event_that_is_given_up_is_sent_on_as_it_is_beside_its_record() {
    for on_failure in [None, Some(QUEUE)] {
        let world = World::new();
        deploy(&world, "throw");
        rule(&world, reference("f"), told(Some("arn:aws:sqs:::never"), on_failure));
        let began = tokio::time::Instant::now();
        send(&world, reference("f"), "e-1").await;
        until_empty(&world).await;
        assert!((180..182).contains(&began.elapsed().as_secs()), "after both retries: {:?}", began.elapsed());
        assert_eq!(letter(&world, "e-1").0, 200);
        assert!(!letter(&world, "e-1").1.is_empty());
        let [letter] = &at(&world, LETTERS)[..] else { panic!("not one letter") };
        assert_eq!(letter.trace_id.as_deref(), Some("Root=1"));
        assert_eq!(at(&world, QUEUE).len(), usize::from(on_failure.is_some()));
        assert_eq!(world.queues.taken.lock().len(), 1 + usize::from(on_failure.is_some()));
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_that_is_handled_is_no_dead_letter() {
    let world = World::new();
    deploy(&world, "throw_until 1");
    send(&world, reference("f"), "e-1").await;
    until_empty(&world).await;
    assert_eq!(world.guests.seen.lock().get("e-1"), Some(&2));
    assert!(world.queues.taken.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn every_bad_end_has_a_letter_that_says_which_it_was() {
    // Too old to be tried again, too old to be tried at all.
    let world = World::new();
    deploy(&world, "throw");
    rule(&world, reference("f"), EventRules { age_max_s: Some(60), ..told(None, Some(QUEUE)) });
    send(&world, reference("f"), "e-1").await;
    until_empty(&world).await;
    assert_eq!((condition(&world), letter(&world, "e-1").0), (json!("EventAgeExceeded"), 200));

    let world = World::new();
    world.deploy("f", "sleep 100000", |version| {
        version.timeout_ms = 900_000;
        version.reserved_concurrency = Some(1);
        version.dead_letters = Some(LETTERS.into());
    });
    rule(&world, reference("f"), EventRules { age_max_s: Some(60), ..told(None, Some(QUEUE)) });
    send(&world, reference("f"), "e-1").await;
    send(&world, reference("f"), "e-2").await;
    until_empty(&world).await;
    assert_eq!(condition(&world), json!("EventAgeExceeded"));
    assert_eq!(letter(&world, "e-2"), (429, "The event is older than it may be.".into()));

    // Without concurrency it ends at once although nobody but the dead-letter queue is told.
    for on_failure in [None, Some(QUEUE)] {
        let world = World::new();
        world.deploy("f", "echo", |version| {
            version.reserved_concurrency = Some(0);
            version.dead_letters = Some(LETTERS.into());
        });
        rule(&world, reference("f"), told(None, on_failure));
        let began = tokio::time::Instant::now();
        send(&world, reference("f"), "e-1").await;
        until_empty(&world).await;
        assert!(began.elapsed().as_secs() < 1);
        assert_eq!(letter(&world, "e-1"), (429, "Rate Exceeded.".into()));
        if on_failure.is_some() {
            assert_eq!(condition(&world), json!("ZeroReservedConcurrency"));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_a_loop_has_made_too_often_is_a_dead_letter() {
    let world = World::new();
    deploy(&world, "echo");
    rule(&world, reference("f"), told(None, Some(QUEUE)));
    let mut trace = "Root=1".to_owned();
    for _ in 0..16 {
        trace = crate::recursion::counted(Some(&trace), &reference("f")).unwrap();
    }
    let mut event = invocation("f", "e-1", "{\"n\":1}");
    (event.kind, event.trace_id) = (InvocationKind::Event, Some(trace));
    world.engine.accept(event).await.unwrap();
    until_empty(&world).await;
    let (code, message) = letter(&world, "e-1");
    assert_eq!((condition(&world), code), (json!("RecursiveLoop"), 400));
    assert!(message.contains("recursive loop"), "{message}");
}

/// Between two tries the function has become one that does not take such calls.
#[tokio::test(start_paused = true)]
async fn an_event_that_the_function_takes_no_longer_is_told_of_and_one_without_function_is_not() {
    let world = World::new();
    deploy(&world, "throw");
    rule(&world, reference("f"), told(None, Some(QUEUE)));
    send(&world, reference("f"), "e-1").await;
    world.until("the first try has failed", |world| world.records.0.lock().len() == 1).await;
    world.deploy("f", "echo", |version| {
        version.per_tenant = true;
        version.revision = "2".into();
        version.dead_letters = Some(LETTERS.into());
    });
    until_empty(&world).await;
    assert_eq!(world.records.0.lock().len(), 1, "it has not run again");
    assert_eq!((condition(&world), letter(&world, "e-1").0), (json!("InvalidRequest"), 400));
    let [record] = &at(&world, QUEUE)[..] else { panic!("not one record") };
    let record: Value = serde_json::from_slice(&record.event).unwrap();
    assert_eq!(record["requestContext"]["approximateInvokeCount"], json!(1));
    assert!(record.get("responseContext").is_none(), "{record}");

    let world = World::new();
    deploy(&world, "throw");
    send(&world, reference("f"), "e-1").await;
    world.until("the first try has failed", |world| world.records.0.lock().len() == 1).await;
    world.catalog.versions.lock().clear();
    until_empty(&world).await;
    assert!(world.queues.taken.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_target_is_that_of_the_version_that_ran_and_holds_when_the_try_ends() {
    let world = World::new();
    world.deploy("f", "throw", |_| {});
    world.point("f", "live", "1", "throw");
    world.point("f", "1", "1", "throw");
    let set = |qualifier: Option<&str>, arn: &str| {
        let mut versions = world.catalog.versions.lock();
        let version = versions.get_mut(&qualified("f", qualifier)).unwrap();
        std::sync::Arc::make_mut(version).dead_letters = Some(arn.into());
    };
    for qualifier in [None, Some("live")] {
        rule(&world, qualified("f", qualifier), EventRules { retries_max: Some(1), ..EventRules::default() });
    }
    send(&world, qualified("f", Some("live")), "e-1").await;
    world.until("the first try has failed", |world| world.records.0.lock().len() == 1).await;
    // Of an alias with two versions the other one may have run.
    set(Some("live"), OTHERS);
    set(Some("1"), LETTERS);
    until_empty(&world).await;
    assert_eq!((letter(&world, "e-1").0, at(&world, OTHERS).len()), (200, 0));
    // Where the version that ran is deleted, what the qualifier means now decides.
    send(&world, qualified("f", Some("live")), "e-2").await;
    world.until("the first try has failed", |world| world.records.0.lock().len() == 3).await;
    world.catalog.versions.lock().remove(&qualified("f", Some("1")));
    until_empty(&world).await;
    assert_eq!((at(&world, LETTERS).len(), at(&world, OTHERS).len()), (1, 1));
    set(None, OTHERS);
    send(&world, reference("f"), "e-3").await;
    until_empty(&world).await;
    assert_eq!((at(&world, LETTERS).len(), at(&world, OTHERS).len()), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_letter_and_a_record_are_tried_and_lost_apart() {
    let later = || DeliveryError::Later("busy".into());
    let refused = || DeliveryError::Refused("it is gone".into());
    // What is answered first, to the record and to the letter; answers are taken from the end.
    for (answers, records, letters, seconds) in [
        (vec![refused()], 0, 1, 0),
        (vec![later()], 1, 1, 1),
        (vec![later(), later()], 1, 1, 1),
        (vec![refused(), refused()], 0, 0, 0),
        (vec![refused(), later()], 1, 0, 1),
    ] {
        let world = World::new();
        deploy(&world, "throw");
        rule(&world, reference("f"), once(Some(QUEUE)));
        *world.queues.answers.lock() = answers;
        let began = tokio::time::Instant::now();
        send(&world, reference("f"), "e-1").await;
        until_empty(&world).await;
        assert_eq!((at(&world, QUEUE).len(), at(&world, LETTERS).len()), (records, letters));
        assert_eq!(began.elapsed().as_secs(), seconds);
        assert_eq!(world.records.0.lock().len(), 1, "the function does not run again");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_target_cannot_take_is_given_up_and_the_other_gets_its_part() {
    let world = World::new();
    deploy(&world, "throw");
    rule(&world, reference("f"), once(Some(QUEUE)));
    let mut event = invocation("f", "e-1", &format!("\"{}\"", "x".repeat(1_000)));
    event.kind = InvocationKind::Event;
    world.engine.accept(event).await.unwrap();
    until_empty(&world).await;
    assert_eq!((condition(&world), at(&world, LETTERS).len()), (json!("RetriesExhausted"), 0));

    for (destination, letters) in [("arn:aws:sns:::t", LETTERS), (QUEUE, "arn:aws:sns:::t")] {
        let world = World::new();
        world.deploy("f", "throw", |version| version.dead_letters = Some(letters.into()));
        rule(&world, reference("f"), once(Some(destination)));
        send(&world, reference("f"), "e-1").await;
        until_empty(&world).await;
        let taken: Vec<String> = world.queues.taken.lock().iter().map(|delivery| delivery.target.clone()).collect();
        assert_eq!(taken, [if destination == QUEUE { QUEUE } else { LETTERS }]);
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_crash_cuts_off_is_delivered_by_the_next_process() {
    // Which deliveries hang when the process dies; what is delivered by then.
    for (hanging, before) in
        [(vec![QUEUE, LETTERS], vec![]), (vec![LETTERS], vec![QUEUE]), (vec![QUEUE], vec![LETTERS])]
    {
        let mut world = World::new();
        deploy(&world, "throw");
        rule(&world, reference("f"), once(Some(QUEUE)));
        world.queues.hangs.store(hanging.len() == 2, std::sync::atomic::Ordering::SeqCst);
        *world.queues.hanging.lock() = Some(hanging[0].to_owned());
        send(&world, reference("f"), "e-1").await;
        world.until("it was tried", |world| world.records.0.lock().len() == 1).await;
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        let taken = |world: &World| -> Vec<String> {
            world.queues.taken.lock().iter().map(|delivery| delivery.target.clone()).collect()
        };
        assert_eq!(taken(&world), before);
        world.queues.hangs.store(false, std::sync::atomic::Ordering::SeqCst);
        *world.queues.hanging.lock() = None;
        world.restart();
        until_empty(&world).await;
        assert_eq!((condition(&world), letter(&world, "e-1").0), (json!("RetriesExhausted"), 200));
        assert_eq!(taken(&world).len(), 2);
        assert_eq!(world.guests.seen.lock().get("e-1"), Some(&1), "the event had ended");
    }
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_is_a_function_is_told_beside_the_letter() {
    let world = World::new();
    deploy(&world, "throw");
    world.deploy("g", "echo", |_| {});
    rule(&world, reference("f"), once(Some(&function_arn("g"))));
    rule(&world, reference("g"), told(Some(QUEUE), None));
    send(&world, reference("f"), "e-1").await;
    until_empty(&world).await;
    assert_eq!((condition(&world), letter(&world, "e-1").0), (json!("Success"), 200));
}
